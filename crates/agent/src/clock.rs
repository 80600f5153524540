//! The local clock that decisions are taken by: wall time when the agent started, monotonic since. Setting
//! the wall clock in the middle of an evacuation changes nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_core::time::{Millis, Timestamp};
use tokio::time::Instant;

/// A wall clock that differs by more than this from the anchored one was set, or the machine slept.
const JUMP: Millis = Millis::from_secs(3);

/// The agent's clock.
#[derive(Clone, Copy, Debug)]
pub struct LocalClock {
    wall: Timestamp,
    start: Instant,
}

impl LocalClock {
    /// Anchors the clock now.
    #[must_use]
    pub fn start() -> Self {
        Self { wall: wall_now(), start: Instant::now() }
    }

    /// The instant now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.wall + Millis::from(self.start.elapsed())
    }

    /// The timer instant of `at`.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.start + at.since(self.wall).to_duration()
    }

    /// Anchors the clock anew if the wall clock jumped: the machine slept, or somebody set the time.
    /// Returns by how many milliseconds.
    pub fn catch_up(&mut self) -> Option<i64> {
        let jump = wall_now() - self.now();
        if jump.unsigned_abs() <= JUMP.0 {
            return None;
        }
        *self = Self::start();
        Some(jump)
    }
}

/// The system's wall clock.
#[must_use]
pub fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// `at` as people and other programs write it: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.0.to_string(), |time| format!("{time:.3}"))
}

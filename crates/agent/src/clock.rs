//! The local clock that decisions are taken by: wall time when the agent started, monotonic since. Setting
//! the wall clock in the middle of an evacuation changes nothing.

use lifeboat_core::time::{Millis, Timestamp};
pub use lifeboat_wall::{rfc3339, wall_now};
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

//! The controller's clock: wall time when it started, monotonic since, and faster than real time in rehearsals.

use std::time::Duration;

use lifeboat_core::time::{Millis, Timestamp};
pub use lifeboat_wall::{parse_rfc3339, rfc3339, wall_now};
use tokio::time::Instant;

/// A clock that decisions are taken by.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Timestamp,
    start: Instant,
    scale: u32,
}

impl Clock {
    /// Real time.
    #[must_use]
    pub fn real() -> Self {
        Self { anchor: wall_now(), start: Instant::now(), scale: 1 }
    }

    /// A clock that runs `scale` times as fast as the wall clock and showed the same at `origin`. All who use one
    /// world, restarts too, need the same origin.
    #[must_use]
    pub fn scaled(scale: u32, origin: Timestamp) -> Self {
        let scale = scale.max(1);
        let passed = wall_now().since(origin).0.saturating_mul(u64::from(scale));
        Self { anchor: origin + Millis(passed), start: Instant::now(), scale }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let passed = self.start.elapsed().saturating_mul(self.scale);
        self.anchor + Millis::from(passed)
    }

    /// The timer instant at which this clock shows `at`.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.start + self.real_time(at.since(self.anchor))
    }

    /// How long `span` of this clock takes in real time.
    #[must_use]
    pub fn real_time(&self, span: Millis) -> Duration {
        span.to_duration() / self.scale
    }

    /// How much faster than real time it runs.
    #[must_use]
    pub const fn scale(&self) -> u32 {
        self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_clock_is_the_same_after_a_restart() {
        let origin = Timestamp(wall_now().0 - 60_000);
        let (first, second) = (Clock::scaled(100, origin), Clock::scaled(100, origin));
        let apart = (second.now() - first.now()).abs();
        assert!(apart < 60_000, "{apart} ms of 100-fold time");
        assert!(first.now().since(origin) >= Millis(6_000_000));
        assert_eq!(first.real_time(Millis(1_000)), Duration::from_millis(10));
    }
}

//! The controller's clock: wall time when it started, monotonic since, and faster than real time in rehearsals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lifeboat_core::time::{Millis, Timestamp};
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

/// Reads RFC 3339; none where it is something else.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    text.parse::<jiff::Timestamp>().ok().map(|time| Timestamp(time.as_millisecond()))
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

    #[test]
    fn times_are_read_as_they_are_written() {
        let at = Timestamp(1_600_000_000_123);
        assert_eq!(rfc3339(at), "2020-09-13T12:26:40.123Z");
        assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        assert_eq!(parse_rfc3339("2020-09-13T12:26:40Z"), Some(Timestamp(1_600_000_000_000)));
        assert_eq!(parse_rfc3339(""), None);
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}

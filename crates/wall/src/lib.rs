//! The wall clock: its time, and times as people and other programs write them. Core reads no clock; who drives it does,
//! and all of them do it here.

use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_core::time::Timestamp;

/// The system's wall clock. It may be set at any moment: decisions are taken on a monotonic one that was anchored here.
#[must_use]
pub fn wall_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// `at` as people and other programs write it: RFC 3339, UTC, milliseconds. The number itself where no calendar has it.
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
    fn times_are_read_as_they_are_written() {
        let at = Timestamp(1_600_000_000_123);
        assert_eq!(rfc3339(at), "2020-09-13T12:26:40.123Z");
        assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        assert_eq!(parse_rfc3339("2020-09-13T12:26:40Z"), Some(Timestamp(1_600_000_000_000)));
        assert_eq!(parse_rfc3339(""), None);
        assert_eq!(parse_rfc3339("yesterday"), None);
        assert!(wall_now() > at);
    }

    #[test]
    fn what_no_calendar_has_is_written_as_its_number() {
        assert_eq!(rfc3339(Timestamp(i64::MAX)), i64::MAX.to_string());
    }
}

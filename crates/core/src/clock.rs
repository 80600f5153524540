//! The difference between this machine's clock and the metadata service's, as an interval that each answer
//! narrows. An HTTP `Date` has a resolution of a second; the intersection of many is finer than one.

use crate::time::{Millis, Timestamp};

/// One answer with a `Date` header, and the local clock around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// The local clock just before the request was sent.
    pub sent: Timestamp,
    /// The local clock just after the answer arrived.
    pub received: Timestamp,
    /// The server's `Date`, whole seconds, rounded down by the server.
    pub date: Timestamp,
}

/// What is known of (server clock − local clock), in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockDifference {
    bounds: Option<(i64, i64)>,
}

/// The `Date` header drops the fraction of the second.
/// Source: RFC 9110, section 5.6.7 (IMF-fixdate has whole seconds).
const DATE_RESOLUTION_MS: i64 = 1000;

impl ClockDifference {
    /// Takes one more answer into account. An answer that contradicts the earlier ones replaces them: one
    /// of the clocks was set.
    pub fn observe(&mut self, sample: ClockSample) {
        let low = sample.date - sample.received;
        let high = sample.date.0 + DATE_RESOLUTION_MS - sample.sent.0;
        if high < low {
            return; // the local clock jumped back between request and answer: nothing can be learnt
        }
        self.bounds = Some(match self.bounds {
            Some((known_low, known_high)) if low <= known_high && known_low <= high => {
                (known_low.max(low), known_high.min(high))
            }
            Some(_) | None => (low, high),
        });
    }

    /// Forgets all: to be called when the local clock was set or the machine slept.
    pub fn reset(&mut self) {
        self.bounds = None;
    }

    /// The difference as `(least, most)` milliseconds by which the server is ahead, if any answer told.
    #[must_use]
    pub const fn bounds(&self) -> Option<(i64, i64)> {
        self.bounds
    }

    /// The local instant that surely does not come after the server's `instant`: the earliest one that the
    /// answers allow. Without any answer the clocks are taken to agree.
    #[must_use]
    pub fn to_local(&self, instant: Timestamp) -> Timestamp {
        let most_ahead = self.bounds.map_or(0, |(_, high)| high);
        Timestamp(instant.0.saturating_sub(most_ahead))
    }

    /// How far the two clocks surely are apart; zero while they may agree.
    #[must_use]
    pub fn certain_difference(&self) -> Millis {
        let apart = match self.bounds {
            Some((low, _)) if low > 0 => low,
            Some((_, high)) if high < 0 => high.saturating_neg(),
            Some(_) | None => 0,
        };
        Millis(u64::try_from(apart).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(local: i64, ahead: i64, round_trip: i64) -> ClockSample {
        let server = local + round_trip / 2 + ahead;
        ClockSample {
            sent: Timestamp(local),
            received: Timestamp(local + round_trip),
            date: Timestamp(server.div_euclid(1000) * 1000),
        }
    }

    #[test]
    fn the_true_difference_is_always_inside_and_the_interval_narrows() {
        for ahead in [-90_000, -999, 0, 1, 500, 45_321] {
            let mut difference = ClockDifference::default();
            for round in 0..50 {
                difference.observe(sample(1_000_000 + round * 2_137, ahead, 4));
                let (low, high) = difference.bounds().expect("observed");
                assert!(low <= ahead && ahead <= high, "{low} <= {ahead} <= {high}");
            }
            let (low, high) = difference.bounds().expect("observed");
            assert!(high - low < 120, "still {} ms wide after 50 answers", high - low);
        }
    }

    #[test]
    fn a_local_deadline_is_never_later_than_the_servers() {
        let mut difference = ClockDifference::default();
        difference.observe(sample(10_000, 30_250, 10));
        assert!(difference.to_local(Timestamp(100_000)).0 <= 100_000 - 30_250);
    }

    #[test]
    fn a_clock_that_was_set_replaces_what_was_known() {
        let mut difference = ClockDifference::default();
        difference.observe(sample(10_000, 0, 4));
        difference.observe(sample(12_000, 60_000, 4));
        let (low, high) = difference.bounds().expect("observed");
        assert!(low <= 60_000 && 60_000 <= high);
        assert!(difference.certain_difference().0 > 58_000);
    }

    #[test]
    fn clocks_that_may_agree_are_not_called_different() {
        let mut difference = ClockDifference::default();
        difference.observe(sample(10_400, 0, 4));
        assert_eq!(difference.certain_difference(), Millis::ZERO);
    }
}

//! When a silent holder may be taken over. A pure rule: what was seen and the observer's own time come in.
//!
//! Two machines' clocks are never compared: the observer measures, on its own monotonic clock, for how long
//! nothing that the holder writes has changed.

use std::time::Duration;

/// Everything that changes while a holder lives: the journal's head and the holder's heartbeat counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of the newest record.
    pub head: u64,
    /// The heartbeat, `None` before the first.
    pub counter: Option<u64>,
}

/// What an observer may conclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Not silent for long enough. Unless something changes, it is dead at `until`, on the observer's clock.
    Alive {
        /// The same clock as `now` of [`LeaseWatch::observe`].
        until: Duration,
    },
    /// Nothing has changed for a whole lease: the next number may be claimed.
    Dead,
}

/// Watches one holder.
#[derive(Clone, Copy, Debug)]
pub struct LeaseWatch {
    lease: Duration,
    last: Option<(Seen, Duration)>,
}

impl LeaseWatch {
    /// Starts to watch a holder that promised to be silent for at most `lease`.
    #[must_use]
    pub const fn new(lease: Duration) -> Self {
        Self { lease, last: None }
    }

    /// Takes in what the store showed to a look that began at `asked` and ended at `answered`, both monotonic times
    /// of the observer with one origin.
    ///
    /// Silence counts from the end of the first look to the beginning of the last: what changed while a slow store
    /// took its time is neither counted as silence nor overlooked.
    pub fn observe(&mut self, asked: Duration, answered: Duration, seen: Seen) -> Lease {
        let since = match self.last {
            Some((last, since)) if last == seen => since,
            Some(_) | None => {
                self.last = Some((seen, answered));
                answered
            }
        };
        let until = since.saturating_add(self.lease);
        if asked >= until && asked > since { Lease::Dead } else { Lease::Alive { until } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_a_whole_lease_of_silence_is_death() {
        let seen = |head, counter| Seen { head, counter };
        let alive = |until| Lease::Alive { until: seconds(until) };
        // (now, seen, expected), a lease of 30 s.
        let table = [
            (1000, seen(7, None), alive(1030)),
            (1029, seen(7, None), alive(1030)),
            (1029, seen(7, Some(1)), alive(1059)),
            (1058, seen(7, Some(1)), alive(1059)),
            (1058, seen(8, Some(1)), alive(1088)),
            // A heartbeat that arrives late and out of order is a sign of life too.
            (1060, seen(8, Some(0)), alive(1090)),
            (1089, seen(8, Some(0)), alive(1090)),
            (1090, seen(8, Some(0)), Lease::Dead),
            (1091, seen(8, Some(0)), Lease::Dead),
            (1092, seen(8, Some(2)), alive(1122)),
        ];
        let mut watch = LeaseWatch::new(seconds(30));
        for (now, seen, expected) in table {
            assert_eq!(watch.observe(seconds(now), seconds(now), seen), expected, "at {now}");
        }
    }

    #[test]
    fn the_time_that_a_look_takes_is_no_silence() {
        let mut watch = LeaseWatch::new(seconds(30));
        let seen = Seen { head: 1, counter: None };
        assert_eq!(watch.observe(seconds(0), seconds(10), seen), Lease::Alive { until: seconds(40) });
        assert_eq!(watch.observe(seconds(39), seconds(49), seen), Lease::Alive { until: seconds(40) });
        assert_eq!(watch.observe(seconds(49), seconds(49), seen), Lease::Dead);
    }

    #[test]
    fn one_look_is_never_enough() {
        let mut watch = LeaseWatch::new(Duration::ZERO);
        let seen = Seen { head: 1, counter: None };
        assert_eq!(watch.observe(seconds(5), seconds(5), seen), Lease::Alive { until: seconds(5) });
        assert_eq!(watch.observe(seconds(5), seconds(5), seen), Lease::Alive { until: seconds(5) });
        assert_eq!(watch.observe(seconds(6), seconds(6), seen), Lease::Dead);
    }

    #[test]
    fn an_endless_lease_does_not_overflow() {
        let mut watch = LeaseWatch::new(Duration::MAX);
        let seen = Seen { head: 1, counter: None };
        assert_eq!(watch.observe(seconds(5), seconds(5), seen), Lease::Alive { until: Duration::MAX });
    }
}

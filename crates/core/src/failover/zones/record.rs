//! How often a zone was lost in the time that it served, the recent past counting more.
//!
//! One number is enough: losses and time served fade with the same half-life, so that a zone that lives long gets
//! a small risk and a zone that was just lost a great one. Between half-lives of 2 and 24 hours, and priors of 20
//! minutes to 2 hours, costs on aws1 and bamboo do not differ by 0.01 points.

use crate::time::{Millis, Timestamp};

/// What happened this long ago counts half.
const HALF_LIFE: Millis = Millis::from_secs(6 * 3600);

/// A zone of which nothing is known counts as one that was lost once in this time.
const PRIOR: Millis = Millis::from_secs(3600);

/// One loss, in the unit of [`Record::lost`]: fine enough to fade.
const LOSS: u64 = 1_000_000;

/// What is remembered of a zone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    lost: u64,
    served: u64,
    at: Timestamp,
}

impl Record {
    /// Time went by up to `now`; the zone served in it or not.
    pub(super) fn pass(&mut self, now: Timestamp, served: bool) {
        let span = now.since(self.at);
        self.lost = faded(self.lost, span);
        self.served = faded(self.served, span);
        if served {
            // A zone that served for ever has served this long in all, faded.
            let most = HALF_LIFE.0 * 3 / 2;
            self.served = (self.served + span.0).min(most);
        }
        self.at = self.at.max(now);
    }

    /// The zone was lost now.
    pub(super) fn lose(&mut self) {
        self.lost = self.lost.saturating_add(LOSS);
    }

    /// Losses to expect in a thousand hours, if time went by up to `now`.
    pub(super) fn risk(self, now: Timestamp, served: bool) -> u64 {
        let mut then = self;
        then.pass(now, served);
        then.lost.saturating_add(LOSS) / (then.served + PRIOR.0).div_ceil(3_600)
    }
}

/// `value` after `span`: halved every half-life, along a straight line in between.
fn faded(value: u64, span: Millis) -> u64 {
    let halves = u32::try_from(span.0 / HALF_LIFE.0).unwrap_or(u32::MAX);
    let value = value.checked_shr(halves).unwrap_or(0);
    let part = u128::from(value) * u128::from(span.0 % HALF_LIFE.0) / u128::from(2 * HALF_LIFE.0);
    value - u64::try_from(part).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    fn after(seconds: u64) -> Timestamp {
        Timestamp(0) + Millis::from_secs(seconds)
    }

    #[test]
    fn a_zone_of_which_nothing_is_known_is_lost_once_an_hour() {
        assert_eq!(Record::default().risk(Timestamp(0), false), 1_000);
    }

    #[test]
    fn the_risk_falls_with_the_time_served_and_rises_with_each_loss() {
        let mut record = Record::default();
        assert_eq!(record.risk(after(HOUR), true), 500);
        assert_eq!(record.risk(after(2 * HOUR), true), 333);
        record.pass(after(2 * HOUR), true);
        record.lose();
        assert_eq!(record.risk(after(2 * HOUR), true), 666);
        record.lose();
        assert_eq!(record.risk(after(2 * HOUR), true), 1_000);
    }

    #[test]
    fn losses_and_service_fade() {
        let mut record = Record::default();
        record.lose();
        assert_eq!(record.risk(after(0), false), 2_000);
        assert_eq!(record.risk(after(3 * HOUR), false), 1_750);
        assert_eq!(record.risk(after(6 * HOUR), false), 1_500);
        assert_eq!(record.risk(after(12 * HOUR), false), 1_250);
        assert_eq!(record.risk(after(1_000_000 * HOUR), false), 1_000);
        record.pass(after(1_000 * HOUR), true);
        assert_eq!(record.risk(after(1_000 * HOUR), true), 100, "nine hours served, faded, and the prior");
        assert_eq!(record.risk(after(1_006 * HOUR), false), 181);
    }

    #[test]
    fn a_clock_that_is_set_back_changes_nothing() {
        let mut record = Record::default();
        record.pass(after(HOUR), true);
        let before = record;
        record.pass(after(0), true);
        assert_eq!(record, before);
    }
}

//! Carries out a split in the zone-choosing world, and bills what ends.

use lifeboat_core::failover::zones::Launch;
use lifeboat_core::time::{Millis, Timestamp};

use super::fleet::Task;
use super::{Event, World};

/// The least that is billed of a task. Source: EC2 and Fargate pricing pages, one minute at least; read 2026-11.
const BILLED_MIN: Millis = Millis::from_secs(60);

impl World<'_> {
    /// Moves the fleet to the split; returns what was asked for in which zone.
    pub(super) fn actuate(&mut self) -> Vec<Launch> {
        self.scale_on_demand();
        let seen = self.fleet.seen(self.now, self.config.target);
        let split = self.state.split;
        let have = seen.spot.staying();
        self.stop_surplus(have.saturating_sub(split.spot));
        let need = split.spot.saturating_sub(have);
        let launches =
            if need > 0 { self.zones.plan(self.now, need, self.config.target) } else { Vec::new() };
        for launch in &launches {
            self.tally.requests += 1;
            self.push(
                self.now + self.config.answer,
                Event::Answer { zone: launch.zone, asked: launch.count },
            );
        }
        let retry = if need > self.zones.asked() { self.zones.retry_at(self.now) } else { None };
        self.wake_at([retry, self.state.wake_at(&self.config.rules, self.now)]);
        launches
    }

    fn wake_at(&mut self, moments: [Option<Timestamp>; 2]) {
        let Some(wake) = moments.into_iter().flatten().min() else { return };
        if self.wake.is_none_or(|known| known > wake || known <= self.now) {
            self.wake = Some(wake);
            self.push(wake, Event::Wake);
        }
    }

    fn scale_on_demand(&mut self) {
        let wanted = self.state.split.on_demand;
        let have = self.fleet.on_demand();
        self.tally.requests += u64::from(wanted != have);
        for _ in have..wanted {
            let ready_at = self.now + self.config.on_demand_start;
            let task = self.fleet.start(None, self.now + self.config.answer, ready_at);
            self.push(ready_at, Event::Ready { task });
            self.tally.on_demand_launches += 1;
        }
        for _ in wanted..have {
            if let Some(task) = self.fleet.stop(None) {
                self.bill(&task);
            }
        }
    }

    fn stop_surplus(&mut self, surplus: u32) {
        for _ in 0..surplus {
            // A ready task goes only where the target stays ready without it, and without those that were warned.
            let seen = self.fleet.seen(self.now, self.config.target);
            if seen.spot.starting == 0 && seen.spot.ready + seen.on_demand.ready <= self.config.target {
                return;
            }
            let may_stop = self.fleet.may_stop();
            let Some(zone) = self.zones.surplus(self.now, |zone| may_stop[zone]) else { return };
            let Some(task) = self.fleet.stop(Some(zone)) else { return };
            self.zones.stopped(self.now, zone);
            self.tally.requests += 1;
            self.bill(&task);
        }
    }

    /// Adds the whole bill of a task that ends now.
    pub(super) fn bill(&mut self, task: &Task) {
        let span = self.now.since(task.began).max(BILLED_MIN);
        let Some(zone) = task.zone else {
            self.tally.on_demand_ms += u128::from(span.0);
            return;
        };
        self.tally.spot_ms += u128::from(span.0);
        self.tally.spot_priced += self.priced(zone, task.began, task.began + span);
    }

    /// The recorded price of `zone` summed over `from..to`, in micro-dollars an hour times milliseconds.
    fn priced(&self, zone: usize, from: Timestamp, to: Timestamp) -> u128 {
        let prices = &self.trace.zones[zone].prices;
        let Some(last) = prices.last() else { return 0 };
        let mut at = from;
        let mut sum = 0;
        while at < to {
            let tick = usize::try_from(at.0.max(0)).unwrap_or(usize::MAX)
                / usize::try_from(self.trace.gap.0).unwrap_or(1);
            let until = self.trace.starts(tick + 1).min(to);
            sum += u128::from(until.since(at).0) * u128::from(*prices.get(tick).unwrap_or(last));
            at = until;
        }
        sum
    }
}

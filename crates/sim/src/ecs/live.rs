//! The same ECS without controllers: its caller moves time on, gives the orders, and is told what happens. The lab
//! serves it over AWS's wire protocols.

use std::borrow::Cow;

use lifeboat_core::failover::event::Event as Told;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::time::{Millis, Timestamp};

use super::cloud::Task;
use super::{Config, World};
use crate::trace::Trace;

/// Something that AWS did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The service's scheduler started a task.
    Placed {
        /// When.
        at: Timestamp,
        /// For which pair.
        service: usize,
        /// On what.
        capacity: Capacity,
        /// Its key.
        task: u64,
        /// When it will be ready; `None` where it sits in PENDING until it fails.
        ready_at: Option<Timestamp>,
    },
    /// Something that EventBridge tells.
    Told {
        /// Of which pair.
        service: usize,
        /// What happened, at its own time.
        event: Told,
        /// When its copies reach the queue: none where it is lost.
        arrivals: Vec<Timestamp>,
    },
}

/// Where one pair stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceFigures {
    /// Spot tasks that are ready and not warned.
    pub spot_ready: u32,
    /// Spot tasks that are not ready yet.
    pub spot_starting: u32,
    /// Spot tasks that are ready and will be reclaimed.
    pub spot_warned: u32,
    /// On-Demand tasks that are ready.
    pub on_demand_ready: u32,
    /// On-Demand tasks that are not ready yet.
    pub on_demand_starting: u32,
    /// What the Spot service is told to run.
    pub spot_desired: u32,
    /// What the On-Demand service is told to run.
    pub on_demand_desired: u32,
}

/// An ECS world whose time stands still until it is moved on.
pub struct Live {
    world: World<'static>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("now", &self.world.now).finish_non_exhaustive()
    }
}

impl Live {
    /// Every pair begins with its target running, as far as the trace has room for it. Of `config`, what concerns
    /// controllers is not used, and the number of services is that of `targets`.
    #[must_use]
    pub fn new(trace: Trace, mut config: Config, targets: &[u32]) -> Self {
        config.services = targets.len();
        config.controllers = 0;
        config.follows = false;
        let mut world = World::new(Cow::Owned(trace), Cow::Owned(config));
        for (account, target) in world.accounts.iter_mut().zip(targets) {
            account.target = *target;
        }
        world.begin();
        world.journal = Some(Vec::new());
        Self { world }
    }

    /// The world's time, from zero.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.world.now
    }

    /// When the next thing happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Timestamp> {
        self.world.heap.peek().map(|item| item.0.at)
    }

    /// Lets everything happen up to `to`, in order. Time never goes back.
    pub fn advance(&mut self, to: Timestamp) -> Vec<Moment> {
        while self.next_at().is_some_and(|at| at <= to) {
            let Some(std::cmp::Reverse(item)) = self.world.heap.pop() else { break };
            self.world.now = item.at;
            self.world.events += 1;
            self.world.happen(item.event);
        }
        self.world.now = self.world.now.max(to);
        self.drain()
    }

    /// The tasks of one service: key, whether it is ready, and the zone it runs in.
    pub fn tasks(
        &mut self,
        service: usize,
        capacity: Capacity,
    ) -> impl Iterator<Item = (u64, bool, Option<usize>)> {
        let side = self.world.cloud.pairs[service].side(capacity);
        side.tasks.iter().map(|task| (task.key, task.is_ready, task.zone()))
    }

    /// Where a pair stands.
    #[must_use]
    pub fn figures(&self, service: usize) -> ServiceFigures {
        let pair = &self.world.cloud.pairs[service];
        let count =
            |tasks: &[Task], is: fn(&Task) -> bool| super::cloud::count(tasks.iter().filter(|task| is(task)));
        ServiceFigures {
            spot_ready: count(&pair.spot.tasks, |task| task.is_ready && !task.is_warned),
            spot_starting: count(&pair.spot.tasks, |task| !task.is_ready && !task.is_warned),
            spot_warned: count(&pair.spot.tasks, |task| task.is_ready && task.is_warned),
            on_demand_ready: count(&pair.on_demand.tasks, |task| task.is_ready),
            on_demand_starting: count(&pair.on_demand.tasks, |task| !task.is_ready),
            spot_desired: pair.spot.desired,
            on_demand_desired: pair.on_demand.desired,
        }
    }

    /// Somebody sets a desired count. What it stops at once is told with the rest.
    pub fn set_desired(&mut self, service: usize, capacity: Capacity, desired: u32) -> Vec<Moment> {
        self.world.accounts[service].tally.requests += 1;
        self.world.set_desired(service, capacity, desired);
        self.drain()
    }

    /// How many tasks the pair should have ready: what gaps are measured against.
    #[must_use]
    pub fn target(&self, service: usize) -> u32 {
        self.world.accounts[service].target
    }

    /// The zones: name, how many Spot tasks they have room for now, how many they hold.
    #[must_use]
    pub fn zones(&self) -> Vec<(String, u32, u32)> {
        let names = self.world.trace.zones.iter().map(|zone| zone.name.clone());
        let rooms = self.world.rooms();
        names.zip(rooms).zip(&self.world.cloud.used).map(|((name, room), used)| (name, room, *used)).collect()
    }

    /// What the pair should have ready from now on.
    pub fn set_target(&mut self, service: usize, target: u32) {
        self.world.settle(service);
        self.world.accounts[service].target = target;
    }

    /// A further pair, without tasks. Returns its index.
    pub fn add_pair(&mut self) -> usize {
        let index = self.world.accounts.len();
        self.world.config.to_mut().services = index + 1;
        let now = self.world.now;
        self.world.accounts.push(super::Account::new(0, now));
        self.world.cloud.pairs.push(super::cloud::Pair::default());
        self.world.checks = super::check::Checks::new(&self.world.config);
        index
    }

    /// A zone's name.
    #[must_use]
    pub fn zone_name(&self, zone: usize) -> &str {
        &self.world.trace.zones[zone].name
    }

    /// From now until `until`, or for good, Spot has room for `total` tasks, shared out over the zones; what runs
    /// beyond that is reclaimed after its notice.
    pub fn set_spot_capacity(&mut self, total: u32, until: Option<Timestamp>) -> Vec<Moment> {
        let gap = self.world.trace.gap.0;
        let tick = |at: Timestamp| usize::try_from(at.0.unsigned_abs() / gap).unwrap_or(usize::MAX);
        let trace = self.world.trace.to_mut();
        let ticks = trace.ticks();
        let from = tick(self.world.now).min(ticks - 1);
        let to = until.map_or(ticks, |until| tick(until).clamp(from + 1, ticks));
        let zones = u32::try_from(trace.zones.len()).unwrap_or(1);
        let mut rooms = Vec::new();
        for (index, zone) in (0..zones).zip(&mut trace.zones) {
            let room = total / zones + u32::from(index < total % zones);
            zone.capacity[from..to].fill(room);
            rooms.push(room);
        }
        let at = self.world.now + self.world.config.notice;
        for (zone, room) in rooms.into_iter().enumerate() {
            for (service, key) in self.world.cloud.doom(zone, room) {
                let is_announced = self.announces();
                self.world.doom(service, key, at, is_announced);
            }
        }
        for service in 0..self.world.config.services {
            self.world.cloud.pairs[service].spot.retry_at = self.world.now;
            self.world.place_soon(service, Capacity::Spot);
        }
        self.drain()
    }

    /// Sets how many On-Demand tasks the account may run.
    pub fn set_on_demand_quota(&mut self, quota: u32) {
        self.world.config.to_mut().on_demand_quota = quota;
        for service in 0..self.world.config.services {
            self.world.place_soon(service, Capacity::OnDemand);
        }
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&mut self, faults: super::Faults) {
        self.world.config.to_mut().faults = faults;
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> &super::Faults {
        &self.world.config.faults
    }

    /// How long before a reclaim it is announced.
    #[must_use]
    pub fn notice(&self) -> Millis {
        self.world.config.notice
    }

    /// Reclaims up to `count` Spot tasks of a service, or of any, whatever capacity there is. Returns how many, and
    /// what happened.
    pub fn interrupt(
        &mut self,
        service: Option<usize>,
        count: u32,
        is_announced: bool,
    ) -> (u32, Vec<Moment>) {
        let mut candidates = Vec::new();
        for (index, pair) in self.world.cloud.pairs.iter().enumerate() {
            if service.is_none_or(|only| only == index) {
                let running = pair.spot.tasks.iter().filter(|task| task.is_ready && !task.is_doomed);
                candidates.extend(running.map(|task| (index, task.key)));
            }
        }
        let mut taken = 0;
        let at = self.world.now + if is_announced { self.world.config.notice } else { Millis::ZERO };
        while taken < count && !candidates.is_empty() {
            let (index, key) = candidates.swap_remove(self.world.nature.index(candidates.len()));
            let Some(task) = self.world.cloud.pairs[index].spot.find(key) else { continue };
            task.is_doomed = true;
            if let Some(zone) = task.zone() {
                self.world.cloud.used[zone] -= 1;
            }
            self.world.doom(index, key, at, is_announced);
            taken += 1;
        }
        (taken, self.drain())
    }

    /// When the copies of an event of this moment reach the queue, with the faults that are on.
    pub fn arrivals(&mut self) -> Vec<Timestamp> {
        self.world.arrivals()
    }

    /// Draws whether something of this share, in thousandths, goes wrong now.
    pub fn fails(&mut self, per_mille: u32) -> bool {
        self.world.now < self.world.config.faults.until && self.world.rng.chance(per_mille)
    }

    /// Draws a number for whatever has no place in the world itself, such as ids.
    pub fn draw(&mut self) -> u64 {
        self.world.nature.next()
    }

    fn announces(&mut self) -> bool {
        self.world.config.notice > Millis::ZERO && self.world.nature.chance(self.world.config.announced)
    }

    fn drain(&mut self) -> Vec<Moment> {
        self.world.journal.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl World<'_> {
    /// Notes a placement, where the caller is told.
    pub(super) fn note_placed(
        &mut self,
        service: usize,
        capacity: Capacity,
        task: u64,
        ready_at: Option<Timestamp>,
    ) {
        let at = self.now;
        if let Some(journal) = &mut self.journal {
            journal.push(Moment::Placed { at, service, capacity, task, ready_at });
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_core::failover::event::Happening;
    use lifeboat_core::failover::policy::{Policy, Switch};
    use lifeboat_core::failover::state::Rules;

    use super::*;
    use crate::trace::Zone;

    fn world(targets: &[u32]) -> Live {
        let zone = |name: &str| Zone { name: name.to_owned(), capacity: vec![50; 60], prices: Vec::new() };
        let trace = Trace::new("t".to_owned(), Millis::from_secs(60), vec![zone("a"), zone("b")]);
        let rules = Rules::new(Policy::Switch(Switch::default()));
        Live::new(trace.expect("a good trace"), Config::new(1, rules, 7), targets)
    }

    fn warned(moments: &[Moment]) -> usize {
        let is = |moment: &&Moment| matches!(moment, Moment::Told { event, .. } if matches!(event.what, Happening::Warned { .. }));
        moments.iter().filter(is).count()
    }

    #[test]
    fn capacity_that_is_taken_away_warns_first_and_is_gone_after_the_notice() {
        let mut live = world(&[10]);
        live.advance(Timestamp(5_000));
        assert_eq!(live.figures(0).spot_ready, 10);
        assert_eq!(warned(&live.set_spot_capacity(4, None)), 6);
        assert_eq!(live.figures(0).spot_warned, 6);
        live.advance(Timestamp(120_000));
        assert_eq!(live.figures(0).spot_ready + live.figures(0).spot_warned, 10, "the notice is two minutes");
        live.advance(Timestamp(130_000));
        assert_eq!((live.figures(0).spot_ready, live.figures(0).spot_warned), (4, 0));
        live.set_spot_capacity(50, None);
        // A task that sits in PENDING without capacity may take 23 minutes to fail.
        live.advance(Timestamp(2_400_000));
        assert_eq!(live.figures(0).spot_ready, 10, "room for all again");
    }

    #[test]
    fn an_order_starts_tasks_and_one_that_lowers_the_count_stops_them() {
        let mut live = world(&[3, 5]);
        live.set_desired(1, Capacity::OnDemand, 2);
        let moments = live.advance(Timestamp(200_000));
        let placed = moments.iter().filter(|moment| matches!(moment, Moment::Placed { service: 1, .. }));
        assert_eq!(placed.count(), 2);
        assert_eq!(live.figures(1).on_demand_ready, 2);
        let stopped = live.set_desired(1, Capacity::Spot, 1);
        assert_eq!(stopped.len(), 4);
        assert_eq!(live.figures(1).spot_ready, 1);
        assert_eq!(live.figures(0).spot_ready, 3, "the other pair is left alone");
    }

    #[test]
    fn an_interruption_without_notice_takes_the_task_at_once() {
        let mut live = world(&[10]);
        let (taken, moments) = live.interrupt(Some(0), 3, false);
        assert_eq!((taken, warned(&moments)), (3, 0));
        live.advance(Timestamp(1));
        assert_eq!(live.figures(0).spot_ready, 7);
        let (taken, _) = live.interrupt(None, 100, true);
        assert_eq!(taken, 7, "no more than there are");
    }
}

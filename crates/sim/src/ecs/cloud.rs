//! ECS as it behaves: services that place and retry on their own schedule, tasks that start, are warned and die.
//!
//! Assumed where AWS does not say: a service retries a failed placement after 15 s, then at twice the distance up
//! to 27 min (documented for starts that fail, taken for placements too); which tasks a lowered count stops is
//! drawn; a task without capacity sits in PENDING for 8.3 min on average, 23 at most (source B).

use lifeboat_core::failover::observation::{Capacity, Observation, Service, Task as SeenTask, Tasks};
use lifeboat_core::time::{Millis, Timestamp};

use super::config::Config;
use crate::rng::Rng;
use crate::trace::Trace;

/// Source: Fargate throttling quotas, burst 100, 20 launches a second, Spot and On-Demand counted apart; 2026-11.
const LAUNCH_EVERY_MS: i64 = 50;
const LAUNCH_BURST: i64 = 100;

const RETRY_FIRST: Millis = Millis::from_secs(15);

/// Source: ECS guide, service throttle logic: at most 27 minutes; read 2026-11.
const RETRY_LONGEST: Millis = Millis::from_secs(27 * 60);

/// One task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) key: u64,
    /// Small, as tasks are what fills the memory of a large world.
    zone: Option<u16>,
    pub(super) created_at: Timestamp,
    /// Without capacity: sits in PENDING until it fails.
    pub(super) is_stuck: bool,
    pub(super) is_ready: bool,
    pub(super) is_warned: bool,
    /// A reclaim was decided for it.
    pub(super) is_doomed: bool,
}

/// One ECS service.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) desired: u32,
    pub(super) tasks: Vec<Task>,
    /// What the last look showed, until a task changes.
    shown: Option<Tasks>,
    pub(super) retry_at: Timestamp,
    pub(super) failures: u32,
    /// A placement is queued for then.
    pub(super) place_at: Option<Timestamp>,
}

/// A pair.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    pub(super) spot: Side,
    pub(super) on_demand: Side,
    pub(super) last_look: Option<(Timestamp, Observation)>,
}

/// What an attempt to place came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// A task that will be ready then.
    Starts { key: u64, ready_at: Timestamp },
    /// A task that sits in PENDING until then.
    Stuck { key: u64, fails_at: Timestamp },
    /// Nothing, and an event that says so.
    Refused,
}

#[derive(Debug)]
pub(super) struct Cloud {
    pub(super) pairs: Vec<Pair>,
    /// Per zone, Spot tasks that no reclaim was decided for.
    pub(super) used: Vec<u32>,
    on_demand_used: u32,
    /// When the next launch would be allowed if there were no burst; Spot, On-Demand.
    launches: [i64; 2],
    next_key: u64,
    stops_starting_first: bool,
    rng: Rng,
}

impl Task {
    pub(super) fn zone(&self) -> Option<usize> {
        self.zone.map(usize::from)
    }
}

impl Side {
    /// Tasks that ECS counts against the desired count.
    pub(super) fn counted(&self) -> u32 {
        count(self.tasks.iter().filter(|task| !task.is_warned))
    }

    pub(super) fn serving(&self) -> u32 {
        count(self.tasks.iter().filter(|task| task.is_ready))
    }

    /// A task, to be changed.
    pub(super) fn find(&mut self, key: u64) -> Option<&mut Task> {
        self.shown = None;
        self.tasks.iter_mut().find(|task| task.key == key)
    }

    /// Between two looks most services do not change at all, and reading every task of many is what bounds a world.
    fn look(&mut self) -> Service {
        let show = |task: &Task| SeenTask {
            key: task.key,
            created_at: task.created_at,
            is_ready: task.is_ready,
            is_warned: task.is_warned,
        };
        let tasks = self.shown.get_or_insert_with(|| self.tasks.iter().map(show).collect());
        Service { desired: self.desired, tasks: tasks.clone() }
    }
}

pub(super) fn count<T>(iter: impl Iterator<Item = T>) -> u32 {
    u32::try_from(iter.count()).unwrap_or(u32::MAX)
}

impl Pair {
    pub(super) fn side(&mut self, capacity: Capacity) -> &mut Side {
        match capacity {
            Capacity::Spot => &mut self.spot,
            Capacity::OnDemand => &mut self.on_demand,
        }
    }

    pub(super) fn look(&mut self, at: Timestamp) -> Observation {
        Observation { at, spot: self.spot.look(), on_demand: self.on_demand.look(), is_deploying: false }
    }

    pub(super) fn serving(&self) -> (u32, u32) {
        (self.spot.serving(), self.on_demand.serving())
    }
}

impl Cloud {
    pub(super) fn new(trace: &Trace, config: &Config) -> Self {
        let mut rng = Rng::new(config.seed, 2);
        Self {
            pairs: vec![Pair::default(); config.services],
            used: vec![0; trace.zones.len()],
            on_demand_used: 0,
            launches: [i64::MIN / 2; 2],
            next_key: 1,
            stops_starting_first: rng.chance(500),
            rng,
        }
    }

    /// A task that runs since before the world began.
    pub(super) fn seed_task(&mut self, service: usize, capacity: Capacity, zone: Option<usize>) -> u64 {
        let key = self.add(service, capacity, zone, Timestamp(0));
        if let Some(task) = self.pairs[service].side(capacity).find(key) {
            task.is_ready = true;
        }
        key
    }

    fn add(&mut self, service: usize, capacity: Capacity, zone: Option<usize>, now: Timestamp) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        if let Some(zone) = zone {
            self.used[zone] += 1;
        }
        if capacity == Capacity::OnDemand {
            self.on_demand_used += 1;
        }
        let side = self.pairs[service].side(capacity);
        side.shown = None;
        side.tasks.push(Task {
            key,
            zone: zone.and_then(|zone| u16::try_from(zone).ok()),
            created_at: now,
            is_stuck: zone.is_none() && capacity == Capacity::Spot,
            is_ready: false,
            is_warned: false,
            is_doomed: false,
        });
        key
    }

    /// When the account's launch rate allows the next launch of this kind.
    pub(super) fn may_launch_at(&self, capacity: Capacity) -> Timestamp {
        Timestamp(self.launches[slot(capacity)] - LAUNCH_BURST * LAUNCH_EVERY_MS)
    }

    /// Tries to place one task; `rooms` is what each zone gives now.
    pub(super) fn place(
        &mut self,
        now: Timestamp,
        (service, capacity): (usize, Capacity),
        rooms: &[u32],
        config: &Config,
    ) -> Placed {
        let launch = &mut self.launches[slot(capacity)];
        *launch = (*launch).max(now.0) + LAUNCH_EVERY_MS;
        let zone = match capacity {
            Capacity::Spot => self.emptiest(service, rooms),
            Capacity::OnDemand => None,
        };
        let has_room = match capacity {
            Capacity::Spot => zone.is_some(),
            Capacity::OnDemand => self.on_demand_used < config.on_demand_quota,
        };
        if has_room {
            let key = self.add(service, capacity, zone, now);
            return Placed::Starts { key, ready_at: now + config.start.draw(&mut self.rng) };
        }
        self.pairs[service].side(capacity).back_off(now);
        if capacity == Capacity::Spot && self.rng.chance(config.faults.silent) {
            let key = self.add(service, capacity, None, now);
            // A triangle between 3 and 23 min with the mean of 8.3: the smaller of two draws, mostly.
            let minutes = self.rng.between(180, 1380).min(self.rng.between(180, 1000));
            return Placed::Stuck { key, fails_at: now + Millis::from_secs(minutes) };
        }
        Placed::Refused
    }

    /// The zone with room in which the service has the fewest tasks.
    fn emptiest(&mut self, service: usize, rooms: &[u32]) -> Option<usize> {
        let mut have = vec![0_u32; rooms.len()];
        for zone in self.pairs[service].spot.tasks.iter().filter_map(Task::zone) {
            have[zone] += 1;
        }
        let open = (0..rooms.len()).filter(|zone| self.used[*zone] < rooms[*zone]);
        open.min_by_key(|zone| have[*zone])
    }

    /// Takes a task out of its service and gives its capacity back.
    pub(super) fn remove(&mut self, service: usize, capacity: Capacity, key: u64) -> Option<Task> {
        let side = self.pairs[service].side(capacity);
        let index = side.tasks.iter().position(|task| task.key == key)?;
        side.shown = None;
        let task = side.tasks.remove(index);
        if let (Some(zone), false) = (task.zone(), task.is_doomed) {
            self.used[zone] -= 1;
        }
        if capacity == Capacity::OnDemand {
            self.on_demand_used -= 1;
        }
        Some(task)
    }

    /// The task that ECS stops next because a count was lowered.
    pub(super) fn surplus(&mut self, service: usize, capacity: Capacity) -> Option<u64> {
        let starting_first = self.stops_starting_first;
        let side = self.pairs[service].side(capacity);
        let counted = || side.tasks.iter().filter(|task| !task.is_warned);
        let starting: Vec<u64> = counted().filter(|task| !task.is_ready).map(|task| task.key).collect();
        let all: Vec<u64> = counted().map(|task| task.key).collect();
        let from = if starting_first && !starting.is_empty() { starting } else { all };
        (!from.is_empty()).then(|| from[self.rng.index(from.len())])
    }

    /// Decides which Spot tasks in `zone` are reclaimed so that `capacity` are left.
    pub(super) fn doom(&mut self, zone: usize, capacity: u32) -> Vec<(usize, u64)> {
        let mut doomed = Vec::new();
        if self.used[zone] <= capacity {
            return doomed;
        }
        let mut candidates = Vec::new();
        for (service, pair) in self.pairs.iter().enumerate() {
            let tasks = pair.spot.tasks.iter().enumerate();
            let tasks = tasks.filter(|(_, task)| task.zone() == Some(zone) && !task.is_doomed);
            candidates.extend(tasks.map(|(index, _)| (service, index)));
        }
        while self.used[zone] > capacity && !candidates.is_empty() {
            let (service, index) = candidates.swap_remove(self.rng.index(candidates.len()));
            let task = &mut self.pairs[service].spot.tasks[index];
            task.is_doomed = true;
            doomed.push((service, task.key));
            self.used[zone] -= 1;
        }
        doomed
    }
}

impl Side {
    fn back_off(&mut self, now: Timestamp) {
        let wait = RETRY_FIRST.0.saturating_mul(1 << self.failures.min(16)).min(RETRY_LONGEST.0);
        self.failures += 1;
        self.retry_at = now + Millis(wait);
    }
}

const fn slot(capacity: Capacity) -> usize {
    match capacity {
        Capacity::Spot => 0,
        Capacity::OnDemand => 1,
    }
}

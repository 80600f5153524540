//! The tasks of the zone-choosing world: who runs, who is ready, who will die.

use lifeboat_core::failover::state::Seen;
use lifeboat_core::failover::view::Counts;
use lifeboat_core::time::Timestamp;

use crate::rng::Rng;
use crate::trace::Trace;

/// One task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) id: u64,
    /// `None` for On-Demand.
    pub(super) zone: Option<usize>,
    /// From when it is billed.
    pub(super) began: Timestamp,
    /// When it is ready, or was.
    pub(super) ready_at: Timestamp,
    is_ready: bool,
    /// When the trace takes it away; the policy knows where `is_warned`.
    dies_at: Option<Timestamp>,
    pub(super) is_warned: bool,
}

#[derive(Debug)]
pub(super) struct Fleet {
    tasks: Vec<Task>,
    next: u64,
    /// Per zone, Spot tasks that no reclaim was decided for.
    unharmed: Vec<u32>,
}

impl Fleet {
    /// `target` On-Demand tasks that are ready.
    pub(super) fn new(trace: &Trace, target: u32) -> Self {
        let mut fleet = Self { tasks: Vec::new(), next: 0, unharmed: vec![0; trace.zones.len()] };
        for _ in 0..target {
            let id = fleet.start(None, Timestamp(0), Timestamp(0));
            fleet.ready(id);
        }
        fleet
    }

    pub(super) fn start(&mut self, zone: Option<usize>, began: Timestamp, ready_at: Timestamp) -> u64 {
        let id = self.next;
        self.next += 1;
        if let Some(zone) = zone {
            self.unharmed[zone] += 1;
        }
        let task = Task { id, zone, began, ready_at, is_ready: false, dies_at: None, is_warned: false };
        self.tasks.push(task);
        id
    }

    /// Marks a task ready, unless it is gone; tells whether it is Spot.
    pub(super) fn ready(&mut self, id: u64) -> Option<bool> {
        let task = self.tasks.iter_mut().find(|task| task.id == id)?;
        task.is_ready = true;
        Some(task.zone.is_some())
    }

    pub(super) fn unharmed(&self, zone: usize) -> u32 {
        self.unharmed[zone]
    }

    /// Decides that one task of `zone` dies at `at`; returns which.
    pub(super) fn doom(&mut self, zone: usize, at: Timestamp, is_warned: bool, rng: &mut Rng) -> u64 {
        let chosen = rng.index(usize::try_from(self.unharmed[zone]).expect("tasks fit into memory"));
        let mut candidates =
            self.tasks.iter_mut().filter(|task| task.zone == Some(zone) && task.dies_at.is_none());
        let task = candidates.nth(chosen).expect("the zone holds as many tasks as were counted");
        task.dies_at = Some(at);
        task.is_warned = is_warned;
        self.unharmed[zone] -= 1;
        task.id
    }

    /// Removes everyone whose time is `at`.
    pub(super) fn reclaim(&mut self, at: Timestamp) -> Vec<Task> {
        let mut dead = Vec::new();
        self.tasks.retain(|task| {
            let dies = task.dies_at == Some(at);
            if dies {
                dead.push(*task);
            }
            !dies
        });
        dead
    }

    /// Stops one task: of On-Demand or of a Spot zone, the one that started last first, ready ones last.
    pub(super) fn stop(&mut self, zone: Option<usize>) -> Option<Task> {
        let candidates =
            self.tasks.iter().enumerate().filter(|(_, task)| task.zone == zone && !task.is_warned);
        let (index, _) = candidates.max_by_key(|(_, task)| (!task.is_ready, task.id))?;
        let task = self.tasks.remove(index);
        if let (Some(zone), None) = (task.zone, task.dies_at) {
            self.unharmed[zone] -= 1;
        }
        Some(task)
    }

    /// The zones from which [`Fleet::stop`] may take a surplus Spot task: those whose task will be ready last, as an
    /// earlier one may be what a warned task is replaced by; where none starts, all in which one is ready.
    pub(super) fn may_stop(&self) -> Vec<bool> {
        let staying = || self.tasks.iter().filter(|task| !task.is_warned);
        let starting = || staying().filter(|task| task.zone.is_some() && !task.is_ready);
        let last = starting().map(|task| task.ready_at).max();
        let mut zones = vec![false; self.unharmed.len()];
        for task in staying().filter(|task| last.is_none_or(|last| !task.is_ready && task.ready_at == last)) {
            if let Some(zone) = task.zone {
                zones[zone] = true;
            }
        }
        zones
    }

    /// Spot and On-Demand tasks that serve, warned or not.
    pub(super) fn serving(&self) -> (u32, u32) {
        self.tasks.iter().filter(|task| task.is_ready).fold((0, 0), |(spot, on_demand), task| {
            match task.zone {
                Some(_) => (spot + 1, on_demand),
                None => (spot, on_demand + 1),
            }
        })
    }

    pub(super) fn on_demand(&self) -> u32 {
        u32::try_from(self.tasks.iter().filter(|task| task.zone.is_none()).count()).unwrap_or(u32::MAX)
    }

    /// What the policy may see of the fleet.
    pub(super) fn seen(&self, now: Timestamp, target: u32) -> Seen {
        let mut seen = Seen { target, is_fresh: true, ..Seen::default() };
        let mut has_warned = false;
        for task in &self.tasks {
            let counts: &mut Counts = if task.zone.is_some() { &mut seen.spot } else { &mut seen.on_demand };
            if task.is_warned {
                has_warned = true;
                counts.warned += u32::from(task.is_ready);
            } else if task.is_ready {
                counts.ready += 1;
            } else {
                counts.starting += 1;
                if task.zone.is_some() {
                    seen.oldest_pending = seen.oldest_pending.max(now.since(task.began));
                }
            }
        }
        if has_warned && seen.spot.starting > 0 {
            seen.cover = self.cover();
        }
        seen
    }

    /// Pairs each starting Spot task with a warned ready one that dies no earlier than it is ready.
    fn cover(&self) -> u32 {
        let spot = || self.tasks.iter().filter(|task| task.zone.is_some());
        let mut starts: Vec<Timestamp> =
            spot().filter(|task| !task.is_ready && !task.is_warned).map(|task| task.ready_at).collect();
        let mut ends: Vec<Timestamp> =
            spot().filter(|task| task.is_ready && task.is_warned).filter_map(|task| task.dies_at).collect();
        starts.sort_unstable();
        ends.sort_unstable();
        let mut starts = starts.into_iter().peekable();
        ends.into_iter().map(|end| u32::from(starts.next_if(|ready_at| *ready_at <= end).is_some())).sum()
    }

    pub(super) fn end(&mut self) -> Vec<Task> {
        core::mem::take(&mut self.tasks)
    }
}

//! A `maintain` fleet of EC2 whose interrupted instances stop, hibernate or terminate: what EC2 does with them, and
//! what is left of each. Nothing of Lifeboat decides here, and no trace is replayed: the two worlds replace tasks,
//! which never come back, while this shows where a stopped instance's volume waits, and for how long in vain.
//!
//! Source: EC2 user guide, "Behavior of Spot Instance interruptions"; read 2026-11.

use lifeboat_core::notice::{Action, Cause};

/// Instances of one type in one zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `c3.large`.
    pub instance_type: String,
    /// In micro-dollars an hour.
    pub price: u64,
    /// Instances that it gives at this moment.
    pub capacity: u32,
}

/// Which pool the next instance comes from, of those with room. EC2 never prefers one that holds stopped instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The cheapest.
    LowestPrice,
    /// The one with the most room.
    CapacityOptimized,
    /// The one in which the fewest run.
    Diversified,
}

/// Where an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs.
    Running,
    /// It may run again, in this pool and with this type; only EC2 can start it. Its volumes are billed.
    Stopped {
        /// Hibernated: memory lies on the root volume.
        keeps_memory: bool,
    },
    /// It is gone.
    Terminated,
}

/// What happened to an instance, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new one, from nothing.
    Launched,
    /// A stopped one runs again.
    Restarted,
    /// EC2 took its capacity; the request's behaviour says what is left.
    Interrupted(Cause),
    /// It was to start without its root volume: EC2 terminated it.
    RootVolumeMissing,
    /// The fleet was cancelled while it was stopped.
    FleetCancelled,
    /// The account has no room for another volume: nothing was launched.
    VolumeQuota,
}

/// One instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its pool, for ever: the type cannot be changed while it is stopped.
    pub pool: usize,
    /// Where it is.
    pub standing: Standing,
    has_root_volume: bool,
}

/// The fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    strategy: Strategy,
    behaviour: Action,
    target: u32,
    volumes_max: usize,
    pools: Vec<Pool>,
    instances: Vec<Instance>,
    is_cancelled: bool,
}

impl Fleet {
    /// A fleet that wants `target` instances, in an account that allows `volumes_max` volumes, one to each instance.
    #[must_use]
    pub const fn new(
        (strategy, behaviour): (Strategy, Action),
        target: u32,
        volumes_max: usize,
        pools: Vec<Pool>,
    ) -> Self {
        Self { strategy, behaviour, target, volumes_max, pools, instances: Vec::new(), is_cancelled: false }
    }

    /// All instances there ever were; changes name them by their index.
    #[must_use]
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Volumes that are billed: those of running and of stopped instances.
    #[must_use]
    pub fn volumes(&self) -> usize {
        self.instances
            .iter()
            .filter(|one| one.standing != Standing::Terminated && one.has_root_volume)
            .count()
    }

    /// `pool` now gives `capacity` instances: those beyond it are interrupted for `cause`, the youngest first, and
    /// the fleet is filled again.
    pub fn supply(&mut self, pool: usize, capacity: u32, cause: Cause) -> Vec<(usize, Change)> {
        self.pools[pool].capacity = capacity;
        let mut changes = Vec::new();
        while self.running(pool) > capacity {
            let is_its = |one: &Instance| one.pool == pool && one.standing == Standing::Running;
            let index = self.instances.iter().rposition(is_its).expect("it was just counted");
            self.instances[index].standing = match self.behaviour {
                Action::Terminate => Standing::Terminated,
                Action::Stop => Standing::Stopped { keeps_memory: false },
                Action::Hibernate => Standing::Stopped { keeps_memory: true },
            };
            changes.push((index, Change::Interrupted(cause)));
        }
        changes.extend(self.fill());
        changes
    }

    /// Launches or restarts until the target runs or nobody gives more.
    pub fn fill(&mut self) -> Vec<(usize, Change)> {
        let mut changes = Vec::new();
        while !self.is_cancelled
            && (0..self.pools.len()).map(|pool| self.running(pool)).sum::<u32>() < self.target
        {
            let Some(pool) = self.choose() else { break };
            let is_stopped =
                |one: &Instance| one.pool == pool && matches!(one.standing, Standing::Stopped { .. });
            if let Some(index) = self.instances.iter().position(is_stopped) {
                let starts = self.instances[index].has_root_volume;
                self.instances[index].standing =
                    if starts { Standing::Running } else { Standing::Terminated };
                let change = if starts { Change::Restarted } else { Change::RootVolumeMissing };
                changes.push((index, change));
            } else if self.volumes() >= self.volumes_max {
                changes.push((self.instances.len(), Change::VolumeQuota));
                break;
            } else {
                changes.push((self.instances.len(), Change::Launched));
                self.instances.push(Instance { pool, standing: Standing::Running, has_root_volume: true });
            }
        }
        changes
    }

    /// Hibernation of a stopped instance failed: EC2 stopped it instead, and what was in memory is lost.
    pub fn hibernation_failed(&mut self, index: usize) {
        if let Standing::Stopped { keeps_memory } = &mut self.instances[index].standing {
            *keeps_memory = false;
        }
    }

    /// Somebody detached the root volume of a stopped instance.
    pub fn detach_root_volume(&mut self, index: usize) {
        self.instances[index].has_root_volume = false;
    }

    /// Somebody terminated an instance, stopped or not. EC2 replaces it with the next [`Fleet::fill`].
    pub fn terminate(&mut self, index: usize) {
        self.instances[index].standing = Standing::Terminated;
    }

    /// Cancels the fleet without terminating what runs: what is stopped is terminated all the same.
    pub fn cancel(&mut self) -> Vec<(usize, Change)> {
        self.is_cancelled = true;
        let mut changes = Vec::new();
        for (index, one) in self.instances.iter_mut().enumerate() {
            if matches!(one.standing, Standing::Stopped { .. }) {
                one.standing = Standing::Terminated;
                changes.push((index, Change::FleetCancelled));
            }
        }
        changes
    }

    fn running(&self, pool: usize) -> u32 {
        let running =
            self.instances.iter().filter(|one| one.pool == pool && one.standing == Standing::Running);
        u32::try_from(running.count()).unwrap_or(u32::MAX)
    }

    fn choose(&self) -> Option<usize> {
        let room = |pool: usize| self.pools[pool].capacity.saturating_sub(self.running(pool));
        let open = (0..self.pools.len()).filter(|pool| room(*pool) > 0);
        match self.strategy {
            Strategy::LowestPrice => open.min_by_key(|pool| self.pools[*pool].price),
            Strategy::CapacityOptimized => open.min_by_key(|pool| u32::MAX - room(*pool)),
            Strategy::Diversified => open.min_by_key(|pool| self.running(*pool)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPED: Standing = Standing::Stopped { keeps_memory: false };

    /// Two instances wanted; c3, c4 and c5, each dearer than the one before.
    fn fleet(strategy: Strategy, behaviour: Action, volumes_max: usize) -> Fleet {
        let pool = |(instance_type, price): (&str, u64)| Pool {
            instance_type: instance_type.to_owned(),
            price,
            capacity: 9,
        };
        let pools = [("c3.large", 30_000), ("c4.large", 31_000), ("c5.large", 32_000)].map(pool).to_vec();
        let mut fleet = Fleet::new((strategy, behaviour), 2, volumes_max, pools);
        assert_eq!(fleet.fill(), [(0, Change::Launched), (1, Change::Launched)]);
        fleet
    }

    fn where_they_are(fleet: &Fleet) -> Vec<(usize, Standing)> {
        fleet.instances().iter().map(|one| (one.pool, one.standing)).collect()
    }

    #[test]
    fn a_stopped_instance_waits_until_the_strategy_leads_back_to_its_pool() {
        let mut fleet = fleet(Strategy::LowestPrice, Action::Stop, 99);
        fleet.supply(0, 0, Cause::Capacity);
        assert_eq!(where_they_are(&fleet)[..3], [(0, STOPPED), (0, STOPPED), (1, Standing::Running)]);
        // c3 gives again: those that run in c4 stay, and the stopped ones wait.
        assert_eq!(fleet.supply(0, 9, Cause::Capacity), []);
        fleet.supply(0, 0, Cause::Capacity);
        // c4 is interrupted too, with c3 still short: on to c5, although c3 and c4 hold stopped instances.
        let changes = fleet.supply(1, 0, Cause::Price);
        assert_eq!(changes[0], (3, Change::Interrupted(Cause::Price)));
        assert_eq!(changes[2..], [(4, Change::Launched), (5, Change::Launched)]);
        assert_eq!(fleet.instances()[4].pool, 2);
        assert_eq!(fleet.volumes(), 6, "four of which belong to stopped instances");
        // c3 gives again and c5 is interrupted: the lowest price leads back, and the stopped ones of c3 start.
        fleet.supply(0, 9, Cause::Capacity);
        let changes = fleet.supply(2, 0, Cause::Capacity);
        assert_eq!(changes[2..], [(0, Change::Restarted), (1, Change::Restarted)]);
    }

    #[test]
    fn an_instance_without_its_root_volume_is_terminated_when_it_should_start() {
        let mut fleet = fleet(Strategy::LowestPrice, Action::Stop, 99);
        fleet.supply(0, 0, Cause::Capacity);
        fleet.detach_root_volume(0);
        assert_eq!(fleet.volumes(), 3);
        fleet.supply(0, 9, Cause::Capacity);
        let changes = fleet.supply(1, 0, Cause::Capacity);
        assert_eq!(
            changes[2..],
            [(0, Change::RootVolumeMissing), (1, Change::Restarted), (4, Change::Launched)]
        );
        assert_eq!(fleet.instances()[0].standing, Standing::Terminated);
    }

    #[test]
    fn cancelling_the_fleet_terminates_what_is_stopped_and_replaces_nothing() {
        let mut fleet = fleet(Strategy::LowestPrice, Action::Stop, 99);
        fleet.supply(0, 1, Cause::Capacity);
        assert_eq!(fleet.cancel(), [(1, Change::FleetCancelled)]);
        assert_eq!(
            where_they_are(&fleet),
            [(0, Standing::Running), (0, Standing::Terminated), (1, Standing::Running)]
        );
        assert_eq!(fleet.supply(1, 0, Cause::Capacity), [(2, Change::Interrupted(Cause::Capacity))]);
    }

    #[test]
    fn volumes_of_stopped_instances_count_against_the_quota() {
        let mut fleet = fleet(Strategy::LowestPrice, Action::Stop, 3);
        let changes = fleet.supply(0, 0, Cause::Capacity);
        assert_eq!(changes[2..], [(2, Change::Launched), (3, Change::VolumeQuota)]);
        // A stopped one may be terminated by hand, and makes room.
        fleet.terminate(0);
        assert_eq!(fleet.fill(), [(3, Change::Launched)]);
    }

    #[test]
    fn the_behaviour_decides_what_is_left() {
        for (behaviour, left) in [
            (Action::Terminate, Standing::Terminated),
            (Action::Stop, STOPPED),
            (Action::Hibernate, Standing::Stopped { keeps_memory: true }),
        ] {
            let mut fleet = fleet(Strategy::LowestPrice, behaviour, 99);
            fleet.supply(0, 1, Cause::Constraint);
            assert_eq!(fleet.instances()[1].standing, left);
            fleet.hibernation_failed(1);
            let after = if behaviour == Action::Hibernate { STOPPED } else { left };
            assert_eq!(fleet.instances()[1].standing, after);
        }
    }

    #[test]
    fn each_strategy_chooses_as_it_says() {
        let pools = |strategy| {
            let fleet = fleet(strategy, Action::Stop, 99);
            fleet.instances().iter().map(|one| one.pool).collect::<Vec<_>>()
        };
        assert_eq!(pools(Strategy::LowestPrice), [0, 0]);
        assert_eq!(pools(Strategy::CapacityOptimized), [0, 1]);
        assert_eq!(pools(Strategy::Diversified), [0, 1]);
        let mut full = fleet(Strategy::CapacityOptimized, Action::Stop, 99);
        full.pools[2].capacity = 40;
        full.terminate(0);
        full.fill();
        assert_eq!(full.instances()[2].pool, 2);
    }
}

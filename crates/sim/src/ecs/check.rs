//! What must hold in every world, whatever goes wrong: one checker per promise of docs/failover.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lifeboat_core::failover::event::{Event as Told, Happening};
use lifeboat_core::failover::history::{self, Entry};
use lifeboat_core::failover::machine::Order;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::failover::phase::Phase;
use lifeboat_core::failover::policy::{Policy, Switch};
use lifeboat_core::failover::state::State;
use lifeboat_core::failover::window::Fact;
use lifeboat_core::time::{Millis, Timestamp};

use super::config::Config;
use super::{Event, World};

/// Violations kept per run; one is enough to fail it.
const KEPT_MAX: usize = 8;

/// How often the world is watched for what must come to rest.
const WATCH: Millis = Millis::from_secs(30);

/// Once faults have stopped, both desired counts are what is stored within this: an order that lands late takes
/// up to the longest freeze, seeing it up to `Rules::look_every`, correcting it seconds.
pub(super) const SETTLES: Millis = Millis::from_secs(300);

/// What a phase may last beyond its time-out: a controller may be down or frozen for minutes, and the store away.
pub(super) const PHASE_SLACK: Millis = Millis::from_secs(900);

/// Once faults have stopped and Spot has room for everything, all of it is back on Spot within this: ECS retries
/// after up to 27 min, silent PENDING tasks fail after up to 23, then come the stable window, the start and the shift.
pub(super) const RETURNS: Millis = Millis::from_secs(4_800);

/// How much older than its time stamp an observation may be, and how far two clocks may be apart.
const LAG: Millis = Millis::from_secs(10);

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Timestamp,
    /// Of which service.
    pub service: usize,
    /// Which promise.
    pub promise: Promise,
    /// The numbers.
    pub detail: String,
}

/// The promises, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Our own action never lowers ready capacity below the policy's floor.
    Floor,
    /// What was acknowledged is stored.
    Acknowledged,
    /// State and history agree, and no state is forgotten.
    History,
    /// Only Spot's events count.
    SpotOnly,
    /// No more changes than the hold times allow.
    Hold,
    /// Every phase leaves within its time-out.
    PhaseTimeout,
    /// Once faults stop, ECS is told what is stored, whoever gave the last order.
    Settled,
    /// Spot has everything again once it is good.
    Returned,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, service, promise, detail } = self;
        write!(f, "{promise:?} broken at {} s for service {service}: {detail}", at.0 / 1000)
    }
}

#[derive(Debug)]
pub(super) struct Checks {
    pub(super) violations: Vec<Violation>,
    /// Facts that were ever stored, per service.
    stored: Vec<BTreeSet<(u8, u64)>>,
    /// Facts about Spot that AWS ever told, per service.
    spot: Vec<BTreeSet<u64>>,
    /// When the window was last emptied by a change of phase.
    cleared: Vec<Timestamp>,
    mismatch: BTreeMap<usize, Timestamp>,
    phases: Vec<(Phase, Timestamp)>,
    on_demand_since: Vec<Timestamp>,
    /// Facts are only kept for worlds small enough to be watched.
    is_watched: bool,
}

impl Checks {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            violations: Vec::new(),
            stored: vec![BTreeSet::new(); config.services],
            spot: vec![BTreeSet::new(); config.services],
            cleared: vec![Timestamp(i64::MIN); config.services],
            mismatch: BTreeMap::new(),
            phases: vec![(Phase::Spot, Timestamp(0)); config.services],
            on_demand_since: vec![Timestamp(0); config.services],
            is_watched: config.services <= 16,
        }
    }

    pub(super) fn told(&mut self, service: usize, event: &Told) {
        if self.is_watched
            && event.capacity == Capacity::Spot
            && let Some((_, key)) = fact(event)
        {
            self.spot[service].insert(key);
        }
    }
}

/// The fact that an event of Spot must leave in the window.
pub(super) fn fact(event: &Told) -> Option<(u8, u64)> {
    match event.what {
        Happening::Refused { event } => Some((0, event)),
        Happening::Warned { task } | Happening::Stopped { task, is_interruption: true } => Some((1, task)),
        Happening::Ready { task } => Some((2, task)),
        Happening::Stopped { is_interruption: false, .. } | Happening::Steady => None,
    }
}

pub(super) const fn number(fact: Fact) -> u8 {
    match fact {
        Fact::Refused => 0,
        Fact::Interrupted => 1,
        Fact::Ready => 2,
    }
}

impl World<'_> {
    fn violate(&mut self, service: usize, promise: Promise, detail: String) {
        if self.checks.violations.len() < KEPT_MAX {
            self.checks.violations.push(Violation { at: self.now, service, promise, detail });
        }
    }

    /// After an order stopped ready tasks: at least the floor serves, but for what AWS took meanwhile.
    pub(super) fn check_floor(&mut self, service: usize, order: &Order, before: (u32, u32)) {
        if !self.config.rules.policy.is_guarded() {
            return;
        }
        let account = &self.accounts[service];
        // The promise of docs/failover.md, not the number that is configured: half for `switch`, all for others.
        let percent = match (self.config.rules.policy, order.capacity) {
            (Policy::Switch(_), Capacity::Spot) => Switch::default().floor_percent,
            _ => 100,
        };
        let (spot, on_demand) = account.serving;
        let since = order.seen_at.before(LAG);
        // What the order was decided for: an autoscaler may have raised the target since.
        let earlier = account.targets.iter().filter(|(until, _)| *until >= since).map(|(_, target)| *target);
        let target = earlier.min().unwrap_or(account.target).min(account.target);
        let floor = (target * percent).div_ceil(100);
        let lost = account.losses.iter().filter(|at| **at >= since).count();
        let left = spot + on_demand + u32::try_from(lost).unwrap_or(u32::MAX);
        if left < floor {
            let detail = format!(
                "{:?} set to {} leaves {spot} Spot and {on_demand} On-Demand ready of {before:?}, \
                 the floor is {floor}, {lost} were lost since it was decided",
                order.capacity, order.count
            );
            self.violate(service, Promise::Floor, detail);
        }
    }

    /// Before a state is stored.
    pub(super) fn check_commit(
        &mut self,
        controller: usize,
        service: usize,
        next: &State,
        entry: Option<Entry>,
    ) {
        let Some(before) = self.stored[service].state.clone() else {
            if self.stored[service].last.is_some() {
                self.violate(service, Promise::History, "a state with a history was forgotten".to_owned());
            }
            self.note_phase(service, next.phase);
            return;
        };
        let at = entry.map_or(self.now, |entry| entry.at);
        if entry != history::entry(at, &before, next) || next.generation != before.generation + 1 {
            let detail = format!("generation {} has the entry {entry:?}", next.generation);
            self.violate(service, Promise::History, detail);
        }
        if let (Some(last), Some(entry)) = (self.stored[service].last, entry)
            && last.to != entry.from
        {
            let detail = format!("history goes from {} to {}", last.to, entry.from);
            self.violate(service, Promise::History, detail);
        }
        self.check_hold(controller, service, &before, next);
        if self.checks.is_watched {
            self.check_facts(service, next);
        }
        if before.phase != next.phase {
            self.note_phase(service, next.phase);
        }
    }

    fn note_phase(&mut self, service: usize, phase: Phase) {
        self.checks.phases[service] = (phase, self.now);
        self.checks.cleared[service] = self.now;
        if phase == Phase::OnDemand {
            self.checks.on_demand_since[service] = self.now;
        }
    }

    fn check_facts(&mut self, service: usize, next: &State) {
        for (fact, key) in next.window.facts() {
            self.checks.stored[service].insert((number(fact), key));
            if !self.checks.spot[service].contains(&key) {
                self.violate(service, Promise::SpotOnly, format!("{fact:?} {key} is not of Spot"));
            }
        }
    }

    fn check_hold(&mut self, controller: usize, service: usize, before: &State, next: &State) {
        if !self.config.rules.policy.is_guarded() {
            return;
        }
        let held = self.now.since(before.raised_at) + LAG;
        if next.split.on_demand < before.split.on_demand && held < self.config.rules.hold {
            let detail = format!("controller {controller} lowered On-Demand {held} after it was raised");
            self.violate(service, Promise::Hold, detail);
        }
        let is_switch = matches!(self.config.rules.policy, Policy::Switch(_));
        let stayed = self.now.since(self.checks.on_demand_since[service]) + LAG;
        if is_switch
            && (before.phase, next.phase) == (Phase::OnDemand, Phase::ShiftingToSpot)
            && stayed < Switch::default().stable
        {
            self.violate(service, Promise::Hold, format!("returned after {stayed}"));
        }
    }

    /// After messages were deleted: what they told is stored.
    pub(super) fn check_acknowledged(&mut self, service: usize, events: &[Told]) {
        if !self.checks.is_watched {
            return;
        }
        for event in events.iter().filter(|event| event.capacity == Capacity::Spot) {
            let Some(fact) = fact(event) else { continue };
            let is_old = self.now.since(event.at) + LAG >= self.config.rules.window;
            if !is_old && !self.checks.stored[service].contains(&fact) {
                let detail = format!("{:?} was acknowledged and is not stored", event.what);
                self.violate(service, Promise::Acknowledged, detail);
            }
        }
    }

    /// Every half minute.
    pub(super) fn watch(&mut self) {
        let now = self.now;
        let is_anybody_there = self.controllers.iter().any(|controller| controller.acts(now));
        for service in 0..self.config.services {
            self.check_settled(service);
            if is_anybody_there {
                self.check_phase(service);
            } else {
                // Time in which no controller could act is nobody's time-out.
                self.checks.phases[service].1 = self.checks.phases[service].1 + WATCH;
            }
            let old = self.now.before(Millis::from_secs(600));
            self.accounts[service].losses.retain(|at| *at >= old);
            self.accounts[service].targets.retain(|(until, _)| *until >= old);
        }
        self.push(self.now + WATCH, Event::Watch);
    }

    fn check_settled(&mut self, service: usize) {
        let Some(state) = &self.stored[service].state else { return };
        let pair = &self.cloud.pairs[service];
        let spot = if self.config.follows { state.split.spot } else { pair.spot.desired };
        let (stored, told) = (state.split, (spot, pair.on_demand.desired));
        if (stored.spot, stored.on_demand) == told {
            self.checks.mismatch.remove(&service);
            return;
        }
        let since = *self.checks.mismatch.entry(service).or_insert(self.now);
        let quiet = since.max(self.config.faults.until.min(self.now));
        if self.now.since(quiet) >= SETTLES {
            self.checks.mismatch.insert(service, self.now);
            self.violate(service, Promise::Settled, format!("stored is {stored:?}, told {told:?}"));
        }
    }

    fn check_phase(&mut self, service: usize) {
        let (phase, since) = self.checks.phases[service];
        let rules = &self.config.rules;
        let limit = match phase {
            Phase::ShiftingToOnDemand | Phase::ShiftingToSpot => rules.shift_max,
            Phase::Degraded => rules.degraded_max,
            Phase::Spot | Phase::OnDemand => return,
        };
        if rules.policy.is_guarded() && self.now.since(since) > limit + PHASE_SLACK {
            self.checks.phases[service].1 = self.now;
            self.violate(service, Promise::PhaseTimeout, format!("{phase} lasts longer than {limit}"));
        }
    }

    /// At the end of a world whose last part is quiet and has Spot for everybody.
    pub(super) fn check_end(&mut self) {
        let faults_end = self.config.faults.until;
        let quiet_from = self.quiet_from().max(faults_end);
        if !self.config.rules.policy.is_guarded() || self.now.since(quiet_from) < RETURNS {
            return;
        }
        for service in 0..self.config.services {
            let target = self.accounts[service].target;
            let (spot, _) = self.cloud.pairs[service].serving();
            let on_demand = self.cloud.pairs[service].on_demand.desired;
            if spot < target || on_demand > 0 {
                let phase = self.stored[service].state.as_ref().map(|state| state.phase);
                let detail =
                    format!("{spot} of {target} on Spot, {on_demand} On-Demand asked for, phase {phase:?}");
                self.violate(service, Promise::Returned, detail);
            }
        }
    }

    /// Since when the trace has stood still with room for all services.
    fn quiet_from(&self) -> Timestamp {
        let ticks = self.trace.ticks();
        let last = |tick: usize| self.trace.zones.iter().map(|zone| zone.capacity[tick]).collect::<Vec<_>>();
        let end = last(ticks - 1);
        let wanted: u32 = self.accounts.iter().map(|account| account.target).sum();
        if end.iter().copied().fold(0, u32::saturating_add) < wanted {
            return Timestamp(i64::MAX);
        }
        let still = (0..ticks).rev().take_while(|tick| last(*tick) == end).last().unwrap_or(ticks);
        self.trace.starts(still)
    }
}

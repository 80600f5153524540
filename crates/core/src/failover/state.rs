//! What is stored of a service, and how one look at the world moves it on.
//!
//! [`State::advance`] is the only function that changes phase or split. It computes; committing the result and
//! acting on it is [`super::machine`]'s.

use serde::{Deserialize, Serialize};

use super::instruction::Asked;
use super::observation::Capacity;
use super::phase::Phase;
use super::policy::Policy;
use super::reason::Reason;
use super::split::{Split, Wanted};
use super::stability::{Outcome, SAMPLES_MAX, Samples};
use super::view::{Counts, View};
use super::window::Window;
use crate::time::{Millis, Timestamp};

/// Changes of phase within one look. The longest chain is On-Demand → shifting → Spot; a bound makes a rule
/// that chases its own tail a bug that shows, not a loop that hangs.
const MOVES_MAX: u32 = 4;

/// Clocks of two controllers are less than this apart. What is stored from further ahead was written by one that was
/// wrong: before the time of a machine was set, for example.
const CLOCKS_APART: Millis = Millis::from_secs(60);

/// Probes are looked at this often, at least ten times within the stable window of source B.
const SAMPLE_EVERY: Millis = Millis::from_secs(45);

/// What holds for a service whatever its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Decides the split.
    pub policy: Policy,
    /// The sliding window of errors.
    pub window: Millis,
    /// A shift that is not complete after this long is given up, and a person is told. Source B: 10 min.
    pub shift_max: Millis,
    /// How long a service stays degraded before On-Demand is tried, and a person told, again.
    pub degraded_max: Millis,
    /// On-Demand that was just raised stays at least this long: its first minute is billed in any case.
    pub hold: Millis,
    /// Probes are looked at this often. More than 66 s apart would never give ten samples in ten minutes; so little
    /// apart that all that are kept do not span a longer stable window, Spot would never be returned to.
    pub sample_every: Millis,
    /// Both services are looked at this often while no shift is under way: an event that was lost costs at most this.
    pub look_every: Millis,
    /// Whoever carries the split out names the tasks that it stops, as with EC2 instances; ECS chooses by itself.
    pub names_stops: bool,
}

impl Rules {
    /// The rules of docs/failover.md with this policy.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        let widest = Millis(policy.stable().0.div_ceil(SAMPLES_MAX as u64 - 1));
        Self {
            policy,
            window: Millis::from_secs(300),
            shift_max: Millis::from_secs(600),
            degraded_max: Millis::from_secs(600),
            hold: Millis::from_secs(60),
            sample_every: if widest.0 > SAMPLE_EVERY.0 { widest } else { SAMPLE_EVERY },
            look_every: Millis::from_secs(30),
            names_stops: false,
        }
    }
}

/// The fleet as it was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many ready tasks are wanted.
    pub target: u32,
    /// Spot tasks.
    pub spot: Counts,
    /// On-Demand tasks.
    pub on_demand: Counts,
    /// See [`View::cover`].
    pub cover: u32,
    /// See [`View::oldest_pending`].
    pub oldest_pending: Millis,
    /// What both services are told to run at this moment, by whomever.
    pub desired: Split,
    /// Whether this is recent enough to stop tasks on. To start some, an old look is good enough.
    pub is_fresh: bool,
}

/// What is stored of a service: everything that a controller which starts anew must know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Rises by one with each commit; a command of an older generation is void.
    pub generation: u64,
    /// Where the machine is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// The target that the split was computed for.
    pub target: u32,
    /// What both services are told to run.
    pub split: Split,
    /// When On-Demand was last raised.
    pub raised_at: Timestamp,
    /// Why the split is what it is.
    pub reason: Reason,
    /// What happened to Spot lately.
    pub window: Window,
    /// Facts that are not newer have had their effect: what tripped one shift must not trip the next.
    pub counted_from: Timestamp,
    /// What the probes showed.
    pub samples: Samples,
    /// When a Spot launch was last refused.
    pub refused_at: Option<Timestamp>,
    /// When Spot last had every task that was asked for.
    pub steady_at: Option<Timestamp>,
    /// What a person asked for.
    #[serde(default)]
    pub asked: Option<Asked>,
    /// A person said to change nothing.
    #[serde(default)]
    pub is_paused: bool,
    /// How often it failed over today.
    #[serde(default)]
    pub failovers: Failovers,
}

/// Failovers of one day, for metrics and alarms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failovers {
    /// Days since 1970-01-01, UTC.
    pub day: i64,
    /// Departures from [`Phase::Spot`] on that day.
    pub count: u32,
}

impl Failovers {
    const DAY_MS: i64 = 86_400_000;

    /// How many there were on the day of `now`.
    #[must_use]
    pub const fn on(self, now: Timestamp) -> u32 {
        if self.day == now.0.div_euclid(Self::DAY_MS) { self.count } else { 0 }
    }

    const fn with_one(self, now: Timestamp) -> Self {
        Self { day: now.0.div_euclid(Self::DAY_MS), count: self.on(now).saturating_add(1) }
    }
}

impl State {
    /// A service that runs `split` as somebody set it up.
    #[must_use]
    pub fn new(now: Timestamp, target: u32, split: Split) -> Self {
        Self {
            generation: 0,
            phase: if split.on_demand > 0 { Phase::OnDemand } else { Phase::Spot },
            since: now,
            target,
            split,
            raised_at: Timestamp(i64::MIN / 2),
            reason: Reason::Fixed,
            window: Window::default(),
            counted_from: Timestamp(i64::MIN / 2),
            samples: Samples::default(),
            refused_at: None,
            steady_at: None,
            asked: None,
            is_paused: false,
            failovers: Failovers::default(),
        }
    }

    /// Moves to `now` whatever is stored from further ahead than clocks are apart. It would hold time-outs, samples
    /// and counts up until the clocks have got there: no error would count, and no phase end.
    pub(super) fn heal(&mut self, now: Timestamp) {
        let latest = now + CLOCKS_APART;
        let times = [&mut self.since, &mut self.raised_at, &mut self.counted_from];
        let told = [self.refused_at.as_mut(), self.steady_at.as_mut()].into_iter().flatten();
        for at in times.into_iter().chain(told).filter(|at| **at > latest) {
            *at = now;
        }
        self.window.heal(now, latest);
        if self.samples.last().is_some_and(|at| at > latest) {
            self.samples.clear();
        }
    }

    /// What a policy sees of this state and of the fleet.
    #[must_use]
    pub fn view(&self, rules: &Rules, now: Timestamp, seen: &Seen) -> View {
        View {
            now,
            target: seen.target,
            spot: seen.spot,
            on_demand: seen.on_demand,
            cover: seen.cover,
            oldest_pending: seen.oldest_pending,
            phase: self.phase,
            phase_for: now.since(self.since),
            window: self.window.counts(now, rules.window, self.counted_from),
            samples: self.samples.counts(now),
            refused_at: self.refused_at,
            steady_at: self.steady_at,
        }
    }

    /// Takes one look at the fleet: samples probes, moves the phase, sets the split. True where anything that is
    /// stored has changed.
    pub fn advance(&mut self, rules: &Rules, now: Timestamp, seen: &Seen) -> bool {
        let before = (self.phase, self.split, self.target);
        self.target = seen.target;
        let mut changed = self.sample(rules, now, seen);
        let is_steady = seen.spot.ready >= self.split.spot && seen.spot.ready >= seen.target;
        if is_steady && self.steady_at.is_none_or(|steady| self.refused_at > Some(steady)) {
            self.steady_at = Some(now);
            changed = true;
        }
        let mut wanted = self.wanted(rules, now, seen);
        for _ in 0..MOVES_MAX {
            let Some((phase, reason)) = self.next_phase(rules, now, seen, wanted) else { break };
            self.enter(phase, now, reason);
            wanted = self.wanted(rules, now, seen);
        }
        // A split that changes with the phase changes for the reason that the phase did: what the policy says within
        // the new phase, that a shift goes on, explains neither.
        let moved_by = (self.phase != before.0).then_some(self.reason);
        let reason = moved_by.unwrap_or(wanted.reason);
        self.apply(rules, now, seen, Wanted { reason, ..wanted });
        if self.phase == Phase::ShiftingToSpot && self.split.on_demand == 0 {
            self.enter(Phase::Spot, now, moved_by.unwrap_or(Reason::SpotComplete));
        }
        changed |= before != (self.phase, self.split, self.target);
        if self.is_over(rules, now, seen) {
            self.asked = None;
            changed = true;
        }
        changed
    }

    /// What the policy wants, or what a person asked for in its place.
    fn wanted(&self, rules: &Rules, now: Timestamp, seen: &Seen) -> Wanted {
        let target = seen.target;
        match self.asked.filter(|asked| asked.holds(now)) {
            None => rules.policy.wanted(&self.view(rules, now, seen)),
            Some(Asked { to: to @ Capacity::Spot, .. }) => Wanted::new(target, 0, Reason::Asked { to }),
            Some(Asked { to: to @ Capacity::OnDemand, .. }) => {
                Wanted::new(rules.policy.kept_spot(target), target, Reason::Asked { to })
            }
        }
    }

    /// Whether what a person asked for is over and leaves no trace: until the Spot service is seen to be told again
    /// what it should, its desired count is ours and not an autoscaler's.
    fn is_over(&self, rules: &Rules, now: Timestamp, seen: &Seen) -> bool {
        let is_restored =
            rules.policy.moves_spot() || (seen.is_fresh && seen.desired.spot >= self.split.spot);
        self.asked.is_some_and(|asked| !asked.holds(now)) && is_restored
    }

    /// The earliest moment after `now` at which a look could change something although nothing was seen.
    #[must_use]
    pub fn wake_at(&self, rules: &Rules, now: Timestamp) -> Option<Timestamp> {
        let phase_ends = match self.phase {
            Phase::ShiftingToOnDemand | Phase::ShiftingToSpot => Some(self.since + rules.shift_max),
            Phase::Degraded => Some(self.since + rules.degraded_max),
            // A policy that waits for a stable window looks again even where it has no probes.
            Phase::OnDemand if rules.policy.probes() => Some(now + rules.sample_every),
            Phase::Spot | Phase::OnDemand => None,
        };
        let sample = self.sample_due(rules);
        let held = self.raised_at + rules.hold;
        let held = (self.split.on_demand > 0 && held > now).then_some(held);
        let asked = self.asked.and_then(|asked| asked.until);
        [phase_ends, sample, held, asked].into_iter().flatten().filter(|at| *at > now).min()
    }

    fn sample_due(&self, rules: &Rules) -> Option<Timestamp> {
        let is_probing = self.phase == Phase::OnDemand && rules.policy.probes() && self.split.spot > 0;
        is_probing.then(|| self.samples.last().unwrap_or(self.since) + rules.sample_every)
    }

    fn sample(&mut self, rules: &Rules, now: Timestamp, seen: &Seen) -> bool {
        if self.sample_due(rules).is_none_or(|due| due > now) {
            return false;
        }
        let last = self.samples.last().unwrap_or(self.since);
        let outcome = if self.window.last_error().is_some_and(|at| at > last) {
            Outcome::Bad
        } else if seen.spot.ready >= self.split.spot {
            Outcome::Good
        } else {
            Outcome::Open
        };
        self.samples.take(now, outcome);
        true
    }

    /// The phase that follows, where one does. The only place that knows the table.
    fn next_phase(
        &self,
        rules: &Rules,
        now: Timestamp,
        seen: &Seen,
        wanted: Wanted,
    ) -> Option<(Phase, Reason)> {
        let asks = wanted.split.on_demand > 0;
        let share = rules.policy.shift_percent();
        let enough =
            u64::from(seen.on_demand.ready) * 100 >= u64::from(wanted.split.on_demand) * u64::from(share);
        let spent = now.since(self.since);
        let timed_out =
            Reason::OnDemandTimedOut { ready: seen.on_demand.ready, wanted: wanted.split.on_demand };
        let reason = wanted.reason;
        // What began the shift may have left the window by now; that it goes on does not say why it is complete.
        let ready = Reason::OnDemandReady { ready: seen.on_demand.ready, wanted: wanted.split.on_demand };
        let complete = if reason == Reason::Shifting { ready } else { reason };
        match self.phase {
            Phase::Spot => asks.then_some((Phase::ShiftingToOnDemand, reason)),
            Phase::ShiftingToOnDemand if !asks => Some((Phase::ShiftingToSpot, reason)),
            Phase::ShiftingToOnDemand if enough => Some((Phase::OnDemand, complete)),
            Phase::ShiftingToOnDemand => (spent >= rules.shift_max).then_some((Phase::Degraded, timed_out)),
            Phase::OnDemand if !asks => Some((Phase::ShiftingToSpot, reason)),
            Phase::OnDemand => (!enough).then_some((Phase::ShiftingToOnDemand, reason)),
            Phase::ShiftingToSpot if asks && enough => Some((Phase::OnDemand, reason)),
            Phase::ShiftingToSpot if asks => Some((Phase::ShiftingToOnDemand, reason)),
            Phase::ShiftingToSpot => (spent >= rules.shift_max && seen.spot.ready < seen.target).then_some((
                Phase::OnDemand,
                Reason::ReturnTimedOut { ready: seen.spot.ready, wanted: seen.target },
            )),
            Phase::Degraded if !asks => Some((Phase::ShiftingToSpot, reason)),
            Phase::Degraded if enough => Some((Phase::OnDemand, complete)),
            Phase::Degraded => (spent >= rules.degraded_max).then_some((Phase::ShiftingToOnDemand, reason)),
        }
    }

    fn enter(&mut self, phase: Phase, now: Timestamp, reason: Reason) {
        // Old samples say nothing about the next return.
        match phase {
            Phase::OnDemand | Phase::ShiftingToSpot => {
                self.samples.clear();
                self.counted_from = now;
            }
            Phase::Spot | Phase::ShiftingToOnDemand | Phase::Degraded => {}
        }
        if (self.phase, phase) == (Phase::Spot, Phase::ShiftingToOnDemand) {
            self.failovers = self.failovers.with_one(now);
        }
        self.phase = phase;
        self.since = now;
        self.reason = reason;
    }

    /// Sets the split to what is wanted, as far as nothing that is still needed is stopped.
    fn apply(&mut self, rules: &Rules, now: Timestamp, seen: &Seen, wanted: Wanted) {
        let guarded = rules.policy.is_guarded();
        let spot = if guarded { self.guarded_spot(rules, seen, wanted.split) } else { wanted.split.spot };
        let on_demand = if guarded {
            self.guarded_on_demand(rules, now, seen, wanted.split)
        } else {
            wanted.split.on_demand
        };
        if on_demand > self.split.on_demand {
            self.raised_at = now;
        }
        let split = Split { spot, on_demand };
        if split != self.split {
            self.split = split;
            self.reason = wanted.reason;
        }
    }

    /// Spot is lowered only once enough is ready without the tasks that ECS may stop.
    fn guarded_spot(&self, rules: &Rules, seen: &Seen, wanted: Split) -> u32 {
        let current = self.split.spot.max(seen.desired.spot);
        if wanted.spot >= current {
            return wanted.spot;
        }
        if !seen.is_fresh {
            return wanted.spot.max(self.split.spot);
        }
        let floor = (u64::from(seen.target) * u64::from(rules.policy.floor_percent())).div_ceil(100);
        // ECS does not say which tasks it stops first: the ready ones may go before the starting ones.
        let stopped = current - wanted.spot;
        let left = u64::from(seen.spot.ready.saturating_sub(stopped) + seen.on_demand.ready);
        let may_lower = match self.phase {
            Phase::OnDemand | Phase::Spot => left >= floor,
            Phase::ShiftingToOnDemand | Phase::ShiftingToSpot | Phase::Degraded => {
                left >= u64::from(seen.target)
            }
        };
        if may_lower { wanted.spot } else { current }
    }

    /// On-Demand is raised at once and lowered only as far as ready Spot tasks that nobody warned allow.
    fn guarded_on_demand(&self, rules: &Rules, now: Timestamp, seen: &Seen, wanted: Split) -> u32 {
        let current = self.split.on_demand.max(seen.desired.on_demand);
        if wanted.on_demand >= current {
            return wanted.on_demand;
        }
        // Another controller's clock may be ahead of ours, so that it was raised in our future.
        let is_held = now.since(self.raised_at).max(self.raised_at.since(now)) < rules.hold;
        if !seen.is_fresh {
            return wanted.on_demand.max(self.split.on_demand);
        }
        if is_held {
            return current;
        }
        let needed = seen.target.saturating_sub(seen.spot.ready + seen.cover);
        if needed == 0 {
            return wanted.on_demand;
        }
        if !rules.policy.releases_stepwise() {
            return current;
        }
        // ECS may keep those that start, or place those that are still missing, and stop ready ones instead.
        let unready = if rules.names_stops { 0 } else { current.saturating_sub(seen.on_demand.ready) };
        wanted.on_demand.max(needed + unready).min(current)
    }
}

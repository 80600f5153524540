//! The failover machine of one service: events and observations in, commits and orders out.
//!
//! Committing is an effect and its result an input: only [`Input::Committed`] releases orders and acknowledgements,
//! so nothing is visible before it is durable. What stands in a [`State`] is decided in [`super::state`]; this file
//! decides only when to load, look, commit and order. Whoever runs it carries out effects in their order, one after
//! the other, and answers each with its input.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::event::{Event, Happening};
use super::history::{self, Entry as HistoryEntry};
use super::instruction::Asked;
use super::observation::{Capacity, Observation};
use super::phase::Phase;
use super::reason::Reason;
use super::split::Split;
use super::state::{Rules, Seen, State};
use super::window::{Entry, Fact};
use crate::backoff::Backoff;
use crate::time::{Millis, Timestamp};

/// Receipts that wait for a commit. One receive brings at most ten messages; what is beyond is not acknowledged
/// and comes again.
pub const RECEIPTS_MAX: usize = 64;

/// Tasks remembered as lost. Source: ECS service quotas, 5,000 tasks per service; read 2026-11.
pub const DOOMED_MAX: usize = 5_000;

/// How long a task that an event called lost is remembered: observations are older than events by seconds, and a
/// warned task is gone after two minutes.
const DOOMED_KEPT: Millis = Millis::from_secs(300);

/// An older look must not stop tasks. Every observation costs three requests, so it cannot be much shorter.
const FRESH: Millis = Millis::from_secs(20);

/// A command that was not given by then is void: the controller that held it back was frozen.
const ORDER_VALID: Millis = Millis::from_secs(30);

/// How often both services are looked at while a shift is under way; [`Rules::look_every`] while none is.
const OBSERVE_BUSY: Millis = Millis::from_secs(10);

/// How long after an order both services are looked at again.
const ORDER_SETTLES: Millis = Millis::from_secs(2);

/// An order that fails again and again is given at least this often.
const ORDER_RETRY: Millis = Millis::from_secs(15);

/// After this the answer to a load, look or commit is given up. Longer than any time-out of the shell's own.
const ANSWER_MAX: Millis = Millis::from_secs(30);

/// Where the wanted number of tasks comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A fixed number.
    Fixed(u32),
    /// The Spot service's own desired count, as an autoscaler sets it.
    FollowSpot,
}

/// Names one receipt of messages, for its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt(pub u64);

/// What the machine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The time that the last turn asked for has come, or the machine has just started.
    Woke,
    /// The stored state; none where the service is new.
    Loaded(Option<Box<State>>),
    /// The state could not be read.
    LoadFailed,
    /// Both services were looked at.
    Observed(Observation),
    /// They could not be looked at.
    ObserveFailed,
    /// Events of this service from one receive.
    Events {
        /// To be acknowledged once their effect is durable.
        receipt: Receipt,
        /// In the order of receipt, which says nothing.
        events: Vec<Event>,
    },
    /// The state of this generation is stored, with its history.
    Committed {
        /// Of the state that was stored.
        generation: u64,
    },
    /// Somebody else committed first.
    Conflicted,
    /// Whether the state was stored is not known.
    CommitFailed,
    /// An order was carried out.
    Ordered,
    /// An order was not carried out: it was too old, the API refused it, or nobody knows.
    OrderFailed,
    /// An order was not carried out: the stored generation is another one.
    Fenced,
}

/// A desired count for one service: absolute, so that giving it twice equals once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which service.
    pub capacity: Capacity,
    /// Its desired count.
    pub count: u32,
    /// The generation that decided it. It is read again right before acting; ECS itself cannot fence.
    pub generation: u64,
    /// Void after this, on the clock of this controller.
    pub not_after: Timestamp,
    /// When what it was decided on was seen, on the same clock.
    pub seen_at: Timestamp,
}

/// What a person should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The phase left.
    pub from: Phase,
    /// The phase entered.
    pub to: Phase,
    /// Why.
    pub reason: Reason,
    /// What both services are told to run.
    pub split: Split,
    /// How long the phase that was left had lasted.
    pub lasted: Millis,
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read the stored state.
    Load,
    /// Look at both services.
    Observe,
    /// Store the state with its history in one transaction, if the stored generation is `expected`.
    Commit {
        /// What to store.
        state: Box<State>,
        /// The generation that must be stored now; none where nothing may be stored yet.
        expected: Option<u64>,
        /// What to add to the history.
        history: Option<HistoryEntry>,
    },
    /// Set a desired count.
    Order(Order),
    /// The messages may be deleted.
    Acknowledge(Receipt),
    /// Tell a person.
    Alert(Alert),
}

/// What one input led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// To be carried out in this order.
    pub effects: Vec<Effect>,
    /// Wake the machine then, unless another turn says otherwise.
    pub wake_at: Timestamp,
    /// Why the split is what it is.
    pub reason: Reason,
}

/// What the machine waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Waiting {
    /// The stored state, since then.
    Load { since: Timestamp },
    /// The next attempt to load, then.
    Retry { at: Timestamp },
    /// Nothing.
    Nothing,
    /// The answer to a commit, since then.
    Commit { next: Box<State>, receipts: usize, alert: Option<Alert>, since: Timestamp },
}

/// One service, as one controller knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    rules: Rules,
    target: Target,
    seed: u64,
    waiting: Waiting,
    state: Option<Box<State>>,
    observed: Option<Observation>,
    observe_since: Option<Timestamp>,
    observe_at: Timestamp,
    usable_from: Timestamp,
    loaded_at: Timestamp,
    doomed: BTreeMap<u64, Timestamp>,
    inbox: Vec<(Receipt, Vec<Event>)>,
    attempts: u32,
    /// Orders that failed in a row.
    refused: u32,
    /// A commit of which nobody knows whether it was stored, and what was to be told with it.
    unsure: Option<(Box<State>, Alert)>,
}

impl Machine {
    /// A machine that knows nothing yet; its first input is [`Input::Woke`]. `seed` tells machines that start
    /// together apart.
    #[must_use]
    pub const fn new(rules: Rules, target: Target, seed: u64) -> Self {
        Self {
            rules,
            target,
            seed,
            waiting: Waiting::Retry { at: Timestamp(i64::MIN) },
            state: None,
            observed: None,
            observe_since: None,
            observe_at: Timestamp(i64::MIN),
            usable_from: Timestamp(i64::MIN),
            loaded_at: Timestamp(i64::MIN),
            doomed: BTreeMap::new(),
            inbox: Vec::new(),
            attempts: 0,
            refused: 0,
            unsure: None,
        }
    }

    /// The state that is known to be stored.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.state.as_deref()
    }

    /// The last look that was of use.
    #[must_use]
    pub const fn observed(&self) -> Option<&Observation> {
        self.observed.as_ref()
    }

    /// Takes one input at `now`, on this controller's clock.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Turn {
        let mut effects = Vec::new();
        match input {
            Input::Woke => self.wake(now, &mut effects),
            Input::Loaded(state) => self.loaded(now, state, &mut effects),
            Input::LoadFailed | Input::CommitFailed => self.retry(now),
            Input::Observed(observation) => self.see(now, observation, &mut effects),
            Input::ObserveFailed => self.look_again(now, OBSERVE_BUSY),
            Input::Events { receipt, events } => self.receive(now, receipt, events, &mut effects),
            Input::Committed { generation } => self.committed(now, generation, &mut effects),
            Input::Conflicted => self.load(now, &mut effects),
            Input::Ordered => {
                self.refused = 0;
                self.look_again(now, ORDER_SETTLES);
            }
            Input::OrderFailed => {
                self.look_again(
                    now,
                    self.backoff(ORDER_SETTLES + ORDER_SETTLES, ORDER_RETRY).wait(self.refused),
                );
                self.refused = self.refused.saturating_add(1);
            }
            Input::Fenced => self.fenced(now, &mut effects),
        }
        self.look_if_due(now, &mut effects);
        Turn { effects, wake_at: self.wake_at(now), reason: self.reason() }
    }

    fn reason(&self) -> Reason {
        self.state.as_ref().map_or(Reason::Fixed, |state| state.reason)
    }

    fn wake(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        match &self.waiting {
            Waiting::Retry { at } if *at <= now => self.load(now, effects),
            // An answer that never came: what was stored is not known, so it is read.
            Waiting::Load { since } | Waiting::Commit { since, .. } if now.since(*since) >= ANSWER_MAX => {
                self.load(now, effects);
            }
            Waiting::Nothing => self.decide(now, effects),
            Waiting::Retry { .. } | Waiting::Load { .. } | Waiting::Commit { .. } => {}
        }
    }

    const fn backoff(&self, first: Millis, longest: Millis) -> Backoff {
        Backoff { first, longest, seed: self.seed }
    }

    /// An answer is no longer waited for. Whether a commit was stored shows when the state is loaded, and what it was
    /// to tell a person waits until then.
    fn give_up(&mut self) {
        if let Waiting::Commit { next, alert: Some(alert), .. } = &self.waiting {
            self.unsure = Some((next.clone(), *alert));
        }
    }

    fn load(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.give_up();
        self.waiting = Waiting::Load { since: now };
        effects.push(Effect::Load);
    }

    fn retry(&mut self, now: Timestamp) {
        self.give_up();
        let wait = self.backoff(Millis(500), Millis::from_secs(20)).wait(self.attempts);
        self.waiting = Waiting::Retry { at: now + wait };
        self.attempts = self.attempts.saturating_add(1);
    }

    fn loaded(&mut self, now: Timestamp, state: Option<Box<State>>, effects: &mut Vec<Effect>) {
        let Waiting::Load { .. } = self.waiting else { return };
        self.waiting = Waiting::Nothing;
        if let Some((next, alert)) = self.unsure.take()
            && state.as_ref() == Some(&next)
        {
            effects.push(Effect::Alert(alert));
        }
        self.state = state;
        if let Some(state) = &mut self.state {
            state.heal(now);
        }
        // What was seen before belongs to a decision that somebody else may have replaced.
        self.usable_from = now;
        self.loaded_at = now;
        self.observe_at = now;
        self.decide(now, effects);
    }

    fn see(&mut self, now: Timestamp, observation: Observation, effects: &mut Vec<Effect>) {
        self.observe_since = None;
        self.observe_at = now + self.observe_every();
        if observation.at < self.usable_from {
            self.observe_at = now;
            return;
        }
        self.observed = Some(observation);
        if self.waiting == Waiting::Nothing {
            self.decide(now, effects);
        }
    }

    fn receive(&mut self, now: Timestamp, receipt: Receipt, events: Vec<Event>, effects: &mut Vec<Effect>) {
        for event in &events {
            self.doom(now, event);
        }
        // A receipt that comes again while the first still waits is the same messages.
        if self.inbox.len() >= RECEIPTS_MAX || self.inbox.iter().any(|(known, _)| *known == receipt) {
            return;
        }
        self.inbox.push((receipt, events));
        if self.waiting == Waiting::Nothing {
            self.decide(now, effects);
        }
    }

    /// Remembers a lost Spot task at once, whatever happens to the commit.
    fn doom(&mut self, now: Timestamp, event: &Event) {
        let lost = match event.what {
            Happening::Warned { task } | Happening::Stopped { task, .. } => Some(task),
            Happening::Refused { .. } | Happening::Ready { .. } | Happening::Steady => None,
        };
        if let Some(task) = lost
            && event.capacity == Capacity::Spot
            && self.doomed.len() < DOOMED_MAX
        {
            self.doomed.insert(task, now);
        }
    }

    fn committed(&mut self, now: Timestamp, generation: u64, effects: &mut Vec<Effect>) {
        let Waiting::Commit { next, receipts, alert, .. } = &mut self.waiting else { return };
        if next.generation != generation {
            return;
        }
        let (receipts, alert) = (*receipts, alert.take());
        let waiting = core::mem::replace(&mut self.waiting, Waiting::Nothing);
        let Waiting::Commit { next, .. } = waiting else { return };
        let before = self.state.replace(next).map(|state| state.split);
        self.attempts = 0;
        let acknowledged = self.inbox.drain(..receipts).map(|(receipt, _)| Effect::Acknowledge(receipt));
        let acknowledged: Vec<Effect> = acknowledged.collect();
        // What was seen while the commit was under way was not part of it: nothing is stopped on the old decision
        // before a new one has looked. What was raised is ordered in any case.
        let mut next = Vec::new();
        self.decide(now, &mut next);
        let told = acknowledged.into_iter().chain(alert.map(Effect::Alert));
        if matches!(next.first(), Some(Effect::Order(_))) {
            effects.extend(next);
            effects.extend(told);
            return;
        }
        if let Some(before) = before {
            self.raise(now, before, effects);
        }
        effects.extend(told);
        effects.extend(next);
    }

    fn fenced(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        match self.waiting {
            Waiting::Nothing => self.load(now, effects),
            // The answer that is awaited tells the same.
            Waiting::Load { .. } | Waiting::Retry { .. } | Waiting::Commit { .. } => {}
        }
    }

    /// Folds the inbox, takes a look, and commits what changed; with nothing changed, orders what is not so yet.
    fn decide(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.doomed.retain(|_, at| now.since(*at) <= DOOMED_KEPT);
        let Some(state) = &self.state else {
            self.adopt(now, effects);
            return;
        };
        let mut next = state.clone();
        let mut changed = self.fold(now, &mut next);
        if let Some(seen) = self.seen(now, &next).filter(|_| !state.is_paused) {
            changed |= next.advance(&self.rules, now, &seen);
        }
        if changed {
            self.commit(now, next, effects);
        } else {
            effects.extend(self.inbox.drain(..).map(|(receipt, _)| Effect::Acknowledge(receipt)));
            self.reconcile(now, effects);
        }
    }

    /// A service without a stored state begins with what runs. Where more is told to run On-Demand, Spot's count says
    /// nothing of what is wanted: the state was lost while On-Demand ran it, or nobody has moved it to Spot yet. What
    /// runs is then remembered as after a person's shift that is over, until Spot is told to run it.
    fn adopt(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(observed) = &self.observed else { return };
        let has = observed.desired();
        let target = match self.target {
            Target::Fixed(target) => target,
            Target::FollowSpot => has.spot.max(has.on_demand),
        };
        let mut first = Box::new(State::new(now, target, has));
        first.reason = Reason::Found;
        let is_theirs = self.target == Target::FollowSpot && !self.rules.policy.moves_spot();
        if is_theirs && has.on_demand > has.spot {
            first.asked = Some(Asked { to: Capacity::Spot, until: Some(now) });
        }
        effects.push(Effect::Commit { state: first.clone(), expected: None, history: None });
        self.waiting = Waiting::Commit { next: first, receipts: 0, alert: None, since: now };
    }

    fn commit(&mut self, now: Timestamp, mut next: Box<State>, effects: &mut Vec<Effect>) {
        let Some(state) = &self.state else { return };
        next.generation = state.generation + 1;
        let alert = (state.phase != next.phase).then(|| Alert {
            from: state.phase,
            to: next.phase,
            reason: next.reason,
            split: next.split,
            lasted: now.since(state.since),
        });
        effects.push(Effect::Commit {
            state: next.clone(),
            expected: Some(state.generation),
            history: history::entry(now, state, &next),
        });
        self.waiting = Waiting::Commit { next, receipts: self.inbox.len(), alert, since: now };
    }

    /// Whether the last look was taken after the last load and the last orders.
    fn is_usable(&self) -> bool {
        self.observed.as_ref().is_some_and(|observed| observed.at >= self.usable_from)
    }

    /// What the last observation and later events show, where there is one since the state was loaded. One from
    /// before our own last orders is too old to stop tasks on and still serves to start some: the worst that can
    /// follow is a minute of On-Demand too much.
    fn seen(&self, now: Timestamp, state: &State) -> Option<Seen> {
        let observed = self.observed.as_ref().filter(|observed| observed.at >= self.loaded_at)?;
        let is_usable = self.is_usable();
        let target = match self.target {
            Target::Fixed(target) => target,
            Target::FollowSpot if is_usable && self.spot_is_theirs(state) => observed.spot.desired,
            Target::FollowSpot => state.target,
        };
        let mut seen = observed.seen(now, target, &self.doomed);
        seen.is_fresh = is_usable && observed.age(now) <= FRESH && !observed.is_deploying;
        if !is_usable {
            seen.desired = state.split;
        }
        Some(seen)
    }

    /// Whether somebody else, an autoscaler, owns the Spot service's desired count at this moment.
    fn spot_is_theirs(&self, state: &State) -> bool {
        match self.target {
            Target::Fixed(_) => false,
            // Whatever they set meanwhile, we set it back to what the person asked for.
            Target::FollowSpot if state.asked.is_some() => false,
            Target::FollowSpot if !self.rules.policy.moves_spot() => true,
            // Until we lower it, the count that we hold is still theirs to change.
            Target::FollowSpot => match state.phase {
                Phase::Spot | Phase::ShiftingToOnDemand | Phase::Degraded => state.split.spot >= state.target,
                Phase::OnDemand | Phase::ShiftingToSpot => false,
            },
        }
    }

    /// Orders what a commit raised, without a look that could tell whether it is so already.
    fn raise(&mut self, now: Timestamp, before: Split, effects: &mut Vec<Effect>) {
        let (Some(state), Some(observed)) = (&self.state, &self.observed) else { return };
        if state.is_paused {
            return;
        }
        let (split, generation) = (state.split, state.generation);
        let (seen_at, not_after) = (observed.at, now + ORDER_VALID);
        // A count that was seen to be higher, by whatever order, must not fall to what is only higher than before.
        let has = observed.desired();
        let is_theirs = self.spot_is_theirs(state);
        let order =
            |capacity, count| Effect::Order(Order { capacity, count, generation, not_after, seen_at });
        if split.on_demand > before.on_demand.max(has.on_demand) {
            effects.push(order(Capacity::OnDemand, split.on_demand));
        }
        if split.spot > before.spot.max(has.spot) && !is_theirs {
            effects.push(order(Capacity::Spot, split.spot));
        }
    }

    /// Writes the facts of the inbox into `next`; true where any was new.
    fn fold(&self, now: Timestamp, next: &mut State) -> bool {
        let mut changed = false;
        for event in self.inbox.iter().flat_map(|(_, events)| events) {
            let (fact, key) = match (event.capacity, event.what) {
                (Capacity::OnDemand, _) | (Capacity::Spot, Happening::Steady) => continue,
                (Capacity::Spot, Happening::Stopped { is_interruption: false, .. }) => continue,
                (Capacity::Spot, Happening::Refused { event }) => (Fact::Refused, event),
                (Capacity::Spot, Happening::Warned { task } | Happening::Stopped { task, .. }) => {
                    (Fact::Interrupted, task)
                }
                (Capacity::Spot, Happening::Ready { task }) => (Fact::Ready, task),
            };
            // A time ahead of ours is a clock that is wrong, not news from the future.
            let at = event.at.min(now);
            if next.window.note(now, self.rules.window, Entry { at, fact, key }) {
                changed = true;
                if fact == Fact::Refused {
                    next.refused_at = next.refused_at.max(Some(at));
                }
            }
        }
        changed
    }

    /// Orders whatever ECS was seen to be told otherwise.
    fn reconcile(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let (Some(state), Some(observed)) = (&self.state, &self.observed) else { return };
        if observed.at < self.usable_from || state.is_paused {
            return;
        }
        let (seen_at, has) = (observed.at, observed.desired());
        let is_fresh = observed.age(now) <= FRESH && !observed.is_deploying;
        let generation = state.generation;
        let is_theirs = self.spot_is_theirs(state);
        // What starts tasks goes before what stops some.
        let sides = [
            (Capacity::OnDemand, state.split.on_demand, has.on_demand),
            (Capacity::Spot, state.split.spot, has.spot),
        ];
        let ordered = effects.len();
        for (capacity, count, has) in sides {
            let is_lower = count < has;
            if count == has || (is_theirs && capacity == Capacity::Spot) || (is_lower && !is_fresh) {
                continue;
            }
            let not_after = if is_lower { seen_at + ORDER_VALID } else { now + ORDER_VALID };
            effects.push(Effect::Order(Order { capacity, count, generation, not_after, seen_at }));
        }
        if effects.len() > ordered {
            // Until the next look, what was seen is what was before the orders.
            self.usable_from = now;
            self.observe_at = now + ORDER_SETTLES;
        }
    }

    const fn observe_every(&self) -> Millis {
        match &self.state {
            Some(state) => match state.phase {
                Phase::Spot | Phase::OnDemand => self.rules.look_every,
                Phase::ShiftingToOnDemand | Phase::ShiftingToSpot | Phase::Degraded => OBSERVE_BUSY,
            },
            None => OBSERVE_BUSY,
        }
    }

    fn look_again(&mut self, now: Timestamp, after: Millis) {
        self.observe_since = None;
        self.observe_at = now + after;
    }

    fn look_if_due(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let waits = self.observe_since.is_some_and(|since| now.since(since) < ANSWER_MAX);
        if waits || now < self.observe_at {
            return;
        }
        match self.waiting {
            Waiting::Nothing => {
                self.observe_since = Some(now);
                effects.push(Effect::Observe);
            }
            Waiting::Load { .. } | Waiting::Retry { .. } | Waiting::Commit { .. } => {}
        }
    }

    fn wake_at(&self, now: Timestamp) -> Timestamp {
        let answer = match &self.waiting {
            Waiting::Retry { at } => *at,
            Waiting::Load { since } | Waiting::Commit { since, .. } => *since + ANSWER_MAX,
            Waiting::Nothing => match self.observe_since {
                Some(since) => since + ANSWER_MAX,
                None => self.observe_at,
            },
        };
        let state = self.state.as_ref().and_then(|state| state.wake_at(&self.rules, now));
        state.map_or(answer, |at| at.min(answer)).max(now + Millis(1))
    }
}

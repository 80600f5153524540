//! The controllers: what carries out a machine's effects, crashes between them, freezes, and comes back.

use std::collections::VecDeque;

use lifeboat_core::failover::event::{Event as Told, Happening};
use lifeboat_core::failover::history::Entry;
use lifeboat_core::failover::machine::{Effect, Input, Machine, Order, Receipt};
use lifeboat_core::failover::observation::{Capacity, Task};
use lifeboat_core::failover::split::Split;
use lifeboat_core::failover::state::State;
use lifeboat_core::time::{Millis, Timestamp};

use super::config::{Config, Planted};
use super::{Event, World};
use crate::record::Turn;
use crate::rng::Rng;

/// How old a stored state may become where a TTL was planted on it. Source B says 24 h; a shorter world needs a
/// shorter one to show the same.
const PLANTED_TTL: Millis = Millis::from_secs(1_200);

/// What the store holds of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    pub(super) state: Option<Box<State>>,
    pub(super) last: Option<Entry>,
    pub(super) stored_at: Timestamp,
}

/// Something that a controller does next.
#[derive(Debug)]
pub(super) enum Due {
    Wake { controller: usize, service: usize, epoch: u64, token: u64 },
    Effect { controller: usize, service: usize, epoch: u64 },
    Hand { controller: usize, service: usize, epoch: u64, receipt: u64, events: Vec<Told> },
    Restart { controller: usize },
}

#[derive(Debug)]
struct Slot {
    machine: Machine,
    effects: VecDeque<Effect>,
    is_busy: bool,
    began: Timestamp,
    token: u64,
}

#[derive(Debug)]
pub(super) struct Controller {
    slots: Vec<Slot>,
    epoch: u64,
    is_up: bool,
    pub(super) frozen_until: Timestamp,
    /// How far its clock is from AWS's, in milliseconds.
    skew: i64,
}

impl Controller {
    pub(super) fn new(config: &Config, index: usize) -> Self {
        let mut rng = Rng::new(config.seed, 100 + index as u64);
        let skew = i64::try_from(rng.below(2_000)).unwrap_or(0) - 1_000;
        let mut controller =
            Self { slots: Vec::new(), epoch: 0, is_up: true, frozen_until: Timestamp(0), skew };
        controller.fill(config, index);
        controller
    }

    fn fill(&mut self, config: &Config, index: usize) {
        let slot = |service: usize| Slot {
            machine: Machine::new(config.rules, config.machine_target(), (index * 7919 + service) as u64),
            effects: VecDeque::new(),
            is_busy: false,
            began: Timestamp(0),
            token: 0,
        };
        self.slots = (0..config.services).map(slot).collect();
    }

    /// Neither crashed nor frozen.
    pub(super) fn acts(&self, now: Timestamp) -> bool {
        self.is_up && self.frozen_until <= now
    }

    const fn clock(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0 + self.skew)
    }
}

impl World<'_> {
    pub(super) fn start_controllers(&mut self) {
        self.push(Timestamp(60_000), Event::Watch);
        for controller in 0..self.controllers.len() {
            self.wake_all(controller);
        }
    }

    fn wake_all(&mut self, controller: usize) {
        let epoch = self.controllers[controller].epoch;
        for service in 0..self.config.services {
            let at = self.now + Millis(self.rng.between(10, 5_000));
            self.push(at, Event::Shell(Due::Wake { controller, service, epoch, token: 0 }));
        }
    }

    pub(super) fn shell(&mut self, due: Due) {
        match due {
            Due::Restart { controller } => {
                self.controllers[controller].is_up = true;
                self.wake_all(controller);
            }
            Due::Wake { controller, service, epoch, token } => {
                if !self.is_current(controller, epoch)
                    || self.controllers[controller].slots[service].token != token
                {
                    return;
                }
                let due = Due::Wake { controller, service, epoch, token };
                if self.is_awake(controller, due) {
                    self.input(controller, service, Input::Woke);
                }
            }
            Due::Hand { controller, service, epoch, receipt, events } => {
                if !self.is_current(controller, epoch) {
                    return;
                }
                let told = events.clone();
                if self.is_awake(controller, Due::Hand { controller, service, epoch, receipt, events }) {
                    self.input(
                        controller,
                        service,
                        Input::Events { receipt: Receipt(receipt), events: told },
                    );
                }
            }
            Due::Effect { controller, service, epoch } => {
                if self.is_current(controller, epoch)
                    && self.is_awake(controller, Due::Effect { controller, service, epoch })
                    && !self.falls(controller, service)
                {
                    self.carry_out(controller, service);
                }
            }
        }
    }

    fn is_current(&self, controller: usize, epoch: u64) -> bool {
        self.controllers[controller].is_up && self.controllers[controller].epoch == epoch
    }

    /// A frozen controller does whatever is due once it thaws.
    fn is_awake(&mut self, controller: usize, due: Due) -> bool {
        let until = self.controllers[controller].frozen_until;
        if until <= self.now {
            return true;
        }
        self.push(until, Event::Shell(due));
        false
    }

    /// Whether the controller crashes or freezes before its next effect.
    fn falls(&mut self, controller: usize, service: usize) -> bool {
        let faults = &self.config.faults;
        if self.now >= faults.until {
            return false;
        }
        if self.rng.chance(faults.crash) {
            self.mark(20, controller as u64, 0);
            let fallen = &mut self.controllers[controller];
            fallen.epoch += 1;
            fallen.is_up = false;
            fallen.fill(&self.config, controller);
            let back = self.now + Millis(self.rng.between(1_000, 120_000));
            self.push(back, Event::Shell(Due::Restart { controller }));
            return true;
        }
        if self.rng.chance(faults.freeze) {
            self.freeze(controller);
            let epoch = self.controllers[controller].epoch;
            let until = self.controllers[controller].frozen_until;
            self.push(until, Event::Shell(Due::Effect { controller, service, epoch }));
            return true;
        }
        false
    }

    fn freeze(&mut self, controller: usize) {
        let span = Millis(self.rng.between(1_000, self.config.faults.freeze_max.0.max(1_000)));
        self.mark(21, controller as u64, span.0);
        self.controllers[controller].frozen_until = self.now + span;
    }

    /// Gives the machine an input and queues what it wants done.
    fn input(&mut self, controller: usize, service: usize, input: Input) {
        self.inputs += 1;
        let epoch = self.controllers[controller].epoch;
        let clock = self.controllers[controller].clock(self.now);
        let skew = self.controllers[controller].skew;
        let slot = &mut self.controllers[controller].slots[service];
        let turn = slot.machine.step(clock, input);
        slot.effects.extend(turn.effects);
        slot.token += 1;
        let token = slot.token;
        self.plant_orders(controller, service);
        let wake = Timestamp(turn.wake_at.0 - skew);
        self.push(wake, Event::Shell(Due::Wake { controller, service, epoch, token }));
        self.begin_effect(controller, service);
    }

    fn begin_effect(&mut self, controller: usize, service: usize) {
        let slot = &mut self.controllers[controller].slots[service];
        if slot.is_busy {
            return;
        }
        let Some(effect) = slot.effects.front() else { return };
        let (low, high) = match effect {
            Effect::Load | Effect::Commit { .. } => (5, 40),
            Effect::Observe => (200, 1_500),
            Effect::Order(_) => (100, 600),
            Effect::Acknowledge(_) | Effect::Alert(_) => (5, 20),
        };
        slot.is_busy = true;
        slot.began = self.now;
        let epoch = self.controllers[controller].epoch;
        let at = self.now + Millis(self.rng.between(low, high));
        self.push(at, Event::Shell(Due::Effect { controller, service, epoch }));
    }

    /// The effect at the head of the queue takes place now.
    fn carry_out(&mut self, controller: usize, service: usize) {
        let slot = &mut self.controllers[controller].slots[service];
        slot.is_busy = false;
        let began = slot.began;
        let Some(effect) = slot.effects.pop_front() else { return };
        let answer = match effect {
            Effect::Load => Some(self.load(service)),
            Effect::Observe => Some(self.observe(controller, service, began)),
            Effect::Commit { state, expected, history } => {
                Some(self.commit(controller, service, state, (expected, history)))
            }
            Effect::Order(order) => Some(self.order(controller, service, order)),
            Effect::Acknowledge(receipt) => {
                self.acknowledge(service, receipt);
                None
            }
            Effect::Alert(_) => None,
        };
        match answer {
            Some(input) => self.input(controller, service, input),
            None => self.begin_effect(controller, service),
        }
    }

    fn fails(&mut self, per_mille: u32) -> bool {
        self.now < self.config.faults.until && self.rng.chance(per_mille)
    }

    fn load(&mut self, service: usize) -> Input {
        if self.fails(self.config.faults.store) {
            return Input::LoadFailed;
        }
        self.expire(service);
        Input::Loaded(self.stored[service].state.clone())
    }

    fn expire(&mut self, service: usize) {
        let stored = &mut self.stored[service];
        if self.config.planted == Planted::ExpiresState && self.now.since(stored.stored_at) > PLANTED_TTL {
            stored.state = None;
        }
    }

    fn observe(&mut self, controller: usize, service: usize, began: Timestamp) -> Input {
        if self.fails(self.config.faults.throttled) {
            return Input::ObserveFailed;
        }
        let at = self.controllers[controller].clock(began);
        let is_stale = self.fails(self.config.faults.stale);
        let pair = &mut self.cloud.pairs[service];
        let last =
            pair.last_look.take().filter(|(looked, _)| self.now.since(*looked) <= Millis::from_secs(6));
        if let (true, Some((looked, mut old))) = (is_stale, last) {
            pair.last_look = Some((looked, old.clone()));
            old.at = at;
            return Input::Observed(old);
        }
        let mut look = pair.look(at);
        if self.config.hides_notices {
            let unwarned = |task: &Task| Task { is_warned: false, ..*task };
            look.spot.tasks = look.spot.tasks.iter().map(unwarned).collect();
        }
        if self.config.faults.stale > 0 {
            pair.last_look = Some((self.now, look.clone()));
        }
        Input::Observed(look)
    }

    fn commit(
        &mut self,
        controller: usize,
        service: usize,
        state: Box<State>,
        (expected, history): (Option<u64>, Option<Entry>),
    ) -> Input {
        if self.fails(self.config.faults.store) {
            return Input::CommitFailed;
        }
        self.expire(service);
        if self.stored[service].state.as_ref().map(|state| state.generation) != expected {
            return Input::Conflicted;
        }
        let generation = state.generation;
        self.mark(10, service as u64, generation);
        self.check_commit(controller, service, &state, history);
        let before = self.stored[service].state.as_ref().map_or_else(Split::default, |state| state.split);
        if (before.on_demand > 0) != (state.split.on_demand > 0) {
            self.accounts[service].tally.mode_changes += 1;
        }
        if let (true, 0, Some(_)) = (self.config.record, service, history) {
            self.record.turns.push(Turn {
                at: self.now,
                service,
                phase: state.phase,
                split: state.split,
                reason: state.reason,
                launches: Vec::new(),
            });
        }
        let stored = &mut self.stored[service];
        stored.last = history.or(stored.last);
        stored.state = Some(state);
        stored.stored_at = self.now;
        if self.fails(self.config.faults.unknown) {
            Input::CommitFailed
        } else {
            Input::Committed { generation }
        }
    }

    fn order(&mut self, controller: usize, service: usize, order: Order) -> Input {
        if self.config.planted != Planted::ActsUnfenced {
            if self.controllers[controller].clock(self.now) > order.not_after {
                return Input::OrderFailed;
            }
            if self.fails(self.config.faults.store) {
                return Input::OrderFailed;
            }
            if self.stored[service].state.as_ref().map(|state| state.generation) != Some(order.generation) {
                return Input::Fenced;
            }
        }
        if self.fails(self.config.faults.throttled) {
            return Input::OrderFailed;
        }
        if self.fails(self.config.faults.landed_late) {
            let at = self.now + Millis(self.rng.between(500, 30_000));
            self.push(at, Event::Land { service, order });
            return Input::OrderFailed;
        }
        if self.fails(self.config.faults.freeze_in_call) {
            self.freeze(controller);
            let at = self.controllers[controller].frozen_until;
            self.push(at, Event::Land { service, order });
            return Input::OrderFailed;
        }
        self.apply(service, order, false);
        Input::Ordered
    }

    fn acknowledge(&mut self, service: usize, receipt: Receipt) {
        let events = self.queues[service].acknowledge(receipt.0);
        self.check_acknowledged(service, &events);
    }

    /// SQS hands what is visible to one of the controllers.
    pub(super) fn deliver(&mut self, service: usize) {
        if self.accounts[service].deliver_at != Some(self.now) {
            return;
        }
        self.accounts[service].deliver_at = None;
        let up: Vec<usize> =
            (0..self.controllers.len()).filter(|index| self.controllers[*index].is_up).collect();
        if up.is_empty() {
            let at = self.now + Millis::from_secs(1);
            self.accounts[service].deliver_at = Some(at);
            self.push(at, Event::Deliver { service });
            return;
        }
        let controller = up[self.rng.index(up.len())];
        if let Some((receipt, mut events)) = self.queues[service].receive(self.now) {
            self.plant_events(&mut events);
            if self.config.hides_notices {
                events.retain(|event| !matches!(event.what, Happening::Warned { .. }));
            }
            let epoch = self.controllers[controller].epoch;
            let hand = Due::Hand { controller, service, epoch, receipt, events };
            let at = self.now + Millis(self.rng.between(5, 100));
            self.push(at, Event::Shell(hand));
            if self.config.planted == Planted::AcknowledgesEarly {
                self.acknowledge(service, Receipt(receipt));
            }
        }
        self.queues[service].prune();
        self.deliver_soon(service);
    }

    fn plant_events(&self, events: &mut [Told]) {
        if self.config.planted == Planted::CountsStandard {
            for event in events {
                event.capacity = Capacity::Spot;
            }
        }
    }

    fn plant_orders(&mut self, controller: usize, service: usize) {
        if self.config.planted != Planted::StopsSpotFirst {
            return;
        }
        let effects = &mut self.controllers[controller].slots[service].effects;
        let raised = effects.iter().find_map(|effect| match effect {
            Effect::Order(order) if order.capacity == Capacity::OnDemand && order.count > 0 => Some(*order),
            _ => None,
        });
        if let Some(order) = raised {
            effects.push_front(Effect::Order(Order { capacity: Capacity::Spot, count: 0, ..order }));
        }
    }
}

//! What a person's word does: shifts for a while, pauses, and the way back.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::failover::event::{Event, Happening};
use crate::failover::instruction::Instruction;
use crate::failover::machine::{Effect, Input, Machine, Receipt, Target};
use crate::failover::observation::{Capacity, Observation, Service, Task};
use crate::failover::phase::Phase;
use crate::failover::policy::{Policy, Shortfall, Switch};
use crate::failover::split::Split;
use crate::failover::state::{Rules, State};
use crate::time::{Millis, Timestamp};

const START: Timestamp = Timestamp(50_000_000);

/// A machine with its store and an ECS that does at once what it is told.
struct Rig {
    machine: Machine,
    stored: State,
    spot: u32,
    on_demand: u32,
    now: Timestamp,
    is_deploying: bool,
    /// Nothing is stored yet, or what was has been lost.
    is_unknown: bool,
}

fn tasks(desired: u32, first: u64) -> Service {
    let task = |key| Task { key, created_at: Timestamp(0), is_ready: true, is_warned: false };
    Service { desired, tasks: (first..first + u64::from(desired)).map(task).collect() }
}

impl Rig {
    fn new(policy: Policy, target: Target) -> Self {
        let stored = State::new(START, 10, Split { spot: 10, on_demand: 0 });
        let machine = Machine::new(Rules::new(policy), target, 1);
        Self { machine, stored, spot: 10, on_demand: 0, now: START, is_deploying: false, is_unknown: false }
    }

    /// One that meets a fleet of which nothing is stored.
    fn meeting(policy: Policy, spot: u32, on_demand: u32) -> Self {
        let mut rig = Self::new(policy, Target::FollowSpot);
        (rig.spot, rig.on_demand, rig.is_unknown) = (spot, on_demand, true);
        rig
    }

    fn tell(&mut self, instruction: Instruction) {
        self.stored = self.stored.instructed(self.now, instruction);
        self.input(Input::Fenced);
    }

    fn input(&mut self, input: Input) {
        let mut inputs = Vec::from([input]);
        while let Some(input) = inputs.pop() {
            for effect in self.machine.step(self.now, input).effects {
                inputs.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Load if self.is_unknown => Some(Input::Loaded(None)),
            Effect::Load => Some(Input::Loaded(Some(Box::new(self.stored.clone())))),
            Effect::Observe => Some(Input::Observed(Observation {
                at: self.now,
                spot: tasks(self.spot, 1),
                on_demand: tasks(self.on_demand, 100),
                is_deploying: self.is_deploying,
            })),
            Effect::Commit { state, expected, .. } => {
                let stored = (!self.is_unknown).then_some(self.stored.generation);
                assert_eq!(expected, stored);
                self.is_unknown = false;
                self.stored = *state;
                Some(Input::Committed { generation: self.stored.generation })
            }
            Effect::Order(order) => {
                match order.capacity {
                    Capacity::Spot => self.spot = order.count,
                    Capacity::OnDemand => self.on_demand = order.count,
                }
                Some(Input::Ordered)
            }
            Effect::Acknowledge(_) | Effect::Alert(_) => None,
        }
    }

    /// Lets time pass, with a look every ten seconds.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds / 5 {
            self.now = self.now + Millis::from_secs(5);
            self.input(Input::Woke);
        }
    }

    fn runs(&self) -> (Phase, u32, u32) {
        (self.stored.phase, self.spot, self.on_demand)
    }
}

fn shortfall() -> Policy {
    Policy::Shortfall(Shortfall::default())
}

fn shift(to: Capacity, until: Option<Timestamp>) -> Instruction {
    Instruction::Shift { to, until }
}

#[test]
fn a_shift_by_a_person_moves_everything_and_ends_by_itself_where_an_autoscaler_owns_the_count() {
    let mut rig = Rig::new(shortfall(), Target::FollowSpot);
    rig.pass(60);
    assert_eq!(rig.runs(), (Phase::Spot, 10, 0));
    rig.tell(shift(Capacity::OnDemand, Some(rig.now + Millis::from_secs(3_600))));
    rig.pass(120);
    assert_eq!(rig.runs(), (Phase::OnDemand, 0, 10));
    assert_eq!(rig.stored.target, 10, "the wanted count is remembered while Spot is told 0");
    rig.pass(3_000);
    assert_eq!(rig.runs(), (Phase::OnDemand, 0, 10));
    rig.pass(900);
    assert_eq!(rig.runs(), (Phase::Spot, 10, 0));
    assert_eq!(rig.stored.asked, None);
    rig.spot = 14;
    rig.pass(60);
    assert_eq!((rig.stored.target, rig.spot), (14, 14), "the count is the autoscaler's again");
}

#[test]
fn a_shift_without_an_end_lasts_until_resume_for_every_policy() {
    for (policy, kept) in [(shortfall(), 0), (Policy::Switch(Switch::default()), 1)] {
        for target in [Target::Fixed(10), Target::FollowSpot] {
            let mut rig = Rig::new(policy, target);
            rig.pass(60);
            rig.tell(shift(Capacity::OnDemand, None));
            rig.pass(7_200);
            assert_eq!(rig.runs(), (Phase::OnDemand, kept, 10), "{policy:?} {target:?}");
            rig.tell(Instruction::Resume);
            rig.pass(3_600);
            assert_eq!(rig.runs(), (Phase::Spot, 10, 0), "{policy:?} {target:?}");
            assert_eq!(rig.stored.asked, None);
        }
    }
}

#[test]
fn a_shift_to_spot_after_one_to_on_demand_brings_the_remembered_count_back() {
    let mut rig = Rig::new(shortfall(), Target::FollowSpot);
    rig.pass(60);
    rig.tell(shift(Capacity::OnDemand, None));
    rig.pass(300);
    rig.tell(shift(Capacity::Spot, None));
    rig.pass(600);
    assert_eq!(rig.runs(), (Phase::Spot, 10, 0));
}

#[test]
fn a_paused_service_is_left_alone_and_its_events_still_count() {
    let mut rig = Rig::new(shortfall(), Target::Fixed(10));
    rig.pass(60);
    rig.tell(Instruction::Pause);
    (rig.spot, rig.on_demand) = (3, 1);
    let warned = Event { at: rig.now, capacity: Capacity::Spot, what: Happening::Warned { task: 1 } };
    rig.input(Input::Events { receipt: Receipt(1), events: Vec::from([warned]) });
    rig.pass(600);
    assert_eq!(rig.runs(), (Phase::Spot, 3, 1));
    assert_eq!(rig.stored.window.facts().count(), 1);
    rig.tell(Instruction::Resume);
    rig.pass(600);
    assert_eq!(rig.runs(), (Phase::Spot, 10, 0));
}

#[test]
fn nothing_is_lowered_while_a_deployment_is_in_progress_and_what_is_missing_is_raised() {
    let mut rig = Rig::new(shortfall(), Target::Fixed(10));
    rig.pass(60);
    rig.is_deploying = true;
    rig.on_demand = 4;
    rig.pass(300);
    assert_eq!(rig.on_demand, 4);
    rig.spot = 7;
    rig.pass(300);
    assert_eq!(rig.spot, 10, "raising needs no settled look");
    rig.is_deploying = false;
    rig.pass(300);
    assert_eq!(rig.runs(), (Phase::Spot, 10, 0));
}

#[test]
fn failovers_are_counted_per_day() {
    let mut rig = Rig::new(shortfall(), Target::Fixed(10));
    rig.pass(60);
    for count in 1..=3 {
        rig.tell(shift(Capacity::OnDemand, Some(rig.now + Millis::from_secs(60))));
        rig.pass(600);
        assert_eq!(rig.stored.failovers.on(rig.now), count);
    }
    assert_eq!(rig.stored.failovers.on(rig.now + Millis::from_secs(86_400)), 0);
}

#[test]
fn a_state_stored_before_there_were_instructions_is_read() {
    let mut value = serde_json::to_value(State::new(START, 3, Split::default())).expect("serializable");
    for key in ["asked", "is_paused", "failovers"] {
        value.as_object_mut().expect("an object").remove(key);
    }
    let state: State = serde_json::from_value(value).expect("readable");
    assert_eq!(state, State::new(START, 3, Split::default()));
}

#[test]
fn a_fleet_that_is_met_while_on_demand_runs_it_keeps_its_size_and_goes_to_spot() {
    for policy in [shortfall(), Policy::Switch(Switch::default())] {
        // All of it was On-Demand so far; or the state was lost while a probe was all that Spot ran.
        for spot in [0, 1] {
            let mut rig = Rig::meeting(policy, spot, 10);
            for _ in 0..720 {
                rig.pass(5);
                assert!(rig.spot + rig.on_demand >= 10, "{policy:?}: {:?}", rig.runs());
            }
            assert_eq!(rig.runs(), (Phase::Spot, 10, 0), "{policy:?}, met with {spot} on Spot");
            rig.spot = 14;
            rig.pass(60);
            assert_eq!((rig.stored.target, rig.spot), (14, 14), "the count is the autoscaler's again");
        }
    }
}

#[test]
fn a_fleet_that_is_met_while_spot_runs_most_of_it_has_the_size_that_spot_is_told() {
    let mut rig = Rig::meeting(shortfall(), 10, 3);
    rig.pass(120);
    assert_eq!(rig.runs(), (Phase::Spot, 10, 0));
}

#[test]
fn a_shift_that_ends_a_pause_does_not_count_the_pause() {
    let mut paused = State::new(START, 10, Split { spot: 10, on_demand: 2 });
    paused.phase = Phase::ShiftingToOnDemand;
    let paused = paused.instructed(START, Instruction::Pause);
    let later = START + Millis::from_secs(3_600);
    let to = Capacity::OnDemand;
    let shifted = paused.instructed(later, Instruction::Shift { to, until: None });
    assert_eq!((shifted.is_paused, shifted.since), (false, later), "nobody told that it was late");
    let again = shifted.instructed(later + Millis(1), Instruction::Shift { to, until: None });
    assert_eq!(again.since, later, "one that ends no pause leaves the time as it is");
}

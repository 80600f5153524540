//! When the machine loads, looks, commits, orders and acknowledges.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::failover::event::{Event, Happening};
use crate::failover::machine::{Effect, Input, Machine, Order, RECEIPTS_MAX, Receipt, Target, Turn};
use crate::failover::observation::{Capacity, Observation, Service, Task};
use crate::failover::phase::Phase;
use crate::failover::policy::{Policy, Shortfall, Switch};
use crate::failover::split::Split;
use crate::failover::state::{Rules, State};
use crate::time::{Millis, Timestamp};

const START: Timestamp = Timestamp(50_000_000);

fn after(ms: u64) -> Timestamp {
    START + Millis(ms)
}

fn service(desired: u32, ready: u64, first: u64) -> Service {
    let task = |key| Task { key, created_at: Timestamp(0), is_ready: true, is_warned: false };
    Service { desired, tasks: (first..first + ready).map(task).collect() }
}

/// Ten Spot tasks with the keys 1 to 10, so many On-Demand tasks from 101 on.
fn look(at: Timestamp, spot: u64, on_demand: u32) -> Input {
    let on_demand = service(on_demand, u64::from(on_demand), 101);
    Input::Observed(Observation { at, spot: service(10, spot, 1), on_demand, is_deploying: false })
}

fn warned(receipt: u64, at: Timestamp, task: u64) -> Input {
    told(receipt, at, Capacity::Spot, Happening::Warned { task })
}

fn told(receipt: u64, at: Timestamp, capacity: Capacity, what: Happening) -> Input {
    Input::Events { receipt: Receipt(receipt), events: vec![Event { at, capacity, what }] }
}

fn rules() -> Rules {
    Rules::new(Policy::Shortfall(Shortfall::default()))
}

/// A machine that has loaded a calm service of ten and looked at it at `START`.
fn calm(target: Target) -> Machine {
    let mut machine = Machine::new(rules(), target, 1);
    let mut state = State::new(START, 10, Split { spot: 10, on_demand: 0 });
    state.generation = 7;
    state.steady_at = Some(START);
    assert_eq!(machine.step(START, Input::Woke).effects, [Effect::Load]);
    let turn = machine.step(START, Input::Loaded(Some(Box::new(state))));
    assert_eq!(turn.effects, [Effect::Observe]);
    assert_eq!(machine.step(START, look(START, 10, 0)).effects, []);
    machine
}

/// What kind of effects, in their order.
fn kinds(turn: &Turn) -> Vec<&'static str> {
    let kind = |effect: &Effect| match effect {
        Effect::Load => "load",
        Effect::Observe => "observe",
        Effect::Commit { .. } => "commit",
        Effect::Order(_) => "order",
        Effect::Acknowledge(_) => "acknowledge",
        Effect::Alert(_) => "alert",
    };
    turn.effects.iter().map(kind).collect()
}

fn order(turn: &Turn) -> Order {
    let mut orders = turn.effects.iter().filter_map(|effect| match effect {
        Effect::Order(order) => Some(*order),
        Effect::Load
        | Effect::Observe
        | Effect::Commit { .. }
        | Effect::Acknowledge(_)
        | Effect::Alert(_) => None,
    });
    orders.next_back().expect("an order")
}

#[test]
fn a_new_service_is_adopted_as_it_runs() {
    let mut machine = Machine::new(rules(), Target::Fixed(10), 1);
    assert_eq!(kinds(&machine.step(START, Input::Woke)), ["load"]);
    assert_eq!(kinds(&machine.step(START, Input::Loaded(None))), ["observe"]);
    let turn = machine.step(after(1), look(START, 10, 0));
    let Some(Effect::Commit { state, expected: None, history: None }) = turn.effects.first() else {
        panic!("expected a first commit, found {turn:?}")
    };
    assert_eq!((state.generation, state.phase, state.split.spot), (0, Phase::Spot, 10));
}

#[test]
fn nothing_is_ordered_or_acknowledged_before_it_is_committed() {
    let mut machine = calm(Target::Fixed(10));
    let turn = machine.step(after(1_000), warned(1, after(900), 3));
    assert_eq!(kinds(&turn), ["commit"]);
    let turn = machine.step(after(1_020), Input::Committed { generation: 8 });
    assert_eq!(kinds(&turn), ["order", "acknowledge", "alert"]);
    let order = order(&turn);
    assert_eq!((order.capacity, order.count, order.generation), (Capacity::OnDemand, 1, 8));
    assert_eq!(order.not_after, after(31_020));
    assert_eq!(machine.state().map(|state| state.phase), Some(Phase::ShiftingToOnDemand));
}

#[test]
fn a_commit_of_another_generation_releases_nothing() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    assert_eq!(kinds(&machine.step(after(1_010), Input::Committed { generation: 9 })), [""; 0]);
    assert_eq!(kinds(&machine.step(after(1_020), Input::Committed { generation: 8 })).len(), 3);
    assert_eq!(kinds(&machine.step(after(1_030), Input::Committed { generation: 8 })), [""; 0]);
}

#[test]
fn events_that_change_nothing_are_acknowledged_without_a_commit() {
    let mut machine = calm(Target::Fixed(10));
    let on_demand = [
        told(1, START, Capacity::OnDemand, Happening::Refused { event: 9 }),
        told(2, START, Capacity::OnDemand, Happening::Stopped { task: 9, is_interruption: true }),
        told(3, START, Capacity::OnDemand, Happening::Warned { task: 3 }),
        told(4, START, Capacity::Spot, Happening::Steady),
        told(5, Timestamp(0), Capacity::Spot, Happening::Refused { event: 9 }),
    ];
    for input in on_demand {
        let turn = machine.step(after(1_000), input);
        assert_eq!(kinds(&turn), ["acknowledge"], "{turn:?}");
    }
}

#[test]
fn the_same_event_twice_equals_once() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    machine.step(after(1_020), Input::Committed { generation: 8 });
    let once = machine.state().cloned();
    assert_eq!(kinds(&machine.step(after(1_030), warned(2, after(900), 3))), ["acknowledge"]);
    let stopped = told(3, after(950), Capacity::Spot, Happening::Stopped { task: 3, is_interruption: true });
    assert_eq!(kinds(&machine.step(after(1_040), stopped)), ["acknowledge"]);
    assert_eq!(machine.state().cloned(), once);
}

#[test]
fn who_loses_a_commit_loads_and_looks_anew_before_anything_else() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    assert_eq!(kinds(&machine.step(after(1_010), Input::Conflicted)), ["load"]);
    let mut theirs = State::new(START, 10, Split { spot: 10, on_demand: 0 });
    theirs.generation = 8;
    theirs.steady_at = Some(START);
    let turn = machine.step(after(1_020), Input::Loaded(Some(Box::new(theirs))));
    // The fact is kept; the split waits for a look that is newer than what was loaded.
    let Some(Effect::Commit { state, expected: Some(8), .. }) = turn.effects.first() else {
        panic!("expected the fact to be committed, found {turn:?}")
    };
    assert_eq!(state.split.on_demand, 0);
    machine.step(after(1_030), Input::Committed { generation: 9 });
    let old = machine.step(after(1_040), look(after(1_000), 9, 0));
    assert_eq!(kinds(&old), ["observe"], "a look from before the load is of no use");
    assert_eq!(kinds(&machine.step(after(1_060), look(after(1_045), 9, 0))), ["commit"]);
}

#[test]
fn an_unknown_outcome_is_read_after_a_wait() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    let turn = machine.step(after(1_010), Input::CommitFailed);
    assert_eq!(kinds(&turn), [""; 0]);
    let wait = turn.wake_at.since(after(1_010));
    assert!((250..=500).contains(&wait.0), "{wait}");
    assert_eq!(kinds(&machine.step(after(1_020), Input::Woke)), [""; 0]);
    assert_eq!(kinds(&machine.step(turn.wake_at, Input::Woke)), ["load"]);
    let failed = machine.step(turn.wake_at, Input::LoadFailed);
    assert!(failed.wake_at.since(turn.wake_at) >= Millis(500), "waits grow");
}

#[test]
fn an_answer_that_never_comes_is_given_up() {
    let mut machine = calm(Target::Fixed(10));
    let turn = machine.step(after(1_000), warned(1, after(900), 3));
    assert_eq!(turn.wake_at, after(31_000));
    assert_eq!(kinds(&machine.step(after(30_999), Input::Woke)), [""; 0]);
    assert_eq!(kinds(&machine.step(after(31_000), Input::Woke)), ["load"]);
    assert_eq!(kinds(&machine.step(after(60_999), Input::Woke)), [""; 0]);
    assert_eq!(kinds(&machine.step(after(61_000), Input::Woke)), ["load"]);
}

#[test]
fn a_fenced_controller_reads_what_the_other_one_stored() {
    let mut machine = calm(Target::Fixed(10));
    assert_eq!(kinds(&machine.step(after(1_000), Input::Fenced)), ["load"]);
}

#[test]
fn what_ecs_is_told_otherwise_is_ordered_again() {
    let mut machine = calm(Target::Fixed(10));
    let turn = machine.step(after(5_000), look(after(4_000), 10, 3));
    assert_eq!(kinds(&turn), ["order"]);
    let order = order(&turn);
    assert_eq!((order.count, order.generation, order.seen_at), (0, 7, after(4_000)));
    assert_eq!(order.not_after, after(34_000), "a lower count is void 30 s after the look");
    // Until the next look it is not known whether that was done.
    let turn = machine.step(after(6_000), Input::Ordered);
    assert_eq!(turn.wake_at, after(8_000));
    assert_eq!(kinds(&machine.step(after(8_000), Input::Woke)), ["observe"]);
    assert_eq!(kinds(&machine.step(after(8_500), look(after(8_000), 10, 0))), [""; 0]);
}

#[test]
fn a_look_that_is_too_old_orders_no_lower_count() {
    let mut machine = calm(Target::Fixed(10));
    assert_eq!(kinds(&machine.step(after(24_001), look(after(4_000), 10, 3))), [""; 0]);
    let mut machine = calm(Target::Fixed(10));
    assert_eq!(kinds(&machine.step(after(24_000), look(after(4_000), 10, 3))), ["order"]);
}

#[test]
fn it_looks_every_half_minute_and_more_often_while_it_shifts() {
    let mut machine = calm(Target::Fixed(10));
    let turn = machine.step(after(100), Input::ObserveFailed);
    assert_eq!(turn.wake_at, after(10_100));
    let mut machine = calm(Target::Fixed(10));
    let turn = machine.step(after(100), look(after(50), 10, 0));
    assert_eq!(turn.wake_at, after(30_100));
    assert_eq!(kinds(&machine.step(after(30_100), Input::Woke)), ["observe"]);
    assert_eq!(kinds(&machine.step(after(30_200), Input::Woke)), [""; 0], "one look at a time");
    assert_eq!(kinds(&machine.step(after(60_100), Input::Woke)), ["observe"], "unless it got lost");
}

#[test]
fn a_warning_counts_before_any_look_shows_it() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    machine.step(after(1_020), Input::Committed { generation: 8 });
    // The look is from before the warning and shows ten ready tasks.
    let turn = machine.step(after(1_500), look(after(1_100), 10, 0));
    assert_eq!(order(&turn).count, 1, "{turn:?}");
}

#[test]
fn the_inbox_has_a_bound_and_what_is_beyond_comes_again() {
    let mut machine = calm(Target::Fixed(10));
    let most = u64::try_from(RECEIPTS_MAX).expect("a small number");
    // The first one starts a commit, so that the others wait.
    for receipt in 0..2 * most {
        machine.step(after(1_000), warned(receipt, after(900), receipt % 10 + 1));
    }
    let mut acknowledged = 0;
    for generation in 8..12 {
        let turn = machine.step(after(2_000), Input::Committed { generation });
        acknowledged += kinds(&turn).iter().filter(|kind| **kind == "acknowledge").count();
    }
    assert_eq!(acknowledged, RECEIPTS_MAX);
}

#[test]
fn a_receipt_that_comes_twice_is_acknowledged_once() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    machine.step(after(1_001), warned(1, after(900), 3));
    let turn = machine.step(after(1_020), Input::Committed { generation: 8 });
    assert_eq!(kinds(&turn), ["order", "acknowledge", "alert"]);
}

#[test]
fn an_autoscalers_count_is_followed_and_never_ordered() {
    let mut machine = calm(Target::FollowSpot);
    let mut grown = Observation { at: after(1_000), spot: service(14, 10, 1), ..Observation::default() };
    let turn = machine.step(after(1_500), Input::Observed(grown.clone()));
    let Some(Effect::Commit { state, .. }) = turn.effects.first() else {
        panic!("expected a commit: {turn:?}")
    };
    assert_eq!((state.target, state.split), (14, Split { spot: 14, on_demand: 4 }));
    let turn = machine.step(after(1_520), Input::Committed { generation: 8 });
    assert_eq!(kinds(&turn), ["order", "alert"]);
    assert_eq!(order(&turn).capacity, Capacity::OnDemand);
    grown.at = after(3_000);
    grown.spot.desired = 9;
    grown.on_demand.desired = 4;
    let turn = machine.step(after(3_500), Input::Observed(grown));
    assert!(
        matches!(turn.effects.first(), Some(Effect::Commit { state, .. }) if state.target == 9),
        "{turn:?}"
    );
}

#[test]
fn switch_remembers_the_autoscalers_count_while_only_a_probe_runs() {
    let rules = Rules::new(Policy::Switch(Switch::default()));
    let mut machine = Machine::new(rules, Target::FollowSpot, 1);
    let mut state = State::new(START, 10, Split { spot: 1, on_demand: 10 });
    state.generation = 7;
    machine.step(START, Input::Woke);
    machine.step(START, Input::Loaded(Some(Box::new(state))));
    let on_demand = service(10, 10, 101);
    let probing = Observation { at: after(10), spot: service(1, 1, 1), on_demand, is_deploying: false };
    machine.step(after(20), Input::Observed(probing));
    assert_eq!(machine.state().map(|state| state.target), Some(10));
}

#[test]
fn commits_carry_one_history_entry_per_change_and_none_for_counters() {
    let mut machine = calm(Target::Fixed(10));
    let turn = machine.step(after(1_000), warned(1, after(900), 3));
    let Some(Effect::Commit { history: Some(entry), .. }) = turn.effects.first() else { panic!("{turn:?}") };
    assert_eq!((entry.from, entry.to, entry.generation), (Phase::Spot, Phase::ShiftingToOnDemand, 8));
    machine.step(after(1_020), Input::Committed { generation: 8 });
    let turn =
        machine.step(after(1_030), told(2, after(1_010), Capacity::Spot, Happening::Ready { task: 77 }));
    assert!(matches!(turn.effects.first(), Some(Effect::Commit { history: None, .. })), "{turn:?}");
}

#[test]
fn a_state_survives_its_record() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    machine.step(after(1_020), Input::Committed { generation: 8 });
    let state = machine.state().expect("it is loaded");
    let text = serde_json::to_string(state).expect("a state is JSON");
    assert_eq!(&serde_json::from_str::<State>(&text).expect("and back"), state);
}

#[test]
fn what_is_lost_after_an_order_is_covered_before_the_next_look() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    machine.step(after(1_020), Input::Committed { generation: 8 });
    assert_eq!(kinds(&machine.step(after(1_500), warned(2, after(1_400), 4))), ["commit"]);
    let turn = machine.step(after(1_520), Input::Committed { generation: 9 });
    assert_eq!(kinds(&turn), ["order", "acknowledge"]);
    let order = order(&turn);
    assert_eq!((order.capacity, order.count, order.not_after), (Capacity::OnDemand, 2, after(31_520)));
}

#[test]
fn a_count_that_was_seen_higher_is_not_lowered_as_a_raise() {
    let mut machine = calm(Target::Fixed(10));
    // Somebody told On-Demand to run three; our order puts that right, its outcome is not seen yet.
    assert_eq!(kinds(&machine.step(after(5_000), look(after(4_000), 10, 3))), ["order"]);
    assert_eq!(kinds(&machine.step(after(5_100), warned(1, after(5_050), 4))), ["commit"]);
    assert_eq!(
        kinds(&machine.step(after(5_120), Input::Committed { generation: 8 })),
        ["acknowledge", "alert"]
    );
}

#[test]
fn a_refusal_is_remembered_with_its_time() {
    let mut machine = calm(Target::Fixed(10));
    let turn =
        machine.step(after(1_000), told(1, after(600), Capacity::Spot, Happening::Refused { event: 5 }));
    assert!(
        matches!(turn.effects.first(), Some(Effect::Commit { state, .. }) if state.refused_at == Some(after(600)))
    );
    machine.step(after(1_020), Input::Committed { generation: 8 });
    let turn = machine.step(after(1_100), told(2, after(700), Capacity::Spot, Happening::Ready { task: 5 }));
    assert!(
        matches!(turn.effects.first(), Some(Effect::Commit { state, .. }) if state.refused_at == Some(after(600)))
    );
}

#[test]
fn a_spot_count_that_somebody_changed_is_put_right_where_the_target_is_fixed() {
    let mut machine = calm(Target::Fixed(10));
    let changed = Observation { at: after(4_000), spot: service(8, 10, 1), ..Observation::default() };
    let turn = machine.step(after(5_000), Input::Observed(changed));
    assert_eq!(kinds(&turn), ["order"]);
    assert_eq!((order(&turn).capacity, order(&turn).count), (Capacity::Spot, 10));
}

/// A `switch` that follows the Spot count, in this phase with this split and a target of ten, looks at a fleet in
/// which Spot is told to run `desired` and ten On-Demand tasks are ready. Returns the target it then works with,
/// and the count that it orders for Spot.
fn follow(phase: Phase, split: Split, desired: u32) -> (u32, Option<u32>) {
    let mut machine = Machine::new(Rules::new(Policy::Switch(Switch::default())), Target::FollowSpot, 1);
    let mut state = State::new(START, 10, split);
    state.phase = phase;
    state.generation = 7;
    state.steady_at = Some(START);
    machine.step(START, Input::Woke);
    machine.step(START, Input::Loaded(Some(Box::new(state))));
    let ready = service(10, if split.on_demand == 0 { 0 } else { 10 }, 101);
    let on_demand = Service { desired: split.on_demand, ..ready };
    let spot = service(desired, u64::from(desired), 1);
    let mut turn = machine.step(
        after(20),
        Input::Observed(Observation { at: after(10), spot, on_demand, is_deploying: false }),
    );
    let mut target = machine.state().map_or(0, |state| state.target);
    if let Some(Effect::Commit { state, .. }) = turn.effects.first() {
        target = state.target;
        let generation = state.generation;
        turn = machine.step(after(30), Input::Committed { generation });
    }
    let ordered = turn.effects.iter().find_map(|effect| match effect {
        Effect::Order(order) if order.capacity == Capacity::Spot => Some(order.count),
        Effect::Order(_)
        | Effect::Load
        | Effect::Observe
        | Effect::Commit { .. }
        | Effect::Acknowledge(_)
        | Effect::Alert(_) => None,
    });
    (target, ordered)
}

#[test]
fn the_autoscalers_count_is_theirs_until_spot_is_lowered() {
    let split = |spot, on_demand| Split { spot, on_demand };
    assert_eq!(follow(Phase::Spot, split(10, 0), 13), (13, None));
    // A probe's count is ours, and is not mistaken for what is wanted.
    assert_eq!(follow(Phase::OnDemand, split(1, 10), 1), (10, None));
    assert_eq!(follow(Phase::OnDemand, split(1, 10), 4), (10, Some(1)));
    assert_eq!(follow(Phase::ShiftingToSpot, split(10, 10), 1), (10, Some(10)));
    // In the middle of a shift, the count that is only held is still theirs; one that was lowered is not.
    let (target, _) = follow(Phase::ShiftingToOnDemand, split(10, 10), 12);
    assert_eq!(target, 12);
    let (target, _) = follow(Phase::ShiftingToOnDemand, split(1, 10), 1);
    assert_eq!(target, 10);
}

#[test]
fn an_alert_whose_commit_is_in_doubt_waits_until_the_state_is_seen() {
    let mut machine = calm(Target::Fixed(10));
    let turn = machine.step(after(1_000), warned(1, after(900), 3));
    let Some(Effect::Commit { state, .. }) = turn.effects.first() else {
        panic!("expected a commit: {turn:?}")
    };
    let stored = state.clone();
    let wake = machine.step(after(1_100), Input::CommitFailed).wake_at;
    assert_eq!(kinds(&machine.step(wake, Input::Woke)), ["load"]);
    let mut other = machine.clone();
    let told = kinds(&machine.step(wake + Millis(10), Input::Loaded(Some(stored.clone()))));
    assert_eq!(told.first(), Some(&"alert"), "it was stored: {told:?}");
    // The state of somebody else, who tells of it.
    let theirs = Box::new(State { generation: stored.generation + 1, ..*stored });
    let told = kinds(&other.step(wake + Millis(10), Input::Loaded(Some(theirs))));
    assert!(!told.contains(&"alert"), "{told:?}");
}

#[test]
fn an_order_that_fails_again_and_again_is_given_less_and_less_often() {
    let mut machine = calm(Target::Fixed(10));
    machine.step(after(1_000), warned(1, after(900), 3));
    let mut now = after(1_100);
    assert_eq!(order(&machine.step(now, Input::Committed { generation: 8 })).count, 1);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let failed_at = now;
        let mut turn = machine.step(now, Input::OrderFailed);
        while !kinds(&turn).contains(&"observe") {
            now = turn.wake_at;
            turn = machine.step(now, Input::Woke);
        }
        waits.push(now.since(failed_at).0);
        assert_eq!(order(&machine.step(now, look(now, 10, 0))).count, 1, "it is given again");
    }
    assert!(waits[0] <= 4_000, "{waits:?}");
    assert!(waits[4..].iter().all(|wait| (7_500..=15_000).contains(wait)), "{waits:?}");
    let settled = machine.step(now, Input::Ordered).wake_at;
    assert_eq!(settled.since(now), Millis::from_secs(2), "one that succeeds is looked at soon");
    assert_eq!(machine.step(now, Input::OrderFailed).wake_at.since(now).0 / 4_001, 0, "and ends the row");
}

/// Its state was lost: a probe is all that the Spot service has.
#[test]
fn a_service_that_is_adopted_in_the_middle_of_a_failover_keeps_what_runs() {
    let mut machine = Machine::new(Rules::new(Policy::Switch(Switch::default())), Target::FollowSpot, 1);
    machine.step(START, Input::Woke);
    machine.step(START, Input::Loaded(None));
    let (spot, on_demand) = (service(1, 1, 1), service(10, 10, 101));
    let observation = Observation { at: after(1), spot, on_demand, is_deploying: false };
    let turn = machine.step(after(1), Input::Observed(observation));
    let Some(Effect::Commit { state, .. }) = turn.effects.first() else {
        panic!("expected a commit: {turn:?}")
    };
    assert_eq!((state.target, state.phase), (10, Phase::OnDemand));
}

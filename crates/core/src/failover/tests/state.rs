//! How one look moves phase and split: every phase, every way out, and the ways that stay shut.

use alloc::string::ToString;

use crate::failover::history;
use crate::failover::phase::Phase;
use crate::failover::policy::{Fallback, Policy, Shortfall, SpotHedge, Switch};
use crate::failover::reason::Reason;
use crate::failover::split::Split;
use crate::failover::stability::Outcome;
use crate::failover::state::{Rules, Seen, State};
use crate::failover::view::Counts;
use crate::failover::window::{Entry, Fact};
use crate::time::{Millis, Timestamp};

const START: Timestamp = Timestamp(10_000_000);

const SHORTFALL: Policy = Policy::Shortfall(Shortfall { spares: 0 });

fn after(seconds: u64) -> Timestamp {
    START + Millis::from_secs(seconds)
}

fn switch() -> Policy {
    Policy::Switch(Switch::default())
}

/// Ten wanted; Spot as (starting, ready, warned), On-Demand as (starting, ready), told to run what is there.
fn seen(spot: (u32, u32, u32), on_demand: (u32, u32)) -> Seen {
    let spot = Counts { starting: spot.0, ready: spot.1, warned: spot.2 };
    let on_demand = Counts { starting: on_demand.0, ready: on_demand.1, warned: 0 };
    let desired = Split { spot: spot.staying(), on_demand: on_demand.staying() };
    Seen { target: 10, spot, on_demand, cover: 0, oldest_pending: Millis::ZERO, desired, is_fresh: true }
}

fn state(phase: Phase, spot: u32, on_demand: u32) -> State {
    let mut state = State::new(START, 10, Split { spot, on_demand });
    state.phase = phase;
    state
}

/// Takes one look `seconds` after the phase began; returns phase, Spot and On-Demand.
fn look(policy: Policy, mut state: State, seconds: u64, seen: &Seen) -> (Phase, u32, u32) {
    state.advance(&Rules::new(policy), after(seconds), seen);
    (state.phase, state.split.spot, state.split.on_demand)
}

#[test]
fn shortfall_covers_exactly_what_is_missing() {
    use Phase::{OnDemand, ShiftingToOnDemand, Spot};
    let spot = || state(Spot, 10, 0);
    assert_eq!(look(SHORTFALL, spot(), 0, &seen((0, 10, 0), (0, 0))), (Spot, 10, 0));
    assert_eq!(look(SHORTFALL, spot(), 0, &seen((0, 8, 2), (0, 0))), (ShiftingToOnDemand, 10, 2));
    assert_eq!(look(SHORTFALL, spot(), 0, &seen((2, 8, 0), (0, 0))), (ShiftingToOnDemand, 10, 2));
    assert_eq!(look(SHORTFALL, spot(), 0, &seen((0, 0, 0), (0, 0))), (ShiftingToOnDemand, 10, 10));
    let shifting = || state(ShiftingToOnDemand, 10, 2);
    assert_eq!(look(SHORTFALL, shifting(), 5, &seen((2, 8, 0), (2, 0))), (ShiftingToOnDemand, 10, 2));
    assert_eq!(look(SHORTFALL, shifting(), 5, &seen((2, 8, 0), (1, 1))), (ShiftingToOnDemand, 10, 2));
    assert_eq!(look(SHORTFALL, shifting(), 5, &seen((2, 8, 0), (0, 2))), (OnDemand, 10, 2));
    assert_eq!(look(SHORTFALL, shifting(), 5, &seen((0, 10, 0), (2, 0))), (Spot, 10, 0));
    assert_eq!(
        look(SHORTFALL, state(OnDemand, 10, 2), 5, &seen((3, 7, 0), (0, 2))),
        (ShiftingToOnDemand, 10, 3)
    );
}

#[test]
fn tasks_that_will_be_ready_in_time_need_no_cover_from_on_demand() {
    let mut seen = seen((2, 8, 2), (0, 0));
    seen.cover = 2;
    assert_eq!(look(SHORTFALL, state(Phase::Spot, 10, 0), 0, &seen), (Phase::Spot, 10, 0));
    seen.cover = 1;
    assert_eq!(look(SHORTFALL, state(Phase::Spot, 10, 0), 0, &seen), (Phase::ShiftingToOnDemand, 10, 1));
}

#[test]
fn spares_are_asked_for_beyond_the_target_and_not_covered() {
    let policy = Policy::Shortfall(Shortfall { spares: 2 });
    assert_eq!(look(policy, state(Phase::Spot, 12, 0), 0, &seen((2, 10, 0), (0, 0))), (Phase::Spot, 12, 0));
}

#[test]
fn on_demand_is_given_up_step_by_step_and_only_for_ready_spot() {
    let on_demand = |count| state(Phase::OnDemand, 10, count);
    let step = |count, spot, od| look(SHORTFALL, on_demand(count), 100, &seen(spot, od)).2;
    assert_eq!(step(4, (2, 8, 0), (0, 4)), 2);
    assert_eq!(step(4, (4, 6, 0), (0, 4)), 4);
    assert_eq!(step(4, (0, 10, 0), (0, 4)), 0);
    // What is warned does not count, though it serves.
    assert_eq!(step(4, (0, 7, 3), (0, 4)), 3);
    // ECS may stop ready tasks and keep those that start: they are not needed and stay all the same.
    assert_eq!(step(4, (2, 8, 0), (1, 3)), 3);
    assert_eq!(step(4, (2, 8, 0), (2, 2)), 4);
    assert_eq!(step(4, (0, 10, 0), (4, 0)), 0);
    // What starts in time to replace a warned task needs no On-Demand task either.
    let covered = Seen { cover: 2, ..seen((2, 6, 2), (0, 4)) };
    assert_eq!(look(SHORTFALL, on_demand(4), 100, &covered).2, 2);
    // A task that ECS has not placed yet counts as one that may be kept.
    let mut unplaced = seen((2, 8, 0), (0, 3));
    unplaced.desired.on_demand = 4;
    assert_eq!(look(SHORTFALL, on_demand(4), 100, &unplaced).2, 3);
    // Whoever names the tasks that it stops keeps those that are needed.
    let rules = Rules { names_stops: true, ..Rules::new(SHORTFALL) };
    let mut named = on_demand(4);
    named.advance(&rules, after(100), &seen((2, 8, 0), (2, 2)));
    assert_eq!(named.split.on_demand, 2);
    // Somebody raised it beyond what is stored: the way down starts there.
    let mut raised = seen((4, 6, 0), (0, 6));
    raised.desired.on_demand = 6;
    assert_eq!(look(SHORTFALL, on_demand(4), 100, &raised).2, 4);
}

#[test]
fn on_demand_that_was_just_raised_stays_for_the_hold_time() {
    let lowered = |raised_at: Timestamp| {
        let mut state = state(Phase::OnDemand, 10, 4);
        state.raised_at = raised_at;
        look(SHORTFALL, state, 100, &seen((0, 10, 0), (0, 4))).2 == 0
    };
    assert!(lowered(after(40)), "60 s have passed");
    assert!(!lowered(after(41)));
    assert!(!lowered(after(100)));
    // Raised by a controller whose clock is ahead of ours.
    assert!(!lowered(after(101)));
    assert!(!lowered(after(159)));
    assert!(lowered(after(160)), "a time far ahead is a wrong one");
}

#[test]
fn an_old_look_starts_tasks_and_never_stops_any() {
    let old = |spot, on_demand| Seen { is_fresh: false, ..seen(spot, on_demand) };
    assert_eq!(look(SHORTFALL, state(Phase::OnDemand, 10, 4), 100, &old((0, 10, 0), (0, 4))).2, 4);
    assert_eq!(look(SHORTFALL, state(Phase::Spot, 10, 0), 100, &old((0, 8, 2), (0, 0))).2, 2);
    let mut spot = old((0, 10, 0), (0, 10));
    spot.desired.spot = 10;
    assert_eq!(look(switch(), state(Phase::OnDemand, 10, 10), 100, &spot).1, 10);
}

#[test]
fn a_shift_that_does_not_complete_ends_in_time_and_is_tried_again() {
    use Phase::{Degraded, OnDemand, ShiftingToOnDemand, Spot};
    for policy in [SHORTFALL, switch()] {
        let stuck = seen((2, 8, 0), (10, 0));
        let shift = |seconds| look(policy, state(ShiftingToOnDemand, 10, 10), seconds, &stuck);
        assert_eq!(shift(599).0, ShiftingToOnDemand);
        assert_eq!(shift(600), (Degraded, 10, 10), "nothing is given up");
        let degraded = |seconds, seen: &Seen| look(policy, state(Degraded, 10, 10), seconds, seen).0;
        assert_eq!(degraded(599, &stuck), Degraded);
        assert_eq!(degraded(600, &stuck), ShiftingToOnDemand);
        assert_eq!(degraded(5, &seen((2, 8, 0), (0, 10))), OnDemand);
        assert_eq!(degraded(5, &seen((0, 10, 0), (10, 0))), Spot);
    }
}

fn tripped(fact: Fact, count: u64, ago: u64) -> State {
    let mut state = state(Phase::Spot, 10, 0);
    for key in 0..count {
        let at = after(1_000 - ago);
        assert!(state.window.note(after(1_000), Millis::from_secs(300), Entry { at, fact, key }));
    }
    state
}

#[test]
fn switch_trips_at_its_thresholds_within_the_window() {
    use Phase::{ShiftingToOnDemand, Spot};
    let calm = seen((0, 10, 0), (0, 0));
    let phase = |fact, count, ago| look(switch(), tripped(fact, count, ago), 1_000, &calm).0;
    assert_eq!(phase(Fact::Refused, 2, 0), Spot);
    assert_eq!(phase(Fact::Refused, 3, 0), ShiftingToOnDemand);
    assert_eq!(phase(Fact::Interrupted, 4, 0), Spot);
    assert_eq!(phase(Fact::Interrupted, 5, 0), ShiftingToOnDemand);
    assert_eq!(phase(Fact::Interrupted, 5, 300), ShiftingToOnDemand);
    assert_eq!(phase(Fact::Ready, 50, 0), Spot);
    let mut late = tripped(Fact::Interrupted, 5, 200);
    assert!(late.advance(&Rules::new(switch()), after(1_100), &calm));
    assert_eq!(late.reason, Reason::Interruptions { count: 5, threshold: 5 });
    assert_eq!(look(switch(), tripped(Fact::Interrupted, 5, 200), 1_101, &calm).0, Spot);
}

#[test]
fn switch_trips_on_a_task_that_stays_pending() {
    let pending = |ms| Seen { oldest_pending: Millis(ms), ..seen((1, 9, 0), (0, 0)) };
    assert_eq!(look(switch(), state(Phase::Spot, 10, 0), 5, &pending(180_000)).0, Phase::Spot);
    assert_eq!(
        look(switch(), state(Phase::Spot, 10, 0), 5, &pending(180_001)),
        (Phase::ShiftingToOnDemand, 10, 10),
        "Spot stays until On-Demand is there"
    );
}

#[test]
fn switch_gives_spot_up_at_half_and_keeps_a_probe() {
    use Phase::{OnDemand, ShiftingToOnDemand};
    let shifting = || state(ShiftingToOnDemand, 10, 10);
    assert_eq!(look(switch(), shifting(), 5, &seen((5, 5, 0), (6, 4))), (ShiftingToOnDemand, 10, 10));
    assert_eq!(look(switch(), shifting(), 5, &seen((5, 5, 0), (5, 5))), (OnDemand, 1, 10));
    // Back to shifting when On-Demand itself dies, without giving up what Spot still runs.
    assert_eq!(
        look(switch(), state(OnDemand, 10, 10), 5, &seen((1, 9, 0), (8, 2))),
        (ShiftingToOnDemand, 10, 10)
    );
}

#[test]
fn a_smaller_target_stops_spot_only_down_to_the_floor() {
    let lowered = |ready| {
        let seen = Seen { target: 6, ..seen((10 - ready, ready, 0), (0, 0)) };
        look(switch(), state(Phase::Spot, 10, 0), 5, &seen).1
    };
    assert_eq!(lowered(6), 10, "ECS may stop four ready ones, and two of six are less than half");
    assert_eq!(lowered(7), 6);
}

#[test]
fn what_is_missing_while_on_demand_is_given_up_is_a_new_shift() {
    let returning = state(Phase::ShiftingToSpot, 10, 0);
    assert_eq!(look(SHORTFALL, returning, 5, &seen((0, 8, 2), (0, 0))), (Phase::ShiftingToOnDemand, 10, 2));
}

#[test]
fn on_demand_counts_as_raised_when_it_is_raised_and_not_when_it_is_lowered() {
    let rules = Rules::new(SHORTFALL);
    let mut state = state(Phase::Spot, 10, 0);
    state.advance(&rules, after(5), &seen((0, 8, 2), (0, 0)));
    assert_eq!(state.raised_at, after(5));
    state.advance(&rules, after(100), &seen((0, 10, 0), (0, 2)));
    assert_eq!((state.split.on_demand, state.raised_at), (0, after(5)));
}

#[test]
fn an_error_counts_against_one_sample_only() {
    let rules = Rules::new(switch());
    let mut state = state(Phase::OnDemand, 1, 10);
    for (at, fact) in [(45, true), (90, false)] {
        if fact {
            let entry = Entry { at: after(at), fact: Fact::Interrupted, key: 1 };
            assert!(state.window.note(after(at), rules.window, entry));
        }
        state.advance(&rules, after(at), &seen((0, 1, 0), (0, 10)));
    }
    let counts = state.samples.counts(after(90));
    assert_eq!((counts.taken, counts.bad), (2, 1));
}

/// Samples every 45 s until `until` seconds; the probe is ready where `good` says so. Returns the phase.
fn probe(until: u64, good: impl Fn(u64) -> bool) -> Phase {
    let mut state = state(Phase::OnDemand, 1, 10);
    let rules = Rules::new(switch());
    let mut at = 0;
    while at <= until && state.phase == Phase::OnDemand {
        let spot = if good(at) { (0, 1, 0) } else { (1, 0, 0) };
        state.advance(&rules, after(at), &seen(spot, (0, 10)));
        at += 15;
    }
    state.phase
}

#[test]
fn switch_returns_after_the_stable_window_and_not_before() {
    assert_eq!(probe(630, |_| true), Phase::OnDemand);
    assert_eq!(probe(660, |_| true), Phase::ShiftingToSpot);
    assert_eq!(probe(5_000, |_| false), Phase::OnDemand);
    assert_eq!(probe(5_000, |at| at % 300 < 180), Phase::OnDemand, "eight of ten must be good");
    assert_eq!(probe(2_000, |at| at > 400), Phase::ShiftingToSpot);
}

#[test]
fn a_return_and_a_turn_back_are_explained_by_what_led_to_them() {
    let rules = Rules::new(switch());
    let mut state = state(Phase::OnDemand, 1, 10);
    let (mut at, mut before) = (0, state.clone());
    while state.phase == Phase::OnDemand {
        before = state.clone();
        state.advance(&rules, after(at), &seen((0, 1, 0), (0, 10)));
        at += 15;
        assert!(at < 10_000, "it never returned");
    }
    let told = history::entry(after(at), &before, &state).expect("a change");
    assert_eq!((told.from, told.to, told.split.spot), (Phase::OnDemand, Phase::ShiftingToSpot, 10));
    assert!(
        matches!(told.reason, Reason::SpotStable { taken, good } if taken >= 10 && good == taken),
        "{told:?}"
    );
    state.advance(&rules, state.since + rules.shift_max, &seen((1, 9, 0), (0, 10)));
    assert_eq!((state.phase, state.split.spot), (Phase::OnDemand, 1));
    assert_eq!(state.reason, Reason::ReturnTimedOut { ready: 9, wanted: 10 });
    // All at once, where the probe is all that is wanted.
    let mut small = State { phase: Phase::OnDemand, ..State::new(START, 1, Split { spot: 1, on_demand: 1 }) };
    let mut at = 0;
    while small.phase == Phase::OnDemand {
        small.advance(&rules, after(at), &Seen { target: 1, ..seen((0, 1, 0), (0, 1)) });
        at += 15;
        assert!(at < 10_000, "it never returned");
    }
    assert_eq!(small.phase, Phase::Spot);
    assert!(matches!(small.reason, Reason::SpotStable { .. }), "{:?}", small.reason);
}

#[test]
fn an_interrupted_probe_puts_the_return_off() {
    let rules = Rules::new(switch());
    let mut state = state(Phase::OnDemand, 1, 10);
    let mut at = 0;
    while state.phase == Phase::OnDemand {
        if at == 300 {
            let entry = Entry { at: after(300), fact: Fact::Interrupted, key: 1 };
            assert!(state.window.note(after(300), rules.window, entry));
        }
        state.advance(&rules, after(at), &seen((0, 1, 0), (0, 10)));
        at += 15;
        assert!(at < 10_000, "it never returned");
    }
    // The bad sample leaves the last fifteen only after fifteen more.
    assert!((900..1_100).contains(&at), "returned after {at} s");
}

#[test]
fn without_probes_switch_never_returns_and_without_samples_it_does() {
    let policy = |returns_blind| Policy::Switch(Switch { probes: 0, returns_blind, ..Switch::default() });
    let on_demand = || state(Phase::OnDemand, 0, 10);
    let empty = seen((0, 0, 0), (0, 10));
    assert_eq!(look(policy(false), on_demand(), 100_000, &empty).0, Phase::OnDemand);
    assert_eq!(look(policy(true), on_demand(), 599, &empty).0, Phase::OnDemand);
    assert_eq!(look(policy(true), on_demand(), 600, &empty).0, Phase::ShiftingToSpot);
}

#[test]
fn a_return_waits_for_all_of_spot_and_turns_back_in_time() {
    use Phase::{OnDemand, ShiftingToSpot, Spot};
    let returning = || state(ShiftingToSpot, 10, 10);
    let look = |seconds, seen: &Seen| look(switch(), returning(), seconds, seen);
    assert_eq!(look(5, &seen((1, 9, 0), (0, 10))), (ShiftingToSpot, 10, 10));
    assert_eq!(look(5, &seen((0, 10, 0), (0, 10))), (Spot, 10, 0));
    assert_eq!(look(599, &seen((1, 9, 0), (0, 10))), (ShiftingToSpot, 10, 10));
    assert_eq!(look(600, &seen((1, 9, 0), (0, 10))), (OnDemand, 1, 10));
    assert_eq!(look(600, &seen((0, 10, 0), (0, 10))), (Spot, 10, 0));
    // Slow starts alone turn nothing back: that is what the time-out is for.
    let slow = Seen { oldest_pending: Millis::from_secs(300), ..seen((1, 9, 0), (0, 10)) };
    assert_eq!(look(300, &slow), (ShiftingToSpot, 10, 10));
}

#[test]
fn what_tripped_one_shift_does_not_trip_the_next() {
    let rules = Rules::new(switch());
    let mut state = tripped(Fact::Interrupted, 5, 0);
    let calm = seen((0, 10, 0), (0, 10));
    state.advance(&rules, after(1_000), &calm);
    assert_eq!(state.phase, Phase::OnDemand);
    state.phase = Phase::Spot;
    state.advance(&rules, after(1_010), &calm);
    assert_eq!(state.phase, Phase::Spot);
    // The facts themselves are still known, so that the same event told again is no news.
    let again = Entry { at: after(1_000), fact: Fact::Interrupted, key: 0 };
    assert!(!state.window.note(after(1_020), rules.window, again));
}

#[test]
fn peers_do_what_they_publish_at_once() {
    let hedge = |covers_spares, heeds_notices| {
        Policy::SpotHedge(SpotHedge { spares: 1, covers_spares, heeds_notices })
    };
    let split = |policy, spot, on_demand| {
        let (_, spot, on_demand) = look(policy, state(Phase::OnDemand, 10, 10), 5, &seen(spot, on_demand));
        (spot, on_demand)
    };
    assert_eq!(split(Policy::AllOnDemand, (0, 10, 0), (0, 10)), (0, 10));
    assert_eq!(split(Policy::PureSpot, (0, 3, 0), (0, 10)), (10, 0));
    assert_eq!(split(Policy::FixedBase { base: 3 }, (0, 3, 0), (0, 10)), (7, 3));
    assert_eq!(split(Policy::FixedBase { base: 30 }, (0, 3, 0), (0, 10)), (0, 10));
    assert_eq!(split(hedge(false, false), (0, 8, 2), (0, 10)), (11, 0));
    assert_eq!(split(hedge(false, true), (0, 8, 2), (0, 10)), (11, 2));
    assert_eq!(split(hedge(true, false), (0, 10, 0), (0, 10)), (11, 1));
    assert_eq!(split(hedge(true, false), (0, 0, 0), (0, 10)), (11, 10));
    assert_eq!(split(Policy::Fallback(Fallback {}), (0, 10, 0), (0, 10)), (10, 0));
    let mut refused = state(Phase::Spot, 10, 0);
    refused.refused_at = Some(START);
    assert_eq!(look(Policy::Fallback(Fallback {}), refused, 5, &seen((0, 9, 0), (0, 0))).2, 10);
}

#[test]
fn a_look_that_changes_nothing_is_no_change() {
    for policy in [SHORTFALL, switch()] {
        let rules = Rules::new(policy);
        let mut state = state(Phase::Spot, 10, 0);
        let calm = seen((0, 10, 0), (0, 0));
        state.advance(&rules, after(1), &calm);
        let before = state.clone();
        assert!(!state.advance(&rules, after(2), &calm));
        assert_eq!(state, before);
    }
}

#[test]
fn it_wakes_when_a_phase_a_hold_or_a_sample_ends() {
    let rules = Rules::new(switch());
    let wake = |state: State, seconds| state.wake_at(&rules, after(seconds)).map(|at| at.since(START));
    assert_eq!(wake(state(Phase::Spot, 10, 0), 5), None);
    assert_eq!(wake(state(Phase::ShiftingToOnDemand, 10, 10), 5), Some(Millis::from_secs(600)));
    assert_eq!(wake(state(Phase::ShiftingToSpot, 10, 10), 5), Some(Millis::from_secs(600)));
    assert_eq!(wake(state(Phase::Degraded, 10, 10), 5), Some(Millis::from_secs(600)));
    assert_eq!(wake(state(Phase::OnDemand, 1, 10), 5), Some(Millis::from_secs(45)));
    let mut held = state(Phase::OnDemand, 0, 10);
    held.raised_at = START;
    assert_eq!(wake(held.clone(), 25), Some(Millis::from_secs(60)));
    assert_eq!(wake(held.clone(), 60), Some(Millis::from_secs(105)));
    assert_eq!(held.wake_at(&Rules::new(SHORTFALL), after(60)), None);
    let mut given_up = state(Phase::Spot, 10, 0);
    given_up.raised_at = START;
    assert_eq!(wake(given_up, 25), None, "there is nothing left to hold");
    assert_eq!(wake(state(Phase::ShiftingToOnDemand, 10, 10), 600), None, "that moment is this look");
}

#[test]
fn old_samples_say_nothing_about_the_next_return() {
    use crate::failover::stability::Outcome;
    let mut state = state(Phase::ShiftingToOnDemand, 1, 10);
    for sample in 0..15 {
        state.samples.take(after(sample * 45), Outcome::Good);
    }
    let rules = Rules::new(switch());
    state.advance(&rules, after(700), &seen((0, 1, 0), (0, 10)));
    assert_eq!((state.phase, state.samples.counts(after(700)).taken), (Phase::OnDemand, 0));
}

#[test]
fn a_refusal_counts_until_spot_is_whole_again() {
    let rules = Rules::new(Policy::Fallback(Fallback {}));
    let mut state = state(Phase::Spot, 10, 0);
    let on_demand = |state: &mut State, seconds, spot| {
        state.advance(&rules, after(seconds), &seen(spot, (0, 0)));
        state.split.on_demand
    };
    state.refused_at = Some(after(5));
    assert_eq!(on_demand(&mut state, 6, (1, 9, 0)), 10);
    assert_eq!(on_demand(&mut state, 7, (0, 10, 0)), 0);
    assert_eq!(state.steady_at, Some(after(7)));
    assert_eq!(on_demand(&mut state, 8, (1, 9, 0)), 0, "nothing was refused since");
    state.refused_at = Some(after(9));
    assert_eq!(on_demand(&mut state, 10, (1, 9, 0)), 10);
    assert_eq!(on_demand(&mut state, 11, (0, 10, 0)), 0);
    // Steady all along is not worth a commit each time.
    let before = state.clone();
    assert!(!state.advance(&rules, after(12), &seen((0, 10, 0), (0, 0))));
    assert_eq!(state, before);
}

#[test]
fn a_shift_that_is_complete_says_so_where_what_began_it_has_left_the_window() {
    for phase in [Phase::ShiftingToOnDemand, Phase::Degraded] {
        let before = state(phase, 10, 10);
        let mut after_it = before.clone();
        after_it.advance(&Rules::new(switch()), after(400), &seen((2, 5, 0), (4, 6)));
        assert_eq!(after_it.phase, Phase::OnDemand);
        let entry = history::entry(after(400), &before, &after_it).expect("a change");
        assert_eq!(entry.reason, Reason::OnDemandReady { ready: 6, wanted: 10 });
        assert_eq!(entry.reason.to_string(), "6 of 10 on-demand tasks are ready");
    }
}

/// Both time-outs are over at once, and the phases chase each other: what is missing is asked for all the same.
#[test]
fn phases_that_chase_each_other_hold_no_capacity_back() {
    let rules = Rules { shift_max: Millis::ZERO, degraded_max: Millis::ZERO, ..Rules::new(SHORTFALL) };
    let mut state = state(Phase::Spot, 10, 0);
    assert!(state.advance(&rules, after(0), &seen((0, 8, 2), (0, 0))));
    assert_eq!((state.split.spot, state.split.on_demand), (10, 2));
}

/// The samples that are kept spanned ten and a half minutes, whatever was asked for.
#[test]
fn a_long_stable_window_is_waited_for_and_then_over() {
    let stable = Millis::from_secs(3_600);
    let rules = Rules::new(Policy::Switch(Switch { stable, ..Switch::default() }));
    let mut state = state(Phase::OnDemand, 1, 10);
    let returned = (0..500).map(|look| look * 10).find(|at| {
        state.advance(&rules, after(*at), &seen((0, 1, 0), (0, 10)));
        state.phase == Phase::ShiftingToSpot
    });
    let returned = returned.expect("Spot has been good all along");
    assert!((3_600..4_200).contains(&returned), "{returned}");
    assert_eq!(Rules::new(switch()).sample_every, Millis::from_secs(45), "source B's ten minutes");
}

#[test]
fn no_count_of_tasks_is_too_large_to_decide_on() {
    let most = u32::MAX;
    let spared = Policy::Shortfall(Shortfall { spares: most });
    let hedge = SpotHedge { spares: most, covers_spares: true, heeds_notices: true };
    for policy in [spared, switch(), Policy::SpotHedge(hedge)] {
        let mut large = seen((0, most / 2, 0), (0, most / 4));
        large.target = most;
        let (phase, _, on_demand) = look(policy, state(Phase::OnDemand, most, most / 2), 5, &large);
        // More than 42 million tasks, times a hundred, are more than 32 bits.
        assert_ne!(phase, Phase::OnDemand, "{policy:?}: {on_demand} are not ready");
        assert!(on_demand >= most / 2, "{policy:?} asks for {on_demand}");
    }
}

#[test]
fn what_a_wrong_clock_stored_is_taken_for_now() {
    let year = 366 * 86_400;
    let mut healed = state(Phase::OnDemand, 1, 10);
    let mut early = healed.clone();
    for state in [&mut healed, &mut early] {
        let at = after(year);
        state.since = at;
        state.counted_from = at;
        state.raised_at = at;
        state.refused_at = Some(at);
        state.window.note(at, Millis::from_secs(300), Entry { at, fact: Fact::Refused, key: 1 });
        state.samples.take(at, Outcome::Good);
    }
    healed.heal(after(10));
    assert_eq!((healed.since, healed.counted_from, healed.raised_at), (after(10), after(10), after(10)));
    assert_eq!((healed.refused_at, healed.samples.last()), (Some(after(10)), None));
    let rules = Rules::new(switch());
    let returns = |state: &mut State| {
        (0..200).any(|look| {
            state.advance(&rules, after(10 + look * 10), &seen((0, 1, 0), (0, 10)));
            state.phase == Phase::ShiftingToSpot
        })
    };
    assert!(returns(&mut healed), "in half an hour, not in a year");
    assert!(!returns(&mut early), "what it is mended for");
    // Clocks that agree as well as clocks do are left alone.
    let mut near = state(Phase::Spot, 10, 0);
    near.since = after(60);
    near.samples.take(after(60), Outcome::Good);
    near.heal(after(0));
    assert_eq!((near.since, near.samples.last()), (after(60), Some(after(60))));
}

#[test]
fn spot_is_steady_where_it_has_what_it_is_told_and_what_is_wanted() {
    let rules = Rules::new(switch());
    let mut probed = state(Phase::OnDemand, 1, 10);
    probed.advance(&rules, after(5), &seen((0, 1, 0), (0, 10)));
    assert_eq!(probed.steady_at, None, "a probe is all that it is told");
    let mut calm = state(Phase::Spot, 10, 0);
    calm.steady_at = Some(after(5));
    calm.refused_at = Some(after(5));
    calm.advance(&rules, after(7), &seen((0, 10, 0), (0, 0)));
    assert_eq!(calm.steady_at, Some(after(5)), "nothing was refused since");
    calm.refused_at = Some(after(6));
    calm.advance(&rules, after(8), &seen((0, 10, 0), (0, 0)));
    assert_eq!(calm.steady_at, Some(after(8)));
}

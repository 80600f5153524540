//! Each promise is seen to be broken where it is.

use lifeboat_core::failover::event::Happening;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::failover::policy::Shortfall;
use lifeboat_core::failover::reason::Reason;
use lifeboat_core::failover::split::Split;
use lifeboat_core::failover::window::{self, Fact};

use super::*;

fn entry(second: i64, generation: u64, from: Phase, to: Phase, on_demand: u32) -> Entry {
    let split = Split { spot: 10, on_demand };
    Entry { at: Timestamp(second * 1_000), generation, from, to, split, target: 10, reason: Reason::Fixed }
}

fn figures(spot: (u32, u32), on_demand: (u32, u32)) -> Figures {
    Figures {
        at: Timestamp(0),
        spot_serving: spot.0,
        on_demand_serving: on_demand.0,
        spot_desired: spot.1,
        on_demand_desired: on_demand.1,
    }
}

const NOTHING: Recorded<'_> = Recorded {
    rules: &Rules::new(Policy::Shortfall(Shortfall { spares: 0 })),
    target: 10,
    history: &[],
    states: &[],
    messages: &[],
    figures: &[],
    good_from: Timestamp(100_000_000),
    end: Timestamp(100_000_000),
    lag: Millis::ZERO,
    patience: Millis::ZERO,
};

fn broken_by(recorded: &Recorded<'_>) -> Vec<Promise> {
    check_recorded(recorded).into_iter().map(|violation| violation.promise).collect()
}

fn broken(policy: Policy, history: &[Entry], figures: &[Figures]) -> Vec<Promise> {
    broken_by(&Recorded { rules: &Rules::new(policy), history, figures, ..NOTHING })
}

fn second(second: i64) -> Timestamp {
    Timestamp(second * 1_000)
}

/// The state of this generation, with so many On-Demand tasks and these facts.
fn stored(at: i64, generation: u64, on_demand: u32, facts: &[(Fact, u64)]) -> Stored {
    let mut state = State::new(second(0), 10, Split { spot: 10, on_demand });
    (state.generation, state.phase) = (generation, Phase::Spot);
    for (fact, key) in facts {
        let entry = window::Entry { at: second(at), fact: *fact, key: *key };
        assert!(state.window.note(second(at), Millis::from_secs(300), entry));
    }
    Stored { at: second(at), state }
}

fn told(capacity: Capacity, what: Happening, deleted: Option<i64>) -> Message {
    let event = Event { at: second(10), capacity, what };
    Message { event, version: None, deleted_at: deleted.map(second) }
}

#[test]
fn each_promise_is_seen_to_be_broken() {
    use Phase::{OnDemand, ShiftingToOnDemand, ShiftingToSpot, Spot};
    let shortfall = Policy::Shortfall(Shortfall::default());
    let switch = Policy::Switch(Switch::default());
    let good = [
        entry(0, 1, Spot, ShiftingToOnDemand, 3),
        entry(100, 2, ShiftingToOnDemand, OnDemand, 3),
        entry(900, 3, OnDemand, ShiftingToSpot, 3),
        entry(1_000, 4, ShiftingToSpot, Spot, 0),
    ];
    assert_eq!(broken(shortfall, &good, &[]), []);
    assert_eq!(broken(switch, &good, &[]), []);
    let forgot = [good[0], good[2]];
    assert!(broken(shortfall, &forgot, &[]).contains(&Promise::History));
    let early = [good[0], entry(30, 2, ShiftingToOnDemand, Spot, 0)];
    assert_eq!(broken(shortfall, &early, &[]), [Promise::Hold]);
    let unstable = [good[0], good[1], entry(400, 3, OnDemand, ShiftingToSpot, 3), good[3]];
    assert_eq!(broken(switch, &unstable, &[]), [Promise::Hold]);
    assert_eq!(broken(shortfall, &good[..1], &[]), [Promise::PhaseTimeout], "it never left");
    let stopped = [figures((10, 10), (0, 5)), figures((0, 1), (3, 5))];
    assert_eq!(broken(switch, &[], &stopped), [Promise::Floor]);
    let waited = [figures((10, 10), (5, 10)), figures((1, 1), (5, 10))];
    assert_eq!(broken(switch, &[], &waited), []);
    let returned = [figures((8, 10), (10, 10)), figures((8, 10), (0, 0))];
    assert_eq!(broken(switch, &[], &returned), [Promise::Floor]);
}

#[test]
fn what_was_deleted_must_have_been_stored_before() {
    let warned = |key| Happening::Warned { task: key };
    let states = [stored(0, 0, 0, &[]), stored(20, 1, 0, &[(Fact::Interrupted, 7)])];
    let broken = |messages: &[Message]| broken_by(&Recorded { states: &states, messages, ..NOTHING });
    assert_eq!(broken(&[told(Capacity::Spot, warned(7), Some(20))]), []);
    assert_eq!(broken(&[told(Capacity::Spot, warned(7), Some(19))]), [Promise::Acknowledged], "too early");
    let other = told(Capacity::Spot, warned(8), Some(30));
    assert_eq!(broken(&[told(Capacity::Spot, warned(7), None), other]), [Promise::Acknowledged], "forgotten");
    let waits = Message { deleted_at: None, ..other };
    let old = Message { deleted_at: Some(second(310)), ..other };
    let theirs = told(Capacity::OnDemand, warned(8), Some(30));
    for fine in [waits, old, theirs] {
        assert_eq!(broken(&[told(Capacity::Spot, warned(7), Some(20)), fine]), [], "{fine:?}");
    }
    // A RUNNING that came after its STOPPED is dropped; a notice never is.
    let late =
        |what, version| Message { version: Some((9, version)), ..told(Capacity::Spot, what, Some(30)) };
    let stopped = late(Happening::Stopped { task: 9, is_interruption: false }, 5);
    let first = told(Capacity::Spot, warned(7), Some(20));
    assert_eq!(broken(&[first, stopped, late(Happening::Ready { task: 9 }, 4)]), []);
    assert_eq!(broken(&[first, stopped, late(warned(9), 4)]), [Promise::Acknowledged]);
}

#[test]
fn what_is_stored_must_have_been_told_of_spot() {
    let states = [stored(20, 1, 0, &[(Fact::Refused, 7)])];
    let broken = |capacity| {
        let messages = [told(capacity, Happening::Refused { event: 7 }, None)];
        broken_by(&Recorded { states: &states, messages: &messages, ..NOTHING })
    };
    assert_eq!(broken(Capacity::Spot), []);
    assert_eq!(broken(Capacity::OnDemand), [Promise::SpotOnly]);
}

#[test]
fn a_state_that_is_forgotten_or_has_another_entry_is_seen() {
    let states = [stored(0, 0, 0, &[]), stored(20, 1, 3, &[])];
    let kept = history::entry(second(19), &states[0].state, &states[1].state).expect("a change");
    let figures = [Figures { at: second(20), ..figures((10, 10), (3, 3)) }];
    let recorded = Recorded { states: &states, figures: &figures, ..NOTHING };
    assert_eq!(broken_by(&Recorded { history: &[kept], ..recorded }), []);
    assert_eq!(broken_by(&recorded), [Promise::History], "there is no entry");
    let other = Entry { target: 11, ..kept };
    assert_eq!(broken_by(&Recorded { history: &[other], ..recorded }), [Promise::History]);
    let states = [states[0].clone(), stored(20, 2, 0, &[])];
    assert_eq!(broken_by(&Recorded { states: &states, ..recorded }), [Promise::History, Promise::Settled]);
}

#[test]
fn ecs_that_is_told_otherwise_for_long_is_seen() {
    let states = [stored(0, 0, 0, &[])];
    let at = |second_at, desired| Figures { at: second(second_at), ..figures((10, 10), (0, desired)) };
    let broken = |figures: &[Figures], end| {
        let good_from = second(end);
        broken_by(&Recorded { states: &states, figures, good_from, end: second(end), ..NOTHING })
    };
    assert_eq!(broken(&[at(0, 0), at(100, 3), at(400, 0)], 10_000), [], "within 300 s");
    assert_eq!(broken(&[at(0, 0), at(100, 3), at(401, 0)], 10_000), [Promise::Settled]);
    assert_eq!(broken(&[at(0, 0), at(100, 3)], 401), [Promise::Settled], "up to the end");
    let paused = [Stored { state: State { is_paused: true, ..states[0].state.clone() }, ..states[0] }];
    let figures = [at(0, 3)];
    assert_eq!(broken_by(&Recorded { states: &paused, figures: &figures, ..NOTHING }), []);
}

#[test]
fn a_service_that_does_not_return_is_seen() {
    let at =
        |second_at, spot, desired| Figures { at: second(second_at), ..figures((spot, 10), (0, desired)) };
    let broken = |figures: &[Figures]| broken_by(&Recorded { figures, good_from: second(1_000), ..NOTHING });
    assert_eq!(broken(&[at(0, 10, 0)]), [], "it never left");
    assert_eq!(broken(&[at(0, 3, 7), at(5_800, 10, 0)]), []);
    assert_eq!(broken(&[at(0, 3, 7), at(5_801, 10, 0)]), [Promise::Returned]);
    assert_eq!(broken(&[at(0, 10, 7)]), [Promise::Returned], "On-Demand is still asked for");
}

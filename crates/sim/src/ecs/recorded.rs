//! The promises of `check`, for what a real controller left behind: its history, and what an ECS showed meanwhile.
//!
//! A world that is simulated whole is judged from inside, at each commit and each order. Here only the record is there,
//! so each promise is held against what the record can show.

use lifeboat_core::failover::history::Entry;
use lifeboat_core::failover::phase::Phase;
use lifeboat_core::failover::policy::{Policy, Switch};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};

use super::check::{PHASE_SLACK, Promise, Violation};

/// What ECS showed of a pair from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Since when, on the clock of the history.
    pub at: Timestamp,
    /// Spot tasks that serve, warned ones too.
    pub spot_serving: u32,
    /// On-Demand tasks that serve.
    pub on_demand_serving: u32,
    /// Spot's desired count.
    pub spot_desired: u32,
    /// On-Demand's desired count.
    pub on_demand_desired: u32,
}

/// What is left of a run.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// What the controller went by.
    pub rules: &'a Rules,
    /// How many tasks were wanted.
    pub target: u32,
    /// Its history, oldest first.
    pub history: &'a [Entry],
    /// What ECS showed, oldest first.
    pub figures: &'a [Figures],
    /// When it ended.
    pub end: Timestamp,
    /// How far the clocks may be apart, and how late an order may land.
    pub lag: Millis,
}

/// Every promise that the record breaks.
#[must_use]
pub fn check_recorded(recorded: &Recorded<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    check_history(recorded, &mut found);
    check_hold(recorded, &mut found);
    check_phases(recorded, &mut found);
    check_floor(recorded, &mut found);
    found
}

fn violation(at: Timestamp, promise: Promise, detail: String) -> Violation {
    Violation { at, service: 0, promise, detail }
}

/// One line of facts: each begins where the last ended, generations rise.
fn check_history(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    for pair in recorded.history.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if before.to != after.from || before.generation >= after.generation {
            let detail = format!(
                "generation {} ends in {}, generation {} begins in {}",
                before.generation, before.to, after.generation, after.from
            );
            found.push(violation(after.at, Promise::History, detail));
        }
    }
}

/// On-Demand that was raised stays for the hold time, and `switch` returns only after its stable window.
fn check_hold(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    let (mut raised_at, mut on_demand_since) = (Timestamp(i64::MIN / 2), Timestamp(i64::MIN / 2));
    let mut before = 0;
    for entry in recorded.history {
        if entry.split.on_demand > before {
            raised_at = entry.at;
        }
        let held = entry.at.since(raised_at) + recorded.lag;
        if entry.split.on_demand < before && held < recorded.rules.hold {
            let detail = format!("On-Demand was lowered {held} after it was raised");
            found.push(violation(entry.at, Promise::Hold, detail));
        }
        before = entry.split.on_demand;
        let asked = matches!(entry.reason, lifeboat_core::failover::reason::Reason::Asked { .. });
        let returns = (entry.from, entry.to) == (Phase::OnDemand, Phase::ShiftingToSpot);
        let stayed = entry.at.since(on_demand_since) + recorded.lag;
        if let (Policy::Switch(switch), true, false) = (recorded.rules.policy, returns, asked)
            && stayed < switch.stable
        {
            found.push(violation(entry.at, Promise::Hold, format!("it returned after {stayed}")));
        }
        if entry.to == Phase::OnDemand && entry.from != Phase::OnDemand {
            on_demand_since = entry.at;
        }
    }
}

/// Every phase leaves within its time-out.
fn check_phases(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    let rules = recorded.rules;
    let changes = recorded.history.iter().filter(|entry| entry.from != entry.to);
    let changes: Vec<(Phase, Timestamp)> = changes.map(|entry| (entry.to, entry.at)).collect();
    let ends = changes.iter().skip(1).map(|(_, at)| *at).chain([recorded.end]);
    for ((phase, since), until) in changes.iter().zip(ends) {
        let limit = match phase {
            Phase::ShiftingToOnDemand | Phase::ShiftingToSpot => rules.shift_max,
            Phase::Degraded => rules.degraded_max,
            Phase::Spot | Phase::OnDemand => continue,
        };
        let lasted = until.since(*since);
        if lasted > limit + PHASE_SLACK {
            found.push(violation(until, Promise::PhaseTimeout, format!("{phase} lasted {lasted}")));
        }
    }
}

/// When a desired count was lowered, enough was serving without the tasks that this could stop.
fn check_floor(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    for pair in recorded.figures.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let spot_lowered = after.spot_desired < before.spot_desired;
        let on_demand_lowered = after.on_demand_desired < before.on_demand_desired;
        if !spot_lowered && !on_demand_lowered {
            continue;
        }
        let percent = match recorded.rules.policy {
            Policy::Switch(_) if spot_lowered => Switch::default().floor_percent,
            _ => 100,
        };
        let floor = (recorded.target * percent).div_ceil(100);
        // What AWS took in the same moment is nobody's action.
        let had = before.spot_serving + before.on_demand_serving;
        let has = after.spot_serving + after.on_demand_serving;
        if has < floor.min(had) {
            let detail = format!("{before:?} became {after:?}, the floor is {floor}");
            found.push(violation(after.at, Promise::Floor, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_core::failover::policy::Shortfall;
    use lifeboat_core::failover::reason::Reason;
    use lifeboat_core::failover::split::Split;

    use super::*;

    fn entry(second: i64, generation: u64, from: Phase, to: Phase, on_demand: u32) -> Entry {
        let split = Split { spot: 10, on_demand };
        Entry {
            at: Timestamp(second * 1_000),
            generation,
            from,
            to,
            split,
            target: 10,
            reason: Reason::Fixed,
        }
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

    fn broken(policy: Policy, history: &[Entry], figures: &[Figures]) -> Vec<Promise> {
        let rules = Rules::new(policy);
        let end = Timestamp(100_000_000);
        let recorded = Recorded { rules: &rules, target: 10, history, figures, end, lag: Millis::ZERO };
        check_recorded(&recorded).into_iter().map(|violation| violation.promise).collect()
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
}

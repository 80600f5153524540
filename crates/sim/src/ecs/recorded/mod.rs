//! The promises of `check`, for what a real controller left behind: its history, every state that it stored, what
//! its queue held and lost, and what an ECS showed meanwhile.
//!
//! A world that is simulated whole is judged from inside, at each commit and each order. Here only the record is there,
//! so each promise is held against what the record can show.

mod told;

use lifeboat_core::failover::history::Entry;
use lifeboat_core::failover::phase::Phase;
use lifeboat_core::failover::policy::{Policy, Switch};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};

use super::check::{PHASE_SLACK, Promise, RETURNS, SETTLES, Violation};
use lifeboat_core::failover::event::Event;
use lifeboat_core::failover::history;
use lifeboat_core::failover::state::State;

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

/// A message of the queue that told of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it told; its own time on the clock of the history.
    pub event: Event,
    /// The task's key and the version of the task, which rises with each of its changes.
    pub version: Option<(u64, u64)>,
    /// When it was deleted, on the clock of the history; none where it was not.
    pub deleted_at: Option<Timestamp>,
}

/// A state that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// When, on the clock of the history.
    pub at: Timestamp,
    /// All of it.
    pub state: State,
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
    /// Every state that was stored, oldest first.
    pub states: &'a [Stored],
    /// Every message that reached the queue and told of the pair.
    pub messages: &'a [Message],
    /// What ECS showed, oldest first.
    pub figures: &'a [Figures],
    /// Since when Spot has had room for everybody, and nothing was taken.
    pub good_from: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// How far the clocks may be apart, and how late an order may land.
    pub lag: Millis,
    /// How much longer than in a simulated world an order and a return may take: processes that are killed and started
    /// on a busy machine.
    pub patience: Millis,
}

/// Every promise that the record breaks.
#[must_use]
pub fn check_recorded(recorded: &Recorded<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    check_history(recorded, &mut found);
    check_hold(recorded, &mut found);
    check_phases(recorded, &mut found);
    check_floor(recorded, &mut found);
    check_states(recorded, &mut found);
    check_settled(recorded, &mut found);
    check_returned(recorded, &mut found);
    told::check(recorded, &mut found);
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

/// State and history agree: generations follow each other, none is forgotten, and each has the entry that its change
/// makes.
fn check_states(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    for pair in recorded.states.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.state.generation != before.state.generation + 1 {
            let detail = format!("generation {} after {}", after.state.generation, before.state.generation);
            found.push(violation(after.at, Promise::History, detail));
            continue;
        }
        let is_of = |entry: &&Entry| entry.generation == after.state.generation;
        let kept = recorded.history.iter().find(is_of).copied();
        let at = kept.map_or(after.at, |entry| entry.at);
        if kept != history::entry(at, &before.state, &after.state) {
            let detail = format!("generation {} has the entry {kept:?}", after.state.generation);
            found.push(violation(after.at, Promise::History, detail));
        }
    }
}

/// What ECS is told is what is stored, soon after it was stored and for as long as it is.
fn check_settled(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    let moves_spot = recorded.rules.policy.moves_spot();
    let (mut states, mut figures) = (recorded.states.iter().peekable(), recorded.figures.iter().peekable());
    let (mut stored, mut told): (Option<&Stored>, Option<&Figures>) = (None, None);
    let mut since: Option<Timestamp> = None;
    loop {
        let next = [states.peek().map(|state| state.at), figures.peek().map(|figures| figures.at)];
        let at = next.into_iter().flatten().min().unwrap_or(recorded.end);
        if let Some(since) = since
            && at.since(since) > SETTLES + recorded.patience
        {
            let detail = format!("stored is {:?}, told {told:?}", stored.map(|stored| stored.state.split));
            found.push(violation(at, Promise::Settled, detail));
            return;
        }
        if states.peek().is_none() && figures.peek().is_none() {
            return;
        }
        if states.peek().is_some_and(|state| state.at == at) {
            stored = states.next();
        } else {
            told = figures.next();
        }
        let differs = match (stored, told) {
            (Some(stored), Some(told)) if !stored.state.is_paused => {
                let split = stored.state.split;
                split.on_demand != told.on_demand_desired || (moves_spot && split.spot != told.spot_desired)
            }
            _ => false,
        };
        since = differs.then(|| since.unwrap_or(at));
    }
}

/// Once Spot is good, it has everything again.
fn check_returned(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    let is_back =
        |figures: &Figures| figures.spot_serving >= recorded.target && figures.on_demand_desired == 0;
    let already =
        recorded.figures.iter().rfind(|figures| figures.at <= recorded.good_from).filter(|f| is_back(f));
    let later = recorded.figures.iter().find(|figures| figures.at > recorded.good_from && is_back(figures));
    let back_at = already.map(|_| recorded.good_from).or_else(|| later.map(|figures| figures.at));
    let took = back_at.unwrap_or(recorded.end).since(recorded.good_from);
    if took > RETURNS + recorded.patience {
        let detail =
            format!("Spot has been good for {took}, and this is what runs: {:?}", recorded.figures.last());
        found.push(violation(recorded.end, Promise::Returned, detail));
    }
}

#[cfg(test)]
mod tests;

//! What the queue told against what was stored: nothing that was deleted is forgotten, and only Spot counts.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_core::failover::event::Happening;
use lifeboat_core::failover::observation::Capacity;

use super::super::check::{Promise, Violation, fact, number};
use super::{Message, Recorded, violation};

pub(super) fn check(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    check_spot_only(recorded, found);
    check_acknowledged(recorded, found);
}

/// Whatever stands in a stored window was told of Spot.
fn check_spot_only(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    let spot = recorded.messages.iter().filter(|message| message.event.capacity == Capacity::Spot);
    let told: BTreeSet<(u8, u64)> = spot.filter_map(|message| fact(&message.event)).collect();
    let mut said = BTreeSet::new();
    for stored in recorded.states {
        for (fact, key) in stored.state.window.facts() {
            if !told.contains(&(number(fact), key)) && said.insert(key) {
                let detail = format!("{fact:?} {key} was not told of Spot");
                found.push(violation(stored.at, Promise::SpotOnly, detail));
            }
        }
    }
}

/// What was deleted had been stored by then, but for what was too old to count or was told better by a newer event.
fn check_acknowledged(recorded: &Recorded<'_>, found: &mut Vec<Violation>) {
    let mut stored = BTreeMap::new();
    for state in recorded.states {
        for (fact, key) in state.state.window.facts() {
            stored.entry((number(fact), key)).or_insert(state.at);
        }
    }
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    for (task, version) in recorded.messages.iter().filter_map(|message| message.version) {
        let known = newest.entry(task).or_default();
        *known = version.max(*known);
    }
    for message in recorded.messages {
        let (Some(deleted_at), Some(fact), Capacity::Spot) =
            (message.deleted_at, fact(&message.event), message.event.capacity)
        else {
            continue;
        };
        let is_old = deleted_at.since(message.event.at) + recorded.lag >= recorded.rules.window;
        if is_old || is_told_better(message, &newest) {
            continue;
        }
        let is_stored = stored.get(&fact).is_some_and(|at| *at <= deleted_at);
        if !is_stored {
            let detail = format!("{:?} was deleted and is not stored", message.event.what);
            found.push(violation(deleted_at, Promise::Acknowledged, detail));
        }
    }
}

/// A notice always counts; of what else happens to a task, the newest.
fn is_told_better(message: &Message, newest: &BTreeMap<u64, u64>) -> bool {
    let is_notice = matches!(message.event.what, Happening::Warned { .. });
    let is_older =
        message.version.is_some_and(|(task, version)| newest.get(&task).is_some_and(|n| *n > version));
    !is_notice && is_older
}

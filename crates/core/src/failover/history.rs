//! What is kept of the past: one fact per change, in the past tense, committed with the state that it led to.

use serde::{Deserialize, Serialize};

use super::phase::Phase;
use super::reason::Reason;
use super::split::Split;
use super::state::State;
use crate::time::Timestamp;

/// One change of phase, split or target, or a person's instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was decided.
    pub at: Timestamp,
    /// The generation that it made.
    pub generation: u64,
    /// The phase before.
    pub from: Phase,
    /// The phase after.
    pub to: Phase,
    /// The split after.
    pub split: Split,
    /// The target after.
    pub target: u32,
    /// Why.
    pub reason: Reason,
}

/// The entry for the change from `before` to `after`; none where only counters changed.
#[must_use]
pub fn entry(now: Timestamp, before: &State, after: &State) -> Option<Entry> {
    let told = |state: &State| (state.phase, state.split, state.target, state.is_paused);
    // That an instruction is over shows in what it leads to.
    let is_asked = after.asked.is_some() && before.asked != after.asked;
    let is_change = told(before) != told(after) || is_asked;
    is_change.then_some(Entry {
        at: now,
        generation: after.generation,
        from: before.phase,
        to: after.phase,
        split: after.split,
        target: after.target,
        reason: after.reason,
    })
}

//! What a policy answers: how many tasks of each kind should exist.

use serde::{Deserialize, Serialize};

use super::reason::Reason;

/// Absolute counts: submitting them twice equals once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Spot tasks.
    pub spot: u32,
    /// On-Demand tasks.
    pub on_demand: u32,
}

/// A split, and why it is the right one at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The counts.
    pub split: Split,
    /// The reason that the log, the history and the dashboard show.
    pub reason: Reason,
}

impl Wanted {
    /// `spot` and `on_demand` tasks because of `reason`.
    #[must_use]
    pub const fn new(spot: u32, on_demand: u32, reason: Reason) -> Self {
        Self { split: Split { spot, on_demand }, reason }
    }
}

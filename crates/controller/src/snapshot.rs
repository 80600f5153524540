//! How a service stands, for metrics, Prometheus and the log: a value that its worker replaces after each turn.

use lifeboat_core::failover::health;
use lifeboat_core::failover::instruction::Asked;
use lifeboat_core::failover::phase::Phase;
use lifeboat_core::failover::reason::Reason;
use lifeboat_core::failover::split::Split;
use lifeboat_core::failover::view::{Counts, WindowCounts};
use lifeboat_core::time::Timestamp;

/// How a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Nothing of it is known before a state was loaded.
    pub generation: Option<u64>,
    /// Where the machine is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// What both services are told to run.
    pub split: Split,
    /// How many tasks are wanted.
    pub target: u32,
    /// Why.
    pub reason: Reason,
    /// Spot tasks, at the last look.
    pub spot: Counts,
    /// On-Demand tasks, at the last look.
    pub on_demand: Counts,
    /// What happened to Spot within the window.
    pub window: WindowCounts,
    /// Failovers since midnight, UTC.
    pub failovers: u32,
    /// A person said to change nothing.
    pub is_paused: bool,
    /// What a person asked for.
    pub asked: Option<Asked>,
    /// When it was last looked at.
    pub seen_at: Option<Timestamp>,
    /// It was looked at, nothing is under way, and ECS is told what is stored.
    pub is_settled: bool,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            generation: None,
            phase: Phase::Spot,
            since: Timestamp(0),
            split: Split::default(),
            target: 0,
            reason: Reason::Fixed,
            spot: Counts::default(),
            on_demand: Counts::default(),
            window: WindowCounts::default(),
            failovers: 0,
            is_paused: false,
            asked: None,
            seen_at: None,
            is_settled: false,
        }
    }
}

impl Snapshot {
    /// The health score of B8, 0 to 100.
    #[must_use]
    pub const fn health(&self) -> u8 {
        health::score(self.window, self.spot)
    }

    /// Whether On-Demand runs, or is asked to run, any of it.
    #[must_use]
    pub const fn is_failed_over(&self) -> bool {
        !matches!(self.phase, Phase::Spot)
    }
}

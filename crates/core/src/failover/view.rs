//! What a policy sees: numbers that AWS would show at this moment, and nothing that lies in the future.

use serde::{Deserialize, Serialize};

use super::phase::Phase;
use crate::time::{Millis, Timestamp};

/// How many tasks of one kind of capacity are where. Tasks asked for but not yet answered are in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Started by AWS, not ready yet, not warned.
    pub starting: u32,
    /// Ready and not warned.
    pub ready: u32,
    /// Ready, and told that they will be reclaimed. They serve until they are killed.
    pub warned: u32,
}

impl Counts {
    /// Tasks that will still be there after every announced reclaim.
    #[must_use]
    pub const fn staying(self) -> u32 {
        self.starting + self.ready
    }

    /// Tasks that serve right now, warned or not.
    #[must_use]
    pub const fn serving(self) -> u32 {
        self.ready + self.warned
    }
}

/// What happened to Spot within the sliding window (5 min unless configured).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Launches refused for want of capacity.
    pub capacity_errors: u32,
    /// Tasks interrupted, each counted once however many events told of it.
    pub interruptions: u32,
    /// Tasks that became ready.
    pub successes: u32,
}

impl WindowCounts {
    /// Everything that went wrong.
    #[must_use]
    pub const fn errors(self) -> u32 {
        self.capacity_errors + self.interruptions
    }
}

/// The last samples of Spot while it runs nothing but probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleCounts {
    /// Samples that count, at most [`super::stability::SAMPLES_MAX`].
    pub taken: u32,
    /// Of them: all probes were ready.
    pub good: u32,
    /// Of them: a probe was refused or interrupted.
    pub bad: u32,
    /// From the oldest sample that counts to now.
    pub span: Millis,
}

/// Everything that a policy may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Now, on the clock of the controller that asks.
    pub now: Timestamp,
    /// How many ready tasks are wanted.
    pub target: u32,
    /// Spot tasks.
    pub spot: Counts,
    /// On-Demand tasks.
    pub on_demand: Counts,
    /// Spot tasks that start on capacity they already hold and will be ready before a warned task dies.
    pub cover: u32,
    /// How long the Spot task that has waited longest has not been ready; zero where none waits.
    pub oldest_pending: Millis,
    /// Where the failover machine is.
    pub phase: Phase,
    /// How long it has been there.
    pub phase_for: Millis,
    /// What happened to Spot lately.
    pub window: WindowCounts,
    /// Results of the probes.
    pub samples: SampleCounts,
    /// When AWS last refused a Spot launch.
    pub refused_at: Option<Timestamp>,
    /// When Spot last had every task that was asked for.
    pub steady_at: Option<Timestamp>,
}

//! Why a turn decided what it decided: the value that the log, the history and the dashboard show.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::observation::Capacity;
use crate::time::Millis;

/// The reason for a split or a change of phase. Numbers are those the decision was taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// Spot has every task that is wanted.
    SpotComplete,
    /// It ran like that when it was first seen.
    Found,
    /// The policy never changes its split.
    Fixed,
    /// Ready Spot tasks that nobody warned are fewer than wanted.
    SpotShort {
        /// Ready and not warned.
        ready: u32,
        /// Starting, and ready in time to replace a warned task.
        cover: u32,
        /// Wanted.
        target: u32,
    },
    /// Too many launches refused within the window.
    CapacityErrors {
        /// Counted.
        count: u32,
        /// Allowed, less one.
        threshold: u32,
    },
    /// Too many interruptions within the window.
    Interruptions {
        /// Counted.
        count: u32,
        /// Allowed, less one.
        threshold: u32,
    },
    /// A Spot task has been starting for longer than starts take.
    PendingTooLong {
        /// How long.
        pending: Millis,
    },
    /// Spot has not been good for long enough to go back.
    Probing {
        /// Samples taken.
        taken: u32,
        /// Good ones among them.
        good: u32,
        /// Bad ones among them.
        bad: u32,
    },
    /// Spot has been good for the whole stable window.
    SpotStable {
        /// Samples taken.
        taken: u32,
        /// Good ones among them.
        good: u32,
    },
    /// A shift that is under way goes on.
    Shifting,
    /// As much of On-Demand is ready as a shift needs.
    OnDemandReady {
        /// Ready.
        ready: u32,
        /// Asked for.
        wanted: u32,
    },
    /// The last answer to a Spot launch was a refusal.
    Refused,
    /// On-Demand was not ready in time.
    OnDemandTimedOut {
        /// Ready.
        ready: u32,
        /// Asked for.
        wanted: u32,
    },
    /// Spot was not ready in time after the return began.
    ReturnTimedOut {
        /// Ready.
        ready: u32,
        /// Asked for.
        wanted: u32,
    },
    /// The wanted number of tasks changed.
    TargetChanged {
        /// Before.
        from: u32,
        /// Now.
        to: u32,
    },
    /// A person asked for it.
    Asked {
        /// Where everything is to run.
        to: Capacity,
    },
    /// A person said to change nothing.
    Paused,
    /// A person gave the service back to the policy.
    Resumed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SpotComplete => f.write_str("spot has every task"),
            Self::Found => f.write_str("as it was found"),
            Self::Fixed => f.write_str("the policy's split is fixed"),
            Self::SpotShort { ready, cover, target } => {
                write!(f, "{ready} of {target} spot tasks stay ready, {cover} more in time")
            }
            Self::CapacityErrors { count, threshold } => {
                write!(f, "{count} launches refused in the window, threshold {threshold}")
            }
            Self::Interruptions { count, threshold } => {
                write!(f, "{count} interruptions in the window, threshold {threshold}")
            }
            Self::PendingTooLong { pending } => write!(f, "a spot task is not ready after {pending}"),
            Self::Probing { taken, good, bad } => {
                write!(f, "probing spot: {good} good and {bad} bad of {taken} samples")
            }
            Self::SpotStable { taken, good } => {
                write!(f, "spot was good in {good} of {taken} samples")
            }
            Self::Shifting => f.write_str("the shift goes on"),
            Self::OnDemandReady { ready, wanted } => {
                write!(f, "{ready} of {wanted} on-demand tasks are ready")
            }
            Self::Refused => f.write_str("the last spot launch was refused"),
            Self::OnDemandTimedOut { ready, wanted } => {
                write!(f, "{ready} of {wanted} on-demand tasks were ready in time")
            }
            Self::ReturnTimedOut { ready, wanted } => {
                write!(f, "{ready} of {wanted} spot tasks were ready in time")
            }
            Self::TargetChanged { from, to } => write!(f, "the target changed from {from} to {to}"),
            Self::Asked { to } => write!(f, "a person asked for {to}"),
            Self::Paused => f.write_str("a person paused it"),
            Self::Resumed => f.write_str("a person resumed it"),
        }
    }
}

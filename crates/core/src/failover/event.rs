//! What EventBridge tells of a service pair: late, twice, in any order, or never.

use super::observation::Capacity;
use crate::time::Timestamp;

/// Something that happened to a task or a service. The adapter that reads the events keeps those that decide
/// something and drops the rest; see docs/failover.md for the strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's own time, or that of its receipt where it has none.
    pub at: Timestamp,
    /// Where it happened. Only Spot's count: looking at Standard tasks made source B loop for ever.
    pub capacity: Capacity,
    /// What happened.
    pub what: Happening,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The service could not place a task: `SERVICE_TASK_PLACEMENT_FAILURE` with `RESOURCE:FARGATE`.
    Refused {
        /// A hash of the event's id.
        event: u64,
    },
    /// The task will be reclaimed: `desiredStatus` STOPPED while `lastStatus` is RUNNING.
    Warned {
        /// The task's key.
        task: u64,
    },
    /// The task has stopped.
    Stopped {
        /// The task's key.
        task: u64,
        /// Spot took it away.
        is_interruption: bool,
    },
    /// The task is RUNNING.
    Ready {
        /// The task's key.
        task: u64,
    },
    /// `SERVICE_STEADY_STATE`. It repeats while nothing changes and proves nothing.
    Steady,
}

//! What ECS shows of a service pair when it is asked, and what a look makes of it.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use super::split::Split;
use super::state::Seen;
use crate::time::{Millis, Timestamp};

/// Which capacity provider a task, an event or an order belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    /// `FARGATE_SPOT`, the service `{name}-spot`.
    Spot,
    /// `FARGATE`, the service `{name}-standard`.
    OnDemand,
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        })
    }
}

/// One task as DescribeTasks shows it. Tasks that have stopped are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// A hash of the task's ARN, made where it is read.
    pub key: u64,
    /// When ECS created it, by AWS's clock.
    pub created_at: Timestamp,
    /// `lastStatus` is RUNNING.
    pub is_ready: bool,
    /// `desiredStatus` is STOPPED: it was warned, or is being stopped.
    pub is_warned: bool,
}

/// One ECS service with its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The desired count that ECS works towards.
    pub desired: u32,
    /// Its tasks, in any order.
    pub tasks: Vec<Task>,
}

/// Both services of a pair as they were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// When the first request for it was sent, on the clock of the controller that asked.
    pub at: Timestamp,
    /// `{name}-spot`.
    pub spot: Service,
    /// `{name}-standard`.
    pub on_demand: Service,
    /// A deployment is in progress on either: tasks of two versions run beside each other and some of them are about
    /// to be stopped, so that nothing is lowered on such a look.
    pub is_deploying: bool,
}

impl Observation {
    /// What `both` services are told to run.
    #[must_use]
    pub const fn desired(&self) -> Split {
        Split { spot: self.spot.desired, on_demand: self.on_demand.desired }
    }

    /// Counts the tasks; those in `doomed` were told to be lost by an event that this observation may not know.
    #[must_use]
    pub fn seen(&self, now: Timestamp, target: u32, doomed: &BTreeMap<u64, Timestamp>) -> Seen {
        let mut seen = Seen { target, desired: self.desired(), ..Seen::default() };
        for task in &self.spot.tasks {
            let is_doomed = task.is_warned || (!doomed.is_empty() && doomed.contains_key(&task.key));
            match (is_doomed, task.is_ready) {
                (true, true) => seen.spot.warned += 1,
                (true, false) => {}
                (false, true) => seen.spot.ready += 1,
                (false, false) => {
                    seen.spot.starting += 1;
                    seen.oldest_pending = seen.oldest_pending.max(now.since(task.created_at));
                }
            }
        }
        for task in self.on_demand.tasks.iter().filter(|task| !task.is_warned) {
            if task.is_ready {
                seen.on_demand.ready += 1;
            } else {
                seen.on_demand.starting += 1;
            }
        }
        seen
    }

    /// How old it is.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Millis {
        now.since(self.at)
    }
}

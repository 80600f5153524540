//! What ECS shows of a service pair when it is asked, and what a look makes of it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use serde::{Deserialize, Serialize};

use super::split::Split;
use super::state::Seen;
use super::view::Counts;
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

/// Tasks in any order, counted once. Copies share them: a look that shows the same as the last costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    list: Arc<[Task]>,
    /// Beside the list, not behind its pointer: counting must not touch it.
    counted: Counted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    counts: Counts,
    /// When the one that has been starting longest was created.
    oldest: Option<Timestamp>,
}

impl Counted {
    fn count(&mut self, task: &Task, is_doomed: bool) {
        match (is_doomed, task.is_ready) {
            (true, true) => self.counts.warned += 1,
            (true, false) => {}
            (false, true) => self.counts.ready += 1,
            (false, false) => {
                self.counts.starting += 1;
                self.oldest = Some(self.oldest.map_or(task.created_at, |oldest| oldest.min(task.created_at)));
            }
        }
    }
}

impl From<Arc<[Task]>> for Tasks {
    fn from(list: Arc<[Task]>) -> Self {
        let mut counted = Counted::default();
        for task in &*list {
            counted.count(task, task.is_warned);
        }
        Self { list, counted }
    }
}

impl From<Vec<Task>> for Tasks {
    fn from(tasks: Vec<Task>) -> Self {
        Arc::<[Task]>::from(tasks).into()
    }
}

impl FromIterator<Task> for Tasks {
    fn from_iter<I: IntoIterator<Item = Task>>(tasks: I) -> Self {
        tasks.into_iter().collect::<Arc<[Task]>>().into()
    }
}

impl Deref for Tasks {
    type Target = [Task];

    fn deref(&self) -> &[Task] {
        &self.list
    }
}

impl Tasks {
    /// How many are where, and when the one that has been starting longest was created; those in `doomed` are lost.
    fn count(&self, doomed: &BTreeMap<u64, Timestamp>) -> (Counts, Option<Timestamp>) {
        if doomed.is_empty() {
            return (self.counted.counts, self.counted.oldest);
        }
        let mut counted = Counted::default();
        for task in &*self.list {
            counted.count(task, task.is_warned || doomed.contains_key(&task.key));
        }
        (counted.counts, counted.oldest)
    }
}

/// One ECS service with its tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The desired count that ECS works towards.
    pub desired: u32,
    /// Its tasks.
    pub tasks: Tasks,
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
        let (spot, oldest) = self.spot.tasks.count(doomed);
        let (on_demand, _) = self.on_demand.tasks.count(&BTreeMap::new());
        Seen {
            target,
            desired: self.desired(),
            spot,
            // Nobody warns of On-Demand: what is told to stop was told so by somebody, and is as good as gone.
            on_demand: Counts { warned: 0, ..on_demand },
            oldest_pending: oldest.map_or(Millis::ZERO, |oldest| now.since(oldest)),
            ..Seen::default()
        }
    }

    /// How old it is.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Millis {
        now.since(self.at)
    }
}

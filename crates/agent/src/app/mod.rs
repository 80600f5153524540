//! The application interface: what a worker under `lifeboat run` tells the agent, and gets from it.
//!
//! * [`registry`]: the tasks and receipts, in memory, bounded. * [`keep`]: partial results on their way into the
//!   store, messages on their way back. * [`spool`]: the same on this machine's disk, for an agent that takes over.
//! * [`serve`]: the socket; [`routes`]: one function a request. The form of both is `lifeboat_worker::wire`.
//!
//! One lock guards the registry; it is held for moments and never while waiting.

#[cfg(test)]
mod hostile;
pub(crate) mod keep;
mod queues;
mod registry;
mod routes;
pub(crate) mod serve;
mod spool;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_core::notice::{Action, Interruption};
use lifeboat_core::time::Timestamp;
use lifeboat_snapshot::Workload;
use lifeboat_snapshot::partial::Holder;
use lifeboat_worker::wire::{About, Notice};
use tokio::sync::{Notify, watch};

use crate::config::{OnInterrupt, Settings};
use crate::ports::Ports;
use registry::Registry;
use spool::Spool;

/// The application as the agent knows it. Exists always; a workload that does not use the interface leaves it empty.
#[derive(Debug)]
pub(crate) struct App {
    /// Where its partial results lie.
    place: Workload,
    workload: lifeboat_snapshot::WorkloadName,
    instance: String,
    registry: Mutex<Registry>,
    ports: Ports,
    on_interrupt: OnInterrupt,
    /// The number of the claim under which the workload runs here; 0 until it is claimed. An agent that brings a dead
    /// one's evacuation to its end and then goes on has two, one after the other.
    claim: AtomicU64,
    notice: watch::Sender<Option<Announced>>,
    /// Something waits to be written.
    has_work: Notify,
    /// A write has ended.
    written: Notify,
    spool: Spool,
}

/// What was announced.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    action: String,
    deadline: Timestamp,
    at: tokio::time::Instant,
    left_ms: u64,
}

impl Announced {
    fn notice(&self) -> Notice {
        let passed = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        Notice {
            action: self.action.clone(),
            deadline_unix_ms: u64::try_from(self.deadline.0).unwrap_or(0),
            left_ms: self.left_ms.saturating_sub(passed),
        }
    }

    /// A hibernation brings the processes back: their tasks go on.
    fn ends_work(&self) -> bool {
        self.action != "hibernate"
    }
}

impl App {
    pub(crate) fn new(
        workload: &Workload,
        settings: &Settings,
        instance: &str,
        agent_dir: &Path,
        ports: Ports,
    ) -> Arc<Self> {
        let name = settings.application.as_ref().unwrap_or_else(|| workload.name()).clone();
        let spool = Spool::at(agent_dir);
        Arc::new(Self {
            place: Workload::new(Arc::clone(workload.store()), name),
            workload: workload.name().clone(),
            instance: instance.to_owned(),
            registry: Mutex::new(spool.load()),
            ports: queues::with_directories(ports),
            on_interrupt: settings.on_interrupt,
            claim: AtomicU64::new(0),
            notice: watch::channel(None).0,
            has_work: Notify::new(),
            written: Notify::new(),
            spool,
        })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Nothing panics while it is held.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workload is claimed: tasks may be, too.
    pub(crate) fn claimed(&self, claim: u64) {
        self.claim.store(claim, Ordering::Relaxed);
    }

    fn holder(&self, attempt: Option<u32>) -> Option<Holder> {
        let claim = Some(self.claim.load(Ordering::Relaxed)).filter(|claim| *claim > 0)?;
        Some(Holder { workload: self.workload.clone(), claim, instance: self.instance.clone(), attempt })
    }

    /// The machine is about to go: whoever waits for it is told, and no task is accepted any more.
    pub(crate) fn announce(&self, interruption: &Interruption, now: Timestamp) {
        let action = interruption.action.to_string();
        let is_known = |known: &Announced| known.action == action && known.deadline == interruption.deadline;
        if self.notice.borrow().as_ref().is_some_and(is_known) {
            return;
        }
        let announced = Announced {
            action,
            deadline: interruption.deadline,
            at: tokio::time::Instant::now(),
            left_ms: interruption.deadline.since(now).0,
        };
        self.notice.send_replace(Some(announced));
    }

    /// It stays after all.
    pub(crate) fn withdraw(&self) {
        self.notice.send_replace(None);
    }

    /// For how long a message that is given back now stays invisible.
    fn visibility_now(&self) -> std::time::Duration {
        let is_interrupted = self.notice.borrow().is_some();
        if is_interrupted { self.on_interrupt.visibility() } else { std::time::Duration::ZERO }
    }

    /// The same at an interruption; `None` where the workers come back with their messages.
    pub(crate) const fn visibility_at(&self, action: Action) -> Option<std::time::Duration> {
        match action {
            Action::Terminate | Action::Stop => Some(self.on_interrupt.visibility()),
            Action::Hibernate => None,
        }
    }

    /// The table beside the store.
    pub(crate) fn table(&self) -> Option<&Arc<dyn crate::ports::StateTable>> {
        self.ports.table.as_ref()
    }

    fn about(&self) -> About {
        About {
            workload: self.workload.to_string(),
            application: self.place.name().to_string(),
            instance: self.instance.clone(),
            notice: self.notice.borrow().as_ref().map(Announced::notice),
            tasks: self.registry().counts(),
        }
    }
}

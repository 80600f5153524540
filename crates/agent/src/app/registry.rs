//! The tasks and receipts of the application, in memory. Every number of things is bounded.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_snapshot::partial::{Content, TaskClaim};
use lifeboat_worker::wire::{Counts, RECEIPTS_MAX, Receipt, Registration, TASKS_MAX};

/// Partial results that wait for the store hold so many bytes at most; beyond that the application is asked to wait.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) tasks: BTreeMap<String, Task>,
    /// Registered beside tasks.
    pub(super) receipts: BTreeSet<Receipt>,
    pub(super) ended: Counts,
    /// Tasks with something to write, in the order in which it came.
    pub(super) waiting: BTreeSet<(u64, String)>,
    pub(super) waiting_bytes: usize,
    pub(super) turn: u64,
    /// Rises with each change that the spool should know.
    pub(super) version: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Task {
    pub(super) path: Option<Box<str>>,
    pub(super) progress: Option<f64>,
    pub(super) receipt: Option<Box<Receipt>>,
    pub(super) attempt: Option<u32>,
    /// The process that registered it; 0: not known.
    pub(super) pid: i32,
    pub(super) claim: Option<TaskClaim>,
    pub(super) revision: u64,
    /// Its place among those that wait.
    pub(super) turn: u64,
    /// The newest partial result, until it is stored.
    pub(super) content: Option<Content>,
    pub(super) is_being_written: bool,
    /// Another worker has it: nothing is written any more.
    pub(super) is_lost: bool,
}

/// Why something was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Tasks,
    Receipts,
    Bytes,
    Taken,
}

impl Registry {
    pub(super) fn counts(&self) -> Counts {
        let of_tasks = self.tasks.values().filter(|task| task.receipt.is_some()).count();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Counts {
            active: count(self.tasks.len()),
            receipts: count(self.receipts.len() + of_tasks),
            ..self.ended
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.counts() == Counts::default()
    }

    /// `lives`: whether a process that registered the task before still does.
    pub(super) fn register(
        &mut self,
        registration: Registration,
        pid: i32,
        lives: impl Fn(i32) -> bool,
    ) -> Result<(), Full> {
        let before = self.tasks.get(&registration.id);
        if before.is_some_and(|task| task.pid != pid && lives(task.pid)) {
            return Err(Full::Taken);
        }
        if before.is_none() && self.tasks.len() >= TASKS_MAX {
            return Err(Full::Tasks);
        }
        self.version += 1;
        let task = self.tasks.entry(registration.id).or_default();
        if task.pid != pid || task.attempt != registration.attempt {
            // Another worker had it, and whoever had that may have lost it since: asked again.
            task.is_lost = false;
        }
        if registration.attempt > task.attempt {
            // Between the two deliveries others may have claimed it, and written under a newer claim.
            task.claim = None;
        }
        task.path = registration.path.map(String::into_boxed_str);
        task.receipt = registration.receipt.map(Box::new);
        task.attempt = registration.attempt;
        task.pid = pid;
        Ok(())
    }

    pub(super) fn add_receipt(&mut self, receipt: Receipt) -> Result<(), Full> {
        if self.receipts.len() >= RECEIPTS_MAX {
            return Err(Full::Receipts);
        }
        self.version += 1;
        self.receipts.insert(receipt);
        Ok(())
    }

    pub(super) fn drop_receipt(&mut self, receipt: &Receipt) {
        self.version += 1;
        self.receipts.remove(receipt);
    }

    /// Takes a partial result in, in place of the one that waited. `None`: there is no such task.
    pub(super) fn checkpoint(
        &mut self,
        id: &str,
        content: Content,
        progress: Option<f64>,
    ) -> Option<Result<u64, Full>> {
        let before = self.tasks.get(id)?.content.as_ref().map_or(0, |content| content.bytes.len());
        let after = self.waiting_bytes - before + content.bytes.len();
        if after > WAITING_BYTES_MAX {
            return Some(Err(Full::Bytes));
        }
        self.waiting_bytes = after;
        self.version += 1;
        let turn = self.turn;
        let task = self.tasks.get_mut(id)?;
        task.progress = progress.or(task.progress);
        task.revision += 1;
        if task.content.replace(content).is_none() {
            task.turn = turn;
            self.turn += 1;
            self.waiting.insert((turn, id.to_owned()));
        }
        Some(Ok(task.revision))
    }

    /// The partial result of `revision` is stored. A newer one keeps waiting, behind the others.
    pub(super) fn stored(&mut self, id: &str, revision: u64) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        self.waiting.remove(&(task.turn, id.to_owned()));
        self.version += 1;
        if task.revision == revision {
            let content = task.content.take();
            self.waiting_bytes -= content.map_or(0, |content| content.bytes.len());
        } else {
            task.turn = self.turn;
            self.turn += 1;
            self.waiting.insert((task.turn, id.to_owned()));
        }
    }

    /// Takes a task out.
    pub(super) fn remove(&mut self, id: &str) -> Option<Task> {
        let task = self.tasks.remove(id)?;
        self.waiting.remove(&(task.turn, id.to_owned()));
        self.waiting_bytes -= task.content.as_ref().map_or(0, |content| content.bytes.len());
        self.version += 1;
        Some(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(id: &str) -> Registration {
        Registration { id: id.into(), ..Registration::default() }
    }

    fn bytes(size: usize) -> Content {
        Content { bytes: vec![0; size].into(), is_json: false }
    }

    #[test]
    fn a_million_tasks_are_not_taken_in() {
        let mut registry = Registry::default();
        let taken = (0..TASKS_MAX + 10)
            .filter(|n| registry.register(registered(&n.to_string()), 1, |_| true).is_ok())
            .count();
        assert_eq!(taken, TASKS_MAX);
        assert_eq!(registry.register(registered("more"), 1, |_| true), Err(Full::Tasks));
        assert_eq!(registry.register(registered("0"), 1, |_| true), Ok(()), "known already");
    }

    #[test]
    fn what_waits_for_the_store_is_bounded_and_counted_rightly() {
        let mut registry = Registry::default();
        for id in ["a", "b"] {
            registry.register(registered(id), 1, |_| true).expect("taken in");
        }
        let half = WAITING_BYTES_MAX / 2 + 1;
        assert_eq!(registry.checkpoint("a", bytes(half), None), Some(Ok(1)));
        assert_eq!(registry.checkpoint("b", bytes(half), None), Some(Err(Full::Bytes)));
        assert_eq!(registry.checkpoint("a", bytes(half), None), Some(Ok(2)), "in place of the one before");
        assert_eq!(registry.checkpoint("c", bytes(1), None), None);
        registry.stored("a", 1);
        assert_eq!((registry.waiting_bytes, registry.waiting.len()), (half, 1), "a newer one waits");
        registry.stored("a", 2);
        assert_eq!((registry.waiting_bytes, registry.waiting.len()), (0, 0));
        assert_eq!(registry.checkpoint("b", bytes(half), None), Some(Ok(1)));
        registry.remove("b");
        assert_eq!((registry.waiting_bytes, registry.waiting.len()), (0, 0));
    }

    #[test]
    fn a_task_of_a_living_process_is_not_given_to_another() {
        let mut registry = Registry::default();
        registry.register(registered("a"), 1, |_| true).expect("free");
        assert_eq!(registry.register(registered("a"), 2, |_| true), Err(Full::Taken));
        assert_eq!(registry.register(registered("a"), 1, |_| true), Ok(()));
        assert_eq!(registry.register(registered("a"), 2, |_| false), Ok(()), "its process died");
    }
}

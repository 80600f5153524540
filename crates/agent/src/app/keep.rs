//! Partial results on their way into the store, and messages on their way back to their queues.
//!
//! A message is given back only after the partial result of its task is stored: whoever receives it finds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lifeboat_snapshot::partial::{self, Record, TakeError};
use lifeboat_snapshot::{Deadline, StoreError};
use lifeboat_worker::wire::Receipt;
use serde_json::json;
use tokio::time::Instant;

use super::App;
use super::registry::Task;
use super::spool::Spool;
use crate::clock::wall_now;
use crate::dirs::Outlive;
use crate::hands::chain;
use crate::ports::PortError;

/// Between the first partial result that waits and the write: what comes meanwhile replaces it.
const COALESCE: Duration = Duration::from_secs(1);

/// After a write that failed, the others wait so long: each repeats its requests by itself.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// So many partial results are written side by side while the work goes on…
const WRITES: usize = 8;

/// …and at the notice.
const LAST_WRITES: usize = 32;

/// So many messages are given back together as their partial results become stored.
const GIVE_BACK_TOGETHER: usize = 100;

/// Between two looks whether this machine's copy of the tasks is out of date.
const SPOOL_EVERY: Duration = Duration::from_secs(2);

/// What of the tasks goes into the saved state: more than any list that a person reads.
const LISTED_BYTES_MAX: usize = 16 << 20;

/// Errors that are named; the rest is counted.
const NAMED_MAX: usize = 3;

/// Why a partial result is not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// Another worker has the task.
    #[error("{0} has the task")]
    Lost(String),
    /// The workload is not claimed yet.
    #[error("the work is not claimed yet")]
    NotClaimed,
    /// The time was over.
    #[error("the store did not answer in time")]
    NoTime,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TakeError> for KeepError {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Held { by } => Self::Lost(by),
            TakeError::Store(error) => Self::Store(error),
        }
    }
}

/// What came of everything that was to be stored and given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandedOver {
    /// Partial results stored just now.
    pub(crate) stored: usize,
    /// Messages given back.
    pub(crate) given_back: usize,
    /// Messages that had gone on already.
    pub(crate) stale: usize,
    /// What could not be done; the first of them named.
    pub(crate) failed: usize,
    pub(crate) named: Vec<String>,
}

impl HandedOver {
    fn fail(&mut self, what: String) {
        tracing::error!(what, "not handed over");
        self.failed += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(what);
        }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// In a few words, for the summary.
    pub(crate) fn text(&self) -> String {
        let mut parts = Vec::new();
        let mut say = |count: usize, what: &str| {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        };
        say(self.stored, "partial results stored");
        say(self.given_back, "messages given back");
        say(self.stale, "messages had gone on");
        say(self.failed, "NOT handed over");
        [parts, self.named.clone()].concat().join(", ")
    }
}

/// What comes of `work`, or [`KeepError::NoTime`] at `deadline`.
async fn by<T, E>(deadline: &Deadline, work: impl Future<Output = Result<T, E>>) -> Result<T, KeepError>
where
    KeepError: From<E>,
{
    tokio::select! {
        biased;
        done = work => Ok(done?),
        () = deadline.passed() => Err(KeepError::NoTime),
    }
}

/// A message to be given back, and the task that it belongs to.
type Pending = (Option<String>, Receipt);

/// A task that is done, on its way out of the registry.
enum Done {
    Gone,
    IsBeingWritten,
    Taken(Task),
}

/// Says on every way out that the write is over.
struct Writing<'a>(&'a App, &'a str);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.0.registry().tasks.get_mut(self.1) {
            task.is_being_written = false;
        }
        self.0.written.notify_waiters();
    }
}

/// Receipts that are being given back; those that were not are put back on every way out.
struct GivingBack<'a>(&'a App, Vec<Pending>);

impl Drop for GivingBack<'_> {
    fn drop(&mut self) {
        let mut registry = self.0.registry();
        for (task, receipt) in self.1.drain(..) {
            match task.and_then(|id| registry.tasks.get_mut(&id)) {
                Some(task) => task.receipt = Some(Box::new(receipt)),
                None => drop(registry.receipts.insert(receipt)),
            }
        }
    }
}

impl App {
    /// Stores the newest partial result of `id`, if one waits; one write at a time for each task. Ends by `deadline`,
    /// whatever it waits for: a claim, the write before it, the store.
    pub(super) async fn write(&self, id: &str, deadline: &Deadline) -> Result<bool, KeepError> {
        by(deadline, self.write_in_turn(id, deadline)).await
    }

    async fn write_in_turn(&self, id: &str, deadline: &Deadline) -> Result<bool, KeepError> {
        let task = loop {
            let written = self.written.notified();
            {
                let mut registry = self.registry();
                let Some(task) = registry.tasks.get_mut(id).filter(|task| task.content.is_some()) else {
                    return Ok(false);
                };
                if task.is_lost {
                    return Err(KeepError::Lost("another worker".to_owned()));
                }
                if !task.is_being_written {
                    task.is_being_written = true;
                    break task.clone();
                }
            }
            written.await;
        };
        let _writing = Writing(self, id);
        let claim = match &task.claim {
            Some(claim) => claim.clone(),
            None => self.claim_task(id, task.attempt).await?.0,
        };
        let Task { path, progress, revision, content, .. } = task;
        let Some(content) = content else { return Ok(false) };
        let record = Record {
            task: id.to_owned(),
            path: path.map(String::from),
            progress,
            instance: self.instance.clone(),
            at_unix_ms: u64::try_from(wall_now().0).unwrap_or(0),
            claim: claim.number,
            revision,
            json: None,
            data: None,
        };
        partial::put(&self.place, record, &content, deadline).await?;
        self.registry().stored(id, revision);
        Ok(true)
    }

    /// Claims a task, and brings what others left of it.
    pub(super) async fn claim_task(
        &self,
        id: &str,
        attempt: Option<u32>,
    ) -> Result<(partial::TaskClaim, Option<(Record, partial::Content)>), KeepError> {
        let holder = self.holder(attempt).ok_or(KeepError::NotClaimed)?;
        let taken = partial::take(&self.place, id, &holder).await;
        let mut registry = self.registry();
        let task = registry.tasks.get_mut(id);
        match taken {
            Ok((claim, found)) => {
                if let Some(task) = task {
                    task.claim = Some(claim.clone());
                    task.revision =
                        found.as_ref().map_or(0, |(record, _)| record.revision).max(task.revision);
                }
                Ok((claim, found))
            }
            Err(error) => {
                if let (Some(task), TakeError::Held { .. }) = (task, &error) {
                    task.is_lost = true;
                }
                Err(error.into())
            }
        }
    }

    /// Stores partial results as they change, until it is dropped.
    pub(crate) async fn keep_writing(self: Arc<Self>) {
        loop {
            self.has_work.notified().await;
            tokio::time::sleep(COALESCE).await;
            let ids: Vec<String> = self.registry().waiting.iter().map(|(_, id)| id.clone()).collect();
            let deadline = Deadline::none();
            let failed = futures_util::stream::iter(ids)
                .map(|id| {
                    let (app, deadline) = (Arc::clone(&self), deadline.clone());
                    async move { app.write(&id, &deadline).await }
                })
                .buffer_unordered(WRITES)
                .fold(None, |failed, result| async { failed.or_else(|| result.err()) })
                .await;
            match failed {
                None => {}
                Some(KeepError::Lost(by)) => {
                    tracing::warn!(by, "another worker has a task: its partial result is not stored");
                    self.drop_lost();
                }
                Some(error @ (KeepError::NotClaimed | KeepError::NoTime | KeepError::Store(_))) => {
                    tracing::warn!(error = chain(&error), "partial results cannot be stored; trying again");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
            if !self.registry().waiting.is_empty() {
                self.has_work.notify_one();
            }
        }
    }

    /// What another worker goes on with is not kept waiting here.
    fn drop_lost(&self) {
        let mut registry = self.registry();
        let lost: Vec<(String, u64)> = registry
            .tasks
            .iter()
            .filter(|(_, t)| t.is_lost)
            .map(|(id, t)| (id.clone(), t.revision))
            .collect();
        for (id, revision) in lost {
            registry.stored(&id, revision);
        }
    }

    /// Keeps this machine's copy of the tasks up to date, until it is dropped.
    pub(crate) async fn keep_spooling(self: Arc<Self>) {
        let mut kept = self.registry().version;
        loop {
            tokio::time::sleep(SPOOL_EVERY).await;
            let version = self.registry().version;
            if version == kept {
                continue;
            }
            kept = version;
            let app = Arc::clone(&self);
            let text = move || app.spool.write(|| Spool::text(&app.registry()), Outlive::Process);
            let _ = tokio::task::spawn_blocking(text).await; // it reports by itself
        }
    }

    /// Keeps this machine's copy of the tasks now. It outlives a power cut.
    pub(crate) fn spool_now(&self) {
        if self.registry().is_unused() && !self.spool.path().exists() {
            return;
        }
        self.spool.write(|| Spool::text(&self.registry()), Outlive::PowerCut);
    }

    /// Stores every partial result that waits, and gives every message back whose task has nothing left to store.
    /// `visibility`: `None` leaves the messages in flight, because their workers go on.
    pub(crate) async fn hand_over(
        &self,
        others: Vec<Receipt>,
        visibility: Option<Duration>,
        deadline: &Deadline,
    ) -> HandedOver {
        let (waiting, ready) = self.split();
        let mut handed = HandedOver::default();
        if let Some(visibility) = visibility {
            let others = others.into_iter().map(|receipt| (None, receipt));
            self.give_back(ready.into_iter().chain(others).collect(), visibility, deadline, &mut handed)
                .await;
        }
        let mut writes = futures_util::stream::iter(waiting)
            .map(|id| async { (self.write(&id, deadline).await, id) })
            .buffer_unordered(LAST_WRITES)
            .ready_chunks(GIVE_BACK_TOGETHER);
        while let Some(chunk) = writes.next().await {
            let mut stored = Vec::new();
            for (result, id) in chunk {
                match result {
                    Ok(is_new) => {
                        handed.stored += usize::from(is_new);
                        let receipt = self.registry().tasks.get_mut(&id).and_then(|task| task.receipt.take());
                        stored.extend(receipt.map(|receipt| (Some(id), *receipt)));
                    }
                    // Whoever has it does not need ours.
                    Err(KeepError::Lost(_)) => handed.stale += 1,
                    Err(error) => handed.fail(format!("task {id:?}: {}", chain(&error))),
                }
            }
            let stored = GivingBack(self, stored);
            if let Some(visibility) = visibility {
                self.give_back_guarded(stored, visibility, deadline, &mut handed).await;
            }
        }
        if visibility.is_some() {
            let mut registry = self.registry();
            registry.tasks.retain(|_, task| task.content.is_some() || task.receipt.is_some());
            registry.version += 1;
        }
        handed
    }

    /// Tasks with something to store, and the messages that need not wait for any.
    fn split(&self) -> (Vec<String>, Vec<Pending>) {
        let mut registry = self.registry();
        let (mut waiting, mut ready) = (Vec::new(), Vec::new());
        for (id, task) in &mut registry.tasks {
            if task.content.is_some() || task.is_being_written {
                waiting.push(id.clone());
            } else if let Some(receipt) = task.receipt.take() {
                ready.push((Some(id.clone()), *receipt));
            }
        }
        ready.extend(std::mem::take(&mut registry.receipts).into_iter().map(|receipt| (None, receipt)));
        (waiting, ready)
    }

    async fn give_back(
        &self,
        pending: Vec<Pending>,
        visibility: Duration,
        deadline: &Deadline,
        handed: &mut HandedOver,
    ) {
        self.give_back_guarded(GivingBack(self, pending), visibility, deadline, handed).await;
    }

    async fn give_back_guarded(
        &self,
        mut pending: GivingBack<'_>,
        visibility: Duration,
        deadline: &Deadline,
        handed: &mut HandedOver,
    ) {
        let mut queues: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (_, receipt) in &pending.1 {
            queues.entry(&receipt.queue).or_default().push(receipt.receipt.clone());
        }
        let asked = queues.iter().map(|(queue, receipts)| async move {
            (*queue, receipts, self.change_visibility(queue, receipts, visibility, deadline).await)
        });
        let mut settled = std::collections::BTreeSet::new();
        for (queue, receipts, results) in futures_util::future::join_all(asked).await {
            for (receipt, result) in receipts.iter().zip(results) {
                match result {
                    Ok(()) => handed.given_back += 1,
                    Err(PortError::NotFound(_)) => handed.stale += 1,
                    Err(error) => {
                        // Refused for good: kept, it would make every evacuation to come incomplete.
                        let may_pass = !matches!(error, PortError::Refused(_));
                        handed.fail(format!("a message of {queue}: {error}"));
                        if may_pass {
                            continue;
                        }
                    }
                }
                settled.insert(Receipt { queue: queue.to_owned(), receipt: receipt.clone() });
            }
        }
        pending.1.retain(|(_, receipt)| !settled.contains(receipt));
    }

    async fn change_visibility(
        &self,
        queue: &str,
        receipts: &[String],
        visibility: Duration,
        deadline: &Deadline,
    ) -> Vec<Result<(), PortError>> {
        /// Without a deadline: a queue that is slower than this has failed.
        const WITHIN: Duration = Duration::from_secs(10);
        let left = deadline.current().map_or(WITHIN, |end| end.saturating_duration_since(Instant::now()));
        match self.ports.queues.iter().find(|port| port.knows(queue)) {
            Some(port) => port.change_visibility(queue, receipts, visibility, left).await,
            None => {
                let error = PortError::Refused("no queue of this kind is known here".to_owned());
                vec![Err(error); receipts.len()]
            }
        }
    }

    /// Gives one task back while the work goes on.
    pub(super) async fn release(&self, id: &str, visibility: Duration, deadline: &Deadline) -> HandedOver {
        let mut handed = HandedOver::default();
        let claim = match self.write(id, deadline).await {
            Ok(is_new) => {
                handed.stored += usize::from(is_new);
                self.registry().tasks.get(id).and_then(|task| task.claim.clone())
            }
            Err(KeepError::Lost(_)) => None,
            Err(error) => {
                handed.fail(chain(&error));
                return handed;
            }
        };
        if let Some(claim) = claim
            && let Err(error) = by(deadline, partial::give_up(&self.place, id, &claim)).await
        {
            handed.fail(chain(&error));
            return handed;
        }
        let receipt = self.registry().tasks.get_mut(id).and_then(|task| task.receipt.take());
        let pending: Vec<Pending> =
            receipt.into_iter().map(|receipt| (Some(id.to_owned()), *receipt)).collect();
        self.give_back(pending, visibility, deadline, &mut handed).await;
        if handed.failed == 0 {
            let mut registry = self.registry();
            registry.remove(id);
            registry.ended.released += 1;
        }
        handed
    }

    /// Deletes what is kept of a task that is done. Nothing of it is being written afterwards.
    pub(super) async fn forget(&self, id: &str) {
        let task = loop {
            let written = self.written.notified();
            match self.take_done(id) {
                Done::Gone => return,
                Done::Taken(task) => break task,
                Done::IsBeingWritten => written.await,
            }
        };
        let Some(claim) = task.claim else { return };
        if let Err(error) = partial::forget(&self.place, id, &self.instance, &claim).await {
            let error = chain(&error);
            tracing::warn!(task = id, error, "what is kept of a task that is done stays in the store");
        }
    }

    fn take_done(&self, id: &str) -> Done {
        let mut registry = self.registry();
        match registry.tasks.get(id) {
            None => Done::Gone,
            Some(task) if task.is_being_written => Done::IsBeingWritten,
            Some(_) => match registry.remove(id) {
                Some(task) => {
                    registry.ended.done += 1;
                    Done::Taken(task)
                }
                None => Done::Gone,
            },
        }
    }

    /// The tasks as they stand, for the saved state; `None` where the application told of none.
    pub(crate) fn state(&self) -> Option<serde_json::Value> {
        let registry = self.registry();
        if registry.is_unused() {
            return None;
        }
        let counts = registry.counts();
        let mut active = Vec::new();
        let mut size = 0;
        for (id, task) in &registry.tasks {
            size += id.len() + task.path.as_ref().map_or(0, |path| path.len()) + 64;
            size += task.receipt.as_ref().map_or(0, |receipt| receipt.receipt.len() + receipt.queue.len());
            if size > LISTED_BYTES_MAX {
                break;
            }
            active.push(json!({
                "task": id, "path": task.path, "progress": task.progress, "receipt": task.receipt,
                "has_partial_result": task.revision > 0,
            }));
        }
        let receipts: Vec<&Receipt> = registry.receipts.iter().take(LISTED_BYTES_MAX / 1024).collect();
        Some(json!({
            "instance": self.instance, "counts": counts, "active": active, "receipts": receipts,
        }))
    }
}

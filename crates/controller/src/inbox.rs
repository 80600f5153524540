//! The queue: receives in batches, gives each service the events of one receive in one turn, keeps messages hidden
//! while they are worked on, and deletes them only when their effect is durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lifeboat_core::failover::event::{Event, Happening};
use lifeboat_core::failover::machine::Receipt;
use lifeboat_core::time::{Millis, Timestamp};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::call::{BACKOFF, within};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::crash;
use crate::directory::{Directory, Mail};
use crate::event::{EcsEvent, MachineEvent, Parsed, parse};
use crate::port::{Inbox, Message};

/// Source: SQS API, DeleteMessageBatch: at most ten entries; read 2023.
const BATCH: usize = 10;

/// Receives whose messages may be worked on at once; beyond it nothing more is received.
const IN_HAND_MAX: usize = 1_024;

/// A message that is worked on for longer is let go: whatever holds it up, another receive starts anew.
const HELD_MAX: Millis = Millis::from_secs(300);

/// A few deletions wait this long for more, in real time.
const DELETE_WAIT: Duration = Duration::from_millis(10);

/// Deletions that run at once.
const DELETES_MAX: usize = 16;

/// One call, in real time; a receive waits for up to 20 s by itself.
const CALL_MAX: Duration = Duration::from_secs(5);
const RECEIVE_MAX: Duration = Duration::from_secs(30);

/// A queue that answers at once with nothing must not keep a processor busy.
const EMPTY_WAIT: Duration = Duration::from_millis(50);

/// Tasks whose versions are remembered; the oldest go first.
const VERSIONS_MAX: usize = 20_000;

/// What the ledger is told.
#[derive(Debug)]
pub(crate) enum Entry {
    /// These messages are being worked on.
    Held { receipt: Receipt, handles: Vec<String> },
    /// Their effect is durable.
    Done(Receipt),
    /// They have no effect.
    Void(Vec<String>),
    /// Nobody works on them: they may come again.
    LetGo(Receipt),
}

/// Machine events with the receipt that acknowledges them.
#[derive(Debug)]
pub(crate) struct MachineMail {
    pub(crate) receipt: Receipt,
    pub(crate) events: Vec<MachineEvent>,
}

/// What all receivers share.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) inbox: Arc<dyn Inbox>,
    pub(crate) directory: watch::Receiver<Arc<Directory>>,
    pub(crate) ledger: mpsc::Sender<Entry>,
    pub(crate) machines: Option<mpsc::Sender<MachineMail>>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) receipts: AtomicU64,
    /// One permit a receipt that is being worked on.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) versions: std::sync::Mutex<Versions>,
}

/// The newest version seen of each task.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    newest: BTreeMap<u64, u64>,
    order: VecDeque<u64>,
}

impl Versions {
    /// Whether an event is older than one that was seen. The same again is not: it may be one whose turn never ended,
    /// and core counts it once.
    fn is_old(&mut self, task: u64, version: u64) -> bool {
        match self.newest.get_mut(&task) {
            Some(newest) if *newest > version => true,
            Some(newest) => {
                *newest = version;
                false
            }
            None => {
                if self.order.len() >= VERSIONS_MAX
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.newest.remove(&oldest);
                }
                self.newest.insert(task, version);
                self.order.push_back(task);
                false
            }
        }
    }
}

/// What one receive comes to.
#[derive(Debug, Default)]
struct Sorted {
    by_service: BTreeMap<String, (Vec<Event>, Vec<String>)>,
    machines: (Vec<MachineEvent>, Vec<String>),
    void: Vec<String>,
    unreadable: Vec<(Message, String)>,
}

impl Post {
    pub(crate) fn new(
        inbox: Arc<dyn Inbox>,
        directory: watch::Receiver<Arc<Directory>>,
        ledger: mpsc::Sender<Entry>,
        machines: Option<mpsc::Sender<MachineMail>>,
        (clock, counters): (Clock, Arc<Counters>),
    ) -> Self {
        Self {
            inbox,
            directory,
            ledger,
            machines,
            clock,
            counters,
            receipts: AtomicU64::new(1),
            room: Arc::new(Semaphore::new(IN_HAND_MAX)),
            versions: std::sync::Mutex::default(),
        }
    }

    /// Receives until it is stopped.
    pub(crate) async fn receive(&self, seed: u64) {
        let mut failures = 0;
        loop {
            // Only looked at: permits are taken per service, once it is known how many there are.
            let room = self.room.acquire().await;
            drop(room);
            match within(RECEIVE_MAX, self.inbox.receive()).await {
                Ok(messages) if messages.is_empty() => {
                    failures = 0;
                    tokio::time::sleep(EMPTY_WAIT).await;
                }
                Ok(messages) => {
                    failures = 0;
                    self.counters.messages_received.many(messages.len());
                    crash::point("received");
                    self.hand_out(messages).await;
                }
                Err(error) => {
                    self.counters.receives_failed.one();
                    // One of them tells for all.
                    if seed == 0 && error.is_temporary() {
                        tracing::warn!(%error, "nothing could be received");
                    } else if seed == 0 {
                        tracing::error!(
                            %error,
                            "nothing can be received, looks alone tell: check queue.url and the permission to receive"
                        );
                    }
                    let backoff =
                        lifeboat_core::backoff::Backoff { seed, longest: Millis(20_000), ..BACKOFF };
                    tokio::time::sleep(backoff.wait(failures).to_duration()).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    async fn hand_out(&self, messages: Vec<Message>) {
        let now = self.clock.now();
        let directory = Arc::clone(&self.directory.borrow());
        let sorted = self.sort(now, &directory, messages);
        if !sorted.void.is_empty() {
            let _ = self.ledger.send(Entry::Void(sorted.void)).await; // at the end they come again
        }
        for (name, (events, handles)) in sorted.by_service {
            let Some(member) = directory.get(&name) else { continue };
            self.hold(handles, |receipt| member.mail.try_send(Mail::Events { receipt, events }).is_ok())
                .await;
        }
        let (events, handles) = sorted.machines;
        if let (Some(machines), false) = (&self.machines, events.is_empty()) {
            self.hold(handles, |receipt| machines.try_send(MachineMail { receipt, events }).is_ok()).await;
        }
        // Last: the dead-letter queue may be slow, and nobody else has to wait for it.
        self.bury(sorted.unreadable).await;
    }

    async fn bury(&self, unreadable: Vec<(Message, String)>) {
        let burials = unreadable.into_iter().map(|(message, why)| async move {
            self.counters.messages_unreadable.one();
            tracing::warn!(why, receives = message.receives, "a message cannot be read");
            match within(CALL_MAX, self.inbox.bury(&message.body, &why)).await {
                Ok(true) => Some(message.handle),
                // It comes again until the queue's own redrive policy moves it.
                Ok(false) => None,
                Err(error) => {
                    tracing::warn!(%error, "the dead-letter queue takes nothing");
                    None
                }
            }
        });
        let buried = futures_util::future::join_all(burials).await;
        let buried: Vec<String> = buried.into_iter().flatten().collect();
        if !buried.is_empty() {
            let _ = self.ledger.send(Entry::Void(buried)).await; // at the end they come again
        }
    }

    /// Enters messages into the ledger and then gives them to who works on them. Where nobody takes them they stay
    /// hidden for a while and come again.
    async fn hold(&self, handles: Vec<String>, give: impl FnOnce(Receipt) -> bool) {
        let receipt = Receipt(self.receipts.fetch_add(1, Ordering::Relaxed));
        let Ok(permit) = self.room.acquire().await else { return };
        permit.forget(); // the ledger gives it back
        let is_held = self.ledger.send(Entry::Held { receipt, handles }).await.is_ok();
        if is_held && !give(receipt) {
            tracing::debug!(?receipt, "nobody takes these events; they come again");
            let _ = self.ledger.send(Entry::LetGo(receipt)).await; // at the end they come again in any case
        }
    }

    fn sort(&self, now: Timestamp, directory: &Directory, messages: Vec<Message>) -> Sorted {
        let mut sorted = Sorted::default();
        for message in messages {
            match parse(&message.body) {
                Ok(Parsed::Ecs(event)) => self.sort_ecs(now, directory, event, message.handle, &mut sorted),
                Ok(Parsed::Machine(event)) if self.machines.is_some() => {
                    sorted.machines.0.push(event);
                    sorted.machines.1.push(message.handle);
                }
                Ok(Parsed::Machine(_)) => {
                    self.counters.messages_foreign.one();
                    sorted.void.push(message.handle);
                }
                Ok(Parsed::Nothing) => sorted.void.push(message.handle),
                Ok(Parsed::Unknown(kind)) => {
                    self.counters.messages_unknown.one();
                    tracing::debug!(kind, "an unknown event was dropped");
                    sorted.void.push(message.handle);
                }
                Err(error) => sorted.unreadable.push((message, error.to_string())),
            }
        }
        sorted
    }

    fn sort_ecs(
        &self,
        now: Timestamp,
        directory: &Directory,
        event: EcsEvent,
        handle: String,
        sorted: &mut Sorted,
    ) {
        let Some((name, _, side)) = directory.find(&event.service) else {
            self.counters.messages_foreign.one();
            sorted.void.push(handle);
            return;
        };
        // A notice is never dropped: the later event that makes it old may lack the code that says why.
        let is_notice = matches!(event.what, Happening::Warned { .. });
        if let (Some((task, version)), false) = (event.version, is_notice) {
            let mut versions = self.versions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if versions.is_old(task, version) {
                self.counters.messages_repeated.one();
                sorted.void.push(handle);
                return;
            }
        }
        let told =
            Event { at: event.at.unwrap_or(now), capacity: event.capacity.unwrap_or(side), what: event.what };
        let (events, handles) = sorted.by_service.entry(name.clone()).or_default();
        events.push(told);
        handles.push(handle);
    }
}

/// What is being worked on.
#[derive(Debug)]
struct Held {
    handles: Vec<String>,
    since: Instant,
    extended: Instant,
}

/// Keeps messages hidden and deletes them.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) inbox: Arc<dyn Inbox>,
    pub(crate) clock: Clock,
    /// As the queue counts it.
    pub(crate) visibility: Millis,
    pub(crate) counters: Arc<Counters>,
    pub(crate) room: Arc<Semaphore>,
}

impl Ledger {
    /// Works until nobody can tell it anything any more, and deletes what is done before it ends.
    pub(crate) async fn run(self, mut entries: mpsc::Receiver<Entry>) {
        let mut held: BTreeMap<u64, Held> = BTreeMap::new();
        let mut done: Vec<String> = Vec::new();
        let mut deletes = FuturesUnordered::new();
        let mut hiding: Option<BoxFuture<'_, ()>> = None;
        let visible = self.clock.real_time(self.visibility);
        let mut extend = tokio::time::interval((visible / 3).max(Duration::from_millis(20)));
        extend.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut flush_at: Option<Instant> = None;
        let mut is_open = true;
        while is_open || !deletes.is_empty() || !done.is_empty() {
            let is_due = !is_open || done.len() >= BATCH || flush_at.is_some_and(|at| at <= Instant::now());
            while !done.is_empty() && is_due && deletes.len() < DELETES_MAX {
                let batch: Vec<String> = done.drain(..done.len().min(BATCH)).collect();
                deletes.push(self.delete(batch));
            }
            if done.is_empty() {
                flush_at = None;
            }
            let flush = flush_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            tokio::select! {
                entry = entries.recv(), if is_open => match entry {
                    Some(entry) => {
                        if self.enter(entry, &mut held, &mut done) {
                            flush_at = flush_at.or_else(|| Some(Instant::now() + DELETE_WAIT));
                        }
                    }
                    None => is_open = false,
                },
                Some(()) = deletes.next() => {}
                () = tokio::time::sleep_until(flush), if deletes.len() < DELETES_MAX && !done.is_empty() => {}
                // Beside everything else: a queue that hides nothing must not keep what is done from its deletion, nor
                // anybody who has something to say from saying it.
                _ = extend.tick(), if is_open && hiding.is_none() => {
                    hiding = Some(Box::pin(self.hide(self.due(&mut held, visible))));
                }
                () = hidden(&mut hiding) => hiding = None,
            }
        }
    }

    /// True where something is to be deleted.
    fn enter(&self, entry: Entry, held: &mut BTreeMap<u64, Held>, done: &mut Vec<String>) -> bool {
        let handles = match entry {
            Entry::Held { receipt, handles } => {
                let now = Instant::now();
                held.insert(receipt.0, Held { handles, since: now, extended: now });
                return false;
            }
            Entry::Done(receipt) => match held.remove(&receipt.0) {
                Some(held) => {
                    self.room.add_permits(1);
                    held.handles
                }
                // Let go: the messages are in other hands by now.
                None => return false,
            },
            Entry::LetGo(receipt) => {
                if held.remove(&receipt.0).is_some() {
                    self.room.add_permits(1);
                }
                return false;
            }
            Entry::Void(handles) => handles,
        };
        done.extend(handles);
        true
    }

    async fn delete(&self, handles: Vec<String>) {
        crash::point("delete");
        match within(CALL_MAX, self.inbox.delete(&handles)).await {
            Ok(failed) => {
                self.counters.messages_deleted.many(handles.len().saturating_sub(failed));
                self.counters.deletes_failed.many(failed);
            }
            // They come again, and their effect is known by then.
            Err(error) => {
                self.counters.deletes_failed.many(handles.len());
                tracing::warn!(%error, "messages could not be deleted");
            }
        }
        crash::point("deleted");
    }

    /// What has used up a third of its time and is to be hidden again; what is held for too long is let go.
    fn due(&self, held: &mut BTreeMap<u64, Held>, visible: Duration) -> Vec<String> {
        let now = Instant::now();
        let longest = self.clock.real_time(HELD_MAX).max(visible);
        let all = held.len();
        held.retain(|_, held| now.duration_since(held.since) < longest);
        self.room.add_permits(all - held.len());
        let mut handles = Vec::new();
        for held in held.values_mut().filter(|held| now.duration_since(held.extended) >= visible / 3) {
            held.extended = now;
            handles.extend(held.handles.iter().cloned());
        }
        handles
    }

    async fn hide(&self, handles: Vec<String>) {
        let batches: Vec<Vec<String>> = handles.chunks(BATCH).map(<[String]>::to_vec).collect();
        let calls = batches.into_iter().map(|batch| async move {
            let hidden = within(CALL_MAX, self.inbox.extend(&batch, self.visibility.to_duration())).await;
            if let Err(error) = hidden {
                tracing::debug!(%error, "messages could not be kept hidden; they may come twice");
            }
        });
        futures_util::stream::iter(calls).buffer_unordered(DELETES_MAX).collect::<Vec<()>>().await;
    }
}

async fn hidden(hiding: &mut Option<BoxFuture<'_, ()>>) {
    match hiding {
        Some(hiding) => hiding.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_only_rise_and_are_bounded() {
        let mut versions = Versions::default();
        assert!(!versions.is_old(1, 3));
        assert!(!versions.is_old(1, 3));
        assert!(versions.is_old(1, 2));
        assert!(!versions.is_old(1, 4));
        for task in 0..3 * VERSIONS_MAX as u64 {
            versions.is_old(task, 1);
        }
        assert_eq!(versions.newest.len(), VERSIONS_MAX);
    }
}

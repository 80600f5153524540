//! Takes messages from a queue, one at a time: keeps each invisible while it is worked on, deletes it when it is
//! done, gives it back at the notice.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::client::{Error, Task, Worker};
use crate::queue::{Message, Queue, QueueError};
use crate::shutdown::Shutdown;
use crate::wire::Receipt;

/// A receive waits so long, and then looks whether to stop.
const RECEIVE_WAIT: Duration = Duration::from_millis(500);

/// A message that is done is deleted in so many attempts: should all fail, it is done once more.
const DELETE_ATTEMPTS: u32 = 20;

/// Between two of them, and after a receive that failed.
const AGAIN: Duration = Duration::from_millis(250);

/// After each further receive that failed twice as long, up to this: a queue that fails may be overloaded.
const AGAIN_MAX: Duration = Duration::from_secs(8);

/// Takes messages from `queue`.
#[derive(Debug)]
pub struct Consumer<Q> {
    worker: Worker,
    queue: Arc<Q>,
    ends_when_empty: bool,
}

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It is done and its result is safe: delete it.
    Done,
    /// It is given back: interrupted.
    Interrupted,
    /// It cannot be done, for this reason; it comes back when its time-out is over, until the queue gives it up.
    Failed(String),
}

/// How many messages came to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    /// Done and deleted.
    pub done: u64,
    /// Given back.
    pub interrupted: u64,
    /// Failed.
    pub failed: u64,
}

/// A message that is being worked on.
#[derive(Debug)]
pub struct Job {
    /// The message.
    pub message: Message,
    /// Its task: its id is the message's.
    pub task: Task,
    shutdown: Shutdown,
    is_lost: Arc<AtomicBool>,
}

impl Job {
    /// Whether to stop: the machine is about to go, or the message was given to somebody else.
    #[must_use]
    pub fn is_to_stop(&self) -> bool {
        self.shutdown.is_requested() || self.is_lost.load(Ordering::Relaxed)
    }
}

impl<Q: Queue + 'static> Consumer<Q> {
    /// A consumer of `queue`, known to the agent through `worker`.
    #[must_use]
    pub const fn new(worker: Worker, queue: Arc<Q>) -> Self {
        Self { worker, queue, ends_when_empty: false }
    }

    /// Ends when no message is left, in place of waiting for the next.
    #[must_use]
    pub const fn until_empty(mut self) -> Self {
        self.ends_when_empty = true;
        self
    }

    /// Hands every message to `handle`, until the shutdown is requested.
    ///
    /// # Errors
    /// [`Error`] when the agent's socket fails: without it nobody would give the messages back.
    pub fn run(&self, mut handle: impl FnMut(&Job) -> Handled) -> Result<Consumed, Error> {
        let shutdown = self.worker.shutdown();
        let mut consumed = Consumed::default();
        let mut trouble = Trouble::default();
        while !shutdown.is_requested() {
            let received = match self.queue.receive(RECEIVE_WAIT) {
                Ok(received) => received,
                // A queue that fails may come back.
                Err(error) => {
                    let pause = trouble.met(&self.queue.url(), &error);
                    let _ = shutdown.wait_timeout(pause); // looked at above
                    continue;
                }
            };
            trouble = Trouble::default();
            match received {
                Some(message) => self.one(message, &mut handle, &mut consumed)?,
                None if self.ends_when_empty && self.queue.is_empty().unwrap_or(false) => break,
                None => {}
            }
        }
        Ok(consumed)
    }

    fn one(
        &self,
        message: Message,
        handle: &mut impl FnMut(&Job) -> Handled,
        consumed: &mut Consumed,
    ) -> Result<(), Error> {
        let receipt = Receipt { queue: self.queue.url(), receipt: message.receipt.clone() };
        let start = self.worker.task(message.id.clone()).message(receipt, message.receive_count);
        let task = match start.start() {
            Ok(task) => task,
            Err(Error::Interrupted(_) | Error::Taken(_) | Error::Unavailable(_)) => {
                self.give_back(&message);
                consumed.interrupted += 1;
                let _ = self.worker.shutdown().wait_timeout(AGAIN);
                return Ok(());
            }
            Err(error) => {
                self.give_back(&message);
                return Err(error);
            }
        };
        let heartbeat = Heartbeat::start(Arc::clone(&self.queue), &message).map_err(Error::System)?;
        let is_lost = Arc::clone(&heartbeat.shared.is_lost);
        let job = Job { message, task, shutdown: self.worker.shutdown(), is_lost };
        let handled = handle(&job);
        let Job { message, task, is_lost, .. } = job;
        match handled {
            Handled::Done => {
                // First what is kept of the task, then the message: killed in between, it is done once more, and
                // nothing is left that nobody would ever delete.
                let ended = task.done();
                self.delete(&message);
                drop(heartbeat);
                consumed.done += 1;
                ended
            }
            Handled::Failed(_) => {
                drop(heartbeat);
                consumed.failed += 1;
                task.failed()
            }
            Handled::Interrupted => {
                // First: it would take the message back from whoever gets it next.
                drop(heartbeat);
                consumed.interrupted += 1;
                let given_back = task.give_back();
                if !self.worker.is_protected() && !is_lost.load(Ordering::Relaxed) {
                    self.give_back(&message);
                }
                match given_back {
                    // The agent keeps it and tries again at the notice.
                    Err(Error::Unavailable(_)) => Ok(()),
                    other => other,
                }
            }
        }
    }

    fn give_back(&self, message: &Message) {
        let _ = self.queue.change_visibility(&message.receipt, Duration::ZERO); // else its time-out does it
    }

    fn delete(&self, message: &Message) {
        for attempt in 0..DELETE_ATTEMPTS {
            match self.queue.delete(&message.receipt) {
                Ok(()) | Err(QueueError::Stale) => return,
                Err(QueueError::Failed(_)) if attempt + 1 < DELETE_ATTEMPTS => std::thread::sleep(AGAIN),
                Err(error @ QueueError::Failed(_)) => {
                    let id = &message.id;
                    let note = format!(
                        "lifeboat-worker: {id} is done and cannot be deleted: {error}; it comes again\n"
                    );
                    let _ = std::io::stderr().write_all(note.as_bytes()); // nobody reads it
                }
            }
        }
    }
}

/// A queue that fails, one time after the other.
#[derive(Debug, Default)]
struct Trouble {
    times: u32,
    said: String,
}

impl Trouble {
    /// Says what is wrong on standard error, once as long as it stays the same; returns how long to wait.
    fn met(&mut self, queue: &str, error: &QueueError) -> Duration {
        let text = error.to_string();
        if text != self.said {
            let note = format!("lifeboat-worker: cannot receive from {queue}: {text}; trying again\n");
            let _ = std::io::stderr().write_all(note.as_bytes()); // nobody reads it
            self.said = text;
        }
        let pause = AGAIN.saturating_mul(1 << self.times.min(10)).min(AGAIN_MAX);
        self.times += 1;
        pause
    }
}

/// Keeps a message invisible until it is dropped.
#[derive(Debug)]
struct Heartbeat {
    shared: Beat,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone, Debug, Default)]
struct Beat {
    is_over: Arc<(Mutex<bool>, Condvar)>,
    is_lost: Arc<AtomicBool>,
}

impl Heartbeat {
    fn start<Q: Queue + 'static>(queue: Arc<Q>, message: &Message) -> std::io::Result<Self> {
        let shared = Beat::default();
        let (beat, receipt) = (shared.clone(), message.receipt.clone());
        let thread = std::thread::Builder::new()
            .name("lifeboat-heartbeat".into())
            .spawn(move || beat.run(queue.as_ref(), &receipt))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Beat {
    fn run<Q: Queue>(&self, queue: &Q, receipt: &str) {
        let visibility = queue.visibility();
        let (lock, changed) = &*self.is_over;
        let mut is_over = lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the call: the queue counts from when it hears of it, or later.
        let mut extended = Instant::now();
        loop {
            let waited = changed.wait_timeout_while(is_over, visibility / 3, |is_over| !*is_over);
            is_over = waited.unwrap_or_else(PoisonError::into_inner).0;
            if *is_over {
                return;
            }
            // With the lock held: nothing is extended any more once it was dropped.
            let asked = Instant::now();
            match queue.change_visibility(receipt, visibility) {
                Ok(()) => extended = asked,
                // Nobody heard of it: when its time is over the queue gives it to whoever asks.
                Err(QueueError::Failed(_)) if extended.elapsed() < visibility => {}
                Err(QueueError::Stale | QueueError::Failed(_)) => {
                    self.is_lost.store(true, Ordering::Relaxed);
                    return;
                }
            }
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        let (lock, changed) = &*self.shared.is_over;
        *lock.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it does not panic
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of which only the visibility can be asked, and which does not hear of it.
    #[derive(Debug)]
    struct Deaf(Duration);

    impl Queue for Deaf {
        fn url(&self) -> String {
            "deaf".to_owned()
        }

        fn visibility(&self) -> Duration {
            self.0
        }

        fn receive(&self, _: Duration) -> Result<Option<Message>, QueueError> {
            Ok(None)
        }

        fn change_visibility(&self, _: &str, _: Duration) -> Result<(), QueueError> {
            Err(QueueError::Failed("no network".to_owned()))
        }

        fn delete(&self, _: &str) -> Result<(), QueueError> {
            Ok(())
        }

        fn is_empty(&self) -> Result<bool, QueueError> {
            Ok(true)
        }
    }

    #[test]
    fn a_message_that_could_not_be_extended_for_its_whole_time_counts_as_lost_and_no_sooner() {
        let visibility = Duration::from_millis(600);
        let message = Message { id: "m".into(), receipt: "r".into(), receive_count: 1, body: Vec::new() };
        let begun = Instant::now();
        let heartbeat = Heartbeat::start(Arc::new(Deaf(visibility)), &message).expect("started");
        while !heartbeat.shared.is_lost.load(Ordering::Relaxed) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it is worked on for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(begun.elapsed() >= visibility, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_queue_that_keeps_failing_is_asked_less_and_less_often() {
        let mut trouble = Trouble::default();
        let error = QueueError::Failed("denied".to_owned());
        let pauses: Vec<u128> = (0..12).map(|_| trouble.met("q", &error).as_millis()).collect();
        assert_eq!(pauses[..6], [250, 500, 1_000, 2_000, 4_000, 8_000]);
        assert!(pauses[6..].iter().all(|pause| *pause == 8_000), "{pauses:?}");
    }
}

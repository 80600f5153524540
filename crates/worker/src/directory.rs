//! A queue that is a directory, with the semantics of Amazon SQS: visibility time-outs, receipts, receive counts, dead
//! letters. For one machine, or several with the same file system *and the same clock*: visibility is kept as an
//! instant of the wall clock. Made for thousands of messages, not for millions: a receive lists the directory.
//!
//! A message is one file that is renamed: `ready/ID.COUNT` → `flight/ID.COUNT.NONCE` → gone, back, or `dead/ID.COUNT`.
//! A rename happens wholly or not at all and has one winner, so that any number of processes may be killed at any
//! moment. In flight, the file's modification time is the instant at which it becomes visible again.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use serde::{Deserialize, Serialize};

use crate::queue::{Message, Queue, QueueError};

/// Between two looks while a receive waits.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a directory's URL begins with.
const SCHEME: &str = "file://";

/// What holds for every message of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How long a received message stays invisible, ms.
    pub visibility_ms: u64,
    /// A message that was given out so often is not given out again: it becomes a dead letter.
    pub receives_max: u32,
}

/// As SQS: 30 s; and ten times, which leaves room for interruptions.
impl Default for Settings {
    fn default() -> Self {
        Self { visibility_ms: 30_000, receives_max: 10 }
    }
}

/// How many messages are where. Taken one after the other: while others work, an approximation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Waiting.
    pub ready: usize,
    /// Given out, and not deleted; those whose time-out is over too.
    pub in_flight: usize,
    /// Given up.
    pub dead: usize,
}

/// The queue. Any number of processes may have it open.
#[derive(Clone, Debug)]
pub struct DirectoryQueue {
    dir: PathBuf,
    settings: Settings,
}

impl DirectoryQueue {
    /// Makes the queue in `dir`, or opens the one that is there: its own settings then hold.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn create(dir: &Path, settings: Settings) -> io::Result<Self> {
        for part in ["new", "ready", "flight", "dead"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let dir = dir.canonicalize()?;
        let mine = dir.join("new").join(format!("queue-{:016x}", random()));
        fs::write(&mine, serde_json::to_vec_pretty(&settings)?)?;
        // A link has one winner: whoever makes the queue at the same time finds these settings.
        let linked = fs::hard_link(&mine, dir.join("queue.json"));
        fs::remove_file(&mine)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Self::open(&dir),
        }
    }

    /// Opens a queue that is there.
    ///
    /// # Errors
    /// `NotFound` where none is; `InvalidData` where it is no queue.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let settings = serde_json::from_slice(&fs::read(dir.join("queue.json"))?)?;
        Ok(Self { dir: dir.canonicalize()?, settings })
    }

    /// The directory that a queue's URL names; `None` where it names something else.
    #[must_use]
    pub fn directory_of(url: &str) -> Option<&Path> {
        url.strip_prefix(SCHEME).map(Path::new).filter(|path| path.is_absolute())
    }

    /// Sends a message; it outlives a power cut. Returns its id.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn send(&self, body: &[u8]) -> io::Result<String> {
        let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = format!("{:020}-{:016x}", sent.as_nanos(), random());
        let new = self.dir.join("new").join(&id);
        let mut file = File::create_new(&new)?;
        file.write_all(body)?;
        file.sync_all()?;
        fs::rename(&new, self.dir.join("ready").join(format!("{id}.0")))?;
        File::open(self.dir.join("ready"))?.sync_all()?;
        Ok(id)
    }

    /// How many messages are where.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn depth(&self) -> io::Result<Depth> {
        let count = |part: &str| fs::read_dir(self.dir.join(part)).map(Iterator::count);
        Ok(Depth { ready: count("ready")?, in_flight: count("flight")?, dead: count("dead")? })
    }

    fn flight(&self, name: &str) -> PathBuf {
        self.dir.join("flight").join(name)
    }

    /// Every message that may be given out now, the oldest first.
    fn visible(&self) -> io::Result<Vec<(String, u32, PathBuf)>> {
        let mut found = Vec::new();
        let now = SystemTime::now();
        for part in ["ready", "flight"] {
            for entry in fs::read_dir(self.dir.join(part))? {
                let entry = entry?;
                let name = entry.file_name();
                let Some((id, count)) = name.to_str().and_then(id_and_count) else { continue };
                // One that is gone was taken, or deleted, just now.
                let is_visible = part == "ready"
                    || entry.metadata().and_then(|meta| meta.modified()).is_ok_and(|until| until <= now);
                if is_visible {
                    found.push((id.to_owned(), count, entry.path()));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn receive_now(&self) -> io::Result<Option<Message>> {
        for (id, count, path) in self.visible()? {
            if count >= self.settings.receives_max {
                let _ = fs::rename(&path, self.dir.join("dead").join(format!("{id}.{count}"))); // somebody else did
                continue;
            }
            let receipt = format!("{id}.{}.{:016x}", count + 1, random());
            let taken = self.flight(&receipt);
            if fs::rename(&path, &taken).is_err() {
                continue; // somebody else was first
            }
            // Extended in the moment between the look and the rename: it is still theirs.
            let until = fs::metadata(&taken).and_then(|meta| meta.modified());
            if path.starts_with(self.dir.join("flight")) && until.is_ok_and(|until| until > SystemTime::now())
            {
                let _ = fs::rename(&taken, &path); // gone: taken on
                continue;
            }
            // Until its time is set it looks visible, and somebody may take it on: then this fails.
            if self.set_until(&receipt, Duration::from_millis(self.settings.visibility_ms)).is_err() {
                continue;
            }
            let body = fs::read(&taken)?;
            return Ok(Some(Message { id, receipt, receive_count: count + 1, body }));
        }
        Ok(None)
    }

    /// By path: fails when the message has another name by now.
    fn set_until(&self, receipt: &str, visibility: Duration) -> io::Result<()> {
        let until = (SystemTime::now() + visibility).duration_since(UNIX_EPOCH).unwrap_or_default();
        let instant = Timespec {
            tv_sec: i64::try_from(until.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(until.subsec_nanos()),
        };
        let times = Timestamps { last_access: instant, last_modification: instant };
        Ok(rustix::fs::utimensat(CWD, self.flight(receipt), &times, AtFlags::empty())?)
    }

    /// The message behind a receipt, while that is valid. A receipt may come from anywhere: it must not lead out.
    fn in_flight(&self, receipt: &str) -> Result<(&Self, String), QueueError> {
        let is_ours = receipt.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        match id_and_count(receipt) {
            Some((id, count)) if is_ours => Ok((self, format!("{id}.{count}"))),
            Some(_) | None => Err(QueueError::Stale),
        }
    }
}

impl Queue for DirectoryQueue {
    fn url(&self) -> String {
        format!("{SCHEME}{}", self.dir.display())
    }

    fn visibility(&self) -> Duration {
        Duration::from_millis(self.settings.visibility_ms)
    }

    fn receive(&self, wait: Duration) -> Result<Option<Message>, QueueError> {
        let end = Instant::now() + wait;
        loop {
            if let Some(message) = self.receive_now()? {
                return Ok(Some(message));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(LOOK_AGAIN.min(left));
        }
    }

    /// A message whose time-out is over counts as lost, also while nobody else has it yet.
    fn change_visibility(&self, receipt: &str, visibility: Duration) -> Result<(), QueueError> {
        let (_, ready_name) = self.in_flight(receipt)?;
        let path = self.flight(receipt);
        if visibility.is_zero() {
            return stale_if_gone(fs::rename(path, self.dir.join("ready").join(ready_name)));
        }
        let until = fs::metadata(&path).and_then(|meta| meta.modified());
        match until {
            Ok(until) if until > SystemTime::now() => stale_if_gone(self.set_until(receipt, visibility)),
            Ok(_) => Err(QueueError::Stale),
            Err(error) => stale_if_gone(Err(error)),
        }
    }

    fn delete(&self, receipt: &str) -> Result<(), QueueError> {
        self.in_flight(receipt)?;
        stale_if_gone(fs::remove_file(self.flight(receipt)))
    }

    fn is_empty(&self) -> Result<bool, QueueError> {
        // Between two lists a message may move to the one that was read already: both are read twice.
        for _ in 0..2 {
            let depth = self.depth()?;
            if depth.ready + depth.in_flight > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn stale_if_gone(result: io::Result<()>) -> Result<(), QueueError> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(QueueError::Stale),
        other => Ok(other?),
    }
}

/// `ID.COUNT` and whatever follows.
fn id_and_count(name: &str) -> Option<(&str, u32)> {
    let mut parts = name.split('.');
    let id = parts.next().filter(|id| !id.is_empty())?;
    Some((id, parts.next()?.parse().ok()?))
}

/// 64 bits that nobody else draws: the standard library seeds each of these from the kernel.
fn random() -> u64 {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        hasher.write_u128(now.as_nanos());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(settings: Settings) -> (tempfile::TempDir, DirectoryQueue) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let queue = DirectoryQueue::create(&temp.path().join("q"), settings).expect("created");
        (temp, queue)
    }

    const LONG: Settings = Settings { visibility_ms: 3_600_000, receives_max: 3 };

    fn receive(queue: &DirectoryQueue) -> Option<Message> {
        queue.receive(Duration::ZERO).expect("received")
    }

    #[test]
    fn a_message_is_given_out_once_and_gone_when_deleted() {
        let (_temp, queue) = queue(LONG);
        let id = queue.send(b"hello").expect("sent");
        let message = receive(&queue).expect("there is one");
        assert_eq!((message.id, message.receive_count, &message.body[..]), (id, 1, &b"hello"[..]));
        assert_eq!(receive(&queue), None);
        assert!(!queue.is_empty().expect("asked"));
        queue.delete(&message.receipt).expect("deleted");
        assert!(queue.is_empty().expect("asked"));
        assert!(matches!(queue.delete(&message.receipt), Err(QueueError::Stale)));
    }

    #[test]
    fn a_message_that_is_handed_back_comes_again_with_another_receipt_until_it_is_given_up() {
        let (_temp, queue) = queue(LONG);
        queue.send(b"x").expect("sent");
        let mut receipts = Vec::new();
        for count in 1..=3 {
            let message = receive(&queue).expect("visible again");
            assert_eq!(message.receive_count, count);
            queue.change_visibility(&message.receipt, Duration::ZERO).expect("handed back");
            receipts.push(message.receipt);
        }
        assert_eq!(receive(&queue), None);
        assert_eq!(queue.depth().expect("counted"), Depth { ready: 0, in_flight: 0, dead: 1 });
        for receipt in receipts {
            assert!(matches!(queue.change_visibility(&receipt, LOOK_AGAIN), Err(QueueError::Stale)));
        }
    }

    #[test]
    fn a_message_whose_time_is_over_goes_to_another_and_the_first_receipt_is_stale() {
        let (_temp, queue) = queue(LONG);
        queue.send(b"x").expect("sent");
        let first = receive(&queue).expect("there is one");
        queue.set_until(&first.receipt, Duration::ZERO).expect("over");
        assert!(matches!(queue.change_visibility(&first.receipt, LOOK_AGAIN), Err(QueueError::Stale)));
        let second = receive(&queue).expect("visible again");
        assert!(matches!(queue.delete(&first.receipt), Err(QueueError::Stale)));
        queue.change_visibility(&second.receipt, Duration::from_secs(60)).expect("still valid");
        assert_eq!(receive(&queue), None);
    }

    #[test]
    fn a_receipt_never_leads_out_of_the_queue() {
        let (temp, queue) = queue(LONG);
        fs::write(temp.path().join("secret.1"), "s").expect("written");
        for receipt in ["../../secret.1", "../secret.1.2", "/etc/passwd", "", ".", "x", "a.1/../../secret.1"]
        {
            assert!(matches!(queue.delete(receipt), Err(QueueError::Stale)), "{receipt}");
            assert!(matches!(queue.change_visibility(receipt, Duration::ZERO), Err(QueueError::Stale)));
        }
        assert!(temp.path().join("secret.1").exists());
    }

    #[test]
    fn of_many_that_receive_at_once_each_message_has_one() {
        let (_temp, queue) = queue(LONG);
        for n in 0..60 {
            queue.send(format!("{n}").as_bytes()).expect("sent");
        }
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || {
                    std::iter::from_fn(|| receive(&queue)).map(|message| message.id).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut all: Vec<String> =
            threads.into_iter().flat_map(|thread| thread.join().expect("ended")).collect();
        all.sort();
        let given = all.len();
        all.dedup();
        assert_eq!((given, all.len()), (60, 60));
    }

    #[test]
    fn the_settings_are_those_of_whoever_made_it() {
        let (temp, queue) = queue(LONG);
        let again = DirectoryQueue::create(&temp.path().join("q"), Settings::default()).expect("opened");
        assert_eq!(again.settings, queue.settings);
        let path = DirectoryQueue::directory_of(&queue.url()).expect("a directory").to_owned();
        assert_eq!(DirectoryQueue::open(&path).expect("opened").settings, LONG);
        assert!(DirectoryQueue::open(temp.path()).is_err());
        assert_eq!(DirectoryQueue::directory_of("https://sqs.eu-west-1.amazonaws.com/1/q"), None);
    }
}

//! The registry on this machine's disk: what an agent that takes over, or `lifeboat evacuate`, needs to store what
//! is not stored yet and to give messages back. Best effort: a full disk must not stop anything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lifeboat_snapshot::partial::{Content, TaskClaim};
use lifeboat_worker::wire::{Counts, Receipt};
use serde::{Deserialize, Serialize};

use super::registry::{Registry, Task};
use crate::dirs::{Outlive, write_atomically};

/// The version of the file's form.
const FORMAT: u32 = 1;

/// All that may wait, in base64, with as many tasks as there may be.
const SIZE_MAX: u64 = 512 << 20;

#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    /// One writes at a time: an older state must not replace a newer one.
    writing: Mutex<()>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    tasks: Vec<Entry>,
    receipts: Vec<Receipt>,
    ended: Counts,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    id: String,
    path: Option<String>,
    progress: Option<f64>,
    receipt: Option<Receipt>,
    attempt: Option<u32>,
    claim: Option<u64>,
    revision: u64,
    /// Base64, and whether it is JSON.
    waiting: Option<(String, bool)>,
}

impl Spool {
    pub(super) fn at(agent_dir: &Path) -> Self {
        Self { path: agent_dir.join("tasks.json"), writing: Mutex::default() }
    }

    /// What the agent before this one left. A spool that cannot be read is reported and taken for none.
    pub(super) fn load(&self) -> Registry {
        match self.read() {
            Ok(file) => restored(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Registry::default(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the tasks of the agent before are unreadable: their messages come back when their time-outs are over");
                Registry::default()
            }
        }
    }

    fn read(&self) -> io::Result<File> {
        if std::fs::metadata(&self.path)?.len() > SIZE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
        }
        let file: File = serde_json::from_slice(&std::fs::read(&self.path)?)?;
        if file.format == FORMAT {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("its format {} is unknown", file.format)))
        }
    }

    /// The registry as it stands, as text.
    pub(super) fn text(registry: &Registry) -> Vec<u8> {
        let entry = |(id, task): (&String, &Task)| Entry {
            id: id.clone(),
            path: task.path.as_deref().map(str::to_owned),
            progress: task.progress,
            receipt: task.receipt.as_deref().cloned(),
            attempt: task.attempt,
            claim: task.claim.as_ref().map(|claim| claim.number),
            revision: task.revision,
            waiting: task.content.as_ref().map(|content| (STANDARD.encode(&content.bytes), content.is_json)),
        };
        let file = File {
            format: FORMAT,
            tasks: registry.tasks.iter().map(entry).collect(),
            receipts: registry.receipts.iter().cloned().collect(),
            ended: registry.ended,
        };
        serde_json::to_vec(&file).expect("texts and numbers are JSON")
    }

    /// Writes what `text` gives once it is this writer's turn.
    pub(super) fn write(&self, text: impl FnOnce() -> Vec<u8>, outlive: Outlive) {
        // Nothing is lost with whoever panics.
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = write_atomically(&self.path, &text(), outlive) {
            tracing::warn!(path = %self.path.display(), %error, "cannot keep the tasks on this machine");
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

fn restored(file: File) -> Registry {
    let mut registry = Registry { ended: file.ended, ..Registry::default() };
    registry.receipts.extend(file.receipts);
    for entry in file.tasks {
        let mut task = Task {
            path: entry.path.map(String::into_boxed_str),
            progress: entry.progress,
            receipt: entry.receipt.map(Box::new),
            attempt: entry.attempt,
            claim: entry.claim.map(|number| TaskClaim { number }),
            revision: entry.revision,
            turn: registry.turn,
            ..Task::default()
        };
        if let Some((text, is_json)) = entry.waiting
            && let Ok(bytes) = STANDARD.decode(text)
        {
            registry.waiting_bytes += bytes.len();
            registry.waiting.insert((registry.turn, entry.id.clone()));
            task.content = Some(Content { bytes: bytes.into(), is_json });
        }
        registry.turn += 1;
        registry.tasks.insert(entry.id, task);
    }
    registry
}

#[cfg(test)]
mod tests {
    use lifeboat_worker::wire::Registration;

    use super::*;

    #[test]
    fn a_writer_that_is_slow_does_not_replace_what_a_later_one_wrote() {
        use std::sync::mpsc;
        use std::time::Duration;
        let temp = tempfile::tempdir().expect("temporary directory");
        let spool = Spool::at(temp.path());
        let (began, begun) = mpsc::channel();
        let (done, later) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let slow = move || {
                    began.send(()).expect("somebody waits");
                    // In vain: the later one waits for this.
                    let _ = later.recv_timeout(Duration::from_millis(300));
                    b"older".to_vec()
                };
                spool.write(slow, Outlive::Process);
            });
            begun.recv().expect("it writes");
            spool.write(|| b"newer".to_vec(), Outlive::Process);
            let _ = done.send(()); // it may have given up
        });
        assert_eq!(std::fs::read(spool.path()).expect("written"), b"newer");
    }

    #[test]
    fn what_waits_survives_the_agent() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let spool = Spool::at(temp.path());
        let mut registry = Registry::default();
        let receipt = Receipt { queue: "file:///q".into(), receipt: "r".into() };
        let registration = Registration { id: "../x".into(), receipt: Some(receipt), ..Default::default() };
        registry.register(registration, 1, |_| true).expect("taken in");
        let content = Content { bytes: vec![0, 255].into(), is_json: false };
        assert!(matches!(registry.checkpoint("../x", content.clone(), Some(0.5)), Some(Ok(1))));
        spool.write(|| Spool::text(&registry), Outlive::Process);
        let again = spool.load();
        let task = &again.tasks["../x"];
        assert_eq!((task.content.as_ref(), task.progress), (Some(&content), Some(0.5)));
        assert_eq!((again.waiting_bytes, again.waiting.len(), again.counts().receipts), (2, 1, 1));
        for damage in ["", "{", "[]", "{\"format\":9}"] {
            std::fs::write(spool.path(), damage).expect("written");
            assert!(spool.load().is_unused(), "{damage}");
        }
    }
}

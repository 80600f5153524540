//! What a restarted agent needs to know of the one before it: one small file, replaced as a whole.
//!
//! It is kept as well as it can be and never needed for safety: who owns the work is the store's to say. A
//! record that is lost costs a resumed evacuation its memory of what was done, so that it is done once more.

use std::io;
use std::path::{Path, PathBuf};

use lifeboat_core::evacuation::Progress;
use lifeboat_core::evacuation::stage::STAGES;
use lifeboat_snapshot::ManifestRef;
use lifeboat_snapshot::extra::StoredObject;
use lifeboat_snapshot::id::Nonce;
use serde::{Deserialize, Deserializer, Serialize};

use crate::dirs::{Outlive, write_atomically};
use crate::process::Mark;
use crate::summary::Snapshot;

/// The version of the file's form.
const FORMAT: u32 = 1;

/// A record larger than this is not ours.
const SIZE_MAX: u64 = 1 << 20;

/// The content of `record.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the file's form.
    pub format: u32,
    /// Where the evacuation stands.
    pub progress: Progress,
    /// The workload that was running.
    pub workload: Option<Mark>,
    /// The agent has stopped the unit that it protects, and starts it when the work may go on.
    #[serde(default)]
    pub stopped: bool,
    /// The recovery point that is being restored into the work directory; gone when it is whole.
    pub restoring: bool,
    /// The recovery point that the work directory was last equal to. Files that are still as in it are proven
    /// stored, and may be replaced when another machine has carried the work on meanwhile.
    pub base: Option<ManifestRef>,
    /// What the stages of the evacuation have stored so far.
    pub saved: Saved,
    /// What each stage said of itself, by its index.
    #[serde(default, deserialize_with = "as_many_as_there_are")]
    pub details: [String; STAGES],
}

/// A version with more or fewer stages wrote others: only words are lost then, while the rest of the record is needed by
/// an agent that is replaced by a newer one.
fn as_many_as_there_are<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[String; STAGES], D::Error> {
    let written = Vec::<String>::deserialize(deserializer)?;
    Ok(<[String; STAGES]>::try_from(written).unwrap_or_default())
}

/// What an evacuation has stored so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The committed snapshot.
    pub snapshot: Option<Snapshot>,
    /// The state with the interruption added.
    pub state: Option<StoredObject>,
    /// The last log lines.
    pub logs: Option<StoredObject>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            format: FORMAT,
            progress: Progress::Idle { handled: None },
            workload: None,
            stopped: false,
            restoring: false,
            base: None,
            saved: Saved::default(),
            details: Default::default(),
        }
    }
}

/// The record's file.
#[derive(Clone, Debug)]
pub struct RecordFile {
    path: PathBuf,
}

impl RecordFile {
    /// The record in an agent's directory.
    #[must_use]
    pub fn new(agent_dir: &Path) -> Self {
        Self { path: agent_dir.join("record.json") }
    }

    /// Reads the record. One that cannot be read is reported and taken for none: it must not stop a run.
    #[must_use]
    pub fn load(&self) -> Record {
        match self.read() {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the agent's record is unreadable; going on without it");
                Record::default()
            }
        }
    }

    fn read(&self) -> io::Result<Record> {
        if std::fs::metadata(&self.path)?.len() > SIZE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
        }
        let record: Record = serde_json::from_slice(&std::fs::read(&self.path)?)?;
        if record.format == FORMAT {
            Ok(record)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("its format {} is unknown", record.format),
            ))
        }
    }

    /// Writes the record, best effort: a full disk must not stop an evacuation.
    pub fn store(&self, record: &Record) {
        let written = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|text| write_atomically(&self.path, &text, Outlive::Process));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "cannot keep the agent's record; going on without it");
        }
    }
}

/// This agent's lasting identity towards the store: drawn once, kept in the agent's directory.
///
/// # Errors
/// When it can be neither read nor written: without it the agent could not recognise its own claim.
pub fn agent_id(agent_dir: &Path) -> io::Result<Nonce> {
    let path = agent_dir.join("agent-id");
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse() {
            Ok(id) => return Ok(id),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the agent's identity is damaged; drawing a new one");
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = Nonce::random();
    write_atomically(&path, format!("{id}\n").as_bytes(), Outlive::PowerCut)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_record_is_taken_for_none() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let file = RecordFile::new(temp.path());
        assert_eq!(file.load(), Record::default());
        let record = Record { restoring: true, ..Record::default() };
        file.store(&record);
        assert_eq!(file.load(), record);
        for damage in ["", "{", "[]", "{\"format\":99}", "\u{0}\u{0}"] {
            std::fs::write(temp.path().join("record.json"), damage).expect("written");
            assert_eq!(file.load(), Record::default(), "{damage:?}");
        }
    }

    #[test]
    fn the_record_of_a_version_with_other_stages_is_read_while_nothing_is_evacuated() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let file = RecordFile::new(temp.path());
        let record = Record { workload: Some(Mark::of_others()), stopped: true, ..Record::default() };
        let mut value = serde_json::to_value(&record).expect("JSON");
        value["details"] = serde_json::json!(["", "killed"]);
        std::fs::write(temp.path().join("record.json"), value.to_string()).expect("written");
        assert_eq!(file.load(), record);
    }

    #[test]
    fn the_identity_lasts() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let first = agent_id(temp.path()).expect("drawn");
        assert_eq!(agent_id(temp.path()).expect("read"), first);
        std::fs::write(temp.path().join("agent-id"), "x").expect("damaged");
        assert_ne!(agent_id(temp.path()).expect("drawn anew"), first);
    }
}

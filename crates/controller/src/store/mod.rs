//! Where the state of each service and its history are kept.
//!
//! State and history entry are stored in one transaction, and only if the stored generation is the expected one
//! (compare-and-set). [`MemoryStore`] forgets at the end, [`SqliteStore`] is one file on one machine,
//! [`DynamoStore`] a table that several controllers share.
//! `tests/store.rs` is the suite that all of them pass.

mod dynamo;
mod memory;
mod sqlite;

use std::collections::BTreeMap;

use async_trait::async_trait;
use lifeboat_core::failover::history::Entry;
use lifeboat_core::failover::state::State;
use lifeboat_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::dynamo::DynamoStore;
pub use self::memory::MemoryStore;
pub use self::sqlite::SqliteStore;

/// History is kept for so long unless configured. A state is kept for ever: a TTL on it would forget a long failover
/// and never return.
pub const HISTORY_KEPT: Millis = Millis::from_secs(90 * 86_400);

/// One query returns at most so many entries.
pub const HISTORY_PAGE_MAX: usize = 1_000;

/// The form in which a state is stored. A version that is newer than the program is refused, not guessed at.
pub const FORMAT: u32 = 1;

/// What to store of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The pair's name.
    pub service: String,
    /// The generation that must be stored now; none where nothing may be stored yet.
    pub expected: Option<u64>,
    /// The new state; its generation differs from `expected`.
    pub state: Box<State>,
    /// What to add to the history.
    pub entry: Option<Entry>,
}

/// How a commit ended where the store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is durable.
    Stored,
    /// Somebody else committed first; nothing was stored.
    Conflict,
}

/// One fact of the past, of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The pair's name.
    pub service: String,
    /// What changed.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What Spot has saved on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Days since 1970-01-01, UTC.
    pub day: i64,
    /// Against the same tasks On-Demand, in millionths of a dollar.
    pub saved_micros: u64,
    /// Up to then it is counted; who counts on must start here, so that two controllers count nothing twice.
    pub until: Timestamp,
}

/// Why the store did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or is busy: again, later. What became of a commit is not known.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It asks for fewer calls.
    #[error("the store throttles: {0}")]
    Throttled(String),
    /// A permission is missing, the table or the file does not exist or cannot be written.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
    /// What is stored cannot be read.
    #[error("what is stored of {service} cannot be read: {what}")]
    Corrupt {
        /// Of which service.
        service: String,
        /// Why.
        what: String,
    },
}

/// The store of a fleet.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The state of `service`, read consistently.
    async fn load(&self, service: &str) -> Result<Option<Box<State>>, StoreError>;

    /// The generation that is stored now, read consistently.
    async fn generation(&self, service: &str) -> Result<Option<u64>, StoreError>;

    /// The generations of all of `services` that have one; may be moments old.
    async fn generations(&self, services: &[String]) -> Result<BTreeMap<String, u64>, StoreError>;

    /// Stores state and entry together, if the stored generation is the expected one. An error leaves open whether it
    /// was stored.
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError>;

    /// The newest entries, newest first, at most `limit` and at most [`HISTORY_PAGE_MAX`]; of one service or of all.
    /// Those of one service in the order in which they were stored, whatever clocks their controllers have.
    async fn history(&self, service: Option<&str>, limit: usize) -> Result<Vec<Fact>, StoreError>;

    /// Every service that has a state, with it, by name.
    async fn states(&self) -> Result<BTreeMap<String, Box<State>>, StoreError>;

    /// Deletes history that is older than `before`. A store that deletes by itself does nothing.
    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError>;

    /// What Spot has saved, as it was last stored.
    async fn meter(&self, service: &str) -> Result<Option<Meter>, StoreError>;

    /// Stores `next` if `before` is stored.
    async fn set_meter(
        &self,
        service: &str,
        before: Option<Meter>,
        next: Meter,
    ) -> Result<Committed, StoreError>;
}

/// A state as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    state: State,
}

pub(crate) fn encode(state: &State) -> String {
    let record = Record { format: FORMAT, state: state.clone() };
    serde_json::to_string(&record).expect("a state has no map with keys other than text")
}

pub(crate) fn decode(service: &str, text: &str) -> Result<Box<State>, StoreError> {
    let corrupt = |what: String| StoreError::Corrupt { service: service.to_owned(), what };
    let record: Record = serde_json::from_str(text).map_err(|error| corrupt(error.to_string()))?;
    if record.format > FORMAT {
        let what = format!("format {} is of a newer Lifeboat; this one reads up to {FORMAT}", record.format);
        return Err(corrupt(what));
    }
    Ok(Box::new(record.state))
}

pub(crate) fn encode_entry(entry: &Entry) -> String {
    serde_json::to_string(entry).expect("an entry has no map with keys other than text")
}

pub(crate) fn decode_entry(service: &str, text: &str) -> Result<Entry, StoreError> {
    let what = |error: serde_json::Error| error.to_string();
    serde_json::from_str(text)
        .map_err(|error| StoreError::Corrupt { service: service.to_owned(), what: what(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_the_first_format_is_read_and_one_of_a_newer_refused() {
        let golden = include_str!("golden-state-1.json");
        let state = decode("orders", golden).expect("readable");
        assert_eq!((state.generation, state.split.on_demand), (42, 3));
        assert_eq!(encode(&decode("orders", &encode(&state)).expect("readable")), encode(&state));
        let newer = golden.replace("\"format\":1", "\"format\":2");
        let error = decode("orders", &newer).expect_err("newer").to_string();
        assert!(error.contains("newer Lifeboat"), "{error}");
    }
}

//! One SQLite file on one machine: the store of a controller that runs alone, or of several on that machine.
//!
//! A thread owns the connection. Commits that wait while one transaction is written share the next, each with its own
//! compare-and-set and its own answer: one `fsync` for all of them. `synchronous=FULL` in WAL mode: what was answered
//! is on the disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lifeboat_core::failover::state::State;
use lifeboat_core::time::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    Commit, Committed, Fact, HISTORY_PAGE_MAX, Meter, Store, StoreError, decode, decode_entry, encode,
    encode_entry,
};

/// Requests that may wait; beyond it the callers wait to be let in.
const WAITING_MAX: usize = 4_096;

/// Requests that share a transaction. More would make the first wait for the last.
const TOGETHER_MAX: usize = 512;

/// How long another process may hold the file. Shorter than the machine's patience with an answer.
const BUSY: Duration = Duration::from_secs(5);

/// Between two tries to open a file that another process is creating.
const OPEN_AGAIN: Duration = Duration::from_millis(20);

/// Raised with every change of the tables.
const SCHEMA: i64 = 1;

/// See the module.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    requests: mpsc::Sender<Request>,
}

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Request {
    Load(String, Answer<Option<Box<State>>>),
    Generation(String, Answer<Option<u64>>),
    Generations(Vec<String>, Answer<BTreeMap<String, u64>>),
    Commit(Commit, Answer<Committed>),
    History(Option<String>, usize, Answer<Vec<Fact>>),
    States(Answer<BTreeMap<String, Box<State>>>),
    Prune(Timestamp, Answer<u64>),
    Meter(String, Answer<Option<Meter>>),
    SetMeter(String, Option<Meter>, Meter, Answer<Committed>),
}

impl SqliteStore {
    /// Opens `path`, which is created where it does not exist.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when it cannot be opened or belongs to a newer Lifeboat.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Opens a file that must exist, for commands of people.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when there is none, or it cannot be used.
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        Self::with(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    fn with(path: &Path, flags: OpenFlags) -> Result<Self, StoreError> {
        let until = Instant::now() + BUSY;
        let connection = loop {
            match connect(path, flags) {
                // A new file turns to its journal's mode alone: whoever opens it at that moment is refused at once.
                Err(error) if is_busy(&error) && Instant::now() < until => std::thread::sleep(OPEN_AGAIN),
                connected => break connected.map_err(|error| unusable(path, &error))?,
            }
        };
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || serve(connection, waiting, &path))
            .map_err(|error| StoreError::Unusable(error.to_string()))?;
        Ok(Self { requests })
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::Unavailable("its thread has ended".to_owned());
        self.requests.send(request(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn unusable(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Unusable(format!("{}: {error}", path.display()))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let busy = [rusqlite::ErrorCode::DatabaseBusy, rusqlite::ErrorCode::DatabaseLocked];
    error.sqlite_error_code().is_some_and(|code| busy.contains(&code))
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > SCHEMA {
        let what = format!("its tables are of version {found}, this Lifeboat knows up to {SCHEMA}");
        return Err(rusqlite::Error::ToSqlConversionFailure(what.into()));
    }
    if found < SCHEMA {
        connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS state (
                 service TEXT PRIMARY KEY, generation INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS history (
                 service TEXT NOT NULL, generation INTEGER NOT NULL, at INTEGER NOT NULL, entry TEXT NOT NULL,
                 PRIMARY KEY (service, generation)) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS history_at ON history (at);
             CREATE TABLE IF NOT EXISTS meter (
                 service TEXT PRIMARY KEY, day INTEGER NOT NULL, saved INTEGER NOT NULL, until INTEGER NOT NULL)
                 WITHOUT ROWID;
             PRAGMA user_version = 1;
             COMMIT;",
        )?;
    }
    Ok(connection)
}

/// The thread: until every sender is gone.
fn serve(mut connection: Connection, mut waiting: mpsc::Receiver<Request>, path: &Path) {
    let mut together = Vec::with_capacity(TOGETHER_MAX);
    while waiting.blocking_recv_many(&mut together, TOGETHER_MAX) > 0 {
        let mut commits = Vec::new();
        for request in together.drain(..) {
            match request {
                Request::Commit(commit, answer) => commits.push((commit, answer)),
                other => read(&mut connection, other, path),
            }
        }
        if !commits.is_empty() {
            commit_all(&mut connection, commits, path);
        }
    }
}

/// Answers what needs no share of a transaction. That the asker has gone is its own affair.
fn read(connection: &mut Connection, request: Request, path: &Path) {
    let failed = |error: &rusqlite::Error| failure(path, error);
    match request {
        Request::Load(service, answer) => {
            let text = state_text(connection, &service).map_err(|error| failed(&error));
            let state = text.and_then(|text| text.map(|text| decode(&service, &text)).transpose());
            let _ = answer.send(state);
        }
        Request::Generation(service, answer) => {
            let _ = answer.send(generation(connection, &service).map_err(|error| failed(&error)));
        }
        Request::Generations(services, answer) => {
            let known: rusqlite::Result<BTreeMap<String, u64>> = services
                .into_iter()
                .filter_map(|name| match generation(connection, &name) {
                    Ok(known) => known.map(|known| Ok((name, known))),
                    Err(error) => Some(Err(error)),
                })
                .collect();
            let _ = answer.send(known.map_err(|error| failed(&error)));
        }
        Request::History(service, limit, answer) => {
            let _ = answer.send(history(connection, service.as_deref(), limit, path));
        }
        Request::States(answer) => {
            let _ = answer.send(states(connection, path));
        }
        Request::Prune(before, answer) => {
            let pruned = connection.execute("DELETE FROM history WHERE at < ?1", [before.0]);
            let _ = answer.send(pruned.map(|rows| rows as u64).map_err(|error| failed(&error)));
        }
        Request::Meter(service, answer) => {
            let _ = answer.send(meter(connection, &service).map_err(|error| failed(&error)));
        }
        Request::SetMeter(service, before, next, answer) => {
            let set = set_meter(connection, &service, before, next);
            let _ = answer.send(set.map_err(|error| failed(&error)));
        }
        Request::Commit(commit, answer) => commit_all(connection, vec![(commit, answer)], path),
    }
}

fn failure(path: &Path, error: &rusqlite::Error) -> StoreError {
    let text = format!("{}: {error}", path.display());
    match error.sqlite_error_code() {
        Some(
            rusqlite::ErrorCode::ReadOnly
            | rusqlite::ErrorCode::CannotOpen
            | rusqlite::ErrorCode::NotADatabase
            | rusqlite::ErrorCode::PermissionDenied
            | rusqlite::ErrorCode::DatabaseCorrupt,
        ) => StoreError::Unusable(text),
        _ => StoreError::Unavailable(text),
    }
}

/// Stores all of `commits` in one transaction and answers when it is durable.
fn commit_all(connection: &mut Connection, commits: Vec<(Commit, Answer<Committed>)>, path: &Path) {
    let (commits, answers): (Vec<Commit>, Vec<Answer<Committed>>) = commits.into_iter().unzip();
    match write_all(connection, &commits) {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(Ok(outcome)); // an asker that has gone reads the store again
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(failure(path, &error)));
            }
        }
    }
}

fn write_all(connection: &mut Connection, commits: &[Commit]) -> rusqlite::Result<Vec<Committed>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let outcomes: rusqlite::Result<Vec<Committed>> =
        commits.iter().map(|commit| write(&transaction, commit)).collect();
    let outcomes = outcomes?;
    transaction.commit()?;
    Ok(outcomes)
}

fn write(transaction: &Transaction<'_>, commit: &Commit) -> rusqlite::Result<Committed> {
    if generation(transaction, &commit.service)? != commit.expected {
        return Ok(Committed::Conflict);
    }
    let number = integer(commit.state.generation);
    transaction
        .prepare_cached("INSERT OR REPLACE INTO state (service, generation, state) VALUES (?1, ?2, ?3)")?
        .execute(params![commit.service, number, encode(&commit.state)])?;
    if let Some(entry) = &commit.entry {
        transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO history (service, generation, at, entry) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![commit.service, integer(entry.generation), entry.at.0, encode_entry(entry)])?;
    }
    Ok(Committed::Stored)
}

/// A generation rises by one per commit: it never reaches what 63 bits hold.
fn integer(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}

fn generation(connection: &Connection, service: &str) -> rusqlite::Result<Option<u64>> {
    let mut statement = connection.prepare_cached("SELECT generation FROM state WHERE service = ?1")?;
    let found: Option<i64> = statement.query_row([service], |row| row.get(0)).optional()?;
    Ok(found.map(|number| u64::try_from(number).unwrap_or(0)))
}

fn state_text(connection: &Connection, service: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT state FROM state WHERE service = ?1")?;
    statement.query_row([service], |row| row.get(0)).optional()
}

fn states(connection: &Connection, path: &Path) -> Result<BTreeMap<String, Box<State>>, StoreError> {
    let rows = || -> rusqlite::Result<Vec<(String, String)>> {
        let mut statement = connection.prepare_cached("SELECT service, state FROM state")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let rows = rows().map_err(|error| failure(path, &error))?;
    rows.into_iter().map(|(service, text)| decode(&service, &text).map(|state| (service, state))).collect()
}

fn history(
    connection: &Connection,
    service: Option<&str>,
    limit: usize,
    path: &Path,
) -> Result<Vec<Fact>, StoreError> {
    let limit = i64::try_from(limit.min(HISTORY_PAGE_MAX)).unwrap_or(0);
    let rows = || -> rusqlite::Result<Vec<(String, String)>> {
        let of = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let Some(service) = service else {
            let mut all = connection.prepare_cached(
                "SELECT service, entry FROM history ORDER BY at DESC, generation DESC LIMIT ?1",
            )?;
            return all.query_map([limit], of)?.collect();
        };
        let mut its = connection.prepare_cached(
            "SELECT service, entry FROM history WHERE service = ?1 ORDER BY generation DESC LIMIT ?2",
        )?;
        its.query_map(params![service, limit], of)?.collect()
    };
    let rows = rows().map_err(|error| failure(path, &error))?;
    rows.into_iter()
        .map(|(service, text)| decode_entry(&service, &text).map(|entry| Fact { service, entry }))
        .collect()
}

fn meter(connection: &Connection, service: &str) -> rusqlite::Result<Option<Meter>> {
    let mut statement =
        connection.prepare_cached("SELECT day, saved, until FROM meter WHERE service = ?1")?;
    let of = |row: &rusqlite::Row<'_>| {
        let saved: i64 = row.get(1)?;
        Ok(Meter {
            day: row.get(0)?,
            saved_micros: u64::try_from(saved).unwrap_or(0),
            until: Timestamp(row.get(2)?),
        })
    };
    statement.query_row([service], of).optional()
}

fn set_meter(
    connection: &mut Connection,
    service: &str,
    before: Option<Meter>,
    next: Meter,
) -> rusqlite::Result<Committed> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if meter(&transaction, service)? != before {
        return Ok(Committed::Conflict);
    }
    transaction.execute(
        "INSERT OR REPLACE INTO meter (service, day, saved, until) VALUES (?1, ?2, ?3, ?4)",
        params![service, next.day, integer(next.saved_micros), next.until.0],
    )?;
    transaction.commit()?;
    Ok(Committed::Stored)
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self, service: &str) -> Result<Option<Box<State>>, StoreError> {
        self.ask(|answer| Request::Load(service.to_owned(), answer)).await
    }

    async fn generation(&self, service: &str) -> Result<Option<u64>, StoreError> {
        self.ask(|answer| Request::Generation(service.to_owned(), answer)).await
    }

    async fn generations(&self, services: &[String]) -> Result<BTreeMap<String, u64>, StoreError> {
        self.ask(|answer| Request::Generations(services.to_vec(), answer)).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        self.ask(|answer| Request::Commit(commit, answer)).await
    }

    async fn history(&self, service: Option<&str>, limit: usize) -> Result<Vec<Fact>, StoreError> {
        self.ask(|answer| Request::History(service.map(str::to_owned), limit, answer)).await
    }

    async fn states(&self) -> Result<BTreeMap<String, Box<State>>, StoreError> {
        self.ask(Request::States).await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.ask(|answer| Request::Prune(before, answer)).await
    }

    async fn meter(&self, service: &str) -> Result<Option<Meter>, StoreError> {
        self.ask(|answer| Request::Meter(service.to_owned(), answer)).await
    }

    async fn set_meter(
        &self,
        service: &str,
        before: Option<Meter>,
        next: Meter,
    ) -> Result<Committed, StoreError> {
        self.ask(|answer| Request::SetMeter(service.to_owned(), before, next, answer)).await
    }
}

//! The one journal of a workload: numbered records that are created once and never changed.
//!
//! Whoever creates the next number has decided what happens; there is no other coordination. Each record carries
//! the hash of the one before it, so that a record that a frozen writer drops into a gap which pruning left is
//! never taken for part of the history. The head tells the whole state: readers need no other record.
//! Who may append what, and when, is decided in [`crate::claim`].

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use crate::extra::StoredObject;
use crate::id::{Digest, Nonce};
use crate::manifest::ManifestRef;
use crate::store::{self, Retry, StoreError};
use crate::workload::Workload;

/// The version of the record format that this build writes and reads.
const FORMAT: u32 = 1;

/// A record larger than this is not ours; ours are 1 to 3 KiB.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// A listing with more records than this is refused: at a commit every 10 s it is four months without a prune.
const RECORDS_MAX: usize = 1_000_000;

/// So many records are read at once: with a store that is far away each takes its round trip.
const READS_AT_ONCE: usize = 8;

/// So often the head may be pruned away between being listed and being read: each time others have written on.
const LOOKS_MAX: u32 = 8;

/// Who wrote a record, for people to read; nothing is decided by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The instance id, or what stands for it outside EC2.
    pub instance: String,
    /// The host's name.
    pub host: String,
    /// The process on that host.
    pub pid: u32,
}

/// One record. `seq` counts from 1 without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the format.
    pub format: u32,
    /// Its number, which is also its name in the store.
    pub seq: u64,
    /// BLAKE3 of the record before it; `None` in the first.
    pub previous: Option<Digest>,
    /// Tells this very record from another that its writer tried to put at the same number.
    pub id: Nonce,
    /// Which claim it belongs to: the number of that claim's first record, and its nonce.
    pub claim: u64,
    /// Drawn by each claimant for each claim.
    pub nonce: Nonce,
    /// The claimant's lasting identity (its state directory).
    pub agent: Nonce,
    /// Who that is, for people.
    pub holder: Holder,
    /// How long the holder may be silent, in ms, before others may take over.
    pub lease_ms: u64,
    /// The writer's wall clock, in ms since 1970; for people, never compared between machines.
    pub at_unix_ms: u64,
    /// The newest recovery point of the work as of this record; `None` for work that has none yet.
    pub point: Option<RecoveryPoint>,
    /// What happened.
    pub event: Event,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The writer owns the workload from here on.
    Claimed {
        /// The claim whose silent holder was fenced by this one.
        takes_over: Option<u64>,
    },
    /// `point` is a new recovery point.
    Committed,
    /// The holder gave the workload up; the next claimant goes on from `point`.
    Released(Box<Release>),
    /// The work is finished; it is never restored.
    Done {
        /// The exit code of the work.
        exit_code: i32,
    },
}

/// A manifest that the journal vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    /// The number of the record that committed it: higher is newer.
    pub seq: u64,
    /// When, by its writer's wall clock, in ms since 1970; for people.
    pub at_unix_ms: u64,
    /// The manifest.
    pub manifest: ManifestRef,
}

/// What the holder leaves behind when it gives the workload up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Why, in a few words.
    pub reason: String,
    /// The interruption that ended it, if one did.
    pub interruption: Option<Interruption>,
    /// The application's saved state.
    pub state: Option<StoredObject>,
    /// The last lines of the logs.
    pub logs: Option<StoredObject>,
}

/// An interruption, for people: the decisions about it were taken elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// `terminate`, `stop`, `hibernate`, or what the source called it.
    pub action: String,
    /// Who announced it.
    pub source: String,
    /// For when, as announced.
    pub at: Option<String>,
}

/// A record as it lies in the store, with the hash by which the next one refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The record.
    pub record: Record,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// Why a record could not be appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else's record has that number, or a higher one exists: what the writer knew is out of date.
    #[error("record {} of the journal was written by another claimant", by.record.seq)]
    Conflict {
        /// The record found there, or the head when it is higher.
        by: Box<Head>,
    },
    /// The store failed. The record may have been stored nonetheless; appending again finds out.
    #[error("the journal could not be extended")]
    Store(#[from] StoreError),
}

/// The newest record, or `None` for a workload without a journal.
///
/// # Errors
/// [`StoreError`]; `Corrupt` for a record that is not readable.
pub async fn head(workload: &Workload) -> Result<Option<Head>, StoreError> {
    let mut looks = 0;
    // Ends after `LOOKS_MAX`.
    loop {
        looks += 1;
        let Some(seq) = list_from(workload, 0).await?.pop() else { return Ok(None) };
        match read(workload, seq).await {
            // It was the head when it was listed; others have come since, and a prune.
            Err(StoreError::NotFound { .. }) if looks < LOOKS_MAX => {}
            found => return found.map(Some),
        }
    }
}

/// Every record that belongs to the history, oldest first: the chain of hashes that ends at the head.
///
/// # Errors
/// [`StoreError`]; `Corrupt` for a record that is not readable.
pub async fn records(workload: &Workload) -> Result<Vec<Record>, StoreError> {
    Ok(chain(workload).await?.into_iter().map(|head| head.record).collect())
}

/// As [`records`], with the hashes.
pub(crate) async fn chain(workload: &Workload) -> Result<Vec<Head>, StoreError> {
    let mut looks = 0;
    // Ends after `LOOKS_MAX`.
    loop {
        looks += 1;
        match chain_as_listed(workload).await {
            // As in `head`.
            Err(StoreError::NotFound { .. }) if looks < LOOKS_MAX => {}
            chain => return chain,
        }
    }
}

/// One look at the journal; `NotFound` when what was the head has been pruned meanwhile.
async fn chain_as_listed(workload: &Workload) -> Result<Vec<Head>, StoreError> {
    let numbers = list_from(workload, 0).await?;
    let mut chain: Vec<Head> = Vec::new();
    let reading = |seq: u64| async move { (seq, read(workload, seq).await) };
    // Newest first; each round takes one number away.
    let mut records =
        futures_util::stream::iter(numbers.into_iter().rev().map(reading)).buffered(READS_AT_ONCE);
    while let Some((seq, read)) = records.next().await {
        let found = match read {
            Ok(found) => found,
            // A prune runs and has deleted the oldest records since they were listed.
            Err(StoreError::NotFound { .. }) if !chain.is_empty() => break,
            Err(error) => return Err(error),
        };
        if let Some(newer) = chain.last()
            && (newer.record.seq != seq + 1 || newer.record.previous != Some(found.digest))
        {
            break;
        }
        chain.push(found);
    }
    chain.reverse();
    Ok(chain)
}

/// The key of record `seq`, relative to the workload. Twenty digits hold any `u64`, so names sort as numbers.
pub(crate) fn key(seq: u64) -> String {
    format!("journal/{seq:020}.json")
}

/// The numbers of all records above `above` that exist, ascending.
pub(crate) async fn list_from(workload: &Workload, above: u64) -> Result<Vec<u64>, StoreError> {
    let folder = workload.locate("journal");
    let offset = workload.locate(&key(above));
    let listed = store::list(workload.store(), &folder, Some(&offset)).await?;
    let mut numbers: Vec<u64> =
        listed.iter().filter_map(|object| seq_of(workload, &object.location)).collect();
    if numbers.len() > RECORDS_MAX {
        return Err(StoreError::corrupt(&folder, format!("more than {RECORDS_MAX} records")));
    }
    // A store lists in any order.
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of the record at `location`, if it is one.
fn seq_of(workload: &Workload, location: &object_store::path::Path) -> Option<u64> {
    let name = workload.relative(location)?.strip_prefix("journal/")?.strip_suffix(".json")?;
    if name.len() == 20 { name.parse().ok() } else { None }
}

/// Reads and checks record `seq`.
pub(crate) async fn read(workload: &Workload, seq: u64) -> Result<Head, StoreError> {
    let location = workload.locate(&key(seq));
    let store = workload.store();
    Retry::small()
        .run_checked("read", &location, || async {
            let got =
                store.get(&location).await.map_err(|source| StoreError::new("read", &location, source))?;
            if got.meta.size > RECORD_BYTES_MAX {
                return Err(StoreError::corrupt(&location, format!("{} bytes are no record", got.meta.size)));
            }
            let bytes = got.bytes().await.map_err(|source| StoreError::new("read", &location, source))?;
            let record: Record = serde_json::from_slice(&bytes)
                .map_err(|error| StoreError::corrupt(&location, format!("no record: {error}")))?;
            if record.format != FORMAT {
                return Err(StoreError::corrupt(
                    &location,
                    format!("format {} is not known here", record.format),
                ));
            }
            if record.seq != seq {
                return Err(StoreError::corrupt(
                    &location,
                    format!("it says that it is record {}", record.seq),
                ));
            }
            Ok(Head { record, digest: Digest::of(&bytes) })
        })
        .await
}

/// What a writer says about itself in each of its records.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) agent: Nonce,
    pub(crate) nonce: Nonce,
    pub(crate) holder: Holder,
    pub(crate) lease_ms: u64,
}

/// Appends `event` after `after` (`None`: as the first record), under the claim `claim`, which the record itself
/// begins when it is `None`.
///
/// # Errors
/// [`AppendError::Conflict`] when anybody, this writer included, has already written that number or a higher one.
pub(crate) async fn append(
    workload: &Workload,
    after: Option<&Head>,
    writer: &Writer,
    claim: Option<u64>,
    (point, event): (Option<RecoveryPoint>, Event),
) -> Result<Head, AppendError> {
    let seq = after.map_or(1, |head| head.record.seq + 1);
    let record = Record {
        format: FORMAT,
        seq,
        previous: after.map(|head| head.digest),
        id: Nonce::random(),
        claim: claim.unwrap_or(seq),
        nonce: writer.nonce,
        agent: writer.agent,
        holder: writer.holder.clone(),
        lease_ms: writer.lease_ms,
        at_unix_ms: unix_ms(),
        point,
        event,
    };
    let location = workload.locate(&key(seq));
    let bytes = serde_json::to_vec(&record)
        .map_err(|error| StoreError::corrupt(&location, format!("record cannot be written: {error}")))?;
    let digest = Digest::of(&bytes);
    let payload = PutPayload::from(bytes);
    let created = Retry::small()
        .run("create", &location, || async {
            let options = PutOptions::from(PutMode::Create);
            match workload.store().put_opts(&location, payload.clone(), options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        })
        .await?;
    if !created {
        // Either somebody else was first, or an earlier attempt of ours got through and only its answer was lost.
        let found = match read(workload, seq).await {
            Ok(found) => found,
            // Pruned between the two calls: the head is far beyond.
            Err(StoreError::NotFound { .. }) => return Err(conflict_with_head(workload, &location).await?),
            Err(error) => return Err(error.into()),
        };
        if found.record.id != record.id {
            return Err(AppendError::Conflict { by: Box::new(found) });
        }
    }
    // Pruning deletes old numbers, and a writer that was frozen for long may just have filled such a gap.
    if !list_from(workload, seq).await?.is_empty() {
        return Err(conflict_with_head(workload, &location).await?);
    }
    Ok(Head { record, digest })
}

/// The conflict with whatever the head is now.
async fn conflict_with_head(
    workload: &Workload,
    location: &object_store::path::Path,
) -> Result<AppendError, StoreError> {
    match head(workload).await? {
        Some(by) => Ok(AppendError::Conflict { by: Box::new(by) }),
        None => Err(StoreError::corrupt(location, "the journal vanished while it was written")),
    }
}

/// The recovery points of `chain`, oldest first, each once.
pub(crate) fn points<'a>(chain: impl IntoIterator<Item = &'a Record>) -> Vec<RecoveryPoint> {
    let by_seq: BTreeMap<u64, RecoveryPoint> =
        chain.into_iter().filter_map(|record| record.point.clone()).map(|point| (point.seq, point)).collect();
    by_seq.into_values().collect()
}

/// Every recovery point of the workload that still exists, oldest first.
///
/// # Errors
/// [`StoreError`] when the journal cannot be read.
pub async fn recovery_points(workload: &Workload) -> Result<Vec<RecoveryPoint>, StoreError> {
    Ok(points(&records(workload).await?))
}

/// This machine's wall clock in ms since 1970; 0 before that.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! Deletes what no kept recovery point needs.
//!
//! Nothing is deleted that a living holder may be about to refer to: objects of the newest claim are touched only
//! on behalf of its own holder, between its saves. What somebody is reading stays (`readers.rs`). Journal records go first, so that the journal never names a
//! manifest that is gone, then manifests, then data. Killed in between, a prune leaves only objects that nothing
//! refers to, and the next one finds them.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;

use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStoreExt};

use crate::claim::ClaimId;
use crate::journal::{self, Event, Head, RecoveryPoint};
use crate::manifest::{self, ReadManifestError, read_manifest};
use crate::plain;
use crate::readers;
use crate::store::{self, Retry, StoreError};
use crate::workload::Workload;

/// So many objects are deleted at once.
const CONCURRENCY: usize = 16;

/// What to keep, and on whose behalf to delete.
#[derive(Clone, Copy, Debug)]
pub struct PrunePlan {
    /// So many of the newest recovery points are kept with all they refer to.
    pub keep: NonZeroUsize,
    /// The claim of the workload's holder, given by it between a commit and its next save: what its own claim no longer
    /// needs is deleted too.
    pub holder: Option<ClaimId>,
    /// Only says what would be deleted.
    pub is_dry_run: bool,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The recovery points that are kept, newest first.
    pub kept: Vec<RecoveryPoint>,
    /// The recovery points that go, newest first.
    pub forgotten: Vec<RecoveryPoint>,
    /// Every object that goes, by key relative to the workload, with its size, in the order of deletion.
    pub objects: Vec<(String, u64)>,
    /// How many bytes these have.
    pub bytes: u64,
}

/// Why a prune did not happen, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// A recovery point that is to be kept cannot be read, so that nobody knows what it needs. Nothing was deleted.
    #[error("recovery point {seq} is to be kept and cannot be read; nothing was deleted")]
    Kept {
        /// The number of its record.
        seq: u64,
        /// Why.
        #[source]
        source: ReadManifestError,
    },
    /// The store failed. Pruning again goes on.
    #[error("the store could not be pruned")]
    Store(#[from] StoreError),
}

/// Deletes everything of `workload` that the newest recovery points do not need.
///
/// # Errors
/// [`PruneError`]
pub async fn prune(workload: &Workload, plan: &PrunePlan) -> Result<Pruned, PruneError> {
    let chain = journal::chain(workload).await?;
    let Some(head) = chain.last() else { return Ok(Pruned::default()) };
    let mut points = journal::points(chain.iter().map(|link| &link.record));
    points.reverse();
    let forgotten = points.split_off(points.len().min(plan.keep.get()));
    let kept = points;

    let mut needed: HashSet<String> = HashSet::new();
    for point in &kept {
        let read = read_manifest(workload, &point.manifest).await;
        let manifest = read.map_err(|source| PruneError::Kept { seq: point.seq, source })?;
        needed.insert(point.manifest.key.clone());
        needed.extend(manifest.needs().map(str::to_owned));
    }
    // A holder whose last commit went unanswered still builds on the point before it, of whatever claim that is.
    let is_held = matches!(head.record.event, Event::Claimed { .. } | Event::Committed);
    if let Some(before) = forgotten.first().filter(|_| is_held && plan.holder.is_none())
        && let Ok(manifest) = read_manifest(workload, &before.manifest).await
    {
        needed.insert(before.manifest.key.clone());
        needed.extend(manifest.needs().map(str::to_owned));
    }
    let marks = readers::list(workload).await?;
    let oldest_kept = oldest_kept(head, &kept);
    needed.extend(extras(chain.iter().filter(|link| link.record.seq >= oldest_kept)));

    let mut rules = Rules {
        head: head.record.seq,
        claim: head.record.claim,
        oldest_kept,
        in_chain: chain.iter().map(|link| link.record.seq).collect(),
        needed,
        holder: plan.holder,
        spares_data: false,
    };
    let mut listed = Vec::new();
    for folder in ["journal", "heartbeats", "manifests", "extras", "data", plain::FOLDER] {
        listed.extend(list(workload, folder).await?);
    }
    let mut doomed: BTreeMap<(Order, String), u64> = BTreeMap::new();
    // As late as the store's own clock is known to be.
    let now = listed.iter().chain(&marks).map(|object| object.last_modified.timestamp()).max().unwrap_or(0);
    for mark in &marks {
        let age = now - mark.last_modified.timestamp();
        if u64::try_from(age).is_ok_and(|age| age > readers::LEASE.as_secs()) {
            let key = workload.relative(&mark.location).unwrap_or_default();
            doomed.insert((Order::Mark, key.to_owned()), mark.size);
        } else if let Some(manifest) = readers::read(workload, mark).await? {
            match read_manifest(workload, &manifest).await {
                Ok(read) => rules.needed.extend(read.needs().map(str::to_owned)),
                // Perhaps an earlier prune deleted it after its reader had got it.
                Err(error) => {
                    tracing::info!(%error, "nobody knows what a reader reads: data goes with a later prune");
                    rules.spares_data = true;
                }
            }
            rules.needed.insert(manifest.key);
        }
    }
    for object in listed {
        let Some(key) = workload.relative(&object.location) else { continue };
        if let Some(order) = rules.judge(key) {
            doomed.insert((order, key.to_owned()), object.size);
        }
    }
    let mut objects: Vec<(String, u64)> = doomed.into_iter().map(|((_, key), size)| (key, size)).collect();
    if !plan.is_dry_run && !delete(workload, &objects, &marks).await? {
        objects.retain(|(key, _)| is_record(key) || is_manifest(key));
    }
    let bytes = objects.iter().map(|(_, size)| size).sum();
    Ok(Pruned { kept, forgotten, objects, bytes })
}

/// The number of the oldest record that stays: the one that committed the oldest kept point. Records after it name
/// no older point, and each tells the whole state, so not even the one that began the present claim is needed.
fn oldest_kept(head: &Head, kept: &[RecoveryPoint]) -> u64 {
    kept.iter().map(|point| point.seq).min().unwrap_or(head.record.seq).min(head.record.seq)
}

/// The extras that some records name.
fn extras<'a>(chain: impl Iterator<Item = &'a Head>) -> HashSet<String> {
    chain
        .filter_map(|link| match &link.record.event {
            Event::Released(release) => Some([release.state.as_ref(), release.logs.as_ref()]),
            Event::Claimed { .. } | Event::Committed | Event::Done { .. } => None,
        })
        .flatten()
        .flatten()
        .map(|stored| stored.key.clone())
        .collect()
}

/// In which order objects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Mark,
    Record,
    Heartbeat,
    Manifest,
    Data,
}

/// What decides about one object.
struct Rules {
    head: u64,
    claim: u64,
    oldest_kept: u64,
    in_chain: HashSet<u64>,
    needed: HashSet<String>,
    holder: Option<ClaimId>,
    /// Somebody reads, and what that needs is not known.
    spares_data: bool,
}

impl Rules {
    /// Whether the object at `key` goes. What this program did not name stays.
    fn judge(&self, key: &str) -> Option<Order> {
        let (folder, name) = key.split_once('/')?;
        match folder {
            "journal" => {
                let seq: u64 = name.strip_suffix(".json")?.parse().ok()?;
                // Below the head and outside of the chain: dropped by a writer that had been fenced.
                let is_stray = !self.in_chain.contains(&seq);
                let goes = seq < self.head && (seq < self.oldest_kept || is_stray);
                goes.then_some(Order::Record)
            }
            "heartbeats" => {
                let claim: u64 = name.parse().ok()?;
                (claim < self.claim).then_some(Order::Heartbeat)
            }
            "manifests" => self.judge_owned(manifest::claim_of(key)?, key).then_some(Order::Manifest),
            "extras" | "data" => {
                let owner = ClaimId::parse_folder(name.split_once('/')?.0)?;
                self.judge_owned(owner, key).then_some(Order::Data)
            }
            plain::FOLDER => self.judge_owned(plain::claim_of(key)?, key).then_some(Order::Data),
            // Nothing else is listed.
            _ => None,
        }
    }

    /// Whether an object of claim `owner` goes.
    fn judge_owned(&self, owner: ClaimId, key: &str) -> bool {
        let is_of_holder = self.holder == Some(owner) && owner.seq == self.claim;
        !self.spares_data && !self.needed.contains(key) && (owner.seq < self.claim || is_of_holder)
    }
}

/// Everything below one folder of the workload.
async fn list(workload: &Workload, folder: &str) -> Result<Vec<ObjectMeta>, StoreError> {
    store::list(workload.store(), &workload.locate(folder), None).await
}

fn is_record(key: &str) -> bool {
    key.starts_with("journal/")
}

fn is_manifest(key: &str) -> bool {
    key.starts_with("manifests/")
}

/// Deletes records one by one, lowest first, so that the chain never has a gap, and the rest several at a time.
/// `false`: only records and manifests, because somebody has begun to read.
async fn delete(
    workload: &Workload,
    objects: &[(String, u64)],
    marks: &[ObjectMeta],
) -> Result<bool, StoreError> {
    for (key, _) in objects.iter().filter(|(key, _)| is_record(key)) {
        delete_one(workload, key).await?;
    }
    delete_all(workload, objects.iter().filter(|(key, _)| is_manifest(key))).await?;
    let known: HashSet<_> = marks.iter().map(|mark| &mark.location).collect();
    let now = readers::list(workload).await?;
    if now.iter().any(|mark| !known.contains(&mark.location)) {
        tracing::info!(
            "somebody has begun to read: the data that is no longer needed goes with a later prune"
        );
        return Ok(false);
    }
    delete_all(workload, objects.iter().filter(|(key, _)| !is_record(key) && !is_manifest(key))).await?;
    Ok(true)
}

/// Deletes several objects at a time.
async fn delete_all(
    workload: &Workload,
    objects: impl Iterator<Item = &(String, u64)>,
) -> Result<(), StoreError> {
    let deletions = objects.map(|(key, _)| delete_one(workload, key)).collect::<Vec<_>>();
    futures_util::stream::iter(deletions).buffer_unordered(CONCURRENCY).try_collect().await
}

/// Deletes one object; one that is gone already is as good.
async fn delete_one(workload: &Workload, key: &str) -> Result<(), StoreError> {
    let location = workload.locate(key);
    match Retry::small().run("delete", &location, || workload.store().delete(&location)).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

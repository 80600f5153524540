//! Saves a work directory: scan, order, pack and upload in parallel, then the manifest, which is written last and
//! once. Nothing is committed here: [`crate::Claim::commit`] does that with what [`save`] returns.
//!
//! `save/plan.rs` decides what goes into which object and in which order; `save/upload.rs` carries that out.

mod plan;
mod upload;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use globset::{GlobMatcher, GlobSet};
use object_store::{PutMode, PutOptions, PutPayload};
use tokio::time::Instant;

use crate::claim::ClaimId;
use crate::deadline::Deadline;
use crate::dirs::Dirs;
use crate::extra::StoredObject;
use crate::id::{Digest, Nonce};
use crate::journal::unix_ms;
use crate::manifest::{
    self, DecodeError, Entry, EntryKind, FORMAT, Header, LeftOut, LeftOutReason, Manifest, ManifestRef,
    decode, encode,
};
use crate::progress::{NoProgress, Progress};
use crate::scan::{Excluded, Found, FoundKind, Scan, scan};
use crate::store::{Retry, StoreError};
use crate::transfer::{as_u64, blocking};
use crate::workload::Workload;
use plan::Unit;
use upload::{Outcome, Stored, Uploader};

/// The priority of a file that no rule matches.
pub const PRIORITY_DEFAULT: u32 = 100;

/// So many objects are built and sent at once when the caller does not say. Each holds up to four chunks of 8 MiB.
const CONCURRENCY_DEFAULT: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// The manifest gets a fifth of the time there was at the beginning…
const RESERVE_FRACTION: u32 = 5;

/// …and never more than this: a hundred thousand entries are encoded, stored and read back in less than a second.
const RESERVE_MAX: Duration = Duration::from_secs(5);

/// What to save and how.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// The directory whose content is saved.
    pub work_dir: PathBuf,
    /// What is not saved, relative to `work_dir`. A folder that matches is excluded with all below it.
    pub exclude: GlobSet,
    /// Files and folders that are not saved, absolute or relative to `work_dir`: the store, the state directory.
    pub exclude_paths: Vec<PathBuf>,
    /// Until when everything, the manifest included, must be stored.
    pub deadline: Deadline,
    /// The first rule that matches gives a file its priority; [`PRIORITY_DEFAULT`] if none does.
    pub priorities: Vec<PriorityRule>,
    /// So many objects are built and sent at once.
    pub concurrency: NonZeroUsize,
    /// Who is told how far it is.
    pub progress: Arc<dyn Progress>,
}

/// Files that match go by this priority; see [`SaveOptions::priorities`].
#[derive(Clone, Debug)]
pub struct PriorityRule {
    /// Relative to the work directory.
    pub glob: GlobMatcher,
    /// Higher is more important: files are saved by `priority / (size + 1)`.
    pub priority: u32,
}

impl SaveOptions {
    /// Everything in `work_dir`, without a deadline.
    #[must_use]
    pub fn new(work_dir: impl Into<PathBuf>) -> Self {
        Self {
            work_dir: work_dir.into(),
            exclude: GlobSet::empty(),
            exclude_paths: Vec::new(),
            deadline: Deadline::none(),
            priorities: Vec::new(),
            concurrency: CONCURRENCY_DEFAULT,
            progress: Arc::new(NoProgress),
        }
    }
}

/// A manifest that is stored and proven, ready to be committed.
#[derive(Clone, Debug)]
pub struct Saved {
    /// What to commit.
    pub manifest: ManifestRef,
    /// How many regular files it contains.
    pub files: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// How many bytes were sent to the store, the manifest included.
    pub stored_bytes: u64,
    /// What it does not contain, and why. What is a loss is still in the work directory.
    pub left_out: Vec<LeftOut>,
}

/// Why there is no recovery point. A single file never is the reason.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The work directory itself cannot be read.
    #[error("the work directory {work_dir:?} cannot be read")]
    WorkDir {
        /// Which.
        work_dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The manifest could not be stored.
    #[error("the manifest could not be stored")]
    Store(#[from] StoreError),
    /// The deadline came before the manifest was stored.
    #[error("the deadline came before the manifest was stored")]
    OutOfTime,
    /// There is more than one manifest can describe.
    #[error("the work directory is beyond the limits of the format")]
    BeyondLimits(#[source] DecodeError),
}

/// Saves a work directory under `claim` and returns the manifest to commit.
///
/// With a deadline, uploading stops early enough for the manifest of what is complete, with the rest named as left
/// out. Cancelling by dropping is safe: what was stored is unreferenced, and pruned later.
///
/// # Errors
/// [`SaveError`]
pub async fn save(workload: &Workload, claim: &ClaimId, options: &SaveOptions) -> Result<Saved, SaveError> {
    let reserve = reserve_from(Instant::now());
    let (dirs, scan) = scan_work_dir(options, reserve).await?;
    let found = Arc::new(scan.found);
    let files = found.iter().filter_map(size_of);
    let (count, bytes) = files.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
    options.progress.planned(count, bytes);

    let header = Header {
        format: FORMAT,
        workload: workload.name().clone(),
        claim: *claim,
        save: Nonce::random(),
        at_unix_ms: unix_ms(),
    };
    let uploader = Arc::new(Uploader::new(workload, &header, Arc::clone(&found), dirs, options));
    let units = plan::plan(&found, &options.priorities);
    let outcomes = upload_all(&uploader, units, options, reserve).await;
    let manifest = assemble(header, &found, scan.left_out, outcomes);
    let stored_data = manifest.objects.iter().map(|object| object.size).sum::<u64>();
    let left_out = manifest.left_out.clone();
    let stored = tokio::select! {
        biased;
        stored = store_manifest(workload, manifest, &options.deadline) => stored?,
        () = options.deadline.reached(|moment| moment) => return Err(SaveError::OutOfTime),
    };
    Ok(Saved {
        files: stored.files,
        bytes: stored.bytes,
        stored_bytes: stored_data + stored.size,
        manifest: stored,
        left_out,
    })
}

/// When uploading must stop for a deadline, of a save that began at `start`.
fn reserve_from(start: Instant) -> impl Fn(Instant) -> Instant + Copy {
    move |deadline| {
        let whole = deadline.saturating_duration_since(start);
        start + (whole - (whole / RESERVE_FRACTION).min(RESERVE_MAX))
    }
}

/// The size of a regular file.
fn size_of(found: &Found) -> Option<u64> {
    match found.kind {
        FoundKind::File { size } => Some(size),
        FoundKind::Directory | FoundKind::Link { .. } => None,
    }
}

/// Opens and scans the work directory; the scan ends early when uploading would have to stop.
async fn scan_work_dir(
    options: &SaveOptions,
    reserve: impl Fn(Instant) -> Instant + Copy,
) -> Result<(Dirs, Scan), SaveError> {
    /// Ends the scan on its thread when nobody waits for it any more.
    struct StopOnDrop(Arc<AtomicBool>);
    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop.0);
    let (work_dir, globs, paths) =
        (options.work_dir.clone(), options.exclude.clone(), options.exclude_paths.clone());
    let mut scanning = Box::pin(blocking(move || {
        let excluded = Excluded::new(&work_dir, globs, &paths)?;
        let mut dirs = Dirs::open(&work_dir)?;
        let scanned = scan(&mut dirs, &excluded, &stopped)?;
        Ok((dirs, scanned))
    }));
    let scanned = tokio::select! {
        biased;
        scanned = &mut scanning => scanned,
        () = options.deadline.reached(reserve) => {
            stop.0.store(true, Ordering::Relaxed);
            scanning.await
        }
    };
    scanned.map_err(|source| SaveError::WorkDir { work_dir: options.work_dir.clone(), source })
}

/// Uploads unit after unit, several at once, until all are done or the time is.
async fn upload_all(
    uploader: &Arc<Uploader>,
    units: Vec<Unit>,
    options: &SaveOptions,
    reserve: impl Fn(Instant) -> Instant + Copy,
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut units = units.into_iter().enumerate();
    let mut running = FuturesUnordered::new();
    let mut out_of_time = std::pin::pin!(options.deadline.reached(reserve));
    // Each round ends one unit or the whole.
    loop {
        while running.len() < options.concurrency.get()
            && let Some((number, unit)) = units.next()
        {
            running.push(Box::pin(Arc::clone(uploader).upload(number, unit)));
        }
        tokio::select! {
            biased;
            () = &mut out_of_time => break,
            done = running.next() => match done {
                Some(outcome) => outcomes.push(outcome),
                None => break,
            },
        }
    }
    outcomes
}

/// Builds the manifest of what is stored and of what is not.
fn assemble(header: Header, found: &[Found], mut left_out: Vec<LeftOut>, outcomes: Vec<Outcome>) -> Manifest {
    let mut objects: Vec<StoredObject> = Vec::new();
    let mut results: Vec<Option<Stored>> = Vec::new();
    results.resize_with(found.len(), || None);
    let mut is_named = vec![false; found.len()];
    for outcome in outcomes {
        let base = u32::try_from(objects.len()).unwrap_or(u32::MAX);
        objects.extend(outcome.objects);
        for (index, mut stored) in outcome.stored {
            stored.extents.iter_mut().for_each(|extent| extent.object += base);
            results[index] = Some(stored);
        }
        for (index, failure) in outcome.failed {
            is_named[index] = true;
            let path = Some(found[index].path.clone());
            left_out.push(LeftOut { path, reason: failure.reason, message: failure.message });
        }
    }
    let mut entries = Vec::new();
    for ((found, stored), is_named) in found.iter().zip(results).zip(is_named) {
        let (attributes, kind) = match (&found.kind, stored) {
            (FoundKind::Directory, _) => (found.attributes, EntryKind::Directory),
            (FoundKind::Link { target }, _) => (found.attributes, EntryKind::Link { target: target.clone() }),
            (FoundKind::File { .. }, Some(stored)) => {
                let Stored { size, digest, extents, attributes } = stored;
                (attributes, EntryKind::File { size, digest, extents })
            }
            (FoundKind::File { .. }, None) => {
                if !is_named {
                    let path = Some(found.path.clone());
                    left_out.push(LeftOut { path, reason: LeftOutReason::OutOfTime, message: String::new() });
                }
                continue;
            }
        };
        entries.push(Entry {
            path: found.path.clone(),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            modified: attributes.modified,
            kind,
        });
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    left_out.sort_by(|a, b| a.path.cmp(&b.path));
    Manifest { header, objects, entries, left_out }
}

/// Stores the manifest under its own name, once, and proves that it can be read.
async fn store_manifest(
    workload: &Workload,
    manifest: Manifest,
    deadline: &Deadline,
) -> Result<ManifestRef, SaveError> {
    let name = workload.name().clone();
    let (manifest, encoded) = blocking(move || {
        // What its own reader would refuse must never be committed.
        let encoded = encode(&manifest).map_err(|source| DecodeError::Unreadable { line: 0, source });
        let checked = encoded.and_then(|bytes| decode(&bytes, &name).map(|_| bytes));
        (manifest, checked)
    })
    .await;
    let bytes = encoded.map_err(SaveError::BeyondLimits)?;
    let (files, total) = manifest.totals();
    let stored = ManifestRef {
        key: manifest::key(&manifest.header),
        digest: Digest::of(&bytes),
        size: as_u64(bytes.len()),
        files,
        bytes: total,
        left_out: as_u64(manifest.left_out.len()),
        complete: manifest.is_complete(),
    };
    drop(manifest);
    let location = workload.locate(&stored.key);
    let payload = PutPayload::from(bytes);
    Retry::small_until(deadline)
        .run("store", &location, || async {
            let options = PutOptions::from(PutMode::Create);
            match workload.store().put_opts(&location, payload.clone(), options).await {
                Ok(_) => Ok(()),
                // The answer to an earlier attempt was lost. Should it be something else, its hash tells.
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })
        .await?;
    manifest::fetch(workload, &stored).await?;
    Ok(stored)
}

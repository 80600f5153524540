//! Saves a work directory: scan, order, read and upload in parallel, then the manifest, which is written last and
//! once. Nothing is committed here: [`crate::Claim::commit`] does that with what [`save`] returns.
//!
//! `save/queue.rs` decides what is stored next; `save/build.rs` and `save/large.rs` read it; `save/run.rs` sends it,
//! as fast as `save/pace.rs` finds out to be good; `save/assemble.rs` makes the manifest of what came of it.

mod assemble;
mod build;
mod large;
mod pace;
mod plain;
mod queue;
mod run;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use globset::{GlobMatcher, GlobSet};
use tokio::time::Instant;

pub use pace::Pace;

use crate::base::Base;
use crate::claim::ClaimId;
use crate::deadline::Deadline;
use crate::dirs::Dirs;
use crate::id::Nonce;
use crate::journal::unix_ms;
use crate::known::{Known, UploadLog};
use crate::manifest::{DecodeError, FORMAT, Header, LeftOut, ManifestRef};
use crate::plain::Layout;
use crate::progress::{NoProgress, Progress};
use crate::scan::{Excluded, Scan, scan, scan_threads};
use crate::store::StoreError;
use crate::transfer::{blocking, blocking_nicely};
use crate::workload::Workload;

/// The priority of a file that no rule matches.
pub const PRIORITY_DEFAULT: u32 = 100;

/// The manifest gets a tenth of the time there was at the beginning…
const RESERVE_FRACTION: u32 = 10;

/// …never less than this, which is a few answers of a store that is far away…
const RESERVE_MIN: Duration = Duration::from_millis(300);

/// …and never more than this: a hundred thousand entries are encoded, stored and read back in less than a second.
const RESERVE_MAX: Duration = Duration::from_secs(4);

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
    /// How much of the machine and the link is used.
    pub pace: Pace,
    /// Whether content that compresses is compressed; never in the layout `plain`.
    pub compresses: bool,
    /// How the objects are laid out.
    pub layout: Layout,
    /// The newest recovery point of the same work: what it has is not stored again.
    pub base: Option<Arc<Base>>,
    /// Where uploads are noted, so that a save that is broken off does not cost them.
    pub log: Option<Arc<UploadLog>>,
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
            pace: Pace::FULL,
            compresses: true,
            layout: Layout::Packed,
            base: None,
            log: None,
            progress: Arc::new(NoProgress),
        }
    }
}

/// A manifest that is stored and proven, ready to be committed.
#[derive(Clone, Debug)]
pub struct Saved {
    /// What to commit; the base's own if nothing has changed since.
    pub manifest: ManifestRef,
    /// Whether there is anything new to commit.
    pub is_new: bool,
    /// How many regular files it contains.
    pub files: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// How many bytes were sent to the store, the manifest included.
    pub stored_bytes: u64,
    /// What it does not contain, and why. What is a loss is still in the work directory.
    pub left_out: Vec<LeftOut>,
    /// What the next save needs to store only what is new; of use once this is committed.
    pub base: Arc<Base>,
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
/// out. Cancelling by dropping is safe: what was stored is unreferenced, and pruned later unless the log knows it.
///
/// # Errors
/// [`SaveError`]
pub async fn save(workload: &Workload, claim: &ClaimId, options: &SaveOptions) -> Result<Saved, SaveError> {
    let reserve = Reserve::new();
    let base = options.base.clone();
    let (scanned, (retired, known)) =
        tokio::join!(scan_work_dir(options, &reserve), blocking(move || what_is_known(base.as_deref())));
    let (dirs, scan) = scanned?;
    let header = Header {
        format: FORMAT,
        workload: workload.name().clone(),
        claim: *claim,
        save: Nonce::random(),
        at_unix_ms: unix_ms(),
        base: None,
    };
    let base = options.base.clone();
    let mut plan = blocking(move || assemble::Plan::new(scan, base.as_ref(), &retired)).await;
    options.progress.due(&options.deadline);
    let (files, bytes) = plan.to_read();
    options.progress.planned(files, bytes);
    let plain = store_plain(workload, &header, (&mut plan, &dirs), options, &reserve).await;
    let mut gathered = run::run(workload, &header, &plan, dirs, (options, known), &reserve).await;
    if let Some((reading, plain)) = plain {
        plan.reading = reading;
        gathered.add(plain);
    }
    let sent = gathered.sent_bytes;
    let base = options.base.clone();
    let assembled = blocking(move || assemble::assemble(header, plan, gathered, base.as_ref())).await;
    let stored = tokio::select! {
        biased;
        stored = assemble::store(workload, assembled, options) => stored?,
        () = options.deadline.reached(|moment| moment) => return Err(SaveError::OutOfTime),
    };
    Ok(Saved { stored_bytes: stored.stored_bytes + sent, ..stored })
}

/// The objects of the base that must not be referred to any more, and where the rest of its content lies.
fn what_is_known(base: Option<&Base>) -> (Retired, Known) {
    let Some(base) = base else { return Default::default() };
    let retired = base.retired();
    let known = Known::new(Some(base.manifest()), &retired);
    (retired, known)
}

/// In the layout `plain`: stores what can have its own name, and leaves the rest of what is to be read to the packs.
/// Returns all that is to be read, and what came of it.
async fn store_plain(
    workload: &Workload,
    header: &Header,
    (plan, dirs): (&mut assemble::Plan, &Dirs),
    options: &SaveOptions,
    reserve: &Arc<Reserve>,
) -> Option<(Vec<usize>, run::Gathered)> {
    let Layout::Plain { instance, key_bytes_max } = &options.layout else { return None };
    let keys = plain::keys(plan, &crate::plain::folder(header, instance), *key_bytes_max);
    let named: HashSet<usize> = keys.iter().map(|(index, _)| *index).collect();
    let gathered = Box::pin(plain::run(workload, header, (plan, dirs), (options, keys), reserve)).await;
    let rest = plan.reading.iter().copied().filter(|index| !named.contains(index)).collect();
    Some((std::mem::replace(&mut plan.reading, rest), gathered))
}

/// How much time is kept for the manifest.
#[derive(Debug)]
struct Reserve {
    start: Instant,
    /// The shortest time that an object took, in ms: what the manifest will take at least.
    quickest_ms: AtomicU64,
}

impl Reserve {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), quickest_ms: AtomicU64::new(u64::MAX) })
    }

    /// An object was stored in `time`.
    fn learn(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.quickest_ms.fetch_min(ms, Ordering::Relaxed);
    }

    /// When uploading must stop for `deadline`.
    fn before(&self, deadline: Instant) -> Instant {
        let whole = deadline.saturating_duration_since(self.start);
        let quickest = match self.quickest_ms.load(Ordering::Relaxed) {
            u64::MAX => Duration::ZERO,
            ms => Duration::from_millis(ms.saturating_mul(2)).min(whole / RESERVE_FRACTION * 2),
        };
        let reserve = (whole / RESERVE_FRACTION).clamp(RESERVE_MIN, RESERVE_MAX).max(quickest);
        self.start + whole.saturating_sub(reserve)
    }

    /// Waits until uploading must stop; for ever without a deadline.
    async fn reached(&self, deadline: &Deadline) {
        /// How soon a deadline that was tightened, or a store that is slower than thought, is noticed at the latest.
        const TICK_MAX: Duration = Duration::from_secs(1);
        const TICK_MIN: Duration = Duration::from_millis(20);
        // Ends with the deadline.
        loop {
            let now = Instant::now();
            let next = match deadline.current() {
                Some(moment) if self.before(moment) <= now => return,
                Some(moment) => {
                    let end = self.before(moment);
                    end.min(now + ((end - now) / 20).clamp(TICK_MIN, TICK_MAX))
                }
                None => now + TICK_MAX,
            };
            tokio::time::sleep_until(next).await;
        }
    }
}

/// Opens and scans the work directory; the scan ends early when uploading would have to stop.
async fn scan_work_dir(options: &SaveOptions, reserve: &Reserve) -> Result<(Dirs, Scan), SaveError> {
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
    let is_nice = options.pace.is_nice;
    let work = move || {
        let excluded = Excluded::new(&work_dir, globs, &paths)?;
        let dirs = Dirs::open(&work_dir)?;
        let scanned = scan(&dirs, &excluded, &stopped, if is_nice { 1 } else { scan_threads() })?;
        Ok((dirs, scanned))
    };
    let mut scanning =
        Box::pin(async move { if is_nice { blocking_nicely(work).await } else { blocking(work).await } });
    let scanned = tokio::select! {
        biased;
        scanned = &mut scanning => scanned,
        () = reserve.reached(&options.deadline) => {
            stop.0.store(true, Ordering::Relaxed);
            scanning.await
        }
    };
    scanned.map_err(|source| SaveError::WorkDir { work_dir: options.work_dir.clone(), source })
}

/// Objects that must not be referred to any more.
type Retired = HashSet<String>;

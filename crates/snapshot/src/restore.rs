//! Restores a recovery point into an empty or a matching directory.
//!
//! Nothing is written before everything that is there has been compared (`restore/check.rs`). Then directories come
//! first, files get their names only when their bytes are verified and on disk (`restore/place.rs`), links come
//! after the files, so that nothing is ever written through one, and the attributes of directories last. A restore
//! that was killed is taken up by doing it again: what is already there is equal and stays.
//!
//! Long runs of zeros become holes. Extended attributes are not kept.

mod check;
mod fetch;
mod place;

use std::path::PathBuf;
use std::sync::Arc;

use globset::GlobSet;

use crate::dirs::Dirs;
use crate::manifest::{Entry, EntryKind, Manifest, ManifestRef, ReadManifestError, read_manifest};
use crate::path::EntryPath;
use crate::progress::{NoProgress, Progress};
use crate::readers;
use crate::scan::Excluded;
use crate::store::StoreError;
use crate::transfer::{as_u64, blocking};
use crate::workload::Workload;
use check::{Comparison, Wanted, compare};
use place::Target;

/// So many conflicting paths are named; the count says how many there are.
const CONFLICTS_NAMED_MAX: usize = 10;

/// Where to restore to and what.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The directory; created if it is missing.
    pub target: PathBuf,
    /// Only files and links that match, with the directories above them.
    pub only: Option<GlobSet>,
    /// Earlier recovery points of the same work. A file that is equal to one of theirs is proven stored and may be
    /// replaced; one that the restored point no longer has is removed. Without them, a file that is not the same as
    /// in the restored point is a conflict.
    pub superseded: Vec<Arc<Manifest>>,
    /// As in [`crate::save::SaveOptions`]: what is there, is not saved, and is not in the recovery point either, stays.
    pub exclude: GlobSet,
    /// Likewise, absolute or relative to `target`.
    pub exclude_paths: Vec<PathBuf>,
    /// Who is told how far it is.
    pub progress: Arc<dyn Progress>,
}

impl RestoreOptions {
    /// Everything into `target`, which is empty or matches already.
    #[must_use]
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            only: None,
            superseded: Vec::new(),
            exclude: GlobSet::empty(),
            exclude_paths: Vec::new(),
            progress: Arc::new(NoProgress),
        }
    }
}

/// What a restore did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// So many files were written.
    pub files: u64,
    /// With so many bytes.
    pub bytes: u64,
    /// So many files were there already.
    pub already_there: u64,
    /// So many files of superseded recovery points, which this one does not have, were removed.
    pub removed: u64,
}

/// Why a recovery point was not restored, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The manifest cannot be read, or is refused. Nothing was written.
    #[error("the recovery point cannot be read")]
    Manifest(#[from] ReadManifestError),
    /// The target holds something else. Nothing of the user's was touched.
    #[error(
        "{count} files in {target:?} are not those of the recovery point, the first of them {}",
        first(paths)
    )]
    Conflict {
        /// The directory.
        target: PathBuf,
        /// The first few.
        paths: Vec<EntryPath>,
        /// How many in all.
        count: u64,
    },
    /// The target cannot be written. What is there is whole; restoring again goes on.
    #[error("cannot restore {path} in {target:?}")]
    Target {
        /// The directory.
        target: PathBuf,
        /// What in it, for people.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not to be had as they were saved. What was restored is whole; restoring again goes on.
    #[error("the data of the recovery point cannot be fetched")]
    Store(#[from] StoreError),
}

/// The first path as text.
fn first(paths: &[EntryPath]) -> String {
    paths.first().map(ToString::to_string).unwrap_or_default()
}

/// Restores the recovery point that `manifest` names.
///
/// # Errors
/// [`RestoreError`]
pub async fn restore(
    workload: &Workload,
    manifest: &ManifestRef,
    options: &RestoreOptions,
) -> Result<Restored, RestoreError> {
    let restoring = Box::pin(restore_marked(workload, manifest, options));
    readers::reading(workload, manifest, restoring).await
}

async fn restore_marked(
    workload: &Workload,
    manifest: &ManifestRef,
    options: &RestoreOptions,
) -> Result<Restored, RestoreError> {
    let manifest = Arc::new(read_manifest(workload, manifest).await?);
    let wanted = Arc::new(select(&manifest, options.only.as_ref()));
    let failed = |path: &str, source| RestoreError::Target {
        target: options.target.clone(),
        path: path.to_owned(),
        source,
    };
    let top = options.target.clone();
    let dirs = blocking(move || {
        std::fs::create_dir_all(&top)?;
        Dirs::open(&top)
    })
    .await
    .map_err(|source| failed(".", source))?;

    let mut comparison = compare_target(&dirs, &manifest, &wanted, options).await?;
    let hard_links = take_hard_links(&manifest, &wanted, &mut comparison.missing);
    let (files, bytes) = comparison
        .missing
        .iter()
        .fold((0, 0), |(files, bytes), index| (files + 1, bytes + size_of(&manifest.entries[*index])));
    options.progress.planned(files, bytes);

    let replacing = std::mem::take(&mut comparison.replacing);
    let (already_there, removed) = (as_u64(comparison.present.len()), as_u64(comparison.stale.len()));
    let target = Target::new(dirs, options.target.clone(), manifest, replacing);
    target.prepare(Arc::clone(&wanted), comparison.stale).await?;
    fetch::fetch_all(workload, &target, &comparison.missing, &options.progress).await?;
    let files = files + as_u64(hard_links.len());
    target.finish(wanted, comparison.present, hard_links).await?;
    Ok(Restored { files, bytes, already_there, removed })
}

/// The entries to restore, by index: all, or those that match with the directories above them.
fn select(manifest: &Manifest, only: Option<&GlobSet>) -> Vec<usize> {
    let Some(only) = only else { return (0..manifest.entries.len()).collect() };
    let matching: Vec<&Entry> =
        manifest.entries.iter().filter(|entry| only.is_match(entry.path.as_path())).collect();
    let above: std::collections::HashSet<&[u8]> =
        matching.iter().flat_map(|entry| entry.path.ancestors()).collect();
    let is_wanted =
        |entry: &Entry| only.is_match(entry.path.as_path()) || above.contains(entry.path.as_bytes());
    manifest
        .entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| is_wanted(entry))
        .map(|(index, _)| index)
        .collect()
}

/// Takes out of `missing` the files that are further names of others which are restored or there.
fn take_hard_links(manifest: &Manifest, wanted: &[usize], missing: &mut Vec<usize>) -> Vec<usize> {
    let named: std::collections::HashSet<&EntryPath> =
        wanted.iter().map(|index| &manifest.entries[*index].path).collect();
    let is_link = |index: &usize| match &manifest.entries[*index].kind {
        EntryKind::File { same_as: Some(first), .. } => named.contains(first),
        EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. } => false,
    };
    let links = missing.iter().copied().filter(is_link).collect();
    missing.retain(|index| !is_link(index));
    links
}

/// Compares the target with the recovery point and fails if anything would be lost.
async fn compare_target(
    dirs: &Dirs,
    manifest: &Arc<Manifest>,
    wanted: &Arc<Vec<usize>>,
    options: &RestoreOptions,
) -> Result<Comparison, RestoreError> {
    let mut dirs = dirs.fresh();
    let (manifest, wanted) = (Arc::clone(manifest), Arc::clone(wanted));
    let (superseded, is_partial) = (options.superseded.clone(), options.only.is_some());
    let (target, globs, paths) =
        (options.target.clone(), options.exclude.clone(), options.exclude_paths.clone());
    let compared = blocking(move || {
        let excluded = Excluded::new(&target, globs, &paths)?;
        let wanted = Wanted { entries: &wanted, is_partial };
        compare(&mut dirs, &manifest, wanted, &superseded, &excluded)
    })
    .await;
    let mut comparison = compared.map_err(|source| RestoreError::Target {
        target: options.target.clone(),
        path: ".".to_owned(),
        source,
    })?;
    let count = as_u64(comparison.conflicts.len());
    if count > 0 {
        comparison.conflicts.truncate(CONFLICTS_NAMED_MAX);
        return Err(RestoreError::Conflict {
            target: options.target.clone(),
            paths: comparison.conflicts,
            count,
        });
    }
    Ok(comparison)
}

/// The bytes of a file; 0 for anything else.
fn size_of(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File { size, .. } => size,
        EntryKind::Directory | EntryKind::Link { .. } => 0,
    }
}

//! Fetches the missing files, several objects at once, and hands verified bytes to their place.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::RestoreError;
use super::place::Target;
use crate::deadline::Deadline;
use crate::extra::StoredObject;
use crate::id::Digest;
use crate::manifest::{EntryKind, Extent};
use crate::progress::Progress;
use crate::store::{Retry, StoreError};
use crate::transfer::{CHUNK_BYTES, as_u64, blocking, get_range};
use crate::workload::Workload;

/// So many stretches are fetched and written at once; each holds at most [`RUN_BYTES_MAX`] or two chunks.
const CONCURRENCY: usize = 4;

/// Neighbouring small files are fetched with one request of at most this many bytes: a whole pack.
const RUN_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// Unwanted bytes between two wanted files are fetched along when they are fewer: a request costs more.
const GAP_BYTES_MAX: u64 = 256 * 1024;

/// So many files are placed together; their temporary files exist at the same time.
const RUN_FILES_MAX: usize = 1024;

/// What is fetched and placed together. Numbers are indices of entries.
#[derive(Debug)]
enum Run {
    /// Files without bytes.
    Empty(Vec<usize>),
    /// Files that lie near one another in one object.
    Packed { object: u32, offset: u64, length: u64, files: Vec<usize> },
    /// One large file.
    Large(usize),
}

/// Fetches and places everything that is missing.
pub(super) async fn fetch_all(
    workload: &Workload,
    target: &Arc<Target>,
    missing: &[usize],
    progress: &Arc<dyn Progress>,
) -> Result<(), RestoreError> {
    let mut runs = plan(target, missing).into_iter();
    let mut running = FuturesUnordered::new();
    // Each round ends one run.
    loop {
        while running.len() < CONCURRENCY
            && let Some(run) = runs.next()
        {
            running.push(Box::pin(fetch(workload.clone(), Arc::clone(target), run, Arc::clone(progress))));
        }
        match running.next().await {
            Some(done) => done?,
            None => return Ok(()),
        }
    }
}

/// Groups the missing files by where their bytes lie.
fn plan(target: &Target, missing: &[usize]) -> Vec<Run> {
    let mut empty = Vec::new();
    let mut packed: BTreeMap<u32, Vec<(Extent, usize)>> = BTreeMap::new();
    let mut large = Vec::new();
    for index in missing {
        match extents(target, *index) {
            [] => empty.push(*index),
            [only] if only.length <= RUN_BYTES_MAX => {
                packed.entry(only.object).or_default().push((*only, *index))
            }
            [_] | [_, _, ..] => large.push(Run::Large(*index)),
        }
    }
    let mut runs: Vec<Run> = empty.chunks(RUN_FILES_MAX).map(|files| Run::Empty(files.to_vec())).collect();
    for (number, mut members) in packed {
        members.sort_unstable_by_key(|(extent, index)| (extent.offset, *index));
        let mut open: Option<(u64, u64, Vec<usize>)> = None;
        for (extent, index) in members {
            let end = extent.offset + extent.length;
            let joined = open.take().map(|(start, stop, mut files)| {
                let is_near = extent.offset <= stop.saturating_add(GAP_BYTES_MAX)
                    && end.max(stop) - start <= RUN_BYTES_MAX
                    && files.len() < RUN_FILES_MAX;
                if is_near {
                    files.push(index);
                    (start, end.max(stop), files)
                } else {
                    runs.push(Run::Packed { object: number, offset: start, length: stop - start, files });
                    (extent.offset, end, vec![index])
                }
            });
            open = Some(joined.unwrap_or_else(|| (extent.offset, end, vec![index])));
        }
        if let Some((offset, stop, files)) = open {
            runs.push(Run::Packed { object: number, offset, length: stop - offset, files });
        }
    }
    runs.extend(large);
    runs
}

/// Where the bytes of a file lie.
fn extents(target: &Target, index: usize) -> &[Extent] {
    match &target.manifest.entries[index].kind {
        EntryKind::File { extents, .. } => extents,
        EntryKind::Directory | EntryKind::Link { .. } => &[],
    }
}

/// What the bytes of a file must hash to.
fn digest_of(target: &Target, index: usize) -> Option<Digest> {
    match &target.manifest.entries[index].kind {
        EntryKind::File { digest, .. } => Some(*digest),
        EntryKind::Directory | EntryKind::Link { .. } => None,
    }
}

/// Fetches and places one run.
async fn fetch(
    workload: Workload,
    target: Arc<Target>,
    run: Run,
    progress: Arc<dyn Progress>,
) -> Result<(), RestoreError> {
    match run {
        Run::Empty(files) => {
            let count = as_u64(files.len());
            let here = Arc::clone(&target);
            let incoming = files.into_iter().map(|index| (index, Bytes::new())).collect();
            blocking(move || here.place_all(incoming)).await?;
            progress.advanced(count, 0);
        }
        Run::Packed { object, offset, length, files } => {
            let count = as_u64(files.len());
            let incoming = fetch_packed(&workload, &target, (object, offset, length), files).await?;
            let bytes = incoming.iter().map(|(_, bytes)| as_u64(bytes.len())).sum();
            blocking(move || target.place_all(incoming)).await?;
            progress.advanced(count, bytes);
        }
        Run::Large(index) => {
            fetch_large(&workload, &target, index, &progress).await?;
            progress.advanced(1, 0);
        }
    }
    Ok(())
}

/// Fetches one stretch of an object and cuts the files out of it, each verified; again when one is damaged.
async fn fetch_packed(
    workload: &Workload,
    target: &Arc<Target>,
    (object, offset, length): (u32, u64, u64),
    files: Vec<usize>,
) -> Result<Vec<(usize, Bytes)>, StoreError> {
    let object = object_of(target, object);
    let location = workload.locate(&object.key);
    let files = Arc::new(files);
    let here = target;
    Retry::streaming_until(&Deadline::none())
        .run_checked("read", &location, || async {
            let bytes = get_range(workload, object, offset, length).await?;
            let (target, files) = (Arc::clone(target), Arc::clone(&files));
            let cut = blocking(move || {
                files
                    .iter()
                    .map(|index| {
                        let piece = extents(&target, *index).first().map_or_else(Bytes::new, |extent| {
                            let start = usize::try_from(extent.offset - offset).unwrap_or(usize::MAX);
                            let length = usize::try_from(extent.length).unwrap_or(usize::MAX);
                            bytes.slice(start..start + length)
                        });
                        let is_right = Some(Digest::of(&piece)) == digest_of(&target, *index);
                        is_right.then_some((*index, piece)).ok_or(*index)
                    })
                    .collect::<Result<Vec<_>, usize>>()
            });
            let path = |index: usize| here.manifest.entries[index].path.to_string();
            cut.await.map_err(|index| damaged(workload, object, &path(index)))
        })
        .await
}

/// Streams one large file into a temporary file, verifies it and gives it its name; again when it is damaged.
async fn fetch_large(
    workload: &Workload,
    target: &Arc<Target>,
    index: usize,
    progress: &Arc<dyn Progress>,
) -> Result<(), RestoreError> {
    let here = Arc::clone(target);
    let first = extents(target, index).first().map_or(0, |extent| extent.object);
    let location = workload.locate(&object_of(target, first).key);
    let failed: std::sync::Mutex<Option<RestoreError>> = std::sync::Mutex::new(None);
    let fetched = Retry::streaming_until(&Deadline::none())
        .run_checked("read", &location, || async {
            match stream_once(workload, &here, index, progress).await {
                Ok(()) => Ok(()),
                Err(RestoreError::Store(error)) => Err(error),
                // A full disk does not pass by reading again.
                Err(
                    error @ (RestoreError::Target { .. }
                    | RestoreError::Conflict { .. }
                    | RestoreError::Manifest(_)),
                ) => {
                    *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    Ok(())
                }
            }
        })
        .await;
    fetched?;
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// One attempt of [`fetch_large`].
async fn stream_once(
    workload: &Workload,
    target: &Arc<Target>,
    index: usize,
    progress: &Arc<dyn Progress>,
) -> Result<(), RestoreError> {
    let here = Arc::clone(target);
    let mut incoming = blocking(move || here.begin(index)).await?;
    for extent in extents(target, index).to_vec() {
        let object = object_of(target, extent.object);
        let mut done = 0;
        while done < extent.length {
            let length = (extent.length - done).min(as_u64(CHUNK_BYTES));
            let bytes = get_range(workload, object, extent.offset + done, length).await?;
            let here = Arc::clone(target);
            incoming = blocking(move || here.write(index, incoming, &bytes)).await?;
            progress.advanced(0, length);
            done += length;
        }
    }
    let here = Arc::clone(target);
    let is_placed = blocking(move || {
        if Some(incoming.digest()) != digest_of(&here, index) {
            return Ok(false);
        }
        here.complete(index, incoming).map(|()| true)
    });
    if is_placed.await? {
        return Ok(());
    }
    let object = extents(target, index).first().map_or(0, |extent| extent.object);
    let path = target.manifest.entries[index].path.to_string();
    Err(damaged(workload, object_of(target, object), &path).into())
}

/// The object that an extent of a checked manifest names.
fn object_of(target: &Target, number: u32) -> &StoredObject {
    let index = usize::try_from(number).expect("a usize has at least 32 bits");
    target.manifest.objects.get(index).expect("the reader of manifests checks that objects exist")
}

/// The bytes in the store are not those of the file.
fn damaged(workload: &Workload, object: &StoredObject, path: &str) -> StoreError {
    StoreError::corrupt(&workload.locate(&object.key), format!("the bytes of {path} have another hash"))
}

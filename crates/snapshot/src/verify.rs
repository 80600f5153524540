//! Reads a recovery point back and checks every byte, without writing anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::buffer::Pool;
use crate::fetch::{CONCURRENCY, Run, WEIGHT_MAX, fetch, large_runs, small_runs};
use crate::manifest::{EntryKind, Manifest, ManifestRef, ReadManifestError, read_manifest};
use crate::progress::Progress;
use crate::readers;
use crate::store::StoreError;
use crate::transfer::as_u64;
use crate::workload::Workload;

/// What reading a recovery point back showed.
#[derive(Debug)]
pub struct Verified {
    /// The manifest, which itself is as it was committed.
    pub manifest: Manifest,
    /// So many data objects give the bytes of all files that lie in them.
    pub sound: u64,
    /// The data objects that do not, by key, each with what is wrong.
    pub damaged: BTreeMap<String, StoreError>,
}

/// Reads every file of a recovery point and compares its hash.
///
/// # Errors
/// [`ReadManifestError`] when the manifest itself is damaged; damaged data is part of the answer.
pub async fn verify(
    workload: &Workload,
    manifest: &ManifestRef,
    progress: &dyn Progress,
) -> Result<Verified, ReadManifestError> {
    let verifying = Box::pin(verify_marked(workload, manifest, progress));
    readers::reading(workload, manifest, verifying).await
}

async fn verify_marked(
    workload: &Workload,
    manifest: &ManifestRef,
    progress: &dyn Progress,
) -> Result<Verified, ReadManifestError> {
    let manifest = Arc::new(read_manifest(workload, manifest).await?);
    let (files, bytes) = manifest.totals();
    progress.planned(files, bytes);
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for (index, entry) in manifest.entries.iter().enumerate() {
        match &entry.kind {
            EntryKind::File { same_as: None, blocks: None, .. } => small.push(index),
            EntryKind::File { same_as: None, blocks: Some(_), .. } => large.push(index),
            EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. } => {}
        }
    }
    let large = large.into_iter().flat_map(|file| large_runs(&manifest, file));
    let mut waiting = small_runs(&manifest, &small).into_iter().chain(large).map(Arc::new);
    let pool = Pool::new();
    let mut running = FuturesUnordered::new();
    let mut under_way = 0;
    let mut damaged = BTreeMap::new();
    // Each round ends one run.
    loop {
        while running.len() < CONCURRENCY
            && under_way < WEIGHT_MAX
            && let Some(run) = waiting.next()
        {
            under_way += run.weight(&manifest);
            let (manifest, pool) = (Arc::clone(&manifest), Arc::clone(&pool));
            running.push(async move {
                let fetched = fetch(workload, &manifest, &pool, &run).await;
                (run, fetched)
            });
        }
        let ended = running.next().await;
        if let Some((run, _)) = &ended {
            let run: &Arc<Run> = run;
            under_way -= run.weight(&manifest);
        }
        match ended {
            Some((_, Ok(parts))) => {
                let whole = parts.iter().filter(|(part, _)| part.at == 0).count();
                progress.advanced(as_u64(whole), parts.iter().map(|(part, _)| part.length).sum());
            }
            Some((run, Err(error))) => {
                let key =
                    run.object(&manifest).map_or_else(|| "zeros".to_owned(), |object| object.key.clone());
                damaged.insert(key, error);
            }
            None => break,
        }
    }
    drop(running);
    drop(waiting);
    let sound = as_u64(manifest.objects.len()).saturating_sub(as_u64(damaged.len()));
    let manifest = Arc::try_unwrap(manifest).unwrap_or_else(|shared| (*shared).clone());
    Ok(Verified { manifest, sound, damaged })
}

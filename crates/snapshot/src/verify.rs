//! Reads a recovery point back and checks every byte, without writing anything.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::manifest::{Manifest, ManifestRef, ReadManifestError, read_manifest};
use crate::progress::Progress;
use crate::store::{Retry, StoreError};
use crate::transfer::prove;
use crate::workload::Workload;

/// So many objects are read at once, each with one chunk of 8 MiB in memory.
const CONCURRENCY: usize = 4;

/// What reading a recovery point back showed.
#[derive(Debug)]
pub struct Verified {
    /// The manifest, which itself is as it was committed.
    pub manifest: Manifest,
    /// So many data objects are as they were stored.
    pub sound: u64,
    /// The data objects that are not, by key, each with what is wrong.
    pub damaged: BTreeMap<String, StoreError>,
}

/// Reads every object of a recovery point and compares its hash.
///
/// # Errors
/// [`ReadManifestError`] when the manifest itself is damaged; damaged data is part of the answer.
pub async fn verify(
    workload: &Workload,
    manifest: &ManifestRef,
    progress: &dyn Progress,
) -> Result<Verified, ReadManifestError> {
    let manifest = read_manifest(workload, manifest).await?;
    let bytes = manifest.objects.iter().map(|object| object.size).sum();
    progress.planned(crate::transfer::as_u64(manifest.objects.len()), bytes);
    let mut waiting = manifest.objects.iter();
    let mut running = FuturesUnordered::new();
    let mut damaged = BTreeMap::new();
    let mut sound = 0;
    // Each round ends one object.
    loop {
        while running.len() < CONCURRENCY
            && let Some(object) = waiting.next()
        {
            running.push(async move {
                let location = workload.locate(&object.key);
                let retry = Retry::streaming_until(&crate::deadline::Deadline::none());
                (object, retry.run_checked("read back", &location, || prove(workload, object)).await)
            });
        }
        match running.next().await {
            Some((object, Ok(()))) => {
                sound += 1;
                progress.advanced(1, object.size);
            }
            Some((object, Err(error))) => {
                damaged.insert(object.key.clone(), error);
            }
            None => break,
        }
    }
    drop(running);
    Ok(Verified { manifest, sound, damaged })
}

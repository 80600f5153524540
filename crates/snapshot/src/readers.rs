//! Keeps what is being read from being pruned.
//!
//! A reader leaves a mark before it fetches the manifest. Pruning looks for marks, deletes manifests, and looks
//! again before it deletes data: a reader that got its manifest had left its mark before the second look. A mark
//! whose reader died is told by its age, on the store's own clock: no two machines' clocks are compared.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use object_store::{ObjectMeta, ObjectStoreExt, PutPayload};

use crate::id::Nonce;
use crate::manifest::ManifestRef;
use crate::store::{self, Retry, StoreError};
use crate::workload::Workload;

/// Where marks lie, relative to the workload.
pub(crate) const FOLDER: &str = "readers";

/// A mark that was not renewed for so long is a dead reader's. It is three renewals.
pub(crate) const LEASE: Duration = Duration::from_secs(15 * 60);

/// How often a reader renews its mark.
const RENEWAL: Duration = Duration::from_secs(5 * 60);

/// A mark is taken away within this time or not at all.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A mark is a few hundred bytes; a larger object is not ours.
const MARK_BYTES_MAX: u64 = 64 * 1024;

/// A mark that is there.
#[derive(Debug)]
struct Mark {
    workload: Workload,
    key: String,
    bytes: Bytes,
}

/// Leaves a mark for a recovery point. `None` where this reader may only read: then nothing protects it.
async fn mark(workload: &Workload, manifest: &ManifestRef) -> Result<Option<Mark>, StoreError> {
    let key = format!("{FOLDER}/{}", Nonce::random());
    let location = workload.locate(&key);
    let bytes = serde_json::to_vec(manifest)
        .map_err(|error| StoreError::corrupt(&location, format!("a mark cannot be written: {error}")))?;
    let mark = Mark { workload: workload.clone(), key, bytes: bytes.into() };
    match mark.renew().await {
        Ok(()) => Ok(Some(mark)),
        Err(error @ (StoreError::Denied { .. } | StoreError::Full { .. })) => {
            tracing::warn!(%error, "a prune at the same time might delete what is being read");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Reads what `manifest` names, by `reading`, while a mark keeps it from being pruned.
pub(crate) async fn reading<T, E: From<StoreError>>(
    workload: &Workload,
    manifest: &ManifestRef,
    reading: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    // Before the manifest is fetched: whoever prunes meanwhile spares what it names.
    let Some(mark) = mark(workload, manifest).await? else { return reading.await };
    let read = tokio::select! {
        read = reading => read,
        never = mark.keep() => match never {},
    };
    mark.remove().await;
    read
}

impl Mark {
    async fn renew(&self) -> Result<(), StoreError> {
        let location = self.workload.locate(&self.key);
        let payload = PutPayload::from(self.bytes.clone());
        let put = || async { self.workload.store().put(&location, payload.clone()).await.map(drop) };
        Retry::small().run("write", &location, put).await
    }

    /// Renews the mark for as long as this is polled.
    async fn keep(&self) -> std::convert::Infallible {
        // Ends by being dropped.
        loop {
            tokio::time::sleep(RENEWAL).await;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "cannot renew the mark that keeps what is read from being pruned");
            }
        }
    }

    /// Takes the mark away.
    async fn remove(self) {
        let location = self.workload.locate(&self.key);
        // It is no harm if it stays: a store that hangs is not waited for.
        let deleting = self.workload.store().delete(&location);
        match tokio::time::timeout(REMOVAL_TIMEOUT, deleting).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a reader's mark stays until its lease is over"),
            Err(_) => tracing::debug!("a reader's mark stays until its lease is over"),
        }
    }
}

/// The marks that are there.
pub(crate) async fn list(workload: &Workload) -> Result<Vec<ObjectMeta>, StoreError> {
    store::list(workload.store(), &workload.locate(FOLDER), None).await
}

/// What a mark's reader reads; `None` when the mark is gone or is none.
pub(crate) async fn read(workload: &Workload, mark: &ObjectMeta) -> Result<Option<ManifestRef>, StoreError> {
    if mark.size > MARK_BYTES_MAX {
        return Ok(None);
    }
    let got = Retry::small()
        .run("read", &mark.location, || async { workload.store().get(&mark.location).await?.bytes().await })
        .await;
    match got {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

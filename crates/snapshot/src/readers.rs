//! Keeps what is being read from being pruned.
//!
//! A reader leaves a mark before it fetches the manifest. Pruning looks for marks, deletes manifests, and looks
//! again before it deletes data: a reader that got its manifest had left its mark before the second look. A mark
//! whose reader died is told by its age, on the store's own clock: no two machines' clocks are compared.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt, PutPayload};

use crate::id::Nonce;
use crate::manifest::ManifestRef;
use crate::store::{Retry, StoreError};
use crate::transfer::in_time;
use crate::workload::Workload;

/// Where marks lie, relative to the workload.
pub(crate) const FOLDER: &str = "readers";

/// A mark that was not renewed for so long is a dead reader's. It is three renewals.
pub(crate) const LEASE: Duration = Duration::from_secs(15 * 60);

/// How often a reader renews its mark.
const RENEWAL: Duration = Duration::from_secs(5 * 60);

/// A mark is a few hundred bytes; a larger object is not ours.
const MARK_BYTES_MAX: u64 = 64 * 1024;

/// A mark that is there.
#[derive(Debug)]
pub(crate) struct Mark {
    workload: Workload,
    key: String,
    bytes: Bytes,
}

/// Leaves a mark for a recovery point. `None` where this reader may only read: then nothing protects it.
pub(crate) async fn mark(workload: &Workload, manifest: &ManifestRef) -> Result<Option<Mark>, StoreError> {
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

impl Mark {
    async fn renew(&self) -> Result<(), StoreError> {
        let location = self.workload.locate(&self.key);
        let payload = PutPayload::from(self.bytes.clone());
        let put = || async { self.workload.store().put(&location, payload.clone()).await.map(drop) };
        Retry::small().run("write", &location, put).await
    }

    /// Renews the mark for as long as this is polled.
    pub(crate) async fn keep(&self) -> std::convert::Infallible {
        // Ends by being dropped.
        loop {
            tokio::time::sleep(RENEWAL).await;
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "cannot renew the mark that keeps what is read from being pruned");
            }
        }
    }

    /// Takes the mark away.
    pub(crate) async fn remove(self) {
        let location = self.workload.locate(&self.key);
        if let Err(error) = in_time("delete", &location, self.workload.store().delete(&location)).await {
            tracing::debug!(%error, "a reader's mark stays until its lease is over");
        }
    }
}

/// The marks that are there.
pub(crate) async fn list(workload: &Workload) -> Result<Vec<ObjectMeta>, StoreError> {
    let location = workload.locate(FOLDER);
    Retry::small()
        .run("list", &location, || async { workload.store().list(Some(&location)).try_collect().await })
        .await
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

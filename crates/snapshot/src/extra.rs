//! Small objects beside the recovery points: the application's state, the last log lines.

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use crate::claim::ClaimId;
use crate::deadline::Deadline;
use crate::id::Digest;
use crate::store::{Retry, StoreError};
use crate::workload::Workload;

/// The largest extra. They are held in memory whole; a state that is larger belongs into the work directory.
pub const EXTRA_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One object that is proven stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Its key, relative to the workload.
    pub key: String,
    /// Its length in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
}

/// Which extra: each has one name in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The application's state (`state.json`).
    State,
    /// The last log lines (`final_logs.txt`).
    Logs,
}

impl Extra {
    const fn file_name(self) -> &'static str {
        match self {
            Self::State => "state.json",
            Self::Logs => "final_logs.txt",
        }
    }
}

/// Stores `bytes` under the claim, replacing what this claim stored there before, and reads it back.
///
/// # Errors
/// [`StoreError`]; `Corrupt` when it is larger than [`EXTRA_BYTES_MAX`] or does not come back as it was sent.
pub async fn put(
    workload: &Workload,
    claim: &ClaimId,
    extra: Extra,
    bytes: Bytes,
    deadline: &Deadline,
) -> Result<StoredObject, StoreError> {
    let digest = Digest::of(&bytes);
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    // The hash in the name: a second, different version never destroys the one that a record already names.
    let name = digest.to_string();
    let key = format!("extras/{}/{}-{}", claim.folder(), &name[..16], extra.file_name());
    let location = workload.locate(&key);
    if size > EXTRA_BYTES_MAX {
        return Err(StoreError::corrupt(&location, format!("{size} bytes are more than {EXTRA_BYTES_MAX}")));
    }
    let stored = StoredObject { key, size, digest };
    let payload = PutPayload::from(bytes);
    let write = async {
        let retry = Retry::large_until(deadline);
        retry
            .run_checked("store", &location, || async {
                let put = workload.store().put(&location, payload.clone()).await;
                put.map_err(|source| StoreError::new("store", &location, source))?;
                get_once(workload, &stored).await.map(drop)
            })
            .await
    };
    tokio::select! {
        biased;
        written = write => written?,
        () = deadline.reached(|moment| moment) => {
            return Err(StoreError::TimedOut { operation: "store", key: location.to_string(), waited_ms: 0 });
        }
    }
    Ok(stored)
}

/// Reads an extra and checks it.
///
/// # Errors
/// [`StoreError`]; `Corrupt` when its bytes are not those that were stored.
pub async fn get(workload: &Workload, stored: &StoredObject) -> Result<Bytes, StoreError> {
    let location = workload.locate(&stored.key);
    if stored.size > EXTRA_BYTES_MAX || !stored.key.starts_with("extras/") {
        return Err(StoreError::corrupt(&location, "this is no extra"));
    }
    Retry::small().run_checked("read", &location, || get_once(workload, stored)).await
}

/// One attempt of [`get`].
async fn get_once(workload: &Workload, stored: &StoredObject) -> Result<Bytes, StoreError> {
    let location = workload.locate(&stored.key);
    let failed = |source| StoreError::new("read", &location, source);
    let got = workload.store().get(&location).await.map_err(failed)?;
    if got.meta.size != stored.size {
        return Err(StoreError::corrupt(&location, format!("{} bytes, not {}", got.meta.size, stored.size)));
    }
    let bytes = got.bytes().await.map_err(failed)?;
    if Digest::of(&bytes) == stored.digest {
        Ok(bytes)
    } else {
        Err(StoreError::corrupt(&location, "its hash is another"))
    }
}

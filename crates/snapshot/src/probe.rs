//! Whether a store can be trusted with work: tried on an object of our own, which is deleted again.

use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::id::Nonce;
use crate::store::StoreError;

/// The folder of probes: its name cannot be a workload's.
const FOLDER: &str = "_probe";

/// Writes an object, sees that it cannot be written a second time, reads it, lists it, and deletes it.
///
/// # Errors
/// The [`StoreError`] of the first of these that the store refuses; `Corrupt` for a store that overwrites what
/// was to be created once, or gives back other bytes: no claim is safe in it.
pub async fn probe(store: &Arc<dyn ObjectStore>) -> Result<(), StoreError> {
    let location = Path::from(format!("{FOLDER}/{}", Nonce::random()));
    let checked = try_out(store, &location).await;
    let deleted = store.delete(&location).await;
    checked?;
    deleted.map_err(|source| StoreError::new("delete", &location, source))
}

async fn try_out(store: &Arc<dyn ObjectStore>, location: &Path) -> Result<(), StoreError> {
    let payload = PutPayload::from_static(b"lifeboat probe");
    let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let failed = |operation| move |source| StoreError::new(operation, location, source);
    store.put_opts(location, payload.clone(), create()).await.map_err(failed("create"))?;
    match store.put_opts(location, payload.clone(), create()).await {
        Err(object_store::Error::AlreadyExists { .. }) => {}
        Ok(_) => {
            return Err(StoreError::corrupt(location, "it was created twice: this store cannot hold claims"));
        }
        Err(error) => return Err(failed("create")(error)),
    }
    let read = store.get(location).await.map_err(failed("read"))?.bytes().await.map_err(failed("read"))?;
    if read.as_ref() != b"lifeboat probe" {
        return Err(StoreError::corrupt(location, "it does not come back as it was written"));
    }
    let folder = Path::from(FOLDER);
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.map_err(failed("list"))?;
    if listed.iter().any(|object| object.location == *location) {
        Ok(())
    } else {
        Err(StoreError::corrupt(location, "it is not listed although it was written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_good_store_passes_and_keeps_nothing() {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        probe(&store).await.expect("a store in memory is good");
        let left: Vec<_> = store.list(None).try_collect().await.expect("listed");
        assert!(left.is_empty(), "{left:?}");
    }
}

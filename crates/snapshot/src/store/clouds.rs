//! Buckets of Google Cloud Storage and containers of Azure, as `object_store` offers them. No test of ours has met the
//! real ones: whoever opens one is told so, and `lifeboat doctor` tries what matters.
//!
//! Neither repeats the checksum of what it stored in a form that is understood here, so every object is read back.

use std::sync::Arc;

use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore};

use super::StoreError;
use super::s3::{CONNECT_TIMEOUT, IDLE_TIMEOUT, quick_retries};
use super::url::CloudUrl;

/// Opens a bucket; credentials as the Google libraries find them. No request is made yet.
pub(super) fn open_google(url: &CloudUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
    prepare("gs");
    let store = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(&url.bucket)
        .with_retry(quick_retries())
        .with_client_options(options())
        .build()
        .map_err(|source| StoreError::new("open", &Path::from(url.bucket.as_str()), source))?;
    Ok(below(store, url))
}

/// Opens a container of the account in `AZURE_STORAGE_ACCOUNT_NAME`. No request is made yet.
pub(super) fn open_azure(url: &CloudUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
    prepare("az");
    let store = MicrosoftAzureBuilder::from_env()
        .with_container_name(&url.bucket)
        .with_retry(quick_retries())
        .with_client_options(options())
        .build()
        .map_err(|source| StoreError::new("open", &Path::from(url.bucket.as_str()), source))?;
    Ok(below(store, url))
}

fn prepare(scheme: &str) {
    // A process has one TLS implementation; whoever came first has chosen it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing::warn!(
        "stores with {scheme}:// are offered untested: try yours with `lifeboat doctor` and a rehearsal"
    );
}

fn options() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_pool_idle_timeout(IDLE_TIMEOUT)
        // Each request has its time where it is made.
        .with_timeout_disabled()
        .with_read_timeout_disabled()
}

fn below(store: impl ObjectStore, url: &CloudUrl) -> Arc<dyn ObjectStore> {
    if url.prefix.is_empty() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, Path::from(url.prefix.as_str())))
    }
}

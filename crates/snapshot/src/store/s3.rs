//! Opens buckets, and tells which answers prove that the server has what was sent.
//!
//! Each object goes up with a checksum. A server that compares it repeats it in its answer (S3 does; some others
//! ignore what they do not know): only then is the object taken for proven, see [`ServerChecked`]. Retries are ours
//! (`store::Retry`): `object_store` itself tries a request again only where waiting is short.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum as SentChecksum};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, CopyOptions, GetOptions, GetResult, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    RetryConfig,
};

use super::StoreError;
use super::credentials::{Profile, ProfileProvider};
use super::url::{Checksum, Encryption, S3Url};

/// A server that does not accept a connection for so long is not there: time to try another of its addresses.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections are kept for the next round of pre-copying, where a server lets us.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Tries of one request inside `object_store`: for a throttled credential source and for the 409 of a create-only
/// put that met another. Longer waits are [`super::Retry`]'s, which knows the deadline.
const QUICK_RETRIES: usize = 2;

/// The headers in which a checksum is sent, and repeated by a server that compared it.
const CHECKSUM_HEADERS: [&str; 2] = ["x-amz-checksum-crc64nvme", "x-amz-checksum-sha256"];

/// Among a put's result: the server has compared the checksum of what it stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerChecked;

/// Opens the bucket. No request is made yet.
pub(super) fn open(url: &S3Url) -> std::result::Result<Arc<dyn ObjectStore>, StoreError> {
    // A process has one TLS implementation; whoever came first has chosen it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |source| StoreError::new("open", &Path::from(url.bucket.as_str()), source);
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
        store: "S3",
        source,
    };
    let profile = if url.keys.is_some() {
        Ok(None)
    } else {
        Profile::load(url.profile.as_deref(), |name| std::env::var_os(name))
    }
    .map_err(|error| failed(wrong(Box::new(error))))?;
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&url.bucket)
        .with_retry(quick_retries())
        .with_http_connector(Connector)
        .with_unsigned_payload(url.checksum == Checksum::Crc64Nvme)
        .with_checksum_algorithm(match url.checksum {
            Checksum::Crc64Nvme => SentChecksum::CRC64NVME,
            Checksum::Sha256 => SentChecksum::SHA256,
        });
    if let Some(keys) = &url.keys {
        builder = builder.with_access_key_id(&keys.id).with_secret_access_key(&keys.secret);
    }
    let has_keys = builder.get_config_value(&AmazonS3ConfigKey::AccessKeyId).is_some();
    // As the SDKs: keys in the environment, unless a profile was chosen here; then profiles, then roles.
    let profile_first = url.profile.is_some() || !has_keys;
    if let Some(profile) = profile.as_ref().filter(|profile| profile_first && profile.has_credentials()) {
        profile.check().map_err(|error| failed(wrong(Box::new(error))))?;
        builder = builder.with_credentials(Arc::new(ProfileProvider::new(url.profile.clone())));
    }
    let asks_profile = profile.as_ref().is_some_and(|profile| profile_first && profile.has_credentials());
    if !has_keys && !asks_profile && !has_role(&builder) && is_metadata_disabled() {
        return Err(failed(wrong(
            "no credentials: none in AWS_ACCESS_KEY_ID, the shared files, a web identity or a container's role, and \
             AWS_EC2_METADATA_DISABLED keeps the instance's role from being asked"
                .into(),
        )));
    }
    let known = |key| builder.get_config_value(&key).is_some();
    if !has_keys
        && !asks_profile
        && !known(AmazonS3ConfigKey::WebIdentityTokenFile)
        && !known(AmazonS3ConfigKey::ContainerCredentialsRelativeUri)
        && known(AmazonS3ConfigKey::ContainerCredentialsFullUri)
        && !known(AmazonS3ConfigKey::ContainerAuthorizationTokenFile)
    {
        return Err(failed(wrong(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI is only asked with AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: \
             write the token into a file"
                .into(),
        )));
    }
    let from_profile = || profile.as_ref().and_then(Profile::region).map(str::to_owned);
    let known_region = || builder.get_config_value(&AmazonS3ConfigKey::Region);
    if let Some(region) = url.region.clone().or_else(|| known_region().is_none().then(from_profile).flatten())
    {
        builder = builder.with_region(region);
    }
    if let Ok(endpoint) = std::env::var("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        builder = builder.with_metadata_endpoint(endpoint.trim_end_matches('/'));
    }
    builder = address(builder, url);
    builder = match (url.encryption, url.kms_key.as_deref().unwrap_or_default()) {
        (None, _) => builder,
        (Some(Encryption::S3), _) => builder.with_config(server_side(), "AES256"),
        (Some(Encryption::Kms), "") => builder.with_config(server_side(), "aws:kms"),
        (Some(Encryption::Kms), key) => builder.with_sse_kms_encryption(key),
        (Some(Encryption::KmsTwice), "") => builder.with_config(server_side(), "aws:kms:dsse"),
        (Some(Encryption::KmsTwice), key) => builder.with_dsse_kms_encryption(key),
    };
    let bucket = Bucket { inner: builder.build().map_err(failed)?, attributes: attributes(url) };
    Ok(if url.prefix.is_empty() {
        Arc::new(bucket)
    } else {
        Arc::new(PrefixStore::new(bucket, Path::from(url.prefix.as_str())))
    })
}

/// Whether the environment names a role other than the instance's.
fn has_role(builder: &AmazonS3Builder) -> bool {
    [
        AmazonS3ConfigKey::WebIdentityTokenFile,
        AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
        AmazonS3ConfigKey::ContainerCredentialsFullUri,
    ]
    .iter()
    .any(|key| builder.get_config_value(key).is_some())
}

/// Source: AWS SDKs and Tools guide, "IMDS credential provider": `AWS_EC2_METADATA_DISABLED`.
fn is_metadata_disabled() -> bool {
    std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
}

/// What `object_store` tries again by itself.
pub(super) fn quick_retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            ..BackoffConfig::default()
        },
        max_retries: QUICK_RETRIES,
        retry_timeout: Duration::from_secs(5),
    }
}

/// Which key of the builder's takes the kind of encryption; it has no public name.
fn server_side() -> AmazonS3ConfigKey {
    "aws_server_side_encryption".parse().expect("object_store knows this key")
}

/// Where the server is, and where the bucket's name goes.
fn address(builder: AmazonS3Builder, url: &S3Url) -> AmazonS3Builder {
    let from_env = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key));
    let endpoint = url.endpoint.clone().or(from_env);
    let is_path_style = url.path_style.unwrap_or_else(|| endpoint.is_some());
    let options = ClientOptions::new()
        .with_user_agent(http_value(concat!("lifeboat/", env!("CARGO_PKG_VERSION"))))
        .with_allow_http(endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_pool_idle_timeout(IDLE_TIMEOUT)
        // Each request has its time where it is made: a part that moves slowly is not a server that hangs.
        .with_timeout_disabled()
        .with_read_timeout_disabled();
    let builder = builder.with_client_options(options).with_virtual_hosted_style_request(!is_path_style);
    match endpoint {
        // The builder wants the bucket in the host's name itself.
        Some(endpoint) if !is_path_style => {
            let with_bucket = endpoint.replacen("://", &format!("://{}.", url.bucket), 1);
            builder.with_config(AmazonS3ConfigKey::S3Endpoint, with_bucket)
        }
        Some(endpoint) => builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint),
        None => builder,
    }
}

fn http_value(text: &'static str) -> reqwest::header::HeaderValue {
    reqwest::header::HeaderValue::from_static(text)
}

/// What every object of this store carries.
fn attributes(url: &S3Url) -> Attributes {
    let mut attributes = Attributes::new();
    if let Some(class) = &url.storage_class {
        attributes.insert(Attribute::StorageClass, class.clone().into());
    }
    for (key, value) in &url.metadata {
        attributes.insert(Attribute::Metadata(key.clone().into()), value.clone().into());
    }
    attributes
}

/// A bucket whose objects all get the same attributes.
#[derive(Debug)]
struct Bucket {
    inner: AmazonS3,
    attributes: Attributes,
}

impl Bucket {
    fn with_ours(&self, mut given: Attributes) -> Attributes {
        for (attribute, value) in &self.attributes {
            given.insert(attribute.clone(), value.clone());
        }
        given
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        opts.attributes = self.with_ours(opts.attributes);
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        mut opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        opts.attributes = self.with_ours(opts.attributes);
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Makes clients that mark proven answers.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(Marking(ReqwestConnector::default().connect(options)?)))
    }
}

/// Adds [`ServerChecked`] to answers that repeat the checksum of their request.
#[derive(Debug)]
struct Marking(HttpClient);

#[async_trait]
impl HttpService for Marking {
    async fn call(&self, request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        let sent = CHECKSUM_HEADERS.map(|name| request.headers().get(name).cloned());
        let mut response = self.0.execute(request).await?;
        let is_checked = sent
            .iter()
            .zip(CHECKSUM_HEADERS)
            .any(|(sent, name)| sent.is_some() && response.headers().get(name) == sent.as_ref());
        if is_checked && response.status().is_success() {
            response.extensions_mut().insert(ServerChecked);
        }
        Ok(response)
    }
}

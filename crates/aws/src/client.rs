//! The clients: configured once, built when they are first needed, given a deadline with every call.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sqs::config::Credentials;
use aws_smithy_http_client::Builder as HttpBuilder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use lifeboat_core::backoff::Backoff;
use lifeboat_core::time::Millis;
use tokio::sync::OnceCell;

use crate::{AwsError, Kind, Operation};

/// Within a region a connection takes milliseconds: who does not accept one in this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// For one try of a call. None of them waits on purpose, but the long poll of a queue, which has its own.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// Tries of one call, the first among them; between them up to [`BACKOFF_MAX`], drawn at random. Who wants more
/// patience than this knows how much, and asks again itself.
const TRIES: u32 = 3;

/// The first wait between two tries is at most this.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// Every further one at most this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Which AWS. Whatever is `None` is found as the AWS SDKs find it: environment, shared files, instance metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Such as `eu-west-1`.
    pub region: Option<String>,
    /// A profile of the shared files.
    pub profile: Option<String>,
    /// In place of every service's address; `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_SQS` and its like do the same.
    pub endpoint: Option<String>,
    /// Access key id and secret key in place of those of the machine. For tests; never printed.
    pub keys: Option<Keys>,
    /// How long one try waits for an answer, where the default of 3 s is too short (a proxy, a stand-in).
    pub read_timeout: Option<Duration>,
}

/// An access key id and its secret key.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// May be shown.
    pub id: String,
    /// May not.
    pub secret: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// AWS, as one account and region see it. Cheap to clone; clones share connections and credentials.
#[derive(Clone, Debug)]
pub struct Aws {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    config: OnceCell<SdkConfig>,
    clients: Clients,
}

/// Each is built at its first call.
#[derive(Debug, Default)]
struct Clients {
    autoscaling: OnceLock<aws_sdk_autoscaling::Client>,
    cloudwatch: OnceLock<aws_sdk_cloudwatch::Client>,
    dynamodb: OnceLock<aws_sdk_dynamodb::Client>,
    ecs: OnceLock<aws_sdk_ecs::Client>,
    elb: OnceLock<aws_sdk_elasticloadbalancingv2::Client>,
    sns: OnceLock<aws_sdk_sns::Client>,
    sqs: OnceLock<aws_sdk_sqs::Client>,
    ssm: OnceLock<aws_sdk_ssm::Client>,
}

/// One function a service: its client, built if it is not there yet.
macro_rules! clients {
    ($($function:ident, $field:ident, $sdk:ident;)*) => {
        $(pub(crate) async fn $function(&self) -> &$sdk::Client {
            let config = self.config().await;
            self.inner.clients.$field.get_or_init(|| $sdk::Client::new(config))
        })*
    };
}

impl Aws {
    /// Remembers the options. Nothing is read and nobody is asked before the first call.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { inner: Arc::new(Inner { options, config: OnceCell::new(), clients: Clients::default() }) }
    }

    clients! {
        autoscaling_client, autoscaling, aws_sdk_autoscaling;
        cloudwatch_client, cloudwatch, aws_sdk_cloudwatch;
        dynamodb_client, dynamodb, aws_sdk_dynamodb;
        ecs_client, ecs, aws_sdk_ecs;
        elb_client, elb, aws_sdk_elasticloadbalancingv2;
        sns_client, sns, aws_sdk_sns;
        sqs_client, sqs, aws_sdk_sqs;
        ssm_client, ssm, aws_sdk_ssm;
    }

    /// Times of the one call that waits on purpose: it may take `wait` longer than others.
    pub(crate) fn patient(&self, wait: Duration) -> TimeoutConfig {
        times(self.inner.options.read_timeout.unwrap_or(READ_TIMEOUT) + wait)
    }

    async fn config(&self) -> &SdkConfig {
        self.inner.config.get_or_init(|| load(&self.inner.options)).await
    }
}

async fn load(options: &Options) -> SdkConfig {
    let tls = Provider::Rustls(CryptoMode::Ring);
    let tries = RetryConfig::standard()
        .with_max_attempts(TRIES)
        .with_initial_backoff(BACKOFF_FIRST)
        .with_max_backoff(BACKOFF_MAX);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(HttpBuilder::new().tls_provider(tls).build_https())
        .timeout_config(times(options.read_timeout.unwrap_or(READ_TIMEOUT)))
        .retry_config(tries)
        // Answers are small, and every call has its time.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(region) = &options.region {
        loader = loader.region(aws_config::Region::new(region.clone()));
    }
    if let Some(profile) = &options.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(keys) = &options.keys {
        let (id, secret) = (keys.id.clone(), keys.secret.clone());
        loader = loader.credentials_provider(Credentials::new(id, secret, None, None, "options"));
    }
    loader.load().await
}

fn times(read: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(read)
        .operation_attempt_timeout(CONNECT_TIMEOUT + read)
        .build()
}

/// Makes one call: at most `within` from now, whatever it takes, the building of the client and the search for
/// credentials included. Boxed, because the SDK's futures are large.
pub(crate) fn call<'a, O, E>(
    operation: Operation,
    resource: &'a str,
    within: Duration,
    answer: impl Future<Output = Result<O, SdkError<E, HttpResponse>>> + Send + 'a,
) -> Pin<Box<dyn Future<Output = Result<O, AwsError>> + Send + 'a>>
where
    O: Send + 'a,
    E: ProvideErrorMetadata + Error + Send + 'static,
{
    let answer = Box::pin(answer);
    Box::pin(async move {
        match tokio::time::timeout(within, answer).await {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => Err(AwsError::from_sdk(operation, resource, &error)),
            Err(_) => Err(AwsError::new(operation, resource, Kind::TimedOut { within })),
        }
    })
}

/// How long to wait before the `attempt`-th further try of something that failed and may pass.
pub(crate) fn pause(attempt: u32) -> Duration {
    let backoff = Backoff {
        first: Millis(100),
        longest: Millis(1_000),
        // Processes that were told of the same interruption at the same moment ask apart.
        seed: u64::from(std::process::id()),
    };
    backoff.wait(attempt).to_duration()
}

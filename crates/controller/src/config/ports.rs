//! `[queue]`, `[store]`, `[alerts]`, `[metrics]`: where things come from and where they go.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Span, invalid};

/// `[queue]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// The SQS queue that EventBridge writes to.
    pub url: String,
    /// Where messages go that cannot be read; without it they stay for the queue's own redrive policy.
    pub dead_letters: Option<String>,
    /// How long a received message stays hidden; it is extended while it is worked on.
    pub visibility: Option<Span>,
    /// Receives that run at once.
    pub receivers: Option<u32>,
}

impl QueueConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let urls = [("queue.url", Some(&self.url)), ("queue.dead_letters", self.dead_letters.as_ref())];
        for (key, url) in urls {
            if url.is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
                let why = "is no URL as SQS shows it (https://sqs.REGION.amazonaws.com/ACCOUNT/NAME); an ARN or a \
                           name will not do";
                return Err(invalid(key, why));
            }
        }
        if self.dead_letters.as_ref() == Some(&self.url) {
            return Err(invalid("queue.dead_letters", "must be another queue than queue.url"));
        }
        Ok(())
    }
}

/// `[store]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// A SQLite file: one controller, or several on one machine.
    pub sqlite: Option<PathBuf>,
    /// A DynamoDB table: several controllers.
    pub dynamodb: Option<String>,
    /// How long history is kept.
    pub history: Option<Span>,
}

/// `[alerts]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// An SNS topic for every alert.
    pub topic: Option<String>,
    /// A file that holds the URL of a Slack webhook: a secret, so not the URL itself. The environment variable
    /// `LIFEBOAT_SLACK_WEBHOOK` does as well.
    pub slack_webhook_file: Option<PathBuf>,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The CloudWatch namespace; none: nothing is published there.
    pub namespace: Option<String>,
    /// How often.
    pub every: Option<Span>,
    /// An address on loopback that serves the same to Prometheus.
    pub prometheus: Option<SocketAddr>,
}

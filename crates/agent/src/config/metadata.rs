//! `[metadata]`: how the metadata service is watched.

use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};

use super::units::{Span, or};
use super::{ConfigError, senseless};

/// `[metadata]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataConfig {
    /// False: do not watch it at all.
    pub enabled: Option<bool>,
    /// Default: as the AWS SDKs (`AWS_EC2_METADATA_SERVICE_ENDPOINT`).
    pub endpoint: Option<String>,
    /// Between two polls.
    pub interval: Option<Span>,
}

/// Source A polls every 5 s, aws-node-termination-handler every 2 s; the metadata service is throttled per
/// instance, so no more often than every half second.
const INTERVAL_MIN: Millis = Millis(500);

/// Above a minute, half of the two minutes of a notice could be lost.
const INTERVAL_MAX: Millis = Millis::from_secs(60);

impl MetadataConfig {
    pub(super) fn interval(&self) -> Result<Millis, ConfigError> {
        let interval = or(self.interval, Millis::from_secs(2));
        if interval < INTERVAL_MIN || interval > INTERVAL_MAX {
            return Err(senseless("metadata.interval", "must lie between 500ms and 60s"));
        }
        Ok(interval)
    }
}

//! `[clock]`: a faster clock for rehearsals.

use lifeboat_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ConfigError, invalid};
use crate::clock::parse_rfc3339;

/// `[clock]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClockConfig {
    /// So many times faster than real time.
    pub scale: u32,
    /// When the scaled clock showed real time (RFC 3339): what `lifeboat lab` prints. All who share a world, restarts
    /// included, need the same.
    pub origin: String,
}

impl ClockConfig {
    pub(super) fn settings(&self) -> Result<(u32, Timestamp), ConfigError> {
        if !(1..=1_000).contains(&self.scale) {
            return Err(invalid("clock.scale", "must be from 1 to 1000"));
        }
        let origin = parse_rfc3339(&self.origin);
        let why = format!("{:?} is no time as in 2026-03-02T09:15:04Z", self.origin);
        Ok((self.scale, origin.ok_or_else(|| invalid("clock.origin", &why))?))
    }
}

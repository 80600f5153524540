//! `[prices]`: what a task costs.

use serde::{Deserialize, Serialize};

use super::{ConfigError, invalid};

/// `[prices]`: dollars.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    /// One task On-Demand for an hour.
    pub on_demand_task_hour: f64,
    /// One task on Spot for an hour.
    pub spot_task_hour: f64,
}

impl PricesConfig {
    pub(super) fn saving(self) -> Result<u64, ConfigError> {
        let micros = (self.on_demand_task_hour - self.spot_task_hour) * 1e6;
        if !(0.0..1e12).contains(&micros) {
            return Err(invalid("prices", "Spot must cost less than On-Demand, both in dollars an hour"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0..1e12")]
        Ok(micros as u64)
    }
}

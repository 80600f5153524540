//! `[machines]`: what is done about machines that will be interrupted.

use serde::{Deserialize, Serialize};

use super::{ConfigError, invalid};

/// `[machines]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachinesConfig {
    /// The shell command that SSM runs on an instance that will be interrupted.
    pub command: Option<String>,
    /// What follows from a rebalance recommendation.
    pub rebalance: Option<OnRebalance>,
}

/// What follows from a rebalance recommendation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRebalance {
    /// The same as from an interruption warning.
    #[default]
    Evacuate,
    /// A person is told.
    Alert,
    /// Nothing.
    Ignore,
}

/// What is done about machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machines {
    /// The shell command.
    pub command: String,
    /// At a rebalance recommendation.
    pub rebalance: OnRebalance,
}

impl MachinesConfig {
    pub(super) fn settings(&self) -> Result<Machines, ConfigError> {
        let command = self.command.clone().unwrap_or_else(|| "lifeboat evacuate".to_owned());
        if command.trim().is_empty() {
            return Err(invalid("machines.command", "is empty; leave it out for `lifeboat evacuate`"));
        }
        Ok(Machines { command, rebalance: self.rebalance.unwrap_or_default() })
    }
}

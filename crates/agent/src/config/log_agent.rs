//! `[log_agent]`: who ships the log, and is told to at the notice.

use serde::{Deserialize, Serialize};

use super::protect::unit_name;
use super::{ConfigError, senseless};

/// `[log_agent]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogAgentConfig {
    /// A systemd unit, which is reloaded.
    pub unit: Option<String>,
    /// Or a command: the program and its arguments; no shell is involved.
    pub command: Option<Vec<String>>,
}

/// Checked: how the one who ships the log is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogAgent {
    /// This unit is reloaded.
    Unit(String),
    /// This is run.
    Command(Vec<String>),
}

impl LogAgentConfig {
    pub(super) fn checked(&self) -> Result<Option<LogAgent>, ConfigError> {
        match (&self.unit, &self.command) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(senseless("log_agent", "names a `unit` and a `command`: one of them is enough"))
            }
            (Some(unit), None) => Ok(Some(LogAgent::Unit(unit_name("log_agent.unit", unit)?))),
            (None, Some(command)) if command.first().is_none_or(String::is_empty) => {
                Err(senseless("log_agent.command", "must name a program: [\"program\", \"argument\"]"))
            }
            (None, Some(command)) => Ok(Some(LogAgent::Command(command.clone()))),
        }
    }
}

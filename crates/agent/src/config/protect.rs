//! `[protect]`: what `lifeboat agent` protects and did not start.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, senseless};

/// `[protect]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProtectConfig {
    /// A systemd unit, stopped at the notice.
    pub unit: Option<String>,
    /// The file in which a daemon keeps its process id; the process is sent the stop signal at the notice.
    pub pid_file: Option<PathBuf>,
    /// Start the unit once its files are there.
    pub start: Option<bool>,
    /// Bring the work directory to where the work stands before anything else.
    pub restore: Option<bool>,
    /// What becomes of the work when the agent itself is asked to end.
    pub on_sigterm: Option<OnSigterm>,
}

/// What becomes of the work when the agent gets SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSigterm {
    /// As at a notice, with `evacuation.grace`.
    Evacuate,
    /// It goes on, unprotected until the agent is back.
    Leave,
}

/// Checked: what is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Protected {
    /// The work directory; nothing is stopped.
    #[default]
    Directories,
    /// A systemd unit, by its full name.
    Unit(String),
    /// The process that this file names.
    PidFile(PathBuf),
}

/// Checked: what is protected, and how its life begins and ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protect {
    /// What.
    pub what: Protected,
    /// Start the unit once its files are there.
    pub start: bool,
    /// Restore before anything else.
    pub restore: bool,
    /// `None`: evacuate where the machine shuts down or systemd did not start the agent, else leave.
    pub on_sigterm: Option<OnSigterm>,
}

/// Source: systemd.unit(5), "The unit name prefix … must consist of one or more valid characters (ASCII letters, digits,
/// `:`, `-`, `_`, `.`, and `\`). The total length … must not exceed 255 characters"; `@` separates an instance.
const UNIT_NAME_MAX: usize = 255;

/// Those that have processes, or stand for units that have.
const UNIT_TYPES: [&str; 4] = ["service", "scope", "slice", "target"];

impl ProtectConfig {
    /// Whether anything is named that `lifeboat agent` would stop.
    #[must_use]
    pub const fn names_something(&self) -> bool {
        self.unit.is_some() || self.pid_file.is_some()
    }

    pub(super) fn checked(&self) -> Result<Protect, ConfigError> {
        let what = match (&self.unit, &self.pid_file) {
            (Some(_), Some(_)) => {
                return Err(senseless("protect", "names a `unit` and a `pid_file`: one of them is enough"));
            }
            (Some(unit), None) => Protected::Unit(unit_name("protect.unit", unit)?),
            (None, Some(path)) if path.is_relative() => {
                return Err(senseless("protect.pid_file", "must be an absolute path"));
            }
            (None, Some(path)) => Protected::PidFile(path.clone()),
            (None, None) => Protected::Directories,
        };
        if self.start == Some(true) && !matches!(what, Protected::Unit(_)) {
            return Err(senseless("protect.start", "is for a `unit`: nothing else can be started"));
        }
        Ok(Protect {
            what,
            start: self.start.unwrap_or(false),
            restore: self.restore.unwrap_or(true),
            on_sigterm: self.on_sigterm,
        })
    }
}

/// The full name of a systemd unit that `key` names.
pub(super) fn unit_name(key: &str, name: &str) -> Result<String, ConfigError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if name.is_empty() || name.starts_with('-') || name.len() > UNIT_NAME_MAX || !name.bytes().all(is_allowed)
    {
        return Err(senseless(key, "must be the name of a systemd unit: \"worker.service\""));
    }
    // As systemctl reads it.
    let has_type = name.rsplit_once('.').is_some_and(|(_, kind)| UNIT_TYPES.contains(&kind));
    Ok(if has_type { name.to_owned() } else { format!("{name}.service") })
}

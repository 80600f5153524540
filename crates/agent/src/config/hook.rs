//! `[before_snapshot]`, `[after_snapshot]`: the commands around a snapshot.

use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};

use super::units::Span;
use super::{ConfigError, senseless};
use crate::hooks::Hook;

/// `[before_snapshot]`, `[after_snapshot]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// It is killed after so long.
    pub timeout: Option<Span>,
}

/// A database flushes within seconds, and holds its users up for as long.
const HOOK_TIMEOUT: Millis = Millis::from_secs(10);

/// Longer than any evacuation lasts.
const HOOK_TIMEOUT_MAX: Millis = Millis::from_secs(600);

pub(super) fn hook(key: &str, written: Option<&HookConfig>) -> Result<Option<Hook>, ConfigError> {
    let Some(written) = written else { return Ok(None) };
    let timeout = written.timeout.map_or(HOOK_TIMEOUT, |span| span.0);
    if written.command.first().is_none_or(String::is_empty) {
        return Err(senseless(&format!("{key}.command"), "must name a program: [\"program\", \"argument\"]"));
    }
    if timeout == Millis::ZERO || timeout > HOOK_TIMEOUT_MAX {
        return Err(senseless(&format!("{key}.timeout"), "must be more than nothing and at most 10m"));
    }
    Ok(Some(Hook { command: written.command.clone(), timeout: timeout.to_duration() }))
}

//! `[command]`: how the workload is run.

use serde::{Deserialize, Serialize};

use super::units::Span;
use crate::signal::Signal;

/// `[command]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommandConfig {
    /// Sent to the workload's process group at the notice.
    pub stop_signal: Option<Signal>,
    /// When the workload ended by itself, how long processes that it left behind may take to follow.
    pub linger: Option<Span>,
}

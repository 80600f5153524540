//! `[queue]`: messages in flight at the notice.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::Span;
use super::{ConfigError, is_inside, senseless};

/// `[queue]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// What becomes of messages in flight: `"release"`, or `{ extend = "300s" }`.
    pub on_interrupt: Option<OnInterrupt>,
    /// Receipts that the application keeps in a file, relative to the work directory, beside those it registered.
    pub receipts_file: Option<PathBuf>,
    /// The queue of receipts in that file which do not name theirs.
    pub url: Option<String>,
}

/// What becomes of a message in flight when its worker is interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInterrupt {
    /// It is visible again at once, after its partial result is stored.
    #[default]
    Release,
    /// It stays invisible for so long, counted from the hand-back.
    Extend(Span),
}

impl OnInterrupt {
    /// How long the message stays invisible.
    #[must_use]
    pub const fn visibility(self) -> Duration {
        match self {
            Self::Release => Duration::ZERO,
            Self::Extend(span) => span.0.to_duration(),
        }
    }
}

/// Source: Amazon SQS API Reference, `ChangeMessageVisibility` (0 to 43200 seconds), read November 2026.
const VISIBILITY_MAX: Duration = Duration::from_secs(43_200);

impl QueueConfig {
    pub(super) fn on_interrupt(&self) -> Result<OnInterrupt, ConfigError> {
        let on_interrupt = self.on_interrupt.unwrap_or_default();
        if on_interrupt.visibility() > VISIBILITY_MAX {
            return Err(senseless("queue.on_interrupt", "must extend by 12h at most"));
        }
        Ok(on_interrupt)
    }

    pub(super) fn url(&self) -> Result<Option<String>, ConfigError> {
        let is_queue = |url: &String| {
            url.starts_with("https://")
                || url.starts_with("http://")
                || lifeboat_worker::DirectoryQueue::directory_of(url).is_some()
        };
        if self.url.as_ref().is_some_and(|url| !is_queue(url)) {
            return Err(senseless(
                "queue.url",
                "must be https://sqs.REGION.amazonaws.com/ACCOUNT/NAME, or file:///ABSOLUTE/DIRECTORY",
            ));
        }
        Ok(self.url.clone())
    }

    pub(super) fn receipts_file(&self) -> Result<PathBuf, ConfigError> {
        let file = self.receipts_file.clone().unwrap_or_else(|| PathBuf::from("active_receipts.json"));
        if !is_inside(&file) {
            return Err(senseless("queue.receipts_file", "must be a path inside the work directory"));
        }
        Ok(file)
    }
}

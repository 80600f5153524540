//! What the files of both worlds share: a scenario to simulate and a scenario of the lab are read and refused alike.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::scenario::ScenarioError;

/// The largest scenario that is read: a thousand times what a person writes.
const FORM_MAX: u64 = 1 << 20;

/// The text of a file of at most `limit` bytes; none where it is larger, or never ends.
pub(crate) fn read_text(path: &Path, limit: u64) -> std::io::Result<Option<String>> {
    let file = std::fs::File::open(path)?;
    // Files that have no length, such as pipes, are bounded below.
    if file.metadata()?.len() > limit {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(limit + 1).read_to_end(&mut text)?;
    if text.len() as u64 > limit {
        return Ok(None);
    }
    let text = String::from_utf8(text);
    text.map(Some).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()))
}

/// Reads a file of whichever form.
///
/// # Errors
///
/// It cannot be read, is not TOML, or holds what the form does not have.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ScenarioError> {
    let text = read_text(path, FORM_MAX)
        .map_err(|source| ScenarioError::Read { path: path.to_path_buf(), source })?
        .ok_or_else(|| ScenarioError::TooLarge { path: path.to_path_buf() })?;
    toml::from_str(&text)
        .map_err(|source| ScenarioError::Toml { path: path.to_path_buf(), source: Box::new(source) })
}

/// A path that stands in `file`: relative to it.
pub(crate) fn beside(file: &Path, path: Option<PathBuf>) -> Option<PathBuf> {
    match (path, file.parent()) {
        (Some(path), Some(parent)) => Some(parent.join(path)),
        (path, _) => path,
    }
}

/// The error for a number outside its range.
pub(crate) fn range<T>(key: &'static str, range: &'static str, found: String) -> Result<T, ScenarioError> {
    Err(ScenarioError::Range { key, range, found })
}

/// Every one of these lies within 0 and 1.
pub(crate) fn shares(given: &[(&'static str, f64)]) -> Result<(), ScenarioError> {
    match given.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
        None => Ok(()),
        Some((key, share)) => range(key, "0 to 1", share.to_string()),
    }
}

/// A share in thousandths.
pub(crate) fn per_mille(share: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie within 0…1")]
    let whole = (share * 1000.0).round() as u32;
    whole
}

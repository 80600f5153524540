//! What the files of both worlds share: a scenario to simulate and a scenario of the lab are read and refused alike.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::scenario::ScenarioError;

/// Reads a file of whichever form.
///
/// # Errors
///
/// It cannot be read, is not TOML, or holds what the form does not have.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ScenarioError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ScenarioError::Read { path: path.to_path_buf(), source })?;
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

//! The name under which everything of one piece of work lies in the store.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::store::{Retry, StoreError};

/// The longest name of a workload: short enough to be a metric's dimension and a file name with a suffix.
pub const NAME_LENGTH_MAX: usize = 64;

/// A checked name: 1 to [`NAME_LENGTH_MAX`] of the characters `A–Z a–z 0–9 . _ -`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadName(String);

/// A text that cannot be the name of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} cannot name a workload: use 1 to {NAME_LENGTH_MAX} letters, digits, dots, underscores and dashes, \
     the first a letter or digit"
)]
pub struct ParseWorkloadNameError {
    /// What was given, cut to a length that can be shown.
    pub name: String,
}

impl WorkloadName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkloadName {
    type Err = ParseWorkloadNameError;

    fn from_str(name: &str) -> Result<Self, ParseWorkloadNameError> {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts_well && name.len() <= NAME_LENGTH_MAX && name.bytes().all(is_safe) {
            Ok(Self(name.to_owned()))
        } else {
            Err(ParseWorkloadNameError { name: name.chars().take(2 * NAME_LENGTH_MAX).collect() })
        }
    }
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for WorkloadName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WorkloadName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// One workload in one store: what every operation of this crate starts from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workload {
    store: Arc<dyn ObjectStore>,
    name: WorkloadName,
}

impl Workload {
    /// The workload `name` in `store`. Nothing is read or written yet.
    #[must_use]
    pub const fn new(store: Arc<dyn ObjectStore>, name: WorkloadName) -> Self {
        Self { store, name }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// The store it lies in.
    #[must_use]
    pub const fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Every workload that has something in `store`, by name.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be listed.
    pub async fn list(store: &Arc<dyn ObjectStore>) -> Result<Vec<WorkloadName>, StoreError> {
        let top = Path::default();
        let listed = Retry::small().run("list", &top, || store.list_with_delimiter(None)).await?;
        // A prefix that is no valid name is somebody else's: a store may be shared.
        let mut names: Vec<WorkloadName> =
            listed.common_prefixes.iter().filter_map(|prefix| prefix.as_ref().parse().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Where `key`, which is relative to the workload, lies in the store.
    pub(crate) fn locate(&self, key: &str) -> Path {
        let key = format!("{}/{key}", self.name);
        // As it is, also where it holds what `from` would escape: a listing gives it back as it is.
        Path::parse(&key).unwrap_or_else(|_| Path::from(key))
    }

    /// The reverse of [`Workload::locate`].
    pub(crate) fn relative<'a>(&self, location: &'a Path) -> Option<&'a str> {
        location.as_ref().strip_prefix(self.name.as_str())?.strip_prefix('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_keys_and_files() {
        for name in ["a", "index-2024.v1", "A_b", &"x".repeat(64)] {
            assert!(name.parse::<WorkloadName>().is_ok(), "{name}");
        }
        for name in ["", ".", "..", "-x", "_x", "a/b", "a#1", "ä", "a b", "a\n", &"x".repeat(65)] {
            let error = name.parse::<WorkloadName>().expect_err(name);
            assert!(error.to_string().contains("letters, digits"), "{error}");
        }
    }
}

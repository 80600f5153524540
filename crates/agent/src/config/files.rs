//! Which files are saved, in which order and form.

use std::path::PathBuf;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, is_inside, senseless};

/// One rule of `[[priority]]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PriorityRule {
    /// Which paths below the work directory.
    pub glob: String,
    /// The greater the earlier, in proportion to the size. 0: last of all.
    pub priority: u32,
}

/// `layout`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutChoice {
    /// Files together in packs, large ones in blocks.
    #[default]
    Packed,
    /// Each file as an object under its own name.
    Plain,
}

impl Config {
    /// The workload's own state, relative to the work directory.
    pub(super) fn state_path(&self) -> Result<PathBuf, ConfigError> {
        let file = self.state_file.clone().unwrap_or_else(|| PathBuf::from("state.json"));
        if !is_inside(&file) {
            return Err(senseless("state_file", "must be a path inside the work directory"));
        }
        Ok(file)
    }

    pub(super) fn priorities(&self) -> Result<Vec<lifeboat_snapshot::save::PriorityRule>, ConfigError> {
        self.priority
            .iter()
            .map(|rule| match Glob::new(&rule.glob) {
                Ok(glob) => Ok(lifeboat_snapshot::save::PriorityRule {
                    glob: glob.compile_matcher(),
                    priority: rule.priority,
                }),
                Err(error) => Err(senseless("priority.glob", &error.to_string())),
            })
            .collect()
    }

    pub(super) fn excluded(&self) -> Result<GlobSet, ConfigError> {
        let mut set = GlobSetBuilder::new();
        for glob in &self.exclude {
            set.add(Glob::new(glob).map_err(|error| senseless("exclude", &error.to_string()))?);
        }
        set.build().map_err(|error| senseless("exclude", &error.to_string()))
    }
}

//! Copying while the work goes on: how often and how fast.

use lifeboat_core::time::Millis;
use lifeboat_snapshot::save::Pace;

use super::{Config, ConfigError, senseless};

/// More would need more memory: each object holds a buffer of 8 MiB.
const PRECOPY_CONCURRENCY_MAX: usize = 8;

/// An object of the smallest kind then takes a second.
const PRECOPY_RATE_MIN: u64 = 64 * 1024;

/// Each round looks at every file.
const PRECOPY_MIN: Millis = Millis::from_secs(1);

impl Config {
    pub(super) fn rounds(&self) -> Result<Option<Millis>, ConfigError> {
        if self.precopy.is_some_and(|span| span.0 < PRECOPY_MIN) {
            return Err(senseless("precopy", "must be at least 1s"));
        }
        Ok(self.precopy.map(|span| span.0))
    }

    pub(super) fn pace(&self) -> Result<Pace, ConfigError> {
        let background = Pace::BACKGROUND;
        let concurrency = match self.precopy_concurrency {
            None => background.concurrency,
            Some(number) => match usize::try_from(number) {
                Ok(number @ 1..=PRECOPY_CONCURRENCY_MAX) => number,
                Ok(_) | Err(_) => return Err(senseless("precopy_concurrency", "must lie between 1 and 8")),
            },
        };
        let bytes_per_second = self.precopy_rate.map(|rate| rate.0).or(background.bytes_per_second);
        if bytes_per_second.is_some_and(|rate| rate.get() < PRECOPY_RATE_MIN) {
            return Err(senseless("precopy_rate", "must be at least 64KiB/s: a round would never end"));
        }
        Ok(Pace { concurrency, bytes_per_second, ..background })
    }
}

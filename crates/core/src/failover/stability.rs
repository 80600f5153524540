//! The last samples of Spot while only probes run on it. They count by number, not by age: samples that come a
//! little slower than planned must delay a return, never forbid it.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::view::SampleCounts;
use crate::time::Timestamp;

/// Samples kept. At one per 45 s these span 10.5 min, just over the stable window of source B.
pub const SAMPLES_MAX: usize = 15;

/// What one look at the probes showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every probe was ready.
    Good,
    /// A probe was still starting.
    Open,
    /// A probe was refused or interrupted since the last look.
    Bad,
}

/// The samples, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    taken: Vec<(Timestamp, Outcome)>,
}

impl Samples {
    /// Adds what was seen at `now`, and forgets the oldest beyond [`SAMPLES_MAX`].
    pub fn take(&mut self, now: Timestamp, outcome: Outcome) {
        if self.taken.len() >= SAMPLES_MAX {
            self.taken.remove(0);
        }
        self.taken.push((now, outcome));
    }

    /// When the last sample was taken.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        self.taken.last().map(|(at, _)| *at)
    }

    /// Starts anew.
    pub fn clear(&mut self) {
        self.taken.clear();
    }

    /// The samples as numbers.
    #[must_use]
    pub fn counts(&self, now: Timestamp) -> SampleCounts {
        let mut counts = SampleCounts::default();
        for (_, outcome) in &self.taken {
            counts.taken += 1;
            match outcome {
                Outcome::Good => counts.good += 1,
                Outcome::Open => {}
                Outcome::Bad => counts.bad += 1,
            }
        }
        counts.span = self.taken.first().map_or(counts.span, |(at, _)| now.since(*at));
        counts
    }
}

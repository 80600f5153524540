//! What goes wrong in a world, drawn from its seed or set by a scenario. All of it ends at `until`, so that a
//! checker can tell what comes to rest from what does not.

use lifeboat_core::time::{Millis, Timestamp};

use crate::rng::Rng;

/// Shares are thousandths of the operations that they concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// From then on nothing of this happens.
    pub until: Timestamp,
    /// Events that never arrive.
    pub lost: u32,
    /// Events that arrive twice.
    pub doubled: u32,
    /// Events that arrive minutes late.
    pub late: u32,
    /// Calls that the ECS API throttles.
    pub throttled: u32,
    /// Orders whose answer never comes and that land later.
    pub landed_late: u32,
    /// Looks that show what was seconds ago.
    pub stale: u32,
    /// Loads and commits that fail.
    pub store: u32,
    /// Commits that are stored although their answer is a failure.
    pub unknown: u32,
    /// Crashes of the controller between two effects.
    pub crash: u32,
    /// Freezes of the controller between two effects.
    pub freeze: u32,
    /// Freezes between the last check of an order and its call.
    pub freeze_in_call: u32,
    /// The longest freeze.
    pub freeze_max: Millis,
    /// Launches without capacity that sit in PENDING and tell nobody.
    pub silent: u32,
}

impl Faults {
    /// Nothing goes wrong but what AWS documents: half of the launches without capacity are silent.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            until: Timestamp(i64::MAX),
            lost: 0,
            doubled: 0,
            late: 0,
            throttled: 0,
            landed_late: 0,
            stale: 0,
            store: 0,
            unknown: 0,
            crash: 0,
            freeze: 0,
            freeze_in_call: 0,
            freeze_max: Millis::ZERO,
            silent: 500,
        }
    }

    /// Faults drawn from `seed`: each kind is absent in half of the worlds, so that none hides another.
    #[must_use]
    pub fn drawn(seed: u64, until: Timestamp) -> Self {
        let mut rng = Rng::new(seed, 7);
        let mut draw = |most: u64| {
            let share = if rng.chance(500) { 0 } else { rng.between(1, most) };
            u32::try_from(share).unwrap_or(0)
        };
        Self {
            until,
            lost: draw(300),
            doubled: draw(300),
            late: draw(200),
            throttled: draw(400),
            landed_late: draw(50),
            stale: draw(300),
            store: draw(200),
            unknown: draw(100),
            crash: draw(20),
            freeze: draw(10),
            freeze_in_call: draw(20),
            freeze_max: Millis::from_secs(240),
            silent: draw(1000),
        }
    }
}

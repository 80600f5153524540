//! The phases of a service, one table for code, history and documentation.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Where a service is between Spot and On-Demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Spot runs everything that is wanted; no On-Demand is asked for.
    #[default]
    Spot,
    /// On-Demand is asked for and not all of it is ready. Nothing of Spot is given up.
    ShiftingToOnDemand,
    /// The On-Demand that is asked for is ready; Spot is probed or keeps what it has.
    OnDemand,
    /// Spot is asked for everything again; On-Demand stays until Spot is ready.
    ShiftingToSpot,
    /// On-Demand did not come within its time: both stay asked for, a person was told, and it is tried again.
    Degraded,
}

impl Phase {
    /// All phases, in the order of the documentation.
    pub const ALL: [Self; 5] =
        [Self::Spot, Self::ShiftingToOnDemand, Self::OnDemand, Self::ShiftingToSpot, Self::Degraded];

    /// The name as it is stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::ShiftingToOnDemand => "shifting_to_on_demand",
            Self::OnDemand => "on_demand",
            Self::ShiftingToSpot => "shifting_to_spot",
            Self::Degraded => "degraded",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

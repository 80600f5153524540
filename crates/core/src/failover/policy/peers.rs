//! What others do, for comparison: each as its paper or code says, in the better of the two variants.

use serde::{Deserialize, Serialize};

use crate::failover::reason::Reason;
use crate::failover::split::Wanted;
use crate::failover::view::View;

pub(super) fn all_on_demand(view: &View) -> Wanted {
    Wanted::new(0, view.target, Reason::Fixed)
}

pub(super) fn pure_spot(view: &View) -> Wanted {
    Wanted::new(view.target, 0, Reason::Fixed)
}

pub(super) fn fixed_base(view: &View, base: u32) -> Wanted {
    let base = base.min(view.target);
    Wanted::new(view.target - base, base, Reason::Fixed)
}

/// fargate-spot-fallback: any refused launch sets the On-Demand service to the whole target beside Spot, any
/// steady Spot service sets it to nothing. It keeps no state, no threshold and no hold time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {}

impl Fallback {
    pub(super) fn wanted(self, view: &View) -> Wanted {
        let refused = match (view.refused_at, view.steady_at) {
            (Some(refused), Some(steady)) => refused > steady,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            // Nothing has happened yet: what runs, stays.
            (None, None) => view.spot.ready < view.target,
        };
        if refused {
            Wanted::new(view.target, view.target, Reason::Refused)
        } else {
            Wanted::new(view.target, 0, Reason::SpotComplete)
        }
    }
}

/// SpotHedge: Spot replicas beyond the target, and On-Demand for those that are not ready.
///
/// Source: Mao et al., "SkyServe: Serving AI Models across Regions and Clouds with Spot Instances" (EuroSys 2025),
/// section 3, and `sky/serve/autoscalers.py` of skypilot-org/skypilot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpotHedge {
    /// Spot replicas beyond the target.
    pub spares: u32,
    /// The paper's fall-back makes up for missing spares too, `min(N, N + spares − ready)`; without it
    /// On-Demand makes up for what is missing of the target only, which costs less.
    pub covers_spares: bool,
    /// Published, it ignores interruption notices; with this a warned replica no longer counts as ready.
    pub heeds_notices: bool,
}

impl SpotHedge {
    pub(super) fn wanted(self, view: &View) -> Wanted {
        let ready = if self.heeds_notices { view.spot.ready } else { view.spot.serving() };
        let aim = if self.covers_spares { view.target.saturating_add(self.spares) } else { view.target };
        let missing = aim.saturating_sub(ready).min(view.target);
        let reason = if missing == 0 {
            Reason::SpotComplete
        } else {
            Reason::SpotShort { ready, cover: 0, target: view.target }
        };
        Wanted::new(view.target.saturating_add(self.spares), missing, reason)
    }
}

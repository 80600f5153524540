//! `shortfall`: On-Demand covers what Spot is missing or was told it will lose, and steps back task by task.

use serde::{Deserialize, Serialize};

use crate::failover::reason::Reason;
use crate::failover::split::Wanted;
use crate::failover::view::View;

/// The knobs of `shortfall`. The default is what docs/failover.md measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// Spot tasks beyond the target. Worth their price only where reclaims come without notice or starts take
    /// longer than the notice: losses come in bulk, so one spare protects little.
    pub spares: u32,
}

impl Shortfall {
    pub(super) fn wanted(&self, view: &View) -> Wanted {
        let sure = view.spot.ready + view.cover;
        let missing = view.target.saturating_sub(sure);
        let reason = if missing == 0 {
            Reason::SpotComplete
        } else {
            Reason::SpotShort { ready: view.spot.ready, cover: view.cover, target: view.target }
        };
        Wanted::new(view.target.saturating_add(self.spares), missing, reason)
    }
}

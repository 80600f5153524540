//! Policies: plain values that map a [`View`] to a split with its reason. They keep nothing and see nothing else.
//!
//! Which zone a Spot task goes to is not theirs: ECS chooses by itself, and where the caller may choose,
//! [`super::zones`] does.

mod peers;
mod shortfall;
mod switch;

pub use peers::{Fallback, SpotHedge};
pub use shortfall::Shortfall;
pub use switch::Switch;

use super::split::Wanted;
use super::view::View;
use crate::time::Millis;

/// How the split of a service is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// On-Demand covers exactly what Spot is missing or was told it will lose.
    Shortfall(Shortfall),
    /// Everything moves at a threshold, and returns after a stable window (source B).
    Switch(Switch),
    /// No Spot at all.
    AllOnDemand,
    /// No On-Demand at all.
    PureSpot,
    /// This many tasks always run On-Demand, the rest on Spot, as a capacity provider strategy's `base` does.
    FixedBase {
        /// On-Demand tasks, at most the target.
        base: u32,
    },
    /// The published project fargate-spot-fallback.
    Fallback(Fallback),
    /// SpotHedge (SkyServe), with spare Spot replicas.
    SpotHedge(SpotHedge),
}

impl Policy {
    /// The split for what `view` shows.
    #[must_use]
    pub fn wanted(&self, view: &View) -> Wanted {
        match self {
            Self::Shortfall(shortfall) => shortfall.wanted(view),
            Self::Switch(switch) => switch.wanted(view),
            Self::AllOnDemand => peers::all_on_demand(view),
            Self::PureSpot => peers::pure_spot(view),
            Self::FixedBase { base } => peers::fixed_base(view, *base),
            Self::Fallback(fallback) => fallback.wanted(view),
            Self::SpotHedge(hedge) => hedge.wanted(view),
        }
    }

    /// The share of the target, in percent, that must be ready before our own action may stop Spot tasks.
    #[must_use]
    pub const fn floor_percent(&self) -> u32 {
        match self {
            Self::Switch(switch) => switch.floor_percent,
            Self::Shortfall(_)
            | Self::AllOnDemand
            | Self::PureSpot
            | Self::FixedBase { .. }
            | Self::Fallback(_)
            | Self::SpotHedge(_) => 100,
        }
    }

    /// The share of the wanted On-Demand tasks, in percent, with which a shift counts as complete. Source B
    /// waits for half: waiting for all of them timed out.
    #[must_use]
    pub const fn shift_percent(&self) -> u32 {
        self.floor_percent()
    }

    /// Whether tasks are only stopped once enough others are ready. The peers stop when they like, as published.
    #[must_use]
    pub const fn is_guarded(&self) -> bool {
        match self {
            Self::Switch(_) | Self::Shortfall(_) => true,
            Self::AllOnDemand
            | Self::PureSpot
            | Self::FixedBase { .. }
            | Self::Fallback(_)
            | Self::SpotHedge(_) => false,
        }
    }

    /// Whether On-Demand is given up task by task, not all at once.
    #[must_use]
    pub const fn releases_stepwise(&self) -> bool {
        match self {
            Self::Switch(_) => false,
            Self::Shortfall(_)
            | Self::AllOnDemand
            | Self::PureSpot
            | Self::FixedBase { .. }
            | Self::Fallback(_)
            | Self::SpotHedge(_) => true,
        }
    }

    /// Whether probes are looked at while On-Demand runs the work.
    #[must_use]
    pub const fn probes(&self) -> bool {
        match self {
            Self::Switch(_) => true,
            Self::Shortfall(_)
            | Self::AllOnDemand
            | Self::PureSpot
            | Self::FixedBase { .. }
            | Self::Fallback(_)
            | Self::SpotHedge(_) => false,
        }
    }

    /// How long Spot must have been good before everything returns to it; no time where nothing waits for that.
    #[must_use]
    pub const fn stable(&self) -> Millis {
        match self {
            Self::Switch(switch) => switch.stable,
            Self::Shortfall(_)
            | Self::AllOnDemand
            | Self::PureSpot
            | Self::FixedBase { .. }
            | Self::Fallback(_)
            | Self::SpotHedge(_) => Millis::ZERO,
        }
    }

    /// Spot tasks that stay while a person has everything run On-Demand.
    #[must_use]
    pub fn kept_spot(&self, target: u32) -> u32 {
        match self {
            Self::Switch(switch) => switch.probes.min(target),
            Self::Shortfall(_)
            | Self::AllOnDemand
            | Self::PureSpot
            | Self::FixedBase { .. }
            | Self::Fallback(_)
            | Self::SpotHedge(_) => 0,
        }
    }

    /// Whether interruption notices are read at all. SpotHedge as published finds out when a replica is gone. What
    /// runs on ECS is replaced at the notice by ECS itself, whatever the policy.
    #[must_use]
    pub const fn heeds_notices(&self) -> bool {
        match self {
            Self::SpotHedge(hedge) => hedge.heeds_notices,
            Self::Shortfall(_)
            | Self::Switch(_)
            | Self::AllOnDemand
            | Self::PureSpot
            | Self::FixedBase { .. }
            | Self::Fallback(_) => true,
        }
    }

    /// Whether the Spot service is ever told another count than the target. Where it is not, an autoscaler may
    /// own that count, and `shortfall` then keeps no spares.
    #[must_use]
    pub const fn moves_spot(&self) -> bool {
        match self {
            Self::Shortfall(_) | Self::PureSpot | Self::Fallback(_) => false,
            Self::Switch(_) | Self::AllOnDemand | Self::FixedBase { .. } | Self::SpotHedge(_) => true,
        }
    }
}

//! Policies by the names that the command line and scenario files use.

use lifeboat_core::failover::policy::{Fallback, Policy, Shortfall, SpotHedge, Switch};
use lifeboat_core::failover::zones::{Memory, Placement};
use lifeboat_core::time::Millis;
use thiserror::Error;

/// How often policies without a memory of zones ask again: the period of SkyServe's controller and of ours.
const RETRY: Millis = Millis::from_secs(30);

/// The names, as a person may type them.
pub const NAMES: &str = "shortfall[:SPARES], shortfall-no-memory[:SPARES], switch, switch-without-probes, switch-as-source, \
    all-on-demand, pure-spot, fixed-base:TASKS, fargate-spot-fallback, spothedge[:SPARES], \
    spothedge-paper[:SPARES], spothedge-notices[:SPARES]";

/// A name that stands for no policy.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no policy {name:?}; known are {NAMES}")]
pub struct UnknownPolicy {
    /// What was asked for.
    pub name: String,
}

/// A policy with the way it chooses zones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// As it is shown.
    pub name: String,
    /// Decides the split.
    pub policy: Policy,
    /// Chooses zones, in the world that lets it.
    pub placement: Placement,
}

impl Named {
    /// The number behind the colon, or what stands for it.
    #[must_use]
    pub const fn tasks(&self) -> u32 {
        match self.policy {
            Policy::Shortfall(Shortfall { spares }) | Policy::SpotHedge(SpotHedge { spares, .. }) => spares,
            Policy::FixedBase { base } => base,
            Policy::Switch(_) | Policy::AllOnDemand | Policy::PureSpot | Policy::Fallback(_) => 0,
        }
    }
}

/// The policy of this name.
///
/// # Errors
///
/// The name is unknown, or the number behind the colon is no whole number.
pub fn parse(name: &str) -> Result<Named, UnknownPolicy> {
    let unknown = || UnknownPolicy { name: name.to_owned() };
    let (base, number) = match name.split_once(':') {
        None => (name, None),
        Some((base, number)) => (base, Some(number.parse::<u32>().map_err(|_| unknown())?)),
    };
    let spread = Placement::Spread { retry: RETRY };
    let hedge = |covers_spares, heeds_notices| {
        let spares = number.unwrap_or(1);
        let policy = Policy::SpotHedge(SpotHedge { spares, covers_spares, heeds_notices });
        (policy, Placement::Hedge { retry: RETRY })
    };
    let shortfall = Policy::Shortfall(Shortfall { spares: number.unwrap_or(0) });
    let takes_number = base.starts_with("shortfall") || base.starts_with("spothedge") || base == "fixed-base";
    if number.is_some() && !takes_number {
        return Err(unknown());
    }
    let (policy, placement) = match base {
        "shortfall" => (shortfall, Placement::Memory(Memory::default())),
        "shortfall-no-memory" => (shortfall, spread),
        "switch" => (Policy::Switch(Switch::default()), spread),
        "switch-without-probes" => (Policy::Switch(Switch { probes: 0, ..Switch::default() }), spread),
        "switch-as-source" => {
            (Policy::Switch(Switch { probes: 0, returns_blind: true, ..Switch::default() }), spread)
        }
        "all-on-demand" => (Policy::AllOnDemand, spread),
        "pure-spot" => (Policy::PureSpot, spread),
        "fixed-base" => (Policy::FixedBase { base: number.ok_or_else(unknown)? }, spread),
        "fargate-spot-fallback" => (Policy::Fallback(Fallback {}), spread),
        "spothedge" => hedge(false, false),
        "spothedge-paper" => hedge(true, false),
        "spothedge-notices" => hedge(false, true),
        _ => return Err(unknown()),
    };
    Ok(Named { name: name.to_owned(), policy, placement })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_and_unknown_ones_are_answered_with_the_list() {
        for name in NAMES.split(", ") {
            let name = name.replace("[:SPARES]", ":2").replace("TASKS", "3");
            assert_eq!(parse(&name).map(|named| named.name), Ok(name.clone()));
        }
        for name in ["", "shortfal", "switch:3", "fixed-base", "spothedge:x", "shortfall:-1"] {
            let error = parse(name).expect_err("it is no policy").to_string();
            assert!(error.contains("known are shortfall[:SPARES]"), "{error}");
        }
    }
}

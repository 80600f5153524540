//! `switch`: source B's failover. Everything moves to On-Demand at a threshold, and back after a stable window.

use serde::{Deserialize, Serialize};

use crate::failover::phase::Phase;
use crate::failover::reason::Reason;
use crate::failover::split::Wanted;
use crate::failover::view::View;
use crate::time::Millis;

/// The knobs of `switch`; the default holds source B's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Refused launches within the window that trip it.
    pub capacity_errors: u32,
    /// Interruptions within the window that trip it.
    pub interruptions: u32,
    /// A Spot task that is not ready after this long trips it: P99 of the start, 2.3 min, and 30 %.
    pub pending_max: Millis,
    /// Spot is given up once this share of the target is ready On-Demand, in percent.
    pub floor_percent: u32,
    /// Spot must have been good for this long before everything returns.
    pub stable: Millis,
    /// Samples that the stable window must hold.
    pub samples: u32,
    /// Good samples among them, in percent, at least.
    pub good_percent: u32,
    /// Bad samples among them, in percent, at most.
    pub bad_percent: u32,
    /// Spot tasks kept as probes while On-Demand runs the work. Zero is source B's bug: it never returns.
    pub probes: u32,
    /// Return once the stable window has passed without an error, with no sample at all, as source B's recovery
    /// comes down to. For comparison only.
    pub returns_blind: bool,
}

impl Default for Switch {
    fn default() -> Self {
        Self {
            capacity_errors: 3,
            interruptions: 5,
            pending_max: Millis::from_secs(180),
            floor_percent: 50,
            stable: Millis::from_secs(600),
            samples: 10,
            good_percent: 80,
            bad_percent: 5,
            probes: 1,
            returns_blind: false,
        }
    }
}

impl Switch {
    pub(super) fn wanted(&self, view: &View) -> Wanted {
        let all_spot = |reason| Wanted::new(view.target, 0, reason);
        let all_on_demand = |reason| Wanted::new(self.probes.min(view.target), view.target, reason);
        let trip = self.trip(view);
        match view.phase {
            Phase::Spot => trip.map_or_else(|| all_spot(Reason::SpotComplete), all_on_demand),
            Phase::ShiftingToOnDemand => all_on_demand(trip.unwrap_or(Reason::Shifting)),
            Phase::OnDemand => match self.stable(view) {
                Some(reason) => all_spot(reason),
                None => all_on_demand(Reason::Probing {
                    taken: view.samples.taken,
                    good: view.samples.good,
                    bad: view.samples.bad,
                }),
            },
            // On-Demand still runs everything: a slow start is no reason to turn back, the shift's time-out is.
            Phase::ShiftingToSpot => {
                self.errors(view).map_or_else(|| all_spot(Reason::Shifting), all_on_demand)
            }
            Phase::Degraded if trip.is_none() && view.spot.ready >= view.target => {
                all_spot(Reason::SpotComplete)
            }
            Phase::Degraded => all_on_demand(trip.unwrap_or(Reason::Shifting)),
        }
    }

    /// Why everything should move to On-Demand, if it should.
    fn trip(&self, view: &View) -> Option<Reason> {
        let is_late = view.oldest_pending > self.pending_max;
        self.errors(view)
            .or_else(|| is_late.then_some(Reason::PendingTooLong { pending: view.oldest_pending }))
    }

    /// Which count of errors reached its threshold, if one did.
    fn errors(&self, view: &View) -> Option<Reason> {
        if view.window.capacity_errors >= self.capacity_errors {
            let count = view.window.capacity_errors;
            return Some(Reason::CapacityErrors { count, threshold: self.capacity_errors });
        }
        if view.window.interruptions >= self.interruptions {
            let count = view.window.interruptions;
            return Some(Reason::Interruptions { count, threshold: self.interruptions });
        }
        None
    }

    /// Why everything may return to Spot, if it may. The last samples count, not those of the last minutes:
    /// samples that come a little too slowly must not keep a service On-Demand for ever.
    fn stable(&self, view: &View) -> Option<Reason> {
        let seen = view.samples;
        if self.returns_blind && view.phase_for >= self.stable && view.window.errors() == 0 {
            return Some(Reason::SpotStable { taken: 0, good: 0 });
        }
        let is_stable = seen.taken >= self.samples
            && seen.span >= self.stable
            && seen.good * 100 >= seen.taken * self.good_percent
            && seen.bad * 100 <= seen.taken * self.bad_percent
            && view.oldest_pending <= self.pending_max;
        is_stable.then_some(Reason::SpotStable { taken: seen.taken, good: seen.good })
    }
}

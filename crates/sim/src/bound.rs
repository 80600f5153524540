//! What no plan can beat, without a solver: every tick takes all the Spot that there is and no start costs anything.

use crate::tally::Prices;
use crate::trace::Trace;

/// The cheapest conceivable cost of holding `target` tasks, in task-milliseconds of On-Demand.
#[must_use]
pub fn cost(trace: &Trace, target: u32, prices: Prices) -> f64 {
    let gap = trace.gap.0 as f64;
    (0..trace.ticks()).map(|tick| tick_cost(trace, tick, target, prices) * gap).sum()
}

/// One tick in On-Demand tasks: the cheapest zones first, On-Demand for the rest.
fn tick_cost(trace: &Trace, tick: usize, target: u32, prices: Prices) -> f64 {
    let mut zones: Vec<(f64, u32)> = trace
        .zones
        .iter()
        .map(|zone| {
            let price = match prices {
                Prices::Ratio(per_mille) => f64::from(per_mille) / 1000.0,
                Prices::Recorded { on_demand } => {
                    zone.prices.get(tick).map_or(1.0, |price| *price as f64 / on_demand as f64)
                }
            };
            (price, zone.capacity[tick])
        })
        .collect();
    zones.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut left = target;
    let mut cost = 0.0;
    for (price, capacity) in zones.into_iter().filter(|(price, _)| *price < 1.0) {
        let taken = capacity.min(left);
        cost += price * f64::from(taken);
        left -= taken;
    }
    cost + f64::from(left)
}

//! What holds in the zone-choosing world, whatever the trace.

use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::Millis;
use lifeboat_sim::rng::Rng;
use lifeboat_sim::tally::{Prices, Tally};
use lifeboat_sim::trace::{Trace, Zone};
use lifeboat_sim::{policies, zones};

/// Traces that are drawn.
const TRACES: u64 = 500;

/// Up to five zones that are empty, short or full for a while each, over some hours.
fn draw(seed: u64) -> (Trace, u32) {
    let mut rng = Rng::new(seed, 77);
    let target = u32::try_from(rng.between(1, 12)).expect("a small number");
    let zones = (0..rng.between(1, 5)).map(|zone| {
        let mut level = target;
        let capacity = (0..300).map(|_| {
            if rng.chance(60) {
                level = u32::try_from(rng.below(u64::from(target) * 2)).expect("a small number");
            }
            level
        });
        Zone { name: format!("zone-{zone}"), capacity: capacity.collect(), prices: Vec::new() }
    });
    let zones: Vec<Zone> = zones.collect();
    (Trace::new("drawn".to_owned(), Millis::from_secs(60), zones).expect("zones of one length"), target)
}

fn run(trace: &Trace, target: u32, name: &str, seed: u64) -> Tally {
    let named = policies::parse(name).expect("a known policy");
    zones::run(trace, &zones::Config::new(target, Rules::new(named.policy), named.placement, seed)).0
}

#[test]
fn shortfall_is_never_short_where_every_reclaim_is_announced_in_time() {
    for seed in 0..TRACES {
        let (trace, target) = draw(seed);
        for name in ["shortfall", "shortfall:1", "shortfall:2", "shortfall-no-memory"] {
            let tally = run(&trace, target, name, seed);
            assert_eq!(tally.whole, tally.span, "{name}, seed {seed}: {:?}", tally.outages);
        }
    }
}

/// All traces together: in one of them luck may have it otherwise.
#[test]
fn the_memory_of_zones_costs_less_and_asks_less() {
    let sum = |name| {
        (0..TRACES).fold((0.0, 0), |(cost, requests), seed| {
            let (trace, target) = draw(seed);
            let tally = run(&trace, target, name, seed);
            (cost + tally.cost(Prices::Ratio(300)), requests + tally.requests)
        })
    };
    let (with, without) = (sum("shortfall"), sum("shortfall-no-memory"));
    assert!(with.0 < without.0 && with.1 < without.1, "{with:?} with, {without:?} without");
}

#[test]
fn who_ignores_notices_is_short_for_as_long_as_a_start_takes() {
    let capacity = (0..60).map(|tick| if tick < 30 { 4 } else { 0 }).collect();
    let zone = |name: &str, capacity| Zone { name: name.to_owned(), capacity, prices: Vec::new() };
    let zones = vec![zone("a", capacity), zone("b", vec![0; 60])];
    let trace =
        Trace::new("drawn".to_owned(), Millis::from_secs(60), zones).expect("two zones of one length");
    for (name, outages) in [("spothedge:0", vec![Millis::from_secs(120)]), ("spothedge-notices:0", vec![])] {
        assert_eq!(run(&trace, 4, name, 1).outages, outages, "{name}");
    }
}

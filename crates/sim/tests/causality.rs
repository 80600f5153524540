//! A policy sees only what AWS would show: whatever happens beyond the notice leaves every earlier turn as it was.

use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_sim::record::Turn;
use lifeboat_sim::rng::Rng;
use lifeboat_sim::trace::{Trace, Zone};
use lifeboat_sim::{ecs, policies, zones};

const POLICIES: [&str; 13] = [
    "shortfall",
    "shortfall:1",
    "shortfall-no-memory",
    "switch",
    "switch-without-probes",
    "switch-as-source",
    "all-on-demand",
    "pure-spot",
    "fixed-base:2",
    "fargate-spot-fallback",
    "spothedge",
    "spothedge-paper:2",
    "spothedge-notices",
];

const TICKS: usize = 400;

/// Three zones that come and go, the same up to tick `until` and another course afterwards.
fn trace(until: usize, future: u64) -> Trace {
    let zones = (0..3).map(|index| {
        let mut past = Rng::new(9, index);
        let mut other = Rng::new(future, 100 + index);
        let mut level = 6;
        let capacity = (0..TICKS).map(|tick| {
            let rng = if tick < until { &mut past } else { &mut other };
            if rng.chance(60) {
                level = [0, 2, 6, 6][rng.index(4)];
            }
            level
        });
        Zone { name: format!("zone-{index}"), capacity: capacity.collect(), prices: Vec::new() }
    });
    Trace::new("drawn".to_owned(), Millis::from_secs(60), zones.collect()).expect("three zones of one length")
}

/// Turns before `horizon` of both runs are equal, and those of the whole runs are not.
fn compare(name: &str, horizon: Timestamp, one: &[Turn], other: &[Turn]) {
    let early = |turns: &[Turn]| turns.iter().filter(|turn| turn.at < horizon).cloned().collect::<Vec<_>>();
    assert_eq!(early(one), early(other), "{name} saw the future");
}

#[test]
fn no_policy_sees_beyond_the_notice_in_the_zone_choosing_world() {
    for name in POLICIES {
        let named = policies::parse(name).expect("a known policy");
        let mut differ = 0;
        for until in [100, 200, 300] {
            let run = |future| {
                let mut config = zones::Config::new(6, Rules::new(named.policy), named.placement, 1);
                config.record = true;
                zones::run(&trace(until, future), &config).1.turns
            };
            let horizon = Timestamp(i64::try_from(until).expect("a small number") * 60_000 - 120_000);
            let (one, other) = (run(1), run(2));
            compare(name, horizon, &one, &other);
            differ += usize::from(one != other);
        }
        let never_moves = ["all-on-demand", "switch-without-probes"];
        assert!(
            differ > 0 || never_moves.contains(&name),
            "{name}: the futures must differ to prove anything"
        );
    }
}

#[test]
fn no_policy_sees_beyond_the_notice_in_the_ecs_world() {
    for name in POLICIES {
        let named = policies::parse(name).expect("a known policy");
        for until in [100, 200, 300] {
            let run = |future| {
                let mut config = ecs::Config::new(6, Rules::new(named.policy), 1);
                config.record = true;
                ecs::run(&trace(until, future), &config).record.turns
            };
            let horizon = Timestamp(i64::try_from(until).expect("a small number") * 60_000 - 120_000);
            compare(name, horizon, &run(1), &run(2));
        }
    }
}

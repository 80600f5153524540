//! Worlds drawn from seeds: everything about each comes from its seed alone, so a failing one is replayed by its
//! number.

use lifeboat_core::failover::policy::{Policy, Shortfall, Switch};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};

use crate::ecs::{Config, Faults, Outcome, Planted, StartTimes, run};
use crate::rng::Rng;
use crate::trace::{Trace, Zone};

/// Ticks of one minute after the faults, with Spot for everybody: long enough to come to rest.
const QUIET_TICKS: u64 = 85;

/// The world of this seed.
#[must_use]
pub fn draw(seed: u64) -> (Trace, Config) {
    let mut rng = Rng::new(seed, 5);
    let target = u32::try_from(rng.between(1, 12)).unwrap_or(1);
    let services = if rng.chance(800) { 1 } else { 2 };
    let wild_ticks = rng.between(60, 200);
    let zones = rng.between(1, 4);
    let trace = draw_trace(&mut rng, (zones, wild_ticks), target * services);
    let policy = if rng.chance(500) {
        Policy::Shortfall(Shortfall { spares: u32::try_from(rng.below(3).saturating_sub(1)).unwrap_or(0) })
    } else {
        Policy::Switch(Switch::default())
    };
    let until = Timestamp(i64::try_from(wild_ticks * 60_000).unwrap_or(0));
    let mut config = Config::new(target, Rules::new(policy), seed);
    config.services = usize::try_from(services).unwrap_or(1);
    config.controllers = usize::try_from(rng.between(1, 3)).unwrap_or(1);
    config.start = if rng.chance(700) {
        StartTimes::MEASURED
    } else {
        StartTimes::fixed(Millis::from_secs(rng.between(20, 300)))
    };
    config.announced = [1000, 1000, 990, 900, 500, 0][rng.index(6)];
    config.notice = Millis::from_secs([120, 120, 120, 30, 0][rng.index(5)]);
    config.stop_timeout = Millis::from_secs([30, 120, 120][rng.index(3)]);
    config.starts_on_spot = rng.chance(700);
    config.follows = config.starts_on_spot && rng.chance(250);
    if rng.chance(200) {
        let most = u64::from(target * services);
        config.on_demand_quota = u32::try_from(rng.below(most + 1)).unwrap_or(0);
        if !config.starts_on_spot {
            config.on_demand_quota = config.on_demand_quota.max(target * services);
        }
    }
    config.faults =
        if rng.chance(150) { Faults { until, ..Faults::none() } } else { Faults::drawn(seed, until) };
    (trace, config)
}

/// Zones that are full, short or empty for a while each, and full at the end.
fn draw_trace(rng: &mut Rng, (zones, wild_ticks): (u64, u64), wanted: u32) -> Trace {
    // An autoscaler doubles the target at most.
    let plenty = wanted * 2 + 4;
    let zones = (0..zones).map(|zone| {
        let mut capacity = Vec::new();
        while (capacity.len() as u64) < wild_ticks {
            let level = match rng.below(4) {
                0 => 0,
                1 => u32::try_from(rng.below(u64::from(wanted) + 1)).unwrap_or(0),
                _ => plenty,
            };
            let ticks = rng.between(1, 40).min(wild_ticks - capacity.len() as u64);
            capacity.extend((0..ticks).map(|_| level));
        }
        capacity.extend((0..QUIET_TICKS).map(|_| plenty));
        Zone { name: format!("zone-{zone}"), capacity, prices: Vec::new() }
    });
    Trace::new("drawn".to_owned(), Millis::from_secs(60), zones.collect())
        .expect("zones of one length with ticks")
}

/// Runs the world of this seed.
#[must_use]
pub fn run_seed(seed: u64) -> Outcome {
    let (trace, config) = draw(seed);
    run(&trace, &config)
}

/// What a range of seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Swarm {
    /// Worlds run.
    pub worlds: u64,
    /// Events in all of them.
    pub events: u64,
    /// The seeds that broke a promise, with the first one they broke.
    pub failures: Vec<(u64, String)>,
}

impl Swarm {
    /// What to say of a failing seed, with the command that replays it.
    #[must_use]
    pub fn replay(seed: u64) -> String {
        format!("cargo run --release -p lifeboat-sim --bin swarm -- --seed {seed}")
    }
}

/// Runs the seeds `from..from + count` on `threads` threads, each world with this mistake planted. The result does
/// not depend on how many threads there are.
#[must_use]
pub fn run_many(from: u64, count: u64, threads: u64, planted: Planted) -> Swarm {
    let threads = threads.max(1);
    let part = |thread: u64| {
        let mut swarm = Swarm::default();
        for seed in (from..from + count).filter(|seed| seed % threads == thread) {
            let (trace, mut config) = draw(seed);
            config.planted = planted;
            let outcome = run(&trace, &config);
            swarm.worlds += 1;
            swarm.events += outcome.events;
            if let Some(first) = outcome.violations.first() {
                swarm.failures.push((seed, first.to_string()));
            }
        }
        swarm
    };
    let parts: Vec<Swarm> = std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        started.into_iter().map(|handle| handle.join().expect("a world does not panic")).collect()
    });
    let mut all = Swarm::default();
    for part in parts {
        all.worlds += part.worlds;
        all.events += part.events;
        all.failures.extend(part.failures);
    }
    all.failures.sort_unstable();
    all
}

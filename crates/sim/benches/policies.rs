//! How policies compare on recorded traces: cost against all On-Demand, against the omniscient linear program and
//! against the bound; paired 24 h windows, losses too.
//!
//! `cargo bench -p lifeboat-sim --bench policies -- DIRECTORY [--quick]` with the directory of recorded traces.

mod program;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::Millis;
use lifeboat_sim::ecs::{self, StartTimes};
use lifeboat_sim::tally::{Figures, Prices, Tally};
use lifeboat_sim::trace::Trace;
use lifeboat_sim::{bound, policies, zones};

const POLICIES: [&str; 13] = [
    "shortfall",
    "shortfall-no-memory",
    "switch",
    "spothedge-notices:0",
    "spothedge-notices:1",
    "spothedge:0",
    "spothedge:1",
    "spothedge:2",
    "spothedge:3",
    "spothedge-paper:1",
    "fargate-spot-fallback",
    "fixed-base:1",
    "pure-spot",
];

/// Traces by file name, with the target and what its capacities are multiplied by. The aws3 campaign probed with one
/// instance, so that its 1 stands for at least one.
const TRACES: [(&str, u32, u32, &[&str]); 9] = [
    ("aws1-v100x4", 4, 1, &[]),
    ("bamboo-g4dn", 10, 1, &[]),
    ("bamboo-p3", 10, 1, &[]),
    ("bamboo-gcp-v100", 32, 1, &[]),
    ("bamboo-gcp-a100", 32, 1, &[]),
    ("aws2-v100x16", 10, 1, &[]),
    ("aws3-v100-9zones-priced", 10, 4, &[]),
    ("aws3-v100-9zones-priced", 10, 4, &["us-east-1a", "us-east-1c", "us-east-1d", "us-east-1f"]),
    ("gcp-h100x16-13zones", 10, 1, &[]),
];

const RATIO: Prices = Prices::Ratio(300);

/// How much less available a policy may be and still count as equally available.
const TOLERANCE: f64 = 0.0005;

const SEEDS: u64 = 5;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line's output")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(directory) = arguments.iter().find(|argument| !argument.starts_with("--")).map(PathBuf::from)
    else {
        // `cargo test --benches` runs this without arguments.
        println!("usage: cargo bench -p lifeboat-sim --bench policies -- DIRECTORY [--quick]");
        return ExitCode::SUCCESS;
    };
    let is_quick = arguments.iter().any(|argument| argument == "--quick");
    for (name, target, scale, only) in TRACES {
        match load(&directory, name, only) {
            Ok(trace) => one_trace(&trace.scaled(scale), target, is_quick, only),
            Err(error) => {
                eprintln!("{name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn load(directory: &Path, name: &str, only: &[&str]) -> Result<Trace, lifeboat_sim::trace::TraceError> {
    let trace = Trace::read(&directory.join(format!("{name}.json")))?;
    if only.is_empty() {
        return Ok(trace);
    }
    trace.only(&only.iter().map(|zone| (*zone).to_owned()).collect::<Vec<_>>())
}

#[expect(clippy::print_stdout, reason = "a command line's output")]
fn one_trace(trace: &Trace, target: u32, is_quick: bool, only: &[&str]) {
    let all = trace.end().0 as f64 * f64::from(target);
    let bound = bound::cost(trace, target, RATIO);
    let program = if is_quick { bound } else { program::cost(trace, target, 0.3, Millis::from_secs(110)) };
    println!(
        "\n## {} {} N={target}, bound {:.2}, omniscient {:.2}",
        trace.name,
        only.join(" "),
        bound / all * 100.0,
        program / all * 100.0
    );
    println!("zone-choosing world, {SEEDS} seeds");
    println!(
        "{:24} {:>7} {:>7} {:>8} {:>8} {:>8} {:>7} {:>7} {:>6} {:>6}  24 h windows: won, lost, not as available",
        "policy", "cost", "x omni", "ready", "capacity", "out/wk", "worst", "req/d", "modes", "od"
    );
    let windows = Windows::new(trace, target);
    for name in POLICIES {
        let sum: Vec<Figures> = (1..=SEEDS)
            .map(|seed| run(trace, name, target, seed).figures(name, seed, RATIO, bound))
            .collect();
        let mean = |value: fn(&Figures) -> f64| sum.iter().map(value).sum::<f64>() / sum.len() as f64;
        let worst = sum.iter().map(|row| row.worst_outage_s).fold(0.0, f64::max);
        let (won, lost, unequal) = windows.against(name);
        println!(
            "{name:24} {:>7.2} {:>7.4} {:>8.3} {:>8.4} {:>8.1} {:>7.0} {:>7.0} {:>6.0} {:>6.0}  {won} {lost} {unequal}",
            mean(|row| row.cost_vs_on_demand) * 100.0,
            mean(|row| row.cost_vs_on_demand) * all / program,
            mean(|row| row.ready_fraction) * 100.0,
            mean(|row| row.capacity_weighted) * 100.0,
            mean(|row| row.outages_per_week),
            worst,
            mean(|row| row.requests_per_day),
            mean(|row| row.mode_changes as f64),
            mean(|row| row.on_demand_launches as f64),
        );
    }
    program::sweep::print(trace, target);
    ecs_table(trace, target);
}

fn run(trace: &Trace, name: &str, target: u32, seed: u64) -> Tally {
    let named = policies::parse(name).expect("the names above are known");
    zones::run(trace, &zones::Config::new(target, Rules::new(named.policy), named.placement, seed)).0
}

/// The same days for every policy, each begun anew.
struct Windows {
    target: u32,
    days: Vec<Trace>,
    ours: Vec<(f64, f64)>,
}

impl Windows {
    fn new(trace: &Trace, target: u32) -> Self {
        let ticks = usize::try_from(86_400_000 / trace.gap.0).unwrap_or(1);
        let days: Vec<Trace> = (0..trace.ticks() / ticks)
            .filter_map(|day| trace.cut(day * ticks, (day + 1) * ticks).ok())
            .collect();
        let mut windows = Self { target, days, ours: Vec::new() };
        windows.ours = windows.figures("shortfall");
        windows
    }

    fn figures(&self, name: &str) -> Vec<(f64, f64)> {
        self.days
            .iter()
            .map(|day| {
                let tally = run(day, name, self.target, 1);
                (tally.cost(RATIO), tally.whole.0 as f64 / tally.span.0 as f64)
            })
            .collect()
    }

    /// Days in which shortfall was at least as cheap as a policy that was as available; days in which it was not;
    /// days in which the policy was less available.
    fn against(&self, name: &str) -> (u32, u32, u32) {
        let (mut won, mut lost, mut unequal) = (0, 0, 0);
        for ((cost, ready), (our_cost, our_ready)) in self.figures(name).into_iter().zip(&self.ours) {
            if ready + TOLERANCE < *our_ready {
                unequal += 1;
            } else if *our_cost <= cost {
                won += 1;
            } else {
                lost += 1;
            }
        }
        (won, lost, unequal)
    }
}

#[expect(clippy::print_stdout, reason = "a command line's output")]
fn ecs_table(trace: &Trace, target: u32) {
    const CASES: [(&str, u64, u32, u64); 5] = [
        ("stopTimeout 120", 120, 1000, 120),
        ("stopTimeout 30", 30, 1000, 120),
        ("90 % of the notices", 120, 900, 120),
        ("no notices", 120, 0, 120),
        ("starts of 183 s (P95)", 120, 1000, 183),
    ];
    const NAMES: [&str; 12] = [
        "shortfall",
        "shortfall:1",
        "shortfall:2",
        "switch",
        "spothedge:0",
        "spothedge:1",
        "spothedge:2",
        "spothedge:3",
        "spothedge-notices:1",
        "fixed-base:1",
        "fixed-base:2",
        "fargate-spot-fallback",
    ];
    for (case, stop_timeout, announced, start) in CASES {
        println!("ECS world, {case}: policy, cost, ready, capacity, worst outage s, gap P50 and P99 s");
        let mut points: Vec<(&str, f64, f64)> = Vec::new();
        for name in NAMES {
            let named = policies::parse(name).expect("the names above are known");
            let mut total = Tally::default();
            let mut gaps = Vec::new();
            for seed in 1..=3 {
                let mut config = ecs::Config::new(target, Rules::new(named.policy), seed);
                config.starts_on_spot = false;
                config.stop_timeout = Millis::from_secs(stop_timeout);
                config.announced = announced;
                config.start = StartTimes::stretched(Millis::from_secs(start));
                let outcome = ecs::run(trace, &config);
                total.add(&outcome.tally);
                gaps.extend(outcome.gaps);
            }
            gaps.sort_unstable();
            let rank = |percent: usize| {
                gaps.len()
                    .checked_sub(1)
                    .map_or(0.0, |last| gaps[(last * percent).div_ceil(100)].0 as f64 / 1000.0)
            };
            let row = total.figures(name, 1, RATIO, 1.0);
            points.push((name, row.cost_vs_on_demand, row.ready_fraction));
            println!(
                "{name:24} {:>7.2} {:>8.3} {:>8.4} {:>7.0} {:>6.1} {:>6.1}",
                row.cost_vs_on_demand * 100.0,
                row.ready_fraction * 100.0,
                row.capacity_weighted * 100.0,
                row.worst_outage_s,
                rank(50),
                rank(99)
            );
        }
        println!("shortfall is {} the frontier of SpotHedge and a fixed base", frontier(&points));
    }
}

/// Whether any of the published peers is at least as cheap and as available as shortfall, and better in one of them.
fn frontier(points: &[(&str, f64, f64)]) -> String {
    let Some((_, cost, ready)) = points.iter().find(|(name, _, _)| *name == "shortfall") else {
        return "not measured against".to_owned();
    };
    let peers =
        points.iter().filter(|(name, _, _)| name.starts_with("spothedge:") || name.starts_with("fixed-base"));
    let better: Vec<&str> = peers
        .filter(|(_, other, share)| other <= cost && share >= ready && (other < cost || share > ready))
        .map(|(name, _, _)| *name)
        .collect();
    if better.is_empty() { "on or beyond".to_owned() } else { format!("behind {} on", better.join(", ")) }
}

//! How policies compare on recorded traces: cost against all On-Demand, against the omniscient linear program and
//! against the bound; paired 24 h windows, losses too. [`windows`] pairs them, [`program`] is the omniscient one.
//!
//! `cargo bench -p lifeboat-sim --bench policies -- DIRECTORY [--quick]` with the directory of recorded traces.

mod program;
mod windows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::Millis;
use lifeboat_sim::ecs::{self, StartTimes};
use lifeboat_sim::model::Model;
use lifeboat_sim::tally::{Figures, Prices, Tally};
use lifeboat_sim::trace::Trace;
use lifeboat_sim::{bound, policies, zones};

use windows::{Pool, Windows};

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
    let mut pool = Pool::default();
    for (name, target, scale, only) in TRACES {
        match load(&directory, name, only) {
            Ok(trace) => one_trace(&trace.scaled(scale), (target, only), is_quick, &mut pool),
            Err(error) => {
                eprintln!("{name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    pool.print();
    source_b();
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
fn one_trace(trace: &Trace, (target, only): (u32, &[&str]), is_quick: bool, pool: &mut Pool) {
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
        let windows::Count { won, lost, unequal, .. } = pool.add(name, windows.against(name));
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
    for retry in windows::RETRIES {
        pool.add(&windows::itself(retry), windows.against_itself(retry));
    }
    program::sweep::print(trace, target);
    ecs_table(trace, target);
}

fn run(trace: &Trace, name: &str, target: u32, seed: u64) -> Tally {
    let named = policies::parse(name).expect("the names above are known");
    zones::run(trace, &zones::Config::new(target, Rules::new(named.policy), named.placement, seed)).0
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
            let row = total.figures(name, 1, RATIO, 1.0);
            points.push((name, row.cost_vs_on_demand, row.ready_fraction));
            println!(
                "{name:24} {:>7.2} {:>8.3} {:>8.4} {:>7.0} {:>6.1} {:>6.1}",
                row.cost_vs_on_demand * 100.0,
                row.ready_fraction * 100.0,
                row.capacity_weighted * 100.0,
                row.worst_outage_s,
                rank(&mut gaps, 50),
                rank(&mut gaps, 99)
            );
        }
        println!("shortfall is {} the frontier of SpotHedge and a fixed base", frontier(&points));
    }
}

/// The value in seconds that `percent` of them do not exceed.
fn rank(values: &mut [Millis], percent: usize) -> f64 {
    values.sort_unstable();
    values.len().checked_sub(1).map_or(0.0, |last| values[(last * percent).div_ceil(100)].0 as f64 / 1000.0)
}

/// Source B's three months: how long an interrupted task is missing, and how long until its replacement starts.
#[expect(clippy::print_stdout, reason = "a command line's output")]
fn source_b() {
    let trace = Model::default().trace("source B", 1).expect("a good model");
    println!(
        "\n## source B's three months: policy, share announced, gap P50 and P99 s; where not announced, replacement placed after P50, P99 and at most s"
    );
    for name in ["shortfall", "switch"] {
        for announced in [1000, 0] {
            let named = policies::parse(name).expect("both names are known");
            let mut config = ecs::Config::new(200, Rules::new(named.policy), 1);
            config.announced = announced;
            config.starts_on_spot = false;
            let mut outcome = ecs::run(&trace, &config);
            println!(
                "{name:12} {announced:>4} {:>6} interruptions {:>6.1} {:>6.1}   {:>6.1} {:>6.1} {:>6.1}",
                outcome.gaps.len(),
                rank(&mut outcome.gaps, 50),
                rank(&mut outcome.gaps, 99),
                rank(&mut outcome.reactions, 50),
                rank(&mut outcome.reactions, 99),
                rank(&mut outcome.reactions, 100)
            );
        }
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

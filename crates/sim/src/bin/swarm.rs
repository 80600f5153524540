//! Runs seeded worlds until one breaks a promise: `swarm --seeds 20000`, or `swarm --seed N` to replay one.

use std::process::ExitCode;

use lifeboat_sim::swarm::{self, Swarm};

/// Failures listed; the first one is enough to work on.
const LISTED_MAX: usize = 20;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line's output")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if let Some(seed) = number("--seed") {
        let (trace, config) = swarm::draw(seed);
        println!("{config:#?}\n{} zones, {} ticks", trace.zones.len(), trace.ticks());
        let outcome = lifeboat_sim::ecs::run(&trace, &lifeboat_sim::ecs::Config { record: true, ..config });
        for turn in &outcome.record.turns {
            println!("{:>7} s  {}  {:?}  {}", turn.at.0 / 1000, turn.phase, turn.split, turn.reason);
        }
        for violation in &outcome.violations {
            println!("{violation}");
        }
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let Some(seeds) = number("--seeds") else {
        eprintln!("usage: swarm --seeds COUNT [--from SEED] [--threads COUNT] | swarm --seed SEED");
        return ExitCode::from(2);
    };
    let began = std::time::Instant::now();
    let run = swarm::run_many(number("--from").unwrap_or(0), seeds, number("--threads").unwrap_or(2));
    println!(
        "{} worlds, {} events, {} failures, {:.1?}",
        run.worlds,
        run.events,
        run.failures.len(),
        began.elapsed()
    );
    for (seed, first) in run.failures.iter().take(LISTED_MAX) {
        println!("seed {seed}: {first}\n    {}", Swarm::replay(*seed));
    }
    if run.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

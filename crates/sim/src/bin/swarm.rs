//! Runs seeded worlds and lists those that broke a promise: `swarm --seeds 20000`, or `swarm --seed N` to replay
//! one. `--plant NAME` plants a classic mistake first, to see that it is caught.

use std::process::ExitCode;

use lifeboat_sim::ecs::Planted;
use lifeboat_sim::swarm::{self, Swarm};

/// Failures listed; the first one is enough to work on.
const LISTED_MAX: usize = 20;

/// The mistakes that can be planted.
const NAMES: [(&str, Planted); 5] = [
    ("acknowledges-early", Planted::AcknowledgesEarly),
    ("counts-standard", Planted::CountsStandard),
    ("stops-spot-first", Planted::StopsSpotFirst),
    ("expires-state", Planted::ExpiresState),
    ("acts-unfenced", Planted::ActsUnfenced),
];

fn planted(arguments: &[String]) -> Result<Planted, String> {
    let Some(at) = arguments.iter().position(|argument| argument == "--plant") else {
        return Ok(Planted::Nothing);
    };
    let name = arguments.get(at + 1).cloned().unwrap_or_default();
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, planted)| *planted).ok_or(name)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line's output")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let plant = match planted(&arguments) {
        Ok(plant) => plant,
        Err(name) => {
            eprintln!("no mistake {name:?}; known are {}", NAMES.map(|(name, _)| name).join(", "));
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = number("--seed") {
        let (trace, mut config) = swarm::draw(seed);
        config.planted = plant;
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
        eprintln!(
            "usage: swarm --seeds COUNT [--from SEED] [--threads COUNT] [--plant NAME] | swarm --seed SEED"
        );
        return ExitCode::from(2);
    };
    let began = std::time::Instant::now();
    let run = swarm::run_many(number("--from").unwrap_or(0), seeds, number("--threads").unwrap_or(2), plant);
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

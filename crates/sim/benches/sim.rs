//! How fast the simulator and the machine are: `cargo bench -p lifeboat-sim --bench sim [-- TRACE.json]`.
//!
//! Times are those that this program had a core for, where the system tells: others may run beside it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lifeboat_core::failover::event::{Event, Happening};
use lifeboat_core::failover::machine::{Effect, Input, Machine, Receipt, Target};
use lifeboat_core::failover::observation::{Capacity, Observation, Service, Task};
use lifeboat_core::failover::policy::{Policy, Shortfall};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_sim::model::Model;
use lifeboat_sim::trace::{Trace, Zone};
use lifeboat_sim::{ecs, policies, zones};

/// The best of this many: other programs only ever make a run slower.
const ROUNDS: u32 = 5;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line's output")]
fn main() -> ExitCode {
    let file = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let trace = match file {
        None => drawn(),
        Some(path) => match Trace::read(Path::new(&path)) {
            Ok(trace) => trace.scaled(4),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        },
    };
    let named = policies::parse("shortfall").expect("it is known");
    let config = zones::Config::new(10, Rules::new(named.policy), named.placement, 1);
    let days = trace.end().0 as f64 / 86_400_000.0;
    let took = best(|| drop(zones::run(&trace, &config)));
    println!(
        "zones: {days:.1} days × {} zones × 10 replicas, shortfall: {took:.3?} (aim 0.25 s)",
        trace.zones.len()
    );
    println!("machine, one service: {:.0} inputs/s (aim 1,000,000)", machine(1));
    println!("machine, 10,000 services: {:.0} inputs/s (aim 300,000)", machine(10_000));
    for services in [10, 100, 1_000] {
        fleet(services);
    }
    ExitCode::SUCCESS
}

/// How long this program has had a core so far; without `/proc`, the time since its first call.
fn time() -> Duration {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let ran = told.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    ran.map_or_else(|| FIRST.elapsed(), Duration::from_nanos)
}

fn best(mut run: impl FnMut()) -> Duration {
    let round = |_| {
        let began = time();
        run();
        time().saturating_sub(began)
    };
    (0..ROUNDS).map(round).min().unwrap_or_default()
}

/// 45 days, nine zones that come and go every few hours.
fn drawn() -> Trace {
    let zones = (0..9).map(|zone| {
        let mut rng = lifeboat_sim::rng::Rng::new(1, zone);
        let mut level = 0;
        let capacity = (0..20_158).map(|_| {
            if rng.chance(20) {
                level = 4 - level;
            }
            level
        });
        Zone { name: format!("zone-{zone}"), capacity: capacity.collect(), prices: Vec::new() }
    });
    Trace::new("drawn".to_owned(), Millis::from_secs(195), zones.collect()).expect("nine zones of one length")
}

#[expect(clippy::print_stdout, reason = "a command line's output")]
fn fleet(services: usize) {
    let tasks = u32::try_from(services * 200).expect("a small number");
    let model = Model {
        days: 1,
        tasks,
        shortage_tasks: tasks / 4,
        interruptions_per_10_days: 200,
        ..Model::default()
    };
    let trace = model.trace("model", 1).expect("a good model");
    let mut config = ecs::Config::new(200, Rules::new(Policy::Shortfall(Shortfall::default())), 1);
    config.services = services;
    let began = time();
    let outcome = ecs::run(&trace, &config);
    let took = time().saturating_sub(began);
    println!(
        "ecs: {services} services × 200 tasks × 1 day: {took:.2?}, {} events, {:.0} ns each, {} inputs, peak {} MiB",
        outcome.events,
        took.as_nanos() as f64 / outcome.events as f64,
        outcome.inputs,
        peak_mib()
    );
}

/// The most memory that this process ever held, where the system tells.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Inputs a second: an event, its commit, its acknowledgement, and now and then a look, for each service in turn.
fn machine(services: usize) -> f64 {
    let rules = Rules::new(Policy::Shortfall(Shortfall::default()));
    let mut machines: Vec<Machine> =
        (0..services).map(|service| Machine::new(rules, Target::Fixed(20), service as u64)).collect();
    let mut now = Timestamp(1_000_000);
    let mut inputs = 0_u64;
    for machine in &mut machines {
        drive(machine, now, Input::Woke, &mut inputs);
    }
    let rounds = 2_000_000 / services;
    let began = time();
    inputs = 0;
    for round in 0..rounds {
        now = now + Millis(if services == 1 { 20 } else { 2_000 });
        for machine in &mut machines {
            let receipt = Receipt(round as u64);
            let what = Happening::Ready { task: round as u64 };
            let events = vec![Event { at: now, capacity: Capacity::Spot, what }];
            drive(machine, now, Input::Events { receipt, events }, &mut inputs);
        }
    }
    inputs as f64 / time().saturating_sub(began).as_secs_f64()
}

/// Gives the machine an input and answers what it asks for, as a store and an API that never fail would.
fn drive(machine: &mut Machine, now: Timestamp, input: Input, inputs: &mut u64) {
    let mut todo = vec![input];
    while let Some(input) = todo.pop() {
        *inputs += 1;
        for effect in machine.step(now, input).effects {
            match effect {
                Effect::Load => todo.push(Input::Loaded(None)),
                Effect::Observe => todo.push(Input::Observed(look(now))),
                Effect::Commit { state, .. } => todo.push(Input::Committed { generation: state.generation }),
                Effect::Order(_) => todo.push(Input::Ordered),
                Effect::Acknowledge(_) | Effect::Alert(_) => {}
            }
        }
    }
}

fn look(at: Timestamp) -> Observation {
    let task = |key| Task { key, created_at: Timestamp(0), is_ready: true, is_warned: false };
    let spot = Service { desired: 20, tasks: (0..20).map(task).collect() };
    Observation { at, spot, on_demand: Service::default(), is_deploying: false }
}

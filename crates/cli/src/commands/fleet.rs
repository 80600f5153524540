//! What people ask of a fleet: `status`, `history`, `shift`, `pause`, `resume`. They talk to the store; every
//! controller heeds what is stored there within seconds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use lifeboat_controller::clock::{Clock, rfc3339};
use lifeboat_controller::config::{Config, ConfigError, Span};
use lifeboat_controller::store::{Commit, Committed, Store};
use lifeboat_core::failover::history;
use lifeboat_core::failover::instruction::Instruction;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::failover::state::State;
use lifeboat_core::time::{Millis, Timestamp};
use serde::Serialize;

use super::controller;
use crate::output;

/// Between two looks of `--watch`.
pub(super) const WATCH: Duration = Duration::from_secs(2);

/// A command that meets commits of a controller tries again so often.
const TRIES: u32 = 20;

#[derive(Args, Debug)]
pub(crate) struct FleetArgs {
    /// The controller's configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Of this service only.
    service: Option<String>,
    /// At most so many entries, the newest.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    fleet: FleetArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ShiftArgs {
    /// Which service.
    service: String,
    /// Where everything shall run.
    #[arg(long)]
    to: To,
    /// For how long; without it, until `lifeboat resume`.
    #[arg(long = "for", value_name = "TIME")]
    span: Option<Span>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// Which service.
    service: String,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ChangeArgs {
    /// Print what would be stored.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    fleet: FleetArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    OnDemand,
    Spot,
}

/// One line of `status`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    service: &'a str,
    phase: &'static str,
    since: String,
    target: u32,
    spot: u32,
    on_demand: u32,
    reason: String,
    failovers_today: u32,
    paused: bool,
    asked: Option<String>,
    generation: u64,
}

struct Open {
    store: Arc<dyn Store>,
    clock: Clock,
}

fn open(path: &Path) -> anyhow::Result<Open> {
    let (config, settings) = controller::read(path)?;
    let store = controller::existing_store(&config, &settings, &controller::aws(&config))?;
    let clock = match settings.clock {
        Some((scale, origin)) => Clock::scaled(scale, origin),
        None => Clock::real(),
    };
    Ok(Open { store, clock })
}

/// Whether a configuration file is a controller's: unknown keys are errors, so a file with any key is one or the
/// other.
pub(crate) fn is_controllers(path: &Path) -> bool {
    use lifeboat_agent::config::{Config as Workloads, ConfigError};
    // Where nothing can be read, or no end is found, nothing is to be read once more.
    matches!(Workloads::read(path), Err(ConfigError::Malformed { .. })) && Config::read(path).is_ok()
}

/// Says so where a file is neither a controller's nor an agent's configuration.
///
/// # Errors
/// What each of them says of it.
pub(crate) fn is_somebodys(path: &Path) -> anyhow::Result<()> {
    let (Err(controllers), Err(agents)) = (Config::read(path), lifeboat_agent::config::Config::read(path))
    else {
        return Ok(());
    };
    if matches!(controllers, ConfigError::Unreadable { .. }) {
        return Ok(()); // the agent's reader says it as well
    }
    bail!(
        "{} is a configuration neither of the controller nor of the agent\n{controllers}\n{agents}",
        path.display()
    )
}

/// Prints the services; with `watch` again and again.
pub(crate) async fn status(config: &Path, watch: bool, json: bool) -> anyhow::Result<u8> {
    let open = open(config)?;
    loop {
        let states = open.store.states().await?;
        let now = open.clock.now();
        let lines: Vec<Line<'_>> = states.iter().map(|(name, state)| line(name, state, now)).collect();
        if !watch {
            output::either(json, &lines, || table(&lines))?;
            return Ok(0);
        }
        if !output::again(json, &lines, || table(&lines))? {
            return Ok(0);
        }
        tokio::time::sleep(WATCH).await;
    }
}

fn line<'a>(service: &'a str, state: &State, now: Timestamp) -> Line<'a> {
    let asked = state.asked.filter(|asked| asked.holds(now)).map(|asked| match asked.until {
        Some(until) => format!("{} until {}", asked.to, rfc3339(until)),
        None => format!("{} until resumed", asked.to),
    });
    Line {
        service,
        phase: state.phase.name(),
        since: rfc3339(state.since),
        target: state.target,
        spot: state.split.spot,
        on_demand: state.split.on_demand,
        reason: state.reason.to_string(),
        failovers_today: state.failovers.on(now),
        paused: state.is_paused,
        asked,
        generation: state.generation,
    }
}

fn table(lines: &[Line<'_>]) -> String {
    let head = ["SERVICE", "PHASE", "SPOT", "ON-DEMAND", "TARGET", "SINCE", "TODAY", "REASON"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for line in lines {
        let mut reason = line.reason.clone();
        if line.paused {
            reason = format!("PAUSED; {reason}");
        }
        if let Some(asked) = &line.asked {
            reason = format!("{reason} ({asked})");
        }
        rows.push(vec![
            line.service.to_owned(),
            line.phase.to_owned(),
            line.spot.to_string(),
            line.on_demand.to_string(),
            line.target.to_string(),
            line.since.clone(),
            line.failovers_today.to_string(),
            reason,
        ]);
    }
    output::table(&rows)
}

/// Prints what changed, newest first.
pub(crate) async fn history(args: &HistoryArgs, json: bool) -> anyhow::Result<u8> {
    let open = open(&args.fleet.config)?;
    let facts = open.store.history(args.service.as_deref(), args.limit as usize).await?;
    if let (Some(service), true) = (&args.service, facts.is_empty()) {
        known(&open, service).await?;
    }
    output::either(json, &facts, || {
        let head = ["AT", "SERVICE", "FROM", "TO", "SPOT", "ON-DEMAND", "TARGET", "REASON"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for fact in &facts {
            let entry = &fact.entry;
            rows.push(vec![
                rfc3339(entry.at),
                fact.service.clone(),
                entry.from.to_string(),
                entry.to.to_string(),
                entry.split.spot.to_string(),
                entry.split.on_demand.to_string(),
                entry.target.to_string(),
                entry.reason.to_string(),
            ]);
        }
        output::table(&rows)
    })?;
    Ok(0)
}

pub(crate) async fn shift(args: &ShiftArgs, json: bool) -> anyhow::Result<u8> {
    let open = open(&args.change.fleet.config)?;
    let to = match args.to {
        To::OnDemand => Capacity::OnDemand,
        To::Spot => Capacity::Spot,
    };
    if args.span.is_some_and(|Span(span)| span == Millis::ZERO) {
        bail!("--for must be longer than nothing; `lifeboat resume` ends a shift");
    }
    let until = args.span.map(|Span(span)| open.clock.now() + span);
    instruct(&open, &args.service, Instruction::Shift { to, until }, args.change.dry_run, json).await
}

pub(crate) async fn pause(args: &ServiceArgs, json: bool) -> anyhow::Result<u8> {
    let open = open(&args.change.fleet.config)?;
    instruct(&open, &args.service, Instruction::Pause, args.change.dry_run, json).await
}

pub(crate) async fn resume(args: &ServiceArgs, json: bool) -> anyhow::Result<u8> {
    let open = open(&args.change.fleet.config)?;
    instruct(&open, &args.service, Instruction::Resume, args.change.dry_run, json).await
}

/// What is stored of a service that a person named.
async fn known(open: &Open, service: &str) -> anyhow::Result<Box<State>> {
    open.store.load(service).await?.with_context(|| {
        format!("no service {service:?} is known; `lifeboat status --config FILE` lists them")
    })
}

/// Stores a person's word; a controller that commits meanwhile only makes it try again.
async fn instruct(
    open: &Open,
    service: &str,
    instruction: Instruction,
    is_dry_run: bool,
    json: bool,
) -> anyhow::Result<u8> {
    for _ in 0..TRIES {
        let state = known(open, service).await?;
        let now = open.clock.now();
        let next = state.instructed(now, instruction);
        let shown = line(service, &next, now);
        let said = |done: &str| {
            output::either(json, &shown, || {
                format!(
                    "{service}: {} ({done}; controllers heed it within seconds)\n",
                    shown
                        .asked
                        .as_ref()
                        .map_or_else(|| shown.reason.clone(), |asked| format!("shift to {asked}"))
                )
            })
        };
        if is_dry_run {
            said("would be stored")?;
            return Ok(0);
        }
        let commit = Commit {
            service: service.to_owned(),
            expected: Some(state.generation),
            entry: history::entry(now, &state, &next),
            state: Box::new(next),
        };
        if open.store.commit(commit).await? == Committed::Stored {
            said("stored")?;
            return Ok(0);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("{service} changes all the time: nothing was stored; try again")
}

//! `lifeboat simulate`: arguments → scenario → report → outputs. The binary adds nothing but the exit code.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use thiserror::Error;

use crate::scenario::{Run, Scenario, ScenarioError, Span, World};
use crate::{html, report, simulate};

/// Compare failover policies on a recorded trace or a scenario file.
#[derive(Args, Clone, Debug, Default)]
pub struct SimulateArgs {
    /// Scenario file (TOML); flags override it.
    pub scenario: Option<PathBuf>,
    /// Trace to replay: JSON (`gap_seconds`, `zones`) or CSV (`t_s,zone,available`).
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Zones of the trace to use, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub zones: Vec<String>,
    /// Policy to run; may be given several times.
    #[arg(long = "policy")]
    pub policies: Vec<String>,
    /// Who chooses the zones: AWS (ecs) or the caller (zones).
    #[arg(long, value_enum)]
    pub world: Option<World>,
    /// Tasks wanted.
    #[arg(long)]
    pub replicas: Option<u32>,
    /// Multiplies every capacity, for traces that only tell whether a launch succeeds.
    #[arg(long)]
    pub capacity_scale: Option<u32>,
    /// Spot price over On-Demand price.
    #[arg(long)]
    pub spot_price_ratio: Option<f64>,
    /// On-Demand price in dollars an hour; Spot then costs what the trace recorded.
    #[arg(long)]
    pub on_demand_price: Option<f64>,
    /// From acceptance until a Spot task is ready, such as 110s; in the ECS world the P95 of both kinds.
    #[arg(long)]
    pub spot_start: Option<Span>,
    /// From request until an On-Demand task is ready.
    #[arg(long)]
    pub on_demand_start: Option<Span>,
    /// How long before a reclaim it is announced.
    #[arg(long)]
    pub notice: Option<Span>,
    /// Share of the reclaims that are announced, 0 to 1.
    #[arg(long)]
    pub announced: Option<f64>,
    /// How long after the notice ECS kills the containers.
    #[arg(long)]
    pub stop_timeout: Option<Span>,
    /// First seed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many seeds.
    #[arg(long)]
    pub seeds: Option<u64>,
    /// Print the results as JSON; the flag is the whole program's.
    #[arg(skip)]
    pub json: bool,
    /// Print the results as CSV.
    #[arg(long)]
    pub csv: bool,
    /// Write a self-contained HTML report with time lines.
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Print every turn that changed something, with its reason.
    #[arg(long)]
    pub explain: bool,
}

/// Why `lifeboat simulate` failed.
#[derive(Debug, Error)]
pub enum SimulateError {
    /// The scenario or its trace is wrong: the user must change something.
    #[error("cannot simulate")]
    Scenario(#[from] ScenarioError),
    /// The report cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Standard output is closed.
    #[error("cannot print the results")]
    Print(#[source] std::io::Error),
    /// The results are no JSON.
    #[error("cannot write the results as JSON")]
    Json(#[from] serde_json::Error),
}

impl SimulateArgs {
    /// The scenario file with the flags laid over it.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is no scenario.
    pub fn scenario(&self) -> Result<Scenario, ScenarioError> {
        let mut scenario = match &self.scenario {
            Some(path) => Scenario::read(path)?,
            None => Scenario::default(),
        };
        if let Some(trace) = &self.trace {
            scenario.trace = Some(trace.clone());
            scenario.model = None;
        }
        if !self.zones.is_empty() {
            scenario.zones.clone_from(&self.zones);
        }
        if !self.policies.is_empty() {
            scenario.policies = self.policies.iter().cloned().map(Run::of).collect();
        }
        set(&mut scenario.world, self.world);
        set(&mut scenario.replicas, self.replicas);
        set(&mut scenario.capacity_scale, self.capacity_scale);
        set(&mut scenario.spot_price_ratio, self.spot_price_ratio);
        set(&mut scenario.notice, self.notice);
        set(&mut scenario.announced, self.announced);
        set(&mut scenario.stop_timeout, self.stop_timeout);
        set(&mut scenario.seed, self.seed);
        set(&mut scenario.seeds, self.seeds);
        scenario.on_demand_price = self.on_demand_price.or(scenario.on_demand_price);
        scenario.spot_start = self.spot_start.or(scenario.spot_start);
        scenario.on_demand_start = self.on_demand_start.or(scenario.on_demand_start);
        Ok(scenario)
    }
}

fn set<T>(value: &mut T, flag: Option<T>) {
    if let Some(flag) = flag {
        *value = flag;
    }
}

/// Runs the command; what it prints goes to `out`.
///
/// # Errors
///
/// See [`SimulateError`].
pub fn run(args: &SimulateArgs, out: &mut impl Write) -> Result<(), SimulateError> {
    let scenario = args.scenario()?;
    let results = simulate::run(&scenario, args.explain || args.html.is_some())?;
    if let Some(path) = &args.html {
        std::fs::write(path, html::page(&results))
            .map_err(|source| SimulateError::Write { path: path.clone(), source })?;
    }
    let text = if args.json {
        report::json(&results)? + "\n"
    } else if args.csv {
        report::csv(&results)
    } else if args.explain {
        report::explain(&results) + &report::table(&results)
    } else {
        report::table(&results)
    };
    out.write_all(text.as_bytes()).map_err(SimulateError::Print)
}

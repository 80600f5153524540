//! Scenario files: what to simulate, as TOML, checked once.
//!
//! Durations carry units (`"110s"`, `"2m"`), unknown keys are errors, and a flag on the command line overrides the
//! file.

use std::path::{Path, PathBuf};

use lifeboat_core::failover::state::Rules;
pub use lifeboat_core::span::Span;
use lifeboat_core::time::Millis;
use serde::Deserialize;
use thiserror::Error;

use crate::ecs::StartTimes;
use crate::forms::{self, per_mille, range};
use crate::model::Model;
use crate::policies::{self, UnknownPolicy};
use crate::trace::{Trace, TraceError};

/// Replicas that a scenario may have. Source: ECS service quotas, 5,000 tasks per service; read 2026-11.
const REPLICAS_MAX: u32 = 5_000;

/// Seeds that one scenario may run: more is a typing mistake, the swarm has its own command.
const SEEDS_MAX: u64 = 10_000;

/// The longest start, notice or stop: far beyond all that AWS does, and short enough to be replayed.
const SPAN_MAX: Millis = Millis::from_secs(86_400);

/// Why a scenario cannot be run.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read scenario {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any scenario.
    #[error("{path} is larger than 1 MiB, which is no scenario")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML, or holds what a scenario does not have.
    #[error("scenario {path} is not valid")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The trace cannot be used.
    #[error("the trace cannot be used")]
    Trace(#[from] TraceError),
    /// A policy does not exist.
    #[error("a policy is not known")]
    Policy(#[from] UnknownPolicy),
    /// A number lies outside its range.
    #[error("{key} must be {range}, it is {found}")]
    Range {
        /// Which.
        key: &'static str,
        /// What is allowed.
        range: &'static str,
        /// What stands there.
        found: String,
    },
    /// Two runs could not be told apart in the results.
    #[error("two policies are called {name:?}: leave one out, or give it a label")]
    SameName {
        /// What both are called.
        name: String,
    },
    /// Neither a trace nor a model was given, or both.
    #[error("a scenario needs either a trace (--trace, or `trace` in its file) or a model (`[model]`)")]
    Capacity,
}

/// Which world runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum World {
    /// AWS chooses where tasks run, as ECS does.
    Ecs,
    /// The caller chooses zones, as with one EC2 group per zone.
    #[default]
    Zones,
}

/// One policy, with what differs for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RunForm")]
pub struct Run {
    /// The policy's name; see [`policies::NAMES`].
    pub policy: String,
    /// What it is called in results, where not by its name.
    pub label: Option<String>,
    /// Another `stop_timeout`.
    pub stop_timeout: Option<Span>,
    /// Notices are not read.
    pub hides_notices: bool,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a policy is its name, or a table with `policy` and, as needed, `label`, `stop_timeout`, `hides_notices`"
)]
enum RunForm {
    Name(String),
    Table(RunTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunTable {
    policy: String,
    label: Option<String>,
    stop_timeout: Option<Span>,
    #[serde(default)]
    hides_notices: bool,
}

impl From<RunForm> for Run {
    fn from(form: RunForm) -> Self {
        match form {
            RunForm::Name(policy) => Self::of(policy),
            RunForm::Table(table) => Self {
                policy: table.policy,
                label: table.label,
                stop_timeout: table.stop_timeout,
                hides_notices: table.hides_notices,
            },
        }
    }
}

impl Run {
    /// The policy of this name with nothing special.
    #[must_use]
    pub const fn of(policy: String) -> Self {
        Self { policy, label: None, stop_timeout: None, hides_notices: false }
    }

    /// What it is called in results.
    #[must_use]
    pub fn name(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.policy)
    }
}

/// What to simulate.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What it is called in results.
    pub name: String,
    /// One paragraph for the reader of the report.
    pub about: String,
    /// Which world.
    pub world: World,
    /// A recorded trace; a path in a file is relative to the file.
    pub trace: Option<PathBuf>,
    /// Modelled capacity in place of a trace.
    pub model: Option<Model>,
    /// Zones of the trace to use; all where empty.
    pub zones: Vec<String>,
    /// Multiplies every capacity of the trace.
    pub capacity_scale: u32,
    /// Policies to compare.
    pub policies: Vec<Run>,
    /// Tasks wanted.
    pub replicas: u32,
    /// Spot price over On-Demand price.
    pub spot_price_ratio: f64,
    /// The On-Demand price in dollars an hour: with it, Spot costs what the trace recorded.
    pub on_demand_price: Option<f64>,
    /// From acceptance until a Spot task is ready (zones), the P95 of both kinds (ecs).
    pub spot_start: Option<Span>,
    /// From request until an On-Demand task is ready (zones).
    pub on_demand_start: Option<Span>,
    /// How long before a reclaim it is announced.
    pub notice: Span,
    /// Share of the reclaims that are announced, 0 to 1.
    pub announced: f64,
    /// How long after the notice ECS kills the containers.
    pub stop_timeout: Span,
    /// On-Demand tasks that the quota allows; no limit where absent.
    pub on_demand_quota: Option<u32>,
    /// The first seed.
    pub seed: u64,
    /// How many seeds, one after the other.
    pub seeds: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "simulation".to_owned(),
            about: String::new(),
            world: World::Zones,
            trace: None,
            model: None,
            zones: Vec::new(),
            capacity_scale: 1,
            policies: ["shortfall", "switch", "spothedge-notices", "pure-spot", "all-on-demand"]
                .map(|name| Run::of(name.to_owned()))
                .to_vec(),
            replicas: 4,
            spot_price_ratio: 0.3,
            on_demand_price: None,
            spot_start: None,
            on_demand_start: None,
            notice: Span(Millis::from_secs(120)),
            announced: 1.0,
            stop_timeout: Span(Millis::from_secs(120)),
            on_demand_quota: None,
            seed: 1,
            seeds: 1,
        }
    }
}

impl Scenario {
    /// Reads a scenario file. The trace's path in it is relative to the file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not a scenario.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let scenario: Self = forms::read(path)?;
        Ok(Self { trace: forms::beside(path, scenario.trace), ..scenario })
    }

    /// Checks every number and name that does not need the trace.
    ///
    /// # Errors
    ///
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), ScenarioError> {
        if self.replicas == 0 || self.replicas > REPLICAS_MAX {
            return range("replicas", "1 to 5000", self.replicas.to_string());
        }
        // Counted in thousandths: a smaller share would be nothing.
        if !(0.001..=1.0).contains(&self.spot_price_ratio) {
            return range("spot_price_ratio", "0.001 to 1", self.spot_price_ratio.to_string());
        }
        forms::shares(&[("announced", self.announced)])?;
        // Counted in micro-dollars.
        if let Some(price) = self.on_demand_price
            && !(1e-6..1e6).contains(&price)
        {
            return range("on_demand_price", "a price in dollars an hour", price.to_string());
        }
        if self.capacity_scale == 0 {
            return range("capacity_scale", "at least 1", "0".to_owned());
        }
        if self.seeds == 0 || self.seeds > SEEDS_MAX {
            return range("seeds", "1 to 10000", self.seeds.to_string());
        }
        if self.seed.checked_add(self.seeds).is_none() {
            return range("seed", "so small that all seeds have 64 bits", self.seed.to_string());
        }
        self.check_spans()?;
        self.check_policies()?;
        if self.trace.is_some() == self.model.is_some() {
            return Err(ScenarioError::Capacity);
        }
        self.model.as_ref().map_or(Ok(()), Model::check)
    }

    fn check_spans(&self) -> Result<(), ScenarioError> {
        let spans = [
            ("notice", Some(self.notice)),
            ("stop_timeout", Some(self.stop_timeout)),
            ("spot_start", self.spot_start),
            ("on_demand_start", self.on_demand_start),
        ];
        let stops = self.policies.iter().map(|run| ("stop_timeout", run.stop_timeout));
        let long = spans.into_iter().chain(stops).find_map(|(key, span)| {
            let span = span.filter(|span| span.0 > SPAN_MAX)?;
            Some((key, span))
        });
        match long {
            Some((key, span)) => range(key, "at most 1d", span.to_string()),
            None => Ok(()),
        }
    }

    fn check_policies(&self) -> Result<(), ScenarioError> {
        if self.policies.is_empty() {
            return range("policies", "at least one policy", "empty".to_owned());
        }
        for (index, run) in self.policies.iter().enumerate() {
            let tasks = policies::parse(&run.policy)?.tasks();
            if tasks > REPLICAS_MAX {
                return range("a policy's number of tasks", "at most 5000", run.policy.clone());
            }
            if self.policies[..index].iter().any(|other| other.name() == run.name()) {
                return Err(ScenarioError::SameName { name: run.name().to_owned() });
            }
        }
        Ok(())
    }

    /// The capacity that this seed runs on.
    ///
    /// # Errors
    ///
    /// The trace cannot be used, or lacks a zone that was asked for.
    pub fn capacity(&self, seed: u64) -> Result<Trace, ScenarioError> {
        let trace = match (&self.trace, &self.model) {
            (Some(path), None) => Trace::read(path)?,
            (None, Some(model)) => model.trace(&self.name, seed)?,
            (Some(_), Some(_)) | (None, None) => return Err(ScenarioError::Capacity),
        };
        let trace = if self.zones.is_empty() { trace } else { trace.only(&self.zones)? };
        if self.on_demand_price.is_some() && trace.zones.iter().any(|zone| zone.prices.is_empty()) {
            return range("on_demand_price", "left out where the trace has no prices", trace.name);
        }
        Ok(trace.scaled(self.capacity_scale))
    }

    /// The announced share in thousandths.
    #[must_use]
    pub fn announced_per_mille(&self) -> u32 {
        per_mille(self.announced)
    }

    /// The price ratio in thousandths.
    #[must_use]
    pub fn ratio_per_mille(&self) -> u32 {
        per_mille(self.spot_price_ratio)
    }

    pub(crate) fn start_times(&self) -> StartTimes {
        self.spot_start.map_or(StartTimes::MEASURED, |span| StartTimes::stretched(span.0))
    }

    pub(crate) fn rules(run: &Run) -> Result<(Rules, policies::Named), ScenarioError> {
        let named = policies::parse(&run.policy)?;
        Ok((Rules::new(named.policy), named))
    }
}

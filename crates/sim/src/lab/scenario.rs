//! What a lab plays, as TOML: services, capacity over time, what goes wrong, and what happens when.

use std::path::{Path, PathBuf};

use lifeboat_core::failover::policy::{Policy, Switch};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};
use serde::Deserialize;

use crate::ecs::{Config, Faults, StartTimes};
use crate::forms::{self, per_mille, range, shares};
use crate::model::Model;
use crate::scenario::{ScenarioError, Span};
use crate::trace::{Trace, Zone};

/// Source: ECS service quotas, 5,000 tasks a service; read 2026-11.
const TASKS_MAX: u32 = 5_000;

/// Source: ECS service quotas, 5,000 services a cluster, of which a pair takes two; read 2026-11.
const PAIRS_MAX: usize = 2_500;

/// The step of a trace that only a number describes, and how many: what lies beyond repeats the last one.
const STEP: Millis = Millis::from_secs(10);
const STEPS: usize = 360;

/// A pair of services: `{name}-spot` and `{name}-standard`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// What both are named after.
    pub name: String,
    /// Tasks that it begins with, all on Spot.
    pub tasks: u32,
}

impl std::str::FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, tasks) = text.split_once('=').ok_or_else(|| format!("{text:?} is no NAME=TASKS"))?;
        let tasks = tasks.parse().map_err(|_| format!("{tasks:?} is no number of tasks"))?;
        Ok(Self { name: name.to_owned(), tasks })
    }
}

/// Something that happens at a moment of the world's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When, from the start.
    pub at: Option<Span>,
    /// Spot has room for so many tasks from then on.
    pub spot_capacity: Option<u32>,
    /// So many Spot tasks are interrupted.
    pub interrupt: Option<u32>,
    /// Of this pair; of any where absent.
    pub service: Option<String>,
    /// The account may run so many On-Demand tasks from then on.
    pub on_demand_quota: Option<u32>,
}

/// Shares from 0 to 1 of what goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FaultShares {
    /// Events that never arrive.
    pub lost: f64,
    /// Events that arrive twice.
    pub doubled: f64,
    /// Events that arrive 5 s to 10 min late, and so out of order.
    pub late: f64,
    /// Calls that are throttled.
    pub throttled: f64,
    /// UpdateService calls that answer with an error and take effect up to 30 s later.
    pub landed_late: f64,
    /// DescribeServices and DescribeTasks that answer what was up to 6 s ago.
    pub stale: f64,
    /// From then on none of this happens; for ever where absent.
    pub until: Option<Span>,
}

/// What a lab plays.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabScenario {
    /// The ECS cluster.
    pub cluster: String,
    /// The AWS region in ARNs.
    pub region: String,
    /// The account in ARNs.
    pub account: String,
    /// The SQS queue that events go to; its dead letters are in the queue of this name with `-dead` behind.
    pub queue: String,
    /// How often a message may be received before it is a dead letter.
    pub receives_max: u32,
    /// The pairs of services.
    pub services: Vec<Pair>,
    /// A recorded trace of Spot capacity; a path in a file is relative to the file.
    pub trace: Option<PathBuf>,
    /// Zones of the trace to use; all where empty.
    pub zones: Vec<String>,
    /// Multiplies every capacity of the trace.
    pub capacity_scale: u32,
    /// Modelled capacity in place of a trace.
    pub model: Option<Model>,
    /// A number in place of both: Spot's room for tasks. Twice what the services want where nothing is said.
    pub spot_capacity: Option<u32>,
    /// What happens when.
    pub steps: Vec<Step>,
    /// P95 from placement to RUNNING.
    pub start: Option<Span>,
    /// How long before a reclaim it is announced.
    pub notice: Span,
    /// Share of the reclaims that are announced, 0 to 1.
    pub announced: f64,
    /// How long after the notice ECS kills the containers.
    pub stop_timeout: Span,
    /// On-Demand tasks that the account may run; no limit where absent.
    pub on_demand_quota: Option<u32>,
    /// Share of the launches without capacity that sit in PENDING and tell nobody, 0 to 1.
    pub silent: f64,
    /// How often a service that has what it wants says so again.
    pub steady_every: Span,
    /// What goes wrong.
    pub faults: FaultShares,
    /// Draws everything.
    pub seed: u64,
}

impl Default for LabScenario {
    fn default() -> Self {
        Self {
            cluster: "lab".to_owned(),
            region: "us-east-1".to_owned(),
            account: "123456789012".to_owned(),
            queue: "lifeboat-events".to_owned(),
            receives_max: 5,
            services: Vec::new(),
            trace: None,
            zones: Vec::new(),
            capacity_scale: 1,
            model: None,
            spot_capacity: None,
            steps: Vec::new(),
            start: None,
            notice: Span(Millis::from_secs(120)),
            announced: 1.0,
            stop_timeout: Span(Millis::from_secs(120)),
            on_demand_quota: None,
            silent: 0.5,
            // Assumed: AWS says only that it repeats.
            steady_every: Span(Millis::from_secs(600)),
            faults: FaultShares::default(),
            seed: 1,
        }
    }
}

impl LabScenario {
    /// Reads a scenario file. The trace's path in it is relative to the file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no such scenario.
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
        if self.services.is_empty() || self.services.len() > PAIRS_MAX {
            return range("services", "1 to 2500 pairs", self.services.len().to_string());
        }
        for (index, pair) in self.services.iter().enumerate() {
            if !is_name(&pair.name) {
                return range("services.name", "letters, digits, - and _, at most 200", pair.name.clone());
            }
            if self.services[..index].iter().any(|other| other.name == pair.name) {
                return range("services.name", "different for every pair", pair.name.clone());
            }
            if pair.tasks > TASKS_MAX {
                return range("services.tasks", "0 to 5000", pair.tasks.to_string());
            }
        }
        for (key, name) in [("cluster", &self.cluster), ("queue", &self.queue)] {
            if !is_name(name) {
                return range(key, "letters, digits, - and _, at most 200", name.clone());
            }
        }
        if self.account.len() != 12 || !self.account.bytes().all(|byte| byte.is_ascii_digit()) {
            return range("account", "12 digits", self.account.clone());
        }
        shares(&[("announced", self.announced), ("silent", self.silent)])?;
        self.faults.check()?;
        if !(1..=1000).contains(&self.receives_max) {
            return range("receives_max", "1 to 1000", self.receives_max.to_string());
        }
        if self.capacity_scale == 0 {
            return range("capacity_scale", "at least 1", "0".to_owned());
        }
        self.check_steps()
    }

    fn check_steps(&self) -> Result<(), ScenarioError> {
        for step in &self.steps {
            if step.at.is_none() {
                return range("steps.at", "a time from the start", "absent".to_owned());
            }
            if let Some(name) = &step.service
                && !self.services.iter().any(|pair| pair.name == *name)
            {
                return range("steps.service", "one of the services", name.clone());
            }
        }
        Ok(())
    }

    /// The capacity that it runs on.
    ///
    /// # Errors
    ///
    /// More than one source of it, or a trace that cannot be used.
    pub fn capacity(&self) -> Result<Trace, ScenarioError> {
        let trace = match (&self.trace, &self.model, self.spot_capacity) {
            (Some(path), None, None) => Trace::read(path)?,
            (None, Some(model), None) => model.trace("model", self.seed)?,
            (None, None, capacity) => self.constant(capacity)?,
            (Some(_), _, _) | (None, Some(_), Some(_)) => return Err(ScenarioError::Capacity),
        };
        let trace = if self.zones.is_empty() { trace } else { trace.only(&self.zones)? };
        Ok(trace.scaled(self.capacity_scale))
    }

    fn constant(&self, capacity: Option<u32>) -> Result<Trace, ScenarioError> {
        let wanted: u32 = self.services.iter().map(|pair| pair.tasks).fold(0, u32::saturating_add);
        let total = capacity.unwrap_or_else(|| wanted.saturating_mul(2).max(10));
        let zones = ["a", "b", "c"].iter().zip(0_u32..).map(|(letter, index)| Zone {
            name: format!("{}{letter}", self.region),
            capacity: vec![total / 3 + u32::from(index < total % 3); STEPS],
            prices: Vec::new(),
        });
        Ok(Trace::new("constant".to_owned(), STEP, zones.collect())?)
    }

    pub(crate) fn world(&self) -> Config {
        // The world asks for rules; nobody applies them here.
        let mut config = Config::new(0, Rules::new(Policy::Switch(Switch::default())), self.seed);
        config.start = self.start.map_or(StartTimes::MEASURED, |span| StartTimes::stretched(span.0));
        config.notice = self.notice.0;
        config.announced = per_mille(self.announced);
        config.stop_timeout = self.stop_timeout.0;
        config.on_demand_quota = self.on_demand_quota.unwrap_or(u32::MAX);
        config.faults = self.faults.of_world(per_mille(self.silent));
        config
    }
}

impl FaultShares {
    pub(crate) fn check(&self) -> Result<(), ScenarioError> {
        shares(&[
            ("faults.lost", self.lost),
            ("faults.doubled", self.doubled),
            ("faults.late", self.late),
            ("faults.throttled", self.throttled),
            ("faults.landed_late", self.landed_late),
            ("faults.stale", self.stale),
        ])
    }

    pub(crate) fn of_world(&self, silent: u32) -> Faults {
        Faults {
            until: self
                .until
                .map_or(Timestamp(i64::MAX), |span| Timestamp(i64::try_from(span.0.0).unwrap_or(i64::MAX))),
            lost: per_mille(self.lost),
            doubled: per_mille(self.doubled),
            late: per_mille(self.late),
            throttled: per_mille(self.throttled),
            landed_late: per_mille(self.landed_late),
            stale: per_mille(self.stale),
            silent,
            ..Faults::none()
        }
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if is_name(name) {
        Ok(())
    } else {
        Err(format!("{name:?} is no name: letters, digits, - and _, at most 200"))
    }
}

fn is_name(name: &str) -> bool {
    let is = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.len() <= 200 && name.bytes().all(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        let scenario: LabScenario = toml::from_str(text).expect("it is a scenario");
        scenario.check().expect_err("something in it cannot be").to_string()
    }

    #[test]
    fn what_cannot_be_is_said_with_its_range() {
        assert_eq!(wrong(""), "services must be 1 to 2500 pairs, it is 0");
        let web = "services = [{ name = \"web\", tasks = 3 }]\n";
        assert_eq!(wrong(&format!("{web}announced = 2")), "announced must be 0 to 1, it is 2");
        let step = format!("{web}[[steps]]\nat = \"1m\"\nservice = \"api\"\ninterrupt = 1");
        assert_eq!(wrong(&step), "steps.service must be one of the services, it is api");
        assert!(toml::from_str::<LabScenario>("colour = 1").is_err(), "unknown keys are errors");
        let twice = "services = [{ name = \"web\", tasks = 3 }, { name = \"web\", tasks = 1 }]";
        assert_eq!(wrong(twice), "services.name must be different for every pair, it is web");
    }

    #[test]
    fn without_a_trace_spot_has_room_for_twice_what_is_wanted() {
        let scenario: LabScenario =
            toml::from_str("services = [{ name = \"web\", tasks = 10 }]").expect("it is a scenario");
        let trace = scenario.capacity().expect("it needs no file");
        assert_eq!(trace.zones.iter().map(|zone| zone.capacity[0]).sum::<u32>(), 20);
    }
}

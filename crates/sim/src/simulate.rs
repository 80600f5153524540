//! Runs a scenario: every policy on every seed, with the figures of each.

use std::borrow::Cow;

use crate::bound;
use crate::ecs;
use crate::record::Record;
use crate::scenario::{Run, Scenario, ScenarioError, World};
use crate::tally::{Figures, Prices, Tally};
use crate::trace::Trace;
use crate::zones;

/// One policy on one seed.
#[derive(Clone, Debug)]
pub struct PolicyRun {
    /// Its figures.
    pub figures: Figures,
    /// Turns and time line, where they were kept.
    pub record: Record,
}

/// Everything that a scenario came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was asked for.
    pub scenario: Scenario,
    /// Policy by policy in the order asked for, seed by seed.
    pub results: Vec<PolicyRun>,
}

/// Runs it. With `keep`, the first seed's turns and time lines are kept for the report and for `--explain`.
///
/// # Errors
///
/// Whatever is wrong with the scenario or its trace.
pub fn run(scenario: &Scenario, keep: bool) -> Result<Report, ScenarioError> {
    scenario.check()?;
    // Read once: a pipe can be read no second time, and all policies must meet the same capacity.
    let recorded = scenario.trace.as_ref().map(|_| scenario.capacity(scenario.seed)).transpose()?;
    let mut results = Vec::new();
    for run in &scenario.policies {
        for seed in scenario.seed..scenario.seed + scenario.seeds {
            let trace = match &recorded {
                Some(trace) => Cow::Borrowed(trace),
                None => Cow::Owned(scenario.capacity(seed)?),
            };
            results.push(run_one(scenario, run, (&trace, seed), keep && seed == scenario.seed)?);
        }
    }
    Ok(Report { scenario: scenario.clone(), results })
}

fn run_one(
    scenario: &Scenario,
    run: &Run,
    (trace, seed): (&Trace, u64),
    keep: bool,
) -> Result<PolicyRun, ScenarioError> {
    let prices = match scenario.on_demand_price {
        None => Prices::Ratio(scenario.ratio_per_mille()),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked: positive, below 1e6"
        )]
        Some(price) => Prices::Recorded { on_demand: (price * 1e6) as u64 },
    };
    let bound = bound::cost(trace, scenario.replicas, prices);
    let (tally, record, gaps) = match scenario.world {
        World::Zones => run_zones(scenario, run, (trace, seed), keep)?,
        World::Ecs => run_ecs(scenario, run, (trace, seed), keep)?,
    };
    let mut figures = tally.figures(run.name(), seed, prices, bound);
    if let Some(last) = gaps.len().checked_sub(1) {
        let rank = |percent: usize| gaps[(last * percent).div_ceil(100)].0 as f64 / 1000.0;
        figures.gap_p50_s = Some(rank(50));
        figures.gap_p99_s = Some(rank(99));
    }
    Ok(PolicyRun { figures, record })
}

type Ran = (Tally, Record, Vec<lifeboat_core::time::Millis>);

fn run_zones(
    scenario: &Scenario,
    run: &Run,
    (trace, seed): (&Trace, u64),
    keep: bool,
) -> Result<Ran, ScenarioError> {
    let (rules, named) = Scenario::rules(run)?;
    let mut config = zones::Config::new(scenario.replicas, rules, named.placement, seed);
    config.spot_start = scenario.spot_start.map_or(config.spot_start, |span| span.0);
    config.on_demand_start = scenario.on_demand_start.map_or(config.on_demand_start, |span| span.0);
    config.notice = scenario.notice.0;
    config.announced = scenario.announced_per_mille();
    config.record = keep;
    let (tally, record) = zones::run(trace, &config);
    Ok((tally, record, Vec::new()))
}

fn run_ecs(
    scenario: &Scenario,
    run: &Run,
    (trace, seed): (&Trace, u64),
    keep: bool,
) -> Result<Ran, ScenarioError> {
    let (rules, _) = Scenario::rules(run)?;
    let mut config = ecs::Config::new(scenario.replicas, rules, seed);
    config.start = scenario.start_times();
    config.notice = scenario.notice.0;
    config.announced = scenario.announced_per_mille();
    config.stop_timeout = run.stop_timeout.unwrap_or(scenario.stop_timeout).0;
    config.hides_notices = run.hides_notices;
    config.on_demand_quota = scenario.on_demand_quota.unwrap_or(u32::MAX);
    config.starts_on_spot = false;
    config.record = keep;
    let outcome = ecs::run(trace, &config);
    Ok((outcome.tally, outcome.record, outcome.gaps))
}

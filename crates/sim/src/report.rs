//! Results as text: a table, CSV, JSON, and the turns with their reasons. `html` has the report to look at.

use std::fmt::Write;

use crate::simulate::Report;
use crate::tally::Figures;

/// The results as an array of JSON objects, one per policy and seed.
///
/// # Errors
///
/// A number that JSON cannot hold; there is none in a finished run.
pub fn json(report: &Report) -> Result<String, serde_json::Error> {
    let figures: Vec<&Figures> = report.results.iter().map(|result| &result.figures).collect();
    serde_json::to_string_pretty(&figures)
}

/// The results as CSV with a heading, one line per policy and seed.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut text = String::from(
        "policy,cost_vs_on_demand,cost_vs_bound,ready_fraction,capacity_weighted,outages_per_week,worst_outage_s,\
         requests_per_day,mode_changes,on_demand_launches,interruptions,gap_p50_s,gap_p99_s,seed\n",
    );
    for result in &report.results {
        let row = &result.figures;
        let gap = |gap: Option<f64>| gap.map_or_else(String::new, |gap| format!("{gap:.3}"));
        let policy = if row.policy.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", row.policy.replace('"', "\"\""))
        } else {
            row.policy.clone()
        };
        line(
            &mut text,
            format_args!(
                "{policy},{:.6},{:.6},{:.6},{:.6},{:.3},{:.3},{:.3},{},{},{},{},{},{}",
                row.cost_vs_on_demand,
                row.cost_vs_bound,
                row.ready_fraction,
                row.capacity_weighted,
                row.outages_per_week,
                row.worst_outage_s,
                row.requests_per_day,
                row.mode_changes,
                row.on_demand_launches,
                row.interruptions,
                gap(row.gap_p50_s),
                gap(row.gap_p99_s),
                row.seed
            ),
        );
    }
    text
}

/// One policy over all its seeds: means, and the worst of what should not be averaged.
#[derive(Clone, Debug)]
pub struct Mean {
    /// The policy.
    pub policy: String,
    /// Mean cost over all On-Demand.
    pub cost: f64,
    /// Mean cost over the bound.
    pub bound: f64,
    /// Mean share of the time with the target ready.
    pub ready: f64,
    /// Mean capacity-weighted share.
    pub capacity: f64,
    /// Mean outages a week.
    pub outages: f64,
    /// The worst outage of all seeds, in seconds.
    pub worst_s: f64,
    /// Mean requests a day.
    pub requests: f64,
    /// Mean mode changes.
    pub modes: f64,
    /// Gaps of the first seed: middle and 99 %.
    pub gaps: Option<(f64, f64)>,
}

/// One line per policy, in the order asked for.
#[must_use]
pub fn means(report: &Report) -> Vec<Mean> {
    let mut means: Vec<Mean> = Vec::new();
    for run in &report.scenario.policies {
        let rows: Vec<&Figures> = report
            .results
            .iter()
            .map(|result| &result.figures)
            .filter(|figures| figures.policy == run.name())
            .collect();
        let Some(first) = rows.first() else { continue };
        let mean =
            |value: fn(&Figures) -> f64| rows.iter().map(|row| value(row)).sum::<f64>() / rows.len() as f64;
        means.push(Mean {
            policy: run.name().to_owned(),
            cost: mean(|row| row.cost_vs_on_demand),
            bound: mean(|row| row.cost_vs_bound),
            ready: mean(|row| row.ready_fraction),
            capacity: mean(|row| row.capacity_weighted),
            outages: mean(|row| row.outages_per_week),
            worst_s: rows.iter().map(|row| row.worst_outage_s).fold(0.0, f64::max),
            requests: mean(|row| row.requests_per_day),
            modes: mean(|row| row.mode_changes as f64),
            gaps: first.gap_p50_s.zip(first.gap_p99_s),
        });
    }
    means
}

/// A table for people, one line per policy.
#[must_use]
pub fn table(report: &Report) -> String {
    let means = means(report);
    let width = means.iter().map(|mean| mean.policy.chars().count()).max().unwrap_or(0).max(6);
    let has_gaps = means.iter().any(|mean| mean.gaps.is_some());
    let mut text = String::new();
    let gap_heading = if has_gaps { "  gap p50  gap p99" } else { "" };
    line(
        &mut text,
        format_args!(
            "{:width$}  cost %  ×bound  ready %  capacity %  outages/wk  worst s  requests/d  modes{gap_heading}",
            "policy"
        ),
    );
    for mean in &means {
        let gaps = mean.gaps.map_or_else(String::new, |(p50, p99)| format!("  {p50:>7.1}  {p99:>7.1}"));
        line(
            &mut text,
            format_args!(
                "{:width$}  {:>6.2}  {:>6.3}  {:>7.3}  {:>10.4}  {:>10.1}  {:>7.0}  {:>10.0}  {:>5.0}{gaps}",
                mean.policy,
                mean.cost * 100.0,
                mean.bound,
                mean.ready * 100.0,
                mean.capacity * 100.0,
                mean.outages,
                mean.worst_s,
                mean.requests,
                mean.modes
            ),
        );
    }
    text
}

/// Every turn of the first seed that changed something, with its reason.
#[must_use]
pub fn explain(report: &Report) -> String {
    let mut text = String::new();
    for result in report.results.iter().filter(|result| result.figures.seed == report.scenario.seed) {
        line(&mut text, format_args!("{} (seed {})", result.figures.policy, result.figures.seed));
        for turn in &result.record.turns {
            let launches: Vec<String> = turn
                .launches
                .iter()
                .map(|launch| format!("{}×zone {}", launch.count, launch.zone + 1))
                .collect();
            let asked = if launches.is_empty() {
                String::new()
            } else {
                format!("; asks for {}", launches.join(", "))
            };
            line(
                &mut text,
                format_args!(
                    "{:>14}  {:<21}  spot {:>3}  on-demand {:>3}  {}{asked}",
                    clock(turn.at.0),
                    turn.phase.name(),
                    turn.split.spot,
                    turn.split.on_demand,
                    turn.reason
                ),
            );
        }
    }
    text
}

/// `3d 07:15:09.250` since the start.
#[must_use]
pub fn clock(ms: i64) -> String {
    let seconds = ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    format!("{days}d {:02}:{:02}:{:02}.{:03}", rest / 3600, rest / 60 % 60, rest % 60, ms % 1000)
}

pub(crate) fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("a string takes every write");
    text.push('\n');
}

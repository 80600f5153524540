//! What a run cost and what it held, as integers; ratios are made only where they are shown.

use lifeboat_core::time::{Millis, Timestamp};
use serde::Serialize;

/// Sums over one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How long the run was.
    pub span: Millis,
    /// How long at least the target was ready.
    pub whole: Millis,
    /// Task-milliseconds that were wanted.
    pub wanted_ms: u128,
    /// Task-milliseconds ready, never more than were wanted at a moment.
    pub ready_ms: u128,
    /// Task-milliseconds of Spot that are billed.
    pub spot_ms: u128,
    /// Task-milliseconds of On-Demand that are billed.
    pub on_demand_ms: u128,
    /// Spot task-milliseconds at the recorded prices, in micro-dollars an hour times milliseconds.
    pub spot_priced: u128,
    /// Each span with less than the target ready.
    pub outages: Vec<Millis>,
    /// Spot tasks reclaimed.
    pub interruptions: u64,
    /// On-Demand tasks started.
    pub on_demand_launches: u64,
    /// Requests made to AWS that change something.
    pub requests: u64,
    /// Changes between some and no On-Demand asked for.
    pub mode_changes: u64,
    open_outage: Option<Timestamp>,
}

impl Tally {
    /// Adds the span `from..to`, in which `ready` tasks served of `target` wanted.
    pub fn pass(&mut self, from: Timestamp, to: Timestamp, ready: u32, target: u32) {
        let span = to.since(from);
        if span == Millis::ZERO {
            return;
        }
        self.span = self.span + span;
        self.wanted_ms += u128::from(span.0) * u128::from(target);
        self.ready_ms += u128::from(span.0) * u128::from(ready.min(target));
        if ready >= target {
            self.whole = self.whole + span;
            self.close(from);
        } else {
            self.open_outage.get_or_insert(from);
        }
    }

    /// Adds the sums of another service that ran at the same time.
    pub fn add(&mut self, other: &Self) {
        self.span = self.span + other.span;
        self.whole = self.whole + other.whole;
        self.wanted_ms += other.wanted_ms;
        self.ready_ms += other.ready_ms;
        self.spot_ms += other.spot_ms;
        self.on_demand_ms += other.on_demand_ms;
        self.spot_priced += other.spot_priced;
        self.outages.extend_from_slice(&other.outages);
        self.interruptions += other.interruptions;
        self.on_demand_launches += other.on_demand_launches;
        self.requests += other.requests;
        self.mode_changes += other.mode_changes;
    }

    /// Ends the run: an outage that is still open ends with it.
    pub fn close(&mut self, at: Timestamp) {
        if let Some(began) = self.open_outage.take() {
            self.outages.push(at.since(began));
        }
    }
}

/// The figures of one run as they are shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The policy.
    pub policy: String,
    /// Cost as a share of running the target On-Demand all the time.
    pub cost_vs_on_demand: f64,
    /// Cost as a multiple of the bound that needs no solver: no plan can be cheaper.
    pub cost_vs_bound: f64,
    /// Share of the time with the whole target ready.
    pub ready_fraction: f64,
    /// Ready task-time as a share of wanted task-time.
    pub capacity_weighted: f64,
    /// Spans with less than the target ready, per week.
    pub outages_per_week: f64,
    /// The longest of them, in seconds.
    pub worst_outage_s: f64,
    /// Changing requests to AWS per day.
    pub requests_per_day: f64,
    /// Changes between some and no On-Demand asked for.
    pub mode_changes: u64,
    /// On-Demand tasks started.
    pub on_demand_launches: u64,
    /// Spot tasks reclaimed.
    pub interruptions: u64,
    /// From a reclaim until another task made up for it, in seconds: the middle one. ECS world only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_p50_s: Option<f64>,
    /// The same, 99 of 100 are shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_p99_s: Option<f64>,
    /// The seed of the run.
    pub seed: u64,
}

/// What turns sums into money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prices {
    /// Spot costs this share of On-Demand, in thousandths.
    Ratio(u32),
    /// Spot costs what the trace recorded, On-Demand this many micro-dollars an hour.
    Recorded {
        /// The On-Demand price.
        on_demand: u64,
    },
}

impl Tally {
    /// The cost in task-milliseconds of On-Demand.
    #[must_use]
    pub fn cost(&self, prices: Prices) -> f64 {
        let spot = match prices {
            Prices::Ratio(per_mille) => self.spot_ms as f64 * f64::from(per_mille) / 1000.0,
            Prices::Recorded { on_demand } => self.spot_priced as f64 / on_demand as f64,
        };
        spot + self.on_demand_ms as f64
    }

    /// The figures as they are shown; `bound` in task-milliseconds of On-Demand.
    #[must_use]
    pub fn figures(&self, policy: &str, seed: u64, prices: Prices, bound: f64) -> Figures {
        let weeks = self.span.0 as f64 / (7.0 * 86_400_000.0);
        let worst = self.outages.iter().max().map_or(0, |outage| outage.0);
        let cost = self.cost(prices);
        Figures {
            policy: policy.to_owned(),
            cost_vs_on_demand: cost / self.wanted_ms as f64,
            cost_vs_bound: cost / bound,
            ready_fraction: self.whole.0 as f64 / self.span.0 as f64,
            capacity_weighted: self.ready_ms as f64 / self.wanted_ms as f64,
            outages_per_week: self.outages.len() as f64 / weeks,
            worst_outage_s: worst as f64 / 1000.0,
            requests_per_day: self.requests as f64 / (weeks * 7.0),
            mode_changes: self.mode_changes,
            on_demand_launches: self.on_demand_launches,
            interruptions: self.interruptions,
            gap_p50_s: None,
            gap_p99_s: None,
            seed,
        }
    }
}

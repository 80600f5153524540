//! `[evacuation]`: the times of an evacuation and the budgets of its stages.

use lifeboat_core::evacuation::budget::Budget;
use lifeboat_core::evacuation::stage::{STAGES, Stage};
use lifeboat_core::notice::Patience;
use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};

use super::units::{Span, or};
use super::{ConfigError, senseless};

/// `[evacuation]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvacuationConfig {
    /// The time from SIGTERM to SIGKILL, as the container platform grants it.
    pub grace: Option<Span>,
    /// The time that `lifeboat evacuate` may take, and the saving of work that failed by itself.
    pub operator_grace: Option<Span>,
    /// Kept free at the end; at most a tenth of the time.
    pub reserve: Option<Span>,
    /// The time given when the announced instant is over, unknown, or hibernation has begun.
    pub late: Option<Span>,
    /// A notice whose instant passed longer ago than this did not come true.
    pub stale: Option<Span>,
    /// Budget of the stage `notify`.
    pub notify: Option<BudgetConfig>,
    /// Budget of the stage `deregister`.
    pub deregister: Option<BudgetConfig>,
    /// Budget of the stage `drain`.
    pub drain: Option<BudgetConfig>,
    /// Budget of the stage `snapshot`.
    pub snapshot: Option<BudgetConfig>,
    /// Budget of the stage `save_state`.
    pub save_state: Option<BudgetConfig>,
    /// Budget of the stage `flush_logs`.
    pub flush_logs: Option<BudgetConfig>,
    /// Budget of the stage `hand_back`.
    pub hand_back: Option<BudgetConfig>,
    /// Budget of the stage `complete_lifecycle`.
    pub complete_lifecycle: Option<BudgetConfig>,
    /// Budget of the stage `clean_up`.
    pub clean_up: Option<BudgetConfig>,
    /// The time given when the Auto Scaling group is about to end this instance.
    pub lifecycle_grace: Option<Span>,
}

/// The budget of one stage; what is missing keeps its default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// With less the stage is not worth starting.
    pub minimum: Option<Span>,
    /// What it normally needs.
    pub wanted: Option<Span>,
    /// The most it gets.
    pub maximum: Option<Span>,
}

/// What most platforms grant between SIGTERM and SIGKILL. Counting on more would lose work where nobody
/// configured it. Source: the Kubernetes documentation, "Pod termination" (30 s); the ECS task definition's
/// `stopTimeout` (30 s by default, at most 120 s).
const GRACE: Millis = Millis::from_secs(30);

/// An instance that its group ends waits for its hook, an hour by default; without a hook it is shut down at once, and
/// SIGTERM tells. As much as a Spot notice gives.
const LIFECYCLE_GRACE: Millis = Millis::from_secs(120);

/// The metadata tell whole seconds, by a clock that is a second off at times. With less, a real notice that is seen
/// a moment late would look like one that did not come true.
const STALE_MIN: Millis = Millis::from_secs(2);

impl EvacuationConfig {
    pub(super) fn grace(&self) -> Result<Millis, ConfigError> {
        some_time("evacuation.grace", or(self.grace, GRACE))
    }

    pub(super) fn operator_grace(&self) -> Result<Millis, ConfigError> {
        some_time("evacuation.operator_grace", or(self.operator_grace, Millis::from_secs(120)))
    }

    pub(super) fn lifecycle_grace(&self) -> Millis {
        or(self.lifecycle_grace, LIFECYCLE_GRACE)
    }

    pub(super) fn reserve(&self) -> Millis {
        or(self.reserve, Millis::from_secs(5))
    }

    pub(super) fn patience(&self) -> Result<Patience, ConfigError> {
        let stale = or(self.stale, Millis::from_secs(60));
        if stale < STALE_MIN {
            return Err(senseless(
                "evacuation.stale",
                "must be at least 2s: a notice that is seen a moment late would not be believed",
            ));
        }
        Ok(Patience { late: or(self.late, Millis::from_secs(10)), stale })
    }

    pub(super) fn budgets(&self) -> Result<[Budget; STAGES], ConfigError> {
        let mut budgets = [Budget { minimum: Millis(0), wanted: Millis(0), maximum: Millis(0) }; STAGES];
        for stage in Stage::ALL {
            let written = match stage {
                Stage::Notify => self.notify,
                Stage::Deregister => self.deregister,
                Stage::Drain => self.drain,
                Stage::Snapshot => self.snapshot,
                Stage::SaveState => self.save_state,
                Stage::FlushLogs => self.flush_logs,
                Stage::HandBack => self.hand_back,
                Stage::CompleteLifecycle => self.complete_lifecycle,
                Stage::CleanUp => self.clean_up,
            }
            .unwrap_or_default();
            let default = default_budget(stage);
            let budget = Budget {
                minimum: written.minimum.map_or(default.minimum, |span| span.0),
                wanted: written.wanted.map_or(default.wanted, |span| span.0),
                maximum: written.maximum.map_or(default.maximum, |span| span.0),
            };
            // One chosen value moves the defaulted ones along; two chosen ones must fit each other.
            let budget = Budget {
                minimum: if written.minimum.is_none() {
                    budget.minimum.min(written.wanted.map_or(budget.minimum, |s| s.0)).min(budget.maximum)
                } else {
                    budget.minimum
                },
                ..budget
            };
            let budget = Budget {
                wanted: if written.wanted.is_none() {
                    budget.wanted.clamp(budget.minimum, budget.maximum.max(budget.minimum))
                } else {
                    budget.wanted
                },
                maximum: if written.maximum.is_none() {
                    budget.maximum.max(budget.wanted).max(budget.minimum)
                } else {
                    budget.maximum
                },
                ..budget
            };
            if !budget.is_ordered() {
                return Err(senseless(
                    &format!("evacuation.{stage}"),
                    "must have minimum ≤ wanted ≤ maximum",
                ));
            }
            budgets[stage.index()] = budget;
        }
        Ok(budgets)
    }
}

fn some_time(key: &str, time: Millis) -> Result<Millis, ConfigError> {
    if time == Millis::ZERO {
        return Err(senseless(key, "must be more than nothing"));
    }
    Ok(time)
}

/// The budgets that source A's steps and the two minutes suggest: what it gives each step is our maximum,
/// except for the files, which get all that the others leave. The minima are small: with little time left,
/// trying is better than not.
const fn default_budget(stage: Stage) -> Budget {
    let (minimum, wanted, maximum) = match stage {
        Stage::Notify => (10, 1_000, 5_000),
        // Requests take seconds; what they hold up is all the rest.
        Stage::Deregister => (100, 20_000, 45_000),
        Stage::Drain => (200, 20_000, 45_000),
        Stage::Snapshot => (200, 60_000, 3_600_000),
        // Source A: 10 s for the state and 10 s for the messages.
        Stage::SaveState => (100, 8_000, 20_000),
        Stage::FlushLogs => (50, 3_000, 5_000),
        Stage::HandBack => (100, 3_000, 10_000),
        Stage::CompleteLifecycle => (50, 3_000, 5_000),
        Stage::CleanUp => (100, 5_000, 10_000),
    };
    Budget { minimum: Millis(minimum), wanted: Millis(wanted), maximum: Millis(maximum) }
}

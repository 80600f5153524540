//! `[policy]`: how the split is decided, for all services or for one.

use lifeboat_core::failover::policy::{Policy, Shortfall, Switch};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::failover::window::FACTS_MAX;
use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span, TASKS_MAX, invalid, within};

/// While a shift is under way services are looked at every 10 s: no less often than more.
const LOOK_EVERY_MIN: Millis = Millis::from_secs(10);

/// A day, in seconds: longer than anything that is waited for here.
const DAY: u64 = 86_400;

/// A notice whose event was lost is over by then.
const LOOK_EVERY_MAX: Millis = Millis::from_secs(120);

/// `[policy]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// `shortfall` or `switch`.
    pub name: Option<PolicyName>,
    /// `shortfall`: Spot tasks beyond the target.
    pub spares: Option<u32>,
    /// `switch`: refused launches in the window that trip it.
    pub capacity_errors: Option<u32>,
    /// `switch`: interruptions in the window that trip it.
    pub interruptions: Option<u32>,
    /// `switch`: a task that is not ready for so long trips it.
    pub pending_max: Option<Span>,
    /// `switch`: Spot is given up once this share of the target is ready On-Demand.
    pub floor_percent: Option<u32>,
    /// `switch`: how long Spot must have been good.
    pub stable: Option<Span>,
    /// `switch`: Spot tasks kept as probes.
    pub probes: Option<u32>,
    /// The sliding window of errors.
    pub window: Option<Span>,
    /// A shift that is not complete after this long is given up, and a person told.
    pub shift_max: Option<Span>,
    /// How long On-Demand that was just raised stays at least.
    pub hold: Option<Span>,
    /// How often services are looked at while no shift is under way.
    pub look_every: Option<Span>,
}

/// The policies that a fleet may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// On-Demand for exactly what Spot is missing.
    #[default]
    Shortfall,
    /// Source B: everything moves at a threshold.
    Switch,
}

impl PolicyConfig {
    pub(super) fn rules(&self, key: &str) -> Result<Rules, ConfigError> {
        let switch = [
            ("capacity_errors", self.capacity_errors.is_some()),
            ("interruptions", self.interruptions.is_some()),
            ("pending_max", self.pending_max.is_some()),
            ("floor_percent", self.floor_percent.is_some()),
            ("stable", self.stable.is_some()),
            ("probes", self.probes.is_some()),
        ];
        let policy = match self.name.unwrap_or_default() {
            PolicyName::Shortfall => {
                if let Some((name, _)) = switch.iter().find(|(_, is_set)| *is_set) {
                    let why = "belongs to the policy `switch`: set name = \"switch\", or leave it out";
                    return Err(invalid(&format!("{key}.{name}"), why));
                }
                let spares = self.spares.unwrap_or(0);
                if spares > TASKS_MAX {
                    return Err(invalid(&format!("{key}.spares"), &format!("must be at most {TASKS_MAX}")));
                }
                Policy::Shortfall(Shortfall { spares })
            }
            PolicyName::Switch => Policy::Switch(self.switch(key)?),
        };
        let mut rules = Rules::new(policy);
        let span = |name: &str, given: Option<Span>, default: Millis, (least, most): (u64, u64)| {
            let (least, most) = (Millis::from_secs(least), Millis::from_secs(most));
            within(&format!("{key}.{name}"), given.map_or(default, |span| span.0), least, most)
        };
        rules.window = span("window", self.window, rules.window, (10, DAY))?;
        // Each time that it is over a person is told.
        rules.shift_max = span("shift_max", self.shift_max, rules.shift_max, (60, DAY))?;
        rules.degraded_max = rules.shift_max;
        rules.hold = span("hold", self.hold, rules.hold, (0, DAY))?;
        rules.look_every = self.look_every.map_or(rules.look_every, |span| span.0);
        if !(LOOK_EVERY_MIN..=LOOK_EVERY_MAX).contains(&rules.look_every) {
            return Err(invalid(&format!("{key}.look_every"), "must be from 10s to 2m"));
        }
        Ok(rules)
    }

    fn switch(&self, key: &str) -> Result<Switch, ConfigError> {
        let default = Switch::default();
        if self.spares.is_some() {
            return Err(invalid(&format!("{key}.spares"), "belongs to the policy `shortfall`"));
        }
        if self.probes == Some(0) {
            let why = "with 0 there are no samples and Spot is never returned to: at least 1";
            return Err(invalid(&format!("{key}.probes"), why));
        }
        let floor_percent = self.floor_percent.unwrap_or(default.floor_percent);
        if !(1..=100).contains(&floor_percent) {
            return Err(invalid(&format!("{key}.floor_percent"), "must be from 1 to 100"));
        }
        for (name, given) in
            [("capacity_errors", self.capacity_errors), ("interruptions", self.interruptions)]
        {
            if given.is_some_and(|count| count as usize > FACTS_MAX) {
                let why = format!("the window keeps {FACTS_MAX} facts: more would never be counted");
                return Err(invalid(&format!("{key}.{name}"), &why));
            }
        }
        Ok(Switch {
            capacity_errors: self.capacity_errors.unwrap_or(default.capacity_errors).max(1),
            interruptions: self.interruptions.unwrap_or(default.interruptions).max(1),
            pending_max: self.pending_max.map_or(default.pending_max, |span| span.0),
            floor_percent,
            stable: self.stable.map_or(default.stable, |span| span.0),
            probes: self.probes.unwrap_or(default.probes),
            ..default
        })
    }
}

//! Capacity from a model, where nobody recorded any: source B's three months of Fargate Spot.
//!
//! No public trace of Fargate Spot exists (containers-roadmap #1358 asks for one), so this is made from the figures
//! that the source gives and is labelled as a model wherever it is shown.

use lifeboat_core::time::Millis;
use serde::Deserialize;

use crate::forms::range;
use crate::rng::Rng;
use crate::scenario::ScenarioError;
use crate::trace::{Trace, TraceError, Zone};

/// The step of a modelled trace.
const STEP: Millis = Millis::from_secs(30);

const TICKS_PER_HOUR: u64 = 120;

/// What the capacity of one region does. Source: B10 of the article's figures; what it leaves open is assumed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Model {
    /// How long.
    pub days: u32,
    /// Zones, among which ECS spreads the tasks.
    pub zones: u32,
    /// Tasks that run while nothing is wrong; the model needs it to take away as many as the source says.
    pub tasks: u32,
    /// Shortages a week, ten times the number: the source has 2–3.
    pub shortages_per_10_weeks: u32,
    /// Tasks that find no place in a shortage.
    pub shortage_tasks: u32,
    /// The shortest shortage. Assumed: the source does not say.
    pub shortage_minutes_min: u32,
    /// The longest. Assumed.
    pub shortage_minutes_max: u32,
    /// Interruptions in ten days: the source has 2–3 a day.
    pub interruptions_per_10_days: u32,
    /// Tasks that one interruption takes, at most. Assumed.
    pub interruption_tasks_max: u32,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            days: 91,
            zones: 3,
            tasks: 200,
            shortages_per_10_weeks: 25,
            shortage_tasks: 50,
            shortage_minutes_min: 20,
            shortage_minutes_max: 90,
            interruptions_per_10_days: 25,
            interruption_tasks_max: 4,
        }
    }
}

impl Model {
    /// Checks that it can be drawn: what is beyond is a typing mistake, and would fill the memory or the day.
    ///
    /// # Errors
    ///
    /// The first number that cannot be.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let bounds = [
            ("model.days", self.days, 1..=1_000, "1 to 1000"),
            ("model.zones", self.zones, 1..=20, "1 to 20"),
            ("model.tasks", self.tasks, 0..=10_000_000, "at most 10000000"),
            ("model.shortages_per_10_weeks", self.shortages_per_10_weeks, 0..=70, "at most 70, one a day"),
            ("model.shortage_minutes_max", self.shortage_minutes_max, 0..=10_080, "at most 10080, a week"),
            (
                "model.shortage_minutes_min",
                self.shortage_minutes_min,
                0..=self.shortage_minutes_max,
                "at most model.shortage_minutes_max",
            ),
            ("model.interruptions_per_10_days", self.interruptions_per_10_days, 0..=10_000, "at most 10000"),
        ];
        for (key, found, allowed, told) in bounds {
            if !allowed.contains(&found) {
                return range(key, told, found.to_string());
            }
        }
        Ok(())
    }

    /// The trace of this seed.
    ///
    /// # Errors
    ///
    /// No zones, or no time.
    pub fn trace(&self, name: &str, seed: u64) -> Result<Trace, TraceError> {
        let mut rng = Rng::new(seed, 11);
        let ticks = usize::try_from(u64::from(self.days) * 24 * TICKS_PER_HOUR).unwrap_or(usize::MAX);
        let mut capacity = vec![vec![self.tasks; ticks]; usize::try_from(self.zones).unwrap_or(0)];
        if capacity.is_empty() {
            return Err(TraceError::Empty { what: "zones" });
        }
        for day in 0..u64::from(self.days) {
            if rng.below(70) < u64::from(self.shortages_per_10_weeks) {
                self.shortage(&mut rng, day, &mut capacity);
            }
            // Two draws give the mean without a fixed number a day.
            for _ in 0..2 {
                let mean = u64::from(self.interruptions_per_10_days);
                let count = mean / 20 + u64::from(rng.below(20) < mean % 20);
                for _ in 0..count {
                    self.interruption(&mut rng, day, &mut capacity);
                }
            }
        }
        let zones = capacity.into_iter().enumerate().map(|(index, capacity)| Zone {
            name: format!("model-{}", index + 1),
            capacity,
            prices: Vec::new(),
        });
        Trace::new(name.to_owned(), STEP, zones.collect())
    }

    /// Four of five shortages begin between 9 and 12 h; each takes five minutes to unfold, as tasks end and find
    /// no new place.
    fn shortage(&self, rng: &mut Rng, day: u64, capacity: &mut [Vec<u32>]) {
        let hour = if rng.chance(800) { rng.between(9, 11) } else { rng.between(0, 22) };
        let begin = (day * 24 + hour) * TICKS_PER_HOUR + rng.below(TICKS_PER_HOUR);
        let ticks =
            2 * rng.between(u64::from(self.shortage_minutes_min), u64::from(self.shortage_minutes_max));
        let left = self.tasks.saturating_sub(self.shortage_tasks);
        for tick in 0..ticks {
            let unfolded = u32::try_from((tick + 1).min(10)).unwrap_or(10);
            let total = self.tasks - (self.tasks - left) * unfolded / 10;
            self.lower(capacity, begin + tick, |index| share(total, self.zones, index));
        }
    }

    /// One zone loses a few tasks and takes new ones after half a minute.
    fn interruption(&self, rng: &mut Rng, day: u64, capacity: &mut [Vec<u32>]) {
        let tick = day * 24 * TICKS_PER_HOUR + rng.below(24 * TICKS_PER_HOUR);
        let zone = u32::try_from(rng.below(u64::from(self.zones))).unwrap_or(0);
        let lost = u32::try_from(rng.between(1, u64::from(self.interruption_tasks_max.max(1)))).unwrap_or(1);
        let left = share(self.tasks, self.zones, zone).saturating_sub(lost);
        self.lower(capacity, tick, |index| if index == zone { left } else { u32::MAX });
    }

    fn lower(&self, capacity: &mut [Vec<u32>], tick: u64, to: impl Fn(u32) -> u32) {
        let Ok(tick) = usize::try_from(tick) else { return };
        for index in 0..self.zones {
            let zone = &mut capacity[usize::try_from(index).unwrap_or(0)];
            if let Some(value) = zone.get_mut(tick) {
                *value = (*value).min(to(index));
            }
        }
    }
}

/// What zone `index` has of `total` tasks spread evenly.
const fn share(total: u32, zones: u32, index: u32) -> u32 {
    total / zones + if index < total % zones { 1 } else { 0 }
}

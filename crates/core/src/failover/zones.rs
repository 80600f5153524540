//! Where Spot tasks go, for callers that may choose the zone (EC2 groups, one per zone). ECS chooses by itself.
//!
//! The risk of losing a zone falls 10–120 times with its age in every recorded trace, so what a zone did is
//! worth remembering.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::time::{Millis, Timestamp};

/// Losses remembered per zone. Beyond this many in a day a zone is the worst choice in any case.
const LOSSES_MAX: usize = 32;

/// Losses older than this no longer count against a zone.
const LOSSES_KEPT: Millis = Millis::from_secs(24 * 3600);

/// A request for some tasks in one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Index of the zone.
    pub zone: usize,
    /// How many.
    pub count: u32,
}

/// How zones are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The zone with the fewest tasks of ours that did not refuse within `retry`.
    Spread {
        /// How long a zone that refused is left alone.
        retry: Millis,
    },
    /// SpotHedge: zones that preempted or refused are left alone until fewer than two others remain.
    Hedge {
        /// How often missing tasks are asked for.
        retry: Millis,
    },
    /// Zones that live, in order of their record; canaries into dead ones.
    Memory(Memory),
}

/// The knobs of the zone memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The first wait after a refusal by a dead zone.
    pub canary_first: Millis,
    /// The longest wait; in between it doubles. Tuned on aws1 and bamboo: 60 s in place of 30 s saves a third of
    /// the requests and costs 0.03 to 0.12 points.
    pub canary_longest: Millis,
    /// How long a zone that refuses while ours run there counts as full.
    pub full: Millis,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            canary_first: Millis::from_secs(30),
            canary_longest: Millis::from_secs(30),
            full: Millis::from_secs(30),
        }
    }
}

/// What is known of one zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Zone {
    alive: u32,
    asked: u32,
    live_since: Option<Timestamp>,
    retry_at: Timestamp,
    refusals: u32,
    losses: Vec<Timestamp>,
    set_aside: bool,
    is_full: bool,
}

/// All zones of a service, and what they did so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zones {
    placement: Placement,
    zones: Vec<Zone>,
}

impl Zones {
    /// `count` zones of which nothing is known.
    #[must_use]
    pub fn new(placement: Placement, count: usize) -> Self {
        Self { placement, zones: alloc::vec![Zone::default(); count] }
    }

    /// Spot tasks that were asked for and not answered yet.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.zones.iter().map(|zone| zone.asked).sum()
    }

    /// AWS started `accepted` of the `asked` tasks in `zone`.
    pub fn answered(&mut self, now: Timestamp, zone: usize, asked: u32, accepted: u32) {
        let placement = self.placement;
        let zone = &mut self.zones[zone];
        zone.asked -= asked;
        zone.alive += accepted;
        if accepted > 0 {
            zone.live_since.get_or_insert(now);
            zone.refusals = 0;
            zone.set_aside = false;
        }
        if accepted == asked {
            zone.is_full = false;
            return;
        }
        match placement {
            Placement::Spread { retry } => zone.retry_at = now + retry,
            Placement::Hedge { retry } => {
                zone.set_aside = true;
                zone.retry_at = now + retry;
            }
            Placement::Memory(memory) => zone.refuse(now, &memory),
        }
    }

    /// A task in `zone` was warned or lost.
    pub fn lost(&mut self, now: Timestamp, zone: usize) {
        let placement = self.placement;
        let zone = &mut self.zones[zone];
        zone.alive -= 1;
        match placement {
            Placement::Spread { .. } => {}
            Placement::Hedge { .. } => zone.set_aside = true,
            Placement::Memory(memory) => {
                // Tasks lost together are one loss: it is the zone that failed, not its tasks one by one.
                if zone.live_since.is_some() {
                    zone.losses.retain(|at| now.since(*at) < LOSSES_KEPT);
                    if zone.losses.len() >= LOSSES_MAX {
                        zone.losses.remove(0);
                    }
                    zone.losses.push(now);
                    zone.retry_at = now + memory.canary_first;
                    zone.refusals = 0;
                }
                zone.live_since = None;
                zone.is_full = false;
            }
        }
    }

    /// We stopped a task in `zone`.
    pub fn stopped(&mut self, zone: usize) {
        self.zones[zone].alive -= 1;
    }

    /// The zone to take a surplus task from: the one with the worst record.
    #[must_use]
    pub fn surplus(&self, now: Timestamp) -> Option<usize> {
        let held = (0..self.zones.len()).filter(|zone| self.zones[*zone].alive > 0);
        held.max_by_key(|zone| self.zones[*zone].rank(now))
    }

    /// What to ask for now so that `need` more Spot tasks start, of `target` in all.
    pub fn plan(&mut self, now: Timestamp, need: u32, target: u32) -> Vec<Launch> {
        let mut left = need.saturating_sub(self.asked());
        let mut wanted: Vec<u32> = alloc::vec![0; self.zones.len()];
        match self.placement {
            Placement::Spread { .. } => self.spread(now, &mut left, &mut wanted),
            Placement::Hedge { .. } => self.hedge(now, &mut left, &mut wanted),
            Placement::Memory(_) => {
                self.fill_live(now, target, &mut left, &mut wanted);
                self.send_canaries(now, &mut left, &mut wanted);
            }
        }
        let launches = wanted.iter().enumerate().filter(|(_, count)| **count > 0);
        let launches: Vec<Launch> = launches.map(|(zone, count)| Launch { zone, count: *count }).collect();
        for launch in &launches {
            self.zones[launch.zone].asked += launch.count;
        }
        launches
    }

    /// When [`Zones::plan`] may ask for something that it does not ask for now.
    #[must_use]
    pub fn retry_at(&self, now: Timestamp) -> Option<Timestamp> {
        let waiting = self.zones.iter().filter(|zone| zone.asked == 0 && zone.retry_at > now);
        waiting.map(|zone| zone.retry_at).min()
    }

    fn spread(&self, now: Timestamp, left: &mut u32, wanted: &mut [u32]) {
        while *left > 0 {
            let open = (0..self.zones.len()).filter(|zone| self.zones[*zone].retry_at <= now);
            let Some(zone) = open.min_by_key(|zone| self.load(*zone, wanted)) else { return };
            wanted[zone] += 1;
            *left -= 1;
        }
    }

    fn hedge(&mut self, now: Timestamp, left: &mut u32, wanted: &mut [u32]) {
        // Source: SpotHedge, algorithm 1: with fewer than two zones left, all count as available again.
        if self.zones.iter().filter(|zone| !zone.set_aside).count() < 2 {
            for zone in &mut self.zones {
                zone.set_aside = false;
            }
        }
        while *left > 0 {
            let is_open = |zone: &usize| !self.zones[*zone].set_aside && self.zones[*zone].retry_at <= now;
            let open = (0..self.zones.len()).filter(is_open);
            let Some(zone) = open.min_by_key(|zone| self.load(*zone, wanted)) else { return };
            wanted[zone] += 1;
            *left -= 1;
        }
    }

    /// Tasks into zones that accepted last and were not lost since: best record first, at most half of the
    /// target in one of them while another lives.
    fn fill_live(&self, now: Timestamp, target: u32, left: &mut u32, wanted: &mut [u32]) {
        let mut live: Vec<usize> =
            (0..self.zones.len()).filter(|zone| self.zones[*zone].is_open(now)).collect();
        live.sort_by_key(|zone| self.zones[*zone].rank(now));
        let half = if live.len() > 1 { target.div_ceil(2) } else { u32::MAX };
        for bound in [half, u32::MAX] {
            for zone in &live {
                let room = bound.saturating_sub(self.load(*zone, wanted)).min(*left);
                wanted[*zone] += room;
                *left -= room;
            }
        }
    }

    /// Asks dead zones whether they live again, and full ones whether they have more.
    fn send_canaries(&self, now: Timestamp, left: &mut u32, wanted: &mut [u32]) {
        let is_due = |zone: &usize| {
            let zone = &self.zones[*zone];
            (zone.live_since.is_none() || zone.is_full) && zone.asked == 0 && zone.retry_at <= now
        };
        let mut dead: Vec<usize> = (0..self.zones.len()).filter(is_due).collect();
        dead.sort_by_key(|zone| self.zones[*zone].rank(now));
        // Several at once, so that a zone that returns gives much in one round; never more than are missing.
        while *left > 0 && !dead.is_empty() {
            for zone in &dead {
                if *left == 0 {
                    return;
                }
                wanted[*zone] += 1;
                *left -= 1;
            }
        }
    }

    fn load(&self, zone: usize, wanted: &[u32]) -> u32 {
        self.zones[zone].alive + self.zones[zone].asked + wanted[zone]
    }
}

impl Zone {
    /// Lives, and did not say that it is full.
    fn is_open(&self, now: Timestamp) -> bool {
        self.live_since.is_some() && !self.is_full && self.retry_at <= now
    }

    /// Smaller is better: fewer losses within a day, then the longest-lived.
    fn rank(&self, now: Timestamp) -> (usize, bool, Option<Timestamp>) {
        let losses = self.losses.iter().filter(|at| now.since(**at) < LOSSES_KEPT).count();
        (losses, self.live_since.is_none(), self.live_since)
    }

    fn refuse(&mut self, now: Timestamp, memory: &Memory) {
        if self.alive > 0 && self.live_since.is_some() {
            self.is_full = true;
            self.retry_at = now + memory.full;
            return;
        }
        self.live_since = None;
        let wait = memory.canary_first.0.saturating_mul(1 << self.refusals.min(16));
        self.retry_at = now + Millis(wait.min(memory.canary_longest.0));
        self.refusals += 1;
    }
}

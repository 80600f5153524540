//! Where Spot tasks go, for callers that may choose the zone (EC2 groups, one per zone). ECS chooses by itself.
//!
//! What a zone did is worth remembering: the risk of losing it falls 10–120 times with its age in every recorded
//! trace. `record` estimates that risk.

mod record;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use self::record::Record;
use crate::time::{Millis, Timestamp};

/// A request that is sent this long before a warned task dies is answered when its place is free again.
/// Assumed: an answer takes ten seconds.
const ASK_AHEAD: Millis = Millis::from_secs(10);

/// A dead zone that refused this often in a row is asked for everything that is missing: it hardly ever has any,
/// and when it does, asking for a share only would cost another round.
const REFUSALS_OF_THE_DEAD: u32 = 2;

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
    /// Zones that live, those with the least risk first; canaries into dead ones.
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
    /// Accepted last, and was not lost since.
    is_live: bool,
    retry_at: Timestamp,
    /// In a row.
    refusals: u32,
    record: Record,
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
        zone.record.pass(now, zone.alive > 0);
        zone.asked = zone.asked.saturating_sub(asked);
        zone.alive += accepted;
        if accepted > 0 {
            zone.is_live = true;
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

    /// A task in `zone` was warned or lost; it is gone at `gone_at`, and until then the zone has nothing to give.
    pub fn lost(&mut self, now: Timestamp, zone: usize, gone_at: Timestamp) {
        let placement = self.placement;
        let zone = &mut self.zones[zone];
        zone.record.pass(now, true);
        // A loss may be told twice, or before the answer that started the task.
        zone.alive = zone.alive.saturating_sub(1);
        match placement {
            Placement::Spread { .. } => {}
            Placement::Hedge { .. } => zone.set_aside = true,
            Placement::Memory(memory) => {
                // Tasks lost together are one loss: it is the zone that failed, not its tasks one by one.
                if zone.is_live {
                    zone.record.lose();
                    zone.retry_at = (now + memory.canary_first).max(gone_at.before(ASK_AHEAD));
                    zone.refusals = 0;
                }
                zone.is_live = false;
                zone.is_full = false;
            }
        }
    }

    /// We stopped a task in `zone`.
    pub fn stopped(&mut self, now: Timestamp, zone: usize) {
        let zone = &mut self.zones[zone];
        zone.record.pass(now, true);
        zone.alive = zone.alive.saturating_sub(1);
    }

    /// The zone to take a surplus task from, of those in which one may be stopped: the one with the greatest risk.
    #[must_use]
    pub fn surplus(&self, now: Timestamp, may_stop: impl Fn(usize) -> bool) -> Option<usize> {
        let held = (0..self.zones.len()).filter(|zone| self.zones[*zone].alive > 0 && may_stop(*zone));
        held.max_by_key(|zone| self.zones[*zone].risk(now))
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

    /// Tasks into zones that live: the least risk first, spread over those that are alike, at most half of the
    /// target in one of them while another lives.
    fn fill_live(&self, now: Timestamp, target: u32, left: &mut u32, wanted: &mut [u32]) {
        let live: Vec<(u32, u64, usize)> = (0..self.zones.len())
            .filter(|zone| self.zones[*zone].is_open(now))
            .map(|zone| (zone, self.zones[zone].risk(now)))
            // Within a factor of two, risks are alike: an estimate is no better than that.
            .map(|(zone, risk)| (risk.max(1).ilog2(), risk, zone))
            .collect();
        let half = if live.len() > 1 { target.div_ceil(2) } else { u32::MAX };
        for bound in [half, u32::MAX] {
            while *left > 0 {
                let open = live.iter().filter(|(_, _, zone)| self.load(*zone, wanted) < bound);
                let best = open.min_by_key(|(alike, risk, zone)| (*alike, self.load(*zone, wanted), *risk));
                let Some((_, _, zone)) = best else { break };
                wanted[*zone] += 1;
                *left -= 1;
            }
        }
    }

    /// Asks dead zones whether they live again, and full ones whether they have more: all that are due at once, as
    /// one that has something ends the search.
    fn send_canaries(&self, now: Timestamp, left: &mut u32, wanted: &mut [u32]) {
        let is_due = |zone: &usize| {
            let zone = &self.zones[*zone];
            (!zone.is_live || zone.is_full) && zone.asked == 0 && zone.retry_at <= now
        };
        let mut due: Vec<usize> = (0..self.zones.len()).filter(is_due).collect();
        due.sort_by_key(|zone| self.zones[*zone].risk(now));
        let count = u32::try_from(due.len()).unwrap_or(u32::MAX);
        let missing = *left;
        if missing == 0 || count == 0 {
            return;
        }
        let share = (missing / count).max(1);
        let mut odd = missing.saturating_sub(share * count);
        for zone in due {
            let more = odd.min(1);
            odd -= more;
            let is_dead = self.zones[zone].refusals >= REFUSALS_OF_THE_DEAD;
            wanted[zone] += if is_dead { missing } else { share + more };
        }
        *left = 0;
    }

    fn load(&self, zone: usize, wanted: &[u32]) -> u32 {
        self.zones[zone].alive + self.zones[zone].asked + wanted[zone]
    }
}

impl Zone {
    /// Lives, and did not say that it is full.
    fn is_open(&self, now: Timestamp) -> bool {
        self.is_live && !self.is_full && self.retry_at <= now
    }

    fn risk(&self, now: Timestamp) -> u64 {
        self.record.risk(now, self.alive > 0)
    }

    fn refuse(&mut self, now: Timestamp, memory: &Memory) {
        if self.alive > 0 && self.is_live {
            self.is_full = true;
            self.retry_at = now + memory.full;
            return;
        }
        self.is_live = false;
        let wait = memory.canary_first.0.saturating_mul(1 << self.refusals.min(16));
        self.retry_at = now + Millis(wait.min(memory.canary_longest.0));
        self.refusals += 1;
    }
}

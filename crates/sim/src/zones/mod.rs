//! The zone-choosing world: launch requests per zone, as for EC2 groups. It runs the production policies, zone
//! memory and state on a recorded trace; nothing here decides.
//!
//! A reclaim follows the trace: where a zone's capacity falls below what runs there, tasks chosen by the seed
//! die at that tick, those that are announced are warned `notice` before it, and the zone refuses launches for
//! as long. `ecs/` is the other world, where AWS chooses and a controller talks to an API that fails.

mod actuate;
mod fleet;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lifeboat_core::failover::split::Split;
use lifeboat_core::failover::state::{Rules, State};
use lifeboat_core::failover::window::{Entry, Fact};
use lifeboat_core::failover::zones::{Placement, Zones};
use lifeboat_core::time::{Millis, Timestamp};

use self::fleet::Fleet;
use crate::record::{Record, Turn};
use crate::rng::Rng;
use crate::tally::Tally;
use crate::trace::Trace;

/// One run of this world.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tasks wanted, all the time.
    pub target: u32,
    /// The policy and its rules.
    pub rules: Rules,
    /// How zones are chosen.
    pub placement: Placement,
    /// From the answer to a Spot launch until the task is ready.
    pub spot_start: Millis,
    /// From the request for an On-Demand task until it is ready.
    pub on_demand_start: Millis,
    /// From a request to its answer; billing begins with the answer.
    pub answer: Millis,
    /// How long before a reclaim it is announced.
    pub notice: Millis,
    /// The share of reclaims that are announced, in thousandths.
    pub announced: u32,
    /// Chooses which tasks a reclaim hits, and which reclaims are announced.
    pub seed: u64,
    /// Keep turns and the time line.
    pub record: bool,
}

impl Config {
    /// The assumptions of docs/simulation.md: starts of 110 s and 120 s, two minutes' notice of every reclaim.
    #[must_use]
    pub const fn new(target: u32, rules: Rules, placement: Placement, seed: u64) -> Self {
        Self {
            target,
            rules: Rules { names_stops: true, ..rules },
            placement,
            spot_start: Millis::from_secs(110),
            on_demand_start: Millis::from_secs(120),
            answer: Millis::from_secs(10),
            notice: Millis::from_secs(120),
            announced: 1000,
            seed,
            record: false,
        }
    }
}

/// What happens, in the order in which it happens at one moment: who is ready in the same instant as another
/// dies replaces it without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ready { task: u64 },
    Doom { tick: usize },
    Reclaim { tick: usize },
    Answer { zone: usize, asked: u32 },
    Wake,
}

struct World<'a> {
    trace: &'a Trace,
    config: &'a Config,
    now: Timestamp,
    queue: BinaryHeap<Reverse<(Timestamp, Event, u64)>>,
    queued: u64,
    wake: Option<Timestamp>,
    fleet: Fleet,
    zones: Zones,
    state: State,
    rng: Rng,
    facts: u64,
    tally: Tally,
    record: Record,
}

/// Replays `trace` and returns the sums, and the record where one was asked for.
#[must_use]
pub fn run(trace: &Trace, config: &Config) -> (Tally, Record) {
    let mut world = World::new(trace, config);
    world.look();
    while let Some(Reverse((at, _, _))) = world.queue.peek() {
        if *at >= trace.end() {
            break;
        }
        world.advance_to(*at);
        if world.happen() {
            world.look();
        }
    }
    world.advance_to(trace.end());
    world.finish()
}

impl<'a> World<'a> {
    fn new(trace: &'a Trace, config: &'a Config) -> Self {
        let start = Timestamp(0);
        let split = Split { spot: 0, on_demand: config.target };
        let mut world = Self {
            trace,
            config,
            now: start,
            queue: BinaryHeap::new(),
            queued: 0,
            wake: None,
            fleet: Fleet::new(trace, config.target),
            zones: Zones::new(config.placement, trace.zones.len()),
            state: State::new(start, config.target, split),
            rng: Rng::new(config.seed, 1),
            facts: 0,
            tally: Tally::default(),
            record: Record::default(),
        };
        for tick in 1..trace.ticks() {
            if trace.zones.iter().any(|zone| zone.capacity[tick] < zone.capacity[tick - 1]) {
                let at = trace.starts(tick);
                world.push(at, Event::Reclaim { tick });
                world.push(at.before(config.notice).max(start), Event::Doom { tick });
            }
        }
        world
    }

    fn push(&mut self, at: Timestamp, event: Event) {
        self.queue.push(Reverse((at, event, self.queued)));
        self.queued += 1;
    }

    fn advance_to(&mut self, at: Timestamp) {
        let (spot, on_demand) = self.fleet.serving();
        self.tally.pass(self.now, at, spot + on_demand, self.config.target);
        if self.config.record {
            self.record.line(self.now, spot, on_demand, self.config.target);
        }
        self.now = at;
    }

    /// Everything that happens at this moment. True where the policy could see any of it.
    fn happen(&mut self) -> bool {
        let mut seen = false;
        while let Some(Reverse((at, event, _))) = self.queue.peek().copied() {
            if at > self.now {
                break;
            }
            self.queue.pop();
            seen |= match event {
                Event::Ready { task } => self.ready(task),
                Event::Reclaim { tick } => self.reclaim(tick),
                Event::Doom { tick } => self.doom(tick),
                Event::Answer { zone, asked } => self.answer(zone, asked),
                Event::Wake => self.wake.take_if(|wake| *wake <= at).is_some(),
            };
        }
        seen
    }

    fn note(&mut self, fact: Fact, key: u64) {
        let entry = Entry { at: self.now, fact, key };
        self.state.window.note(self.now, self.config.rules.window, entry);
        if fact == Fact::Refused {
            self.state.refused_at = Some(self.now);
        }
    }

    fn ready(&mut self, task: u64) -> bool {
        let Some(is_spot) = self.fleet.ready(task) else { return false };
        if is_spot {
            self.note(Fact::Ready, task);
        }
        true
    }

    /// Chooses who dies at `tick`, and warns those whose reclaim is announced.
    fn doom(&mut self, tick: usize) -> bool {
        let at = self.trace.starts(tick);
        let mut seen = false;
        for zone in 0..self.trace.zones.len() {
            let capacity = self.trace.zones[zone].capacity[tick];
            while self.fleet.unharmed(zone) > capacity {
                // Drawn in any case, so that all policies meet the same reclaims.
                let is_announced =
                    self.rng.chance(self.config.announced) && self.config.notice > Millis::ZERO;
                let is_announced = is_announced && self.config.rules.policy.heeds_notices();
                let task = self.fleet.doom(zone, at, is_announced, &mut self.rng);
                if is_announced {
                    self.note(Fact::Interrupted, task);
                    self.zones.lost(self.now, zone, at);
                    seen = true;
                }
            }
        }
        seen
    }

    fn reclaim(&mut self, tick: usize) -> bool {
        let mut seen = false;
        for dead in self.fleet.reclaim(self.trace.starts(tick)) {
            seen = true;
            self.bill(&dead);
            self.tally.interruptions += 1;
            if let (Some(zone), false) = (dead.zone, dead.is_warned) {
                self.note(Fact::Interrupted, dead.id);
                self.zones.lost(self.now, zone, self.now);
            }
        }
        seen
    }

    fn answer(&mut self, zone: usize, asked: u32) -> bool {
        let room = self.capacity_until(zone, self.now + self.config.notice);
        let accepted = asked.min(room.saturating_sub(self.fleet.unharmed(zone)));
        self.zones.answered(self.now, zone, asked, accepted);
        for _ in 0..accepted {
            let ready_at = self.now + self.config.spot_start;
            let task = self.fleet.start(Some(zone), self.now, ready_at);
            self.push(ready_at, Event::Ready { task });
        }
        if accepted < asked {
            self.facts += 1;
            // Refusals are told apart by a key that no task has.
            self.note(Fact::Refused, u64::MAX - self.facts);
        }
        true
    }

    /// The least that `zone` gives from now until `until`: a zone that is about to be reclaimed refuses.
    fn capacity_until(&self, zone: usize, until: Timestamp) -> u32 {
        let tick_of = |at: Timestamp| {
            let tick = u64::try_from(at.0).unwrap_or(0) / self.trace.gap.0;
            usize::try_from(tick).unwrap_or(usize::MAX).min(self.trace.ticks() - 1)
        };
        let ticks = tick_of(self.now)..=tick_of(until);
        self.trace.zones[zone].capacity[ticks].iter().copied().min().unwrap_or(0)
    }

    /// The policy looks, and what it wants is done.
    fn look(&mut self) {
        let seen = self.fleet.seen(self.now, self.config.target);
        let before = self.state.split;
        self.state.advance(&self.config.rules, self.now, &seen);
        let launches = self.actuate();
        if (before.on_demand > 0) != (self.state.split.on_demand > 0) {
            self.tally.mode_changes += 1;
        }
        if self.config.record && (before != self.state.split || !launches.is_empty()) {
            self.record.turns.push(Turn {
                at: self.now,
                service: 0,
                phase: self.state.phase,
                split: self.state.split,
                reason: self.state.reason,
                launches,
            });
        }
    }

    fn finish(mut self) -> (Tally, Record) {
        self.tally.close(self.now);
        for task in self.fleet.end() {
            self.bill(&task);
        }
        self.record.end(self.now);
        (self.tally, self.record)
    }
}

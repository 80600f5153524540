//! The ECS world: service pairs whose tasks AWS places, and controllers that run the production machine against
//! an API, a queue and a store that fail as theirs do.
//!
//! * [`Config`], [`Faults`], [`StartTimes`]: what a world is made of.
//! * `cloud`: ECS itself. `queue`: EventBridge and SQS. `shell`: the controllers that carry out effects.
//! * `check`: what must hold in every world, whatever goes wrong.
//! * [`Live`]: the same ECS without controllers, moved on by its caller.

mod check;
mod cloud;
mod config;
mod faults;
mod live;
mod queue;
mod recorded;
mod shell;
mod start;

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use lifeboat_core::failover::event::{Event as Told, Happening};
use lifeboat_core::failover::machine::Order;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::time::{Millis, Timestamp};

pub use self::check::{Promise, Violation};
pub use self::config::{Config, Planted};
pub use self::faults::Faults;
pub use self::live::{Live, Moment, ServiceFigures};
pub use self::recorded::{Figures, Message, Recorded, Stored as StoredState, check_recorded};
pub use self::start::StartTimes;

use self::check::Checks;
use self::cloud::{Cloud, Placed, Task};
use self::queue::Queue;
use self::shell::{Controller, Stored};
use crate::record::Record;
use crate::rng::Rng;
use crate::tally::Tally;
use crate::trace::Trace;

/// The least that is billed of a task. Source: Fargate pricing, one minute at least; read 2026-11.
const BILLED_MIN: Millis = Millis::from_secs(60);

/// What happens next.
#[derive(Debug)]
enum Event {
    Ready { service: usize, capacity: Capacity, key: u64 },
    Die { service: usize, key: u64 },
    GiveUp { service: usize, key: u64 },
    Place { service: usize, capacity: Capacity },
    Reclaim { tick: usize },
    Autoscale { service: usize },
    Deliver { service: usize },
    Shell(shell::Due),
    Land { service: usize, order: Order },
    Watch,
}

struct Item {
    at: Timestamp,
    number: u64,
    event: Event,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What one service went through.
#[derive(Clone, Debug)]
struct Account {
    target: u32,
    since: Timestamp,
    serving: (u32, u32),
    tally: Tally,
    /// Deaths of tasks that left less than the target and that no other task has made up for yet.
    open: Vec<Timestamp>,
    /// Those of them for which no task was placed yet.
    unanswered: Vec<Timestamp>,
    /// When tasks were taken away by AWS, or changed by an order that landed late.
    losses: Vec<Timestamp>,
    /// Lower targets that were in force until then.
    targets: Vec<(Timestamp, u32)>,
    deliver_at: Option<Timestamp>,
}

impl Account {
    fn new(target: u32, since: Timestamp) -> Self {
        Self {
            target,
            since,
            serving: (0, 0),
            tally: Tally::default(),
            open: Vec::new(),
            unanswered: Vec::new(),
            losses: Vec::new(),
            targets: Vec::new(),
            deliver_at: None,
        }
    }
}

/// What a run of this world came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Sums over all services.
    pub tally: Tally,
    /// From each reclaim until another task made up for it, zero where the target stayed ready; sorted.
    pub gaps: Vec<Millis>,
    /// From each reclaim that was not announced until the task that replaces it was placed, zero where the target
    /// stayed ready; sorted. The gap is this and the start of that task.
    pub reactions: Vec<Millis>,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Turns and time line of the first service, where asked for.
    pub record: Record,
    /// Everything that happened, folded into one number: equal runs have equal digests.
    pub digest: u64,
    /// How many events the world processed.
    pub events: u64,
    /// Inputs that the machines took.
    pub inputs: u64,
}

struct World<'a> {
    trace: Cow<'a, Trace>,
    config: Cow<'a, Config>,
    now: Timestamp,
    heap: BinaryHeap<Reverse<Item>>,
    number: u64,
    cloud: Cloud,
    queues: Vec<Queue>,
    stored: Vec<Stored>,
    controllers: Vec<Controller>,
    accounts: Vec<Account>,
    rng: Rng,
    nature: Rng,
    gaps: Vec<Millis>,
    reactions: Vec<Millis>,
    checks: Checks,
    record: Record,
    digest: u64,
    events: u64,
    inputs: u64,
    /// Where the world has no controllers, what happens is told to its caller in place of the queues.
    journal: Option<Vec<Moment>>,
}

/// Replays `trace` through ECS and the controllers.
#[must_use]
pub fn run(trace: &Trace, config: &Config) -> Outcome {
    let mut world = World::new(Cow::Borrowed(trace), Cow::Borrowed(config));
    world.begin();
    world.start_controllers();
    while let Some(Reverse(item)) = world.heap.pop() {
        if item.at >= trace.end() {
            break;
        }
        world.now = item.at;
        world.events += 1;
        world.happen(item.event);
    }
    world.finish()
}

impl<'a> World<'a> {
    fn new(trace: Cow<'a, Trace>, config: Cow<'a, Config>) -> Self {
        let account = Account::new(config.target, Timestamp(0));
        Self {
            now: Timestamp(0),
            heap: BinaryHeap::new(),
            number: 0,
            cloud: Cloud::new(&trace, &config),
            queues: vec![Queue::default(); config.services],
            stored: vec![Stored::default(); config.services],
            controllers: (0..config.controllers).map(|index| Controller::new(&config, index)).collect(),
            accounts: vec![account; config.services],
            rng: Rng::new(config.seed, 3),
            nature: Rng::new(config.seed, 4),
            gaps: Vec::new(),
            reactions: Vec::new(),
            checks: Checks::new(&config),
            record: Record::default(),
            digest: 0,
            events: 0,
            inputs: 0,
            journal: None,
            trace,
            config,
        }
    }

    fn begin(&mut self) {
        let rooms = self.rooms();
        for service in 0..self.config.services {
            let capacity = if self.config.starts_on_spot { Capacity::Spot } else { Capacity::OnDemand };
            let target = self.accounts[service].target;
            self.cloud.pairs[service].side(capacity).desired = target;
            if self.config.follows {
                self.cloud.pairs[service].spot.desired = target;
            }
            for task in 0..target {
                let first = usize::try_from(task).unwrap_or(0) % rooms.len();
                let zone = (0..rooms.len())
                    .map(|offset| (first + offset) % rooms.len())
                    .find(|zone| self.cloud.used[*zone] < rooms[*zone]);
                match capacity {
                    Capacity::OnDemand => self.cloud.seed_task(service, capacity, None),
                    Capacity::Spot if zone.is_some() => self.cloud.seed_task(service, capacity, zone),
                    Capacity::Spot => break,
                };
            }
            self.accounts[service].serving = self.cloud.pairs[service].serving();
            self.place_soon(service, Capacity::Spot);
            if self.config.follows {
                self.push(Timestamp(3_600_000), Event::Autoscale { service });
            }
        }
        for tick in 1..self.trace.ticks() {
            if self.trace.zones.iter().any(|zone| zone.capacity[tick] < zone.capacity[tick - 1]) {
                let at = self.trace.starts(tick).before(self.config.notice).max(Timestamp(0));
                self.push(at, Event::Reclaim { tick });
            }
        }
    }

    fn push(&mut self, at: Timestamp, event: Event) {
        self.number += 1;
        let at = at.max(self.now);
        self.heap.push(Reverse(Item { at, number: self.number, event }));
    }

    /// Folds something that happened into the digest.
    fn mark(&mut self, kind: u64, a: u64, b: u64) {
        for part in [self.now.0.unsigned_abs(), kind, a, b] {
            self.digest = (self.digest ^ part).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ready { service, capacity, key } => self.ready(service, capacity, key),
            Event::Die { service, key } => self.die(service, key),
            Event::GiveUp { service, key } => self.give_up(service, key),
            Event::Place { service, capacity } => self.place(service, capacity),
            Event::Reclaim { tick } => self.reclaim(tick),
            Event::Autoscale { service } => self.autoscale(service),
            Event::Deliver { service } => self.deliver(service),
            Event::Shell(due) => self.shell(due),
            Event::Land { service, order } => self.apply(service, order, true),
            Event::Watch => self.watch(),
        }
    }

    /// Brings the sums of a service up to now, and notes what serves from now on.
    fn settle(&mut self, service: usize) {
        let serving = self.cloud.pairs[service].serving();
        let account = &mut self.accounts[service];
        let (spot, on_demand) = account.serving;
        account.tally.pass(account.since, self.now, spot + on_demand, account.target);
        if self.config.record && service == 0 {
            self.record.line(account.since, spot, on_demand, account.target);
        }
        account.since = self.now;
        account.serving = serving;
        // A task that becomes ready makes up for the one that has been missing longest.
        let missing = account.target.saturating_sub(serving.0 + serving.1);
        let filled = account.open.len().saturating_sub(usize::try_from(missing).unwrap_or(usize::MAX));
        let now = self.now;
        self.gaps.extend(account.open.drain(..filled).map(|began| now.since(began)));
        if account.open.is_empty() {
            account.unanswered.clear();
        }
    }

    fn ready(&mut self, service: usize, capacity: Capacity, key: u64) {
        let side = self.cloud.pairs[service].side(capacity);
        let Some(task) = side.find(key) else { return };
        if task.is_warned {
            return;
        }
        task.is_ready = true;
        side.failures = 0;
        self.mark(1, service as u64, key);
        self.settle(service);
        self.tell(service, capacity, Happening::Ready { task: key });
    }

    /// Decides who is reclaimed at `tick`; those whose reclaim is announced are warned now.
    fn reclaim(&mut self, tick: usize) {
        let at = self.trace.starts(tick);
        for zone in 0..self.trace.zones.len() {
            let capacity = self.trace.zones[zone].capacity[tick];
            for (service, key) in self.cloud.doom(zone, capacity) {
                let is_announced =
                    self.config.notice > Millis::ZERO && self.nature.chance(self.config.announced);
                self.doom(service, key, at, is_announced);
            }
        }
    }

    /// The reclaim of a task at `at` is certain from now on.
    fn doom(&mut self, service: usize, key: u64, at: Timestamp, is_announced: bool) {
        self.mark(2, service as u64, key);
        if !is_announced {
            self.push(at, Event::Die { service, key });
            return;
        }
        if let Some(task) = self.cloud.pairs[service].spot.find(key) {
            task.is_warned = true;
        }
        // From the notice on nobody counts on it, though it still serves.
        self.accounts[service].losses.push(self.now);
        self.tell(service, Capacity::Spot, Happening::Warned { task: key });
        let serves = self.config.notice.min(self.config.stop_timeout);
        self.push(self.now + serves, Event::Die { service, key });
        self.place_soon(service, Capacity::Spot);
    }

    fn die(&mut self, service: usize, key: u64) {
        let Some(task) = self.remove(service, Capacity::Spot, key) else { return };
        self.mark(3, service as u64, key);
        let account = &mut self.accounts[service];
        account.tally.interruptions += 1;
        // Who was warned is no loss of this moment: it has not counted since the notice.
        if !task.is_warned {
            account.losses.push(self.now);
        }
        if account.serving.0 + account.serving.1 < account.target {
            account.open.push(self.now);
            if !task.is_warned {
                account.unanswered.push(self.now);
            }
        } else {
            self.gaps.push(Millis::ZERO);
            if !task.is_warned {
                self.reactions.push(Millis::ZERO);
            }
        }
        self.tell(service, Capacity::Spot, Happening::Stopped { task: task.key, is_interruption: true });
        self.place_soon(service, Capacity::Spot);
    }

    /// A task that sat in PENDING without capacity fails.
    fn give_up(&mut self, service: usize, key: u64) {
        if self.remove(service, Capacity::Spot, key).is_some() {
            self.mark(4, service as u64, key);
            self.tell(service, Capacity::Spot, Happening::Stopped { task: key, is_interruption: false });
            self.place_soon(service, Capacity::Spot);
        }
    }

    /// Removes a task, bills it, and settles its service.
    fn remove(&mut self, service: usize, capacity: Capacity, key: u64) -> Option<Task> {
        let task = self.cloud.remove(service, capacity, key)?;
        self.bill(service, capacity, &task);
        self.settle(service);
        Some(task)
    }

    fn bill(&mut self, service: usize, capacity: Capacity, task: &Task) {
        if task.is_stuck {
            return;
        }
        let span = u128::from(self.now.since(task.created_at).max(BILLED_MIN).0);
        match capacity {
            Capacity::Spot => self.accounts[service].tally.spot_ms += span,
            Capacity::OnDemand => self.accounts[service].tally.on_demand_ms += span,
        }
    }

    /// ECS notices within seconds that a count is not what is desired.
    fn place_soon(&mut self, service: usize, capacity: Capacity) {
        let wait = Millis(self.nature.between(1_000, 5_000));
        self.place_at(service, capacity, self.now + wait);
    }

    fn place_at(&mut self, service: usize, capacity: Capacity, at: Timestamp) {
        let side = self.cloud.pairs[service].side(capacity);
        if side.place_at.is_none_or(|known| known > at || known < self.now) {
            side.place_at = Some(at);
            self.push(at, Event::Place { service, capacity });
        }
    }

    /// One round of the service scheduler.
    fn place(&mut self, service: usize, capacity: Capacity) {
        let side = self.cloud.pairs[service].side(capacity);
        if side.place_at != Some(self.now) {
            return;
        }
        side.place_at = None;
        let missing = side.desired.saturating_sub(side.counted());
        if missing > 0 && side.retry_at > self.now {
            let at = side.retry_at;
            self.place_at(service, capacity, at);
            return;
        }
        let rooms = self.rooms();
        for _ in 0..missing {
            let allowed = self.cloud.may_launch_at(capacity);
            if allowed > self.now {
                self.place_at(service, capacity, allowed);
                return;
            }
            let placed = self.cloud.place(self.now, (service, capacity), &rooms, &self.config);
            let at = match placed {
                Placed::Starts { key, ready_at } => {
                    self.mark(5, service as u64, key);
                    self.answered(service);
                    if capacity == Capacity::OnDemand {
                        self.accounts[service].tally.on_demand_launches += 1;
                    }
                    self.push(ready_at, Event::Ready { service, capacity, key });
                    self.note_placed(service, capacity, key, Some(ready_at));
                    continue;
                }
                Placed::Stuck { key, fails_at } => {
                    self.note_placed(service, capacity, key, None);
                    self.push(fails_at, Event::GiveUp { service, key });
                    self.cloud.pairs[service].side(capacity).retry_at
                }
                Placed::Refused => {
                    let event = self.rng.next();
                    self.tell(service, capacity, Happening::Refused { event });
                    self.cloud.pairs[service].side(capacity).retry_at
                }
            };
            self.place_at(service, capacity, at);
            return;
        }
        if missing == 0 && self.nature.chance(300) {
            self.tell(service, capacity, Happening::Steady);
        }
    }

    /// A task was placed: it replaces the one that has been waiting longest.
    fn answered(&mut self, service: usize) {
        let account = &mut self.accounts[service];
        if !account.unanswered.is_empty() {
            self.reactions.push(self.now.since(account.unanswered.remove(0)));
        }
    }

    /// What each zone gives: one that is about to be reclaimed refuses.
    fn rooms(&self) -> Vec<u32> {
        let tick_of = |at: Timestamp| {
            let tick = at.0.unsigned_abs() / self.trace.gap.0;
            usize::try_from(tick).unwrap_or(usize::MAX).min(self.trace.ticks() - 1)
        };
        let ticks = tick_of(self.now)..=tick_of(self.now + self.config.notice);
        let least =
            |zone: &crate::trace::Zone| zone.capacity[ticks.clone()].iter().copied().min().unwrap_or(0);
        self.trace.zones.iter().map(least).collect()
    }

    /// An autoscaler changes the Spot service's desired count, at most once an hour and only while Spot runs.
    fn autoscale(&mut self, service: usize) {
        let is_calm = self.stored[service].state.as_ref().is_some_and(|state| {
            state.split.on_demand == 0 && state.phase == lifeboat_core::failover::phase::Phase::Spot
        });
        if is_calm && self.now < self.config.faults.until {
            let most = u64::from(self.config.target) * 2;
            let target = u32::try_from(self.nature.between(1, most.max(1))).unwrap_or(1);
            self.mark(6, service as u64, u64::from(target));
            self.settle(service);
            let before = self.accounts[service].target;
            self.accounts[service].targets.push((self.now, before));
            self.accounts[service].target = target;
            self.set_desired(service, Capacity::Spot, target);
        }
        self.push(self.now + Millis::from_secs(1800), Event::Autoscale { service });
    }

    /// An order reaches ECS.
    fn apply(&mut self, service: usize, order: Order, is_late: bool) {
        self.mark(7, service as u64, u64::from(order.count));
        self.accounts[service].tally.requests += 1;
        let before = self.accounts[service].serving;
        let was = self.cloud.pairs[service].side(order.capacity).desired;
        let stopped = self.set_desired(service, order.capacity, order.count);
        if is_late {
            // ECS cannot fence: what lands late is nobody's decision of that moment, and is only put right after.
            let losses = (0..stopped.max(was.abs_diff(order.count))).map(|_| self.now);
            self.accounts[service].losses.extend(losses);
        } else if stopped > 0 {
            self.check_floor(service, &order, before);
        }
    }

    /// Returns how many ready tasks were stopped.
    fn set_desired(&mut self, service: usize, capacity: Capacity, desired: u32) -> u32 {
        self.cloud.pairs[service].side(capacity).desired = desired;
        let mut stopped = 0;
        while self.cloud.pairs[service].side(capacity).counted() > desired {
            let Some(key) = self.cloud.surplus(service, capacity) else { break };
            let Some(task) = self.remove(service, capacity, key) else { break };
            stopped += u32::from(task.is_ready);
            self.tell(service, capacity, Happening::Stopped { task: key, is_interruption: false });
        }
        self.place_soon(service, capacity);
        stopped
    }

    /// EventBridge tells the queue, late, twice or never.
    fn tell(&mut self, service: usize, capacity: Capacity, what: Happening) {
        let event = Told { at: self.now, capacity, what };
        self.checks.told(service, &event);
        let arrivals = self.arrivals();
        if let Some(journal) = &mut self.journal {
            journal.push(Moment::Told { service, event, arrivals });
            return;
        }
        if arrivals.is_empty() {
            return;
        }
        for at in arrivals {
            self.queues[service].send(at, event);
        }
        self.deliver_soon(service);
    }

    /// When the copies of an event of this moment arrive; none where it is lost.
    fn arrivals(&mut self) -> Vec<Timestamp> {
        let faults = &self.config.faults;
        let is_faulty = self.now < faults.until;
        if is_faulty && self.rng.chance(faults.lost) {
            return Vec::new();
        }
        let copies = 1 + u32::from(is_faulty && self.rng.chance(faults.doubled));
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            let wait = if is_faulty && self.rng.chance(faults.late) {
                self.rng.between(5_000, 600_000)
            } else {
                self.rng.between(300, 3_000)
            };
            arrivals.push(self.now + Millis(wait));
        }
        arrivals
    }

    fn deliver_soon(&mut self, service: usize) {
        let Some(at) = self.queues[service].next_at() else { return };
        let at = at.max(self.now + Millis(20));
        let known = &mut self.accounts[service].deliver_at;
        if known.is_none_or(|known| known > at) {
            *known = Some(at);
            self.push(at, Event::Deliver { service });
        }
    }

    fn finish(mut self) -> Outcome {
        self.now = self.trace.end();
        self.check_end();
        let mut total = Tally::default();
        for service in 0..self.config.services {
            self.settle(service);
            let pair = std::mem::take(&mut self.cloud.pairs[service]);
            for task in &pair.spot.tasks {
                self.bill(service, Capacity::Spot, task);
            }
            for task in &pair.on_demand.tasks {
                self.bill(service, Capacity::OnDemand, task);
            }
            let account = &mut self.accounts[service];
            account.tally.close(self.now);
            total.add(&account.tally);
            self.gaps.extend(account.open.drain(..).map(|began| self.now.since(began)));
        }
        self.record.end(self.now);
        self.gaps.sort_unstable();
        self.reactions.sort_unstable();
        Outcome {
            tally: total,
            gaps: self.gaps,
            reactions: self.reactions,
            violations: self.checks.violations,
            record: self.record,
            digest: self.digest,
            events: self.events,
            inputs: self.inputs,
        }
    }
}

//! Everything that the lab holds, and how it moves on: ECS from the simulator, EventBridge and SQS around it, and a
//! record of what was asked and what happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lifeboat_core::failover::event::Happening;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::time::{Millis, Timestamp};
use serde_json::Value;

use super::clock::{Clock, Stamps};
use super::events;
use super::failures::Failures;
use super::names::{Names, service_of};
use super::queue::Queue;
use super::record::Records;
use super::scenario::{LabScenario, Step};
use super::task::{Status, Stop, Task};
use crate::ecs::{Live, Moment};
use crate::scenario::ScenarioError;

/// Source: DescribeTasks shows stopped tasks for at least one hour; read 2026-11.
const STOPPED_SHOWN: Millis = Millis::from_secs(3_600);

/// Source: DescribeServices shows the last 100 events of a service; read 2026-11.
const MESSAGES_MAX: usize = 100;

/// How old a stale answer may be, and how many answers are kept for it.
const STALE_MAX: Millis = Millis::from_secs(6);
const LOOKS_MAX: usize = 1_000;

/// One ECS service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) pair: usize,
    pub(crate) capacity: Capacity,
    /// All its tasks, those that stopped within the hour too.
    pub(crate) tasks: BTreeSet<u64>,
    /// What DescribeServices tells of it, newest first: stamp and message.
    pub(crate) messages: VecDeque<(u64, i64, String)>,
    pub(crate) tags: BTreeMap<String, String>,
    /// It was deleted.
    pub(crate) is_inactive: bool,
    /// A deployment is in progress.
    pub(crate) deploys: bool,
    steady_at: Option<Timestamp>,
}

/// An event on its way to the queue.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) id: String,
    pub(crate) body: String,
}

/// The lab.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) live: Live,
    pub(crate) clock: Clock,
    /// The wall's time at the last look, in milliseconds since 1970.
    pub(crate) wall: i64,
    pub(crate) names: Names,
    pub(crate) pairs: Vec<String>,
    pub(crate) services: Vec<Service>,
    pub(crate) by_name: BTreeMap<String, usize>,
    pub(crate) tasks: BTreeMap<u64, Task>,
    stopped: VecDeque<(Timestamp, u64)>,
    pub(crate) queue_name: String,
    pub(crate) queues: BTreeMap<String, Queue>,
    pub(crate) failures: Failures,
    pub(crate) records: Records,
    bus: BTreeMap<(Timestamp, u64), Parcel>,
    statuses: BTreeMap<(Timestamp, u64), (u64, Status)>,
    steps: VecDeque<(Timestamp, Step)>,
    late: BTreeMap<(Timestamp, u64), (usize, u32)>,
    looks: BTreeMap<String, (Timestamp, Value)>,
    silent: u32,
    steady_every: Millis,
    next_steady: Timestamp,
    number: u64,
}

impl Lab {
    /// A lab at its beginning.
    pub(crate) fn new(
        scenario: &LabScenario,
        wall: i64,
        speed: u32,
        stamps: Stamps,
    ) -> Result<Self, ScenarioError> {
        scenario.check()?;
        let targets: Vec<u32> = scenario.services.iter().map(|pair| pair.tasks).collect();
        let world = scenario.world();
        let silent = world.faults.silent;
        let live = Live::new(scenario.capacity()?, world, &targets);
        let dead = format!("{}-dead", scenario.queue);
        let queues = BTreeMap::from([
            (scenario.queue.clone(), Queue::new(30, Some((dead.clone(), scenario.receives_max)))),
            (dead, Queue::new(30, None)),
        ]);
        let at =
            |step: &Step| Timestamp(step.at.map_or(0, |span| i64::try_from(span.0.0).unwrap_or(i64::MAX)));
        let mut steps: Vec<(Timestamp, Step)> =
            scenario.steps.iter().map(|step| (at(step), step.clone())).collect();
        steps.sort_by_key(|(at, _)| *at);
        let mut lab = Self {
            live,
            clock: Clock::new(wall, speed, stamps),
            wall,
            names: Names {
                region: scenario.region.clone(),
                account: scenario.account.clone(),
                cluster: scenario.cluster.clone(),
                seed: scenario.seed,
            },
            pairs: scenario.services.iter().map(|pair| pair.name.clone()).collect(),
            services: Vec::new(),
            by_name: BTreeMap::new(),
            tasks: BTreeMap::new(),
            stopped: VecDeque::new(),
            queue_name: scenario.queue.clone(),
            queues,
            failures: Failures::default(),
            records: Records::new(targets.len()),
            bus: BTreeMap::new(),
            statuses: BTreeMap::new(),
            steps: steps.into(),
            late: BTreeMap::new(),
            looks: BTreeMap::new(),
            silent,
            steady_every: scenario.steady_every.0.max(Millis::from_secs(1)),
            next_steady: Timestamp(0) + scenario.steady_every.0,
            number: 0,
        };
        (0..lab.pairs.len()).for_each(|pair| lab.enroll(pair));
        Ok(lab)
    }

    /// Takes a pair and the tasks that it has already into the books.
    fn enroll(&mut self, pair: usize) {
        for capacity in [Capacity::Spot, Capacity::OnDemand] {
            let name = service_of(&self.pairs[pair], capacity);
            let running: Vec<(u64, bool, Option<usize>)> = self.live.tasks(pair, capacity).collect();
            let index = self.services.len();
            self.by_name.insert(name.clone(), index);
            self.services.push(Service {
                name,
                pair,
                capacity,
                tasks: running.iter().map(|(key, _, _)| *key).collect(),
                messages: VecDeque::new(),
                tags: BTreeMap::new(),
                is_inactive: false,
                deploys: false,
                steady_at: None,
            });
            let stamp = self.clock.stamp(Timestamp(0));
            for (key, _, zone) in running {
                self.tasks.insert(key, Task::running(index, zone, stamp));
            }
        }
        self.sample(pair);
    }

    /// The world's time.
    pub(crate) const fn now(&self) -> Timestamp {
        self.live.now()
    }

    /// The time by which the clients of the queue measure, in milliseconds since 1970.
    pub(crate) fn client_now(&self) -> i64 {
        self.clock.client(self.wall)
    }

    /// Lets everything happen that is due at this moment of the wall.
    pub(crate) fn catch_up(&mut self, wall: i64) {
        self.wall = self.wall.max(wall);
        let to = self.clock.world(self.wall);
        // Bounded: each round takes one thing that is due, and what happens later lies beyond `to` in the end.
        while let Some(at) = self.next_at().filter(|at| *at <= to) {
            self.happen(at);
        }
        let moments = self.live.advance(to);
        self.book(moments, None);
    }

    /// Moves the world on by hand.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.clock.advance(self.wall, ms);
        self.catch_up(self.wall);
    }

    /// When the next thing happens in the world.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        let first = |at: Option<&(Timestamp, u64)>| at.map(|(at, _)| *at);
        [
            self.live.next_at(),
            first(self.bus.keys().next()),
            first(self.statuses.keys().next()),
            first(self.late.keys().next()),
            self.steps.front().map(|(at, _)| *at),
            Some(self.next_steady),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn happen(&mut self, at: Timestamp) {
        let moments = self.live.advance(at);
        self.book(moments, None);
        while let Some(entry) = self.statuses.first_entry().filter(|entry| entry.key().0 <= at) {
            let (key, status) = entry.remove();
            self.pass(key, status);
        }
        while let Some(entry) = self.late.first_entry().filter(|entry| entry.key().0 <= at) {
            let (service, count) = entry.remove();
            self.set_desired(service, count);
        }
        while self.steps.front().is_some_and(|(due, _)| *due <= at) {
            if let Some((_, step)) = self.steps.pop_front() {
                self.play(&step);
            }
        }
        if self.next_steady <= at {
            self.next_steady = at + self.steady_every;
            (0..self.services.len()).for_each(|index| self.say_steady(index));
        }
        while let Some(entry) = self.bus.first_entry().filter(|entry| entry.key().0 <= at) {
            let parcel = entry.remove();
            self.deliver(parcel);
        }
    }

    fn play(&mut self, step: &Step) {
        if let Some(total) = step.spot_capacity {
            self.set_spot_capacity(total, None);
        }
        if let Some(count) = step.interrupt {
            let service = step.service.as_ref().and_then(|name| self.pair(name));
            self.interrupt(service, count, true);
        }
        if let Some(quota) = step.on_demand_quota {
            self.live.set_on_demand_quota(quota);
            self.records.note(self.now(), "quota", format!("On-Demand quota is {quota} tasks"));
        }
    }

    pub(crate) fn pair(&self, name: &str) -> Option<usize> {
        self.pairs.iter().position(|pair| pair == name)
    }

    /// Both services of a pair follow each other.
    pub(crate) const fn index_of(pair: usize, capacity: Capacity) -> usize {
        match capacity {
            Capacity::Spot => pair * 2,
            Capacity::OnDemand => pair * 2 + 1,
        }
    }

    pub(crate) fn set_spot_capacity(&mut self, total: u32, until: Option<Timestamp>) {
        let moments = self.live.set_spot_capacity(total, until);
        self.records.note(self.now(), "capacity", format!("Spot has room for {total} tasks"));
        self.book(moments, None);
    }

    pub(crate) fn interrupt(&mut self, pair: Option<usize>, count: u32, is_announced: bool) -> u32 {
        let (taken, moments) = self.live.interrupt(pair, count, is_announced);
        let how = if is_announced { "with notice" } else { "without notice" };
        self.records.note(self.now(), "interruption", format!("{taken} Spot tasks are interrupted {how}"));
        self.book(moments, None);
        taken
    }

    /// Sets a desired count, whoever asks.
    pub(crate) fn set_desired(&mut self, index: usize, count: u32) {
        let (pair, capacity) = (self.services[index].pair, self.services[index].capacity);
        let moments = self.live.set_desired(pair, capacity, count);
        let name = self.services[index].name.clone();
        self.records.note(self.now(), "desired", format!("{name} is to run {count}"));
        let deployment = self.deployment(index);
        self.book(moments, Some(Stop::Scaled { deployment }));
        self.sample(pair);
    }

    /// The call answers with an error and takes effect later.
    pub(crate) fn set_desired_later(&mut self, index: usize, count: u32, after: Millis) {
        let number = self.number();
        self.late.insert((self.now() + after, number), (index, count));
    }

    /// The id of a service's deployment.
    pub(crate) fn deployment(&self, index: usize) -> String {
        format!("ecs-svc/{:019}", 1_000_000_000_000_000_000_u64 + index as u64)
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Takes what ECS did into the books, and tells EventBridge.
    fn book(&mut self, moments: Vec<Moment>, scaled: Option<Stop>) {
        let mut touched = BTreeSet::new();
        for moment in moments {
            match moment {
                Moment::Placed { at, service, capacity, task, ready_at } => {
                    touched.insert(service);
                    self.placed(at, Self::index_of(service, capacity), task, ready_at);
                }
                Moment::Told { service, event, arrivals } => {
                    touched.insert(service);
                    let index = Self::index_of(service, event.capacity);
                    self.told(index, event.at, event.what, (arrivals, scaled.as_ref()));
                }
            }
        }
        touched.into_iter().for_each(|pair| self.sample(pair));
    }

    fn placed(&mut self, at: Timestamp, index: usize, key: u64, ready_at: Option<Timestamp>) {
        let (pair, capacity) = (self.services[index].pair, self.services[index].capacity);
        let zone = self.live.tasks(pair, capacity).find(|(other, _, _)| *other == key);
        let zone = zone.and_then(|(_, _, zone)| zone);
        self.tasks.insert(key, Task::placed(index, zone, self.clock.stamp(at)));
        self.services[index].tasks.insert(key);
        // Assumed: a tenth of the start in PROVISIONING, the last seventh in ACTIVATING.
        let span = ready_at.map_or(Millis::from_secs(50), |ready| ready.since(at));
        let number = self.number();
        self.statuses.insert((at + Millis(span.0 / 10), number), (key, Status::Pending));
        if ready_at.is_some() {
            let number = self.number();
            self.statuses.insert((at + Millis(span.0 / 7 * 6), number), (key, Status::Activating));
        }
        let arrivals = self.live.arrivals();
        self.tell_task(key, at, arrivals);
    }

    /// A task reaches a status on its way to RUNNING.
    fn pass(&mut self, key: u64, status: Status) {
        let Some(task) = self.tasks.get_mut(&key) else { return };
        if task.status >= status {
            return;
        }
        task.status = status;
        task.version += 1;
        let at = self.now();
        let arrivals = self.live.arrivals();
        self.tell_task(key, at, arrivals);
    }

    fn told(
        &mut self,
        index: usize,
        at: Timestamp,
        what: Happening,
        (arrivals, scaled): (Vec<Timestamp>, Option<&Stop>),
    ) {
        let stamp = self.clock.stamp(at);
        match what {
            Happening::Ready { task } => {
                if let Some(found) = self.tasks.get_mut(&task) {
                    found.run(stamp);
                }
                self.tell_task(task, at, arrivals);
                self.notice_steady(index);
            }
            Happening::Warned { task } => {
                if let Some(found) = self.tasks.get_mut(&task) {
                    found.warn(stamp);
                }
                self.tell_task(task, at, arrivals);
                self.say(
                    index,
                    at,
                    format!("has stopped 1 running tasks: (task {}).", self.names.task_id(task)),
                );
            }
            Happening::Stopped { task, is_interruption } => {
                let why = match scaled {
                    Some(stop) => stop.clone(),
                    None if is_interruption => Stop::Interrupted,
                    None => Stop::NoCapacity,
                };
                if let Some(found) = self.tasks.get_mut(&task) {
                    found.stop(stamp, why);
                    self.stopped.push_back((at, task));
                }
                self.tell_task(task, at, arrivals);
                self.forget_old(at);
            }
            Happening::Refused { event } => {
                let reason = "Capacity is unavailable at this time. Please try again later or in a different \
                              availability zone";
                self.say(index, at, format!("was unable to place a task. Reason: {reason}."));
                let body = events::placement_failure(self, index, stamp, event);
                self.send(at, "SERVICE_TASK_PLACEMENT_FAILURE", Some(index), (body, arrivals));
            }
            // The lab says by itself which services are steady.
            Happening::Steady => {}
        }
    }

    /// Tasks that stopped an hour ago are not shown any more.
    fn forget_old(&mut self, now: Timestamp) {
        while let Some((_, key)) = self.stopped.front().filter(|(at, _)| now.since(*at) > STOPPED_SHOWN) {
            if let Some(task) = self.tasks.remove(key) {
                self.services[task.service].tasks.remove(key);
            }
            self.stopped.pop_front();
        }
    }

    fn tell_task(&mut self, key: u64, at: Timestamp, arrivals: Vec<Timestamp>) {
        let Some(task) = self.tasks.get(&key) else { return };
        let (index, stamp) = (task.service, self.clock.stamp(at));
        let what = task.label();
        let high = self.live.draw();
        let body = events::task_change(self, key, stamp, high);
        self.send(at, what, Some(index), (body, arrivals));
    }

    fn notice_steady(&mut self, index: usize) {
        let is_steady = self.is_steady(index);
        if is_steady && self.services[index].steady_at.is_none() {
            self.say_steady(index);
        }
    }

    fn is_steady(&self, index: usize) -> bool {
        let service = &self.services[index];
        let figures = self.live.figures(service.pair);
        !service.is_inactive
            && match service.capacity {
                Capacity::Spot => figures.spot_ready == figures.spot_desired,
                Capacity::OnDemand => figures.on_demand_ready == figures.on_demand_desired,
            }
    }

    fn say_steady(&mut self, index: usize) {
        if !self.is_steady(index) {
            self.services[index].steady_at = None;
            return;
        }
        let at = self.now();
        self.services[index].steady_at = Some(at);
        self.say(index, at, "has reached a steady state.".to_owned());
        let id = self.live.draw();
        let body = events::steady_state(self, index, self.clock.stamp(at), id);
        let arrivals = self.live.arrivals();
        self.send(at, "SERVICE_STEADY_STATE", Some(index), (body, arrivals));
    }

    fn say(&mut self, index: usize, at: Timestamp, what: String) {
        let id = self.number();
        let stamp = self.clock.stamp(at);
        let service = &mut self.services[index];
        service.messages.push_front((id, stamp, format!("(service {}) {what}", service.name)));
        service.messages.truncate(MESSAGES_MAX);
    }

    /// EventBridge takes an event; each copy reaches the queue when it arrives.
    pub(crate) fn send(
        &mut self,
        at: Timestamp,
        what: &'static str,
        service: Option<usize>,
        (body, arrivals): (Value, Vec<Timestamp>),
    ) {
        let name = service.map(|index| self.services[index].name.clone());
        self.records.event(at, what, name, &arrivals);
        let id = body["id"].as_str().unwrap_or_default().to_owned();
        let text = body.to_string();
        for arrival in arrivals {
            let number = self.number();
            self.bus.insert((arrival, number), Parcel { id: id.clone(), body: text.clone() });
        }
    }

    fn deliver(&mut self, parcel: Parcel) {
        let (now, name) = (self.client_now(), self.queue_name.clone());
        let id = super::names::uuid(self.live.draw(), self.live.draw());
        if let Some(queue) = self.queues.get_mut(&name)
            && !queue.send(id, parcel.body, now)
        {
            self.records.note(self.live.now(), "lost", format!("event {}: the queue is full", parcel.id));
        }
    }

    /// Puts a body into the queue as it is.
    pub(crate) fn send_raw(&mut self, body: String) -> bool {
        let (now, name) = (self.client_now(), self.queue_name.clone());
        let id = super::names::uuid(self.live.draw(), self.live.draw());
        self.queues.get_mut(&name).is_some_and(|queue| queue.send(id, body, now))
    }

    /// Sets what goes wrong from now on.
    pub(crate) fn set_faults(&mut self, shares: &super::scenario::FaultShares) {
        let mut faults = shares.of_world(self.silent);
        if shares.until.is_some() {
            faults.until = self.now() + Millis(faults.until.0.unsigned_abs());
        }
        self.live.set_faults(faults);
    }

    /// After how much of the wall's time something happens that nobody asks for.
    pub(crate) fn wake_after(&self) -> Option<u64> {
        let world = self.next_at().and_then(|at| self.clock.wall_until(self.wall, at));
        let shown = self.queues.values().filter_map(Queue::next_at).min();
        let shown = shown.map(|at| at.saturating_sub(self.client_now()).max(0).unsigned_abs());
        let shown = match self.clock.stamps() {
            Stamps::Wall => shown,
            Stamps::World => shown.map(|ms| ms / u64::from(self.clock.speed().max(1))),
        };
        world.into_iter().chain(shown).min()
    }

    /// What a call showed up to 6 s ago.
    pub(crate) fn old_look(&self, key: &str) -> Option<Value> {
        let now = self.now();
        let (at, value) = self.looks.get(key)?;
        (now.since(*at) <= STALE_MAX).then(|| value.clone())
    }

    /// Keeps what a call showed, for one that shall show something old.
    pub(crate) fn keep_look(&mut self, key: String, value: Value) {
        if self.looks.len() >= LOOKS_MAX {
            self.looks.clear();
        }
        self.looks.insert(key, (self.now(), value));
    }

    pub(crate) fn zone_name(&self, zone: Option<usize>) -> String {
        // On-Demand tasks have no zone in the world: they are in the first.
        self.live.zone_name(zone.unwrap_or(0)).to_owned()
    }

    /// A new pair without tasks; the error says why there cannot be one.
    pub(crate) fn add_pair(&mut self, name: &str) -> Result<usize, String> {
        super::scenario::check_name(name)?;
        let pair = self.live.add_pair();
        self.pairs.push(name.to_owned());
        self.records.samples.push(VecDeque::new());
        self.enroll(pair);
        Ok(pair)
    }

    /// Notes where a pair stands, for the time lines.
    pub(crate) fn sample(&mut self, pair: usize) {
        let figures = self.live.figures(pair);
        self.records.sample(pair, self.live.now(), figures);
    }
}

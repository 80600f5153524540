//! The worker of one service: gives its machine inputs and carries out what it wants, in order.
//!
//! Loads, commits, orders and acknowledgements are carried out one after the other, as the simulated controller does.
//! A look runs beside them, so that an event need not wait for it; one that may show what was before an order is
//! thrown away and taken anew.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::failover::machine::{Effect, Input, Machine, Order, RECEIPTS_MAX, Receipt};
use lifeboat_core::failover::observation::{Capacity, Observation};
use lifeboat_core::failover::state::State;
use lifeboat_core::time::{Millis, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use crate::alert::{AlertQueue, of_change};
use crate::call::within;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::crash;
use crate::directory::Mail;
use crate::discover::Pair;
use crate::inbox::Entry;
use crate::key::key;
use crate::observe::Look;
use crate::port::Ecs;
use crate::snapshot::Snapshot;
use crate::store::{Commit, Committed, Store, StoreError};

/// One call of the store or of ECS, in real time; far below the machine's patience of 30 s.
const CALL_MAX: Duration = Duration::from_secs(5);

/// A look, in real time: it may wait for others and be tried anew.
const LOOK_MAX: Duration = Duration::from_secs(20);

/// What every worker uses.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ecs: Arc<dyn Ecs>,
    pub(crate) ledger: mpsc::Sender<Entry>,
    pub(crate) alerts: AlertQueue,
    pub(crate) counters: Arc<Counters>,
    /// Decides and records, acts on nothing.
    pub(crate) is_dry_run: bool,
}

type Doing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One service's worker.
pub(crate) struct Worker {
    pair: Arc<Pair>,
    world: Arc<World>,
    looks: mpsc::Sender<Look>,
    machine: Machine,
    snapshot: watch::Sender<Snapshot>,
    effects: VecDeque<Effect>,
    doing: Option<Doing<Option<Input>>>,
    /// What is carried out right now is an order.
    is_ordering: bool,
    looking: Option<Doing<Option<Observation>>>,
    /// A look waits until the orders before it are through.
    wants_look: bool,
    ordered_at: Timestamp,
    wake_at: Timestamp,
    /// What the machine has taken and not acknowledged.
    receipts: BTreeSet<Receipt>,
}

impl Worker {
    pub(crate) fn new(
        pair: Arc<Pair>,
        world: Arc<World>,
        looks: mpsc::Sender<Look>,
        snapshot: watch::Sender<Snapshot>,
    ) -> Self {
        let machine = Machine::new(pair.terms.rules, pair.terms.target, key(&pair.name));
        Self {
            pair,
            world,
            looks,
            machine,
            snapshot,
            effects: VecDeque::new(),
            doing: None,
            is_ordering: false,
            looking: None,
            wants_look: false,
            ordered_at: Timestamp(i64::MIN),
            wake_at: Timestamp(i64::MIN),
            receipts: BTreeSet::new(),
        }
    }

    /// Works until nobody writes to it any more: the service is no longer managed, or the program ends. Stopping it at
    /// any moment is a crash, which is safe.
    pub(crate) async fn run(mut self, mut mail: mpsc::Receiver<Mail>) {
        self.input(Input::Woke);
        loop {
            let wake = tokio::time::sleep_until(self.world.clock.instant(self.wake_at));
            tokio::select! {
                biased;
                answer = doing(&mut self.doing) => {
                    self.doing = None;
                    if std::mem::take(&mut self.is_ordering) {
                        self.ordered_at = self.world.clock.now();
                    }
                    match answer {
                        Some(input) => self.input(input),
                        None => self.proceed(),
                    }
                }
                look = doing(&mut self.looking) => {
                    self.looking = None;
                    self.looked(look);
                }
                letter = mail.recv() => match letter {
                    Some(letter) => self.read(letter),
                    None => return self.let_all_go(),
                },
                () = wake => self.input(Input::Woke),
            }
        }
    }

    fn read(&mut self, letter: Mail) {
        match letter {
            Mail::Events { receipt, events } => {
                let is_taken = self.receipts.len() < RECEIPTS_MAX;
                if is_taken {
                    self.receipts.insert(receipt);
                }
                // One that is not taken still tells which tasks are lost.
                self.input(Input::Events { receipt, events });
                if !is_taken {
                    self.let_go(receipt);
                }
            }
            Mail::Seen(observation) => {
                if !self.has_orders() && observation.at > self.ordered_at && self.machine.state().is_some() {
                    self.input(Input::Observed(observation));
                }
            }
            Mail::Stored { generation } => {
                let ours = self.machine.state().map(|state| state.generation);
                let is_idle = self.doing.is_none() && self.effects.is_empty();
                if is_idle && ours.is_some_and(|ours| ours < generation) {
                    self.input(Input::Fenced);
                }
            }
        }
    }

    /// Its messages come again as soon as they are visible, not when the ledger loses patience: by then the window
    /// would be over.
    fn let_go(&self, receipt: Receipt) {
        let _ = self.world.ledger.try_send(Entry::LetGo(receipt)); // the ledger's patience ends in any case
    }

    fn let_all_go(&self) {
        for receipt in &self.receipts {
            self.let_go(*receipt);
        }
    }

    fn has_orders(&self) -> bool {
        self.is_ordering || self.effects.iter().any(|effect| matches!(effect, Effect::Order(_)))
    }

    fn looked(&mut self, look: Option<Observation>) {
        match look {
            Some(observation) if self.has_orders() || observation.at <= self.ordered_at => {
                self.wants_look = true;
                self.proceed();
            }
            Some(observation) => self.input(Input::Observed(observation)),
            None => self.input(Input::ObserveFailed),
        }
    }

    /// Gives the machine an input and goes on with what it wants done.
    fn input(&mut self, input: Input) {
        let now = self.world.clock.now();
        let before = self.machine.state().map(|state| state.generation);
        let turn = self.machine.step(now, input);
        for effect in turn.effects {
            match effect {
                Effect::Observe => self.wants_look = true,
                other => {
                    if let Effect::Acknowledge(receipt) = &other {
                        self.receipts.remove(receipt);
                    }
                    self.effects.push_back(other);
                }
            }
        }
        self.wake_at = turn.wake_at;
        if let Some(state) = self.machine.state().filter(|state| Some(state.generation) != before) {
            tracing::info!(
                service = self.pair.name,
                generation = state.generation,
                phase = state.phase.name(),
                spot = state.split.spot,
                on_demand = state.split.on_demand,
                target = state.target,
                reason = %state.reason,
                "state"
            );
        }
        self.proceed();
        self.publish(now);
    }

    /// Starts whatever can be started.
    fn proceed(&mut self) {
        if self.wants_look && self.looking.is_none() && !self.has_orders() {
            self.wants_look = false;
            self.looking = Some(self.look());
        }
        if self.doing.is_some() {
            return;
        }
        while let Some(effect) = self.effects.pop_front() {
            let (world, pair) = (Arc::clone(&self.world), Arc::clone(&self.pair));
            self.is_ordering = matches!(effect, Effect::Order(_));
            self.doing = match effect {
                Effect::Load => Some(Box::pin(async move { Some(load(&world, &pair).await) })),
                Effect::Commit { state, expected, history } => {
                    let commit = Commit { service: pair.name.clone(), expected, state, entry: history };
                    Some(Box::pin(async move { Some(store(&world, commit).await) }))
                }
                Effect::Order(order) => Some(Box::pin(async move { Some(give(&world, &pair, order).await) })),
                Effect::Acknowledge(receipt) => Some(Box::pin(async move {
                    let _ = world.ledger.send(Entry::Done(receipt)).await; // at the end they come again
                    None
                })),
                Effect::Alert(alert) => {
                    self.world.alerts.tell(of_change(&self.pair.name, &alert));
                    continue;
                }
                // Looks never enter the queue.
                Effect::Observe => continue,
            };
            return;
        }
    }

    fn look(&self) -> Doing<Option<Observation>> {
        let (looks, name) = (self.looks.clone(), self.pair.name.clone());
        Box::pin(async move {
            let (reply, replied) = oneshot::channel();
            let asked = async move {
                looks.send(Look { name, reply }).await.ok()?;
                replied.await.ok()?
            };
            tokio::time::timeout(LOOK_MAX, asked).await.ok()?
        })
    }

    fn publish(&self, now: Timestamp) {
        let is_idle = self.doing.is_none() && self.effects.is_empty() && !self.wants_look;
        let seen = self.machine.observed();
        let before = *self.snapshot.borrow();
        let next = match self.machine.state() {
            Some(state) => {
                let next = of_state(&self.pair, state, seen, now, is_idle, &before);
                // Of a dry run ECS is never told: it has come to rest when it has seen and decided.
                let is_settled = next.is_settled || (self.world.is_dry_run && is_idle && seen.is_some());
                Snapshot { is_settled, ..next }
            }
            None => before,
        };
        // Readers look at intervals; nobody is woken for it.
        self.snapshot.send_if_modified(|known| {
            let is_new = *known != next;
            *known = next;
            is_new
        });
    }
}

fn of_state(
    pair: &Pair,
    state: &State,
    seen: Option<&Observation>,
    now: Timestamp,
    is_idle: bool,
    before: &Snapshot,
) -> Snapshot {
    let seen_at = seen.map(|seen| seen.at);
    let counted = seen
        .filter(|_| seen_at != before.seen_at)
        .map(|seen| seen.seen(now, state.target, &std::collections::BTreeMap::new()));
    let has = seen.map(Observation::desired);
    let is_told = has.is_some_and(|has| has == state.split) || state.is_paused;
    Snapshot {
        generation: Some(state.generation),
        phase: state.phase,
        since: state.since,
        split: state.split,
        target: state.target,
        reason: state.reason,
        spot: counted.as_ref().map_or(before.spot, |seen| seen.spot),
        on_demand: counted.as_ref().map_or(before.on_demand, |seen| seen.on_demand),
        window: state.window.counts(now, pair.terms.rules.window, Timestamp(i64::MIN / 2)),
        failovers: state.failovers.on(now),
        is_paused: state.is_paused,
        asked: state.asked,
        seen_at,
        is_settled: is_idle && is_told,
    }
}

async fn doing<T>(doing: &mut Option<Doing<T>>) -> T {
    match doing {
        Some(doing) => doing.as_mut().await,
        None => std::future::pending().await,
    }
}

/// A call of the store, given up in time.
pub(crate) async fn asked<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_MAX, call).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} ms", CALL_MAX.as_millis()))),
    }
}

async fn load(world: &World, pair: &Pair) -> Input {
    match asked(world.store.load(&pair.name)).await {
        Ok(state) => Input::Loaded(state),
        Err(error) => {
            tracing::warn!(service = pair.name, %error, "its state could not be loaded");
            Input::LoadFailed
        }
    }
}

async fn store(world: &World, commit: Commit) -> Input {
    let (service, generation) = (commit.service.clone(), commit.state.generation);
    crash::point("commit");
    let done = asked(world.store.commit(commit)).await;
    crash::point("committed");
    match done {
        Ok(Committed::Stored) => {
            world.counters.commits.one();
            Input::Committed { generation }
        }
        Ok(Committed::Conflict) => {
            world.counters.commits_conflicted.one();
            Input::Conflicted
        }
        Err(error) => {
            world.counters.commits_failed.one();
            tracing::warn!(service, %error, "a commit failed; what is stored will be read");
            Input::CommitFailed
        }
    }
}

/// Sets a desired count, if the command is still valid and the stored generation still the one that decided it.
async fn give(world: &World, pair: &Pair, order: Order) -> Input {
    let service = match order.capacity {
        Capacity::Spot => &pair.spot,
        Capacity::OnDemand => &pair.on_demand,
    };
    if world.is_dry_run {
        tracing::info!(service, count = order.count, "would set the desired count");
        // It stays as it is: the machine would order it again and again, and so does ever more rarely.
        return Input::OrderFailed;
    }
    crash::point("order");
    match asked(world.store.generation(&pair.name)).await {
        Ok(Some(generation)) if generation == order.generation => {}
        Ok(stored) => {
            world.counters.orders_fenced.one();
            tracing::info!(service, ?stored, generation = order.generation, "a command is void");
            return Input::Fenced;
        }
        Err(error) => {
            tracing::warn!(service, %error, "a command was not given: its generation could not be read");
            return Input::OrderFailed;
        }
    }
    // Only now: reading may have taken its time, and the process may have been frozen in it.
    let left = order.not_after.since(world.clock.now());
    if left == Millis::ZERO {
        world.counters.orders_expired.one();
        tracing::warn!(service, count = order.count, "a command was too old to be given");
        return Input::OrderFailed;
    }
    world.counters.ecs_calls.one();
    let longest = CALL_MAX.min(world.clock.real_time(left)).max(Duration::from_millis(50));
    let done = within(longest, world.ecs.set_desired(&pair.cluster, service, order.count)).await;
    crash::point("ordered");
    match done {
        Ok(()) => {
            world.counters.orders.one();
            tracing::info!(service, count = order.count, generation = order.generation, "desired count set");
            Input::Ordered
        }
        Err(error) => {
            world.counters.ecs_calls_failed.one();
            tracing::warn!(service, count = order.count, %error, "the desired count could not be set");
            Input::OrderFailed
        }
    }
}

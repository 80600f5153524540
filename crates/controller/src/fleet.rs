//! The controller as a whole: finds services, gives each its worker, and starts and stops everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lifeboat_core::backoff::Backoff;
use lifeboat_core::time::{Millis, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::alert::{AlertQueue, deliver};
use crate::call::{BACKOFF, tried, within};
use crate::clock::Clock;
use crate::config::Settings;
use crate::counters::Counters;
use crate::directory::{Directory, MAIL_MAX, Mail, Member};
use crate::discover::{self, Found, Pair};
use crate::inbox::{Entry, Ledger, Post};
use crate::machines::{self, Layer3};
use crate::metrics::{Publisher, serve};
use crate::observe::{LOOKS_MAX, Look, Observer, SERVICES_A_CALL};
use crate::port::{Alerts, CallError, Commands, Ecs, Inbox, Metrics, ServiceView};
use crate::service::{Worker, World, asked};
use crate::snapshot::Snapshot;
use crate::store::{Store, StoreError};

/// How often it is asked whether somebody else, a person for example, has stored another generation.
const STORED_EVERY: Millis = Millis::from_secs(10);

/// How often history that has served its time is deleted.
const PRUNE_EVERY: Millis = Millis::from_secs(3_600);

/// A service that is not found this often in a row is no longer managed. Lists are eventually consistent.
const MISSED_MAX: u32 = 2;

/// Entries that may wait for the ledger.
const ENTRIES_MAX: usize = 4_096;

/// One listing or description of services, in real time.
const CALL_MAX: Duration = Duration::from_secs(10);

/// At the end, what is done may still be deleted from the queue, and alerts sent, for so long.
const FAREWELL: Duration = Duration::from_secs(5);

/// `--once` waits at most so long, on the controller's clock.
const ONCE_MAX: Millis = Millis::from_secs(600);

/// The world that the controller acts on.
#[derive(Clone, Debug)]
pub struct Ports {
    /// ECS.
    pub ecs: Arc<dyn Ecs>,
    /// States and history.
    pub store: Arc<dyn Store>,
    /// Events; without a queue, looks alone tell.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// Who is told.
    pub alerts: Vec<Arc<dyn Alerts>>,
    /// Where numbers go.
    pub metrics: Option<Arc<dyn Metrics>>,
    /// For Layer 3.
    pub commands: Option<Arc<dyn Commands>>,
}

/// How it is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Decide and record, act on nothing.
    pub is_dry_run: bool,
    /// Look, decide and act once, then end.
    pub is_once: bool,
    /// Serve Prometheus there.
    pub prometheus: Option<SocketAddr>,
}

/// Why the controller cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A cluster cannot be listed, and trying again will not help.
    #[error("the services of cluster {cluster} cannot be listed")]
    Cluster {
        /// Which.
        cluster: String,
        /// Why.
        #[source]
        source: CallError,
    },
    /// The store does not exist, or may not be used, and trying again will not help.
    #[error("without the store of states nothing can be decided")]
    Store(#[source] StoreError),
    /// The address for Prometheus is taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// With `--once`: not everything came to rest in time.
    #[error("these services did not come to rest in time: {0}")]
    Unsettled(String),
    /// A part ended that should not: a bug.
    #[error("a part of the controller has ended: {0}")]
    Broken(String),
}

struct Fleet {
    settings: Arc<Settings>,
    ports: Ports,
    world: Arc<World>,
    observers: BTreeMap<String, mpsc::Sender<Look>>,
    directory: watch::Sender<Arc<Directory>>,
    members: BTreeMap<String, Member>,
    missed: BTreeMap<String, u32>,
    problems: BTreeSet<String>,
    /// It was told that there is nothing to manage.
    is_empty: bool,
    workers: JoinSet<()>,
}

/// Runs the controller until `shutdown` is ready.
///
/// # Errors
/// See [`FleetError`].
pub async fn run(
    settings: Settings,
    ports: Ports,
    mode: Mode,
    shutdown: impl Future<Output = ()>,
) -> Result<(), FleetError> {
    let clock = match settings.clock {
        Some((scale, origin)) => Clock::scaled(scale, origin),
        None => Clock::real(),
    };
    let listener = match mode.prometheus {
        Some(address) => {
            Some(TcpListener::bind(address).await.map_err(|source| FleetError::Listen { address, source })?)
        }
        None => None,
    };
    // What is away for a moment is waited for; what a person must mend is told at once.
    if let Err(error @ StoreError::Unusable(_)) = asked(ports.store.generations(&[])).await {
        return Err(FleetError::Store(error));
    }
    let counters = Arc::new(Counters::default());
    let (ledger, entries) = mpsc::channel(ENTRIES_MAX);
    let (alerts, told) = AlertQueue::new(ports.alerts.len(), Arc::clone(&counters));
    let world = Arc::new(World {
        clock,
        store: Arc::clone(&ports.store),
        ecs: Arc::clone(&ports.ecs),
        ledger: ledger.clone(),
        alerts: alerts.clone(),
        counters: Arc::clone(&counters),
        is_dry_run: mode.is_dry_run,
    });
    let (directory, seen) = watch::channel(Arc::new(Directory::default()));
    // What must still work when everything else has stopped.
    let mut last = JoinSet::new();
    for (waiting, topic) in told.into_iter().zip(&ports.alerts) {
        last.spawn(deliver(waiting, Arc::clone(topic), Arc::clone(&counters)));
    }
    let mut parts = JoinSet::new();
    let observers = observers(&settings, &world, &seen, &mut parts);
    if let Some(listener) = listener {
        parts.spawn(serve(listener, seen.clone(), Arc::clone(&counters)));
    }
    parts.spawn(publisher(&settings, &ports, &world, &seen).run());
    let fleet = Fleet {
        settings: Arc::new(settings),
        ports,
        world,
        observers,
        directory,
        members: BTreeMap::new(),
        missed: BTreeMap::new(),
        problems: BTreeSet::new(),
        is_empty: false,
        workers: JoinSet::new(),
    };
    let done = fleet.work(mode, (ledger, entries, alerts), &mut parts, &mut last, shutdown).await;
    parts.shutdown().await;
    // Everybody who could send has ended: the ledger and the alerts end by themselves, or are ended.
    let farewell = async { while last.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, farewell).await; // what is left comes again from the queue
    last.shutdown().await;
    done
}

fn observers(
    settings: &Settings,
    world: &Arc<World>,
    seen: &watch::Receiver<Arc<Directory>>,
    parts: &mut JoinSet<()>,
) -> BTreeMap<String, mpsc::Sender<Look>> {
    let mut observers = BTreeMap::new();
    for cluster in &settings.clusters {
        let (sender, looks) = mpsc::channel(LOOKS_MAX);
        let observer = Observer {
            cluster: cluster.clone(),
            ecs: Arc::clone(&world.ecs),
            clock: world.clock,
            counters: Arc::clone(&world.counters),
            directory: seen.clone(),
        };
        parts.spawn(observer.run(looks));
        observers.insert(cluster.clone(), sender);
    }
    observers
}

fn publisher(
    settings: &Settings,
    ports: &Ports,
    world: &World,
    seen: &watch::Receiver<Arc<Directory>>,
) -> Publisher {
    Publisher {
        metrics: ports.metrics.clone(),
        store: Arc::clone(&ports.store),
        directory: seen.clone(),
        clock: world.clock,
        counters: Arc::clone(&world.counters),
        every: settings.metrics_every,
        saving_per_task_hour: settings.saving_per_task_hour,
    }
}

/// What finds services: it holds nothing of the fleet, so that the fleet goes on meanwhile.
struct Finder {
    settings: Arc<Settings>,
    ecs: Arc<dyn Ecs>,
    world: Arc<World>,
}

type Finding = BoxFuture<'static, (Found, BTreeMap<String, CallError>)>;

async fn found(finding: &mut Option<Finding>) -> (Found, BTreeMap<String, CallError>) {
    match finding {
        Some(finding) => finding.await,
        None => std::future::pending().await,
    }
}

impl Finder {
    /// All pairs, and the clusters that could not be listed.
    async fn find(self) -> (Found, BTreeMap<String, CallError>) {
        let mut clusters = BTreeMap::new();
        let mut failed = BTreeMap::new();
        for cluster in &self.settings.clusters {
            match self.services_of(cluster).await {
                Ok(services) => {
                    clusters.insert(cluster.clone(), services);
                }
                Err(error) => {
                    failed.insert(cluster.clone(), error);
                }
            }
        }
        (discover::pairs(&self.settings, &clusters), failed)
    }

    async fn services_of(&self, cluster: &str) -> Result<Vec<ServiceView>, CallError> {
        let ecs = &self.ecs;
        self.world.counters.ecs_calls.one();
        let names = tried(4, 0, || within(CALL_MAX, ecs.services(cluster))).await?;
        let chunks: Vec<Vec<String>> = names.chunks(SERVICES_A_CALL).map(<[String]>::to_vec).collect();
        let described: Vec<Vec<ServiceView>> = stream::iter(chunks)
            .map(|chunk| async move {
                self.world.counters.ecs_calls.one();
                tried(4, 0, || within(CALL_MAX, ecs.describe_services(cluster, &chunk))).await
            })
            .buffer_unordered(4)
            .try_collect()
            .await?;
        Ok(described.into_iter().flatten().collect())
    }
}

type Ends = (mpsc::Sender<Entry>, mpsc::Receiver<Entry>, AlertQueue);

impl Fleet {
    async fn work(
        mut self,
        mode: Mode,
        ends: Ends,
        parts: &mut JoinSet<()>,
        last: &mut JoinSet<()>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), FleetError> {
        tokio::pin!(shutdown);
        let clock = self.world.clock;
        let until = clock.now() + ONCE_MAX;
        tokio::select! {
            found = self.find_first(mode.is_once.then_some(until)) => found?,
            () = &mut shutdown => return Ok(()),
        }
        tracing::info!(services = self.members.len(), dry_run = mode.is_dry_run, "the controller works");
        // A dry run leaves the queue alone: what it received, a controller that acts would miss.
        if let Some(inbox) = self.ports.inbox.clone().filter(|_| !mode.is_dry_run) {
            self.receive(inbox, ends, mode, parts, last);
        }
        let every = |span: Millis| {
            let mut ticks = tokio::time::interval(clock.real_time(span).max(Duration::from_millis(20)));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            ticks
        };
        let mut find = every(self.settings.find_every);
        find.tick().await; // the first comes at once, and was done
        let (mut stored, mut prune) = (every(STORED_EVERY), every(PRUNE_EVERY));
        let mut settled = every(Millis(500));
        let mut finding: Option<Finding> = None;
        let done = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                // Beside everything else: ECS may take its time.
                _ = find.tick(), if finding.is_none() => finding = Some(Box::pin(self.finder().find())),
                (found, failed) = found(&mut finding) => {
                    finding = None;
                    self.take(found, failed);
                }
                _ = stored.tick() => self.tell_stored().await,
                _ = prune.tick() => self.prune().await,
                _ = settled.tick(), if mode.is_once => match self.unsettled() {
                    names if names.is_empty() => break Ok(()),
                    names if clock.now() > until => break Err(FleetError::Unsettled(names.join(", "))),
                    _ => {}
                },
                // A worker whose service has gone ends, and that is all.
                Some(ended) = self.workers.join_next() => if let Err(error) = ended {
                    break Err(FleetError::Broken(error.to_string()));
                },
                Some(ended) = parts.join_next() => {
                    let what = ended.err().map_or_else(|| "too early".to_owned(), |error| error.to_string());
                    break Err(FleetError::Broken(what));
                }
            }
        };
        tracing::info!("the controller ends");
        self.workers.shutdown().await;
        done
    }

    fn receive(
        &self,
        inbox: Arc<dyn Inbox>,
        (ledger, entries, alerts): Ends,
        mode: Mode,
        parts: &mut JoinSet<()>,
        last: &mut JoinSet<()>,
    ) {
        let world = &self.world;
        let machines = match (&self.settings.machines, &self.ports.commands) {
            (Some(rules), Some(commands)) => {
                let (sender, mail) = mpsc::channel(machines::MAIL_MAX);
                let layer = Layer3 {
                    commands: Arc::clone(commands),
                    rules: rules.clone(),
                    ledger: ledger.clone(),
                    alerts,
                    counters: Arc::clone(&world.counters),
                    clock: world.clock,
                    is_dry_run: mode.is_dry_run,
                };
                parts.spawn(layer.run(mail));
                Some(sender)
            }
            _ => None,
        };
        let shared = (world.clock, Arc::clone(&world.counters));
        let post =
            Arc::new(Post::new(Arc::clone(&inbox), self.directory.subscribe(), ledger, machines, shared));
        let ledger = Ledger {
            inbox,
            clock: world.clock,
            visibility: self.settings.visibility,
            counters: Arc::clone(&world.counters),
            room: Arc::clone(&post.room),
        };
        last.spawn(ledger.run(entries));
        for receiver in 0..self.settings.receivers {
            let post = Arc::clone(&post);
            parts.spawn(async move { post.receive(receiver as u64).await });
        }
    }

    /// The first time it must succeed, `until` then where there is an end to it: with nobody known, every event would be
    /// nobody's.
    async fn find_first(&mut self, until: Option<Timestamp>) -> Result<(), FleetError> {
        for attempt in 0_u32.. {
            let (found, failed) = self.finder().find().await;
            match failed.into_iter().next() {
                None => {
                    self.apply(found, &BTreeSet::new());
                    return Ok(());
                }
                Some((cluster, source))
                    if !source.is_temporary()
                        || until.is_some_and(|until| self.world.clock.now() > until) =>
                {
                    return Err(FleetError::Cluster { cluster, source });
                }
                Some((cluster, error)) => {
                    tracing::warn!(cluster, %error, "its services could not be listed; again");
                    let wait = Backoff { longest: Millis(20_000), ..BACKOFF }.wait(attempt);
                    tokio::time::sleep(wait.to_duration()).await;
                }
            }
        }
        Ok(())
    }

    fn finder(&self) -> Finder {
        Finder {
            settings: Arc::clone(&self.settings),
            ecs: Arc::clone(&self.ports.ecs),
            world: Arc::clone(&self.world),
        }
    }

    fn take(&mut self, found: Found, failed: BTreeMap<String, CallError>) {
        for (cluster, error) in &failed {
            tracing::warn!(cluster, %error, "its services could not be listed; those known stay");
        }
        self.apply(found, &failed.into_keys().collect());
    }

    /// Gives new pairs a worker and lets those go that are no longer there.
    fn apply(&mut self, found: Found, failed: &BTreeSet<String>) {
        for problem in found.problems.iter().filter(|problem| !self.problems.contains(*problem)) {
            tracing::warn!(problem, "services");
        }
        self.problems = found.problems.into_iter().collect();
        if found.pairs.is_empty() && failed.is_empty() && !std::mem::replace(&mut self.is_empty, true) {
            let clusters = self.settings.clusters.join(", ");
            tracing::warn!(clusters, "no pair of services was found: see `[services]` in docs/controller.md");
        }
        self.is_empty &= found.pairs.is_empty();
        let gone: Vec<String> = self
            .members
            .iter()
            .filter(|(name, member)| {
                !found.pairs.contains_key(*name) && !failed.contains(&member.pair.cluster)
            })
            .map(|(name, _)| name.clone())
            .collect();
        self.missed.retain(|name, _| gone.contains(name));
        for name in gone {
            let missed = self.missed.entry(name.clone()).or_insert(0);
            *missed += 1;
            if *missed >= MISSED_MAX {
                tracing::warn!(service = name, "is gone and no longer managed; its state stays stored");
                self.members.remove(&name);
                self.missed.remove(&name);
            }
        }
        for (name, pair) in found.pairs {
            let is_same = self.members.get(&name).is_some_and(|member| *member.pair == pair);
            if !is_same {
                let member = self.hire(pair);
                self.members.insert(name, member);
            }
        }
        self.directory.send_replace(Arc::new(Directory::new(self.members.clone())));
    }

    fn hire(&mut self, pair: Pair) -> Member {
        tracing::info!(service = pair.name, spot = pair.spot, on_demand = pair.on_demand, "is managed");
        let pair = Arc::new(pair);
        let (mail, letters) = mpsc::channel(MAIL_MAX);
        let (publish, snapshot) = watch::channel(Snapshot::default());
        let looks = self.observers.get(&pair.cluster).cloned().expect("each cluster has an observer");
        let worker = Worker::new(Arc::clone(&pair), Arc::clone(&self.world), looks, publish);
        self.workers.spawn(worker.run(letters));
        Member { pair, mail, snapshot }
    }

    async fn tell_stored(&self) {
        let names: Vec<String> = self.members.keys().cloned().collect();
        match asked(self.ports.store.generations(&names)).await {
            Ok(stored) => {
                for (name, generation) in stored {
                    if let Some(member) = self.members.get(&name) {
                        let _ = member.mail.try_send(Mail::Stored { generation }); // it is told again soon
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the stored generations could not be read"),
        }
    }

    async fn prune(&self) {
        let before = self.world.clock.now().before(self.settings.history);
        match asked(self.ports.store.prune(before)).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, "old history was deleted"),
            Err(error) => tracing::warn!(%error, "old history could not be deleted"),
        }
    }

    fn unsettled(&self) -> Vec<String> {
        let is_unsettled =
            |(name, member): (&String, &Member)| (!member.snapshot.borrow().is_settled).then(|| name.clone());
        self.members.iter().filter_map(is_unsettled).collect()
    }
}

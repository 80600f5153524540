//! A world for the controller in this process: an ECS that does what it is told, a queue with visibility, a store that
//! can hang or fail, and one journal of what happened in which order.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lifeboat_controller::clock::{rfc3339, wall_now};
use lifeboat_controller::config::{Config, Settings};
use lifeboat_controller::fleet::{self, FleetError, Mode, Ports};
use lifeboat_controller::port::{
    Alerts, CallError, Commands, Datum, Ecs, Inbox, Message, Metrics, ServiceView, TaskView,
};
use lifeboat_controller::store::{Commit, Committed, Fact, MemoryStore, Meter, Store, StoreError};
use lifeboat_core::failover::state::State;
use lifeboat_core::time::Timestamp;
use tokio::sync::oneshot;

/// Far longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `is_so`.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Vec<String>>);

impl Journal {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.0.lock().expect("unpoisoned").push(text.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().expect("unpoisoned").clone()
    }

    pub(crate) fn count(&self, start: &str) -> usize {
        self.all().iter().filter(|line| line.starts_with(start)).count()
    }

    pub(crate) fn position(&self, start: &str) -> Option<usize> {
        self.all().iter().position(|line| line.starts_with(start))
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeService {
    pub(crate) desired: u32,
    pub(crate) ready: u32,
    pub(crate) is_deploying: bool,
    pub(crate) is_gone: bool,
    /// Tasks never start.
    pub(crate) is_stuck: bool,
}

#[derive(Debug)]
pub(crate) struct FakeEcs {
    pub(crate) services: Mutex<BTreeMap<String, FakeService>>,
    pub(crate) journal: Arc<Journal>,
    /// So many calls are throttled.
    pub(crate) throttled: AtomicU32,
    /// Listing services never ends.
    pub(crate) hangs: AtomicBool,
    /// So many counts are refused.
    pub(crate) refused: AtomicU32,
}

impl FakeEcs {
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut FakeService)) {
        change(self.services.lock().expect("unpoisoned").entry(name.to_owned()).or_default());
    }

    pub(crate) fn desired(&self, name: &str) -> u32 {
        self.services.lock().expect("unpoisoned")[name].desired
    }

    fn throttle(&self) -> Result<(), CallError> {
        let left =
            self.throttled.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map_or(Ok(()), |_| Err(CallError::Throttled("slow down".to_owned())))
    }
}

pub(crate) fn task_arn(service: &str, number: u32) -> String {
    format!("arn:aws:ecs:eu-west-1:123456789012:task/prod/{service}/{number}")
}

#[async_trait]
impl Ecs for FakeEcs {
    async fn services(&self, _cluster: &str) -> Result<Vec<String>, CallError> {
        self.throttle()?;
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(self.services.lock().expect("unpoisoned").keys().cloned().collect())
    }

    async fn describe_services(&self, _: &str, names: &[String]) -> Result<Vec<ServiceView>, CallError> {
        assert!((1..=10).contains(&names.len()), "DescribeServices takes up to ten");
        self.throttle()?;
        let services = self.services.lock().expect("unpoisoned");
        let view = |name: &String| {
            let service = services.get(name)?;
            Some(ServiceView {
                name: name.clone(),
                is_active: !service.is_gone,
                desired: service.desired,
                is_deploying: service.is_deploying,
                tags: Vec::new(),
            })
        };
        Ok(names.iter().filter_map(view).collect())
    }

    async fn tasks(&self, _: &str, service: Option<&str>) -> Result<Vec<String>, CallError> {
        self.throttle()?;
        let services = self.services.lock().expect("unpoisoned");
        let chosen = services.iter().filter(|(name, _)| service.is_none_or(|service| service == *name));
        Ok(chosen
            .flat_map(|(name, service)| {
                (0..service.ready.max(service.desired)).map(|number| task_arn(name, number))
            })
            .collect())
    }

    async fn describe_tasks(&self, _: &str, arns: &[String]) -> Result<Vec<TaskView>, CallError> {
        assert!((1..=100).contains(&arns.len()), "DescribeTasks takes up to a hundred");
        self.throttle()?;
        let services = self.services.lock().expect("unpoisoned");
        let view = |arn: &String| {
            let (name, number) = arn.rsplit_once("/prod/")?.1.split_once('/')?;
            let is_ready = number.parse::<u32>().ok()? < services.get(name)?.ready;
            Some(TaskView {
                arn: arn.clone(),
                group: format!("service:{name}"),
                created_at: Some(Timestamp(0)),
                last_status: if is_ready { "RUNNING" } else { "PENDING" }.to_owned(),
                desired_status: "RUNNING".to_owned(),
            })
        };
        Ok(arns.iter().filter_map(view).collect())
    }

    async fn set_desired(&self, _: &str, service: &str, count: u32) -> Result<(), CallError> {
        self.throttle()?;
        let refused =
            self.refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if refused.is_ok() {
            self.journal.note(format!("refuse {service} {count}"));
            return Err(CallError::Refused("no".to_owned()));
        }
        self.journal.note(format!("order {service} {count}"));
        self.change(service, |service| {
            service.desired = count;
            if !service.is_stuck || count < service.ready {
                service.ready = count;
            }
        });
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct FakeQueue {
    pub(crate) waiting: Mutex<VecDeque<(String, String)>>,
    pub(crate) buried: Mutex<Vec<String>>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) has_dead_letters: bool,
    /// The dead-letter queue takes so many milliseconds.
    pub(crate) slow_burial_ms: AtomicU32,
    /// A message that is not deleted comes again after so many milliseconds; 0: never.
    pub(crate) visible_ms: AtomicU32,
    /// What was received and is not deleted.
    hidden: Mutex<BTreeMap<String, (String, Instant)>>,
    next: AtomicU32,
}

impl FakeQueue {
    pub(crate) fn send(&self, body: impl Into<String>) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        self.waiting.lock().expect("unpoisoned").push_back((format!("m{number}"), body.into()));
    }

    pub(crate) fn send_all(&self, bodies: impl IntoIterator<Item = String>) {
        // Under one lock: they are received together.
        let mut waiting = self.waiting.lock().expect("unpoisoned");
        for body in bodies {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            waiting.push_back((format!("m{number}"), body));
        }
    }
}

#[async_trait]
impl Inbox for FakeQueue {
    async fn receive(&self) -> Result<Vec<Message>, CallError> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let mut waiting = self.waiting.lock().expect("unpoisoned");
        let mut hidden = self.hidden.lock().expect("unpoisoned");
        let visible = Duration::from_millis(u64::from(self.visible_ms.load(Ordering::SeqCst)));
        if !visible.is_zero() {
            let due = |(_, (_, since)): &(&String, &(String, Instant))| since.elapsed() >= visible;
            let again: Vec<String> = hidden.iter().filter(due).map(|(handle, _)| handle.clone()).collect();
            for handle in again {
                let (body, _) = hidden.remove(&handle).expect("just found");
                self.journal.note(format!("again {handle}"));
                waiting.push_back((handle, body));
            }
        }
        let count = waiting.len().min(10);
        let messages: Vec<Message> =
            waiting.drain(..count).map(|(handle, body)| Message { handle, body, receives: 1 }).collect();
        for message in &messages {
            hidden.insert(message.handle.clone(), (message.body.clone(), Instant::now()));
        }
        if !messages.is_empty() {
            self.journal.note(format!("receive {}", messages.len()));
        }
        Ok(messages)
    }

    async fn delete(&self, handles: &[String]) -> Result<usize, CallError> {
        assert!((1..=10).contains(&handles.len()), "DeleteMessageBatch takes up to ten");
        for handle in handles {
            self.hidden.lock().expect("unpoisoned").remove(handle);
            self.journal.note(format!("delete {handle}"));
        }
        Ok(0)
    }

    async fn extend(&self, handles: &[String], visibility: Duration) -> Result<(), CallError> {
        assert!((1..=10).contains(&handles.len()), "ChangeMessageVisibilityBatch takes up to ten");
        self.journal.note(format!("extend {} by {} s", handles.join(","), visibility.as_secs()));
        let mut hidden = self.hidden.lock().expect("unpoisoned");
        for handle in handles {
            hidden.entry(handle.clone()).and_modify(|(_, since)| *since = Instant::now());
        }
        Ok(())
    }

    async fn bury(&self, body: &str, _why: &str) -> Result<bool, CallError> {
        let slow = self.slow_burial_ms.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(u64::from(slow))).await;
        if self.has_dead_letters {
            self.buried.lock().expect("unpoisoned").push(body.to_owned());
        }
        Ok(self.has_dead_letters)
    }
}

/// A store that notes commits, and hangs or fails on demand.
#[derive(Debug)]
pub(crate) struct OddStore {
    pub(crate) inner: Arc<MemoryStore>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) hangs: AtomicBool,
    /// So many commits fail although they are stored.
    pub(crate) unknown: AtomicU32,
    /// Each read of a generation takes so many milliseconds.
    pub(crate) slow_ms: AtomicU32,
    /// Meters, and the generations of all services, are never told.
    pub(crate) is_mute: AtomicBool,
    /// There is no such table.
    pub(crate) is_unusable: AtomicBool,
}

impl OddStore {
    async fn tell(&self) {
        while self.is_mute.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait]
impl Store for OddStore {
    async fn load(&self, service: &str) -> Result<Option<Box<State>>, StoreError> {
        self.inner.load(service).await
    }

    async fn generation(&self, service: &str) -> Result<Option<u64>, StoreError> {
        let slow = self.slow_ms.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(u64::from(slow))).await;
        let found = self.inner.generation(service).await;
        self.journal.note(format!("read {service}"));
        found
    }

    async fn generations(&self, services: &[String]) -> Result<BTreeMap<String, u64>, StoreError> {
        self.tell().await;
        if self.is_unusable.load(Ordering::SeqCst) {
            return Err(StoreError::Unusable("no such table".to_owned()));
        }
        self.inner.generations(services).await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (service, generation) = (commit.service.clone(), commit.state.generation);
        let done = self.inner.commit(commit).await;
        if matches!(done, Ok(Committed::Stored)) {
            self.journal.note(format!("commit {service} {generation}"));
        }
        let unknown =
            self.unknown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match unknown {
            Ok(_) => Err(StoreError::Unavailable("the answer was lost".to_owned())),
            Err(_) => done,
        }
    }

    async fn history(&self, service: Option<&str>, limit: usize) -> Result<Vec<Fact>, StoreError> {
        self.inner.history(service, limit).await
    }

    async fn states(&self) -> Result<BTreeMap<String, Box<State>>, StoreError> {
        self.inner.states().await
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.inner.prune(before).await
    }

    async fn meter(&self, service: &str) -> Result<Option<Meter>, StoreError> {
        self.tell().await;
        self.inner.meter(service).await
    }

    async fn set_meter(
        &self,
        service: &str,
        before: Option<Meter>,
        next: Meter,
    ) -> Result<Committed, StoreError> {
        self.inner.set_meter(service, before, next).await
    }
}

#[derive(Debug)]
pub(crate) struct FakeTopic {
    pub(crate) told: Mutex<Vec<String>>,
    /// So many sends fail.
    pub(crate) failures: AtomicU32,
    /// Sends never end.
    pub(crate) hangs: AtomicBool,
}

impl FakeTopic {
    pub(crate) fn new() -> Arc<Self> {
        let (failures, hangs) = (AtomicU32::new(0), AtomicBool::new(false));
        Arc::new(Self { told: Mutex::default(), failures, hangs })
    }
}

#[async_trait]
impl Alerts for FakeTopic {
    fn name(&self) -> &'static str {
        "topic"
    }

    async fn send(&self, subject: &str, _text: &str) -> Result<(), CallError> {
        let failed =
            self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failed.is_ok() {
            return Err(CallError::Unavailable("no".to_owned()));
        }
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.told.lock().expect("unpoisoned").push(subject.to_owned());
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeMetrics(pub(crate) Mutex<Vec<Datum>>);

#[async_trait]
impl Metrics for FakeMetrics {
    async fn publish(&self, data: &[Datum]) -> Result<(), CallError> {
        self.0.lock().expect("unpoisoned").extend(data.iter().cloned());
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeCommands {
    pub(crate) sent: Mutex<Vec<(Vec<String>, String)>>,
    /// Instances that SSM does not manage.
    pub(crate) unmanaged: Mutex<Vec<String>>,
    /// So many sends fail.
    pub(crate) failures: AtomicU32,
}

#[async_trait]
impl Commands for FakeCommands {
    async fn run(&self, instances: &[String], command: &str) -> Result<(), CallError> {
        assert!((1..=50).contains(&instances.len()), "SendCommand takes up to fifty");
        let failed =
            self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failed.is_ok() {
            return Err(CallError::Throttled("slow down".to_owned()));
        }
        let unmanaged = self.unmanaged.lock().expect("unpoisoned").clone();
        if instances.iter().any(|instance| unmanaged.contains(instance)) {
            return Err(CallError::NotFound("InvalidInstanceId".to_owned()));
        }
        self.sent.lock().expect("unpoisoned").push((instances.to_vec(), command.to_owned()));
        Ok(())
    }
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Rig {
    pub(crate) journal: Arc<Journal>,
    pub(crate) ecs: Arc<FakeEcs>,
    pub(crate) queue: Arc<FakeQueue>,
    pub(crate) store: Arc<OddStore>,
    pub(crate) topic: Arc<FakeTopic>,
    pub(crate) metrics: Arc<FakeMetrics>,
    pub(crate) commands: Arc<FakeCommands>,
}

/// A controller that runs.
pub(crate) struct Running {
    stop: Option<oneshot::Sender<()>>,
    done: tokio::task::JoinHandle<Result<(), FleetError>>,
}

impl Running {
    pub(crate) async fn stop(mut self) {
        let _ = self.stop.take().expect("once").send(());
        tokio::time::timeout(LIMIT, self.done).await.expect("it ends").expect("no panic").expect("no error");
    }
}

impl Rig {
    /// One pair, `orders`, ten tasks on Spot.
    pub(crate) fn new() -> Self {
        let journal = Arc::new(Journal::default());
        let ecs = FakeEcs {
            services: Mutex::default(),
            journal: Arc::clone(&journal),
            throttled: AtomicU32::new(0),
            hangs: AtomicBool::new(false),
            refused: AtomicU32::new(0),
        };
        ecs.change("orders-spot", |service| (service.desired, service.ready) = (10, 10));
        ecs.change("orders-standard", |_| {});
        let queue = FakeQueue {
            waiting: Mutex::default(),
            buried: Mutex::default(),
            journal: Arc::clone(&journal),
            has_dead_letters: true,
            slow_burial_ms: AtomicU32::new(0),
            visible_ms: AtomicU32::new(0),
            hidden: Mutex::default(),
            next: AtomicU32::new(0),
        };
        let store = OddStore {
            inner: Arc::new(MemoryStore::new()),
            journal: Arc::clone(&journal),
            hangs: AtomicBool::new(false),
            unknown: AtomicU32::new(0),
            slow_ms: AtomicU32::new(0),
            is_mute: AtomicBool::new(false),
            is_unusable: AtomicBool::new(false),
        };
        Self {
            ecs: Arc::new(ecs),
            queue: Arc::new(queue),
            store: Arc::new(store),
            topic: FakeTopic::new(),
            metrics: Arc::default(),
            commands: Arc::default(),
            journal,
        }
    }

    pub(crate) fn ports(&self) -> Ports {
        Ports {
            ecs: Arc::<FakeEcs>::clone(&self.ecs),
            store: Arc::<OddStore>::clone(&self.store),
            inbox: Some(Arc::<FakeQueue>::clone(&self.queue)),
            alerts: vec![Arc::<FakeTopic>::clone(&self.topic)],
            metrics: Some(Arc::<FakeMetrics>::clone(&self.metrics)),
            commands: Some(Arc::<FakeCommands>::clone(&self.commands)),
        }
    }

    /// Starts a controller whose clock runs `scale` times as fast, and waits until it has adopted `orders`.
    pub(crate) async fn start(&self, scale: u32, config: &str) -> Running {
        let running = self.spawn(settings(scale, config), Mode::default());
        until("orders is adopted", || self.journal.count("commit orders") >= 1).await;
        running
    }

    pub(crate) fn spawn(&self, settings: Settings, mode: Mode) -> Running {
        self.spawn_with(settings, mode, self.ports())
    }

    pub(crate) fn spawn_with(&self, settings: Settings, mode: Mode, ports: Ports) -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await; // dropped means stopped
            };
            fleet::run(settings, ports, mode, stopped).await
        });
        Running { stop: Some(stop), done }
    }

    pub(crate) async fn state(&self) -> Box<State> {
        self.store.inner.load("orders").await.expect("answered").expect("stored")
    }
}

pub(crate) fn settings(scale: u32, config: &str) -> Settings {
    let clock = format!("[clock]\nscale = {scale}\norigin = {:?}\n", rfc3339(wall_now()));
    let config: Config = toml::from_str(&format!("{config}\n{clock}")).expect("readable");
    config.settings().expect("valid")
}

/// An interruption of a task of `orders-spot`, as EventBridge writes it, without a time of its own.
pub(crate) fn warned(number: u32) -> String {
    let arn = task_arn("orders-spot", number);
    format!(
        r#"{{"id":"{number}","source":"aws.ecs","detail-type":"ECS Task State Change","detail":{{
        "taskArn":"{arn}","clusterArn":"arn:aws:ecs:eu-west-1:123456789012:cluster/default",
        "group":"service:orders-spot","lastStatus":"RUNNING","desiredStatus":"STOPPED",
        "stopCode":"SpotInterruption","capacityProviderName":"FARGATE_SPOT","version":5}}}}"#
    )
}

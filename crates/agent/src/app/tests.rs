//! The socket as a well-behaved worker sees it; for the others see `hostile`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use lifeboat_core::notice::{Action, Cause, Interruption};
use lifeboat_core::time::Timestamp;
use lifeboat_snapshot::claim::{Acquired, Claimant, Wait, acquire};
use lifeboat_snapshot::id::Nonce;
use lifeboat_snapshot::journal::Holder;
use lifeboat_snapshot::{Claim, ObjectStore, StoreUrl, Workload};
use lifeboat_worker::directory::{DirectoryQueue, Settings as QueueSettings};
use lifeboat_worker::wire::Receipt;
use lifeboat_worker::{Error, Queue, Shutdown, Worker};

use super::App;
use super::serve::AppServer;
use crate::config::Config;
use crate::ports::Ports;

pub(super) struct World {
    pub(super) temp: tempfile::TempDir,
    store: Arc<dyn ObjectStore>,
}

pub(super) struct Machine {
    pub(super) app: Arc<App>,
    _server: AppServer,
    pub(super) socket: std::path::PathBuf,
    _claim: Claim,
}

impl World {
    pub(super) fn new() -> Self {
        Self::over(lifeboat_snapshot::open(&StoreUrl::Memory).expect("opened"))
    }

    fn over(store: Arc<dyn ObjectStore>) -> Self {
        Self { temp: tempfile::tempdir().expect("temporary directory"), store }
    }

    pub(super) async fn machine(&self, name: &str) -> Machine {
        let workload = Workload::new(Arc::clone(&self.store), name.parse().expect("valid"));
        let claimant = Claimant {
            agent: Nonce::random(),
            holder: Holder { instance: format!("i-{name}"), host: "h".into(), pid: 1 },
            lease: Duration::from_secs(60),
        };
        let Acquired { claim, .. } = acquire(&workload, &claimant, Wait::No).await.expect("free");
        let config = Config { application: Some("app".into()), ..Config::default() };
        let settings = config.settings().expect("valid");
        let dir = self.temp.path().join(name);
        std::fs::create_dir_all(&dir).expect("created");
        let app = App::new(&workload, &settings, &format!("i-{name}"), &dir, Ports::default());
        app.claimed(claim.id().seq);
        let socket = dir.join("app.sock");
        let server = AppServer::start(&app, &socket).expect("listens");
        Machine { app, _server: server, socket, _claim: claim }
    }

    fn queue(&self) -> DirectoryQueue {
        let settings = QueueSettings { visibility_ms: 3_600_000, receives_max: 10 };
        DirectoryQueue::create(&self.temp.path().join("queue"), settings).expect("created")
    }

    async fn keys(&self) -> Vec<String> {
        let all: Vec<_> = self
            .store
            .list(Some(&"app".into()))
            .map_ok(|object| object.location.to_string())
            .try_collect()
            .await
            .expect("listed");
        all
    }
}

/// A client that blocks, beside the server.
pub(super) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

pub(super) fn worker(socket: &Path) -> Worker {
    Worker::connect_to(socket, Shutdown::default()).expect("connected")
}

fn interruption(action: Action) -> Interruption {
    Interruption {
        action,
        cause: Cause::NotTold,
        key: None,
        deadline: Timestamp(120_000),
        noticed: Timestamp(0),
        sources: Vec::new(),
    }
}

#[tokio::test]
async fn a_partial_result_goes_from_one_machine_to_the_next_and_is_gone_when_the_task_is_done() {
    let world = World::new();
    let (one, two) = (world.machine("one").await, world.machine("two").await);
    let queue = world.queue();
    queue.send(b"x").expect("sent");
    let first = queue.receive(Duration::ZERO).expect("received").expect("there is one");
    let (socket, receipt) =
        (one.socket.clone(), Receipt { queue: queue.url(), receipt: first.receipt.clone() });
    beside(move || {
        let task = worker(&socket).task("../t").message(receipt, 1).start().expect("registered");
        task.checkpoint_json(&[1, 2, 3], 0.5).expect("taken in");
        drop(task); // not done: given back
    })
    .await;
    let second = queue.receive(Duration::ZERO).expect("received").expect("visible again at once");
    let socket = two.socket.clone();
    let receipt = Receipt { queue: queue.url(), receipt: second.receipt };
    beside(move || {
        let task = worker(&socket).task("../t").message(receipt, 2).start().expect("registered");
        let partial = task.take_partial().expect("asked").expect("kept");
        assert_eq!((partial.instance.as_str(), partial.progress), ("i-one", Some(0.5)));
        assert_eq!(partial.json::<Vec<u8>>().expect("JSON"), [1, 2, 3]);
        task.store_json(&[4], 0.9).expect("stored");
        task.done().expect("done");
    })
    .await;
    assert_eq!(world.keys().await, Vec::<String>::new(), "nothing is left of it");
    assert_eq!(two.app.about().tasks.done, 1);
}

#[tokio::test]
async fn at_the_notice_workers_are_told_and_everything_is_stored_before_messages_go_back() {
    let world = World::new();
    let one = world.machine("one").await;
    let queue = world.queue();
    for _ in 0..30 {
        queue.send(b"x").expect("sent");
    }
    let (socket, receiver) = (one.socket.clone(), queue.clone());
    let (worker, tasks) = beside(move || {
        let worker = worker(&socket);
        let mut tasks = Vec::new();
        while let Some(message) = receiver.receive(Duration::ZERO).expect("received") {
            let receipt = Receipt { queue: receiver.url(), receipt: message.receipt };
            let task = worker.task(message.id).message(receipt, 1).start().expect("registered");
            task.checkpoint(&vec![7; 100_000], 0.5).expect("taken in");
            tasks.push(task);
        }
        (worker, tasks)
    })
    .await;
    assert_eq!(tasks.len(), 30);
    one.app.announce(&interruption(Action::Terminate), Timestamp(0));
    let shutdown = worker.shutdown();
    assert!(beside(move || shutdown.wait_timeout(Duration::from_secs(60))).await, "told");
    let asked = worker.clone();
    let refused = beside(move || asked.task("new").start().map(drop)).await;
    assert!(matches!(refused, Err(Error::Interrupted(_))), "{refused:?}");
    let state = one.app.state().expect("there are tasks");
    assert_eq!(state["active"].as_array().map(Vec::len), Some(30));
    let deadline = lifeboat_snapshot::Deadline::at(tokio::time::Instant::now() + Duration::from_secs(60));
    let handed = one.app.hand_over(Vec::new(), Some(Duration::ZERO), &deadline).await;
    assert_eq!((handed.given_back, handed.failed), (30, 0), "{handed:?}");
    let stored =
        world.keys().await.iter().filter(|key| key.ends_with(".json") && key.contains("partial")).count();
    assert_eq!((stored, queue.depth().expect("counted").ready), (30, 30));
    beside(move || drop(tasks)).await; // ended already: no harm
    assert_eq!(queue.depth().expect("counted").ready, 30);
}

#[tokio::test]
async fn a_message_stays_in_flight_while_its_partial_result_is_not_stored() {
    let world = World::new();
    let one = world.machine("one").await;
    let two = world.machine("two").await;
    let queue = world.queue();
    queue.send(b"x").expect("sent");
    let message = queue.receive(Duration::ZERO).expect("received").expect("there is one");
    // The other machine has the task: what this one has cannot be stored.
    two.app.claim_task("t", Some(5)).await.expect("free");
    let (socket, receipt) = (one.socket.clone(), Receipt { queue: queue.url(), receipt: message.receipt });
    let given_back = beside(move || {
        let task = worker(&socket).task("t").message(receipt, 1).start().expect("registered");
        let stored = task.store_json(&1, 0.1);
        assert!(matches!(stored, Err(Error::Taken(_))), "{stored:?}");
        assert!(matches!(task.take_partial(), Err(Error::Taken(_))));
        task.give_back()
    })
    .await;
    given_back.expect("whoever has it does not need ours");
    assert_eq!(queue.depth().expect("counted").ready, 1, "a message that is nobody's goes back");
}

#[tokio::test]
async fn a_task_that_comes_back_after_another_machine_had_it_is_this_machines_again() {
    let world = World::new();
    let one = world.machine("one").await;
    let two = world.machine("two").await;
    let queue = world.queue();
    let receipt = |text: &str| Receipt { queue: queue.url(), receipt: text.to_owned() };
    let (socket, first) = (one.socket.clone(), receipt("0-1.1.1"));
    // The workers of all but the last delivery die without a word.
    let mut died = vec![];
    let task = beside(move || {
        let task = worker(&socket).task("t").message(first, 1).start().expect("registered");
        task.store_json(&"of the first delivery", 0.1).expect("stored");
        task
    })
    .await;
    died.push(task);
    // The queue gives the message to another machine.
    two.app.claim_task("t", Some(2)).await.expect("given out once more");
    let (socket, third) = (one.socket.clone(), receipt("0-1.3.3"));
    let task = beside(move || {
        let task = worker(&socket).task("t").message(third, 3).start().expect("registered");
        // It does not ask what is there, and begins anew.
        task.store_json(&"of the third delivery", 0.2).expect("stored");
        task
    })
    .await;
    died.push(task);
    let found = two.app.claim_task("t", Some(4)).await.expect("given out once more").1;
    let (record, content) = found.expect("kept");
    assert_eq!((&content.bytes[..], record.claim), (&br#""of the third delivery""#[..], 3));

    two.app.claim_task("u", Some(4)).await.expect("free");
    let (socket, again) = (one.socket.clone(), receipt("0-2.1.1"));
    beside(move || {
        let worker = worker(&socket);
        let late = worker.task("u").message(again.clone(), 3).start().expect("registered");
        let lost = late.store_json(&1, 0.3);
        assert!(matches!(lost, Err(Error::Taken(_))), "{lost:?}");
        died.push(late);
        let task = worker.task("u").message(again, 5).start().expect("registered");
        task.store_json(&5, 0.5).expect("what was lost once is not lost for ever");
        task.done().expect("done");
        drop(died); // ended by now: no harm
    })
    .await;
}

#[tokio::test]
async fn a_message_that_no_queue_will_ever_take_is_named_once_and_not_at_every_evacuation() {
    let world = World::new();
    let one = world.machine("one").await;
    let nobody = Receipt { queue: "nonsense".to_owned(), receipt: "r".to_owned() };
    let deadline = lifeboat_snapshot::Deadline::at(tokio::time::Instant::now() + Duration::from_secs(60));
    let first = one.app.hand_over(vec![nobody], Some(Duration::ZERO), &deadline).await;
    assert_eq!(first.failed, 1, "{first:?}");
    let again = one.app.hand_over(Vec::new(), Some(Duration::ZERO), &deadline).await;
    assert!(again.is_nothing(), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_waited_for_until_the_deadline_and_named_and_other_messages_go_back() {
    let slow = object_store::throttle::ThrottleConfig {
        wait_list_per_call: Duration::from_secs(3_600),
        ..object_store::throttle::ThrottleConfig::default()
    };
    let memory = object_store::memory::InMemory::new();
    let throttled = Arc::new(object_store::throttle::ThrottledStore::new(memory, Default::default()));
    let world = World::over(Arc::clone(&throttled) as Arc<dyn ObjectStore>);
    let one = world.machine("one").await;
    throttled.config_mut(|config| *config = slow);
    let queue = world.queue();
    for n in 0..2 {
        queue.send(format!("{n}").as_bytes()).expect("sent");
        let message = queue.receive(Duration::ZERO).expect("received").expect("there is one");
        let registration = lifeboat_worker::wire::Registration {
            id: format!("t{n}"),
            receipt: Some(Receipt { queue: queue.url(), receipt: message.receipt }),
            attempt: Some(1),
            path: None,
        };
        one.app.registry().register(registration, 1, |_| true).expect("taken in");
    }
    let content = lifeboat_snapshot::partial::Content { bytes: "1".into(), is_json: true };
    one.app.registry().checkpoint("t0", content, None).expect("known").expect("taken in");
    let begun = tokio::time::Instant::now();
    let deadline = lifeboat_snapshot::Deadline::at(begun + Duration::from_secs(8));
    let handed = one.app.hand_over(Vec::new(), Some(Duration::ZERO), &deadline).await;
    assert_eq!(begun.elapsed().as_secs(), 8, "{handed:?}");
    assert_eq!((handed.given_back, handed.failed), (1, 1), "{handed:?}");
    assert!(handed.text().contains("did not answer in time"), "{handed:?}");
    assert_eq!(one.app.registry().tasks.len(), 1, "what is not stored is kept for another try");
}

#[tokio::test]
async fn tasks_belong_to_the_newest_claim_of_the_work() {
    let world = World::new();
    let one = world.machine("one").await;
    let claim_of = |app: &App| app.holder(None).expect("claimed").claim;
    let first = claim_of(&one.app);
    // An evacuation that a dead agent had begun is brought to its end under one claim, and the work goes on under the next.
    one.app.claimed(first + 1);
    assert_eq!(claim_of(&one.app), first + 1, "others would take tasks of the one before for free");
}

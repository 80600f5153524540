//! The socket as a worker sees it, well-behaved or not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
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
use lifeboat_worker::wire::{PARTIAL_BYTES_MAX, Receipt};
use lifeboat_worker::{Error, Queue, Shutdown, Worker};

use super::App;
use super::serve::AppServer;
use crate::config::Config;
use crate::ports::Ports;

struct World {
    temp: tempfile::TempDir,
    store: Arc<dyn ObjectStore>,
}

struct Machine {
    app: Arc<App>,
    _server: AppServer,
    socket: std::path::PathBuf,
    _claim: Claim,
}

impl World {
    fn new() -> Self {
        let store = lifeboat_snapshot::open(&StoreUrl::Memory).expect("opened");
        Self { temp: tempfile::tempdir().expect("temporary directory"), store }
    }

    async fn machine(&self, name: &str) -> Machine {
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
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

fn worker(socket: &Path) -> Worker {
    Worker::connect_to(socket, Shutdown::default()).expect("connected")
}

/// Sends bytes as they are, and returns the status of the answer; 0 for none.
fn raw(socket: &Path, bytes: &[u8]) -> u16 {
    let mut stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let _ = stream.write_all(bytes); // it may refuse before the end
    let mut head = [0; 12];
    if stream.read_exact(&mut head).is_err() {
        return 0;
    }
    std::str::from_utf8(&head[9..]).expect("digits").parse().expect("a status")
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
async fn nonsense_is_refused_and_harms_nobody() {
    let world = World::new();
    let one = world.machine("one").await;
    let socket = one.socket.clone();
    let statuses = beside(move || {
        let worker = worker(&socket);
        let task = worker.task("t").start().expect("registered");
        let gigabyte =
            format!("PUT /v1/tasks/t/partial HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1u64 << 30);
        let deep = "[".repeat(10_000);
        let statuses = [
            raw(&socket, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"),
            raw(&socket, b"GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n"),
            raw(&socket, b"POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n{\"a\""),
            raw(&socket, b"PUT /v1/tasks/%ff/partial HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
            raw(&socket, b"PUT /v1/tasks/other/partial HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
            raw(&socket, gigabyte.as_bytes()),
            raw(
                &socket,
                format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{deep}", deep.len())
                    .as_bytes(),
            ),
            raw(&socket, format!("GET /v1 HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000)).as_bytes()),
            raw(&socket, format!("GET /v1 HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000)).as_bytes()),
        ];
        let too_large = task.checkpoint(&vec![0; PARTIAL_BYTES_MAX + 1], 0.0);
        assert!(matches!(too_large, Err(Error::Refused { status: 413, .. })), "{too_large:?}");
        assert!(task.progress(7.0).is_err() && task.progress(f64::NAN).is_err());
        // Dies in the middle of a request; hangs on many connections.
        for _ in 0..20 {
            let mut dying = UnixStream::connect(&socket).expect("connected");
            dying
                .write_all(b"PUT /v1/tasks/t/partial HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab")
                .expect("sent");
        }
        let hanging: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).expect("connected")).collect();
        task.checkpoint(b"still served", 0.5).expect("served");
        assert_eq!(worker.about().expect("served").expect("an agent").tasks.active, 1);
        drop(hanging);
        statuses
    })
    .await;
    assert_eq!(statuses, [400, 404, 400, 400, 404, 413, 400, 431, 431]);
}

#[tokio::test]
async fn so_many_connections_and_no_more() {
    let world = World::new();
    let one = world.machine("one").await;
    let socket = one.socket.clone();
    beside(move || {
        let worker = worker(&socket);
        let hanging: Vec<_> = (0..400).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
        // Those beyond the bound are closed at once; the worker's own connection is as good as before.
        worker.about().expect("served");
        let closed = hanging
            .iter()
            .filter(|stream| {
                stream.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
                matches!((&**stream).read(&mut [0]), Ok(0))
            })
            .count();
        assert!(closed >= 400 - 256, "{closed}");
    })
    .await;
}

#[tokio::test]
async fn another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return; // only root can become another user; the mode of the socket is tested below
    }
    let world = World::new();
    let one = world.machine("one").await;
    let mode = std::fs::metadata(&one.socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Even where somebody opened every door on the way.
    for path in one.socket.ancestors().take_while(|path| path.starts_with(world.temp.path())) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("set");
    }
    let socket = one.socket.clone();
    let output = beside(move || {
        std::process::Command::new("python3")
            .args(["-c", "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'GET /v1 HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'); print(len(s.recv(100)))"])
            .arg(&socket)
            .current_dir("/")
            .uid(65_534)
            .gid(65_534)
            .output()
            .expect("python3 runs")
    })
    .await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    // Closed without an answer: an empty read, or a write into a closed socket.
    assert!(said.trim() == "0" || error.contains("Error") && !error.contains("Permission"), "{said} {error}");
}

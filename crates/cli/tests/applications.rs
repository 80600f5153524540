//! Applications under the real binary: the requests as the documentation has them, a worker in Python, the notice.

mod harness;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use harness::{Machine, World, eventually};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::Signal;

const CONFIG: &str = "lease = \"3s\"\napplication = \"app\"\n[metadata]\ninterval = \"500ms\"\n";

fn socket(machine: &Machine, name: &str) -> std::path::PathBuf {
    let path = machine.agent(name).join("app.sock");
    eventually("the application's socket is there", || path.exists());
    path
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name).to_string_lossy().into_owned()
}

/// Every key in the world's store below the application.
fn kept(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![world.store().join("app")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path())
            } else {
                found.push(entry.path().display().to_string())
            }
        }
    }
    found
}

#[test]
fn a_worker_in_plain_python_goes_on_on_another_machine_where_it_was_interrupted() {
    let world = World::new();
    let worker = example("worker.py");
    let first = world.spot_machine("one");
    first.configure(CONFIG);
    let mut run = first.run_named("first", &[], &["python3", &worker, "a/b", "100000"]);
    run.wait_for("workload started");
    eventually("something is kept", || kept(&world).iter().any(|key| key.contains("/partial/")));
    first.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    let stored: serde_json::Value = kept(&world)
        .iter()
        .find(|key| key.contains("/partial/") && key.ends_with(".json"))
        .map(|key| serde_json::from_slice(&std::fs::read(key).expect("read")).expect("JSON"))
        .expect("kept");
    let count = stored["json"]["count"].as_u64().expect("a number");
    assert_eq!(stored["task"], "a/b");
    // A workload of another name, of the same application.
    let second = world.machine("two");
    second.configure(CONFIG);
    let more = (count + 3).to_string();
    // The result's name has a slash: its folder has to be there.
    std::fs::create_dir_all(second.work().join("a")).expect("created");
    let mut run = second.run_named("second", &[], &["python3", &worker, "a/b", &more]);
    run.expect_code(0);
    assert_eq!(second.read("a/b.result").trim(), more);
    assert_eq!(kept(&world), Vec::<String>::new(), "nothing is left of a task that is done");
}

/// A request as a `curl` line of the documentation writes it.
struct Curl {
    method: String,
    path: String,
    content_type: String,
    body: String,
}

fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

fn curl(line: &str) -> Curl {
    let (mut method, mut path, mut body) = (None, String::new(), String::new());
    let mut content_type = "application/x-www-form-urlencoded".to_owned();
    let words = words(line);
    let mut rest = words.iter().map(String::as_str);
    assert_eq!(rest.next(), Some("curl"));
    while let Some(word) = rest.next() {
        let mut value = || rest.next().expect("a value").to_owned();
        match word {
            "--unix-socket" => assert_eq!(value(), "$LIFEBOAT_SOCKET"),
            "-X" => method = Some(value()),
            "-H" => content_type = value().strip_prefix("content-type: ").expect("the one header").to_owned(),
            "-d" => body = value(),
            "-N" => {}
            url => path = url.strip_prefix("http://l").expect(url).to_owned(),
        }
    }
    let method = method.unwrap_or_else(|| if body.is_empty() { "GET" } else { "POST" }.to_owned());
    Curl { method, path, content_type, body }
}

fn ask(socket: &Path, request: &Curl) -> String {
    let mut stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(harness::LIMIT)).expect("set");
    let Curl { method, path, content_type, body } = request;
    // As curl does, but for the connection: it ends with the answer.
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: l\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    if path == "/v1/events" {
        let mut start = [0; 200];
        let read = stream.read(&mut start).expect("it begins");
        answer.extend_from_slice(&start[..read]);
    } else {
        stream.read_to_end(&mut answer).expect("answered");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn every_request_in_the_documentation_works_as_it_is_written_there() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(CONFIG);
    let run = machine.run(&[], "while :; do sleep 0.1; done");
    let socket = socket(&machine, "w");
    let text = include_str!("../../../docs/applications.md");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(lines.len() >= 12, "{lines:?}");
    for line in lines {
        let answer = ask(&socket, &curl(line));
        let status = answer.get(9..12).unwrap_or_default();
        assert!(matches!(status, "200" | "201" | "202" | "204"), "{line}\n{answer}");
    }
    run.signal(Signal::TERM);
}

#[test]
fn the_saved_state_tells_of_the_tasks_and_a_message_in_flight_is_given_back() {
    use lifeboat_worker::directory::Settings;
    use lifeboat_worker::{DirectoryQueue, Queue};
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.configure(CONFIG);
    let settings = Settings { visibility_ms: 3_600_000, receives_max: 10 };
    let queue = DirectoryQueue::create(&world.path().join("queue"), settings).expect("created");
    for _ in 0..3 {
        queue.send(b"x").expect("sent");
    }
    let mut receipts =
        (0..3).map(|_| queue.receive(Duration::ZERO).expect("received").expect("there is one").receipt);
    let mut run = machine.run(&[], "while :; do sleep 0.1; done");
    let socket = socket(&machine, "w");
    let post = |path: &str, body: String| {
        let request = Curl { method: "POST".into(), path: path.into(), content_type: String::new(), body };
        let answer = ask(&socket, &request);
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    };
    let receipt = |receipt: String| format!("{{\"queue\": \"{}\", \"receipt\": \"{receipt}\"}}", queue.url());
    let first = receipt(receipts.next().expect("one"));
    post("/v1/tasks", format!("{{\"id\": \"t\", \"path\": \"in/t\", \"receipt\": {first}}}"));
    post("/v1/tasks/t/progress", "{\"progress\": 0.5}".into());
    post("/v1/receipts", receipt(receipts.next().expect("two")));
    let third = receipt(receipts.next().expect("three"));
    machine.write("active_receipts.json", format!("[{third}]"));
    machine.write("state.json", "{\"cursor\": 3}");
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    let depth = queue.depth().expect("counted");
    assert_eq!((depth.ready, depth.in_flight), (3, 0), "{}", run.log());
    let shown = machine.ask_json(&["show", "w"]);
    let state = &shown["saved_state"];
    assert_eq!((&state["cursor"], &state["tasks"]["counts"]["active"]), (&3.into(), &1.into()), "{state}");
    let task = &state["tasks"]["active"][0];
    assert_eq!((&task["task"], &task["path"], &task["progress"]), (&"t".into(), &"in/t".into(), &0.5.into()));
}

#[test]
fn messages_of_an_agent_that_was_killed_are_given_back_when_it_is_started_again() {
    use lifeboat_worker::directory::Settings;
    use lifeboat_worker::{DirectoryQueue, Queue};
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(CONFIG);
    let settings = Settings { visibility_ms: 3_600_000, receives_max: 10 };
    let queue = DirectoryQueue::create(&world.path().join("queue"), settings).expect("created");
    queue.send(b"x").expect("sent");
    let message = queue.receive(Duration::ZERO).expect("received").expect("there is one");
    let mut run = machine.run(&[], "while :; do sleep 0.1; done");
    let socket = socket(&machine, "w");
    let body = format!("{{\"queue\": \"{}\", \"receipt\": \"{}\"}}", queue.url(), message.receipt);
    let request =
        Curl { method: "POST".into(), path: "/v1/receipts".into(), content_type: String::new(), body };
    assert!(ask(&socket, &request).starts_with("HTTP/1.1 201"));
    let spool = machine.agent("w").join("tasks.json");
    eventually("it is kept on this machine", || spool.exists());
    run.kill_agent();
    assert_eq!(queue.depth().expect("counted").in_flight, 1);
    let mut again = machine.run(&[], "true");
    again.expect_code(0);
    assert_eq!(queue.depth().expect("counted").ready, 1, "{}", again.log());
}

#[test]
fn without_the_store_and_the_queue_the_local_part_is_done_and_resume_does_the_rest_when_they_are_back() {
    use lifeboat_worker::directory::Settings;
    use lifeboat_worker::{DirectoryQueue, Queue};
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(CONFIG);
    let nothing = machine.lifeboat(&["evacuate", "--name", "w", "--resume"]).output().expect("started");
    assert!(nothing.status.success(), "nothing to resume is no failure");
    let settings = Settings { visibility_ms: 3_600_000, receives_max: 10 };
    let dir = world.path().join("queue");
    let queue = DirectoryQueue::create(&dir, settings).expect("created");
    queue.send(b"x").expect("sent");
    let message = queue.receive(Duration::ZERO).expect("received").expect("there is one");
    machine.write("result", "precious");
    let mut run = machine.run(&["--grace", "20s"], "while :; do sleep 0.1; done");
    let socket = socket(&machine, "w");
    let post = |method: &str, path: &str, body: String| {
        let (method, path) = (method.into(), path.into());
        let answer = ask(&socket, &Curl { method, path, content_type: "application/json".into(), body });
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    };
    let receipt = format!("{{\"queue\": \"{}\", \"receipt\": \"{}\"}}", queue.url(), message.receipt);
    post("POST", "/v1/tasks", format!("{{\"id\": \"t\", \"receipt\": {receipt}, \"attempt\": 1}}"));
    // Nothing of the store or the queue can be reached: a file stands in their place.
    let away = |path: &Path| path.with_extension("away");
    for path in [world.store(), dir.clone()] {
        std::fs::rename(&path, away(&path)).expect("moved");
        std::fs::write(&path, "").expect("written");
    }
    post("PUT", "/v1/tasks/t/partial", "{\"line\": 7}".into());
    run.signal(Signal::TERM);
    run.expect_code(86);
    let spool = std::fs::read_to_string(machine.agent("w").join("tasks.json")).expect("kept on this machine");
    assert!(spool.contains(&message.receipt), "{spool}");
    for path in [world.store(), dir.clone()] {
        std::fs::remove_file(&path).expect("removed");
        std::fs::rename(away(&path), &path).expect("moved back");
    }
    let resumed = machine.lifeboat(&["evacuate", "--name", "w", "--resume"]).output().expect("started");
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_eq!(queue.depth().expect("counted").ready, 1, "the message is given back");
    assert_eq!(kept(&world).iter().filter(|key| key.contains("/partial/")).count(), 1, "{:?}", kept(&world));
    let other = world.machine("two");
    other.configure(CONFIG);
    other.run(&[], "cat result > copy").expect_code(0);
    assert_eq!(other.read("copy"), "precious");
}

#[test]
fn an_agent_killed_in_the_middle_of_an_evacuation_gives_messages_back_when_somebody_goes_on_with_it() {
    use lifeboat_worker::directory::Settings;
    use lifeboat_worker::{DirectoryQueue, Queue};
    for (stage, is_by_hand) in [("drain", true), ("drain", false), ("save_state", true)] {
        let world = World::new();
        let machine = world.machine("one");
        machine.configure(&format!("{CONFIG}[evacuation.drain]\nmaximum = \"2s\"\n"));
        let settings = Settings { visibility_ms: 3_600_000, receives_max: 10 };
        let queue = DirectoryQueue::create(&world.path().join("queue"), settings).expect("created");
        queue.send(b"x").expect("sent");
        let message = queue.receive(Duration::ZERO).expect("received").expect("there is one");
        // It would work on, and keep its message, for ever.
        let mut run =
            machine.run(&["--grace", "60s"], "trap '' TERM; echo $$ > ../pid; while :; do sleep 0.1; done");
        let socket = socket(&machine, "w");
        let ask = |method: &str, path: &str, body: String| {
            let (method, path) = (method.into(), path.into());
            let answer = ask(&socket, &Curl { method, path, content_type: "application/json".into(), body });
            assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        };
        let receipt = format!("{{\"queue\": \"{}\", \"receipt\": \"{}\"}}", queue.url(), message.receipt);
        ask("POST", "/v1/tasks", format!("{{\"id\": \"t\", \"receipt\": {receipt}, \"attempt\": 1}}"));
        ask("PUT", "/v1/tasks/t/partial?progress=0.5", "{\"line\": 7}".into());
        let spool = machine.agent("w").join("tasks.json");
        eventually("it is kept on this machine", || spool.exists());
        run.signal(Signal::TERM);
        run.wait_for(&format!("stage started stage={stage}"));
        run.kill_agent();
        if stage == "drain" {
            assert_eq!(queue.depth().expect("counted").in_flight, 1, "nobody has given it back yet");
        }
        if is_by_hand {
            let resumed =
                machine.lifeboat(&["evacuate", "--name", "w", "--resume"]).output().expect("started");
            assert!(resumed.status.success(), "{stage}: {}", String::from_utf8_lossy(&resumed.stderr));
        } else {
            machine.run(&[], "exit 1").expect_code(85);
        }
        // The worker is gone before: it cannot take its message back.
        let pid = std::fs::read_to_string(machine.dir.join("pid")).expect("written by the worker");
        assert!(!harness::is_alive(&pid), "{stage}: process {pid} is left");
        let depth = queue.depth().expect("counted");
        assert_eq!((depth.ready, depth.in_flight), (1, 0), "{stage}");
        let partials = kept(&world).into_iter().filter(|key| key.contains("/partial/")).collect::<Vec<_>>();
        assert_eq!(partials.len(), 1, "{stage}: {partials:?}");
    }
}

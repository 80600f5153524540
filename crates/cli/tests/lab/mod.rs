//! What the tests of the controller share: a lab of its own for each, on a free port of loopback, and controllers
//! beside it, all of them the real binary. Time runs faster in the world by a factor that all of them are told.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use lifeboat_core::failover::history::Entry;
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_sim::ecs::{Figures, Recorded, check_recorded};
use serde_json::{Value, json};

use crate::harness::Running;

/// A return through the stable window takes a quarter of an hour of the world's time.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// A lab that runs, with its directory. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Lab {
    child: Child,
    address: String,
    queue: String,
    speed: u32,
    origin: i64,
    dir: tempfile::TempDir,
}

/// A value of the lab's, by a path of keys.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[*key])
}

impl Lab {
    /// A pair `web` of ten tasks on Spot, with room for forty; `more` is added to the scenario.
    pub(crate) fn start(speed: u32, more: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let scenario = dir.path().join("scenario.toml");
        let text = format!("spot_capacity = 40\n{more}\n[[services]]\nname = 'web'\ntasks = 10\n");
        fs::write(&scenario, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .args(["lab", "--json", "--listen", "127.0.0.1:0", "--stamps", "world", "--speed"])
            .arg(speed.to_string())
            .arg(&scenario)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the lab starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("it says where it is");
        let ready: Value = serde_json::from_str(&line).expect("JSON");
        let text = |key: &str| ready[key].as_str().expect("text").to_owned();
        let address = text("url").trim_start_matches("http://").to_owned();
        let mut lab = Self { child, address, queue: text("queue"), speed, origin: 0, dir };
        let time = lab.get("time");
        lab.origin = time["stamp_ms"].as_i64().expect("ms") - time["world_ms"].as_i64().expect("ms");
        lab
    }

    fn http(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).expect("the lab listens");
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        let length = body.len();
        let request = format!(
            "{method} /lab/{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}",
            self.address
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answered");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        let start = body.find(['{', '[']).expect("JSON");
        serde_json::Deserializer::from_str(&body[start..])
            .into_iter::<Value>()
            .next()
            .expect("a value")
            .expect("JSON")
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.http("GET", path, "")
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Value {
        self.http("POST", path, &body.to_string())
    }

    /// How `web` stands: `spot` or `on_demand`, then `desired`, `ready`, `starting`.
    pub(crate) fn web(&self, side: &str, what: &str) -> u64 {
        let state = self.get("state");
        at(&state["services"][0], &[side, what]).as_u64().expect("a number")
    }

    /// Both desired counts of `web`.
    pub(crate) fn told(&self) -> (u64, u64) {
        let state = self.get("state");
        let desired = |side: &str| at(&state["services"][0], &[side, "desired"]).as_u64().expect("a number");
        (desired("spot"), desired("on_demand"))
    }

    /// Waits until `is_so`.
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !is_so(self) {
            assert!(
                Instant::now() < end,
                "never came true: {what}\nservices: {}\nhistory: {}",
                self.get("state")["services"],
                String::from_utf8_lossy(&self.ask(&["history"]).stdout)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes the controller's configuration and returns its path.
    pub(crate) fn config(&self, more: &str) -> PathBuf {
        let path = self.dir.path().join("fleet.toml");
        let origin = lifeboat_controller::clock::rfc3339(Timestamp(self.origin));
        let store = self.dir.path().join("fleet.db");
        let text = format!(
            "region = 'us-east-1'\nendpoint = 'http://{}'\nclusters = ['lab']\n\
             [queue]\nurl = '{}'\n[store]\nsqlite = '{}'\n\
             [clock]\nscale = {}\norigin = '{origin}'\n\
             [alerts]\ntopic = 'arn:aws:sns:us-east-1:123456789012:alerts'\n\
             [metrics]\nnamespace = 'Lifeboat/Fleet'\n{more}\n",
            self.address,
            self.queue,
            store.display(),
            self.speed
        );
        fs::write(&path, text).expect("written");
        path
    }

    /// `lifeboat ARGS --config FILE` with credentials that the lab does not look at.
    pub(crate) fn lifeboat(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .args(args)
            .arg("--config")
            .arg(self.dir.path().join("fleet.toml"))
            .env("AWS_ACCESS_KEY_ID", "lab")
            .env("AWS_SECRET_ACCESS_KEY", "lab")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", self.dir.path())
            .env_remove("AWS_PROFILE")
            .env_remove("LIFEBOAT_LOG")
            .stdin(Stdio::null());
        command
    }

    /// A command that ends by itself.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        self.lifeboat(args).output().expect("started")
    }

    /// The same, as JSON.
    pub(crate) fn ask_json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let output = self.ask(&args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// A controller that runs.
    pub(crate) fn controller(&self, args: &[&str]) -> Running {
        let mut all = vec!["controller"];
        all.extend(args);
        Running::start(&mut self.lifeboat(&all))
    }

    /// A controller that ends as by SIGKILL when it passes a point for the `count`-th time.
    pub(crate) fn doomed_controller(&self, point: &str, count: u32) -> Running {
        let mut command = self.lifeboat(&["controller"]);
        command.env("LIFEBOAT_CRASH_AT", format!("{point}:{count}"));
        Running::start(&mut command)
    }

    /// The history, oldest first.
    pub(crate) fn history(&self) -> Vec<Entry> {
        let mut facts = self.ask_json(&["history", "--limit", "1000"]);
        let mut entries: Vec<Entry> = facts
            .as_array_mut()
            .expect("a list")
            .drain(..)
            .map(|fact| serde_json::from_value(fact).expect("an entry"))
            .collect();
        entries.reverse();
        entries
    }

    /// What is stored of a service, as it is stored.
    pub(crate) fn stored(&self, service: &str) -> Value {
        let open = lifeboat_controller::store::SqliteStore::open_existing(&self.dir.path().join("fleet.db"));
        let store = open.expect("a store");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let load = async { lifeboat_controller::store::Store::load(&store, service).await };
        let state = runtime.block_on(load).expect("answered").expect("stored");
        json!({ "state": serde_json::to_value(state).expect("JSON") })
    }

    /// What ECS showed of `web`, on the history's clock.
    pub(crate) fn figures(&self) -> Vec<Figures> {
        let timeline = self.get("timeline?service=web");
        let samples = timeline["samples"].as_array().expect("a list").iter();
        samples
            .map(|sample| {
                let number =
                    |index: usize| u32::try_from(sample[index].as_u64().expect("a number")).expect("small");
                Figures {
                    at: Timestamp(self.origin + sample[0].as_i64().expect("ms")),
                    spot_serving: number(1) + number(2),
                    on_demand_serving: number(4),
                    spot_desired: number(6),
                    on_demand_desired: number(7),
                }
            })
            .collect()
    }

    /// Holds the promises of the simulator's checkers against what was recorded.
    pub(crate) fn check(&self, rules: &Rules) {
        let (history, figures) = (self.history(), self.figures());
        let time = self.get("time");
        let end = Timestamp(time["stamp_ms"].as_i64().expect("ms"));
        // Half a second of a busy machine.
        let lag = Millis(500 * u64::from(self.speed));
        let recorded = Recorded { rules, target: 10, history: &history, figures: &figures, end, lag };
        let found: Vec<String> = check_recorded(&recorded).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{}\n{history:#?}", found.join("\n"));
        assert!(!history.is_empty(), "something must have happened");
    }

    /// Interrupts so many Spot tasks, announced.
    pub(crate) fn interrupt(&self, tasks: u32) {
        self.post("interrupt", json!({ "tasks": tasks, "service": "web", "announced": true }));
    }

    /// How many seconds of real time so many of the world's take.
    pub(crate) fn real(&self, seconds: u64) -> Duration {
        Duration::from_millis(seconds * 1_000 / u64::from(self.speed))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

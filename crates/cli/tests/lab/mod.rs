//! What the tests of the controller share: a lab of its own for each, on a free port of loopback, and controllers
//! beside it, all of them the real binary. Time runs faster in the world by a factor that all of them are told.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use lifeboat_aws::testing::{Front, Moto, Transaction};
use lifeboat_controller::event::{Parsed, parse};
use lifeboat_controller::store::{SqliteStore, Store};
use lifeboat_core::failover::event::Event;
use lifeboat_core::failover::history::Entry;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::failover::state::{Rules, State};
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_sim::ecs::{Figures, Message, Recorded, StoredState, check_recorded};
use rusqlite::Connection;
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
    /// In place of SQLite.
    dynamodb: Option<(Moto, Front)>,
}

/// The table, where it is DynamoDB that keeps the states.
const TABLE: &str = "fleet";

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
        let mut lab = Self { child, address, queue: text("queue"), speed, origin: 0, dir, dynamodb: None };
        let time = lab.get("time");
        lab.origin = time["stamp_ms"].as_i64().expect("ms") - time["world_ms"].as_i64().expect("ms");
        lab
    }

    /// The same with a table of DynamoDB for the controllers; none where moto is not installed.
    pub(crate) fn start_with_dynamodb(speed: u32, more: &str) -> Option<Self> {
        let moto = Moto::start()?;
        moto.create_table(TABLE, "pk", Some("sk"));
        let mut lab = Self::start(speed, more);
        let front = Front::start(&moto, Some(lab.address.parse().expect("an address")));
        lab.dynamodb = Some((moto, front));
        Some(lab)
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

    /// Its address, for whoever speaks AWS's protocols.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
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
        let (endpoint, region, store) = match &self.dynamodb {
            // The table is in the region of every test's moto; the lab minds none.
            Some((_, front)) => (front.url(), lifeboat_aws::testing::REGION, format!("dynamodb = '{TABLE}'")),
            None => (self.url(), "us-east-1", format!("sqlite = '{}'", self.store().display())),
        };
        let text = format!(
            "region = '{region}'\nendpoint = '{endpoint}'\nclusters = ['lab']\n\
             [queue]\nurl = '{}'\n[store]\n{store}\n\
             [clock]\nscale = {}\norigin = '{origin}'\n\
             [alerts]\ntopic = 'arn:aws:sns:us-east-1:123456789012:alerts'\n\
             [metrics]\nnamespace = 'Lifeboat/Fleet'\n{more}\n",
            self.queue, self.speed
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

    fn store(&self) -> PathBuf {
        self.dir.path().join("fleet.db")
    }

    /// From now on every state that is stored is kept, in the transaction that stores it.
    fn keep_every_state(&self) {
        if self.dynamodb.is_some() {
            return; // the front sees them
        }
        drop(SqliteStore::open(&self.store()).expect("a store"));
        let connection = Connection::open(self.store()).expect("opened");
        connection.busy_timeout(LIMIT).expect("set");
        let trigger = "CREATE TABLE IF NOT EXISTS kept (wall_ms INTEGER NOT NULL, state TEXT NOT NULL);
             CREATE TRIGGER IF NOT EXISTS keep AFTER INSERT ON state WHEN new.service = 'web' BEGIN
                 INSERT INTO kept VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), new.state);
             END;";
        connection.execute_batch(trigger).expect("written");
    }

    /// The history's clock at a moment of the wall, as the lab has it.
    fn stamp(&self, wall_ms: i64) -> Timestamp {
        Timestamp(self.origin + (wall_ms - self.origin) * i64::from(self.speed))
    }

    /// Every state of `web` that was stored, oldest first.
    fn states(&self) -> Vec<StoredState> {
        let stored = |wall_ms: i64, text: &str| {
            let mut record: Value = serde_json::from_str(text).expect("JSON");
            let state: State = serde_json::from_value(record["state"].take()).expect("a state");
            StoredState { at: self.stamp(wall_ms), state }
        };
        if let Some((_, front)) = &self.dynamodb {
            let all = front.transactions().into_iter();
            let of = |transaction: Transaction| {
                let item = transaction.items.iter().map(|item| &item["Put"]["Item"]);
                let text = item.into_iter().find_map(|item| item["state"]["S"].as_str())?;
                Some(stored(transaction.wall_ms, text))
            };
            return all.filter_map(of).collect();
        }
        let connection = Connection::open(self.store()).expect("opened");
        connection.busy_timeout(LIMIT).expect("set");
        let mut all = connection.prepare("SELECT wall_ms, state FROM kept ORDER BY rowid").expect("kept");
        let rows = all.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)));
        let read = |row: rusqlite::Result<(i64, String)>| {
            let (wall_ms, text) = row.expect("a row");
            stored(wall_ms, &text)
        };
        rows.expect("rows").map(read).collect()
    }

    /// Every message that reached the queue and told of `web`.
    fn messages(&self) -> Vec<Message> {
        let (mut found, mut since) = (Vec::new(), 0);
        loop {
            let page = self.get(&format!("messages?since={since}"));
            let page = page["messages"].as_array().expect("a list");
            let Some(last) = page.last() else { return found };
            since = last["number"].as_u64().expect("a number");
            found.extend(page.iter().filter_map(message));
        }
    }

    /// When Spot last had less room than before, or something was taken, on the history's clock.
    fn good_from(&self) -> Timestamp {
        let (mut last, mut since) = (0, 0);
        loop {
            let page = self.get(&format!("events?since={since}"));
            let page = page["events"].as_array().expect("a list");
            let Some(end) = page.last() else { return Timestamp(self.origin + last) };
            since = end["number"].as_u64().expect("a number");
            let is_taken = |line: &&Value| line["kind"] == "capacity" || line["kind"] == "interruption";
            let at = page.iter().filter(is_taken).filter_map(|line| line["at_ms"].as_i64()).max();
            last = at.map_or(last, |at| at.max(last));
        }
    }

    /// A controller that runs.
    pub(crate) fn controller(&self, args: &[&str]) -> Running {
        self.keep_every_state();
        let mut all = vec!["controller"];
        all.extend(args);
        Running::start(&mut self.lifeboat(&all))
    }

    /// A controller that ends as by SIGKILL when it passes a point for the `count`-th time.
    pub(crate) fn doomed_controller(&self, point: &str, count: u32) -> Running {
        self.keep_every_state();
        let mut command = self.lifeboat(&["controller"]);
        command.env("LIFEBOAT_CRASH_AT", format!("{point}:{count}"));
        Running::start(&mut command)
    }

    /// The history, oldest first.
    pub(crate) fn history(&self) -> Vec<Entry> {
        let mut facts = self.ask_json(&["history", "web", "--limit", "1000"]);
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
        let store = SqliteStore::open_existing(&self.store()).expect("a store");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let load = async { Store::load(&store, service).await };
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

    /// Holds the promises of the simulator's checkers against what was recorded of a service that was moved.
    pub(crate) fn check(&self, rules: &Rules) {
        self.check_quiet(rules);
        let history = self.history();
        assert!(!history.is_empty() && self.states().len() > history.len(), "something must have happened");
    }

    /// The same of one that may have stayed where it was.
    pub(crate) fn check_quiet(&self, rules: &Rules) {
        // What is deleted after the states were read would be called forgotten.
        let (messages, figures) = (self.messages(), self.figures());
        let time = self.get("time");
        let end = Timestamp(time["stamp_ms"].as_i64().expect("ms"));
        let (states, history) = (self.states(), self.history());
        let recorded = Recorded {
            rules,
            target: 10,
            history: &history,
            states: &states,
            messages: &messages,
            figures: &figures,
            good_from: self.good_from(),
            end,
            // Half a second, and half a minute, of a busy machine.
            lag: Millis(500 * u64::from(self.speed)),
            patience: Millis(30_000 * u64::from(self.speed)),
        };
        let found: Vec<String> = check_recorded(&recorded).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{}\n{history:#?}", found.join("\n"));
        assert!(!states.is_empty(), "it was adopted");
    }

    /// Interrupts so many Spot tasks, announced.
    pub(crate) fn interrupt(&self, tasks: u32) {
        self.post("interrupt", json!({ "tasks": tasks, "service": "web", "announced": true }));
    }

    /// Spot has room for so many tasks only, for so many seconds of the world: what is beyond is reclaimed, announced,
    /// and not replaced by Spot before somebody had the time to look.
    pub(crate) fn take_spot(&self, room: u32, seconds: u64) {
        self.post("capacity", json!({ "spot": room, "for_seconds": seconds }));
    }

    /// How many seconds of real time so many of the world's take.
    pub(crate) fn real(&self, seconds: u64) -> Duration {
        Duration::from_millis(seconds * 1_000 / u64::from(self.speed))
    }
}

/// What a message told of `web`; none where it told of something else, or nothing that counts.
fn message(value: &Value) -> Option<Message> {
    let Ok(Parsed::Ecs(told)) = parse(value["body"].as_str()?) else { return None };
    let side = match told.service.service.as_str() {
        "web-spot" => Capacity::Spot,
        "web-standard" => Capacity::OnDemand,
        _ => return None,
    };
    let event = Event {
        at: told.at.unwrap_or(Timestamp(value["sent_ms"].as_i64()?)),
        capacity: told.capacity.unwrap_or(side),
        what: told.what,
    };
    Some(Message { event, version: told.version, deleted_at: value["deleted_ms"].as_i64().map(Timestamp) })
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// A command whose standard output is read as it comes, from a pipe or a pseudo terminal.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Child,
    lines: Option<BufReader<fs::File>>,
}

impl Watched {
    pub(crate) fn start(mut command: Command, on_terminal: bool) -> Self {
        let (ours, theirs) = if on_terminal { terminal() } else { pipe() };
        let child = command.stdout(theirs).stderr(Stdio::null()).spawn().expect("started");
        drop(command); // it holds the other end open
        Self { child, lines: Some(BufReader::new(ours)) }
    }

    /// The next line that contains `text`.
    pub(crate) fn line(&mut self, text: &str) -> String {
        let lines = self.lines.as_mut().expect("open");
        let end = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < end, "no line with {text:?}");
            let mut line = String::new();
            // It prints every two seconds, so that a read comes back; at its end there is nothing to read.
            assert!(lines.read_line(&mut line).expect("read") > 0, "it ended without {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Nobody reads from now on.
    pub(crate) fn close(&mut self) {
        self.lines = None;
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

fn pipe() -> (fs::File, Stdio) {
    let (ours, theirs) = std::io::pipe().expect("a pipe");
    (fs::File::from(OwnedFd::from(ours)), Stdio::from(theirs))
}

fn terminal() -> (fs::File, Stdio) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("named");
    let open = fs::OpenOptions::new().read(true).write(true).open(name.to_str().expect("UTF-8"));
    (fs::File::from(ours), Stdio::from(open.expect("opened")))
}

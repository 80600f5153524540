//! What the tests of the real binary share: machines in temporary folders, a mock metadata service for each,
//! children whose log can be waited for. Every wait has a deadline and none sleeps for luck.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod systemd;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use lifeboat_imds::identity::Identity;
use lifeboat_imds::mock::{Control, Mock, Script};
use rustix::process::{Pid, Signal, kill_process};

/// Far longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A world: a store, and machines beside it.
#[derive(Debug)]
pub(crate) struct World {
    temp: tempfile::TempDir,
}

/// A machine: its own work directory, state directory and metadata service.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) dir: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) imds: Option<Imds>,
}

/// A mock metadata service on a thread of its own.
#[derive(Debug)]
pub(crate) struct Imds {
    pub(crate) control: Control,
    pub(crate) endpoint: String,
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// A `lifeboat` that runs. Dropping it kills it and every process below it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { temp: tempfile::tempdir().expect("temporary directory") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    /// A machine without metadata service.
    pub(crate) fn machine(&self, name: &str) -> Machine {
        let dir = self.temp.path().join(name);
        fs::create_dir_all(dir.join("work")).expect("created");
        Machine { dir, store: self.store(), imds: None }
    }

    /// A machine whose metadata service announces nothing yet.
    pub(crate) fn spot_machine(&self, name: &str) -> Machine {
        Machine { imds: Some(Imds::start(name)), ..self.machine(name) }
    }
}

impl Imds {
    pub(crate) fn start(instance: &str) -> Self {
        let identity = Identity {
            instance_id: Some(format!("i-{instance}")),
            life_cycle: Some("spot".into()),
            ..Identity::default()
        };
        let script = Script { notice: None, identity, ..Script::default() };
        let (ready, started) = channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let mock = Mock::start(([127, 0, 0, 1], 0).into(), script).await.expect("a free port");
                ready.send((mock.control().clone(), mock.endpoint().to_string())).expect("awaited");
                let _ = stopped.await; // dropped with its `Imds`
            });
        });
        let (control, endpoint) = started.recv_timeout(LIMIT).expect("the mock starts");
        Self { control, endpoint, _stop: stop }
    }
}

impl Machine {
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// The agent's own directory for workload `name`.
    pub(crate) fn agent(&self, name: &str) -> PathBuf {
        self.dir.join("state/lifeboat/agents").join(name)
    }

    /// `lifeboat ARGS` with this machine's environment.
    pub(crate) fn lifeboat(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .args(args)
            .current_dir(self.work())
            .env("XDG_STATE_HOME", self.dir.join("state"))
            .env("HOME", &self.dir)
            .env_remove("LIFEBOAT_LOG")
            .stdin(Stdio::null());
        match &self.imds {
            Some(imds) => command
                .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.endpoint)
                .env_remove("AWS_EC2_METADATA_DISABLED"),
            None => command.env("AWS_EC2_METADATA_DISABLED", "true"),
        };
        command
    }

    /// `lifeboat run` of workload `w` with a fast poll, options and a shell script as its command.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Running {
        self.run_named("w", options, &["/bin/sh", "-c", script])
    }

    pub(crate) fn run_named(&self, name: &str, options: &[&str], command: &[&str]) -> Running {
        Running::start(&mut self.run_command(name, options, command))
    }

    pub(crate) fn run_command(&self, name: &str, options: &[&str], command: &[&str]) -> Command {
        let config = self.dir.join("lifeboat.toml");
        if !config.exists() {
            fs::write(&config, "lease = \"3s\"\n[metadata]\ninterval = \"500ms\"\n").expect("written");
        }
        let store = self.store.to_string_lossy().into_owned();
        let config = config.to_string_lossy().into_owned();
        let work = self.work().to_string_lossy().into_owned();
        let mut args =
            vec!["run", "--name", name, "--store", &store, "--config", &config, "--work-dir", &work];
        args.extend(options);
        args.push("--");
        args.extend(command);
        self.lifeboat(&args)
    }

    /// Replaces the machine's configuration file.
    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.dir.join("lifeboat.toml"), text).expect("written");
    }

    /// A command that ends by itself, with `--store`.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        let store = self.store.to_string_lossy().into_owned();
        let mut args = args.to_vec();
        args.extend(["--store", &store]);
        self.lifeboat(&args).output().expect("started")
    }

    /// The same, as JSON from its standard output; panics where it fails.
    pub(crate) fn ask_json(&self, args: &[&str]) -> serde_json::Value {
        let mut args = args.to_vec();
        args.push("--json");
        let output = self.ask(&args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.work().join(path);
        fs::create_dir_all(path.parent().expect("has a parent")).expect("created");
        fs::write(path, content).expect("written");
    }

    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.work().join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The summary of the last evacuation on this machine.
    pub(crate) fn summary(&self) -> serde_json::Value {
        let text = fs::read(self.agent("w").join("last_evacuation.json")).expect("a summary");
        serde_json::from_slice(&text).expect("JSON")
    }
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        // Out of reach of what a terminal sends to the tests.
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id")).expect("positive")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Waits for a log line that contains `text`, and returns it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line with {text:?} in:\n{}", self.log()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended without a line with {text:?}:\n{}", self.log())
                }
            }
        }
    }

    /// Waits for so long, in which no log line may come and it may not end.
    pub(crate) fn wait_for_silence(&mut self, span: Duration) {
        match self.lines.recv_timeout(span) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(line) => panic!("{line}, after:\n{}", self.log()),
            Err(RecvTimeoutError::Disconnected) => panic!("it ended:\n{}", self.log()),
        }
    }

    /// The next log line, or `None` when it has ended.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let line = self.lines.recv_timeout(LIMIT).ok()?;
        self.seen.push(line.clone());
        Some(line)
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(1)) {
                    self.seen.push(line);
                }
                return status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("our child")?;
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
            self.seen.push(line);
        }
        Some(status)
    }

    /// Waits for its end and checks the exit code.
    pub(crate) fn expect_code(&mut self, code: i32) {
        let status = self.wait();
        assert_eq!(status.code(), Some(code), "{status}; log:\n{}", self.log());
    }

    /// SIGKILL to the agent alone, as the out-of-memory killer does it; its workload lives on.
    pub(crate) fn kill_agent(&mut self) {
        let _ = self.child.kill(); // it may have ended just now
        self.child.wait().expect("our child");
    }

    pub(crate) fn log(&self) -> String {
        self.seen.join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let below = descendants(self.pid());
            let _ = kill_process(self.pid(), Signal::KILL); // it may have ended just now
            let _ = self.child.wait();
            for pid in below {
                let _ = kill_process(pid, Signal::KILL); // the same
            }
        }
    }
}

/// Waits until `is_so`, with a deadline.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process with this id exists and has not ended.
pub(crate) fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

/// Every process below `root`, whatever session or group it is in.
pub(crate) fn descendants(root: Pid) -> Vec<Pid> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let all: Vec<i32> = fs::read_dir("/proc")
        .expect("readable")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let mut family = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(all.iter().copied().filter(|pid| parent_of(*pid) == Some(parent)));
        next += 1;
    }
    family[1..].iter().copied().filter_map(Pid::from_raw).collect()
}

/// Every path below `dir` with its kind, mode and content: two equal trees compare equal.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("exists");
            let mode = metadata.permissions().mode();
            let content = if metadata.is_dir() {
                open.push(path.clone());
                "directory".to_owned()
            } else if metadata.is_symlink() {
                format!("link to {}", fs::read_link(&path).expect("a link").display())
            } else {
                let mut bytes = Vec::new();
                fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).expect("readable");
                format!("{} bytes, {:016x}", bytes.len(), fingerprint(&bytes))
            };
            let relative = path.strip_prefix(dir).expect("below").to_owned();
            found.insert(relative, (mode, content));
        }
    }
    found
}

fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The endpoint that ECS gives every container, on loopback. It ends with the test.
pub(crate) fn task_metadata() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let uri = format!("http://{}/v4/0123-456", listener.local_addr().expect("bound"));
    let answer = serde_json::json!({
        "Cluster": "fleet", "TaskARN": "arn:aws:ecs:eu-west-1:123456789012:task/fleet/0123456789abcdef",
        "Family": "worker", "Revision": "7", "ServiceName": "worker-spot", "LaunchType": "FARGATE",
        "AvailabilityZone": "eu-west-1a", "Limits": { "CPU": 0.5, "Memory": 1024 },
        "Containers": [{ "Networks": [{ "NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.1.2"] }] }],
    });
    let answer = answer.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
            let mut first = String::new();
            let _ = reader.read_line(&mut first); // whoever went away gets no answer
            let found = first.starts_with("GET /v4/0123-456/task ");
            let (status, body) = if found { (200, answer.as_str()) } else { (404, "") };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes()); // the same
        }
    });
    uri
}

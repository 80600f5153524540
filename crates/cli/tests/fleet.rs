//! The fleet: 200 messages, four workers of `examples/file-search` under `lifeboat run`, interrupted at random moments
//! and killed without notice twice, until the queue is empty. Counted at the work: in a log outside all work
//! directories, not at the index.
//!
//! Each seed is another world. `LIFEBOAT_FLEET_SEEDS=20 cargo nextest run -p lifeboat --test fleet` runs twenty;
//! without it, as in CI, there are two. `LIFEBOAT_FLEET_REPORT=FILE` appends how long hand-backs took, one line a seed.

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Machine, Running, World, descendants};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use lifeboat_worker::directory::{Depth, DirectoryQueue};
use rustix::process::{Signal, kill_process};

const MESSAGES: usize = 200;
const WORKERS: usize = 4;
const NOTICES: u32 = 8;
const KILLS: u32 = 2;

/// So long a world may take; a quiet machine needs some ten seconds.
const WORLD_MAX: Duration = Duration::from_secs(600);

/// Far beyond what a loaded machine delays a heartbeat. Messages of a killed machine do not wait for it: for them
/// the test lets the time pass.
const VISIBILITY: Duration = Duration::from_secs(600);

/// A living worker begins what it received within milliseconds; on a loaded machine within seconds.
const BEGUN_WITHIN: Duration = Duration::from_secs(20);

fn seeds() -> u64 {
    std::env::var("LIFEBOAT_FLEET_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// xorshift64*: the same world for the same seed, as far as the machine's timing lets it be.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

fn file_search() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_lifeboat")).with_file_name("file-search");
    assert!(path.exists(), "build it first: cargo build -p file-search ({} is not there)", path.display());
    path
}

/// Files of one to five pages.
fn write_files(dir: &Path) {
    fs::create_dir_all(dir).expect("created");
    for n in 0..MESSAGES {
        let mut text = format!("<h1>document {n}</h1>\n");
        for line in 0..(n % 5 + 1) * 4 {
            text.push_str(&format!(
                "line {line} of {n} says word{} and more words than that\n",
                (n * 7 + line) % 50
            ));
        }
        fs::write(dir.join(format!("d{n:03}.txt")), text).expect("written");
    }
}

/// The example's configuration for one machine of a world.
fn configuration(world: &Path, files: &Path, pause_ms: u64) -> String {
    let at = world.display();
    format!(
        "files = \"file://{}\"\nresults = \"file://{at}/results\"\nqueue = \"file://{at}/queue\"\n\
         index = \"index.sqlite\"\nvisibility_ms = {}\npage_bytes = 256\npause_ms = {pause_ms}\nlog = \"{at}/log\"\n",
        files.display(),
        VISIBILITY.as_millis(),
    )
}

fn said_by(config: &Path, dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(file_search());
    let output = command.arg("--config").arg(config).args(args).current_dir(dir).output().expect("started");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What is indexed when nobody disturbs the work: one worker without Lifeboat.
fn undisturbed(dir: &Path, files: &Path) -> String {
    fs::create_dir_all(dir).expect("created");
    let config = dir.join("search.toml");
    fs::write(&config, configuration(dir, files, 0)).expect("written");
    said_by(&config, dir, &["enqueue"]);
    said_by(&config, dir, &["work", "--until-empty"]);
    said_by(&config, dir, &["dump"])
}

/// One line of the work's log.
#[derive(Clone, Debug)]
struct Line {
    at_ms: u64,
    kind: String,
    message: String,
    instance: String,
}

fn lines(log: &Path) -> Vec<Line> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [at, kind, message, _count, "on", instance, ..] = words.as_slice() else {
            panic!("the work failed: {line}")
        };
        Line {
            at_ms: at.parse().expect("a time"),
            kind: (*kind).to_owned(),
            message: (*message).to_owned(),
            instance: (*instance).to_owned(),
        }
    };
    text.lines().map(parse).collect()
}

/// A worker's place in the fleet, with the machine that has it now.
struct Slot {
    machine: Machine,
    run: Running,
    instance: String,
    is_noticed: bool,
    is_done: bool,
}

struct Fleet {
    world: World,
    config: PathBuf,
    slots: Vec<Slot>,
    machines: usize,
    killed: BTreeSet<String>,
    /// Deliveries that were in flight when a machine was killed, and in no log.
    not_begun: BTreeMap<String, Instant>,
}

impl Fleet {
    fn start(files: &Path) -> Self {
        let world = World::new();
        let config = world.path().join("search.toml");
        fs::write(&config, configuration(world.path(), files, 5)).expect("written");
        said_by(&config, world.path(), &["enqueue"]);
        let mut fleet = Self {
            world,
            config,
            slots: Vec::new(),
            machines: 0,
            killed: BTreeSet::new(),
            not_begun: BTreeMap::new(),
        };
        for n in 0..WORKERS {
            let slot = fleet.boot(&format!("w{n}"));
            fleet.slots.push(slot);
        }
        fleet
    }

    /// A new machine that works under the name `workload`.
    fn boot(&mut self, workload: &str) -> Slot {
        self.machines += 1;
        let name = format!("{workload}-{}", self.machines);
        let machine = self.world.spot_machine(&name);
        machine.configure("application = \"search\"\nlease = \"60s\"\n[metadata]\ninterval = \"500ms\"\n");
        let (program, config) = (file_search(), self.config.clone());
        let command = [
            program.to_str().expect("UTF-8"),
            "--config",
            config.to_str().expect("UTF-8"),
            "work",
            "--until-empty",
        ];
        let run = machine.run_named(workload, &[], &command);
        Slot { machine, run, instance: format!("i-{name}"), is_noticed: false, is_done: false }
    }

    fn log(&self) -> Vec<Line> {
        lines(&self.world.path().join("log"))
    }

    /// Machines that are working and know of no notice.
    fn busy(&self) -> Vec<usize> {
        let begun: BTreeSet<String> = self.log().into_iter().map(|line| line.instance).collect();
        (0..self.slots.len())
            .filter(|n| {
                let slot = &self.slots[*n];
                !slot.is_done && !slot.is_noticed && begun.contains(&slot.instance)
            })
            .collect()
    }

    /// Puts a new machine in the place of each that was evacuated.
    fn replace_the_evacuated(&mut self) {
        for n in 0..self.slots.len() {
            let slot = &mut self.slots[n];
            if slot.is_done {
                continue;
            }
            let Some(status) = slot.run.ended() else { continue };
            match status.code() {
                Some(0) => slot.is_done = true,
                Some(85) => {
                    let workload = slot
                        .instance
                        .trim_start_matches("i-")
                        .rsplit_once('-')
                        .expect("has one")
                        .0
                        .to_owned();
                    self.slots[n] = self.boot(&workload);
                }
                code => panic!("{}: exit code {code:?}:\n{}", slot.instance, slot.run.log()),
            }
        }
    }

    fn notice(&mut self, n: usize) {
        let slot = &mut self.slots[n];
        slot.is_noticed = true;
        slot.machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    }

    /// The machine is gone at once: its agent, its worker, its metadata service. Another one comes, of another name:
    /// nobody need wait until the dead one's claim on its files is over.
    fn kill(&mut self, n: usize) {
        let workload = format!("k{}", self.machines);
        let new = self.boot(&workload);
        let old = std::mem::replace(&mut self.slots[n], new);
        self.killed.insert(old.instance.clone());
        let killed = old.instance.clone();
        // All at once, as power goes: an agent that saw its worker die would still give its messages back.
        old.run.signal(Signal::STOP);
        for pid in descendants(old.run.pid()) {
            let _ = kill_process(pid, Signal::KILL); // it may have ended just now
        }
        drop(old);
        self.let_the_time_pass_of_what_it_held(&killed);
    }

    /// What a killed machine held becomes visible when its time-out is over. That is now. What was received and not
    /// begun is in no log: a living worker begins it soon.
    fn let_the_time_pass_of_what_it_held(&mut self, killed: &str) {
        let holder = self.holders();
        for (name, message) in self.in_flight() {
            match holder.get(&message) {
                Some(instance) if instance == killed => self.let_its_time_pass(&name),
                Some(_) => {}
                None => drop(self.not_begun.insert(name, Instant::now())),
            }
        }
    }

    fn let_the_time_pass_of_what_nobody_begins(&mut self) {
        if self.not_begun.is_empty() {
            return;
        }
        let (holder, in_flight) = (self.holders(), self.in_flight());
        self.not_begun
            .retain(|name, _| in_flight.get(name).is_some_and(|message| !holder.contains_key(message)));
        let over = self.not_begun.iter().filter(|(_, since)| since.elapsed() > BEGUN_WITHIN);
        for name in over.map(|(name, _)| name) {
            self.let_its_time_pass(name);
        }
    }

    fn let_its_time_pass(&self, name: &str) {
        let file = fs::File::options().write(true).open(self.world.path().join("queue/flight").join(name));
        let _ = file.and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH)); // deleted just now
    }

    /// The machine that each message was last seen on.
    fn holders(&self) -> BTreeMap<String, String> {
        self.log().into_iter().map(|line| (line.message, line.instance)).collect()
    }

    /// What is in flight: each delivery with its message.
    fn in_flight(&self) -> BTreeMap<String, String> {
        let flight = fs::read_dir(self.world.path().join("queue/flight")).expect("readable").flatten();
        flight
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .map(|name| (name.clone(), name.split('.').next().expect("the id").to_owned()))
            .collect()
    }

    fn is_done(&self) -> bool {
        self.slots.iter().all(|slot| slot.is_done)
    }
}

fn disturb(fleet: &mut Fleet, random: &mut Random) {
    let (mut notices, mut kills) = (0, 0);
    let end = Instant::now() + WORLD_MAX;
    let mut next = Instant::now();
    while !fleet.is_done() {
        assert!(Instant::now() < end, "the queue is never empty: {:?}", depth(fleet));
        fleet.replace_the_evacuated();
        if Instant::now() >= next {
            let busy = fleet.busy();
            if !busy.is_empty() && notices + kills < NOTICES + KILLS {
                let which = busy[usize::try_from(random.below(busy.len() as u64)).expect("small")];
                let is_kill = kills < KILLS && (notices == NOTICES || random.below(4) == 0);
                if is_kill {
                    kills += 1;
                    fleet.kill(which);
                } else if notices < NOTICES {
                    notices += 1;
                    fleet.notice(which);
                }
            }
            next = Instant::now() + Duration::from_millis(100 + random.below(300));
        }
        fleet.let_the_time_pass_of_what_nobody_begins();
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn depth(fleet: &Fleet) -> Depth {
    DirectoryQueue::open(&fleet.world.path().join("queue")).and_then(|queue| queue.depth()).expect("counted")
}

/// Every file below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

/// What must be true of every world. Returns how long each handed-back message waited for its next worker, ms.
fn check(fleet: &Fleet, expected: &str, seed: u64) -> Vec<u64> {
    let log = fleet.log();
    let mut by_message: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in &log {
        let is_sound = line.kind != "failed" || fleet.killed.contains(&line.instance);
        assert!(is_sound, "seed {seed}: {line:?}");
        by_message.entry(&line.message).or_default().push(line);
    }
    assert_eq!(by_message.len(), MESSAGES, "seed {seed}: every message was begun");
    let mut waits = Vec::new();
    for (message, lines) in &by_message {
        let ends = lines.iter().filter(|line| line.kind == "end").count();
        let was_killed = lines.iter().any(|line| fleet.killed.contains(&line.instance));
        assert!(ends >= 1, "seed {seed}: {message} was never completed: {lines:?}");
        assert!(ends == 1 || was_killed, "seed {seed}: {message} was completed {ends} times: {lines:?}");
        for (n, stop) in lines.iter().enumerate().filter(|(_, line)| line.kind == "stop") {
            let again = lines[n + 1..].iter().find(|line| line.kind == "start");
            let again = again
                .unwrap_or_else(|| panic!("seed {seed}: {message} was handed back and never begun again"));
            waits.push(again.at_ms.saturating_sub(stop.at_ms));
        }
    }
    // Nobody waited for a time-out: a message that is handed back is visible.
    let limit = u64::try_from(VISIBILITY.as_millis()).expect("small");
    assert!(waits.iter().all(|wait| *wait < limit / 2), "seed {seed}: {waits:?}");
    assert_eq!(depth(fleet), Depth::default(), "seed {seed}: nothing waits, is in flight or given up");
    let left = files_below(&fleet.world.store().join("search"));
    assert!(left.is_empty(), "seed {seed}: claimed or orphaned: {left:?}");
    let dumped = said_by(&fleet.config, fleet.world.path(), &["dump"]);
    assert_eq!(dumped, expected, "seed {seed}: the index is another");
    let found = said_by(&fleet.config, fleet.world.path(), &["search", "word7", "line"]);
    assert!(found.contains("[word7]"), "seed {seed}: {found}");
    waits
}

fn report(seed: u64, waits: &[u64], took: Duration) {
    let Some(path) = std::env::var_os("LIFEBOAT_FLEET_REPORT") else { return };
    let mut sorted = waits.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let worst = sorted.last().copied().unwrap_or(0);
    let line = format!(
        "seed {seed}: {} handed back, started elsewhere after {median} ms (median), {worst} ms (longest); world {} ms\n",
        sorted.len(),
        took.as_millis()
    );
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report is written");
}

#[test]
fn a_fleet_that_is_interrupted_and_killed_completes_every_message_once() {
    let temp = tempfile::tempdir().expect("temporary directory");
    let files = temp.path().join("files");
    write_files(&files);
    let expected = undisturbed(&temp.path().join("undisturbed"), &files);
    assert!(expected.lines().count() > MESSAGES);
    for seed in 1..=seeds() {
        let begun = Instant::now();
        let mut fleet = Fleet::start(&files);
        disturb(&mut fleet, &mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let waits = check(&fleet, &expected, seed);
        report(seed, &waits, begun.elapsed());
    }
}

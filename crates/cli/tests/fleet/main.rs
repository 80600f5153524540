//! The fleet: 200 messages, four workers of `examples/file-search` under `lifeboat run`, interrupted at random moments
//! and killed without notice twice, until the queue is empty. Counted at the work: in a log outside all work
//! directories, not at the index. Once on directories alone, once on SQS, S3 and DynamoDB as stand-ins (`place`).
//!
//! Each seed is another world. `LIFEBOAT_FLEET_SEEDS=20 cargo nextest run -p lifeboat --test fleet` runs twenty of
//! either kind, and `7-7` the seventh; without it, as in CI, there are two on directories and one on the stand-ins.
//! `LIFEBOAT_FLEET_REPORT=FILE` appends how long hand-backs took, one line a world.

#[path = "../harness/mod.rs"]
mod harness;
mod place;
#[path = "../../../snapshot/tests/common/s3.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod s3;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Machine, Running, World, descendants};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use place::{Directories, Place, StandIns, write_files};
use rustix::process::{Signal, kill_process};

const MESSAGES: usize = 200;
const WORKERS: usize = 4;
const NOTICES: u32 = 8;
const KILLS: u32 = 2;

/// So long a world may stand still, with nothing begun and nothing ended, and so long it may take; a quiet machine
/// needs some ten seconds, one that does twenty other things many minutes.
const STANDS_STILL_MAX: Duration = Duration::from_secs(600);
const WORLD_MAX: Duration = Duration::from_secs(1_500);

/// Far beyond what a loaded machine delays a heartbeat. Messages of a killed machine do not wait for it: for them
/// the test lets the time pass.
const VISIBILITY: Duration = Duration::from_secs(600);

pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Of the worlds to run: the first and the last seed.
fn seeds(usually: u64) -> RangeInclusive<u64> {
    let Ok(text) = std::env::var("LIFEBOAT_FLEET_SEEDS") else { return 1..=usually };
    let number = |text: &str| text.parse().expect("LIFEBOAT_FLEET_SEEDS is a number, or two: 7-9");
    match text.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => 1..=number(&text),
    }
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

/// The example's configuration in a world.
fn configuration(world: &Path, place: &dyn Place, pause_ms: u64) -> String {
    format!(
        "{}index = \"index.sqlite\"\nvisibility_ms = {}\npage_bytes = 256\npause_ms = {pause_ms}\nlog = \"{}/log\"\n",
        place.example(),
        VISIBILITY.as_millis(),
        world.display(),
    )
}

fn said_by(config: &Path, dir: &Path, place: &dyn Place, args: &[&str]) -> String {
    let mut command = Command::new(file_search());
    command.arg("--config").arg(config).args(args).current_dir(dir).envs(place.environment(""));
    let output = command.output().expect("started");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What is indexed when nobody disturbs the work: one worker without Lifeboat, on directories.
fn undisturbed(temp: &Path) -> String {
    let (dir, files) = (temp.join("undisturbed"), temp.join("files"));
    fs::create_dir_all(&dir).expect("created");
    write_files(&files);
    let place = Directories::new(&dir, &files);
    let config = dir.join("search.toml");
    fs::write(&config, configuration(&dir, &place, 0)).expect("written");
    said_by(&config, &dir, &place, &["enqueue"]);
    said_by(&config, &dir, &place, &["work", "--until-empty"]);
    said_by(&config, &dir, &place, &["dump"])
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

struct Fleet<'a> {
    world: World,
    place: Box<dyn Place + 'a>,
    config: PathBuf,
    slots: Vec<Slot>,
    machines: usize,
    killed: BTreeSet<String>,
    /// The names of work that was evacuated.
    evacuated: BTreeSet<String>,
}

impl<'a> Fleet<'a> {
    fn start(place: impl FnOnce(&Path) -> Box<dyn Place + 'a>) -> Self {
        let world = World::new();
        let place = place(world.path());
        let config = world.path().join("search.toml");
        fs::write(&config, configuration(world.path(), place.as_ref(), 5)).expect("written");
        said_by(&config, world.path(), place.as_ref(), &["enqueue"]);
        let (killed, evacuated) = (BTreeSet::new(), BTreeSet::new());
        let mut fleet = Self { world, place, config, slots: Vec::new(), machines: 0, killed, evacuated };
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
        let instance = format!("i-{name}");
        let mut machine = self.world.spot_machine(&name);
        let more = self.place.furnish(&mut machine, &instance);
        machine.configure(&format!(
            "application = \"search\"\nlease = \"300s\"\n{more}[metadata]\ninterval = \"500ms\"\n"
        ));
        let (program, config) = (file_search(), self.config.clone());
        let command = [
            program.to_str().expect("UTF-8"),
            "--config",
            config.to_str().expect("UTF-8"),
            "work",
            "--until-empty",
        ];
        let mut command = machine.run_command(workload, &[], &command);
        let run = Running::start(command.envs(self.place.environment(&instance)));
        Slot { machine, run, instance, is_noticed: false, is_done: false }
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
                    self.evacuated.insert(workload);
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
        // All at once, as power goes: an agent that saw its worker die would still give its messages back.
        old.run.signal(Signal::STOP);
        for pid in descendants(old.run.pid()) {
            let _ = kill_process(pid, Signal::KILL); // it may have ended just now
        }
    }

    /// The machine that each message was last seen on.
    fn holders(&self) -> BTreeMap<String, String> {
        self.log().into_iter().map(|line| (line.message, line.instance)).collect()
    }

    fn let_the_time_pass_of_what_the_killed_held(&mut self) {
        if !self.killed.is_empty() {
            let holders = self.holders();
            self.place.expire(&self.killed, &holders);
        }
    }

    fn is_done(&self) -> bool {
        self.slots.iter().all(|slot| slot.is_done)
    }
}

fn disturb(fleet: &mut Fleet<'_>, random: &mut Random) {
    let (mut notices, mut kills) = (0, 0);
    let begun = Instant::now();
    let (mut done, mut moved) = (0, begun);
    let mut next = begun;
    while !fleet.is_done() {
        let so_far = fleet.log().len() + fleet.machines;
        if so_far != done {
            (done, moved) = (so_far, Instant::now());
        }
        let is_over = moved.elapsed() > STANDS_STILL_MAX || begun.elapsed() > WORLD_MAX;
        assert!(!is_over, "the queue is never empty: {:?}, {done} steps", fleet.place.left());
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
        fleet.let_the_time_pass_of_what_the_killed_held();
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What must be true of every world. Returns how long each handed-back message waited for its next worker, ms.
fn check(fleet: &Fleet<'_>, expected: &str, seed: u64) -> Vec<u64> {
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
    assert_eq!(fleet.place.left(), [0; 3], "seed {seed}: nothing waits, is in flight or given up");
    let left = fleet.place.kept();
    assert!(left.is_empty(), "seed {seed}: claimed or orphaned: {left:?}");
    let ask = |args: &[&str]| said_by(&fleet.config, fleet.world.path(), fleet.place.as_ref(), args);
    assert_eq!(ask(&["dump"]), expected, "seed {seed}: the index is another");
    let found = ask(&["search", "word7", "line"]);
    assert!(found.contains("[word7]"), "seed {seed}: {found}");
    waits
}

fn report(what: &str, waits: &[u64], took: Duration) {
    let Some(path) = std::env::var_os("LIFEBOAT_FLEET_REPORT") else { return };
    let mut sorted = waits.to_vec();
    sorted.sort_unstable();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let worst = sorted.last().copied().unwrap_or(0);
    let line = format!(
        "{what}: {} handed back, started elsewhere after {median} ms (median), {worst} ms (longest); world {} ms\n",
        sorted.len(),
        took.as_millis()
    );
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report is written");
}

/// One world from its beginning to its end. Returns whose work was evacuated in it.
fn world<'a>(
    kind: &str,
    seed: u64,
    expected: &str,
    place: impl FnOnce(&Path) -> Box<dyn Place + 'a>,
) -> BTreeSet<String> {
    let begun = Instant::now();
    let mut fleet = Fleet::start(place);
    disturb(&mut fleet, &mut Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let waits = check(&fleet, expected, seed);
    report(&format!("{kind}, seed {seed}"), &waits, begun.elapsed());
    std::mem::take(&mut fleet.evacuated)
}

#[test]
fn a_fleet_that_is_interrupted_and_killed_completes_every_message_once() {
    let temp = temp();
    let expected = undisturbed(temp.path());
    assert!(expected.lines().count() > MESSAGES);
    let files = temp.path().join("files");
    for seed in seeds(2) {
        world("directories", seed, &expected, |at| Box::new(Directories::new(at, &files)));
    }
}

#[test]
fn a_fleet_on_sqs_s3_and_dynamodb_completes_every_message_once() {
    let Some(stand_ins) = StandIns::start() else { return };
    let temp = temp();
    let expected = undisturbed(temp.path());
    for seed in seeds(1) {
        let name = format!("world-{seed}");
        let evacuated = world("stand-ins", seed, &expected, |_| Box::new(stand_ins.place(&name)));
        assert!(!evacuated.is_empty(), "seed {seed}: nothing was interrupted");
        for workload in evacuated {
            let state = stand_ins.state_of(&name, &workload);
            assert_eq!(state["interruption"]["action"], "terminate", "seed {seed}: {workload}: {state}");
        }
    }
}

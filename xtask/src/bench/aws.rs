//! The agent with all of AWS switched on: a bucket, a table, a queue, a hook, a topic, metrics. What it holds while it
//! is idle and while it evacuates, how soon after its start it asks for a notice, and how large its file is.
//!
//! The bucket is s3s-fs, which CI installs; everything else `bench/aws.py`, which says yes. An agent makes no call of
//! AWS but the bucket's before a notice, so the evacuation at the end is part of it: every call is seen to be made.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Bench;
use super::agents::{Agent, Places, lifeboat};
use super::mock::Mock;
use super::process::{CpuTime, LOOK_AGAIN, Memory, Running, wall_now};
use super::tap::Tap;
use crate::ci::s3s_fs;
use crate::tree::root;

/// Until a stand-in listens: Python on a busy machine.
const START: Duration = Duration::from_secs(30);

/// The notice's two minutes and a margin.
const EVACUATION: Duration = Duration::from_secs(150);

/// Between two looks at the memory while it evacuates; the peak is the kernel's own.
const LOOK: Duration = Duration::from_millis(10);

/// A day's work is larger; this much makes every stage do something.
const FILES: usize = 200;

/// What an evacuation with all of it calls, at the least.
const CALLS: [&str; 6] = [
    "ChangeMessageVisibilityBatch",
    "CompleteLifecycleAction",
    "Publish",
    "PutMetricData",
    "RecordLifecycleActionHeartbeat",
    "TransactWriteItems",
];

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct AllOfAws {
    /// While nothing is announced.
    pub(crate) idle: Memory,
    pub(crate) cpu_seconds_an_hour: f64,
    /// The most that was ever resident, the evacuation included.
    pub(crate) evacuating_peak_kib: u64,
    /// From the start of the program to its first request for a notice, ms: with all of AWS, and as it comes.
    pub(crate) first_poll_ms: Vec<f64>,
    pub(crate) first_poll_plain_ms: Vec<f64>,
    /// Of the program's file.
    pub(crate) binary_bytes: u64,
}

/// Both stand-ins, and the configuration that names them.
struct StandIns {
    _s3: Running,
    aws: Running,
    said: PathBuf,
    config: PathBuf,
}

/// # Errors
/// When a stand-in is missing, the agent does not do what it should, or a call was not made.
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<AllOfAws> {
    let extent = &bench.extent;
    println!("all of AWS: idle for {:?}, one evacuation, {} starts", extent.idle, 2 * extent.starts);
    let folder = bench.scratch.join("aws");
    fs::create_dir_all(&folder)?;
    let mut stand_ins = StandIns::start(&folder)?;
    let mut idle = idle_and_evacuate(bench, &folder, &mut stand_ins)?;
    for round in 0..extent.starts {
        // In turn, so that a slow moment of the machine hits both alike.
        let here = folder.join(format!("start-{round}"));
        idle.first_poll_ms.push(first_poll(bench, &here.join("aws"), Some(&stand_ins.config))?);
        idle.first_poll_plain_ms.push(first_poll(bench, &here.join("plain"), None)?);
    }
    Ok(idle)
}

impl StandIns {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let buckets = folder.join("buckets");
        fs::create_dir_all(buckets.join("bench"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(s3s_fs()?);
        command.args(["--host", "127.0.0.1", "--access-key", "AKBENCH", "--secret-key", "SKBENCH", "--port"]);
        command.arg(port.to_string()).arg(&buckets).env("RUST_LOG", "off").stdout(Stdio::null());
        let mut s3 = Running::start(&mut command, &folder.join("s3.err"))?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            s3.check_running()?;
            if begun.elapsed() > START {
                bail!("s3s-fs does not listen");
            }
            thread::sleep(LOOK_AGAIN);
        }
        let said = folder.join("aws.out");
        let mut command = Command::new("python3");
        command.arg(root().join("bench/aws.py")).stdout(fs::File::create(&said)?);
        let mut aws = Running::start(&mut command, &folder.join("aws.err"))?;
        let begun = Instant::now();
        let address = loop {
            // A line that is not whole yet may hold half a port.
            let text = fs::read_to_string(&said)?;
            if let Some((line, _)) = text.split_once('\n') {
                break line.to_owned();
            }
            aws.check_running()?;
            if begun.elapsed() > START {
                bail!("bench/aws.py does not say where it listens");
            }
            thread::sleep(LOOK_AGAIN);
        };
        let config = folder.join("lifeboat.toml");
        fs::write(&config, configuration(port, &address)?)?;
        Ok(Self { _s3: s3, aws, said, config })
    }

    /// The names of all calls so far.
    fn calls(&mut self) -> anyhow::Result<Vec<String>> {
        self.aws.check_running()?;
        Ok(fs::read_to_string(&self.said)?.lines().skip(1).map(str::to_owned).collect())
    }
}

fn configuration(s3: u16, aws: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    writeln!(text, "store = \"s3://bench/all?endpoint=http://127.0.0.1:{s3}&region=eu-west-1\"")?;
    writeln!(text, "state = \"dynamodb://bench-state\"\nprecopy = \"30s\"\nlog_files = [\"worker.log\"]")?;
    writeln!(text, "[queue]\nurl = \"{aws}/123456789012/bench\"")?;
    writeln!(text, "[aws]\nregion = \"eu-west-1\"\nendpoint = \"{aws}\"")?;
    writeln!(text, "[auto_scaling]\ngroup = \"bench\"\nhook = \"bench\"")?;
    writeln!(text, "[metrics]\nnamespace = \"Bench\"\nprometheus = \"127.0.0.1:0\"")?;
    writeln!(text, "[alerts]\nsns = \"arn:aws:sns:eu-west-1:123456789012:bench\"")?;
    Ok(text)
}

/// The agent with its metadata service at `endpoint`; without a configuration it is as it comes.
fn start(
    bench: &Bench,
    folder: &Path,
    endpoint: &str,
    config: Option<&Path>,
) -> anyhow::Result<(Running, Places)> {
    let places = Places::create(folder)?;
    let mut command = lifeboat(bench, &places);
    command.args(["run", "--name", "bench", "--instance-id", "i-0bench", "--work-dir"]).arg(&places.work);
    match config {
        Some(config) => command.arg("--config").arg(config),
        None => command.arg("--store").arg(&places.store),
    };
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint);
    command.env("AWS_ACCESS_KEY_ID", "AKBENCH").env("AWS_SECRET_ACCESS_KEY", "SKBENCH");
    command.args(["--", "sleep", "100000"]).stdout(Stdio::null());
    Ok((Running::start(&mut command, &folder.join("agent.err"))?, places))
}

fn idle_and_evacuate(bench: &Bench, folder: &Path, stand_ins: &mut StandIns) -> anyhow::Result<AllOfAws> {
    let folder = folder.join("idle");
    fs::create_dir_all(&folder)?;
    let mock = Mock::start(&bench.lifeboat, &folder)?;
    let work = folder.join("work");
    fs::create_dir_all(&work)?;
    for number in 0..FILES {
        fs::write(work.join(format!("file-{number}.txt")), format!("{number}\n").repeat(1_000))?;
    }
    fs::write(work.join("state.json"), "{\"done\": 7}")?;
    fs::write(work.join("active_receipts.json"), "[\"receipt-1\", \"receipt-2\"]")?;
    let (mut process, _) = start(bench, &folder, &mock.endpoint(), Some(&stand_ins.config))?;
    let (mut cpu, mut idle) = (CpuTime::default(), Memory::default());
    thread::sleep(bench.extent.warm_up);
    process.check_running()?;
    cpu.look(process.id())?;
    let (at_first, begun) = (cpu.seconds(), Instant::now());
    while begun.elapsed() < bench.extent.idle {
        thread::sleep(Duration::from_secs(1));
        process.check_running()?;
        cpu.look(process.id())?;
        if let Some(now) = Memory::of(process.id()) {
            idle.resident_kib = idle.resident_kib.max(now.resident_kib);
            idle.peak_kib = now.peak_kib;
        }
    }
    let hours = begun.elapsed().as_secs_f64() / 3_600.0;
    let cpu_seconds_an_hour = (cpu.seconds() - at_first) / hours;
    mock.announce()?;
    let evacuating_peak_kib = evacuated(&mut process)?;
    let calls = stand_ins.calls()?;
    if let Some(missing) = CALLS.iter().find(|name| calls.iter().all(|call| call != *name)) {
        bail!("{missing} was not called; only {calls:?}:\n{}", process.said());
    }
    let binary_bytes = fs::metadata(&bench.lifeboat).context("the program has no size")?.len();
    let (first_poll_ms, first_poll_plain_ms) = (Vec::new(), Vec::new());
    Ok(AllOfAws {
        idle,
        cpu_seconds_an_hour,
        evacuating_peak_kib,
        first_poll_ms,
        first_poll_plain_ms,
        binary_bytes,
    })
}

/// Waits for the end of the evacuation; the most memory that was ever resident, KiB.
fn evacuated(process: &mut Running) -> anyhow::Result<u64> {
    let (begun, mut peak_kib) = (Instant::now(), 0);
    loop {
        peak_kib = Memory::of(process.id()).map_or(peak_kib, |memory| memory.peak_kib.max(peak_kib));
        if let Some(status) = process.child().try_wait()? {
            if !Agent::Lifeboat.is_success(status.code()) {
                bail!("the agent did not evacuate ({status}):\n{}", process.said());
            }
            return Ok(peak_kib);
        }
        if begun.elapsed() > EVACUATION {
            bail!("the agent does not end:\n{}", process.said());
        }
        thread::sleep(LOOK);
    }
}

/// From the start of the program to its first request for a notice, ms.
fn first_poll(bench: &Bench, folder: &Path, config: Option<&Path>) -> anyhow::Result<f64> {
    fs::create_dir_all(folder)?;
    let mock = Mock::start(&bench.lifeboat, folder)?;
    let tap = Tap::start(mock.address())?;
    let before = wall_now();
    let (mut process, _) = start(bench, folder, &tap.endpoint(), config)?;
    let begun = Instant::now();
    let asked = loop {
        if let Some(asked) = tap.asked() {
            break asked;
        }
        process.check_running()?;
        if begun.elapsed() > START {
            bail!("the agent asks for no notice:\n{}", process.said());
        }
        thread::sleep(LOOK_AGAIN);
    };
    process.terminate();
    process.ended(EVACUATION)?;
    Ok(asked.saturating_sub(before).as_secs_f64() * 1_000.0)
}

//! `cargo xtask bench worker`: what the application interface costs, through its socket: a checkpoint, progress
//! reports, memory; and the way of messages back to their queue. Speaks HTTP by itself: it must build when the
//! product does not.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::hand_back::{self, HandBacks, RECEIPTS};
use super::process::{Memory, Running, Scratch, wait_for};
use super::report::Surroundings;
use super::statistics::{greatest, median, percentile};
use super::{Bench, Extent, built};
use crate::tree::root;

/// What the interface is to reach.
const CHECKPOINT_AIM_MS: f64 = 2.0;
const REPORTS_AIM: f64 = 5_000.0;
const MEMORY_AIM_MIB: f64 = 40.0;
const HAND_BACK_AIM_MS: f64 = 3_000.0;

/// What stands in the document from here on is written by hand, and kept.
const BY_HAND: &str = "\n## The fleet\n";

/// A checkpoint's size, bytes.
const CHECKPOINT_BYTES: usize = 1024;

/// So many threads report progress side by side, as an application's would.
const REPORTERS: usize = 4;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Count {
    checkpoints: usize,
    reports: usize,
    tasks: usize,
    hand_backs: usize,
}

const FULL: Count = Count { checkpoints: 5_000, reports: 40_000, tasks: 10_000, hand_backs: 7 };
const QUICK: Count = Count { checkpoints: 200, reports: 2_000, tasks: 500, hand_backs: 1 };

/// What came out.
#[derive(Debug)]
struct Results {
    checkpoints_ms: Vec<f64>,
    reports_per_second: f64,
    idle: Memory,
    full: Memory,
    hand_backs: Option<HandBacks>,
}

/// Measures, prints the table and writes `docs/bench-worker.md`.
///
/// # Errors
/// When the agent does not answer as it should: a number of a failed run is worth nothing.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<ExitCode> {
    let (is_quick, lifeboat) = super::parse(args)?;
    let lifeboat = match lifeboat {
        Some(path) => path.canonicalize().with_context(|| format!("there is no {}", path.display()))?,
        None => built()?,
    };
    let scratch = Scratch::new()?;
    let bench = Bench { extent: Extent::QUICK, lifeboat, scratch: scratch.path().to_owned() };
    let before = Surroundings::look(&bench)?;
    println!("{}\n", before.text());
    let count = if is_quick { QUICK } else { FULL };
    let results = measure(&bench, count)?;
    let document = document(count, &before, &results);
    println!("\n{document}");
    if !is_quick {
        let path = root().join("docs/bench-worker.md");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        let kept = before.find(BY_HAND).map_or("", |at| &before[at..]);
        std::fs::write(&path, document + kept).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written to docs/bench-worker.md");
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(bench: &Bench, count: Count) -> anyhow::Result<Results> {
    let (work, state) = (bench.scratch.join("work"), bench.scratch.join("state"));
    std::fs::create_dir_all(&work)?;
    let mut command = Command::new(&bench.lifeboat);
    command
        .args(["--quiet", "run", "--name", "bench", "--grace", "60s", "--store"])
        .arg(bench.scratch.join("store"))
        .arg("--work-dir")
        .arg(&work)
        .args(["--", "sleep", "100000"])
        .env("XDG_STATE_HOME", &state)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let mut agent = Running::start(&mut command, &bench.scratch.join("agent.log"))?;
    let socket = state.join("lifeboat/agents/bench/app.sock");
    wait_for(&socket, &mut agent, Duration::from_secs(60))?;
    let memory = |agent: &Running| Memory::of(agent.id()).context("the agent has ended");
    let mut client = Client::connect(&socket)?;
    client.register("first")?;
    let idle = memory(&agent)?;
    let checkpoints_ms = checkpoints(&mut client, count.checkpoints)?;
    let reports_per_second = reports(&socket, count.reports)?;
    for n in 0..count.tasks {
        client.register(&format!("task-{n:06}"))?;
    }
    let full = memory(&agent)?;
    agent.check_running()?;
    agent.terminate();
    let status = agent.ended(Duration::from_secs(120))?;
    ensure!(status.code() == Some(85), "the agent ended with {status}: {}", agent.said());
    let hand_backs = hand_back::measure(bench, count.hand_backs)?;
    Ok(Results { checkpoints_ms, reports_per_second, idle, full, hand_backs })
}

fn checkpoints(client: &mut Client, count: usize) -> anyhow::Result<Vec<f64>> {
    let body = vec![b'x'; CHECKPOINT_BYTES];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        client.ask("PUT", "/v1/tasks/first/partial?progress=0.5", &body, 202)?;
        times.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(times)
}

fn reports(socket: &Path, count: usize) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let threads: Vec<_> = (0..REPORTERS)
        .map(|_| {
            let socket: PathBuf = socket.to_owned();
            std::thread::spawn(move || -> anyhow::Result<()> {
                let mut client = Client::connect(&socket)?;
                for _ in 0..count / REPORTERS {
                    client.ask("POST", "/v1/tasks/first/progress", b"{\"progress\":0.25}", 204)?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(reported) => reported?,
            Err(_) => bail!("a reporter panicked"),
        }
    }
    let done = u32::try_from(count / REPORTERS * REPORTERS)?;
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

/// A connection that is used again.
pub(super) struct Client(BufReader<UnixStream>);

impl Client {
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("the agent does not listen")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn register(&mut self, id: &str) -> anyhow::Result<()> {
        let body = format!("{{\"id\":\"{id}\",\"path\":\"/srv/documents/{id}.txt\"}}");
        self.ask("POST", "/v1/tasks", body.as_bytes(), 201)
    }

    pub(super) fn ask(&mut self, method: &str, path: &str, body: &[u8], expected: u16) -> anyhow::Result<()> {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: l\r\ncontent-length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(body);
        self.0.get_mut().write_all(&request)?;
        let (mut line, mut length) = (String::new(), 0u64);
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse()?
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = String::new();
        self.0.by_ref().take(length).read_to_string(&mut answer)?;
        ensure!(status == expected.to_string(), "{method} {path}: {status} {answer}");
        Ok(())
    }
}

fn mib(memory: &Memory) -> f64 {
    f64::from(u32::try_from(memory.resident_kib).unwrap_or(u32::MAX)) / 1024.0
}

fn document(count: Count, before: &Surroundings, results: &Results) -> String {
    let Results { checkpoints_ms: times, reports_per_second, idle, full, hand_backs } = results;
    let verdict = |is_met: bool| if is_met { "met" } else { "MISSED" };
    let worst = percentile(times, 99);
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "# What the application interface costs\n\n`cargo xtask bench worker`, through the socket of a real agent, \
         one connection a thread.\n\n{}\n\n\
         | | measured | aim | |\n|---|---:|---:|---|\n\
         | checkpoint of 1 KiB, median of {} | {:.3} ms | | |\n\
         | P99 | {worst:.3} ms | ≤ {CHECKPOINT_AIM_MS} ms | {} |\n\
         | longest | {:.3} ms | | |\n\
         | progress reports a second, {REPORTERS} threads, {} in all | {reports_per_second:.0} | ≥ {REPORTS_AIM} | {} |\n\
         | agent's resident memory with one task | {:.1} MiB | | |\n\
         | with {} tasks | {:.1} MiB | ≤ {MEMORY_AIM_MIB} MiB | {} |\n\n\
         A checkpoint is taken into the agent's memory; the store gets the newest within about a second, while the next \
         ones are taken. Client and agent share the machine's cores.\n",
        before.text(),
        times.len(),
        median(times),
        verdict(worst <= CHECKPOINT_AIM_MS),
        greatest(times),
        count.reports,
        verdict(*reports_per_second >= REPORTS_AIM),
        mib(idle),
        count.tasks,
        mib(full),
        verdict(mib(full) <= MEMORY_AIM_MIB),
    );
    text.push_str(&hand_back_text(hand_backs.as_ref()));
    text
}

fn hand_back_text(measured: Option<&HandBacks>) -> String {
    let Some(HandBacks { agent, bare, at_once }) = measured else {
        return "\nThe hand-back to SQS is not measured: moto is not installed (`cargo xtask ci --step aws-server`).\n"
            .to_owned();
    };
    let row = |what: &str, times: &[f64], aim: &str| {
        format!("| {what} | {:.0} ms | {:.0} ms | {aim} |\n", median(times), greatest(times))
    };
    let verdict = if greatest(agent) <= HAND_BACK_AIM_MS { "met" } else { "MISSED" };
    let aim = format!("≤ {HAND_BACK_AIM_MS:.0} ms: {verdict}");
    format!(
        "\n## Messages back to SQS\n\n{RECEIPTS} receipts in calls of ten, eight at once, in the stage `save_state` of an \
         evacuation; {} rounds.\n\n| | median | longest | aim |\n|---|---:|---:|---|\n{}{}{}\n\
         What the bare loop needs is the stand-in's share; the last row is the agent's own, its saved state and \
         the copy on its disk included.\n",
        agent.len(),
        row("the agent, against moto", agent, &aim),
        row("the same calls from a bare loop, against moto", bare, ""),
        row("the agent, against a server that answers at once", at_once, ""),
    )
}

//! `lifeboat demo`: two machines, one interruption, for real, in a temporary folder.
//!
//! Machine 1 indexes text files under `lifeboat run`. In the middle a mock metadata service announces that it
//! will be terminated; it evacuates, and its directory is deleted. Machine 2 takes the work up and finishes it.
//! The result is compared with that of a run that nobody interrupted, and a ledger outside both machines tells
//! whether any file was processed twice.

pub(crate) mod fleet;
mod inputs;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lifeboat_agent::Summary;
use lifeboat_core::conclusion::exit_code;
use lifeboat_imds::identity::Identity;
use lifeboat_imds::mock::{Mock, NoticePlan, Script};
use lifeboat_imds::wire::Action;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::DemoArgs;
use crate::index_worker::INDEX_FILE;
use crate::output;

/// A machine that is switched off gets so long to end its workload.
const OFF_LIMIT: Duration = Duration::from_secs(5);

/// Between two interrupts to it: sent at once they would be one.
const OFF_PAUSE: Duration = Duration::from_millis(50);

/// With fewer rounds than this, each worker's current file is its last when the notice comes.
const ROUNDS_MIN: usize = 3;

/// Each of the three runs has this long; they need some ten seconds.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// An undisturbed run takes at least this long, so that there is a middle to be interrupted in.
const RUN_AT_LEAST: Duration = Duration::from_secs(6);

/// Between two looks at the ledger or a child.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The exit code when the results are not identical, or something was done twice.
const DIFFERENT: u8 = 1;

/// What the demo found.
#[derive(Debug, Serialize)]
struct Found {
    identical: bool,
    files: usize,
    /// Files that machine 1 had finished when it was gone.
    done_before: usize,
    /// Files whose processing began more than once.
    processed_twice: Vec<usize>,
    words: usize,
    restore_was_on: bool,
    evacuation: Option<Summary>,
    seconds: f32,
}

impl Found {
    fn is_good(&self) -> bool {
        self.identical
            && self.processed_twice.is_empty()
            && self.done_before > 0
            && self.done_before < self.files
    }
}

pub(crate) async fn demo(args: &DemoArgs, json: bool) -> anyhow::Result<u8> {
    let folder = tempfile::Builder::new().prefix("lifeboat-demo-").tempdir()?;
    let say = |text: &str| {
        if !json {
            output::note(text);
        }
    };
    let count = usize::try_from(args.files).context("too many files")?;
    let inputs = inputs::collect(args.input.as_deref(), count, &folder.path().join("inputs"))?;
    let stopped = async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            done = tokio::signal::ctrl_c() => done,
            _ = terminate.recv() => Ok(()),
        }
    };
    let found = tokio::select! {
        found = Box::pin(play(args, &inputs, folder.path(), &say)) => found,
        stopped = stopped => {
            stopped?;
            output::note("lifeboat: the demo was interrupted; nothing of it is left");
            return Ok(exit_code::SIGNAL_BASE + 2);
        }
    };
    if args.keep || found.is_err() {
        let path = folder.keep();
        output::note(&format!("everything of the demo is in {}", path.display()));
    }
    let found = found?;
    if json {
        output::either(true, &found, String::new)?;
    } else {
        print(&found)?;
    }
    Ok(if found.is_good() { 0 } else { DIFFERENT })
}

async fn play(
    args: &DemoArgs,
    inputs: &[PathBuf],
    folder: &Path,
    say: &dyn Fn(&str),
) -> anyhow::Result<Found> {
    let begun = Instant::now();
    let workers_max = u32::try_from(inputs.len() / ROUNDS_MIN).unwrap_or(u32::MAX).max(1);
    let workers = args.workers.min(workers_max);
    let list = folder.join("inputs.txt");
    let lines: Vec<String> = inputs.iter().map(|path| path.display().to_string()).collect();
    fs::write(&list, lines.join("\n"))?;
    let ledger = folder.join("ledger.txt");
    File::create(&ledger)?;
    say(&format!("{} text files, {workers} worker threads, in {}", inputs.len(), folder.display()));

    let world = World { workers, folder, list, count: inputs.len() };
    let (summary, done_before) = first_machine(&world, &ledger, say).await?;
    let second = Machine::start(&world, 2, !args.no_restore, &ledger).await?;
    say("machine 2  starts with another instance id, an empty disk and the same store");
    let (status, second_dir) = second.wait().await?;
    expect(status, 0, &second_dir)?;
    say("machine 2  finished the work");
    let reference = reference(&world).await?;
    say("reference  the same work once more, by a worker that nobody interrupts");

    let result = fs::read(second_dir.join("work").join(INDEX_FILE)).context("machine 2 left no index")?;
    let index: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&result)?;
    Ok(Found {
        identical: result == reference,
        files: inputs.len(),
        done_before,
        processed_twice: twice(&ledger)?,
        words: index.len(),
        restore_was_on: !args.no_restore,
        evacuation: Some(summary),
        seconds: begun.elapsed().as_secs_f32(),
    })
}

/// Machine 1 works until a quarter is done, is told that it will be terminated, evacuates, and is gone.
async fn first_machine(
    world: &World<'_>,
    ledger: &Path,
    say: &dyn Fn(&str),
) -> anyhow::Result<(Summary, usize)> {
    let mut first = Machine::start(world, 1, true, ledger).await?;
    say("machine 1  `lifeboat run` starts the worker and watches the metadata service");
    let begun = Instant::now();
    while ended(ledger)?.len() < (world.count / 4).max(1) {
        if first.child.try_wait()?.is_some() || begun.elapsed() > RUN_LIMIT {
            break; // `wait` below tells why
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    first.mock.control().notice(NoticePlan::now(Action::Terminate));
    say(&format!(
        "machine 1  {} of {} files are done: AWS announces that it terminates the machine in 120 s",
        ended(ledger)?.len(),
        world.count
    ));
    let (status, dir) = first.wait().await?;
    expect(status, exit_code::EVACUATED, &dir)?;
    let summary_file = dir.join("state/lifeboat/agents/demo/last_evacuation.json");
    let summary: Summary =
        serde_json::from_slice(&fs::read(&summary_file).context("machine 1 left no summary")?)?;
    let done = ended(ledger)?.len();
    say(&format!("machine 1  evacuated in {:.2} s with {done} files done", to_seconds(summary.took_ms)));
    fs::remove_dir_all(&dir).context("cannot delete machine 1")?;
    say("machine 1  is gone: its directory is deleted");
    Ok((summary, done))
}

struct World<'a> {
    workers: u32,
    folder: &'a Path,
    list: PathBuf,
    count: usize,
}

impl World<'_> {
    fn worker(&self, ledger: &Path, pause: Duration) -> anyhow::Result<Vec<std::ffi::OsString>> {
        Ok(vec![
            std::env::current_exe().context("cannot find this program")?.into(),
            "index-worker".into(),
            "--inputs".into(),
            self.list.clone().into(),
            "--ledger".into(),
            ledger.into(),
            "--workers".into(),
            self.workers.to_string().into(),
            "--pause".into(),
            format!("{}ms", pause.as_millis()).into(),
        ])
    }

    /// So long that the whole takes [`RUN_AT_LEAST`].
    fn pause(&self) -> Duration {
        let rounds = u32::try_from(self.count).unwrap_or(u32::MAX).div_ceil(self.workers).max(1);
        RUN_AT_LEAST / rounds
    }
}

/// A machine: a directory, a metadata service, and a `lifeboat run` on it.
struct Machine {
    dir: PathBuf,
    mock: Mock,
    child: Child,
}

impl Machine {
    async fn start(world: &World<'_>, number: u32, shares_work: bool, ledger: &Path) -> anyhow::Result<Self> {
        let dir = world.folder.join(format!("machine-{number}"));
        fs::create_dir_all(dir.join("work"))?;
        let identity = Identity {
            instance_id: Some(format!("i-{number:017x}")),
            life_cycle: Some("spot".into()),
            ..Identity::default()
        };
        let script = Script { notice: None, identity, ..Script::default() };
        let mock = Mock::start("127.0.0.1:0".parse()?, script).await?;
        let config = dir.join("lifeboat.toml");
        fs::write(&config, "[metadata]\ninterval = \"500ms\"\n")?;
        let log = dir.join("log.txt");
        let worker = world.worker(ledger, world.pause())?;
        let child = Command::new(&worker[0])
            .arg("run")
            .args(["--name", if shares_work { "demo" } else { "demo-without-restore" }])
            .arg("--config")
            .arg(&config)
            .arg("--work-dir")
            .arg(dir.join("work"))
            .arg("--store")
            .arg(world.folder.join("store"))
            .arg("--")
            .args(&worker)
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", mock.endpoint().to_string())
            .env_remove("AWS_EC2_METADATA_DISABLED")
            .env("XDG_STATE_HOME", dir.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start `lifeboat run`")?;
        Ok(Self { dir, mock, child })
    }

    async fn wait(mut self) -> anyhow::Result<(ExitStatus, PathBuf)> {
        match tokio::time::timeout(RUN_LIMIT, self.child.wait()).await {
            Ok(status) => Ok((status?, self.dir.clone())),
            Err(_) => bail!(
                "{} did not end within {} s:\n{}",
                self.dir.display(),
                RUN_LIMIT.as_secs(),
                log_of(&self.dir)
            ),
        }
    }
}

impl Drop for Machine {
    /// Switches the machine off, if it still runs. A killed `lifeboat run` would leave its worker behind: it is
    /// interrupted until it ends, which kills the worker.
    fn drop(&mut self) {
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid {
                let signal = if begun.elapsed() < OFF_LIMIT { Signal::INT } else { Signal::KILL };
                let _ = kill_process(pid, signal); // it has just ended
            }
            std::thread::sleep(OFF_PAUSE);
        }
    }
}

fn expect(status: ExitStatus, code: u8, dir: &Path) -> anyhow::Result<()> {
    if status.code() == Some(i32::from(code)) {
        Ok(())
    } else {
        bail!("{} ended with {status}, not with {code}:\n{}", dir.display(), log_of(dir))
    }
}

fn log_of(dir: &Path) -> String {
    fs::read_to_string(dir.join("log.txt")).unwrap_or_else(|error| format!("(no log: {error})"))
}

/// The index of an uninterrupted worker without Lifeboat.
async fn reference(world: &World<'_>) -> anyhow::Result<Vec<u8>> {
    let dir = world.folder.join("reference");
    fs::create_dir_all(&dir)?;
    let worker = world.worker(&world.folder.join("reference-ledger.txt"), Duration::ZERO)?;
    let mut child = Command::new(&worker[0])
        .args(&worker[1..])
        .current_dir(&dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let status = tokio::time::timeout(RUN_LIMIT, child.wait()).await.context("the reference run hangs")??;
    if !status.success() {
        bail!("the reference run ended with {status}");
    }
    fs::read(dir.join(INDEX_FILE)).context("the reference run left no index")
}

/// The files whose end the ledger witnesses.
fn ended(ledger: &Path) -> anyhow::Result<Vec<usize>> {
    Ok(witnessed(ledger, "end ")?)
}

/// The files whose start the ledger witnesses more than once.
fn twice(ledger: &Path) -> anyhow::Result<Vec<usize>> {
    let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
    for number in witnessed(ledger, "start ")? {
        *counts.entry(number).or_default() += 1;
    }
    Ok(counts.into_iter().filter(|(_, count)| *count > 1).map(|(number, _)| number).collect())
}

fn witnessed(ledger: &Path, what: &str) -> std::io::Result<Vec<usize>> {
    let text = fs::read_to_string(ledger)?;
    Ok(text.lines().filter_map(|line| line.strip_prefix(what)?.parse().ok()).collect())
}

fn to_seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn print(found: &Found) -> anyhow::Result<()> {
    let mut text = String::from("\n");
    if let Some(summary) = &found.evacuation {
        text.push_str(&summary.table());
        text.push('\n');
    }
    let yes = |good: bool| if good { "yes" } else { "NO" };
    let before = found.done_before;
    let rows = [
        ("results identical", yes(found.identical).to_owned()),
        (
            "interrupted in the middle",
            format!("{} ({before} of {} files)", yes(before > 0 && before < found.files), found.files),
        ),
        ("files processed twice", found.processed_twice.len().to_string()),
        ("words in the index", found.words.to_string()),
        ("whole demo", format!("{:.1} s", found.seconds)),
    ];
    text.push_str(&output::table(&rows.map(|(name, value)| vec![name.to_owned(), value])));
    text.push_str(if found.is_good() {
        "\nNothing was lost and nothing was done twice.\n"
    } else if found.restore_was_on {
        "\nFAILED: see the rows above.\n"
    } else {
        "\nFAILED, as it must without restoring: the work of machine 1 was lost and done again.\n"
    });
    output::result(&text)
}

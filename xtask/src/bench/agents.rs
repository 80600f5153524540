//! The programs that are compared, and how each is started.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Bench;
use super::process::Running;
use crate::tree::root;

/// One of the programs, watching for notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    /// `lifeboat run` as it comes: every 2 s.
    Lifeboat,
    /// `bench/source_a.py watch` with this interval, in seconds.
    SourceA(u64),
}

/// As it comes; source A's is 5 s, and 2 s make the two comparable.
pub(crate) const AGENTS: [Agent; 3] = [Agent::Lifeboat, Agent::SourceA(5), Agent::SourceA(2)];

/// Lifeboat's exit code for "everything is stored", as `lifeboat --help` has it.
const EVACUATED: i32 = 85;

impl Agent {
    /// For people.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Lifeboat => "Lifeboat".to_owned(),
            Self::SourceA(seconds) => format!("source A, {seconds} s"),
        }
    }

    /// For folders.
    pub(crate) fn tag(self) -> String {
        match self {
            Self::Lifeboat => "lifeboat".to_owned(),
            Self::SourceA(seconds) => format!("source-a-{seconds}"),
        }
    }

    /// Between two polls.
    pub(crate) const fn interval(self) -> Duration {
        match self {
            Self::Lifeboat => Duration::from_secs(2),
            Self::SourceA(seconds) => Duration::from_secs(seconds),
        }
    }

    /// Whether this exit code says that everything was evacuated.
    pub(crate) const fn is_success(self, code: Option<i32>) -> bool {
        match self {
            Self::Lifeboat => matches!(code, Some(EVACUATED)),
            Self::SourceA(_) => matches!(code, Some(0)),
        }
    }

    /// Starts it with a work directory, a store and a state of its own below `folder`, which is created;
    /// `endpoint` is its metadata service.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start<S: AsRef<OsStr>>(
        self,
        bench: &Bench,
        folder: &Path,
        endpoint: &str,
        workload: &[S],
    ) -> anyhow::Result<Running> {
        let places = Places::create(folder)?;
        let mut command = match self {
            Self::Lifeboat => {
                let mut command = lifeboat(bench, &places);
                command.args(["run", "--name", "bench", "--instance-id", "i-0bench"]);
                command.arg("--work-dir").arg(&places.work).arg("--store").arg(&places.store);
                command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint).arg("--");
                command
            }
            Self::SourceA(seconds) => {
                let mut command = source_a("watch", &places.work, &places.store);
                command.args(["--interval", &seconds.to_string(), "--endpoint", endpoint, "--"]);
                command
            }
        };
        command.args(workload).stdout(Stdio::null());
        Running::start(&mut command, &folder.join("agent.err"))
    }
}

/// Where one run of a program works.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) work: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) state: PathBuf,
}

impl Places {
    /// # Errors
    /// When a folder cannot be created.
    pub(crate) fn create(folder: &Path) -> anyhow::Result<Self> {
        let places =
            Self { work: folder.join("work"), store: folder.join("store"), state: folder.join("state") };
        for path in [&places.work, &places.store, &places.state] {
            fs::create_dir_all(path)?;
        }
        Ok(places)
    }
}

/// The product with a private state directory and no configuration of this machine.
pub(crate) fn lifeboat(bench: &Bench, places: &Places) -> Command {
    let mut command = Command::new(&bench.lifeboat);
    command
        .env("XDG_STATE_HOME", &places.state)
        .env_remove("AWS_EC2_METADATA_DISABLED")
        .env_remove("LIFEBOAT_LOG");
    command
}

/// The peer.
pub(crate) fn source_a(verb: &str, work: &Path, store: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("bench/source_a.py")).arg(verb);
    command.arg("--work-dir").arg(work).arg("--store").arg(store);
    command
}

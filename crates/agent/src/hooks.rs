//! The commands before and after a snapshot: they let a database flush, or hold still, while its files are read.
//!
//! From the moment that `before_snapshot` is started `after_snapshot` is owed: it runs when the snapshot is committed,
//! when it failed, and when it was broken off. One that takes too long is killed with its process group. Neither keeps
//! an evacuation longer than a share of the snapshot's time.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout, timeout_at};

use crate::apart::Apart;
use crate::process::RUN_ID_VARIABLE;

/// So much of what a failing command said last is repeated.
const SAID_BYTES_MAX: usize = 500;

/// What a command had said arrives within this time of its end, unless it left something running that may go on.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A killed process is gone after this, or hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// One of the two commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is killed after so long.
    pub timeout: Duration,
}

/// Which snapshot the commands are run around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// A round while the work goes on.
    Round,
    /// The last one, of an evacuation.
    Last,
}

/// What came of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is a recovery point, or nothing has changed since the last.
    Committed,
    Failed,
    /// It was not even tried, or ended in the middle.
    BrokenOff,
}

/// Why a command did not do its part.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("{name} `{program}` cannot be started: {source}")]
    NotStarted { name: &'static str, program: String, source: std::io::Error },
    #[error("{name} `{program}` failed with {status}{said}")]
    Failed { name: &'static str, program: String, status: ExitStatus, said: String },
    #[error("{name} `{program}` did not end within {limit_ms} ms and was killed")]
    TimedOut { name: &'static str, program: String, limit_ms: u128 },
    #[error("{name} `{program}` cannot be waited for: {source}")]
    Unwaited { name: &'static str, program: String, source: std::io::Error },
}

/// The commands of one workload.
#[derive(Clone, Debug)]
pub(crate) struct Hooks {
    inner: Arc<Inner>,
    /// Held from before one snapshot until after it.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct Inner {
    before: Option<Hook>,
    after: Option<Hook>,
    work_dir: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

/// A snapshot that has been prepared. Ending or dropping it runs `after_snapshot`.
#[derive(Debug)]
pub(crate) struct Around {
    hooks: Hooks,
    occasion: Occasion,
    /// Why the snapshot is not prepared as it should be.
    failure: Option<String>,
    owed: Option<OwnedMutexGuard<()>>,
}

impl Hooks {
    pub(crate) fn new(
        (before, after): (Option<Hook>, Option<Hook>),
        work_dir: PathBuf,
        variables: Vec<(&'static str, OsString)>,
    ) -> Self {
        let inner = Arc::new(Inner { before, after, work_dir, variables });
        Self { inner, turn: Arc::new(Mutex::new(())) }
    }

    /// Prepares a snapshot, within `limit` where there is one. It is for the caller to say whether a failure keeps it
    /// from being taken. Cancel-safe.
    pub(crate) async fn begin(&self, occasion: Occasion, limit: Option<Duration>) -> Around {
        let mut around = Around { hooks: self.clone(), occasion, failure: None, owed: None };
        if self.inner.before.is_none() && self.inner.after.is_none() {
            return around;
        }
        let end = limit.map(|limit| Instant::now() + limit);
        // What is owed for a round that was broken off comes first; it is bounded itself.
        let turn = Arc::clone(&self.turn).lock_owned();
        let turn = match end {
            Some(end) => timeout_at(end, turn).await.ok(),
            None => Some(turn.await),
        };
        let Some(turn) = turn else {
            around.failure = Some("after_snapshot of the round before has not ended".to_owned());
            return around;
        };
        around.owed = Some(turn);
        if let Some(before) = &self.inner.before {
            let left = end.map_or(before.timeout, |end| end.saturating_duration_since(Instant::now()));
            let variables = [("LIFEBOAT_SNAPSHOT", occasion.word())];
            let ran = self.inner.run("before_snapshot", before, &variables, before.timeout.min(left)).await;
            around.failure = ran.err().map(|error| error.to_string());
        }
        around
    }

    /// Waits for what still runs; each command is bounded itself.
    pub(crate) async fn settle(&self) {
        drop(self.turn.lock().await);
    }
}

impl Occasion {
    const fn word(self) -> &'static str {
        match self {
            Self::Round => "round",
            Self::Last => "last",
        }
    }
}

impl Outcome {
    const fn word(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Failed => "failed",
            Self::BrokenOff => "broken-off",
        }
    }
}

impl Around {
    /// Why the snapshot is not prepared as it should be.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The snapshot is over: runs `after_snapshot`, beside whatever comes next.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.settle(outcome);
    }

    fn settle(&mut self, outcome: Outcome) {
        let Some(turn) = self.owed.take() else { return };
        let (inner, occasion) = (Arc::clone(&self.hooks.inner), self.occasion);
        if inner.after.is_none() {
            return;
        }
        // Without a runtime the process is ending; there is nobody left to run it.
        let Ok(runtime) = Handle::try_current() else { return };
        // Bounded by the command's own time-out; the agent waits for it before it ends.
        runtime.spawn(async move {
            let _turn = turn;
            let Some(after) = &inner.after else { return };
            let variables =
                [("LIFEBOAT_SNAPSHOT", occasion.word()), ("LIFEBOAT_SNAPSHOT_RESULT", outcome.word())];
            if let Err(error) = inner.run("after_snapshot", after, &variables, after.timeout).await {
                tracing::error!(%error, "what follows a snapshot was not done");
            }
        });
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        self.settle(Outcome::BrokenOff);
    }
}

impl Inner {
    async fn run(
        &self,
        name: &'static str,
        hook: &Hook,
        variables: &[(&'static str, &'static str)],
        limit: Duration,
    ) -> Result<(), HookError> {
        let (program, arguments) = hook.command.split_first().expect("the configuration requires a command");
        let named = || program.clone();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.work_dir)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .envs(variables.iter().copied())
            // It is no part of the workload, also where that runs below another one.
            .env_remove(RUN_ID_VARIABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let begun = Instant::now();
        let started = Apart::start(&mut command);
        let mut child = started.map_err(|source| HookError::NotStarted { name, program: named(), source })?;
        let stderr = child.stderr();
        let listening = tokio::spawn(last_words(stderr));
        let status = match timeout(limit, child.wait()).await {
            Ok(status) => status.map_err(|source| HookError::Unwaited { name, program: named(), source })?,
            Err(_elapsed) => {
                child.kill();
                // Gone at once, unless it hangs in the kernel.
                let _ = timeout(KILL_WAIT, child.wait()).await;
                listening.abort();
                return Err(HookError::TimedOut { name, program: named(), limit_ms: limit.as_millis() });
            }
        };
        tracing::debug!(name, took_ms = begun.elapsed().as_millis(), %status, "command ended");
        if status.success() {
            listening.abort();
            return Ok(());
        }
        let stop = listening.abort_handle();
        let said = match timeout(LAST_WORDS, listening).await {
            Ok(Ok(said)) if !said.is_empty() => format!(": {said}"),
            Ok(Ok(_) | Err(_)) | Err(_) => String::new(),
        };
        stop.abort();
        Err(HookError::Failed { name, program: named(), status, said })
    }
}

/// The end of what is said, on one line.
async fn last_words(stderr: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let (mut piece, mut last) = ([0; 4096], VecDeque::new());
    // Ends with the stream; what is kept is bounded.
    while let Ok(length @ 1..) = stderr.read(&mut piece).await {
        last.extend(&piece[..length]);
        last.drain(..last.len().saturating_sub(SAID_BYTES_MAX));
    }
    let bytes: Vec<u8> = last.into();
    String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
}

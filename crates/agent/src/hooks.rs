//! The commands before and after a snapshot: they let a database flush, or hold still, while its files are read.
//!
//! From the moment that `before_snapshot` is started `after_snapshot` is owed: it runs when the snapshot is committed,
//! when it failed, and when it was broken off. One that takes too long is killed with its process group. Neither keeps
//! an evacuation longer than a share of the snapshot's time.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::errand;

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
            around.failure = ran.err();
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
                tracing::error!(error, "what follows a snapshot was not done");
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
    ) -> Result<(), String> {
        let (program, arguments) = hook.command.split_first().expect("the configuration requires a command");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.work_dir)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .envs(variables.iter().copied());
        let begun = Instant::now();
        errand::run(command, limit).await.map_err(|error| format!("{name} {error}"))?;
        tracing::debug!(name, took_ms = begun.elapsed().as_millis(), "command ended");
        Ok(())
    }
}

//! Children of the agent that are no part of the workload.
//!
//! The agent reaps whatever child has ended, kills every descendant at the end, and takes "no child left" for "the
//! workload is gone". What is started here is kept out of all three: its owner waits for it.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// The process ids of all such children, which are also their groups'.
static APART: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// While this is held none is started and none is forgotten.
pub(crate) fn all() -> MutexGuard<'static, BTreeSet<i32>> {
    APART.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child in a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct Apart {
    child: Child,
    group: Pid,
}

impl Apart {
    /// Starts `command` in a process group of its own.
    ///
    /// # Errors
    /// What the system says; nothing is left then.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let mut apart = all();
        let child = command.process_group(0).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = id.expect("a child that nobody has waited for has a process id below 2^22");
        apart.insert(group.as_raw_nonzero().get());
        Ok(Self { child, group })
    }

    /// What it says on standard output and on standard error, where those are piped.
    pub(crate) fn streams(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Kills it, and what it started in its group.
    pub(crate) fn kill(&self) {
        match rustix::process::kill_process_group(self.group, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {} // SRCH: all have ended
            Err(error) => {
                tracing::warn!(%error, group = self.group.as_raw_nonzero(), "cannot kill a command")
            }
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // Also when it has ended: what it left running in its group keeps the group's id from being used again.
        self.kill();
        all().remove(&self.group.as_raw_nonzero().get());
    }
}

//! The workload's processes: started in a group of their own, reaped, signalled, and at the end none left.
//!
//! Lifeboat declares itself the reaper of orphans (`PR_SET_CHILD_SUBREAPER`), so every descendant that
//! loses its parent becomes its child, as for PID 1 in a container. Hence "no child left" means "no
//! descendant left", whatever forked and changed its session. After a crash of the agent that knowledge is
//! gone; then the run id in the environment finds what is left over.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lifeboat_core::conclusion::Exit;
use rustix::process::{Pid, Signal as OsSignal, WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The variable by which processes of a run are recognised.
pub const RUN_ID_VARIABLE: &str = "LIFEBOAT_RUN_ID";

/// After SIGKILL a process disappears within milliseconds, unless it hangs in the kernel; then waiting
/// longer does not help either.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at processes that are not our children, whose end nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A workload that this process started.
#[derive(Debug)]
pub struct Workload {
    mark: Mark,
    leader: Pid,
    exit: Option<Exit>,
}

/// What is needed to recognise a workload after the agent that started it has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The value of [`RUN_ID_VARIABLE`] in its processes' environment.
    pub run_id: String,
    /// The process id of its leader, which is also its group's.
    pub leader: i32,
}

/// How the workload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its first process runs.
    Running,
    /// Its first process has ended; others that it started still run.
    Orphans(Exit),
    /// No process is left.
    Gone(Exit),
}

/// Why the command could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such program.
    #[error("there is no command `{0}`")]
    NotFound(String),
    /// It exists and is not executable.
    #[error("cannot execute `{command}`")]
    CannotExecute {
        /// The program.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Workload {
    /// Starts `command` in its own process group, with `work_dir` as its directory and `variables` added to
    /// the environment. Standard input is passed on unless it is a terminal, which a background group could
    /// not read from without being stopped.
    ///
    /// # Errors
    /// [`StartError`], by what a shell would distinguish.
    pub fn start(
        command: &[OsString],
        work_dir: &Path,
        variables: &[(&'static str, OsString)],
        run_id: &str,
    ) -> Result<Self, StartError> {
        let (program, arguments) = command.split_first().expect("the command line requires a command");
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!(%error, "cannot become the reaper of orphans; processes that change their session may be left");
        }
        let stdin =
            if rustix::termios::isatty(rustix::stdio::stdin()) { Stdio::null() } else { Stdio::inherit() };
        let child = Command::new(program)
            .args(arguments)
            .current_dir(work_dir)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env(RUN_ID_VARIABLE, run_id)
            .stdin(stdin)
            .process_group(0)
            .spawn()
            .map_err(|source| {
                let command = program.to_string_lossy().into_owned();
                match source.kind() {
                    io::ErrorKind::NotFound => StartError::NotFound(command),
                    _ => StartError::CannotExecute { command, source },
                }
            })?;
        let leader = i32::try_from(child.id()).expect("Linux process ids are below 2^22");
        Ok(Self {
            mark: Mark { run_id: run_id.to_owned(), leader },
            leader: Pid::from_raw(leader).expect("a child's process id is positive"),
            exit: None,
        })
    }

    /// How to recognise it after a crash.
    #[must_use]
    pub const fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Reaps every child that has ended, and tells how the workload stands. Never blocks.
    pub fn reap(&mut self) -> Life {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if pid == self.leader && self.exit.is_none() {
                        self.exit = exit_of(status);
                    }
                }
                Ok(None) => break,
                Err(rustix::io::Errno::INTR) => {}
                // No child, hence no descendant. The leader's end cannot have been missed: only this loop reaps.
                Err(_) => return Life::Gone(self.exit.unwrap_or(Exit::Code(u8::MAX))),
            }
        }
        self.exit.map_or(Life::Running, Life::Orphans)
    }

    /// Sends `signal` to the process group; a stopped process is woken so that it can obey.
    pub fn signal(&self, signal: OsSignal) {
        signal_group(self.leader, signal);
        if signal != OsSignal::KILL {
            signal_group(self.leader, OsSignal::CONT);
        }
    }

    /// Kills every descendant and reaps it. Returns whether all are gone; those in an uninterruptible wait
    /// in the kernel may not be.
    pub fn kill(&mut self) -> bool {
        let start = std::time::Instant::now();
        loop {
            self.signal(OsSignal::KILL);
            kill_each(&children_of_this_process());
            kill_each(&self.mark.processes());
            if let Life::Gone(_) = self.reap() {
                return true;
            }
            if start.elapsed() > KILL_WAIT {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Mark {
    /// Every process on this machine whose environment has this run id, as far as this user may see it.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        let wanted = format!("{RUN_ID_VARIABLE}={}", self.run_id).into_bytes();
        let own = rustix::process::getpid();
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
            .filter(|pid| *pid != own && !is_zombie(*pid))
            .filter(|pid| {
                std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()))
                    .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|v| v == wanted))
            })
            .collect()
    }

    /// Asks what a dead agent left running to stop, and waits until it has or `until` is reached.
    /// Returns whether nothing is left.
    pub async fn stop(&self, signal: OsSignal, until: Instant) -> bool {
        let mut asked: Vec<Pid> = Vec::new();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            for pid in left {
                if !asked.contains(&pid) {
                    asked.push(pid);
                    signal_process(pid, signal);
                    signal_process(pid, OsSignal::CONT);
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Kills what a dead agent left running. Returns whether nothing is left.
    pub fn kill(&self) -> bool {
        let start = std::time::Instant::now();
        loop {
            let left = self.processes();
            if left.is_empty() {
                return true;
            }
            if start.elapsed() > KILL_WAIT {
                return false;
            }
            kill_each(&left);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    if let Some(code) = status.exit_status() {
        Some(Exit::Code(small(code)))
    } else {
        status.terminating_signal().map(|signal| Exit::Signal(small(signal)))
    }
}

fn signal_group(leader: Pid, signal: OsSignal) {
    match rustix::process::kill_process_group(leader, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {} // SRCH: it has ended already
        Err(error) => tracing::warn!(%error, group = leader.as_raw_nonzero(), "cannot signal the workload"),
    }
}

fn signal_process(pid: Pid, signal: OsSignal) {
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {} // SRCH: it has ended already
        Err(error) => tracing::warn!(%error, process = pid.as_raw_nonzero(), "cannot signal a process"),
    }
}

fn kill_each(processes: &[Pid]) {
    for pid in processes {
        signal_process(*pid, OsSignal::KILL);
    }
}

/// Orphans included: they were given to this process as their reaper.
fn children_of_this_process() -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw))
        .collect()
}

/// A zombie has ended; only its parent has not noticed yet.
fn is_zombie(pid: Pid) -> bool {
    // Source: proc(5): /proc/PID/stat is `pid (name) state …`; the name may contain anything, also `)`.
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
}

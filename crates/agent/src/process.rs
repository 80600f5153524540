//! The workload's processes: started in a group of their own, reaped, signalled, and at the end none left.
//!
//! Lifeboat declares itself the reaper of orphans (`PR_SET_CHILD_SUBREAPER`), so every descendant that
//! loses its parent becomes its child, as for PID 1 in a container. Hence "no child left" means "no
//! descendant left", whatever forked and changed its session. After a crash of the agent that knowledge is
//! gone; then the run id in the environment, and the tree below the first process, find what is left over.

use std::collections::BTreeSet;
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

use crate::apart;

/// The variable by which processes of a run are recognised.
pub const RUN_ID_VARIABLE: &str = "LIFEBOAT_RUN_ID";

/// After SIGKILL a process disappears within milliseconds, unless it hangs in the kernel; then waiting
/// longer does not help either.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Between two looks at processes that are not our children, whose end nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A pass over the process table takes milliseconds, and whatever else the agent does waits: where orphans end faster than
/// they are reaped, the next pass comes with the next signal.
const PASSES_MAX: u32 = 4;

/// Whoever sends one of these expects it to be obeyed.
const ENDING: [OsSignal; 4] = [OsSignal::TERM, OsSignal::INT, OsSignal::QUIT, OsSignal::HUP];

/// A workload that this process started.
#[derive(Debug)]
pub struct Workload {
    mark: Mark,
    leader: Pid,
    exit: Option<Exit>,
    /// The signal by which it was asked to stop.
    asked: Option<OsSignal>,
}

/// What is needed to recognise a workload after the agent that started it has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The value of [`RUN_ID_VARIABLE`] in its processes' environment.
    pub run_id: String,
    /// The process id of its leader, which is also its group's.
    pub leader: i32,
    /// Tells the leader from a later process with the same id: the boot it was started in, and when, in clock
    /// ticks since then. `None` where `/proc` could not tell.
    #[serde(default)]
    pub born: Option<(String, u64)>,
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
            .map_err(|source| start_error(program, work_dir, source))?;
        let leader = i32::try_from(child.id()).expect("Linux process ids are below 2^22");
        let leader_pid = Pid::from_raw(leader).expect("a child's process id is positive");
        // Not reaped before `reap` is called, so that it is in the table even if it has ended.
        let born = boot_id().zip(Entry::read(leader_pid).map(|entry| entry.started));
        Ok(Self {
            mark: Mark { run_id: run_id.to_owned(), leader, born },
            leader: leader_pid,
            exit: None,
            asked: None,
        })
    }

    /// How to recognise it after a crash.
    #[must_use]
    pub const fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Reaps every child that has ended, and tells how the workload stands. Never blocks.
    pub fn reap(&mut self) -> Life {
        // Held until the end: a child that is started meanwhile would be taken for the workload's.
        let apart = apart::all();
        let mut passes = 0;
        // Each round but the last reaps a child.
        loop {
            let Reaped { ended, is_any_left } = if apart.is_empty() {
                reap_any()
            } else {
                passes += 1;
                reap_but(&apart)
            };
            for (pid, status) in &ended {
                if *pid == self.leader && self.exit.is_none() {
                    self.exit = exit_of(*status);
                    self.ask_those_left_behind(&apart);
                }
            }
            match (ended.is_empty(), is_any_left) {
                // No child, hence no descendant. The leader's end cannot have been missed: only this loop reaps.
                (true, false) => return Life::Gone(self.exit.unwrap_or(Exit::Code(u8::MAX))),
                (true, true) => break,
                // What has ended since the last pass began has raised a signal since.
                (false, _) if passes == PASSES_MAX => break,
                (false, _) => {}
            }
        }
        self.exit.map_or(Life::Running, Life::Orphans)
    }

    /// Sends `signal` to the process group; once the first process has ended, to whatever it left behind,
    /// whose groups are its own. A stopped process is woken by a signal that normally ends it.
    pub fn signal(&self, signal: OsSignal) {
        let send = |signal| {
            if self.exit.is_none() {
                signal_group(self.leader, signal);
            } else {
                signal_each(&descendants(), signal);
            }
        };
        send(signal);
        if self.asked == Some(signal) || ENDING.contains(&signal) {
            send(OsSignal::CONT);
        }
    }

    /// Asks the workload to stop with `signal`. A stopped process is woken so that it can obey; what outlives
    /// the first process outside of its group is asked when that has ended.
    pub fn ask_to_stop(&mut self, signal: OsSignal) {
        self.asked = Some(signal);
        self.signal(signal);
    }

    /// The group was asked; those that had left it were not.
    fn ask_those_left_behind(&self, apart: &BTreeSet<i32>) {
        let Some(signal) = self.asked else { return };
        let others: Vec<Pid> = family(&[rustix::process::getpid()], apart)
            .into_iter()
            .filter(|entry| entry.group != self.mark.leader)
            .map(|entry| entry.pid)
            .collect();
        signal_each(&others, signal);
        signal_each(&others, OsSignal::CONT);
    }

    /// Kills every descendant and reaps it. Returns whether all are gone; those in an uninterruptible wait
    /// in the kernel may not be.
    pub fn kill(&mut self) -> bool {
        let start = std::time::Instant::now();
        loop {
            if self.exit.is_none() {
                signal_group(self.leader, OsSignal::KILL);
            }
            signal_each(&descendants(), OsSignal::KILL);
            signal_each(&self.mark.marked(), OsSignal::KILL);
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
    /// The mark of work whose processes somebody else started: it has none of its own.
    pub(crate) fn of_others() -> Self {
        Self { run_id: String::new(), leader: 0, born: None }
    }

    pub(crate) const fn is_of_others(&self) -> bool {
        self.run_id.is_empty()
    }

    /// Every process of the workload on this machine, as far as this user may see it: those with the run id in
    /// their environment, and, as that can be cleared, the first process with its group and all descendants.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        if self.is_of_others() {
            return Vec::new();
        }
        let mut found: BTreeSet<i32> =
            self.marked().into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        if self.leader_lives() {
            let roots: Vec<Pid> = process_table()
                .iter()
                .filter(|entry| entry.group == self.leader || entry.pid.as_raw_nonzero().get() == self.leader)
                .map(|entry| entry.pid)
                .collect();
            found.extend(roots.iter().map(|pid| pid.as_raw_nonzero().get()));
            found.extend(
                family(&roots, &BTreeSet::new()).iter().map(|entry| entry.pid.as_raw_nonzero().get()),
            );
        }
        found.remove(&rustix::process::getpid().as_raw_nonzero().get());
        found.into_iter().filter_map(Pid::from_raw).filter(|pid| has_not_ended(*pid)).collect()
    }

    /// Whether the process with the leader's id is still the leader.
    fn leader_lives(&self) -> bool {
        let (Some((boot, started)), Some(pid)) = (&self.born, Pid::from_raw(self.leader)) else {
            return false;
        };
        Entry::read(pid).is_some_and(|entry| entry.started == *started) && boot_id().as_ref() == Some(boot)
    }

    /// Every process whose environment has this run id.
    fn marked(&self) -> Vec<Pid> {
        let wanted = format!("{RUN_ID_VARIABLE}={}", self.run_id).into_bytes();
        let own = rustix::process::getpid();
        process_ids()
            .filter(|pid| *pid != own && has_not_ended(*pid))
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
            signal_each(&left, OsSignal::KILL);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What became of the children.
struct Reaped {
    /// Those that had ended.
    ended: Vec<(Pid, WaitStatus)>,
    /// There may be others.
    is_any_left: bool,
}

/// One child, if one has ended.
fn reap_any() -> Reaped {
    // Repeated only when a signal came in between.
    loop {
        return match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(one)) => Reaped { ended: vec![one], is_any_left: true },
            Ok(None) => Reaped { ended: Vec::new(), is_any_left: true },
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => Reaped { ended: Vec::new(), is_any_left: false },
        };
    }
}

/// Every child that has ended, in one pass over the process table, without those whose owners wait for them. What loses
/// its parent while this looks has one that ended, and is found when the caller looks again.
fn reap_but(apart: &BTreeSet<i32>) -> Reaped {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let (mut ended, mut is_any_left) = (Vec::new(), false);
    for child in process_table() {
        if child.parent != own || apart.contains(&child.pid.as_raw_nonzero().get()) {
            continue;
        }
        match rustix::process::waitpid(Some(child.pid), WaitOptions::NOHANG) {
            Ok(Some(one)) => ended.push(one),
            Ok(None) | Err(rustix::io::Errno::INTR) => is_any_left = true,
            Err(_) => {} // no child of ours any more
        }
    }
    Reaped { ended, is_any_left }
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

fn signal_each(processes: &[Pid], signal: OsSignal) {
    for pid in processes {
        signal_process(*pid, signal);
    }
}

/// What a shell would say of a command that could not be started.
fn start_error(program: &OsString, work_dir: &Path, source: io::Error) -> StartError {
    let is_path = program.as_encoded_bytes().contains(&b'/');
    let path = work_dir.join(program);
    let command = program.to_string_lossy().into_owned();
    match source.kind() {
        // It is there, so it is its interpreter that is not: 126, as in a shell.
        io::ErrorKind::NotFound if is_path && path.exists() => {
            let source = io::Error::new(
                io::ErrorKind::NotFound,
                "the interpreter that its first line names does not exist",
            );
            StartError::CannotExecute { command, source }
        }
        io::ErrorKind::NotFound if is_path => StartError::NotFound(path.to_string_lossy().into_owned()),
        io::ErrorKind::NotFound => StartError::NotFound(command),
        _ => StartError::CannotExecute { command, source },
    }
}

/// A process, as `/proc/PID/stat` describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) pid: Pid,
    parent: i32,
    group: i32,
    /// In clock ticks since the boot.
    pub(crate) started: u64,
    pub(crate) state: u8,
}

impl Entry {
    pub(crate) fn read(pid: Pid) -> Option<Self> {
        // Source: proc(5): /proc/PID/stat is `pid (name) state parent group …`, the start time its 22nd field;
        // the name may contain anything, also `)` and bytes that are no UTF-8.
        let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(Self {
            pid,
            state: fields.first()?.bytes().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

fn process_ids() -> impl Iterator<Item = Pid> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
}

fn process_table() -> Vec<Entry> {
    process_ids().filter_map(Entry::read).collect()
}

/// The descendants of this process, without those that are no part of the workload: orphans are among them, given to
/// it as their reaper.
fn descendants() -> Vec<Pid> {
    let apart = apart::all();
    family(&[rustix::process::getpid()], &apart).into_iter().map(|entry| entry.pid).collect()
}

/// All descendants of `roots`, without these, and without `apart` and what lies below. Read from the parents that the processes name, because the
/// kernel's lists of children exist only where it was built with them.
pub(crate) fn family(roots: &[Pid], apart: &BTreeSet<i32>) -> Vec<Entry> {
    let mut parents: BTreeSet<i32> = roots.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    let mut rest = process_table();
    rest.retain(|entry| {
        let pid = entry.pid.as_raw_nonzero().get();
        !parents.contains(&pid) && !apart.contains(&pid)
    });
    let mut found = Vec::new();
    // Each round finds one generation; the last finds none.
    loop {
        let (children, others): (Vec<Entry>, Vec<Entry>) =
            rest.into_iter().partition(|entry| parents.contains(&entry.parent));
        if children.is_empty() {
            return found;
        }
        parents.extend(children.iter().map(|entry| entry.pid.as_raw_nonzero().get()));
        found.extend(children);
        rest = others;
    }
}

/// A zombie has ended; only its parent has not noticed yet.
fn has_not_ended(pid: Pid) -> bool {
    Entry::read(pid).is_some_and(|entry| !matches!(entry.state, b'Z' | b'X'))
}

/// Distinguishes one boot of the machine from every other.
pub(crate) fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

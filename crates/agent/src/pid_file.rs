//! The process that a PID file names: found, told from a later one with the same id, asked to stop, killed.
//!
//! A PID file may outlive its process, and the id be given to another one. Both are told apart by when the process was
//! started: it cannot be later than the file that names it; and as long as the file is the same, the process must be
//! the one that was seen when the file was first read. Signals go through a descriptor of the process, which never
//! becomes another one's.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags, Signal as OsSignal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;

use crate::process::{Entry, family};

/// A PID file is a number and the end of a line.
const SIZE_MAX: u64 = 64;

/// A process tells when it was started in hundredths of a second since the boot, and the boot's own time is a whole
/// second.
const TOLERANCE: Duration = Duration::from_secs(2);

/// Source: proc(5) and sysconf(3), `_SC_CLK_TCK`: what the kernel tells processes is in hundredths of a second on every
/// architecture that Lifeboat is built for, whatever its own tick.
const CLOCK_TICKS: u64 = 100;

/// Between two looks at processes whose end nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// After SIGKILL a process disappears within milliseconds, unless it hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// A PID file, and what was seen of its process.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Which process the file, as it was then, stood for.
    bound: Option<(FileId, Process)>,
    /// The process and everything below it that was asked to stop.
    asked: BTreeMap<i32, Process>,
}

/// Tells one state of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    inode: u64,
    changed: (i64, i64),
}

/// A process that is surely none other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In clock ticks since the boot.
    started: u64,
}

/// Why a PID file does not lead to a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidFileError {
    #[error("cannot read the PID file {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the PID file {path} does not name a process that can be stopped: it says {text:?}")]
    Malformed { path: PathBuf, text: String },
    #[error("the PID file {path} is out of date: process {pid} was started after it was written")]
    Reused { path: PathBuf, pid: i32 },
}

impl PidFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // Nothing panics while it is held.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that runs now. `None`: there is no file, or its process has ended.
    ///
    /// # Errors
    /// [`PidFileError`]
    pub(crate) fn process(&self) -> Result<Option<Process>, PidFileError> {
        let Some((file, pid, written)) = self.read()? else { return Ok(None) };
        let bound = self.seen().bound;
        let is_running = |entry: &Entry| !matches!(entry.state, b'Z' | b'X');
        let Some(entry) = Entry::read(pid).filter(is_running) else { return Ok(None) };
        let process = Process { pid: pid.as_raw_nonzero().get(), started: entry.started };
        let is_the_one = match bound {
            Some((same, known)) if same == file => known == process,
            Some(_) | None => wall_time(entry.started).is_none_or(|at| at <= written + TOLERANCE),
        };
        if !is_the_one {
            return Err(PidFileError::Reused { path: self.path.clone(), pid: process.pid });
        }
        self.seen().bound = Some((file, process));
        Ok(Some(process))
    }

    fn read(&self) -> Result<Option<(FileId, Pid, SystemTime)>, PidFileError> {
        let unreadable = |source| PidFileError::Unreadable { path: self.path.clone(), source };
        let malformed = |text: &[u8]| PidFileError::Malformed {
            path: self.path.clone(),
            text: String::from_utf8_lossy(text).trim().chars().take(20).collect(),
        };
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        if !metadata.is_file() || metadata.len() > SIZE_MAX {
            return Err(malformed(b"what is no number"));
        }
        let text = std::fs::read(&self.path).map_err(unreadable)?;
        let own = rustix::process::getpid();
        let pid = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse::<i32>().ok())
            .filter(|pid| *pid > 1) // the machine's first process is nobody's workload
            .and_then(Pid::from_raw)
            .filter(|pid| *pid != own)
            .ok_or_else(|| malformed(&text))?;
        let file = FileId { inode: metadata.ino(), changed: (metadata.mtime(), metadata.mtime_nsec()) };
        let written = metadata.modified().map_err(unreadable)?;
        Ok(Some((file, pid, written)))
    }

    /// Asks the process to stop, and when it has ended what is left below it; waits until nothing is. Cancel-safe.
    /// Returns whether there was anything.
    ///
    /// # Errors
    /// [`PidFileError`]; nothing was asked then.
    pub(crate) async fn stop(&self, signal: OsSignal) -> Result<bool, PidFileError> {
        let Some(process) = self.process()? else { return Ok(false) };
        tracing::info!(process = process.pid, ?signal, "asking the process to stop");
        self.seen().asked = BTreeMap::from([(process.pid, process)]);
        // Before it is asked: what loses its parent is not found below it any more.
        self.left();
        process.signal(signal);
        process.signal(OsSignal::CONT);
        let mut rest_is_asked = false;
        loop {
            let left = self.left();
            if left.is_empty() {
                return Ok(true);
            }
            if !rest_is_asked && !process.lives() {
                rest_is_asked = true;
                for other in &left {
                    other.signal(signal);
                    other.signal(OsSignal::CONT);
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Kills whatever is left. Returns whether nothing is.
    pub(crate) fn kill(&self) -> bool {
        match self.process() {
            Ok(Some(process)) => {
                self.seen().asked.insert(process.pid, process);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "no process can be named"),
        }
        let begun = Instant::now();
        loop {
            let left = self.left();
            if left.is_empty() {
                return true;
            }
            if begun.elapsed() > KILL_WAIT {
                return false;
            }
            for process in left {
                process.signal(OsSignal::KILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What has not ended of those that were asked, and of what they have started since.
    fn left(&self) -> Vec<Process> {
        let mut seen = self.seen();
        seen.asked.retain(|_, process| process.lives());
        let roots: Vec<Pid> = seen.asked.keys().copied().filter_map(Pid::from_raw).collect();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        for entry in family(&roots, &[own].into()) {
            let pid = entry.pid.as_raw_nonzero().get();
            seen.asked.entry(pid).or_insert(Process { pid, started: entry.started });
        }
        seen.asked.values().filter(|process| process.lives()).copied().collect()
    }
}

impl Process {
    fn lives(self) -> bool {
        let entry = Pid::from_raw(self.pid).and_then(Entry::read);
        entry.is_some_and(|entry| entry.started == self.started && !matches!(entry.state, b'Z' | b'X'))
    }

    /// Signals it and nobody else.
    fn signal(self, signal: OsSignal) {
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let sent = match pidfd_open(pid, PidfdFlags::empty()) {
            // Looked at once more, now that the descriptor holds it: it may have ended, and the id been given away.
            Ok(descriptor) if self.lives() => pidfd_send_signal(&descriptor, signal),
            Ok(_) => Ok(()),
            // A kernel before 5.3, or a container that does not allow it: the id alone, right after a look.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) if self.lives() => {
                rustix::process::kill_process(pid, signal)
            }
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {} // SRCH: it has ended already
            Err(error) => tracing::warn!(%error, process = self.pid, "cannot signal a process"),
        }
    }
}

/// When a process was started, by the wall clock as it is now. `None` where `/proc` does not tell.
fn wall_time(started: u64) -> Option<SystemTime> {
    // Source: proc(5): `btime` in /proc/stat is the boot's time in seconds since 1970.
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    let since_boot = Duration::from_millis(started.checked_mul(1000 / CLOCK_TICKS)?);
    Some(UNIX_EPOCH + Duration::from_secs(boot) + since_boot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("/bin/sleep").arg("1000").spawn().expect("started"))
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill(); // it may have ended
            let _ = self.0.wait(); // the same
        }
    }

    fn file(content: &str) -> (tempfile::TempDir, PidFile) {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("pid");
        std::fs::write(&path, content).expect("written");
        (temp, PidFile::new(path))
    }

    #[test]
    fn the_process_that_the_file_names_is_found() {
        let sleeper = Sleeper::start();
        let (_temp, file) = file(&format!("{}\n", sleeper.0.id()));
        let found = file.process().expect("readable").expect("it runs");
        assert_eq!(u32::try_from(found.pid), Ok(sleeper.0.id()));
        assert_eq!(file.process().expect("readable"), Some(found), "and again");
    }

    #[test]
    fn a_process_that_was_started_after_the_file_is_another_one() {
        let sleeper = Sleeper::start();
        let (_temp, file) = file(&sleeper.0.id().to_string());
        let of_old = SystemTime::now() - Duration::from_secs(60 * 60);
        let open = std::fs::File::options().write(true).open(file.path()).expect("opened");
        open.set_modified(of_old).expect("set");
        let error = file.process().expect_err("not this one");
        assert!(error.to_string().contains("out of date"), "{error}");
        assert!(file.kill(), "nothing is to be killed");
        let entry =
            Entry::read(Pid::from_raw(i32::try_from(sleeper.0.id()).expect("small")).expect("positive"));
        assert_ne!(entry.expect("it lives").state, b'Z');
    }

    #[test]
    fn a_file_that_stays_while_its_process_becomes_another_is_out_of_date() {
        let sleeper = Sleeper::start();
        let (_temp, file) = file(&sleeper.0.id().to_string());
        let found = file.process().expect("readable").expect("it runs");
        let other = Process { started: found.started - 1, ..found };
        let id = file.seen().bound.expect("bound").0;
        file.seen().bound = Some((id, other));
        assert!(matches!(file.process(), Err(PidFileError::Reused { .. })));
    }

    #[test]
    fn no_file_and_an_ended_process_are_nothing_to_stop() {
        let (temp, _) = file("");
        assert_eq!(PidFile::new(temp.path().join("none")).process().expect("no error"), None);
        let mut sleeper = Sleeper::start();
        let (_temp, file) = file(&sleeper.0.id().to_string());
        sleeper.0.kill().expect("killed");
        sleeper.0.wait().expect("ended");
        assert_eq!(file.process().expect("no error"), None);
    }

    #[test]
    fn what_is_no_process_to_be_stopped_is_refused_by_name() {
        let own = std::process::id().to_string();
        for content in ["", "x", "0", "1", "-5", "99999999999999999999", "12 13", own.as_str()] {
            let (_temp, file) = file(content);
            let error = file.process().expect_err(content);
            assert!(error.to_string().contains("does not name a process"), "{error}");
        }
        let (_temp, file) = file(&"1".repeat(100));
        assert!(matches!(file.process(), Err(PidFileError::Malformed { .. })));
    }

    #[tokio::test]
    async fn the_process_is_stopped_and_what_outlives_it_too() {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "/bin/sleep 1000 & echo $! > \"$0\".tmp; mv \"$0\".tmp \"$0\"; wait"])
            .arg(std::env::temp_dir().join(format!("lifeboat-pid-test-{}", std::process::id())))
            .spawn()
            .expect("started");
        let note = std::env::temp_dir().join(format!("lifeboat-pid-test-{}", std::process::id()));
        let begun = Instant::now();
        while !note.exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the shell never begins");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let below: i32 = std::fs::read_to_string(&note).expect("read").trim().parse().expect("a number");
        std::fs::remove_file(&note).expect("removed");
        let (_temp, file) = file(&shell.id().to_string());
        let reaped = std::thread::spawn(move || shell.wait());
        let stopped = tokio::time::timeout(Duration::from_secs(60), file.stop(OsSignal::TERM)).await;
        assert!(stopped.expect("in time").expect("no error"));
        reaped.join().expect("no panic").expect("it ended");
        let left = Pid::from_raw(below).and_then(Entry::read);
        assert!(left.is_none_or(|entry| entry.state == b'Z'), "{left:?}");
        assert!(file.kill(), "nothing is left");
    }
}

//! Processes under measurement: they end with their owner, and tell their memory and CPU time through `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::tree::typed;

/// Between two looks at something that is waited for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A process that is ended when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    what: String,
    /// Where its standard error goes.
    errors: PathBuf,
}

impl Running {
    /// Starts `command` with standard error in the file `errors`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(command: &mut Command, errors: &Path) -> anyhow::Result<Self> {
        let what = typed(command);
        let file = fs::File::create(errors).with_context(|| format!("cannot write {}", errors.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("`{what}` cannot be started"))?;
        Ok(Self { child, what, errors: errors.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        // The standard library only kills. A process that has ended already is as good.
        let kill = ["-c", "kill -TERM \"$1\"", "sh"];
        let _ = Command::new("sh").args(kill).arg(self.id().to_string()).stderr(Stdio::null()).status();
    }

    /// Waits for its end, at most `within`.
    ///
    /// # Errors
    /// When it goes on for longer, with what it wrote last.
    pub(crate) fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < within {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK_AGAIN);
        }
        bail!("`{}` does not end:\n{}", self.what, self.said())
    }

    /// Fails unless it still runs.
    ///
    /// # Errors
    /// When it has ended, with what it wrote last.
    pub(crate) fn check_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("`{}` ended ({status}):\n{}", self.what, self.said()),
        }
    }

    /// The end of its standard error.
    pub(crate) fn said(&self) -> String {
        let text = fs::read_to_string(&self.errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait(); // reaps it; nothing else can go wrong
    }
}

/// Waits until `path` exists.
///
/// # Errors
/// After `within`, or when `process` ends first.
pub(crate) fn wait_for(path: &Path, process: &mut Running, within: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !path.exists() {
        process.check_running()?;
        if begun.elapsed() > within {
            bail!("nothing after {within:?}; `{}` said:\n{}", process.what, process.said());
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Memory of a process, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident now (`VmRSS`).
    pub(crate) resident_kib: u64,
    /// The most that was ever resident (`VmHWM`).
    pub(crate) peak_kib: u64,
}

impl Memory {
    /// What the kernel says; `None` when the process has ended.
    pub(crate) fn of(id: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{id}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse().ok()
        };
        Some(Self { resident_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
    }
}

/// CPU time of a process, to the nanosecond, of threads that have ended meanwhile, too.
///
/// `/proc/ID/stat` counts in hundredths of a second, which is too coarse for an agent that is idle.
#[derive(Debug, Default)]
pub(crate) struct CpuTime {
    /// By thread: what it had used when it was last seen.
    threads: BTreeMap<String, u64>,
}

impl CpuTime {
    /// Looks at every thread. Often enough, as once a second, nothing is missed.
    ///
    /// # Errors
    /// When the process has ended or the kernel does not count.
    pub(crate) fn look(&mut self, id: u32) -> anyhow::Result<()> {
        let folder = format!("/proc/{id}/task");
        for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            let thread = thread?;
            // A thread may end between the two reads.
            let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
            let Some(Ok(ns)) = text.split_whitespace().next().map(str::parse) else {
                bail!("this kernel does not count CPU time by thread (CONFIG_SCHED_INFO)");
            };
            self.threads.insert(thread.file_name().to_string_lossy().into_owned(), ns);
        }
        Ok(())
    }

    pub(crate) fn seconds(&self) -> f64 {
        let ns: u64 = self.threads.values().sum();
        Duration::from_nanos(ns).as_secs_f64()
    }
}

/// Now, as the workload sees it.
pub(crate) fn wall_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A folder for all that is written, deleted when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates it where temporary files go: `TMPDIR` moves it to another disk.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("lifeboat-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // in the temporary folder, which is emptied anyway
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tx\nVmHWM:\t   11064 kB\nVmRSS:\t    9876 kB\nThreads:\t1\n";
        assert_eq!(Memory::parse(status), Some(Memory { resident_kib: 9_876, peak_kib: 11_064 }));
        assert_eq!(Memory::parse("Name:\tx\n"), None, "a process that has ended has no memory");
        assert!(Memory::of(std::process::id()).expect("this process").resident_kib > 0);
    }

    #[test]
    fn cpu_time_of_threads_that_have_ended_stays() {
        let mut cpu = CpuTime::default();
        cpu.threads.insert("gone".to_owned(), 2_000_000_000);
        cpu.look(std::process::id()).expect("counted");
        assert!(cpu.seconds() >= 2.0);
    }
}

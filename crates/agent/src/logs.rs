//! FlushLogs: whoever ships the log is told to, and the last lines of every log go to the store as `final_logs.txt`.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_core::evacuation::stage::Report;
use lifeboat_snapshot::Deadline;
use lifeboat_snapshot::extra::{self, Extra};
use rustix::fs::{Mode, OFlags};
use tokio::process::Command;
use tokio::time::Instant;

use crate::aside::aside;
use crate::below::{open_below, regular};
use crate::config::LogAgent;
use crate::errand;
use crate::hands::{Handed, Site, Stored, bytes_text};
use crate::holding::Holding;
use crate::systemd::Unit;

/// The last lines of a log file are looked for in this many bytes at its end.
const LOG_TAIL_BYTES: u64 = 256 << 10;

/// A reload takes milliseconds, and is not what the time is for.
const RELOAD_MAX: Duration = Duration::from_secs(3);

/// Kept of the stage's time for what it has to say.
const LAST_WORD: Duration = Duration::from_millis(250);

pub(crate) async fn flush(site: &Site, holding: &Holding, deadline: Deadline) -> Handed {
    let reloading = reload(site.settings.log_agent.as_ref(), &deadline);
    let (reloaded, mut handed) = tokio::join!(reloading, store(site, holding, &deadline));
    // The last lines are stored all the same: it is named and makes nothing incomplete.
    if let Some(note) = reloaded {
        handed.detail = if handed.detail.is_empty() { note } else { format!("{}; {note}", handed.detail) };
    }
    handed
}

/// Tells whoever ships the log. Returns what is to be said of it.
async fn reload(agent: Option<&LogAgent>, deadline: &Deadline) -> Option<String> {
    let agent = agent?;
    let left = deadline.current().map(|end| end.saturating_duration_since(Instant::now()));
    let within = left.map_or(RELOAD_MAX, |left| left.saturating_sub(LAST_WORD).min(RELOAD_MAX));
    let (name, done) = match agent {
        LogAgent::Unit(name) => (name.clone(), Unit::new(name.clone()).reload(within).await),
        LogAgent::Command(command) => {
            let (program, arguments) = command.split_first().expect("the configuration requires a command");
            let mut errand = Command::new(program);
            errand.args(arguments);
            (program.clone(), errand::run(errand, within).await)
        }
    };
    match done {
        Ok(()) => Some(format!("{name} reloaded")),
        Err(error) => {
            tracing::error!(%error, agent = name, "whoever ships the log was not told");
            Some(format!("{name} was not reloaded: {error}"))
        }
    }
}

/// The last lines of the log files and of the agent itself.
async fn store(site: &Site, holding: &Holding, deadline: &Deadline) -> Handed {
    let (text, notes, is_whole) = last_lines(site, deadline).await;
    let Some(claim) = holding.claim().await else { return Handed::given_back() };
    let id = claim.lock().await.id();
    match extra::put(&site.workload, &id, Extra::Logs, text.into(), deadline).await {
        Ok(stored) => Handed {
            report: if is_whole { Report::Done } else { Report::Partly },
            detail: [vec![bytes_text(stored.size)], notes].concat().join("; "),
            stored: Stored::Logs(stored),
        },
        Err(error) => Handed::failed(&error),
    }
}

/// Those lines, what is to be said of them, and whether all could be read.
async fn last_lines(site: &Site, deadline: &Deadline) -> (String, Vec<String>, bool) {
    let mut text = String::new();
    let (mut notes, mut is_whole) = (Vec::new(), true);
    let (work_dir, paths) = (site.work_dir.clone(), site.settings.log_files.clone());
    let lines = site.settings.log_lines;
    // A share of the time: the store wants some, too.
    let left = deadline.current().map_or(RELOAD_MAX, |end| end.saturating_duration_since(Instant::now()) / 2);
    let soon = Deadline::at(Instant::now() + left.min(RELOAD_MAX));
    let read = aside(&soon, move || {
        let tail = |path: PathBuf| (log_tail(&work_dir, &path, lines), path);
        paths.into_iter().map(tail).collect::<Vec<_>>()
    });
    let read = read.await.unwrap_or_else(|| {
        is_whole = false;
        notes.push("the log files cannot be read in time".to_owned());
        Vec::new()
    });
    for (tail, path) in read {
        match tail {
            Ok(tail) => text.push_str(&format!("==> {} <==\n{tail}\n", path.display())),
            // One that was never written is no loss.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                notes.push(format!("there is no {}", path.display()));
            }
            Err(error) => {
                is_whole = false;
                notes.push(format!("{}: {error}", path.display()));
            }
        }
    }
    text.push_str("==> lifeboat <==\n");
    text.push_str(&site.ring.text());
    (text, notes, is_whole)
}

/// The last `lines` lines of a log file. An absolute path may lead anywhere but must not be a link itself.
fn log_tail(work_dir: &Path, path: &Path, lines: usize) -> io::Result<String> {
    let mut file = if path.is_absolute() {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        regular(std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?))?
    } else {
        open_below(work_dir, path)?
    };
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tail_is_its_last_lines() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
        std::fs::write(temp.path().join("app.log"), text).expect("written");
        let tail = log_tail(temp.path(), Path::new("app.log"), 2).expect("read");
        assert_eq!(tail, "line 49998\nline 49999");
        assert_eq!(log_tail(temp.path(), &temp.path().join("app.log"), 1).expect("read"), "line 49999");
        assert!(log_tail(temp.path(), Path::new("none.log"), 2).is_err());
    }

    #[tokio::test]
    async fn whoever_ships_the_log_is_told_within_the_time_and_named_when_it_does_not_hear() {
        let command = |text: &str| LogAgent::Command(vec!["/bin/sh".into(), "-c".into(), text.into()]);
        let within = |ms| Deadline::at(Instant::now() + Duration::from_millis(ms));
        assert_eq!(reload(None, &within(60_000)).await, None);
        let said = reload(Some(&command("exit 0")), &within(600_000)).await.expect("told");
        assert_eq!(said, "/bin/sh reloaded");
        let said =
            reload(Some(&command("echo no such unit >&2; exit 5")), &within(600_000)).await.expect("told");
        assert!(said.contains("was not reloaded") && said.contains("no such unit"), "{said}");
        let said = reload(Some(&command("sleep 1000")), &within(300)).await.expect("told");
        assert!(said.contains("did not end within"), "{said}");
    }
}

//! A systemd unit, through `systemctl`: how it stands, to start it, to stop it without blocking, to kill it; and what
//! systemd is told of the agent itself.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::errand::{self, ErrandError};

/// systemd answers within milliseconds; under heavy load within seconds.
const CALL: Duration = Duration::from_secs(5);

/// Killing waits so long: for systemd's answers, and for the processes, which are gone within milliseconds.
const KILL_WAIT: Duration = Duration::from_secs(3);

/// A unit, by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit(String);

/// How a unit stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitState {
    /// `loaded`, `not-found`, `masked`, …
    pub(crate) load: String,
    /// `active`, `inactive`, `failed`, `deactivating`, …
    pub(crate) active: String,
}

impl UnitState {
    /// systemd knows such a unit.
    pub(crate) fn exists(&self) -> bool {
        // Source: systemd, `org.freedesktop.systemd1(5)`, "LoadState": "stub", "loaded", "not-found", "bad-setting",
        // "error", "merged", "masked" (read November 2026).
        !matches!(self.load.as_str(), "not-found" | "bad-setting" | "error")
    }

    /// No process of it is left.
    pub(crate) fn is_over(&self) -> bool {
        // Source: the same, "ActiveState": "active", "reloading", "inactive", "failed", "activating", "deactivating",
        // later also "maintenance" and "refreshing".
        matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// What `systemctl show` prints.
    fn read(text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim().to_owned()
        };
        Self { load: value("LoadState"), active: value("ActiveState") }
    }
}

impl Unit {
    pub(crate) const fn new(name: String) -> Self {
        Self(name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`ErrandError`]
    pub(crate) async fn state(&self) -> Result<UnitState, ErrandError> {
        let text = errand::ask(systemctl(&self.show()), CALL).await?;
        Ok(UnitState::read(&text))
    }

    /// Has it stopped, and does not wait for it.
    ///
    /// # Errors
    /// [`ErrandError`] when systemd did not take the order.
    pub(crate) async fn stop(&self) -> Result<(), ErrandError> {
        errand::run(systemctl(&self.order("stop")), CALL).await
    }

    /// Has it started, and does not wait for it. Does nothing where it runs.
    ///
    /// # Errors
    /// [`ErrandError`] when systemd did not take the order.
    pub(crate) async fn start(&self) -> Result<(), ErrandError> {
        errand::run(systemctl(&self.order("start")), CALL).await
    }

    /// Has its configuration or its files opened anew.
    ///
    /// # Errors
    /// [`ErrandError`]
    pub(crate) async fn reload(&self, within: Duration) -> Result<(), ErrandError> {
        let order = ["reload", "--", &self.0].map(str::to_owned);
        errand::run(systemctl(&order), within).await
    }

    /// Kills it for good: a unit that is only killed would be started again by its own `Restart=`. Blocks for
    /// [`KILL_WAIT`] at most. Returns whether nothing is left.
    pub(crate) fn kill(&self) -> bool {
        let begun = Instant::now();
        let end = begun + KILL_WAIT;
        let is_over = |end| output_by(&self.show(), end).is_some_and(|text| UnitState::read(&text).is_over());
        if is_over(begun + KILL_WAIT / 3) {
            return true;
        }
        for order in [self.order("stop"), self.kill_order()] {
            if output_by(&order, end).is_none() {
                tracing::warn!(unit = self.0, order = order[0], "systemd did not take the order");
            }
        }
        while Instant::now() < end {
            if is_over(end) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn kill_order(&self) -> Vec<String> {
        ["kill", "--signal=SIGKILL", "--", &self.0].map(str::to_owned).to_vec()
    }

    fn show(&self) -> Vec<String> {
        ["show", "--property=LoadState", "--property=ActiveState", "--", &self.0].map(str::to_owned).to_vec()
    }

    fn order(&self, verb: &str) -> Vec<String> {
        [verb, "--no-block", "--", &self.0].map(str::to_owned).to_vec()
    }
}

/// Whether the machine itself is shutting down. `None`: systemd does not say.
pub(crate) async fn is_shutting_down() -> Option<bool> {
    let command = systemctl(&["show".to_owned(), "--property=SystemState".to_owned()]);
    let said = match errand::ask(command, CALL).await {
        Ok(said) => said,
        Err(error) => {
            tracing::warn!(%error, "systemd does not say whether the machine shuts down");
            return None;
        }
    };
    // Source: systemd, `org.freedesktop.systemd1(5)`, "SystemState": "initializing", "starting", "running", "degraded",
    // "maintenance", "stopping" (read November 2026).
    match said.trim().strip_prefix("SystemState=") {
        None | Some("") => None,
        Some(state) => Some(state == "stopping"),
    }
}

/// Tells systemd how this process stands, where it is asked to: `READY=1`, `STATUS=…`, `STOPPING=1`. Best effort.
///
/// Source: `sd_notify(3)`, "Standalone Implementations" (read November 2026): one datagram to `$NOTIFY_SOCKET`, whose
/// first character `@` stands for a zero.
pub(crate) fn tell(lines: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = address(&path).and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(lines.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, socket = %path.display(), "cannot tell systemd how this agent stands");
    }
}

fn address(path: &OsString) -> std::io::Result<SocketAddr> {
    match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(path),
    }
}

/// Whether systemd started this process as a service.
///
/// Source: `systemd.exec(5)`, "$INVOCATION_ID" (read November 2026).
pub(crate) fn is_our_supervisor() -> bool {
    std::env::var_os("INVOCATION_ID").is_some()
}

fn systemctl(arguments: &[String]) -> Command {
    let mut command = Command::new("systemctl");
    command.args(arguments);
    command
}

/// What `systemctl` says on standard output; `None` when it failed, or had not ended at `end`. Blocks.
fn output_by(arguments: &[String], end: Instant) -> Option<String> {
    use std::io::Read as _;
    use std::process::Stdio;
    let mut child = std::process::Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            Ok(None) | Err(_) => break None,
        }
    };
    let Some(status) = status else {
        let _ = child.kill(); // it has ended just now
        let _ = child.wait(); // the same
        return None;
    };
    let mut text = String::new();
    // Two short lines: they fit the pipe.
    child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_shows_is_understood() {
        let state = |text| {
            let state = UnitState::read(text);
            (state.exists(), state.is_over())
        };
        assert_eq!(state("LoadState=loaded\nActiveState=active\n"), (true, false));
        assert_eq!(state("ActiveState=deactivating\nLoadState=loaded\n"), (true, false));
        assert_eq!(state("LoadState=loaded\nActiveState=failed\n"), (true, true));
        assert_eq!(state("LoadState=not-found\nActiveState=inactive\n"), (false, true));
        assert_eq!(state(""), (true, false), "what says nothing is no proof that it has ended");
    }
}

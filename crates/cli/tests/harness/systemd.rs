//! A stand-in for `systemctl`, put before the real one on PATH: systemd does not run where the tests do. It is a script
//! that keeps one unit, under whatever name, whose process is real, and notes each call. What systemd itself would do,
//! its time-outs and dependencies, is not in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::{Machine, eventually, is_alive};

const SYSTEMCTL: &str = r#"#!/bin/sh
# A stand-in for systemctl. It knows one unit; `start` begins its process in a session of its own.
here=$(dirname "$0")
echo "$*" >> "$here/calls"
pid() { cat "$here/unit.pid" 2>/dev/null; }
# What has ended and is not waited for has ended.
alive() { [ -n "$(pid)" ] && grep -qs '^State:.[^ZX]' "/proc/$(pid)/status"; }
[ "$1" = show ] || ! [ -e "$here/refuses" ] || { echo 'Access denied' >&2; exit 4; }
case "$*" in
show*SystemState*) echo "SystemState=$(cat "$here/system")" ;;
show*missing*) echo LoadState=not-found; echo ActiveState=inactive ;;
show*) echo LoadState=loaded; if alive; then echo ActiveState=active; else echo ActiveState=inactive; fi ;;
reload*) ;;
start*) if ! alive; then
    rm -f "$here/unit.pid"
    setsid sh -c 'cd "$0/../work" && echo $$ > "$0/pid.new" && mv "$0/pid.new" "$0/unit.pid" && . "$0/unit.sh"' \
        "$here" </dev/null >/dev/null 2>&1 &
    until [ -s "$here/unit.pid" ]; do sleep 0.01; done
fi ;;
stop*) ! alive || kill -TERM "$(pid)" ;;
kill*) ! alive || kill -KILL "$(pid)" ;;
*) echo "unknown: $*" >&2; exit 1 ;;
esac
"#;

/// A unit on a machine, behind the stand-in. Dropping it kills its process.
pub(crate) struct Unit {
    pub(crate) dir: PathBuf,
}

impl Unit {
    pub(crate) fn install(machine: &Machine, script: &str) -> Self {
        let dir = machine.dir.join("systemd");
        fs::create_dir_all(&dir).expect("created");
        fs::write(dir.join("systemctl"), SYSTEMCTL).expect("written");
        fs::set_permissions(dir.join("systemctl"), fs::Permissions::from_mode(0o755)).expect("set");
        fs::write(dir.join("unit.sh"), script).expect("written");
        fs::write(dir.join("system"), "running").expect("written");
        Self { dir }
    }

    pub(crate) fn start(&self, machine: &Machine) {
        self.start_beside(machine, "begun");
    }

    /// Starts it; it works when `sign`, from the work directory on, exists.
    pub(crate) fn start_beside(&self, machine: &Machine, sign: &str) {
        let started = self.systemctl("start").status().expect("started");
        assert!(started.success());
        eventually("the unit works", || machine.work().join(sign).exists());
    }

    /// Through the shell: what was just written cannot be executed while another thread's child still has it open.
    fn systemctl(&self, verb: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg(self.dir.join("systemctl")).arg(verb);
        command
    }

    pub(crate) fn runs(&self) -> bool {
        fs::read_to_string(self.dir.join("unit.pid")).is_ok_and(|pid| is_alive(&pid))
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    pub(crate) fn path(&self) -> String {
        let rest = std::env::var("PATH").expect("a path");
        format!("{}:{rest}", self.dir.display())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.systemctl("kill").status(); // it may have ended
    }
}

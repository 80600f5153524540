//! Where an agent keeps what concerns this machine alone: its lock, its record, its socket.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// The longest path that fits a Unix socket's address, with its final zero.
/// Source: unix(7): `sun_path` has 108 bytes.
const SOCKET_PATH_MAX: usize = 107;

/// The directories of one workload on this machine.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// `{state}/agents/{workload}`: lock, record, last summary.
    pub agent: PathBuf,
    /// The socket on which the running agent listens.
    pub socket: PathBuf,
    /// The socket for the application.
    pub app_socket: PathBuf,
}

/// The lock that says: one agent a workload on this machine. Held while it lives; the kernel frees it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the agent's directory or lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DirsError {
    /// Another agent protects this workload on this machine.
    #[error("another lifeboat{} already protects this workload on this machine", pid_text(*.pid))]
    Locked {
        /// Its process id, where it could be read.
        pid: Option<u32>,
    },
    /// The state directory cannot be used.
    #[error(
        "cannot use {path} for lifeboat's own state; set XDG_STATE_HOME to a directory that can be written"
    )]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// The user's state directory for Lifeboat: `$XDG_STATE_HOME/lifeboat`, else `~/.local/state/lifeboat`,
/// else `/var/lib/lifeboat`. `variable` looks an environment variable up.
///
/// Source: XDG Base Directory Specification 0.8; relative paths in its variables are to be ignored.
#[must_use]
pub fn state_dir(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> PathBuf {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from("/var/lib/lifeboat"), |base| base.join("lifeboat"))
}

impl Dirs {
    /// The places for `workload` under the state directory `state`. Creates nothing.
    #[must_use]
    pub fn new(state: &Path, workload: &str) -> Self {
        let agent = state.join("agents").join(workload);
        let socket = |name: &str| {
            let direct = agent.join(name);
            if direct.as_os_str().len() <= SOCKET_PATH_MAX {
                return direct;
            }
            // Too long for an address: a short name that anyone with the same state directory finds.
            let user = rustix::process::geteuid().as_raw();
            let tag = fingerprint(agent.as_os_str().as_encoded_bytes());
            PathBuf::from(format!("/tmp/lifeboat-{user}/{tag:016x}.{name}"))
        };
        let (own, app_socket) = (socket("agent.sock"), socket("app.sock"));
        Self { agent, socket: own, app_socket }
    }

    /// Creates the directories, private to this user.
    ///
    /// # Errors
    /// [`DirsError::Unusable`], also when somebody else owns the socket's directory.
    pub fn create(&self) -> Result<(), DirsError> {
        let own = rustix::process::geteuid().as_raw();
        for dir in
            [Some(self.agent.as_path()), self.socket.parent(), self.app_socket.parent()].into_iter().flatten()
        {
            let unusable = |source| DirsError::Unusable { path: dir.to_owned(), source };
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
            let owner = fs::symlink_metadata(dir).map_err(unusable)?;
            if !owner.is_dir() || owner.uid() != own {
                return Err(unusable(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "it is not a directory of this user",
                )));
            }
        }
        Ok(())
    }

    /// Takes the lock, and writes this process's id into it for people to read.
    ///
    /// # Errors
    /// [`DirsError::Locked`] while another agent lives; [`DirsError::Unusable`].
    pub fn lock(&self) -> Result<Lock, DirsError> {
        let path = self.agent.join("lock");
        let unusable = |source| DirsError::Unusable { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text); // only to name the process; the lock is what counts
                return Err(DirsError::Locked { pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(unusable(error.into())),
        }
        let note = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = note {
            tracing::debug!(%error, "cannot note the process id in the lock"); // a full disk must not stop a run
        }
        Ok(Lock { _file: file })
    }
}

/// FNV-1a, 64 bits: a stable name, nothing secret.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What a replaced file must outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlive {
    /// The process. Costs no flush: at a notice each would delay the workload's stop signal by tens of ms.
    Process,
    /// A power cut as well.
    PowerCut,
}

/// Replaces `path` by `contents` so that whoever reads it, also after a crash, sees the old or the new, never a
/// torn file. Nothing that stands at the temporary name is followed or kept.
///
/// # Errors
/// Whatever the file system says; the old file is then untouched.
pub fn write_atomically(path: &Path, contents: &[u8], outlive: Outlive) -> io::Result<()> {
    let dir =
        path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no parent directory"))?;
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    let temporary = dir.join(temporary);
    let written = (|| {
        let _ = fs::remove_file(&temporary); // left by a crash; whatever else it is makes the next line fail
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        match outlive {
            Outlive::Process => fs::rename(&temporary, path),
            Outlive::PowerCut => {
                file.sync_all()?;
                fs::rename(&temporary, path)?;
                File::open(dir)?.sync_all()
            }
        }
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // ours, and useless now
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_follows_xdg() {
        let look = |pairs: &'static [(&'static str, &'static str)]| {
            state_dir(move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert_eq!(look(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/lifeboat"));
        assert_eq!(look(&[("XDG_STATE_HOME", "rel"), ("HOME", "/h")]), Path::new("/h/.local/state/lifeboat"));
        assert_eq!(look(&[]), Path::new("/var/lib/lifeboat"));
    }

    #[test]
    fn a_second_agent_is_refused_and_told_who_the_first_is() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dirs = Dirs::new(temp.path(), "w");
        dirs.create().expect("created");
        let lock = dirs.lock().expect("free");
        match dirs.lock() {
            Err(DirsError::Locked { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(lock);
        dirs.lock().expect("free again");
    }

    #[test]
    fn a_long_state_directory_still_has_a_socket() {
        let long = PathBuf::from("/").join("d".repeat(200));
        let dirs = Dirs::new(&long, "w");
        assert!(dirs.socket.as_os_str().len() <= SOCKET_PATH_MAX);
        assert_ne!(dirs.socket, Dirs::new(&long, "v").socket);
    }

    #[test]
    fn an_atomic_write_replaces_and_leaves_nothing_behind() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("record.json");
        write_atomically(&path, b"one", Outlive::PowerCut).expect("written");
        std::os::unix::fs::symlink("elsewhere", temp.path().join(".record.json.new")).expect("linked");
        write_atomically(&path, b"two", Outlive::Process).expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        assert_eq!(fs::read_dir(temp.path()).expect("listed").count(), 1);
        write_atomically(&temp.path().join("no/such/dir"), b"x", Outlive::Process)
            .expect_err("no such directory");
    }
}

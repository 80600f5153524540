//! Opens directories and files below one directory, name by name, never through a link.
//!
//! A path as a whole is never given to the kernel: names may have been replaced by links since they were seen, and
//! paths may be longer than one system call takes.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

/// So many directories are kept open, so that neighbours and children are found without walking from the top; with
/// a few readers at once they stay far below the usual limit of 1,024 descriptors.
const RECENT_MAX: usize = 16;

/// New directories are private until their mode is set.
const NEW_DIRECTORY: Mode = Mode::RWXU;

/// How a directory is opened: never a link, never waiting.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a file is opened: without waiting for the other end should it have become a pipe.
const FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The directories below one root, with the recently used ones kept open.
#[derive(Debug)]
pub(crate) struct Dirs {
    root: Arc<OwnedFd>,
    recent: VecDeque<(Box<[u8]>, Arc<OwnedFd>)>,
}

impl Dirs {
    /// Everything below `root`, which itself may be reached through links: the caller chose it.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::below(Arc::new(rustix::fs::open(root, flags, Mode::empty())?)))
    }

    /// The same root with nothing kept open, for another thread.
    pub(crate) fn fresh(&self) -> Self {
        Self::below(Arc::clone(&self.root))
    }

    pub(crate) const fn below(root: Arc<OwnedFd>) -> Self {
        Self { root, recent: VecDeque::new() }
    }

    pub(crate) const fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// The directory `path` (empty: the root).
    pub(crate) fn directory(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        self.walk(path, |_, _| Ok(()))
    }

    /// The directory `path`, created with all that is missing above it.
    pub(crate) fn create_directory(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        self.walk(path, |parent, name| match rustix::fs::mkdirat(parent, name, NEW_DIRECTORY) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }

    /// Opens each name of `path` in turn, after `before` was called for it, from the nearest directory kept open.
    fn walk(
        &mut self,
        path: &[u8],
        mut before: impl FnMut(&OwnedFd, &OsStr) -> io::Result<()>,
    ) -> io::Result<Arc<OwnedFd>> {
        let known = self
            .recent
            .iter()
            .filter(|(prefix, _)| is_at_or_below(path, prefix))
            .max_by_key(|(prefix, _)| prefix.len());
        let (mut current, rest) = match known {
            Some((prefix, fd)) => (Arc::clone(fd), path.get(prefix.len() + 1..).unwrap_or_default()),
            None => (Arc::clone(&self.root), path),
        };
        if rest.is_empty() {
            return Ok(current);
        }
        for name in rest.split(|byte| *byte == b'/') {
            let name = OsStr::from_bytes(name);
            before(&current, name)?;
            current = Arc::new(rustix::fs::openat(&current, name, DIRECTORY, Mode::empty())?);
        }
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((path.into(), Arc::clone(&current)));
        Ok(current)
    }

    /// Opens the file `name` in the directory `parent` for reading. It may turn out to be no regular file.
    pub(crate) fn open_file(&mut self, (parent, name): (&[u8], &[u8])) -> io::Result<File> {
        let directory = self.directory(parent)?;
        Ok(File::from(rustix::fs::openat(&directory, OsStr::from_bytes(name), FILE, Mode::empty())?))
    }

    /// What `name` in the directory `parent` is, without following it; `None` when there is nothing.
    pub(crate) fn look(&mut self, (parent, name): (&[u8], &[u8])) -> io::Result<Option<Stat>> {
        let directory = match self.directory(parent) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match rustix::fs::statat(&directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether `path` is the directory `prefix` or something in it.
fn is_at_or_below(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

//! Finds everything in a work directory. Nothing is read here but directories and the targets of links.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use globset::GlobSet;
use rustix::fs::{AtFlags, FileType, Stat};

use crate::dirs::Dirs;
use crate::manifest::{ENTRIES_MAX, LeftOut, LeftOutReason, Modified};
use crate::path::EntryPath;
use crate::read::Version;

/// A folder of that name at the top belongs to a restore that is under way or was killed; see [`crate::restore`].
pub(crate) const RESTORE_FOLDER: &str = ".lifeboat-restore";

/// What a work directory contains.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) found: Vec<Found>,
    pub(crate) left_out: Vec<LeftOut>,
}

/// One file, directory or link as it was when it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: EntryPath,
    pub(crate) attributes: Attributes,
    pub(crate) kind: FoundKind,
}

/// What was found.
#[derive(Clone, Debug)]
pub(crate) enum FoundKind {
    Directory,
    Link {
        target: Vec<u8>,
    },
    /// A regular file, as it was when it was found, and how many names it has.
    File {
        version: Version,
        links: u64,
    },
}

impl Found {
    /// The size of a regular file.
    pub(crate) const fn size(&self) -> Option<u64> {
        match &self.kind {
            FoundKind::File { version, .. } => Some(version.size),
            FoundKind::Directory | FoundKind::Link { .. } => None,
        }
    }
}

/// What is restored beside the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Modified,
}

impl Attributes {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: Modified {
                seconds: stat.st_mtime,
                // The kernel never gives a billion or more.
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
        }
    }
}

/// What is not looked at.
#[derive(Debug)]
pub(crate) struct Excluded {
    globs: GlobSet,
    paths: Vec<Vec<u8>>,
    // Device and inode, so that an excluded folder is recognised by whatever name it is reached.
    inodes: HashSet<(u64, u64)>,
}

impl Excluded {
    /// What matches `globs` (relative to `work_dir`), and `paths` with all below them (absolute or relative to it).
    pub(crate) fn new(work_dir: &std::path::Path, globs: GlobSet, paths: &[PathBuf]) -> io::Result<Self> {
        let real = work_dir.canonicalize()?;
        let mut excluded =
            Self { globs, paths: vec![RESTORE_FOLDER.as_bytes().to_vec()], inodes: HashSet::new() };
        for path in paths {
            let path = real.join(path);
            // One that does not exist yet may appear while the scan runs: it is then recognised by its path.
            let resolved = path.canonicalize().unwrap_or(path);
            if let Ok(stat) = rustix::fs::lstat(&resolved) {
                excluded.inodes.insert((stat.st_dev, stat.st_ino));
            }
            if let Ok(relative) = resolved.strip_prefix(&real) {
                excluded.paths.push(relative.as_os_str().as_bytes().to_vec());
            }
        }
        Ok(excluded)
    }

    /// Only the folder of a restore.
    pub(crate) fn nothing() -> Self {
        Self {
            globs: GlobSet::empty(),
            paths: vec![RESTORE_FOLDER.as_bytes().to_vec()],
            inodes: HashSet::new(),
        }
    }

    /// Whether `path` or a folder above it is excluded, by its name alone.
    pub(crate) fn covers(&self, path: &EntryPath) -> bool {
        let is_below = |folder: &Vec<u8>| {
            path.as_bytes()
                .strip_prefix(folder.as_slice())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.paths.iter().any(is_below) || path.as_path().ancestors().any(|above| self.globs.is_match(above))
    }

    fn contains(&self, path: &EntryPath, stat: &Stat) -> bool {
        self.paths.iter().any(|excluded| excluded == path.as_bytes())
            || self.inodes.contains(&(stat.st_dev, stat.st_ino))
            || (!self.globs.is_empty() && self.globs.is_match(path.as_path()))
    }
}

/// A scan on more threads than this is hardly faster: they meet in the kernel.
const THREADS_MAX: usize = 4;

/// How many threads a scan is given that may have all of the machine.
pub(crate) fn scan_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX)
}

/// A folder with more names than this is looked at by several threads.
const NAMES_AT_ONCE: usize = 1024;

/// Walks everything below the root of `dirs` on so many `threads`, until done or until `stop` is set. What was found
/// comes in the order of the paths.
///
/// # Errors
/// Only when the root itself cannot be read: whatever is wrong below it is named in [`Scan::left_out`].
pub(crate) fn scan(dirs: &Dirs, excluded: &Excluded, stop: &AtomicBool, threads: usize) -> io::Result<Scan> {
    let walk =
        Walk { excluded, stop, count: AtomicUsize::new(0), queue: Mutex::default(), changed: Condvar::new() };
    let mut here = Walker::new(&walk, dirs);
    let first = here.list(None)?;
    walk.lock().work = first;
    let (mut parts, mut left_out) = std::thread::scope(|scope| {
        let spawn = |_| {
            let mut walker = Walker::new(&walk, dirs);
            let thread = std::thread::Builder::new().name("scan".to_owned());
            let run = move || {
                walker.run();
                (walker.parts, walker.left_out)
            };
            // Without it the others do its part.
            thread.spawn_scoped(scope, run).ok()
        };
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        here.run();
        let (mut parts, mut left_out) = (here.parts, here.left_out);
        for other in others {
            match other.join() {
                Ok(theirs) => {
                    parts.extend(theirs.0);
                    left_out.extend(theirs.1);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (parts, left_out)
    });
    // Each part is in order, and few lie within another: what follows is one long run for the sort, or almost.
    let first = |part: &Vec<Found>| part.first().map(|found| found.path.clone());
    parts.sort_by_cached_key(first);
    let mut found = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    parts.into_iter().for_each(|part| found.extend(part));
    found.sort_by(|a: &Found, b: &Found| a.path.cmp(&b.path));
    left_out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Scan { found, left_out })
}

/// What the threads of one scan share.
struct Walk<'a> {
    excluded: &'a Excluded,
    stop: &'a AtomicBool,
    /// How much has been found or left out by all.
    count: AtomicUsize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    work: Vec<Work>,
    /// So many threads may still add some.
    busy: usize,
}

/// What one thread does at a time.
enum Work {
    /// The names in this folder are to be read.
    Folder(EntryPath),
    /// These names in it are to be looked at.
    Names { folder: Option<EntryPath>, names: Vec<Vec<u8>> },
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next work, when there is some; `None` when all is done.
    fn take(&self) -> Option<Work> {
        let mut queue = self.lock();
        // Ends when no thread has work that may bring more; each of them says so.
        loop {
            if let Some(work) = queue.work.pop() {
                queue.busy += 1;
                return Some(work);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Says that a thread has done its work, also when it panics: others wait for that.
struct Busy<'a, 'b>(&'a Walk<'b>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

/// One thread of a scan.
struct Walker<'a> {
    walk: &'a Walk<'a>,
    dirs: Dirs,
    /// What was found in one folder, or in a part of its names, in order.
    parts: Vec<Vec<Found>>,
    left_out: Vec<LeftOut>,
}

impl<'a> Walker<'a> {
    fn new(walk: &'a Walk<'a>, dirs: &Dirs) -> Self {
        Self { walk, dirs: dirs.fresh(), parts: Vec::new(), left_out: Vec::new() }
    }

    fn run(&mut self) {
        let walk = self.walk;
        while let Some(work) = walk.take() {
            let _busy = Busy(walk);
            if walk.stop.load(Ordering::Relaxed) {
                let path = match work {
                    Work::Folder(folder) => Some(folder),
                    Work::Names { folder, .. } => folder,
                };
                // The rest of the queue is told by this one line.
                walk.lock().work.clear();
                let message = "the search of the work directory was not finished".to_owned();
                self.left_out.push(LeftOut { path, reason: LeftOutReason::OutOfTime, message });
                return;
            }
            self.carry_out(work);
        }
    }

    fn carry_out(&mut self, work: Work) {
        match work {
            Work::Names { folder, names } => self.look_at(folder.as_ref(), &names),
            Work::Folder(folder) => match self.list(Some(&folder)) {
                Ok(mut work) => {
                    // The last part is its own.
                    let own = work.pop();
                    if !work.is_empty() {
                        self.walk.lock().work.extend(work);
                        self.walk.changed.notify_all();
                    }
                    if let Some(Work::Names { folder, names }) = own {
                        self.look_at(folder.as_ref(), &names);
                    }
                }
                Err(error) => self.leave_out(Some(folder), &error),
            },
        }
    }

    /// The names in a folder, sorted, in parts.
    fn list(&mut self, folder: Option<&EntryPath>) -> io::Result<Vec<Work>> {
        let names = names_in(&mut self.dirs, folder)?;
        let part = |names: &[Vec<u8>]| Work::Names { folder: folder.cloned(), names: names.to_vec() };
        if names.len() > NAMES_AT_ONCE {
            return Ok(names.chunks(NAMES_AT_ONCE).map(part).collect());
        }
        Ok(vec![Work::Names { folder: folder.cloned(), names }])
    }

    /// Looks at some names in one folder.
    fn look_at(&mut self, folder: Option<&EntryPath>, names: &[Vec<u8>]) {
        let directory = match self.dirs.directory(folder.map_or(&[], EntryPath::as_bytes)) {
            Ok(directory) => directory,
            Err(error) => return self.leave_out(folder.cloned(), &error),
        };
        let mut folders = Vec::new();
        let mut part = Vec::with_capacity(names.len());
        for name in names {
            match self.walk.count.fetch_add(1, Ordering::Relaxed) {
                0..ENTRIES_MAX => {}
                ENTRIES_MAX => {
                    let message = format!("more than {ENTRIES_MAX} entries");
                    let path = folder.cloned();
                    self.left_out.push(LeftOut { path, reason: LeftOutReason::BeyondLimits, message });
                    break;
                }
                _ => break,
            }
            if let Some(found) = self.examine(&directory, folder, name) {
                if matches!(found.kind, FoundKind::Directory) {
                    folders.push(Work::Folder(found.path.clone()));
                }
                part.push(found);
            }
        }
        self.parts.push(part);
        if !folders.is_empty() {
            self.walk.lock().work.extend(folders);
            self.walk.changed.notify_all();
        }
    }

    /// Looks at one name. `None`: it is excluded or left out.
    fn examine(&mut self, directory: &OwnedFd, folder: Option<&EntryPath>, name: &[u8]) -> Option<Found> {
        let joined = match folder {
            Some(folder) => [folder.as_bytes(), b"/", name].concat(),
            None => name.to_vec(),
        };
        let path = match EntryPath::new(joined) {
            Ok(path) => path,
            Err(error) => {
                let message = format!("{}: {error}", String::from_utf8_lossy(name));
                self.left_out.push(LeftOut {
                    path: folder.cloned(),
                    reason: LeftOutReason::BeyondLimits,
                    message,
                });
                return None;
            }
        };
        let stat = match rustix::fs::statat(directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => {
                self.leave_out(Some(path), &error.into());
                return None;
            }
        };
        if self.walk.excluded.contains(&path, &stat) {
            return None;
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                FoundKind::File { version: Version::from_stat(&stat), links: stat.st_nlink }
            }
            FileType::Directory => FoundKind::Directory,
            FileType::Symlink => {
                match rustix::fs::readlinkat(directory, OsStr::from_bytes(name), Vec::new()) {
                    Ok(target) => FoundKind::Link { target: target.into_bytes() },
                    Err(error) => {
                        self.leave_out(Some(path), &error.into());
                        return None;
                    }
                }
            }
            FileType::Socket => return self.special(path, LeftOutReason::Socket),
            FileType::Fifo => return self.special(path, LeftOutReason::Pipe),
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {
                return self.special(path, LeftOutReason::Device);
            }
        };
        Some(Found { path, attributes: Attributes::of(&stat), kind })
    }

    /// Names something that is neither file, directory nor link.
    fn special(&mut self, path: EntryPath, reason: LeftOutReason) -> Option<Found> {
        self.left_out.push(LeftOut { path: Some(path), reason, message: String::new() });
        None
    }

    /// Names something that could not be looked at.
    fn leave_out(&mut self, path: Option<EntryPath>, error: &io::Error) {
        self.left_out.push(LeftOut { path, reason: reason_of(error), message: error.to_string() });
    }
}

/// The names in a folder, sorted.
fn names_in(dirs: &mut Dirs, folder: Option<&EntryPath>) -> io::Result<Vec<Vec<u8>>> {
    let directory = dirs.directory(folder.map_or(&[], EntryPath::as_bytes))?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
        // Far beyond the limit nothing more would be taken, and memory is not for the taking.
        if names.len() > ENTRIES_MAX {
            break;
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The reason that an error of the file system stands for.
pub(crate) fn reason_of(error: &io::Error) -> LeftOutReason {
    // Source: open(2): ELOOP and ENOTDIR are what a link or a file in a directory's place gives with O_NOFOLLOW.
    let is_replaced = error.raw_os_error().is_some_and(|code| {
        [rustix::io::Errno::LOOP, rustix::io::Errno::NOTDIR].iter().any(|errno| errno.raw_os_error() == code)
    });
    if is_replaced {
        return LeftOutReason::ChangedWhileRead;
    }
    match error.kind() {
        io::ErrorKind::NotFound => LeftOutReason::Vanished,
        io::ErrorKind::PermissionDenied => LeftOutReason::PermissionDenied,
        // `ErrorKind` is open: all the others are one case here.
        _ => LeftOutReason::ReadError,
    }
}

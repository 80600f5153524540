//! Finds everything in a work directory. Nothing is read here but directories and the targets of links.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Walks everything below the root of `dirs`, until done or until `stop` is set.
///
/// # Errors
/// Only when the root itself cannot be read: whatever is wrong below it is named in [`Scan::left_out`].
pub(crate) fn scan(dirs: &mut Dirs, excluded: &Excluded, stop: &AtomicBool) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut folders: Vec<Option<EntryPath>> = vec![None];
    // Each folder is pushed once; a folder cannot be its own descendant where links are not followed.
    while let Some(folder) = folders.pop() {
        if stop.load(Ordering::Relaxed) {
            let message = "the search of the work directory was not finished".to_owned();
            scan.left_out.push(LeftOut { path: folder, reason: LeftOutReason::OutOfTime, message });
            break;
        }
        let names = match names_in(dirs, folder.as_ref()) {
            Ok(names) => names,
            Err(error) if folder.is_none() => return Err(error),
            Err(error) => {
                scan.leave_out(folder, &error);
                continue;
            }
        };
        for name in names {
            if scan.found.len() + scan.left_out.len() >= ENTRIES_MAX {
                let message = format!("more than {ENTRIES_MAX} entries");
                scan.left_out.push(LeftOut { path: folder, reason: LeftOutReason::BeyondLimits, message });
                return Ok(scan);
            }
            if let Some(found) = scan.examine(dirs, folder.as_ref(), &name, excluded) {
                if matches!(found.kind, FoundKind::Directory) {
                    folders.push(Some(found.path.clone()));
                }
                scan.found.push(found);
            }
        }
    }
    Ok(scan)
}

/// The names in a folder, sorted, so that two scans of the same tree give the same order.
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

impl Scan {
    /// Looks at one name. `None`: it is excluded or left out.
    fn examine(
        &mut self,
        dirs: &mut Dirs,
        folder: Option<&EntryPath>,
        name: &[u8],
        excluded: &Excluded,
    ) -> Option<Found> {
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
        let looked = dirs.directory(folder.map_or(&[], EntryPath::as_bytes)).and_then(|directory| {
            let stat = rustix::fs::statat(&directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((directory, stat))
        });
        let (directory, stat) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.leave_out(Some(path), &error);
                return None;
            }
        };
        if excluded.contains(&path, &stat) {
            return None;
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                FoundKind::File { version: Version::from_stat(&stat), links: stat.st_nlink }
            }
            FileType::Directory => FoundKind::Directory,
            FileType::Symlink => {
                match rustix::fs::readlinkat(&directory, OsStr::from_bytes(name), Vec::new()) {
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

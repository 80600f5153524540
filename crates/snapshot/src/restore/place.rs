//! Puts verified bytes in their place in the target.
//!
//! A file is written under a number in a hidden folder of the target, on the same file system, brought to disk, and
//! only then linked to its name, which fails if anything has got that name meanwhile. So a file with its own name is
//! always whole, after a power cut too.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};

use super::RestoreError;
use super::check::is_still;
use crate::blocks::Blocks;
use crate::dirs::Dirs;
use crate::manifest::{Entry, EntryKind, Manifest};
use crate::path::EntryPath;
use crate::scan::{Found, FoundKind, RESTORE_FOLDER};
use crate::transfer::{as_u64, as_usize, blocking};

/// Zeros are left out of a file in pieces of this size, so that holes come back: the block of most file systems
/// is 4 KiB, and smaller holes cost more extents than they save.
const HOLE_BYTES: usize = 64 * 1024;

/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// From so many files on, one sync of the file system is cheaper than one for each.
const SYNC_TOGETHER_FROM: usize = 16;

/// The directory that is restored into.
#[derive(Debug)]
pub(super) struct Target {
    dirs: Mutex<Dirs>,
    path: PathBuf,
    pub(super) manifest: Arc<Manifest>,
    /// The folder of temporary files, once it is made.
    folder: OnceLock<OwnedFd>,
    /// Entries whose place is taken by something that is proven stored, with what that is.
    replacing: HashMap<usize, FoundKind>,
    is_root: bool,
}

/// A large file on its way: its stretches come in any order.
#[derive(Debug)]
pub(super) struct Growing {
    index: usize,
    file: File,
    part: String,
    missing: AtomicUsize,
    /// The kernel lets one writer at a time into a file, and threads that wait for it there burn processor time.
    writing: Mutex<()>,
}

impl Growing {
    /// So many stretches are still to come.
    pub(super) fn expect(&self, stretches: usize) {
        self.missing.store(stretches, Ordering::Release);
    }
}

impl Target {
    pub(super) fn new(
        dirs: Dirs,
        path: PathBuf,
        manifest: Arc<Manifest>,
        replacing: HashMap<usize, FoundKind>,
    ) -> Arc<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let dirs = Mutex::new(dirs);
        Arc::new(Self { dirs, path, manifest, folder: OnceLock::new(), replacing, is_root })
    }

    /// Directories of its own for one thread.
    fn dirs(&self) -> Dirs {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).fresh()
    }

    fn failed(&self, path: &EntryPath, source: io::Error) -> RestoreError {
        RestoreError::Target { target: self.path.clone(), path: path.to_string(), source }
    }

    fn failed_at(&self, name: &str, source: io::Error) -> RestoreError {
        RestoreError::Target { target: self.path.clone(), path: name.to_owned(), source }
    }

    /// What has changed since it was compared is somebody's work, and stays.
    fn must_be_still(&self, dirs: &mut Dirs, path: &EntryPath, kind: &FoundKind) -> Result<(), RestoreError> {
        if is_still(dirs, path, kind).map_err(|source| self.failed(path, source))? {
            return Ok(());
        }
        Err(RestoreError::Conflict { target: self.path.clone(), paths: vec![path.clone()], count: 1 })
    }

    /// Removes what is stale, makes the folder of temporary files, empty, and all directories.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        wanted: Arc<Vec<usize>>,
        stale: Vec<Found>,
    ) -> Result<(), RestoreError> {
        let this = Arc::clone(self);
        blocking(move || {
            let mut dirs = this.dirs();
            for found in &stale {
                this.must_be_still(&mut dirs, &found.path, &found.kind)?;
                this.remove(&mut dirs, &found.path).map_err(|source| this.failed(&found.path, source))?;
            }
            let folder = this
                .make_folder(&mut dirs, &wanted)
                .map_err(|source| this.failed_at(RESTORE_FOLDER, source))?;
            // Only one restore at a time begins: the caller holds the claim.
            let _ = this.folder.set(folder);
            for index in wanted.iter() {
                let entry = &this.manifest.entries[*index];
                if matches!(entry.kind, EntryKind::Directory) {
                    dirs.create_directory(entry.path.as_bytes())
                        .map_err(|source| this.failed(&entry.path, source))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Makes the folder of temporary files, or empties the one that a killed restore left: what it has of large files
    /// that are wanted now stays.
    fn make_folder(&self, dirs: &mut Dirs, wanted: &[usize]) -> io::Result<OwnedFd> {
        let folder = dirs.create_directory(RESTORE_FOLDER.as_bytes())?;
        let large: HashSet<String> = wanted.iter().filter_map(|index| self.large_name(*index)).collect();
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_kept = large.contains(&name);
            if !is_kept && (name.ends_with(".part") || name.ends_with(".large")) {
                rustix::fs::unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
            }
        }
        folder.try_clone()
    }

    /// The temporary name of a large file: with its hash, so that another content never passes for it.
    fn large_name(&self, index: usize) -> Option<String> {
        match &self.manifest.entries[index].kind {
            EntryKind::File { blocks: Some(_), digest, .. } => Some(format!("{index}-{digest}.large")),
            EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. } => None,
        }
    }

    fn folder(&self) -> &OwnedFd {
        self.folder.get().expect("prepared before anything is placed")
    }

    /// Writes small files and gives them their names. Their bytes have been verified.
    pub(super) fn place_all(&self, incoming: Vec<(usize, Bytes)>) -> Result<(), RestoreError> {
        let is_together = incoming.len() >= SYNC_TOGETHER_FROM;
        let mut written = Vec::with_capacity(incoming.len());
        for (index, bytes) in incoming {
            let file = self.open_part(index, &part_name(index), OFlags::TRUNC)?;
            write_sparse(&file, 0, &bytes).map_err(|source| self.failed_entry(index, source))?;
            self.dress(index, &file, as_u64(bytes.len()), !is_together)?;
            written.push(index);
        }
        if is_together {
            rustix::fs::syncfs(self.folder())
                .map_err(|error| self.failed_at(RESTORE_FOLDER, error.into()))?;
        }
        let mut dirs = self.dirs();
        written.into_iter().try_for_each(|index| self.name(&mut dirs, index, &part_name(index)))
    }

    fn failed_entry(&self, index: usize, source: io::Error) -> RestoreError {
        self.failed(&self.manifest.entries[index].path, source)
    }

    /// Opens a temporary file of an entry.
    fn open_part(&self, index: usize, name: &str, how: OFlags) -> Result<File, RestoreError> {
        let flags = how | OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.folder(), name, flags, Mode::RUSR | Mode::WUSR);
        Ok(File::from(opened.map_err(|error| self.failed_entry(index, error.into()))?))
    }

    /// Opens the temporary file of a large entry, and says which of its blocks are there already.
    pub(super) fn grow(&self, index: usize) -> Result<(Arc<Growing>, Vec<bool>), RestoreError> {
        let part = self.large_name(index).unwrap_or_else(|| part_name(index));
        let file = self.open_part(index, &part, OFlags::empty())?;
        let present = match &self.manifest.entries[index].kind {
            EntryKind::File { blocks: Some(blocks), size, .. } => present_blocks(&file, blocks, *size),
            EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. } => Ok(Vec::new()),
        };
        let present = present.map_err(|source| self.failed_entry(index, source))?;
        Ok((
            Arc::new(Growing { index, file, part, missing: AtomicUsize::new(0), writing: Mutex::new(()) }),
            present,
        ))
    }

    /// Writes a stretch of a large file. Its bytes have been verified.
    pub(super) fn write(&self, growing: &Growing, at: u64, bytes: &[u8]) -> Result<(), RestoreError> {
        let turn = growing.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write_sparse(&growing.file, at, bytes);
        drop(turn);
        written.map(drop).map_err(|source| self.failed_entry(growing.index, source))
    }

    /// Counts a stretch that is written; after the last the file gets its name. Whether that was it.
    pub(super) fn complete_if_last(&self, growing: &Growing) -> Result<bool, RestoreError> {
        if growing.missing.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(false);
        }
        self.complete(growing).map(|()| true)
    }

    /// Gives a large file its name.
    pub(super) fn complete(&self, growing: &Growing) -> Result<(), RestoreError> {
        let size = super::size_of(&self.manifest.entries[growing.index]);
        self.dress(growing.index, &growing.file, size, true)?;
        self.name(&mut self.dirs(), growing.index, &growing.part)
    }

    /// Sets length, owner, mode and times of a temporary file, and brings it to disk if `is_synced`.
    fn dress(&self, index: usize, file: &File, length: u64, is_synced: bool) -> Result<(), RestoreError> {
        let entry = &self.manifest.entries[index];
        let dressed = || -> io::Result<()> {
            // A file that ends in a hole has not been written to its end.
            file.set_len(length)?;
            self.set_attributes(file, entry)?;
            if is_synced { file.sync_all() } else { Ok(()) }
        };
        dressed().map_err(|source| self.failed(&entry.path, source))
    }

    /// Moves a temporary file to its name. Only a file that was compared before, and may be replaced, gives way.
    fn name(&self, dirs: &mut Dirs, index: usize, part: &str) -> Result<(), RestoreError> {
        let entry = &self.manifest.entries[index];
        let (parent, name) = entry.path.split();
        let name = OsStr::from_bytes(name);
        let replaced = self.replacing.get(&index);
        if let Some(kind) = replaced {
            self.must_be_still(dirs, &entry.path, kind)?;
        }
        let moved = dirs.create_directory(parent).and_then(|directory| {
            if replaced.is_some() {
                Ok(rustix::fs::renameat(self.folder(), part, &directory, name)?)
            } else {
                self.move_without_replacing(&directory, part, name)
            }
        });
        moved.map_err(|source| self.failed(&entry.path, source))
    }

    fn move_without_replacing(&self, directory: &OwnedFd, from: &str, to: &OsStr) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::renameat_with(self.folder(), from, directory, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            // Not every file system knows how; all can make a link, which replaces nothing either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                rustix::fs::linkat(self.folder(), from, directory, to, AtFlags::empty())?;
                rustix::fs::unlinkat(self.folder(), from, AtFlags::empty())?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the links, sets the attributes of the files that were there and of directories, and brings all to disk.
    pub(super) async fn finish(
        self: &Arc<Self>,
        wanted: Arc<Vec<usize>>,
        present: Vec<usize>,
        hard_links: Vec<usize>,
    ) -> Result<(), RestoreError> {
        let this = Arc::clone(self);
        blocking(move || {
            let mut dirs = this.dirs();
            for index in present {
                let entry = &this.manifest.entries[index];
                let file =
                    dirs.open_file(entry.path.split()).map_err(|source| this.failed(&entry.path, source))?;
                this.set_attributes(&file, entry).map_err(|source| this.failed(&entry.path, source))?;
            }
            for index in hard_links {
                let entry = &this.manifest.entries[index];
                if let Some(kind) = this.replacing.get(&index) {
                    this.must_be_still(&mut dirs, &entry.path, kind)?;
                }
                this.make_hard_link(&mut dirs, index, entry)
                    .map_err(|source| this.failed(&entry.path, source))?;
            }
            for index in wanted.iter() {
                let entry = &this.manifest.entries[*index];
                if let EntryKind::Link { target } = &entry.kind {
                    this.make_link(&mut dirs, entry, target)
                        .map_err(|source| this.failed(&entry.path, source))?;
                }
            }
            let folder = rustix::fs::unlinkat(dirs.root(), RESTORE_FOLDER, AtFlags::REMOVEDIR);
            folder.map_err(|error| this.failed_at(RESTORE_FOLDER, error.into()))?;
            // Deepest first: entries are in the order of their paths, so what is in a directory comes after it.
            for index in wanted.iter().rev() {
                let entry = &this.manifest.entries[*index];
                if matches!(entry.kind, EntryKind::Directory) {
                    this.dress_directory(&mut dirs, entry)
                        .map_err(|source| this.failed(&entry.path, source))?;
                }
            }
            rustix::fs::syncfs(dirs.root()).map_err(|error| this.failed_at(".", error.into()))
        })
        .await
    }

    /// Removes a file or link that is proven stored.
    fn remove(&self, dirs: &mut Dirs, path: &EntryPath) -> io::Result<()> {
        let (parent, name) = path.split();
        let directory = dirs.directory(parent)?;
        Ok(rustix::fs::unlinkat(&directory, OsStr::from_bytes(name), AtFlags::empty())?)
    }

    /// Gives a file that is in its place a further name.
    fn make_hard_link(&self, dirs: &mut Dirs, index: usize, entry: &Entry) -> io::Result<()> {
        let EntryKind::File { same_as: Some(first), .. } = &entry.kind else { return Ok(()) };
        let (from, from_name) = first.split();
        let from = dirs.directory(from)?;
        let (to, to_name) = entry.path.split();
        let to = dirs.create_directory(to)?;
        let (from_name, to_name) = (OsStr::from_bytes(from_name), OsStr::from_bytes(to_name));
        if self.replacing.contains_key(&index) {
            rustix::fs::unlinkat(&to, to_name, AtFlags::empty())?;
        }
        Ok(rustix::fs::linkat(&from, from_name, &to, to_name, AtFlags::empty())?)
    }

    /// Makes a link unless it is there; it has been compared.
    fn make_link(&self, dirs: &mut Dirs, entry: &Entry, target: &[u8]) -> io::Result<()> {
        let (parent, name) = entry.path.split();
        let directory = dirs.create_directory(parent)?;
        let name = OsStr::from_bytes(name);
        match rustix::fs::symlinkat(OsStr::from_bytes(target), &directory, name) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let here = rustix::fs::readlinkat(&directory, name, Vec::new())?;
                if here.to_bytes() != target {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        if self.is_root {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let owned = rustix::fs::chownat(&directory, name, Some(uid(entry)), Some(gid(entry)), flags);
            tolerate_foreign_owner(owned, entry)?;
        }
        rustix::fs::utimensat(&directory, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Sets owner, mode and times of a directory.
    fn dress_directory(&self, dirs: &mut Dirs, entry: &Entry) -> io::Result<()> {
        let directory = dirs.directory(entry.path.as_bytes())?;
        self.set_attributes(&*directory, entry)
    }

    /// Sets owner (when root), mode and times of a file or directory.
    fn set_attributes(&self, opened: impl AsFd, entry: &Entry) -> io::Result<()> {
        if self.is_root {
            let owned = rustix::fs::fchown(&opened, Some(uid(entry)), Some(gid(entry)));
            tolerate_foreign_owner(owned, entry)?;
        }
        let stat = rustix::fs::fstat(&opened)?;
        // A file that lets others act as its owner must not do so for somebody else.
        let is_owned = (stat.st_uid, stat.st_gid) == (entry.uid, entry.gid);
        let mode = if is_owned { entry.mode } else { entry.mode & !SET_ID };
        // After the owner: changing that takes the set-id bits away.
        rustix::fs::fchmod(&opened, Mode::from_raw_mode(mode))?;
        Ok(rustix::fs::futimens(&opened, &times(entry))?)
    }
}

/// Which blocks of a file that a killed restore left are as they should be.
fn present_blocks(file: &File, blocks: &Blocks, size: u64) -> io::Result<Vec<bool>> {
    let length = file.metadata()?.len();
    let mut present = Vec::new();
    if length == 0 {
        file.set_len(size)?;
        return Ok(present);
    }
    file.set_len(size)?;
    let mut buffer = vec![0; 1 << blocks.log2.min(crate::blocks::BLOCK_LOG2_MAX)];
    let mut at = 0;
    for node in &blocks.nodes {
        let block = &mut buffer[..as_usize((size - at).min(1 << blocks.log2))];
        file.read_exact_at(block, at)?;
        let is_there = crate::blocks::node(block, at) == *node;
        // What is written later leaves zeros out.
        if !is_there && block.iter().any(|byte| *byte != 0) {
            block.fill(0);
            file.write_all_at(block, at)?;
        }
        present.push(is_there);
        at += as_u64(block.len());
    }
    Ok(present)
}

/// The temporary name of a small file.
fn part_name(index: usize) -> String {
    format!("{index}.part")
}

/// Writes `bytes` at `offset`, leaving long runs of zeros out, and returns where they end.
fn write_sparse(file: &File, offset: u64, bytes: &[u8]) -> io::Result<u64> {
    let mut at = offset;
    for piece in bytes.chunks(HOLE_BYTES) {
        if piece.len() < HOLE_BYTES || piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, at)?;
        }
        at += as_u64(piece.len());
    }
    Ok(at)
}

/// In a container without the right to give files away, they belong to whoever restores them.
fn tolerate_foreign_owner(result: rustix::io::Result<()>, entry: &Entry) -> io::Result<()> {
    use rustix::io::Errno;
    match result {
        Ok(()) => Ok(()),
        Err(error @ (Errno::PERM | Errno::INVAL)) => {
            tracing::warn!(path = %entry.path, %error, "the owner could not be restored");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn uid(entry: &Entry) -> Uid {
    Uid::from_raw(entry.uid)
}

fn gid(entry: &Entry) -> Gid {
    Gid::from_raw(entry.gid)
}

/// The modification time, also as the time of the last access, which is not kept.
fn times(entry: &Entry) -> Timestamps {
    let modified = Timespec { tv_sec: entry.modified.seconds, tv_nsec: entry.modified.nanos.into() };
    Timestamps { last_access: modified, last_modification: modified }
}

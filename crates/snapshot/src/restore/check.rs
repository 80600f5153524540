//! Compares what is in the target with the recovery point, before anything is written.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::dirs::Dirs;
use crate::id::Digest;
use crate::manifest::{EntryKind, Manifest};
use crate::path::EntryPath;
use crate::scan::{Attributes, Excluded, Found, FoundKind, scan, scan_threads};

/// What must be done to the target, and what must not.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Indices of files that are to be written.
    pub(super) missing: Vec<usize>,
    /// Indices of files that are there already.
    pub(super) present: Vec<usize>,
    /// Indices of files whose place is taken by something that is proven stored, with what that is.
    pub(super) replacing: HashMap<usize, FoundKind>,
    /// What is there and is neither in the recovery point nor proven stored.
    pub(super) conflicts: Vec<EntryPath>,
    /// What is proven stored and must go, because nothing or something other than a file comes in its place.
    pub(super) stale: Vec<Found>,
}

/// Which entries of the recovery point are restored.
pub(super) struct Wanted<'a> {
    pub(super) entries: &'a [usize],
    /// What is not wanted is not looked at: it stays.
    pub(super) is_partial: bool,
}

/// Compares everything in the target with the `wanted` entries of `manifest`.
///
/// What is `excluded` stays, unless the recovery point has it.
pub(super) fn compare(
    dirs: &mut Dirs,
    manifest: &Manifest,
    Wanted { entries: wanted, is_partial }: Wanted<'_>,
    superseded: &[Arc<Manifest>],
    excluded: &Excluded,
) -> io::Result<Comparison> {
    let scanned = scan(dirs, &Excluded::nothing(), &AtomicBool::new(false), scan_threads())?;
    let entries: HashMap<&[u8], usize> =
        wanted.iter().map(|index| (manifest.entries[*index].path.as_bytes(), *index)).collect();
    let older: Vec<HashMap<&[u8], &EntryKind>> = superseded
        .iter()
        .map(|manifest| manifest.entries.iter().map(|entry| (entry.path.as_bytes(), &entry.kind)).collect())
        .collect();
    let mut comparison = Comparison::default();
    let mut is_there = vec![false; manifest.entries.len()];
    // What cannot be looked at cannot be compared. Sockets and pipes hold nothing: they only must not be in the way.
    let in_the_way = scanned.left_out.into_iter().filter_map(|left_out| {
        let is_loss = left_out.reason.is_loss();
        left_out.path.filter(|path| {
            entries.contains_key(path.as_bytes()) || (is_loss && !is_partial && !excluded.covers(path))
        })
    });
    comparison.conflicts.extend(in_the_way);

    for found in &scanned.found {
        let here = entries.get(found.path.as_bytes()).copied();
        if here.is_none() && (is_partial || excluded.covers(&found.path)) {
            continue;
        }
        let mut existing = Existing { dirs, found, digest: None };
        if let Some(index) = here
            && existing.equals(&manifest.entries[index].kind)
        {
            is_there[index] = true;
            continue;
        }
        let is_directory = matches!(found.kind, FoundKind::Directory);
        let is_proven = !is_directory
            && older
                .iter()
                .any(|older| older.get(found.path.as_bytes()).is_some_and(|kind| existing.equals(kind)));
        match (here, is_directory) {
            // A folder holds no data itself: one that the recovery point does not have may stay.
            (None, true) => {}
            (Some(index), false) if is_proven && is_file(&manifest.entries[index].kind) => {
                comparison.replacing.insert(index, found.kind.clone());
            }
            (Some(_) | None, false) if is_proven => comparison.stale.push(found.clone()),
            (Some(_) | None, true | false) => comparison.conflicts.push(found.path.clone()),
        }
    }
    for index in wanted {
        match (&manifest.entries[*index].kind, is_there[*index]) {
            (EntryKind::File { .. }, false) => comparison.missing.push(*index),
            (EntryKind::File { .. }, true) => comparison.present.push(*index),
            (EntryKind::Directory | EntryKind::Link { .. }, true | false) => {}
        }
    }
    Ok(comparison)
}

const fn is_file(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::File { .. })
}

/// Something in the target, hashed at most once.
struct Existing<'a> {
    dirs: &'a mut Dirs,
    found: &'a Found,
    digest: Option<Option<Digest>>,
}

impl Existing<'_> {
    /// Whether it has the content of `kind`.
    fn equals(&mut self, kind: &EntryKind) -> bool {
        match (&self.found.kind, kind) {
            (FoundKind::Directory, EntryKind::Directory) => true,
            (FoundKind::Link { target: here }, EntryKind::Link { target }) => here == target,
            (FoundKind::File { version, .. }, EntryKind::File { size, digest, .. }) => {
                version.size == *size && self.digest() == Some(*digest)
            }
            (FoundKind::Directory, EntryKind::File { .. } | EntryKind::Link { .. })
            | (FoundKind::Link { .. }, EntryKind::Directory | EntryKind::File { .. })
            | (FoundKind::File { .. }, EntryKind::Directory | EntryKind::Link { .. }) => false,
        }
    }

    /// Its hash; `None` when it cannot be read, which makes it equal to nothing.
    fn digest(&mut self) -> Option<Digest> {
        let (dirs, found) = (&mut self.dirs, self.found);
        *self.digest.get_or_insert_with(|| hash(dirs, &found.path).ok())
    }
}

/// Whether `path` is what was found there. The time of the last change of its attributes does not count: taking away
/// another of its names is one.
pub(super) fn is_still(dirs: &mut Dirs, path: &EntryPath, found: &FoundKind) -> io::Result<bool> {
    let Some(stat) = dirs.look(path.split())? else { return Ok(false) };
    Ok(match found {
        FoundKind::File { version, .. } => {
            version.is_of(&stat)
                && u64::try_from(stat.st_size).ok() == Some(version.size)
                && Attributes::of(&stat).modified == version.attributes.modified
        }
        FoundKind::Link { target } => {
            let (parent, name) = path.split();
            let directory = dirs.directory(parent)?;
            rustix::fs::readlinkat(&directory, OsStr::from_bytes(name), Vec::new())
                .is_ok_and(|here| here.to_bytes() == target)
        }
        FoundKind::Directory => false,
    })
}

/// The hash of a file in the target.
pub(crate) fn hash(dirs: &mut Dirs, path: &EntryPath) -> io::Result<Digest> {
    let file = dirs.open_file(path.split())?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().into())
}

//! Deletes from the work directory what is proven to be stored, and nothing else.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::AtFlags;

use crate::dirs::Dirs;
use crate::manifest::{Entry, EntryKind, Manifest};
use crate::path::EntryPath;
use crate::read::{Version, open_settled};
use crate::scan::Attributes;
use crate::transfer::blocking;

/// What a clean-up deleted and what it kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanedUp {
    /// So many files and links were deleted.
    pub deleted: u64,
    /// With so many bytes.
    pub bytes: u64,
    /// Those of the manifest that were not deleted, with the reason. What is not in the manifest is not looked at.
    pub kept: Vec<(EntryPath, KeptReason)>,
}

/// Why something was not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptReason {
    /// It is not the same as in the recovery point: size, time or content is another.
    Changed,
    /// It cannot be read or deleted.
    Failed {
        /// What the file system says.
        kind: io::ErrorKind,
    },
}

/// Deletes the files and links of `manifest` from `work_dir` that are still the same. Directories stay.
///
/// The caller vouches that the journal has committed the manifest: [`crate::Claim::commit`] returned, for this one.
///
/// # Errors
/// When the work directory cannot be opened; what goes wrong with a single file is part of the answer.
pub async fn clean_up(work_dir: &Path, manifest: &Arc<Manifest>) -> io::Result<CleanedUp> {
    let (work_dir, manifest) = (work_dir.to_owned(), Arc::clone(manifest));
    blocking(move || {
        let mut dirs = Dirs::open(&work_dir)?;
        let mut report = CleanedUp::default();
        for entry in &manifest.entries {
            match delete_if_same(&mut dirs, entry) {
                Ok(Deletion::Done(bytes)) => {
                    report.deleted += 1;
                    report.bytes += bytes;
                }
                Ok(Deletion::NotNeeded) => {}
                Ok(Deletion::Changed) => report.kept.push((entry.path.clone(), KeptReason::Changed)),
                Err(error) => {
                    report.kept.push((entry.path.clone(), KeptReason::Failed { kind: error.kind() }))
                }
            }
        }
        Ok(report)
    })
    .await
}

/// What became of one entry.
enum Deletion {
    Done(u64),
    /// A directory, or gone already.
    NotNeeded,
    Changed,
}

/// Deletes one file or link if it is exactly what the recovery point has.
fn delete_if_same(dirs: &mut Dirs, entry: &Entry) -> io::Result<Deletion> {
    let Some(stat) = dirs.look(entry.path.split())? else { return Ok(Deletion::NotNeeded) };
    let (parent, name) = entry.path.split();
    let name = OsStr::from_bytes(name);
    let directory = dirs.directory(parent)?;
    let freed = match &entry.kind {
        EntryKind::Directory => return Ok(Deletion::NotNeeded),
        EntryKind::Link { target } => match rustix::fs::readlinkat(&directory, name, Vec::new()) {
            Ok(here) if here.to_bytes() == target => 0,
            // EINVAL: it is no link any more.
            Ok(_) | Err(rustix::io::Errno::INVAL) => return Ok(Deletion::Changed),
            Err(error) => return Err(error.into()),
        },
        EntryKind::File { size, digest, .. } => {
            let is_candidate = u64::try_from(stat.st_size).ok() == Some(*size)
                && Attributes::of(&stat).modified == entry.modified;
            if !is_candidate {
                return Ok(Deletion::Changed);
            }
            let (file, before) = open_settled(dirs, &entry.path)?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(&file)?;
            let is_same = *digest == hasher.finalize().into()
                && before.attributes.modified == entry.modified
                && Version::of(&file)? == before
                && dirs.look(entry.path.split())?.is_some_and(|stat| before.is_of(&stat));
            if !is_same {
                return Ok(Deletion::Changed);
            }
            *size
        }
    };
    rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
    Ok(Deletion::Done(freed))
}

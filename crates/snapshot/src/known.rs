//! Bytes that are stored already, found by their hash: what the last recovery point has, what an unfinished save has
//! put there before it was broken off, and what other files of the same save have.
//!
//! Hashes of whole files and nodes of blocks live in one space: BLAKE3 never gives both the same value.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::claim::ClaimId;
use crate::id::Digest;
use crate::manifest::{DataObject, EntryKind, Manifest};

/// A log longer than this is not read: a TiB of blocks makes 150 MiB, which is 4 million lines too.
const LINES_MAX: usize = 4_000_000;

/// Where some bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) object: Arc<DataObject>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What one save may refer to instead of storing it again.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<Pieces>);

/// Objects are counted and not held by each piece: there may be millions of pieces.
#[derive(Debug, Default)]
struct Pieces {
    objects: Vec<Arc<DataObject>>,
    by_hash: HashMap<Digest, (usize, u64, u64)>,
}

impl Known {
    /// Everything in `manifest`, except what lies in the `retired` objects.
    pub(crate) fn new(manifest: Option<&Manifest>, retired: &HashSet<String>) -> Self {
        let Some(manifest) = manifest else { return Self::default() };
        let objects: Vec<Arc<DataObject>> = manifest.objects.iter().cloned().map(Arc::new).collect();
        let is_usable: Vec<bool> = objects.iter().map(|object| !retired.contains(&object.key)).collect();
        let usable = |index: Option<u32>| {
            let index = usize::try_from(index?).ok()?;
            (is_usable.get(index) == Some(&true)).then_some(index)
        };
        let mut by_hash = HashMap::with_capacity(manifest.entries.len());
        for entry in &manifest.entries {
            let EntryKind::File { digest, extents, blocks, same_as: None, .. } = &entry.kind else {
                continue;
            };
            match blocks {
                None => {
                    if let [only] = extents.as_slice()
                        && let Some(object) = usable(only.object)
                    {
                        by_hash.insert(*digest, (object, only.offset, only.length));
                    }
                }
                Some(blocks) => {
                    let mut nodes = blocks.nodes.iter();
                    for extent in extents {
                        let mut done = 0;
                        while done < extent.length {
                            let length = (extent.length - done).min(1 << blocks.log2);
                            if let (Some(node), Some(object)) = (nodes.next(), usable(extent.object)) {
                                by_hash.insert(*node, (object, extent.offset + done, length));
                            }
                            done += length;
                        }
                    }
                }
            }
        }
        Self(Mutex::new(Pieces { objects, by_hash }))
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where bytes of this hash and length lie.
    pub(crate) fn find(&self, digest: &Digest, length: u64) -> Option<Piece> {
        let pieces = self.lock();
        let (object, offset, found) = *pieces.by_hash.get(digest)?;
        let object = Arc::clone(pieces.objects.get(object)?);
        (found == length).then_some(Piece { object, offset, length })
    }

    /// Adds what has just been stored in `object`, or is otherwise known to lie there: hash, offset, length.
    pub(crate) fn add(&self, object: &Arc<DataObject>, found: &[(Digest, u64, u64)]) {
        let mut pieces = self.lock();
        let number = pieces.objects.len();
        pieces.objects.push(Arc::clone(object));
        pieces
            .by_hash
            .extend(found.iter().map(|(digest, offset, length)| (*digest, (number, *offset, *length))));
    }
}

/// What saves have stored since the last commit. With a file it outlives the process.
#[derive(Debug)]
pub struct UploadLog {
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,
    objects: Vec<Logged>,
}

/// One line of the log: an object and what is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Logged {
    pub(crate) claim: ClaimId,
    pub(crate) object: DataObject,
    /// Hash, offset, length.
    pub(crate) pieces: Vec<(Digest, u64, u64)>,
}

impl UploadLog {
    /// One that ends with this process.
    #[must_use]
    pub fn in_memory() -> Arc<Self> {
        Arc::new(Self { path: None, inner: Mutex::default() })
    }

    /// One that is kept at `path`, with what a process that was killed left there. What cannot be read or written
    /// is done without: it only costs uploading again.
    #[must_use]
    pub fn at(path: &Path) -> Arc<Self> {
        let mut objects = Vec::new();
        if let Ok(file) = File::open(path) {
            for line in BufReader::new(file).lines().take(LINES_MAX) {
                // The last line may be cut short.
                let Ok(line) = line else { break };
                objects.extend(serde_json::from_str::<Logged>(&line).ok());
            }
        }
        Arc::new(Self { path: Some(path.to_owned()), inner: Mutex::new(Inner { file: None, objects }) })
    }

    pub(crate) fn add(&self, logged: Logged) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.path {
            if inner.file.is_none() {
                inner.file = File::options().append(true).create(true).open(path).ok();
            }
            let line = serde_json::to_vec(&logged).map(|mut line| {
                line.push(b'\n');
                line
            });
            if let (Some(file), Ok(line)) = (&mut inner.file, line)
                && let Err(error) = file.write_all(&line)
            {
                tracing::warn!(%error, path = %path.display(), "cannot note what is uploaded; a crash would cost it");
                inner.file = None;
            }
        }
        inner.objects.push(logged);
    }

    /// What is noted, oldest first.
    pub(crate) fn objects(&self) -> Vec<Logged> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).objects.clone()
    }

    /// Forgets everything: it is committed, or no longer there.
    pub fn clear(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner::default();
        if let Some(path) = &self.path {
            let removed = std::fs::remove_file(path);
            if let Err(error) = removed
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::debug!(%error, "cannot remove the log of uploads");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Nonce;

    #[test]
    fn a_log_outlives_its_process_and_a_line_that_was_cut_short() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("uploads");
        let logged = |key: &str| Logged {
            claim: ClaimId { seq: 1, nonce: Nonce::from_bytes([7; 16]) },
            object: DataObject { key: key.to_owned(), size: 3, raw: None },
            pieces: vec![(Digest::of(b"abc"), 0, 3)],
        };
        let log = UploadLog::at(&path);
        log.add(logged("a"));
        log.add(logged("b"));
        drop(log);
        let text = std::fs::read(&path).expect("there");
        std::fs::write(&path, &text[..text.len() - 5]).expect("writable");
        let log = UploadLog::at(&path);
        assert_eq!(log.objects().len(), 1);
        log.clear();
        assert!(!path.exists());
        assert_eq!(log.objects().len(), 0);
    }
}

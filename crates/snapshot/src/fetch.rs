//! Fetches the bytes of files, in runs of neighbouring ones, and lets none pass that has another hash.
//!
//! What becomes of them is for the caller to say: `restore` puts them in their place, `verify` is content.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::blocks;
use crate::buffer::Pool;
use crate::deadline::Deadline;
use crate::id::Digest;
use crate::manifest::{DataObject, EntryKind, Manifest, RAW_BYTES_MAX};
use crate::store::{Retry, StoreError};
use crate::transfer::{as_u64, as_usize, blocking, get_into};
use crate::workload::Workload;

/// So much is on its way at once, by [`Run::weight`]: it bounds the memory.
pub(crate) const WEIGHT_MAX: u64 = 64 * 1024 * 1024;

/// So many requests are on their way at once: a store gives each connection a part of what it can.
pub(crate) const CONCURRENCY: usize = 16;

/// Neighbouring files are fetched with one request of at most this many bytes: a whole object of ours.
const RUN_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A large file is fetched in stretches of this length, where it is not compressed and its blocks are not larger.
const STRETCH_BYTES: u64 = 4 * 1024 * 1024;

/// Unwanted bytes between two wanted files are fetched along when they are fewer: a request costs more.
const GAP_BYTES_MAX: u64 = 256 * 1024;

/// So many files are placed together; their temporary files exist at the same time.
const RUN_FILES_MAX: usize = 1024;

/// A stretch of a file, and where it lies in its object's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The index of the entry.
    pub(crate) file: usize,
    /// Where it begins in the file.
    pub(crate) at: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What is fetched with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// `None`: zeros that lie nowhere.
    object: Option<u32>,
    /// From where on and how much, of what is in the object.
    offset: u64,
    length: u64,
    pub(crate) parts: Vec<Part>,
}

/// Groups small files by where their bytes lie. Files without bytes come in runs of their own.
pub(crate) fn small_runs(manifest: &Manifest, files: &[usize]) -> Vec<Run> {
    let mut by_object: BTreeMap<Option<u32>, Vec<Part>> = BTreeMap::new();
    for file in files {
        let (object, part) = match manifest.entries[*file].extents() {
            [] => (None, Part { file: *file, at: 0, offset: 0, length: 0 }),
            [only, ..] => {
                let offset = if only.object.is_some() { only.offset } else { 0 };
                (only.object, Part { file: *file, at: 0, offset, length: only.length })
            }
        };
        by_object.entry(object).or_default().push(part);
    }
    let mut runs = Vec::new();
    for (object, mut parts) in by_object {
        parts.sort_unstable_by_key(|part| (part.offset, part.file));
        let mut open: Option<Run> = None;
        for part in parts {
            let end = part.offset + part.length;
            match &mut open {
                Some(run)
                    if part.offset <= run.offset + run.length + GAP_BYTES_MAX
                        && end.max(run.offset + run.length) - run.offset <= RUN_BYTES_MAX
                        && run.parts.len() < RUN_FILES_MAX =>
                {
                    run.length = end.max(run.offset + run.length) - run.offset;
                    run.parts.push(part);
                }
                Some(_) | None => {
                    let next = Run { object, offset: part.offset, length: part.length, parts: vec![part] };
                    runs.extend(open.replace(next));
                }
            }
        }
        runs.extend(open);
    }
    runs
}

/// The stretches of one large file, in order, each at most a buffer long and of whole blocks. What is compressed comes
/// as it lies, or it would be fetched once for each stretch.
pub(crate) fn large_runs(manifest: &Manifest, file: usize) -> Vec<Run> {
    let block = match &manifest.entries[file].kind {
        EntryKind::File { blocks: Some(blocks), .. } => 1 << blocks.log2,
        EntryKind::File { blocks: None, .. } | EntryKind::Directory | EntryKind::Link { .. } => RUN_BYTES_MAX,
    };
    let mut runs = Vec::new();
    let mut at = 0;
    for extent in manifest.entries[file].extents() {
        let is_packed = object_of(manifest, extent.object).is_some_and(|object| object.raw.is_some());
        let longest = if is_packed { RUN_BYTES_MAX } else { STRETCH_BYTES.max(block) };
        let mut done = 0;
        while done < extent.length {
            let length = (extent.length - done).min(longest);
            let offset = if extent.object.is_some() { extent.offset + done } else { 0 };
            let part = Part { file, at: at + done, offset, length };
            runs.push(Run { object: extent.object, offset, length, parts: vec![part] });
            done += length;
        }
        at += extent.length;
    }
    runs
}

/// The blocks that `length` bytes from `at` on cover, as indices: where the file is cut, and its end.
pub(crate) fn blocks_of(log2: u32, at: u64, length: u64) -> std::ops::Range<usize> {
    as_usize(at >> log2)..as_usize(blocks::count(at + length, log2))
}

/// Whether `bytes` are what `part` should be.
fn is_right(manifest: &Manifest, part: &Part, bytes: &[u8]) -> bool {
    match &manifest.entries[part.file].kind {
        EntryKind::File { blocks: None, digest, size, .. } => {
            as_u64(bytes.len()) == *size && Digest::of(bytes) == *digest
        }
        EntryKind::File { blocks: Some(blocks), .. } => {
            let mut rest = bytes;
            let mut at = part.at;
            for number in blocks_of(blocks.log2, part.at, part.length) {
                let (block, after) = rest.split_at(rest.len().min(1 << blocks.log2));
                if blocks.nodes.get(number) != Some(&blocks::node(block, at)) {
                    return false;
                }
                at += as_u64(block.len());
                rest = after;
            }
            rest.is_empty()
        }
        EntryKind::Directory | EntryKind::Link { .. } => false,
    }
}

impl Run {
    /// The object that it is fetched from, for reports.
    pub(crate) fn object<'a>(&self, manifest: &'a Manifest) -> Option<&'a DataObject> {
        object_of(manifest, self.object)
    }

    /// The memory that it takes while it is on its way, in bytes.
    pub(crate) fn weight(&self, manifest: &Manifest) -> u64 {
        match self.object(manifest) {
            Some(DataObject { raw: Some(raw), size, .. }) => size.saturating_add(*raw).min(WEIGHT_MAX),
            Some(_) | None => self.length,
        }
    }
}

fn object_of(manifest: &Manifest, number: Option<u32>) -> Option<&DataObject> {
    manifest.objects.get(usize::try_from(number?).ok()?)
}

/// Fetches a run and cuts it into its parts, each of which is verified; again when one is damaged.
pub(crate) async fn fetch(
    workload: &Workload,
    manifest: &Arc<Manifest>,
    pool: &Arc<Pool>,
    run: &Arc<Run>,
) -> Result<Vec<(Part, Bytes)>, StoreError> {
    let Some(object) = run.object(manifest).cloned() else {
        let (manifest, run) = (Arc::clone(manifest), Arc::clone(run));
        return blocking(move || zeros(&manifest, &run)).await;
    };
    let location = workload.locate(&object.key);
    let memory = |source| {
        let source = object_store::Error::Generic { store: "memory", source: Box::new(source) };
        StoreError::new("read", &location, source)
    };
    Retry::streaming_until(&Deadline::none())
        .run_checked("read", &location, || async {
            let wanted = if object.raw.is_some() { (0, object.size) } else { (run.offset, run.length) };
            let buffer = pool.take().map_err(memory)?;
            let got = get_into(workload, &object.key, wanted, buffer).await?;
            let (manifest, run, pool) = (Arc::clone(manifest), Arc::clone(run), Arc::clone(pool));
            let raw = object.raw;
            let cut = blocking(move || {
                let (bytes, start) = match raw {
                    None => (got.share(0..as_usize(run.length)), run.offset),
                    Some(raw) => {
                        let mut out = pool.take().map_err(|_| "there is no memory for it".to_owned())?;
                        let packed = &got.bytes()[..as_usize(wanted.1)];
                        let room = &mut out.bytes_mut()[..as_usize(raw.min(RAW_BYTES_MAX))];
                        let size = zstd::bulk::decompress_to_buffer(packed, room)
                            .map_err(|error| format!("it cannot be decompressed: {error}"))?;
                        if as_u64(size) != raw {
                            return Err(format!("{size} bytes are in it, not {raw}"));
                        }
                        (out.share(0..size), 0)
                    }
                };
                cut_up(&manifest, &run.parts, &bytes, start)
            });
            cut.await.map_err(|what| StoreError::corrupt(&location, what))
        })
        .await
}

/// The parts of `bytes`, which begin at `start` of the object's content.
fn cut_up(
    manifest: &Manifest,
    parts: &[Part],
    bytes: &Bytes,
    start: u64,
) -> Result<Vec<(Part, Bytes)>, String> {
    let one = |part: &Part| {
        let from = as_usize(part.offset.saturating_sub(start));
        let to = from.saturating_add(as_usize(part.length));
        let piece = if to <= bytes.len() { bytes.slice(from..to) } else { Bytes::new() };
        if is_right(manifest, part, &piece) {
            Ok((*part, piece))
        } else {
            Err(format!("the bytes of {} have another hash", manifest.entries[part.file].path))
        }
    };
    parts.iter().map(one).collect()
}

/// The parts of a run that lies nowhere: zeros, or nothing.
fn zeros(manifest: &Manifest, run: &Run) -> Result<Vec<(Part, Bytes)>, StoreError> {
    // One for all: a thousand files of zeros are one run.
    let longest = run.parts.iter().map(|part| part.length).max().unwrap_or(0);
    let zeros = Bytes::from(vec![0; as_usize(longest)]);
    let one = |part: &Part| {
        let bytes = zeros.slice(..as_usize(part.length));
        if is_right(manifest, part, &bytes) {
            Ok((*part, bytes))
        } else {
            let path = manifest.entries[part.file].path.to_string();
            Err(StoreError::Corrupt { key: path, what: "its zeros have another hash".to_owned() })
        }
    };
    run.parts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Blocks;
    use crate::claim::ClaimId;
    use crate::id::Nonce;
    use crate::manifest::{Entry, Extent, FORMAT, Header, Modified};
    use crate::path::EntryPath;

    const MIB: u64 = 1 << 20;

    /// One file of 20 MiB in blocks of 2^`log2`, in one object that is compressed or not.
    fn manifest(log2: u32, raw: Option<u64>) -> Manifest {
        let size = 20 * MIB;
        let kind = EntryKind::File {
            size,
            digest: Digest::of(b""),
            extents: vec![Extent { object: Some(0), offset: 0, length: size }],
            blocks: Some(Blocks { log2, nodes: Vec::new() }),
            same_as: None,
        };
        let path = EntryPath::new(*b"file").expect("a path");
        let nonce = Nonce::from_bytes([1; 16]);
        Manifest {
            header: Header {
                format: FORMAT,
                workload: "work".parse().expect("a name"),
                claim: ClaimId { seq: 1, nonce },
                save: nonce,
                at_unix_ms: 0,
                base: None,
            },
            objects: vec![DataObject { key: "data".to_owned(), size: raw.map_or(size, |_| MIB), raw }],
            entries: vec![Entry { path, mode: 0o644, uid: 0, gid: 0, modified: Modified::default(), kind }],
            left_out: Vec::new(),
        }
    }

    #[test]
    fn a_stretch_is_of_whole_blocks_and_what_is_compressed_is_fetched_once() {
        let lengths = |manifest: &Manifest| -> Vec<u64> {
            large_runs(manifest, 0).iter().map(|run| run.length / MIB).collect()
        };
        assert_eq!(lengths(&manifest(18, None)), [4, 4, 4, 4, 4]);
        assert_eq!(lengths(&manifest(23, None)), [8, 8, 4]);
        let packed = manifest(18, Some(20 * MIB));
        assert_eq!(lengths(&packed), [8, 8, 4]);
        assert_eq!(large_runs(&packed, 0)[0].weight(&packed), 21 * MIB);
        let damaged = manifest(18, Some(u64::MAX));
        assert_eq!(large_runs(&damaged, 0)[0].weight(&damaged), WEIGHT_MAX);
    }

    #[test]
    fn many_files_of_zeros_take_the_memory_of_one() {
        let mut manifest = manifest(18, None);
        let size = 3 * MIB;
        let zeros = vec![0; as_usize(size)];
        let extents = vec![Extent { object: None, offset: 0, length: size }];
        let kind = EntryKind::File { size, digest: Digest::of(&zeros), extents, blocks: None, same_as: None };
        let first = Entry { kind, ..manifest.entries[0].clone() };
        manifest.entries = vec![first; 4];
        let runs = small_runs(&manifest, &[0, 1, 2, 3]);
        assert_eq!(runs.len(), 1);
        let parts = super::zeros(&manifest, &runs[0]).expect("zeros");
        assert!(parts.iter().all(|(_, bytes)| bytes.len() == zeros.len()));
        assert!(parts.iter().all(|(_, bytes)| bytes.as_ptr() == parts[0].1.as_ptr()));
    }
}

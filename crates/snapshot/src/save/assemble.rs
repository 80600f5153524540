//! Before: what must be read at all. After: the manifest of what is stored and of what is not.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::{PutMode, PutOptions, PutPayload};

use super::run::Gathered;
use super::{Retired, SaveError, SaveOptions, Saved};
use crate::base::Base;
use crate::blocks::Blocks;
use crate::deadline::Deadline;
use crate::id::Digest;
use crate::known::Piece;
use crate::manifest::{
    self, DataObject, DecodeError, Entry, EntryKind, Extent, Header, LeftOut, LeftOutReason, Manifest,
    ManifestRef, decode, decode_delta, difference, encode, encode_delta,
};
use crate::path::EntryPath;
use crate::read::Version;
use crate::scan::{Found, FoundKind, Scan};
use crate::store::{Retry, ServerChecked, StoreError};
use crate::transfer::{as_u64, blocking, compare};
use crate::workload::Workload;

/// A manifest with fewer entries is always written whole: a delta would not be smaller by much.
const DELTA_FROM: usize = 256;

/// A delta that has more than one of so many entries of the whole is not worth it: the next whole one is due.
const DELTA_FRACTION: usize = 4;

/// A file that is stored whole.
#[derive(Debug)]
pub(super) struct StoredFile {
    /// As it was when it was read, which may be later than it was found.
    pub(super) version: Version,
    pub(super) digest: Digest,
    /// Its stretches in order, each with its length; `None` for zeros.
    pub(super) extents: Vec<(Option<Piece>, u64)>,
    pub(super) blocks: Option<Blocks>,
}

/// What is done with each thing that was found.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) found: Arc<Vec<Found>>,
    left_out: Vec<LeftOut>,
    /// Files that must be read.
    pub(super) reading: Vec<usize>,
    /// Files that are as they were in the base.
    kept: Vec<usize>,
    /// Further names of files, each with the index of the first.
    same_as: HashMap<usize, usize>,
}

impl Plan {
    /// Compares what was found with the base.
    pub(super) fn new(scan: Scan, base: Option<&Arc<Base>>, retired: &Retired) -> Self {
        let Scan { mut found, left_out } = scan;
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut names: HashMap<(u64, u64), usize> = HashMap::new();
        let (mut reading, mut kept, mut same_as) = (Vec::new(), Vec::new(), HashMap::new());
        let is_retired: Vec<bool> = base.map_or_else(Vec::new, |base| {
            base.manifest.objects.iter().map(|object| retired.contains(&object.key)).collect()
        });
        for (index, found) in found.iter().enumerate() {
            let FoundKind::File { version, links } = &found.kind else { continue };
            if *links > 1 {
                let first = *names.entry((version.device, version.inode)).or_insert(index);
                if first != index {
                    same_as.insert(index, first);
                    continue;
                }
            }
            let is_kept = base.is_some_and(|base| {
                base.versions.get(&found.path) == Some(version)
                    && base.entry(&found.path).is_some_and(|entry| {
                        let mut objects = entry.extents().iter().filter_map(|extent| extent.object);
                        !objects.any(|index| {
                            usize::try_from(index).ok().and_then(|index| is_retired.get(index)) == Some(&true)
                        })
                    })
            });
            if is_kept { kept.push(index) } else { reading.push(index) }
        }
        Self { found: Arc::new(found), left_out, reading, kept, same_as }
    }

    /// How many files are to be read, and their bytes.
    pub(super) fn to_read(&self) -> (u64, u64) {
        let sizes = self.reading.iter().filter_map(|index| self.found[*index].size());
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }
}

/// The objects of a manifest in the making.
#[derive(Debug, Default)]
struct Objects {
    list: Vec<DataObject>,
    numbers: HashMap<String, u32>,
}

impl Objects {
    fn number(&mut self, object: &DataObject) -> u32 {
        if let Some(number) = self.numbers.get(&object.key) {
            return *number;
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(object.clone());
        self.numbers.insert(object.key.clone(), number);
        number
    }

    fn extents(&mut self, stretches: &[(Option<Piece>, u64)]) -> Vec<Extent> {
        let one = |(piece, length): &(Option<Piece>, u64)| match piece {
            Some(piece) => {
                Extent { object: Some(self.number(&piece.object)), offset: piece.offset, length: *length }
            }
            None => Extent { object: None, offset: 0, length: *length },
        };
        stretches.iter().map(one).collect()
    }
}

/// What is to be stored as the manifest.
#[derive(Debug)]
pub(super) struct Assembled {
    manifest: Manifest,
    versions: HashMap<EntryPath, Version>,
}

/// Builds the manifest of what is stored and of what is not.
pub(super) fn assemble(
    header: Header,
    plan: &Plan,
    mut gathered: Gathered,
    base: Option<&Arc<Base>>,
) -> Assembled {
    let mut objects = Objects::default();
    let mut left_out = plan.left_out.clone();
    let mut versions = HashMap::new();
    let mut kinds: HashMap<usize, (Version, EntryKind)> = HashMap::new();
    for index in &plan.kept {
        let found = &plan.found[*index];
        if let (Some(base), FoundKind::File { version, .. }) = (base, &found.kind)
            && let Some(entry) = base.entry(&found.path)
        {
            kinds.insert(*index, (*version, kept_kind(entry, &base.manifest, &mut objects)));
        }
    }
    for index in &plan.reading {
        if let Some(stored) = gathered.stored.remove(index) {
            let extents = objects.extents(&stored.extents);
            let StoredFile { version, digest, blocks, .. } = stored;
            let kind = EntryKind::File { size: version.size, digest, extents, blocks, same_as: None };
            kinds.insert(*index, (version, kind));
        }
    }
    let mut entries = Vec::with_capacity(plan.found.len());
    for (index, found) in plan.found.iter().enumerate() {
        let first = plan.same_as.get(&index).copied();
        let (attributes, kind) = match (&found.kind, kinds.get(&first.unwrap_or(index))) {
            (FoundKind::Directory, _) => (found.attributes, EntryKind::Directory),
            (FoundKind::Link { target }, _) => (found.attributes, EntryKind::Link { target: target.clone() }),
            (FoundKind::File { .. }, Some((version, kind))) => {
                versions.insert(found.path.clone(), *version);
                let kind = match (first, kind.clone()) {
                    (Some(first), EntryKind::File { size, digest, extents, blocks, .. }) => {
                        let same_as = Some(plan.found[first].path.clone());
                        EntryKind::File { size, digest, extents, blocks, same_as }
                    }
                    (Some(_) | None, kind) => kind,
                };
                (version.attributes, kind)
            }
            (FoundKind::File { .. }, None) => {
                let failure = gathered.failed.get(&first.unwrap_or(index));
                let (reason, message) = failure
                    .map_or((LeftOutReason::OutOfTime, String::new()), |failure| {
                        (failure.reason, failure.message.clone())
                    });
                left_out.push(LeftOut { path: Some(found.path.clone()), reason, message });
                continue;
            }
        };
        let (path, modified) = (found.path.clone(), attributes.modified);
        entries.push(Entry {
            path,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            modified,
            kind,
        });
    }
    left_out.sort_by(|a, b| a.path.cmp(&b.path));
    let mut manifest = Manifest { header, objects: objects.list, entries, left_out };
    manifest.drop_unused_objects();
    Assembled { manifest, versions }
}

/// What the base says of a file, with the objects' new numbers.
fn kept_kind(entry: &Entry, base: &Manifest, objects: &mut Objects) -> EntryKind {
    let mut kind = entry.kind.clone();
    if let EntryKind::File { extents, same_as, .. } = &mut kind {
        // Which name is the first is found out anew.
        *same_as = None;
        for extent in extents {
            let object = extent.object.and_then(|index| base.objects.get(usize::try_from(index).ok()?));
            extent.object = object.map(|object| objects.number(object));
        }
    }
    kind
}

/// Stores the manifest, unless it says what the base says.
pub(super) async fn store(
    workload: &Workload,
    assembled: Assembled,
    options: &SaveOptions,
) -> Result<Saved, SaveError> {
    let Assembled { manifest, versions } = assembled;
    let manifest = Arc::new(manifest);
    let base = options.base.clone();
    if let Some(base) = &base {
        let change = difference(&base.manifest, &base.reference, &manifest);
        let is_same = change.entries.is_empty()
            && change.removed.is_empty()
            && change.left_out == base.manifest.left_out;
        if is_same {
            let next = Base {
                reference: base.reference.clone(),
                manifest: Arc::clone(&base.manifest),
                whole: base.whole.clone(),
                versions,
            };
            return Ok(saved(base.reference.clone(), false, 0, Arc::new(next)));
        }
    }
    let (stored, whole) = write(workload, &manifest, base.as_deref(), &options.deadline).await?;
    let stored_bytes = stored.size;
    let whole = whole.or_else(|| Some((stored.clone(), Arc::clone(&manifest))));
    let next = Base { reference: stored.clone(), manifest, whole, versions };
    Ok(saved(stored, true, stored_bytes, Arc::new(next)))
}

fn saved(manifest: ManifestRef, is_new: bool, stored_bytes: u64, base: Arc<Base>) -> Saved {
    let (files, bytes) = (manifest.files, manifest.bytes);
    let left_out = base.manifest.left_out.clone();
    Saved { manifest, is_new, files, bytes, stored_bytes, left_out, base }
}

/// The whole manifest that a delta refers to.
type Whole = (ManifestRef, Arc<Manifest>);

/// Stores a manifest, as a delta where that is little, under its own name, once, and proves it. Returns what a delta
/// is based on.
async fn write(
    workload: &Workload,
    manifest: &Arc<Manifest>,
    base: Option<&Base>,
    deadline: &Deadline,
) -> Result<(ManifestRef, Option<Whole>), SaveError> {
    let (name, written) = (workload.name().clone(), Arc::clone(manifest));
    let whole = base.and_then(|base| base.whole.clone());
    let encoded = blocking(move || {
        let failed = |source| DecodeError::Unreadable { line: 0, source };
        // What its own reader would refuse must never be committed.
        if let Some((reference, before)) = whole.filter(|_| written.entries.len() >= DELTA_FROM) {
            let delta = difference(&before, &reference, &written);
            if (delta.entries.len() + delta.removed.len()) * DELTA_FRACTION <= before.entries.len() {
                let bytes = encode_delta(&delta).map_err(failed)?;
                decode_delta(&bytes, &name, &before)?;
                return Ok((bytes, Some((reference, before))));
            }
        }
        let bytes = encode(&written).map_err(failed)?;
        decode(&bytes, &name)?;
        Ok((bytes, None))
    });
    let (bytes, whole) = encoded.await.map_err(SaveError::BeyondLimits)?;
    let (files, total) = manifest.totals();
    let stored = ManifestRef {
        key: manifest::key(&manifest.header),
        digest: Digest::of(&bytes),
        size: as_u64(bytes.len()),
        files,
        bytes: total,
        left_out: as_u64(manifest.left_out.len()),
        complete: manifest.is_complete(),
    };
    put_once(workload, &stored.key, bytes.into(), deadline).await?;
    Ok((stored, whole))
}

/// Stores an object that must not exist yet, and proves it.
async fn put_once(
    workload: &Workload,
    key: &str,
    bytes: Bytes,
    deadline: &Deadline,
) -> Result<(), StoreError> {
    let location = workload.locate(key);
    let payload = PutPayload::from(bytes.clone());
    Retry::small_until(deadline)
        .run_checked("store", &location, || async {
            let options = PutOptions::from(PutMode::Create);
            match workload.store().put_opts(&location, payload.clone(), options).await {
                Ok(put) if put.extensions.get::<ServerChecked>().is_some() => Ok(()),
                // The answer to an earlier attempt was lost. Should it be something else, its bytes tell.
                Ok(_)
                | Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    compare(workload, &location, &bytes).await
                }
                Err(error) => Err(StoreError::new("store", &location, error)),
            }
        })
        .await
}

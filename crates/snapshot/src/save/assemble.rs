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
    self, DataObject, DecodeError, Delta, Entry, EntryKind, Extent, Header, LeftOut, LeftOutReason, Manifest,
    ManifestRef, check_delta, decode, difference, encode, encode_delta,
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
    /// In the order of their paths.
    pub(super) found: Arc<Vec<Found>>,
    left_out: Vec<LeftOut>,
    /// Files that must be read.
    pub(super) reading: Vec<usize>,
    /// For each that was found: the entry of the base that it is as it was. Empty without a base.
    kept: Vec<Option<usize>>,
    /// Further names of files, each with the index of the first.
    same_as: HashMap<usize, usize>,
}

impl Plan {
    /// Compares what was found with the base, both in the order of their paths.
    pub(super) fn new(scan: Scan, base: Option<&Arc<Base>>, retired: &Retired) -> Self {
        let Scan { found, left_out } = scan;
        let mut names: HashMap<(u64, u64), usize> = HashMap::new();
        let (mut reading, mut kept, mut same_as) = (Vec::new(), Vec::new(), HashMap::new());
        let mut before = base.map(|base| Unchanged::new(base, retired));
        if before.is_some() {
            kept.resize(found.len(), None);
        }
        for (index, found) in found.iter().enumerate() {
            let FoundKind::File { version, links } = &found.kind else { continue };
            if *links > 1 {
                let first = *names.entry((version.device, version.inode)).or_insert(index);
                if first != index {
                    same_as.insert(index, first);
                    continue;
                }
            }
            match before.as_mut().and_then(|before| before.entry(&found.path, version)) {
                Some(entry) => kept[index] = Some(entry),
                None => reading.push(index),
            }
        }
        Self { found: Arc::new(found), left_out, reading, kept, same_as }
    }

    /// How many files are to be read, and their bytes.
    pub(super) fn to_read(&self) -> (u64, u64) {
        let sizes = self.reading.iter().filter_map(|index| self.found[*index].size());
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }
}

/// Walks along the entries of a base, as the files that are asked for come in the order of their paths.
struct Unchanged<'a> {
    base: &'a Base,
    is_retired: Vec<bool>,
    next: usize,
}

impl<'a> Unchanged<'a> {
    fn new(base: &'a Base, retired: &Retired) -> Self {
        let objects = base.manifest.objects.iter();
        Self { base, is_retired: objects.map(|object| retired.contains(&object.key)).collect(), next: 0 }
    }

    /// The entry at `path` if the file is as it was when it was read for it, and nothing of it must be stored anew.
    fn entry(&mut self, path: &EntryPath, version: &Version) -> Option<usize> {
        let entries = &self.base.manifest.entries;
        while entries.get(self.next).is_some_and(|entry| entry.path < *path) {
            self.next += 1;
        }
        let entry = entries.get(self.next).filter(|entry| entry.path == *path)?;
        let mut objects = entry.extents().iter().filter_map(|extent| extent.object);
        let is_kept = self.base.versions.get(self.next) == Some(&Some(*version))
            && !objects.any(|index| {
                usize::try_from(index).ok().and_then(|index| self.is_retired.get(index)) == Some(&true)
            });
        is_kept.then_some(self.next)
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
    /// As in [`Base::versions`].
    versions: Vec<Option<Version>>,
    /// What turns the base into it.
    change: Option<Delta>,
}

/// Builds the manifest of what is stored and of what is not.
pub(super) fn assemble(
    header: Header,
    plan: Plan,
    mut gathered: Gathered,
    base: Option<&Arc<Base>>,
) -> Assembled {
    let mut objects = Objects::default();
    let mut kept = base.map(|base| Kept::new(&base.manifest));
    let mut left_out = plan.left_out;
    let mut entries = Vec::with_capacity(plan.found.len());
    let mut versions = Vec::with_capacity(plan.found.len());
    // Where the entries of files are that have further names.
    let mut first_names: HashMap<usize, usize> =
        plan.same_as.values().map(|first| (*first, usize::MAX)).collect();
    for (index, found) in plan.found.iter().enumerate() {
        let kind = match &found.kind {
            FoundKind::Directory => Some((None, EntryKind::Directory)),
            FoundKind::Link { target } => Some((None, EntryKind::Link { target: target.clone() })),
            FoundKind::File { version, .. } => {
                let first = plan.same_as.get(&index);
                let kept_as = plan.kept.get(index).copied().flatten();
                if let Some(first) = first {
                    let at = first_names.get(first).copied().unwrap_or(usize::MAX);
                    further_name(&entries, &versions, at)
                } else if let (Some(kept), Some(at)) = (&mut kept, kept_as) {
                    Some((Some(*version), kept.kind(at, &mut objects)))
                } else {
                    gathered.stored.remove(&index).map(|stored| {
                        let extents = objects.extents(&stored.extents);
                        let StoredFile { version, digest, blocks, .. } = stored;
                        let kind =
                            EntryKind::File { size: version.size, digest, extents, blocks, same_as: None };
                        (Some(version), kind)
                    })
                }
            }
        };
        let Some((version, kind)) = kind else {
            let first = plan.same_as.get(&index).unwrap_or(&index);
            let (reason, message) =
                gathered.failed.get(first).map_or((LeftOutReason::OutOfTime, String::new()), |failure| {
                    (failure.reason, failure.message.clone())
                });
            left_out.push(LeftOut { path: Some(found.path.clone()), reason, message });
            continue;
        };
        if let Some(at) = first_names.get_mut(&index) {
            *at = entries.len();
        }
        let attributes = version.map_or(found.attributes, |version| version.attributes);
        versions.push(version);
        entries.push(Entry {
            path: found.path.clone(),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            modified: attributes.modified,
            kind,
        });
    }
    left_out.sort_by(|a, b| a.path.cmp(&b.path));
    let mut manifest = Manifest { header, objects: objects.list, entries, left_out };
    manifest.drop_unused_objects();
    let change = base.map(|base| difference(&base.manifest, &base.reference, &manifest));
    Assembled { manifest, versions, change }
}

/// A further name of the file whose entry is the one `at` there.
fn further_name(
    entries: &[Entry],
    versions: &[Option<Version>],
    at: usize,
) -> Option<(Option<Version>, EntryKind)> {
    let mut kind = entries.get(at)?.kind.clone();
    if let EntryKind::File { same_as, .. } = &mut kind {
        *same_as = Some(entries[at].path.clone());
    }
    Some((versions[at], kind))
}

/// What is taken over from the base.
struct Kept<'a> {
    base: &'a Manifest,
    /// The new numbers of its objects, once they are known.
    numbers: Vec<Option<u32>>,
}

impl<'a> Kept<'a> {
    fn new(base: &'a Manifest) -> Self {
        Self { base, numbers: vec![None; base.objects.len()] }
    }

    /// What the base says of a file, with the objects' new numbers.
    fn kind(&mut self, at: usize, objects: &mut Objects) -> EntryKind {
        let mut kind = self.base.entries[at].kind.clone();
        if let EntryKind::File { extents, same_as, .. } = &mut kind {
            // Which name is the first is found out anew.
            *same_as = None;
            for extent in extents {
                let index = extent.object.and_then(|index| usize::try_from(index).ok());
                extent.object = index.and_then(|index| {
                    let number = self.numbers.get_mut(index)?;
                    Some(*number.get_or_insert_with(|| objects.number(&self.base.objects[index])))
                });
            }
        }
        kind
    }
}

/// Stores the manifest, unless it says what the base says.
pub(super) async fn store(
    workload: &Workload,
    assembled: Assembled,
    options: &SaveOptions,
) -> Result<Saved, SaveError> {
    let Assembled { manifest, versions, change } = assembled;
    let manifest = Arc::new(manifest);
    let base = options.base.clone();
    if let (Some(base), Some(change)) = (&base, &change) {
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
    let (stored, whole) = write(workload, &manifest, (base.as_deref(), change), &options.deadline).await?;
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
    (base, change): (Option<&Base>, Option<Delta>),
    deadline: &Deadline,
) -> Result<(ManifestRef, Option<Whole>), SaveError> {
    let (name, written) = (workload.name().clone(), Arc::clone(manifest));
    let whole = base.and_then(|base| base.whole.clone());
    // The difference to the last recovery point is the one that is wanted where that is stored whole.
    let is_to_whole =
        base.zip(whole.as_ref()).is_some_and(|(base, (reference, _))| *reference == base.reference);
    let change = change.filter(|_| is_to_whole);
    let encoded = blocking(move || {
        let failed = |source| DecodeError::Unreadable { line: 0, source };
        // What its own reader would refuse must never be committed.
        if let Some((reference, before)) = whole.filter(|_| written.entries.len() >= DELTA_FROM) {
            let delta = change.unwrap_or_else(|| difference(&before, &reference, &written));
            if (delta.entries.len() + delta.removed.len()) * DELTA_FRACTION <= before.entries.len() {
                let bytes = encode_delta(&delta).map_err(failed)?;
                check_delta(&bytes, &delta, &before, &written)?;
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
    Retry::manifest_until(deadline)
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

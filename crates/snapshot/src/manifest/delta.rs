//! The difference between a manifest and the whole one that it is based on.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{DataObject, Entry, EntryKind, Extent, Header, LeftOut, Manifest, ManifestRef};
use crate::path::EntryPath;

/// What a delta says. Its extents count the base's objects first, then its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) header: Header,
    pub(crate) objects: Vec<DataObject>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) removed: Vec<EntryPath>,
    /// All that is left out, not only what the base does not name.
    pub(crate) left_out: Vec<LeftOut>,
}

/// What turns the manifest `base`, which `reference` names, into `manifest`.
pub(crate) fn difference(base: &Manifest, reference: &ManifestRef, manifest: &Manifest) -> Delta {
    let mut numbers: HashMap<&str, u32> = HashMap::with_capacity(base.objects.len());
    let number = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    for (index, object) in base.objects.iter().enumerate() {
        numbers.insert(&object.key, number(index));
    }
    let mut objects: Vec<DataObject> = Vec::new();
    let renumbered: Vec<u32> = manifest
        .objects
        .iter()
        .map(|object| {
            *numbers.entry(&object.key).or_insert_with(|| {
                objects.push(object.clone());
                number(base.objects.len() + objects.len() - 1)
            })
        })
        .collect();
    let mut entries = Vec::new();
    let mut removed = Vec::new();
    let mut before = base.entries.iter().peekable();
    for entry in &manifest.entries {
        while let Some(gone) = before.next_if(|old| old.path < entry.path) {
            removed.push(gone.path.clone());
        }
        let old = before.next_if(|old| old.path.cmp(&entry.path) == Ordering::Equal);
        if !old.is_some_and(|old| is_same(old, entry, &renumbered)) {
            entries.push(renumber(entry, &renumbered));
        }
    }
    removed.extend(before.map(|gone| gone.path.clone()));
    let header = Header { base: Some(Box::new(reference.clone())), ..manifest.header.clone() };
    Delta { header, objects, entries, removed, left_out: manifest.left_out.clone() }
}

/// Whether `entry` is `old` once its objects are numbered anew.
fn is_same(old: &Entry, entry: &Entry, numbers: &[u32]) -> bool {
    let is_same_extent = |(old, new): (&Extent, &Extent)| {
        (old.offset, old.length) == (new.offset, new.length) && old.object == new_number(new, numbers)
    };
    match (&old.kind, &entry.kind) {
        (
            EntryKind::File { size, digest, extents, blocks, same_as },
            EntryKind::File {
                size: new_size,
                digest: new_digest,
                extents: new_extents,
                blocks: new_blocks,
                same_as: new_same_as,
            },
        ) => {
            let attributes = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.modified);
            attributes(old) == attributes(entry)
                && (size, digest) == (new_size, new_digest)
                && extents.len() == new_extents.len()
                && extents.iter().zip(new_extents).all(is_same_extent)
                && (blocks, same_as) == (new_blocks, new_same_as)
                && old.path == entry.path
        }
        (EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. }, _) => old == entry,
    }
}

fn new_number(extent: &Extent, numbers: &[u32]) -> Option<u32> {
    extent.object.and_then(|index| numbers.get(usize::try_from(index).ok()?).copied())
}

fn renumber(entry: &Entry, numbers: &[u32]) -> Entry {
    let mut entry = entry.clone();
    if let EntryKind::File { extents, .. } = &mut entry.kind {
        for extent in extents {
            extent.object = new_number(extent, numbers);
        }
    }
    entry
}

/// The manifest that `delta` makes of `base`.
pub(super) fn apply(base: &Manifest, delta: Delta) -> Manifest {
    let Delta { header, objects: new, entries: mut changed, mut removed, left_out } = delta;
    changed.sort_by(|a, b| a.path.cmp(&b.path));
    removed.sort();
    let mut objects = base.objects.clone();
    objects.extend(new);
    let mut entries = Vec::with_capacity(base.entries.len() + changed.len());
    let mut changed = changed.into_iter().peekable();
    for old in &base.entries {
        while let Some(new) = changed.next_if(|new| new.path < old.path) {
            entries.push(new);
        }
        match changed.next_if(|new| new.path == old.path) {
            Some(new) => entries.push(new),
            None if removed.binary_search(&old.path).is_ok() => {}
            None => entries.push(old.clone()),
        }
    }
    entries.extend(changed);
    let mut manifest = Manifest { header, objects, entries, left_out };
    manifest.drop_unused_objects();
    manifest
}

//! The difference between a manifest and the whole one that it is based on.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{DataObject, Entry, EntryKind, Header, LeftOut, Manifest, ManifestRef};
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
        let entry = renumber(entry, &renumbered);
        if old != Some(&entry) {
            entries.push(entry);
        }
    }
    removed.extend(before.map(|gone| gone.path.clone()));
    let header = Header { base: Some(Box::new(reference.clone())), ..manifest.header.clone() };
    Delta { header, objects, entries, removed, left_out: manifest.left_out.clone() }
}

fn renumber(entry: &Entry, numbers: &[u32]) -> Entry {
    let mut entry = entry.clone();
    if let EntryKind::File { extents, .. } = &mut entry.kind {
        for extent in extents {
            extent.object =
                extent.object.and_then(|index| numbers.get(usize::try_from(index).ok()?).copied());
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

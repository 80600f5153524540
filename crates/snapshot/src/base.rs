//! What the recovery point before already has, so that a save stores only what is new.

use std::collections::HashSet;
use std::sync::Arc;

use crate::manifest::{Entry, Manifest, ManifestRef, ReadManifestError, read_manifest};
use crate::path::EntryPath;
use crate::read::Version;
use crate::workload::Workload;

/// Objects with less than this are small; every round of pre-copying may leave one behind.
const SMALL_OBJECT: u64 = 1024 * 1024;

/// So many small objects may be, before what is in them is stored together.
const SMALL_OBJECTS_MAX: usize = 64;

/// What is no longer used may take so much, before the objects with most of it are stored anew.
const WASTE_FREE: u64 = 32 * 1024 * 1024;

/// A save stores at most so much again to make room: a little at a time.
const REWRITTEN_MAX: u64 = 64 * 1024 * 1024;

/// A committed recovery point, as the next save needs it.
#[derive(Debug)]
pub struct Base {
    pub(crate) reference: ManifestRef,
    pub(crate) manifest: Arc<Manifest>,
    /// The whole manifest that deltas are written against.
    pub(crate) whole: Option<(ManifestRef, Arc<Manifest>)>,
    /// For each entry of `manifest`: the file as it was when this process read it, and it was the same as that entry.
    /// Empty where none has been read.
    pub(crate) versions: Vec<Option<Version>>,
}

impl Base {
    /// Reads a recovery point. What the files were like when it was saved is not known, so the next save reads them
    /// all; what has not changed is not stored again.
    ///
    /// # Errors
    /// [`ReadManifestError`]
    pub async fn load(workload: &Workload, reference: &ManifestRef) -> Result<Self, ReadManifestError> {
        let manifest = Arc::new(read_manifest(workload, reference).await?);
        let is_whole = manifest.header.base.is_none();
        let whole = is_whole.then(|| (reference.clone(), Arc::clone(&manifest)));
        Ok(Self { reference: reference.clone(), manifest, whole, versions: Vec::new() })
    }

    /// The recovery point.
    #[must_use]
    pub const fn reference(&self) -> &ManifestRef {
        &self.reference
    }

    /// What is in it.
    #[must_use]
    pub const fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The entry at `path`.
    pub(crate) fn entry(&self, path: &EntryPath) -> Option<&Entry> {
        let entries = &self.manifest.entries;
        entries.binary_search_by(|entry| entry.path.cmp(path)).ok().and_then(|index| entries.get(index))
    }

    /// The objects whose content is to be stored anew: those with the greatest part that nobody uses, and small ones.
    /// Both amounts are bounded, so that the store never holds much more than what the files need.
    pub(crate) fn retired(&self) -> HashSet<String> {
        let mut used: Vec<Vec<(u64, u64)>> = vec![Vec::new(); self.manifest.objects.len()];
        for extent in self.manifest.entries.iter().flat_map(Entry::extents) {
            if let Some(stretches) =
                extent.object.and_then(|index| used.get_mut(usize::try_from(index).ok()?))
            {
                stretches.push((extent.offset, extent.length));
            }
        }
        let mut objects: Vec<(u64, u64, &str)> = Vec::with_capacity(used.len());
        for (object, stretches) in self.manifest.objects.iter().zip(&mut used) {
            // Of those that begin at the same byte the longest counts, once.
            stretches.sort_unstable_by(|a, b| b.cmp(a));
            stretches.dedup_by_key(|(offset, _)| *offset);
            let live: u64 = stretches.iter().map(|(_, length)| length).sum();
            objects.push((live.min(object.content()), object.content(), &object.key));
        }
        let (live, all) = objects.iter().fold((0, 0), |(a, b), (live, all, _)| (a + live, b + all));
        let mut retired = HashSet::new();
        let mut rewritten = 0;
        let mut waste = all - live;
        // The emptiest first: most room for the least work.
        objects.sort_by_key(|(live, all, _)| (live * 1000) / (*all).max(1));
        for (live_here, all_here, key) in &objects {
            if waste <= live + WASTE_FREE || rewritten + live_here > REWRITTEN_MAX {
                break;
            }
            waste -= all_here - live_here;
            rewritten += live_here;
            retired.insert((*key).to_owned());
        }
        // A file with an object of its own keeps it.
        let is_small =
            |(_, all, key): &&(u64, u64, &str)| *all < SMALL_OBJECT && crate::plain::claim_of(key).is_none();
        let small: Vec<_> = objects.iter().filter(is_small).collect();
        if small.len() > SMALL_OBJECTS_MAX {
            for (live_here, _, key) in small {
                if rewritten + live_here <= REWRITTEN_MAX {
                    rewritten += live_here;
                    retired.insert((*key).to_owned());
                }
            }
        }
        retired
    }
}

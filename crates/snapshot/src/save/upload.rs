//! Carries one unit of the plan out: reads its files, stores the object, proves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::SaveOptions;
use super::plan::{PACKED_FILE_BYTES_MAX, Unit};
use crate::deadline::Deadline;
use crate::dirs::Dirs;
use crate::extra::StoredObject;
use crate::id::Digest;
use crate::manifest::{Extent, Header, LeftOutReason};
use crate::progress::Progress;
use crate::read::{Failure, READ_ATTEMPTS, Version, open_settled, read_whole};
use crate::scan::{Attributes, Found};
use crate::store::StoreError;
use crate::transfer::{self, Stretch, UploadError, as_u64, blocking};
use crate::workload::Workload;

/// One object is never larger: 8,192 parts of 8 MiB, where S3 takes 10,000. Larger files lie in several.
const OBJECT_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// After so many units in a row that the store did not take, the rest is not tried: each had all its retries.
const REFUSALS_MAX: u32 = 4;

/// What became of one unit.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The objects that were stored.
    pub(super) objects: Vec<StoredObject>,
    /// The files that are in them; their extents count these `objects` from 0.
    pub(super) stored: Vec<(usize, Stored)>,
    /// The files that are not.
    pub(super) failed: Vec<(usize, Failure)>,
}

/// A file that is stored whole.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) size: u64,
    pub(super) digest: Digest,
    pub(super) extents: Vec<Extent>,
    /// As they were when it was read, which may be later than it was found.
    pub(super) attributes: Attributes,
}

/// What all units of one save share.
#[derive(Debug)]
pub(super) struct Uploader {
    workload: Workload,
    folder: String,
    found: Arc<Vec<Found>>,
    dirs: Dirs,
    deadline: Deadline,
    progress: Arc<dyn Progress>,
    refusals: AtomicU32,
}

/// A pack in memory.
#[derive(Debug, Default)]
struct Pack {
    bytes: Vec<u8>,
    stored: Vec<(usize, Stored)>,
    failed: Vec<(usize, Failure)>,
    /// Files that have become too large for a pack since they were found.
    grown: Vec<usize>,
}

impl Uploader {
    pub(super) fn new(
        workload: &Workload,
        header: &Header,
        found: Arc<Vec<Found>>,
        dirs: Dirs,
        options: &SaveOptions,
    ) -> Self {
        Self {
            workload: workload.clone(),
            // The save's own nonce keeps the objects of two saves under one claim apart.
            folder: format!("data/{}/{}", header.claim.folder(), header.save),
            found,
            dirs,
            deadline: options.deadline.clone(),
            progress: Arc::clone(&options.progress),
            refusals: AtomicU32::new(0),
        }
    }

    /// Carries out unit `number`.
    pub(super) async fn upload(self: Arc<Self>, number: usize, unit: Unit) -> Outcome {
        let mut outcome = Outcome::default();
        match unit {
            Unit::Large(index) => self.upload_large(number, index, &mut outcome).await,
            Unit::Pack(members) => self.upload_pack(number, members, &mut outcome).await,
        }
        outcome
    }

    /// Reads small files into a pack and stores it.
    async fn upload_pack(self: &Arc<Self>, number: usize, members: Vec<usize>, outcome: &mut Outcome) {
        if let Some(failure) = self.gave_up() {
            outcome.failed.extend(members.into_iter().map(|index| (index, failure.clone())));
            return;
        }
        let this = Arc::clone(self);
        let pack = blocking(move || this.build_pack(members)).await;
        outcome.failed.extend(pack.failed);
        let files = as_u64(pack.stored.len());
        let size = as_u64(pack.bytes.len());
        let put = if pack.bytes.is_empty() {
            // Nothing but empty files: their entries say all.
            Ok(None)
        } else {
            let key = format!("{}-{number:06}.pack", self.folder);
            transfer::put_bytes(&self.workload, key, pack.bytes, &self.deadline).await.map(Some)
        };
        match put {
            Ok(object) => {
                if object.is_some() {
                    self.refusals.store(0, Ordering::Relaxed);
                }
                outcome.objects.extend(object);
                outcome.stored.extend(pack.stored);
                self.progress.advanced(files, size);
            }
            Err(error) => {
                let failure = self.refused(&error);
                outcome.failed.extend(pack.stored.into_iter().map(|(index, _)| (index, failure.clone())));
            }
        }
        for (extra, index) in pack.grown.into_iter().enumerate() {
            self.upload_named(&format!("{}-{number:06}-{extra:04}", self.folder), index, outcome).await;
        }
    }

    /// Reads the members one behind the other.
    fn build_pack(&self, members: Vec<usize>) -> Pack {
        let mut dirs = self.dirs.fresh();
        let expected: u64 = members.iter().filter_map(|index| super::size_of(&self.found[*index])).sum();
        // Room for all as they were found, and for the one byte beyond the last by which its growth is noticed;
        // without it the buffer would double, and half of it be wasted.
        let capacity = usize::try_from(expected).unwrap_or(0) + 1;
        let mut pack = Pack { bytes: Vec::with_capacity(capacity), ..Pack::default() };
        for index in members {
            let offset = as_u64(pack.bytes.len());
            let path = &self.found[index].path;
            match read_whole(&mut dirs, path, &mut pack.bytes, PACKED_FILE_BYTES_MAX) {
                Ok(Some(whole)) => {
                    let Version { size, attributes, .. } = whole.version;
                    let extents =
                        if size == 0 { Vec::new() } else { vec![Extent { object: 0, offset, length: size }] };
                    pack.stored.push((index, Stored { size, digest: whole.digest, extents, attributes }));
                }
                Ok(None) => pack.grown.push(index),
                Err(failure) => pack.failed.push((index, failure)),
            }
        }
        pack
    }

    /// Stores one large file.
    async fn upload_large(self: &Arc<Self>, number: usize, index: usize, outcome: &mut Outcome) {
        self.upload_named(&format!("{}-{number:06}", self.folder), index, outcome).await;
    }

    /// Stores one file in objects whose keys begin with `prefix`; again under another name when it changed meanwhile.
    async fn upload_named(self: &Arc<Self>, prefix: &str, index: usize, outcome: &mut Outcome) {
        if let Some(failure) = self.gave_up() {
            outcome.failed.push((index, failure));
            return;
        }
        for attempt in 0..READ_ATTEMPTS {
            match self.upload_attempt(&format!("{prefix}-{attempt}"), index).await {
                Ok(Some((objects, mut stored))) => {
                    self.refusals.store(0, Ordering::Relaxed);
                    self.progress.advanced(1, stored.size);
                    let base = u32::try_from(outcome.objects.len()).unwrap_or(u32::MAX);
                    stored.extents.iter_mut().for_each(|extent| extent.object += base);
                    outcome.objects.extend(objects);
                    outcome.stored.push((index, stored));
                    return;
                }
                // It changed: what was stored is unreferenced, and pruned later.
                Ok(None) => {}
                Err(failure) => {
                    outcome.failed.push((index, failure));
                    return;
                }
            }
        }
        outcome.failed.push((index, Failure::changed()));
    }

    /// One attempt of [`Uploader::upload_named`]. `None`: the file changed while it was read.
    async fn upload_attempt(
        self: &Arc<Self>,
        prefix: &str,
        index: usize,
    ) -> Result<Option<(Vec<StoredObject>, Stored)>, Failure> {
        let this = Arc::clone(self);
        let (file, before) =
            blocking(move || open_settled(&mut this.dirs.fresh(), &this.found[index].path)).await?;
        let file = Arc::new(file);
        let mut objects = Vec::new();
        let mut extents = Vec::new();
        let mut offset = 0;
        while offset < before.size {
            let length = (before.size - offset).min(OBJECT_BYTES_MAX);
            let stretch = Stretch { file: Arc::clone(&file), offset, length };
            let key = format!("{prefix}-{}.bin", objects.len());
            match transfer::put_stretch(&self.workload, key, &stretch, &self.deadline).await {
                Ok(object) => {
                    let number = u32::try_from(objects.len()).unwrap_or(u32::MAX);
                    extents.push(Extent { object: number, offset: 0, length });
                    objects.push(object);
                }
                Err(UploadError::Store(error)) => return Err(self.refused(&error)),
                // It has become shorter.
                Err(UploadError::Read(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Ok(None);
                }
                Err(UploadError::Read(error)) => return Err(error.into()),
            }
            offset += length;
        }
        let hashed = Arc::clone(&file);
        let digest = match objects.as_slice() {
            [only] => only.digest,
            // The hash of the whole is none of the parts': such files are rare enough to be read twice.
            [] | [_, _, ..] => blocking(move || hash_file(&hashed, before.size)).await?,
        };
        let after = blocking(move || Version::of(&file)).await?;
        if after != before {
            return Ok(None);
        }
        let Version { size, attributes, .. } = before;
        Ok(Some((objects, Stored { size, digest, extents, attributes })))
    }

    /// What to say of further files once the store has refused too often.
    fn gave_up(&self) -> Option<Failure> {
        (self.refusals.load(Ordering::Relaxed) >= REFUSALS_MAX).then(|| Failure {
            reason: LeftOutReason::StoreRefused,
            message: format!("not tried after the store refused {REFUSALS_MAX} objects in a row"),
        })
    }

    /// Counts and words a refusal of the store.
    fn refused(&self, error: &StoreError) -> Failure {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure { reason: LeftOutReason::StoreRefused, message: format!("{error}{cause}") }
    }
}

/// The hash of the first `size` bytes of a file.
fn hash_file(file: &std::fs::File, size: u64) -> std::io::Result<Digest> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file.take(size))?;
    Ok(hasher.finalize().into())
}

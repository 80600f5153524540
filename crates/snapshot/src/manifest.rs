//! What one recovery point contains: every file, directory and link, where their bytes lie, and what is missing.
//!
//! A manifest is one object: zstd-compressed JSON, one value a line. A header, the data objects, the entries, what
//! was left out, and a footer with the counts, by which a manifest that was cut short is noticed. A round of
//! pre-copying that changed little writes a delta: the difference to one whole manifest, its base, which the header
//! names; no delta is the base of another. The writer is in `manifest/encode.rs`, its distrustful reader in
//! `manifest/decode.rs`, both of text only, the difference in `manifest/delta.rs`; [`read_manifest`] fetches one with
//! its base and checks their hashes.

mod decode;
mod delta;
mod encode;

use std::fmt;

use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};

pub use decode::{
    DECODED_BYTES_MAX, DecodeError, ENTRIES_MAX, EXTENTS_MAX, LINE_BYTES_MAX, LINK_BYTES_MAX, RAW_BYTES_MAX,
    decode,
};
pub(crate) use decode::{base_of, check_delta, decode_delta};
pub(crate) use delta::{Delta, difference};
pub(crate) use encode::{encode, encode_delta};

use crate::blocks::Blocks;
use crate::claim::ClaimId;
use crate::deadline::Deadline;
use crate::id::{Digest, Nonce};
use crate::path::EntryPath;
use crate::store::{Retry, StoreError};
use crate::transfer::blocking;
use crate::workload::{Workload, WorkloadName};

/// The version of the manifest format that this build writes and reads.
pub const FORMAT: u32 = 2;

/// A larger object is no manifest: a million entries compress to about 80 MiB.
pub const COMPRESSED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A recovery point: the whole content of one manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose it is.
    pub header: Header,
    /// The data objects that [`Extent::object`] counts from 0. Each is used by an entry.
    pub objects: Vec<DataObject>,
    /// Every file, directory and link, in the order of their paths.
    pub entries: Vec<Entry>,
    /// What was found and is not among the entries.
    pub left_out: Vec<LeftOut>,
}

/// Whose manifest it is, and which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub format: u32,
    /// The workload.
    pub workload: WorkloadName,
    /// The claim under which it was saved.
    pub claim: ClaimId,
    /// Tells the saves of one claim apart.
    pub save: Nonce,
    /// The saver's wall clock, in ms since 1970; for people.
    pub at_unix_ms: u64,
    /// In a delta: the whole manifest that it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Box<ManifestRef>>,
}

/// An object with the bytes of files. It needs no hash of its own: those of the files' bytes tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DataObject {
    /// Its key, relative to the workload.
    pub key: String,
    /// Its length in bytes, as it lies in the store.
    pub size: u64,
    /// For an object that is one zstd frame: the length of what is in it, which extents count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<u64>,
}

impl DataObject {
    /// How many bytes extents may refer to.
    #[must_use]
    pub fn content(&self) -> u64 {
        self.raw.unwrap_or(self.size)
    }
}

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is in the work directory.
    pub path: EntryPath,
    /// The permission bits, set-user-id and its like included.
    pub mode: u32,
    /// The user that owns it.
    pub uid: u32,
    /// The group that owns it.
    pub gid: u32,
    /// When its content last changed.
    pub modified: Modified,
    /// What it is.
    pub kind: EntryKind,
}

/// A modification time: seconds since 1970, which may be negative, and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Modified {
    /// Whole seconds.
    pub seconds: i64,
    /// And so many nanoseconds.
    pub nanos: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A directory. Its content has entries of its own.
    Directory,
    /// A symbolic link, stored as such and never followed.
    Link {
        /// What it points to: any bytes but NUL.
        #[serde(
            serialize_with = "crate::path::serialize_bytes",
            deserialize_with = "crate::path::deserialize_bytes"
        )]
        target: Vec<u8>,
    },
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// BLAKE3 of its bytes.
        digest: Digest,
        /// Its bytes in order; together exactly `size`. At most one where there are no `blocks`, else each but the
        /// last has whole blocks.
        extents: Vec<Extent>,
        /// Of a large file, by which its parts can be compared and checked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blocks: Option<Blocks>,
        /// It is a hard link: the same file as the one at this path, of which everything here is a copy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        same_as: Option<EntryPath>,
    },
}

/// A stretch of a data object, or of zeros that lie nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(Option<u32>, u64, u64)", into = "(Option<u32>, u64, u64)")]
pub struct Extent {
    /// The index in [`Manifest::objects`]; `None` for zeros.
    pub object: Option<u32>,
    /// From which byte of its content.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

impl From<(Option<u32>, u64, u64)> for Extent {
    fn from((object, offset, length): (Option<u32>, u64, u64)) -> Self {
        Self { object, offset, length }
    }
}

impl From<Extent> for (Option<u32>, u64, u64) {
    fn from(Extent { object, offset, length }: Extent) -> Self {
        (object, offset, length)
    }
}

/// Something that was found and is not in the recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Where; `None` is the work directory as a whole.
    pub path: Option<EntryPath>,
    /// Why.
    pub reason: LeftOutReason,
    /// The details, for people.
    pub message: String,
}

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// It was removed between being found and being read.
    Vanished,
    /// It changed during each attempt to read it.
    ChangedWhileRead,
    /// The saver may not read it.
    PermissionDenied,
    /// A socket holds no data.
    Socket,
    /// A pipe holds no data of its own.
    Pipe,
    /// A device is not part of the work.
    Device,
    /// The deadline came first.
    OutOfTime,
    /// The store did not take it.
    StoreRefused,
    /// Reading failed in another way.
    ReadError,
    /// Its path is too long, or there are too many entries.
    BeyondLimits,
}

impl LeftOutReason {
    /// Whether data is missing because of it: a recovery point is complete without sockets, pipes, devices and what
    /// was removed.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        match self {
            Self::Vanished | Self::Socket | Self::Pipe | Self::Device => false,
            Self::ChangedWhileRead
            | Self::PermissionDenied
            | Self::OutOfTime
            | Self::StoreRefused
            | Self::ReadError
            | Self::BeyondLimits => true,
        }
    }
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vanished => "removed meanwhile",
            Self::ChangedWhileRead => "changed while it was read",
            Self::PermissionDenied => "no permission to read it",
            Self::Socket => "a socket",
            Self::Pipe => "a pipe",
            Self::Device => "a device",
            Self::OutOfTime => "out of time",
            Self::StoreRefused => "the store did not take it",
            Self::ReadError => "cannot be read",
            Self::BeyondLimits => "beyond the limits of the format",
        })
    }
}

/// Names a manifest and vouches for its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRef {
    /// Its key, relative to the workload.
    pub key: String,
    /// BLAKE3 of the object.
    pub digest: Digest,
    /// The object's length in bytes.
    pub size: u64,
    /// How many regular files it contains.
    pub files: u64,
    /// How many bytes these files have together.
    pub bytes: u64,
    /// How many things it names as left out.
    pub left_out: u64,
    /// Whether none of those is a loss of data.
    pub complete: bool,
}

impl Entry {
    /// Where a file's bytes lie; nothing for anything else.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        match &self.kind {
            EntryKind::File { extents, .. } => extents,
            EntryKind::Directory | EntryKind::Link { .. } => &[],
        }
    }
}

impl Manifest {
    /// How many regular files it contains, and how many bytes these have together.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.entries.iter().fold((0, 0), |(files, bytes), entry| match &entry.kind {
            EntryKind::File { size, same_as: None, .. } => (files + 1, bytes + size),
            EntryKind::File { same_as: Some(_), .. } => (files + 1, bytes),
            EntryKind::Directory | EntryKind::Link { .. } => (files, bytes),
        })
    }

    /// Every object that must exist, manifests too, by key: what pruning must keep for this recovery point.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &str> {
        let base = self.header.base.iter().map(|base| base.key.as_str());
        base.chain(self.objects.iter().map(|object| object.key.as_str()))
    }

    /// Leaves out the objects that no entry uses.
    pub(crate) fn drop_unused_objects(&mut self) {
        let mut new_index: Vec<Option<u32>> = vec![None; self.objects.len()];
        for extent in self.entries.iter().flat_map(Entry::extents) {
            if let Some(slot) =
                extent.object.and_then(|index| new_index.get_mut(usize::try_from(index).ok()?))
            {
                *slot = Some(0);
            }
        }
        for (next, slot) in (0..).zip(new_index.iter_mut().flatten()) {
            *slot = next;
        }
        let mut keep = new_index.iter().map(Option::is_some);
        self.objects.retain(|_| keep.next().unwrap_or(false));
        for entry in &mut self.entries {
            if let EntryKind::File { extents, .. } = &mut entry.kind {
                for extent in extents {
                    extent.object = extent
                        .object
                        .and_then(|index| new_index.get(usize::try_from(index).ok()?).copied().flatten());
                }
            }
        }
    }

    /// Whether everything that holds data is in it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.left_out.iter().any(|left_out| left_out.reason.is_loss())
    }
}

/// The key of a manifest, relative to the workload. It needs no number: the journal orders recovery points.
pub(crate) fn key(header: &Header) -> String {
    format!("manifests/{}-{}.zst", header.claim.folder(), header.save)
}

/// The claim that wrote the manifest at `key`.
pub(crate) fn claim_of(key: &str) -> Option<ClaimId> {
    let name = key.strip_prefix("manifests/")?.strip_suffix(".zst")?;
    let (folder, save) = name.rsplit_once('-')?;
    let _: Nonce = save.parse().ok()?;
    ClaimId::parse_folder(folder)
}

/// Why a manifest could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadManifestError {
    /// The store does not give it, or gives other bytes than were committed.
    #[error("the manifest could not be fetched")]
    Store(#[from] StoreError),
    /// Its bytes are those that were committed, and are no manifest that this build accepts.
    #[error("manifest {key:?} is refused")]
    Refused {
        /// Its key, relative to the workload.
        key: String,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
}

/// Fetches a manifest, and checks its hash and then everything in it.
///
/// # Errors
/// [`ReadManifestError`]; memory is bounded by the constants of the format whatever the object contains.
pub async fn read_manifest(
    workload: &Workload,
    manifest: &ManifestRef,
) -> Result<Manifest, ReadManifestError> {
    let bytes = fetch(workload, manifest).await?;
    let refused = |key: &str| {
        let key = key.to_owned();
        move |source| ReadManifestError::Refused { key, source }
    };
    let name = workload.name().clone();
    let Some(base) = base_of(&bytes).map_err(refused(&manifest.key))? else {
        return blocking(move || decode(&bytes, &name)).await.map_err(refused(&manifest.key));
    };
    let base_bytes = fetch(workload, &base).await?;
    let base_name = name.clone();
    let whole = blocking(move || decode(&base_bytes, &base_name)).await.map_err(refused(&base.key))?;
    blocking(move || decode_delta(&bytes, &name, &whole)).await.map_err(refused(&manifest.key))
}

/// The bytes of a manifest, equal to what was committed.
pub(crate) async fn fetch(workload: &Workload, manifest: &ManifestRef) -> Result<bytes::Bytes, StoreError> {
    let location = workload.locate(&manifest.key);
    if claim_of(&manifest.key).is_none() {
        return Err(StoreError::corrupt(&location, "this is no key of a manifest"));
    }
    if manifest.size > COMPRESSED_BYTES_MAX {
        let what = format!("{} bytes are more than {COMPRESSED_BYTES_MAX}", manifest.size);
        return Err(StoreError::corrupt(&location, what));
    }
    let failed = |source| StoreError::new("read", &location, source);
    Retry::manifest_until(&Deadline::none())
        .run_checked("read", &location, || async {
            let got = workload.store().get(&location).await.map_err(failed)?;
            if got.meta.size != manifest.size {
                return Err(StoreError::corrupt(
                    &location,
                    format!("{} bytes, not {}", got.meta.size, manifest.size),
                ));
            }
            let bytes = got.bytes().await.map_err(failed)?;
            if Digest::of(&bytes) != manifest.digest {
                return Err(StoreError::corrupt(&location, "its hash is another"));
            }
            Ok(bytes)
        })
        .await
}

//! What one recovery point contains: every file, directory and link, where their bytes lie, and what is missing.
//!
//! A manifest is one object: zstd-compressed JSON, one value a line. A header, the data objects, the entries, what
//! was left out, and a footer with the counts, by which a manifest that was cut short is noticed. Its writer is in
//! `manifest/encode.rs`, its distrustful reader in `manifest/decode.rs`, both of text only; [`read_manifest`]
//! fetches one and checks its hash.

mod decode;
mod encode;

use std::fmt;

use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};

pub use decode::{
    DECODED_BYTES_MAX, DecodeError, ENTRIES_MAX, EXTENTS_MAX, LINE_BYTES_MAX, LINK_BYTES_MAX, decode,
};
pub(crate) use encode::encode;

use crate::claim::ClaimId;
use crate::extra::StoredObject;
use crate::id::{Digest, Nonce};
use crate::path::EntryPath;
use crate::store::{Retry, StoreError};
use crate::workload::{Workload, WorkloadName};

/// The version of the manifest format that this build writes and reads.
pub const FORMAT: u32 = 1;

/// A larger object is no manifest: a million entries compress to about 80 MiB.
pub const COMPRESSED_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A recovery point: the whole content of one manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Whose it is.
    pub header: Header,
    /// The data objects that [`Extent::object`] counts from 0.
    pub objects: Vec<StoredObject>,
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
        /// Its bytes in order; together exactly `size`.
        extents: Vec<Extent>,
    },
}

/// A stretch of a data object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The index in [`Manifest::objects`].
    pub object: u32,
    /// From which byte of it.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
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

impl Manifest {
    /// How many regular files it contains, and how many bytes these have together.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.entries.iter().fold((0, 0), |(files, bytes), entry| match &entry.kind {
            EntryKind::File { size, .. } => (files + 1, bytes + size),
            EntryKind::Directory | EntryKind::Link { .. } => (files, bytes),
        })
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
    let refused = |source| ReadManifestError::Refused { key: manifest.key.clone(), source };
    let name = workload.name().clone();
    let decoding = tokio::task::spawn_blocking(move || decode(&bytes, &name));
    match decoding.await {
        Ok(decoded) => decoded.map_err(refused),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
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
    Retry::small()
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

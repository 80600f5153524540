//! Moves bytes between memory or files and the store, and proves that they arrived.
//!
//! "Proven" is decided in one place, [`prove`]: today every object is read back and hashed, which is what a directory
//! and a store in memory need. A store that checks a checksum sent with the bytes (S3: SHA-256, CRC64NVME) can answer
//! there without moving them a second time.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{GetResult, GetResultPayload, MultipartUpload, ObjectStoreExt, PutPayload};

use crate::deadline::Deadline;
use crate::extra::StoredObject;
use crate::id::Digest;
use crate::store::{Retry, ServerChecked, StoreError};
use crate::workload::Workload;

/// Bytes move in pieces of this size: large enough that a request's overhead does not count, and above the 5 MiB
/// that S3 wants of a part.
pub(crate) const CHUNK_BYTES: usize = 8 * 1024 * 1024;

/// Objects from this size on go up in parts. Source: docs/architecture, "Snapshot: the format".
const MULTIPART_FROM: u64 = 16 * 1024 * 1024;

/// So many parts of one object are on their way while the next is read: it bounds memory at three chunks an object.
const PARTS_IN_FLIGHT: usize = 2;

/// One chunk has this long to move: 2.2 Mbit/s are enough.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// A local file is read back through a buffer of this size: it stays in the processor's cache.
const HASH_BUFFER: usize = 256 * 1024;

/// So much of a local file is read back on another thread before looking whether anybody still waits for it.
const HASH_STEP: u64 = 64 * 1024 * 1024;

/// A stretch of an open file.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) file: Arc<File>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// Runs `work` on a thread that may block, and passes its panic on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime shuts down and drops whoever waits here.
        Err(_cancelled) => std::future::pending().await,
    }
}

/// Stores `bytes` at `key` and proves it. Storing the same again is harmless.
///
/// # Errors
/// [`StoreError`] when it did not work before the deadline or within the attempts.
pub(crate) async fn put_bytes(
    workload: &Workload,
    key: String,
    bytes: Vec<u8>,
    deadline: &Deadline,
) -> Result<StoredObject, StoreError> {
    let size = as_u64(bytes.len());
    let bytes = Bytes::from(bytes);
    let hashed = bytes.clone();
    let digest = blocking(move || Digest::of(&hashed)).await;
    let location = workload.locate(&key);
    let stored = StoredObject { key, size, digest };
    let payload = PutPayload::from(bytes);
    Retry::large_until(deadline)
        .run_checked("store", &location, || async {
            let put = workload.store().put(&location, payload.clone()).await;
            let put = put.map_err(|source| StoreError::new("store", &location, source))?;
            if put.extensions.get::<ServerChecked>().is_some() {
                Ok(())
            } else {
                prove(workload, &stored).await
            }
        })
        .await?;
    Ok(stored)
}

/// Stores a stretch of a file at `key` and proves that the store has the bytes that were read.
///
/// # Errors
/// [`UploadError`]
pub(crate) async fn put_stretch(
    workload: &Workload,
    key: String,
    stretch: &Stretch,
    deadline: &Deadline,
) -> Result<StoredObject, UploadError> {
    let location = workload.locate(&key);
    let read_error = std::sync::Mutex::new(None);
    let uploaded = Retry::streaming_until(deadline)
        .run_checked("store", &location, || async {
            match upload_once(workload, &key, stretch).await {
                Ok(stored) => {
                    prove(workload, &stored).await?;
                    Ok(Some(stored))
                }
                // Reading again is for the caller to decide: it knows whether the file has changed.
                Err(UploadError::Read(error)) => {
                    *read_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    Ok(None)
                }
                Err(UploadError::Store(error)) => Err(error),
            }
        })
        .await?;
    let read_error = read_error.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match (uploaded, read_error) {
        (Some(stored), _) => Ok(stored),
        (None, Some(error)) => Err(UploadError::Read(error)),
        (None, None) => Err(UploadError::Read(std::io::ErrorKind::Other.into())),
    }
}

/// Why a stretch of a file is not in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The file could not be read, or is shorter than it was.
    #[error("the file could not be read")]
    Read(#[source] std::io::Error),
    /// The store did not take it.
    #[error("the store did not take it")]
    Store(#[from] StoreError),
}

/// One attempt of [`put_stretch`], without the proof.
async fn upload_once(workload: &Workload, key: &str, stretch: &Stretch) -> Result<StoredObject, UploadError> {
    let location = workload.locate(key);
    if stretch.length < MULTIPART_FROM {
        let mut hasher = blake3::Hasher::new();
        let mut chunks = Vec::new();
        let mut done = 0;
        while done < stretch.length {
            let chunk = read_chunk(stretch, done, &mut hasher).await?;
            done += as_u64(chunk.len());
            chunks.push(chunk);
        }
        let payload = chunks.into_iter().collect::<PutPayload>();
        let put = in_time("store", &location, workload.store().put(&location, payload)).await;
        put?;
        let digest = hasher.finalize().into();
        return Ok(StoredObject { key: key.to_owned(), size: stretch.length, digest });
    }
    let mut upload = in_time("store", &location, workload.store().put_multipart(&location)).await?;
    match upload_parts(upload.as_mut(), &location, stretch).await {
        Ok(digest) => {
            in_time("store", &location, upload.complete()).await?;
            Ok(StoredObject { key: key.to_owned(), size: stretch.length, digest })
        }
        Err(error) => {
            // What is left of it costs money on some stores; not telling them is no reason to fail differently.
            let _ = in_time("abort", &location, upload.abort()).await;
            Err(error)
        }
    }
}

/// Sends all parts, the next being read while earlier ones are on their way, and returns the hash of all bytes.
async fn upload_parts(
    upload: &mut dyn MultipartUpload,
    location: &Path,
    stretch: &Stretch,
) -> Result<Digest, UploadError> {
    let mut hasher = blake3::Hasher::new();
    let mut parts = FuturesUnordered::new();
    let mut done = 0;
    while done < stretch.length {
        let chunk = {
            let reading = std::pin::pin!(read_chunk(stretch, done, &mut hasher));
            let mut reading = reading;
            loop {
                tokio::select! {
                    chunk = &mut reading => break chunk?,
                    Some(sent) = parts.next(), if !parts.is_empty() => sent?,
                }
            }
        };
        done += as_u64(chunk.len());
        while parts.len() >= PARTS_IN_FLIGHT {
            if let Some(sent) = parts.next().await {
                sent?;
            }
        }
        parts.push(in_time("store", location, upload.put_part(chunk.into())));
    }
    while let Some(sent) = parts.next().await {
        sent?;
    }
    Ok(hasher.finalize().into())
}

/// Reads the chunk that begins `done` bytes into the stretch, and hashes it.
async fn read_chunk(stretch: &Stretch, done: u64, hasher: &mut blake3::Hasher) -> Result<Bytes, UploadError> {
    let file = Arc::clone(&stretch.file);
    let length = usize::try_from(stretch.length - done).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
    let offset = stretch.offset + done;
    let mut moved = std::mem::take(hasher);
    let (read, back) = blocking(move || {
        let mut chunk = vec![0; length];
        let read = file.read_exact_at(&mut chunk, offset).map(|()| {
            moved.update(&chunk);
            Bytes::from(chunk)
        });
        (read, moved)
    })
    .await;
    *hasher = back;
    read.map_err(UploadError::Read)
}

/// Bounds one request to the store by [`CHUNK_TIMEOUT`].
async fn in_time<T>(
    operation: &'static str,
    location: &Path,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(CHUNK_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|source| StoreError::new(operation, location, source)),
        Err(_elapsed) => Err(timed_out(operation, location)),
    }
}

/// Shows that the store has `stored` as it was sent.
///
/// # Errors
/// [`StoreError::Corrupt`] when it has something else.
pub(crate) async fn prove(workload: &Workload, stored: &StoredObject) -> Result<(), StoreError> {
    let location = workload.locate(&stored.key);
    let got = in_time("read back", &location, workload.store().get(&location)).await?;
    if got.meta.size != stored.size {
        return Err(StoreError::corrupt(&location, format!("{} bytes, not {}", got.meta.size, stored.size)));
    }
    let (size, digest) = hash(&location, got).await?;
    if size == stored.size && digest == stored.digest {
        Ok(())
    } else {
        Err(StoreError::corrupt(&location, "what came back is not what was stored"))
    }
}

/// Hashes a stretch of a file through a small buffer.
fn hash_stretch(stretch: &Stretch, hasher: &mut blake3::Hasher) -> std::io::Result<()> {
    let mut buffer = vec![0; HASH_BUFFER];
    let mut done = 0;
    while done < stretch.length {
        let length = usize::try_from(stretch.length - done).map_or(HASH_BUFFER, |left| left.min(HASH_BUFFER));
        stretch.file.read_exact_at(&mut buffer[..length], stretch.offset + done)?;
        hasher.update(&buffer[..length]);
        done += as_u64(length);
    }
    Ok(())
}

/// The length and hash of what `got` gives, one chunk of it in memory at a time.
async fn hash(location: &Path, got: GetResult) -> Result<(u64, Digest), StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    match got.payload {
        // A stream over a local file would go through the runtime every 8 KiB.
        GetResultPayload::File(file, _path) => {
            let length = got.range.end - got.range.start;
            let file = Arc::new(file);
            while size < length {
                let step = (length - size).min(HASH_STEP);
                let stretch =
                    Stretch { file: Arc::clone(&file), offset: got.range.start + size, length: step };
                let mut moved = std::mem::take(&mut hasher);
                let reading = blocking(move || hash_stretch(&stretch, &mut moved).map(|()| moved));
                hasher = match tokio::time::timeout(CHUNK_TIMEOUT, reading).await {
                    Ok(Ok(back)) => back,
                    Ok(Err(source)) => {
                        let source =
                            object_store::Error::Generic { store: "directory", source: Box::new(source) };
                        return Err(StoreError::new("read back", location, source));
                    }
                    Err(_elapsed) => return Err(timed_out("read back", location)),
                };
                size += step;
            }
        }
        GetResultPayload::Stream(mut stream) => {
            // Ends with the stream, which is as long as the object.
            loop {
                let next = tokio::time::timeout(CHUNK_TIMEOUT, stream.next()).await;
                let chunk = match next {
                    Ok(Some(chunk)) => {
                        chunk.map_err(|source| StoreError::new("read back", location, source))?
                    }
                    Ok(None) => break,
                    Err(_elapsed) => return Err(timed_out("read back", location)),
                };
                size += as_u64(chunk.len());
                let mut moved = std::mem::take(&mut hasher);
                hasher = blocking(move || {
                    moved.update(&chunk);
                    moved
                })
                .await;
            }
        }
    }
    Ok((size, hasher.finalize().into()))
}

/// Reads `length` bytes of an object from `offset` on.
///
/// # Errors
/// [`StoreError`]; `Corrupt` when the store gives another number of bytes.
pub(crate) async fn get_range(
    workload: &Workload,
    object: &StoredObject,
    offset: u64,
    length: u64,
) -> Result<Bytes, StoreError> {
    let location = workload.locate(&object.key);
    let bytes =
        in_time("read", &location, workload.store().get_range(&location, offset..offset + length)).await?;
    if as_u64(bytes.len()) == length {
        Ok(bytes)
    } else {
        Err(StoreError::corrupt(&location, format!("{} bytes came, not {length}", bytes.len())))
    }
}

fn timed_out(operation: &'static str, location: &Path) -> StoreError {
    let waited_ms = u64::try_from(CHUNK_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    StoreError::TimedOut { operation, key: location.to_string(), waited_ms }
}

/// A length in memory as a length in a file.
pub(crate) fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

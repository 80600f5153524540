//! Moves bytes between memory and the store, and proves that they arrived.
//!
//! "Proven" is decided in one place, [`put`]: the server has compared the checksum that was sent with the bytes and
//! said so, or they are read back and compared, which is what a directory and a store in memory need.

use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectStoreExt, PutPayload};

use crate::buffer::Buffer;
use crate::deadline::Deadline;
use crate::store::{Retry, ServerChecked, StoreError};
use crate::workload::Workload;

/// One piece of an answer has this long to come.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// A local file is read back through a buffer of this size: it stays in the processor's cache.
const COMPARE_BUFFER: usize = 256 * 1024;

/// Runs `work` on a thread that may block, and passes its panic on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime shuts down and drops whoever waits here.
        Err(_cancelled) => std::future::pending().await,
    }
}

/// As [`blocking`], on a thread of its own that takes what processor and disk time others leave.
pub(crate) async fn blocking_nicely<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    nicely_on(std::thread::Builder::new().name("background".to_owned()), work).await
}

async fn nicely_on<T: Send + 'static>(
    builder: std::thread::Builder,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Kept here too, for when there is no thread.
    let work = Arc::new(Mutex::new(Some(work)));
    let handed = Arc::clone(&work);
    let niced = move || {
        let Some(work) = take(&handed) else { return };
        // Linux: of this thread alone, and its share of the disk follows. Without the right nothing is lost.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 19);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let _ = sender.send(done); // nobody waits any more
    };
    if let Err(error) = builder.spawn(niced) {
        tracing::warn!(%error, "no thread for work in the background: it takes one of the others");
        if let Some(work) = take(&work) {
            return blocking(work).await;
        }
    }
    match receiver.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => unreachable!("the thread sends before it ends"),
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Stores `bytes` at `key` and proves it. Storing the same again is harmless. Returns how often it was tried.
///
/// # Errors
/// [`StoreError`] when it did not work before the deadline or within the attempts.
pub(crate) async fn put(
    workload: &Workload,
    key: &str,
    bytes: &Bytes,
    deadline: &Deadline,
) -> Result<u32, StoreError> {
    let location = workload.locate(key);
    let payload = PutPayload::from(bytes.clone());
    let mut attempts = 0;
    Retry::large_until(deadline)
        .run_checked("store", &location, || {
            attempts += 1;
            let (location, payload) = (&location, payload.clone());
            async move {
                let put = workload.store().put(location, payload).await;
                let put = put.map_err(|source| StoreError::new("store", location, source))?;
                if put.extensions.get::<ServerChecked>().is_some() {
                    Ok(())
                } else {
                    compare(workload, location, bytes).await
                }
            }
        })
        .await?;
    Ok(attempts)
}

/// Reads what lies at `location` and compares it with `bytes`.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is something else.
pub(crate) async fn compare(workload: &Workload, location: &Path, bytes: &Bytes) -> Result<(), StoreError> {
    let failed = |source| StoreError::new("read back", location, source);
    let got = in_time("read back", location, workload.store().get(location)).await?;
    let expected = as_u64(bytes.len());
    if got.meta.size != expected {
        return Err(StoreError::corrupt(location, format!("{} bytes, not {expected}", got.meta.size)));
    }
    // A stream over a local file would go through the runtime every 8 KiB.
    let got = match got.payload {
        GetResultPayload::File(file, _) => {
            let bytes = bytes.clone();
            let same = tokio::time::timeout(CHUNK_TIMEOUT, blocking(move || is_same(&file, &bytes))).await;
            return match same {
                Ok(Ok(true)) => Ok(()),
                Ok(Ok(false)) => Err(StoreError::corrupt(location, "what came back is not what was stored")),
                Ok(Err(source)) => Err(failed(local(source))),
                Err(_elapsed) => Err(timed_out("read back", location)),
            };
        }
        GetResultPayload::Stream(_) => got,
    };
    let mut stream = got.into_stream();
    let mut rest = bytes.as_ref();
    // Ends with the stream, which is as long as the object.
    loop {
        let next = tokio::time::timeout(CHUNK_TIMEOUT, stream.next()).await;
        let chunk = match next {
            Ok(Some(chunk)) => chunk.map_err(failed)?,
            Ok(None) => break,
            Err(_elapsed) => return Err(timed_out("read back", location)),
        };
        match rest.split_at_checked(chunk.len()) {
            Some((here, after)) if here == chunk => rest = after,
            Some(_) | None => {
                return Err(StoreError::corrupt(location, "what came back is not what was stored"));
            }
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(StoreError::corrupt(location, "it came back cut short")) }
}

fn local(source: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "directory", source: Box::new(source) }
}

/// Whether a file has exactly these bytes.
fn is_same(file: &File, bytes: &[u8]) -> std::io::Result<bool> {
    let mut piece = vec![0; COMPARE_BUFFER.min(bytes.len())];
    let mut offset = 0;
    for expected in bytes.chunks(COMPARE_BUFFER) {
        let here = &mut piece[..expected.len()];
        file.read_exact_at(here, offset)?;
        if here != expected {
            return Ok(false);
        }
        offset += as_u64(expected.len());
    }
    Ok(true)
}

/// Reads `length` bytes of an object from `offset` on into the beginning of `buffer`.
///
/// # Errors
/// [`StoreError`]; `Corrupt` when the store gives another number of bytes.
pub(crate) async fn get_into(
    workload: &Workload,
    key: &str,
    (offset, length): (u64, u64),
    mut buffer: Buffer,
) -> Result<Buffer, StoreError> {
    let location = workload.locate(key);
    let failed = |source| StoreError::new("read", &location, source);
    let wrong = |came: u64| StoreError::corrupt(&location, format!("{came} bytes came, not {length}"));
    let range = object_store::GetRange::Bounded(offset..offset + length);
    let options = GetOptions { range: Some(range), ..GetOptions::default() };
    let got = in_time("read", &location, workload.store().get_opts(&location, options)).await?;
    if got.range != (offset..offset + length) {
        return Err(wrong(got.range.end.saturating_sub(got.range.start)));
    }
    let got = match got.payload {
        GetResultPayload::File(file, _) => {
            let reading = blocking(move || {
                let room = &mut buffer.bytes_mut()[..as_usize(length)];
                file.read_exact_at(room, offset).map(|()| buffer)
            });
            return match tokio::time::timeout(CHUNK_TIMEOUT, reading).await {
                Ok(read) => read.map_err(|source| failed(local(source))),
                Err(_elapsed) => Err(timed_out("read", &location)),
            };
        }
        GetResultPayload::Stream(_) => got,
    };
    let mut stream = got.into_stream();
    let mut done = 0;
    // Ends with the stream.
    loop {
        let chunk = match tokio::time::timeout(CHUNK_TIMEOUT, stream.next()).await {
            Ok(Some(chunk)) => chunk.map_err(failed)?,
            Ok(None) => break,
            Err(_elapsed) => return Err(timed_out("read", &location)),
        };
        let end = done + chunk.len();
        let room = buffer.bytes_mut()[..as_usize(length)].get_mut(done..end);
        room.ok_or_else(|| wrong(as_u64(end)))?.copy_from_slice(&chunk);
        done = end;
    }
    if as_u64(done) == length { Ok(buffer) } else { Err(wrong(as_u64(done))) }
}

/// Bounds one request to the store by [`CHUNK_TIMEOUT`].
pub(crate) async fn in_time<T>(
    operation: &'static str,
    location: &Path,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(CHUNK_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|source| StoreError::new(operation, location, source)),
        Err(_elapsed) => Err(timed_out(operation, location)),
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

/// A length that fits into memory; the longest there is for one that does not.
pub(crate) fn as_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_in_the_background_is_done_even_where_there_is_no_thread_for_it() {
        let impossible = std::thread::Builder::new().stack_size(1 << 60);
        assert_eq!(nicely_on(impossible, || 7).await, 7);
        assert_eq!(blocking_nicely(|| 8).await, 8);
    }
}

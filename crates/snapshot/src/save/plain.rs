//! The layout `plain`: each file as an object of its own, under its own name.
//!
//! It shares nothing with the packs but the order, the pace and the manifest. A large file goes up as one multipart
//! upload and is read back block by block, because no server proves a whole one; it begins anew when it fails.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::assemble::{Plan, StoredFile};
use super::pace::Flow;
use super::queue::{PACKED_FILE_BYTES_MAX, by_worth};
use super::run::{Gathered, REFUSALS_MAX, refused};
use super::{Reserve, SaveOptions};
use crate::blocks::{self, Blocks};
use crate::buffer::Pool;
use crate::deadline::Deadline;
use crate::dirs::Dirs;
use crate::known::Piece;
use crate::manifest::{DataObject, Header, LeftOutReason};
use crate::path::EntryPath;
use crate::plain;
use crate::progress::Progress;
use crate::read::{Failure, READ_ATTEMPTS, Version, open_settled, read_whole};
use crate::scan::Found;
use crate::store::StoreError;
use crate::transfer::{self, as_u64, as_usize, blocking, blocking_nicely, get_into};
use crate::workload::Workload;

/// One part of a multipart upload: whole blocks of every size, and more than the 5 MiB that S3 asks for.
const PART_BYTES: u64 = 8 * 1024 * 1024;

/// Source: S3 user guide, "Multipart upload limits": at most 10,000 parts. What has more goes as blocks.
const PARTS_MAX: u64 = 8_000;

/// So many parts of one file are on their way, each with its buffer; one large file at a time.
const PARTS_AT_ONCE: usize = 3;

/// One part, or the end of an upload, has this long; the whole begins anew then.
const PART_TIMEOUT: Duration = Duration::from_secs(60);

/// What all files of one save share.
#[derive(Debug)]
struct Shared {
    workload: Workload,
    found: Arc<Vec<Found>>,
    dirs: Dirs,
    pool: Arc<Pool>,
    deadline: Deadline,
    progress: Arc<dyn Progress>,
    is_nice: bool,
    large: Semaphore,
}

/// What came of one file.
struct Done {
    index: usize,
    result: Result<StoredFile, Failure>,
    /// The bytes that were sent, for how long, in how many attempts.
    sent: Option<(u64, Duration, u32)>,
}

/// The key of each file of `plan` that can be one; the others go as they always do.
pub(super) fn keys(plan: &Plan, folder: &str, key_bytes_max: usize) -> Vec<(usize, String)> {
    let is_possible = |found: &Found| found.size().is_some_and(|size| size <= PART_BYTES * PARTS_MAX);
    plan.reading
        .iter()
        .filter(|index| is_possible(&plan.found[**index]))
        .filter_map(|index| Some((*index, plain::key(folder, &plan.found[*index].path, key_bytes_max)?)))
        .collect()
}

/// Stores the files of `keys`, until all is done or the time is.
pub(super) async fn run(
    workload: &Workload,
    header: &Header,
    (plan, dirs): (&Plan, &Dirs),
    (options, keys): (&SaveOptions, Vec<(usize, String)>),
    reserve: &Arc<Reserve>,
) -> Gathered {
    tracing::debug!(claim = %header.claim, files = keys.len(), "storing files under their own names");
    let shared = Arc::new(Shared {
        workload: workload.clone(),
        found: Arc::clone(&plan.found),
        dirs: dirs.fresh(),
        pool: Pool::new(),
        deadline: options.deadline.clone(),
        progress: Arc::clone(&options.progress),
        is_nice: options.pace.is_nice,
        large: Semaphore::new(1),
    });
    let mut waiting = keys;
    waiting.sort_by(|a, b| by_worth(&plan.found[a.0], &plan.found[b.0], &options.priorities));
    let mut gathered = Gathered::default();
    let mut flow = Flow::new(options.pace);
    tokio::select! {
        biased;
        () = reserve.reached(&options.deadline) => {}
        () = drive(&shared, waiting.into(), &mut flow, &mut gathered) => {}
    }
    gathered
}

async fn drive(
    shared: &Arc<Shared>,
    mut waiting: VecDeque<(usize, String)>,
    flow: &mut Flow,
    gathered: &mut Gathered,
) {
    // Dropped with this future, which ends all that is on its way.
    let mut running = JoinSet::new();
    let mut refusals = 0;
    // Each round ends one file.
    loop {
        while running.len() < flow.limit()
            && refusals < REFUSALS_MAX
            && let Some((index, key)) = waiting.pop_front()
        {
            let (start, shared) = (flow.start(), Arc::clone(shared));
            running.spawn(async move {
                if let Some(start) = start {
                    tokio::time::sleep_until(start).await;
                }
                shared.store(index, key).await
            });
        }
        let done = match running.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) => continue,
            None => break,
        };
        if let Some((bytes, time, attempts)) = done.sent {
            flow.sent(bytes, time, attempts);
            gathered.sent_bytes += bytes;
            refusals = 0;
        }
        match done.result {
            Ok(stored) => drop(gathered.stored.insert(done.index, stored)),
            Err(failure) => {
                refusals += u32::from(failure.reason == LeftOutReason::StoreRefused);
                gathered.failed.insert(done.index, failure);
            }
        }
    }
    let message = format!("not tried after the store refused {REFUSALS_MAX} objects in a row");
    for (index, _) in waiting {
        let failure = Failure { reason: LeftOutReason::StoreRefused, message: message.clone() };
        gathered.failed.insert(index, failure);
    }
}

impl Shared {
    async fn build<T: Send + 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        let this = Arc::clone(self);
        let work = move || work(&this);
        if self.is_nice { blocking_nicely(work).await } else { blocking(work).await }
    }

    async fn store(self: Arc<Self>, index: usize, key: String) -> Done {
        let small = self.build(move |this| this.read_small(index)).await;
        match small {
            Ok(Some((bytes, stored))) => self.put(index, key, bytes, stored).await,
            Ok(None) => {
                let _one = self.large.acquire().await;
                Arc::clone(&self).store_large(index, &key).await
            }
            Err(failure) => Done { index, result: Err(failure), sent: None },
        }
    }

    /// A small file whole; `None` for one that is large, or has become so.
    fn read_small(&self, index: usize) -> Result<Option<(Bytes, StoredFile)>, Failure> {
        let found = &self.found[index];
        // One that grows a little still finds room.
        let room = found.size().unwrap_or(0).saturating_add(64 * 1024).min(PACKED_FILE_BYTES_MAX);
        let mut buffer = vec![0; as_usize(room)];
        let read = read_whole(&mut self.dirs.fresh(), &found.path, &mut buffer, PACKED_FILE_BYTES_MAX)?;
        let Ok(whole) = read else { return Ok(None) };
        buffer.truncate(as_usize(whole.version.size));
        let (version, digest) = (whole.version, whole.digest);
        Ok(Some((buffer.into(), StoredFile { version, digest, extents: Vec::new(), blocks: None })))
    }

    /// A file without bytes is in the manifest alone.
    async fn put(&self, index: usize, key: String, bytes: Bytes, mut stored: StoredFile) -> Done {
        let size = as_u64(bytes.len());
        if size == 0 {
            self.progress.advanced(1, 0);
            return Done { index, result: Ok(stored), sent: None };
        }
        let start = Instant::now();
        match transfer::put(&self.workload, &key, &bytes, &self.deadline).await {
            Ok(attempts) => {
                stored.extents = vec![(Some(piece(key, size)), size)];
                self.progress.advanced(1, size);
                Done { index, result: Ok(stored), sent: Some((size, start.elapsed(), attempts)) }
            }
            Err(error) => Done { index, result: Err(refused(&error)), sent: None },
        }
    }

    async fn store_large(self: Arc<Self>, index: usize, key: &str) -> Done {
        let path = self.found[index].path.clone();
        let start = Instant::now();
        let mut last = Failure::changed();
        for attempt in 1..=READ_ATTEMPTS {
            match self.upload(&path, key).await {
                Ok(Some(stored)) => {
                    let size = stored.version.size;
                    self.progress.advanced(1, size);
                    return Done { index, result: Ok(stored), sent: Some((size, start.elapsed(), attempt)) };
                }
                Ok(None) => last = Failure::changed(),
                Err(failure) => last = failure,
            }
        }
        Done { index, result: Err(last), sent: None }
    }

    /// One attempt; `None` when the file changed meanwhile.
    async fn upload(self: &Arc<Self>, path: &EntryPath, key: &str) -> Result<Option<StoredFile>, Failure> {
        let opening = path.clone();
        let opened = self.build(move |this| open_settled(&mut this.dirs.fresh(), &opening)).await;
        let (file, version) = opened?;
        if version.size <= PACKED_FILE_BYTES_MAX || version.size > PART_BYTES * PARTS_MAX {
            return Ok(None); // it has become another file altogether
        }
        let file = Arc::new(file);
        let log2 = blocks::log2_for(version.size, None);
        let location = self.workload.locate(key);
        let sent = self.send(&file, (version.size, log2), &location).await?;
        let Some(nodes) = sent else { return Ok(None) };
        let blocks = Blocks { log2, nodes };
        let Some(digest) = blocks::whole(&blocks, version.size) else { return Ok(None) };
        let (looking, expected) = (Arc::clone(&file), blocks.clone());
        let is_whole = self.build(move |_| still_holds(&looking, &version, &expected)).await?;
        if !is_whole {
            return Ok(None);
        }
        self.read_back(key, &blocks, version.size).await.map_err(|error| refused(&error))?;
        let extents = vec![(Some(piece(key.to_owned(), version.size)), version.size)];
        Ok(Some(StoredFile { version, digest, extents, blocks: Some(blocks) }))
    }

    /// Sends all parts, and returns the nodes of all blocks; `None` when the file has become shorter.
    async fn send(
        self: &Arc<Self>,
        file: &Arc<File>,
        (size, log2): (u64, u32),
        location: &Path,
    ) -> Result<Option<Vec<crate::id::Digest>>, Failure> {
        let store = self.workload.store();
        let failed = |error| refused(&StoreError::new("store", location, error));
        let late = |_| Failure {
            reason: LeftOutReason::StoreRefused,
            message: format!("the store did not answer within {} s", PART_TIMEOUT.as_secs()),
        };
        let begun = timeout(PART_TIMEOUT, store.put_multipart(location)).await.map_err(late)?;
        let mut upload = Abandoned(Some(begun.map_err(failed)?));
        let mut nodes = Vec::with_capacity(as_usize(blocks::count(size, log2)));
        let mut sending = FuturesUnordered::new();
        let mut at = 0;
        while at < size {
            let length = PART_BYTES.min(size - at);
            let reading = Arc::clone(file);
            let read = self.build(move |_| read_part(&reading, (at, length), log2)).await;
            let (bytes, new) = match read {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            nodes.extend(new);
            while sending.len() >= PARTS_AT_ONCE
                && let Some(sent) = sending.next().await
            {
                let sent: Result<object_store::Result<()>, tokio::time::error::Elapsed> = sent;
                sent.map_err(late)?.map_err(failed)?;
            }
            if let Some(upload) = &mut upload.0 {
                sending.push(timeout(PART_TIMEOUT, upload.put_part(PutPayload::from(bytes))));
            }
            at += length;
        }
        while let Some(sent) = sending.next().await {
            sent.map_err(late)?.map_err(failed)?;
        }
        if let Some(mut whole) = upload.0.take() {
            timeout(PART_TIMEOUT, whole.complete()).await.map_err(late)?.map_err(failed)?;
        }
        Ok(Some(nodes))
    }

    /// Reads an object back and compares each block.
    async fn read_back(&self, key: &str, blocks: &Blocks, size: u64) -> Result<(), StoreError> {
        let location = self.workload.locate(key);
        let mut at = 0;
        let mut nodes = blocks.nodes.iter();
        while at < size {
            let length = PART_BYTES.min(size - at);
            let memory = |source| {
                let source = object_store::Error::Generic { store: "memory", source: Box::new(source) };
                StoreError::new("read back", &location, source)
            };
            let buffer = self.pool.take().map_err(memory)?;
            let got = get_into(&self.workload, key, (at, length), buffer).await?;
            let log2 = blocks.log2;
            let found = blocking(move || nodes_of(&got.bytes()[..as_usize(length)], at, log2)).await;
            if !found.iter().all(|node| nodes.next() == Some(node)) {
                return Err(StoreError::corrupt(&location, "what came back is not what was stored"));
            }
            at += length;
        }
        Ok(())
    }
}

/// An upload that is given up when it is dropped before its end, so that its parts are not kept and billed.
struct Abandoned(Option<Box<dyn MultipartUpload>>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        let Some(mut upload) = self.0.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if !matches!(timeout(PART_TIMEOUT, upload.abort()).await, Ok(Ok(()))) {
                tracing::debug!(
                    "parts of a broken-off upload stay until the bucket's life-cycle rule takes them"
                );
            }
        });
    }
}

fn piece(key: String, size: u64) -> Piece {
    Piece { object: Arc::new(DataObject { key, size, raw: None }), offset: 0, length: size }
}

/// A part of a file, with the nodes of its blocks.
fn read_part(
    file: &File,
    (at, length): (u64, u64),
    log2: u32,
) -> io::Result<(Bytes, Vec<crate::id::Digest>)> {
    let mut bytes = vec![0; as_usize(length)];
    file.read_exact_at(&mut bytes, at)?;
    let nodes = nodes_of(&bytes, at, log2);
    Ok((bytes.into(), nodes))
}

fn nodes_of(bytes: &[u8], at: u64, log2: u32) -> Vec<crate::id::Digest> {
    let offsets = (0..).map(|number: u64| at + (number << log2));
    bytes.chunks(1 << log2).zip(offsets).map(|(block, offset)| blocks::node(block, offset)).collect()
}

/// Whether a file still begins with what was read: it did not change, or has only grown.
fn still_holds(file: &File, before: &Version, expected: &Blocks) -> io::Result<bool> {
    let after = Version::of(file)?;
    if after == *before {
        return Ok(true);
    }
    if !before.may_have_grown_to(&after) {
        return Ok(false);
    }
    let mut at = 0;
    let mut nodes = expected.nodes.iter();
    while at < before.size {
        let length = PART_BYTES.min(before.size - at);
        let (_, found) = read_part(file, (at, length), expected.log2)?;
        if !found.iter().all(|node| nodes.next() == Some(node)) {
            return Ok(false);
        }
        at += length;
    }
    Ok(true)
}

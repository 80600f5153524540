//! Carries a save out: takes job after job from the queue, several at once, and gathers what came of them.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::ObjectStoreExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::assemble::{Plan, StoredFile};
use super::build::{Builder, Content, Place};
use super::large::Large;
use super::pace::Flow;
use super::queue::{Job, Queue};
use super::{PriorityRule, Reserve, SaveOptions};
use crate::blocks;
use crate::buffer::Pool;
use crate::claim::ClaimId;
use crate::deadline::Deadline;
use crate::dirs::Dirs;
use crate::known::{Known, Logged, Piece, UploadLog};
use crate::manifest::{DataObject, EntryKind, Header, LeftOutReason};
use crate::progress::Progress;
use crate::read::{Failure, READ_ATTEMPTS, open_settled};
use crate::scan::Found;
use crate::store::{Retry, StoreError};
use crate::transfer::{self, as_u64, blocking, blocking_nicely};
use crate::workload::Workload;

/// After so many objects in a row that the store did not take, the rest is not tried: each had all its retries.
pub(super) const REFUSALS_MAX: u32 = 4;

/// So many objects are read, hashed and compressed at once: beyond four, a link is slower.
const BUILDS_MAX: usize = 4;

/// So many objects of a save that was broken off are taken over at once: each is a copy inside the store.
const ADOPTIONS: usize = 16;

/// What a save has come to.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) stored: HashMap<usize, StoredFile>,
    pub(super) failed: HashMap<usize, Failure>,
    pub(super) sent_bytes: u64,
}

impl Gathered {
    /// Adds what another loop has gathered of other files.
    pub(super) fn add(&mut self, other: Self) {
        self.stored.extend(other.stored);
        self.failed.extend(other.failed);
        self.sent_bytes += other.sent_bytes;
    }
}

/// What all jobs of one save share.
#[derive(Debug)]
struct Shared {
    workload: Workload,
    builder: Builder,
    claim: ClaimId,
    /// What keys begin with; the save's own nonce keeps the objects of two saves under one claim apart.
    prefix: String,
    deadline: Deadline,
    progress: Arc<dyn Progress>,
    log: Option<Arc<UploadLog>>,
    log2_before: HashMap<usize, u32>,
    is_nice: bool,
    builds: Semaphore,
    number: AtomicU64,
    reserve: Arc<Reserve>,
}

/// What came of a job.
enum Done {
    Pack {
        stored: Vec<(usize, StoredFile)>,
        failed: Vec<(usize, Failure)>,
        left: Vec<(usize, u64)>,
        sent: Sent,
    },
    Opened(Arc<Large>),
    /// Some blocks are stored, perhaps the last that were missing.
    Chunk {
        whole: Option<(usize, StoredFile)>,
        sent: Sent,
    },
    /// A large file is not what it was.
    Changed {
        index: usize,
        attempt: u32,
    },
    Failed {
        index: usize,
        failure: Failure,
        is_refusal: bool,
    },
}

/// An object that went up.
#[derive(Debug, Default)]
struct Sent {
    object: Option<Arc<DataObject>>,
    /// When it was sent: the bytes, for how long, in how many attempts.
    flow: Option<(u64, Duration, u32)>,
    is_refused: bool,
}

/// Stores everything that `plan` wants read, until all is done or the time is.
pub(super) async fn run(
    workload: &Workload,
    header: &Header,
    plan: &Plan,
    dirs: Dirs,
    (options, known): (&SaveOptions, Known),
    reserve: &Arc<Reserve>,
) -> Gathered {
    let builds = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(BUILDS_MAX);
    let shared = Arc::new(Shared {
        workload: workload.clone(),
        claim: header.claim,
        builder: Builder {
            found: Arc::clone(&plan.found),
            dirs,
            known,
            pool: Pool::new(),
            compresses: options.compresses,
        },
        prefix: format!("data/{}/{}", header.claim.folder(), header.save),
        deadline: options.deadline.clone(),
        progress: Arc::clone(&options.progress),
        log: options.log.clone(),
        log2_before: plan.log2_before(options.base.as_ref()),
        is_nice: options.pace.is_nice,
        builds: Semaphore::new(if options.pace.is_nice { 1 } else { builds }),
        number: AtomicU64::new(0),
        reserve: Arc::clone(reserve),
    });
    let mut queue = Queue::new(&plan.found, &plan.reading, &options.priorities);
    if !options.pace.is_nice {
        queue.share_out(as_u64(builds));
    }
    let mut driver = Loop {
        queue,
        rules: &options.priorities,
        flow: Flow::new(options.pace),
        gathered: Gathered::default(),
        refusals: 0,
    };
    tokio::select! {
        biased;
        () = reserve.reached(&options.deadline) => {}
        () = async {
            shared.adopt().await;
            driver.drive(&shared).await;
        } => {}
    }
    driver.gathered
}

/// The state that only the driving task sees.
struct Loop<'a> {
    queue: Queue,
    rules: &'a [PriorityRule],
    flow: Flow,
    gathered: Gathered,
    refusals: u32,
}

impl Loop<'_> {
    async fn drive(&mut self, shared: &Arc<Shared>) {
        // Dropped with this future, which ends all that is on its way.
        let mut running = JoinSet::new();
        // Each round ends one job.
        loop {
            while running.len() < self.flow.limit() && self.refusals < REFUSALS_MAX {
                let left = shared
                    .deadline
                    .current()
                    .map(|end| shared.reserve.before(end).saturating_duration_since(Instant::now()));
                let Some(target) = self.flow.target(left) else { break };
                let Some(job) = self.queue.next(target) else { break };
                let start = self.flow.start();
                let shared = Arc::clone(shared);
                running.spawn(async move {
                    if let Some(start) = start {
                        tokio::time::sleep_until(start).await;
                    }
                    shared.carry_out(job).await
                });
            }
            match running.join_next().await {
                Some(Ok(done)) => self.take_in(done, &shared.builder.found),
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_)) => {}
                None => break,
            }
        }
        if self.refusals >= REFUSALS_MAX {
            let message = format!("not tried after the store refused {REFUSALS_MAX} objects in a row");
            while let Some(job) = self.queue.next(u64::MAX) {
                let failure = || Failure { reason: LeftOutReason::StoreRefused, message: message.clone() };
                match job {
                    Job::Pack(members) => members.into_iter().for_each(|index| {
                        self.gathered.failed.insert(index, failure());
                    }),
                    Job::Open { index, .. } => {
                        self.gathered.failed.insert(index, failure());
                    }
                    Job::Chunk { large, .. } => {
                        self.gathered.failed.entry(large.index()).or_insert_with(failure);
                    }
                }
            }
        }
    }

    fn take_in(&mut self, done: Done, found: &[Found]) {
        match done {
            Done::Pack { stored, failed, left, sent } => {
                self.gathered.stored.extend(stored);
                self.gathered.failed.extend(failed);
                for (index, size) in left {
                    self.queue.put_back(&found[index], index, size, self.rules);
                }
                self.count(&sent);
            }
            Done::Opened(large) => self.queue.opened(large),
            Done::Chunk { whole, sent } => {
                self.gathered.stored.extend(whole);
                self.count(&sent);
            }
            Done::Changed { index, attempt } => {
                self.queue.drop_open(index);
                if attempt + 1 < READ_ATTEMPTS {
                    self.queue.open_again(index, attempt + 1);
                } else {
                    self.gathered.failed.insert(index, Failure::changed());
                }
            }
            Done::Failed { index, failure, is_refusal } => {
                self.queue.drop_open(index);
                self.gathered.failed.entry(index).or_insert(failure);
                if is_refusal {
                    self.refusals += 1;
                }
            }
        }
    }

    fn count(&mut self, sent: &Sent) {
        if let Some((bytes, time, attempts)) = sent.flow {
            self.flow.sent(bytes, time, attempts);
            self.gathered.sent_bytes += bytes;
            self.refusals = 0;
        } else if sent.is_refused {
            self.refusals += 1;
        }
    }
}

impl Shared {
    async fn carry_out(self: Arc<Self>, job: Job) -> Done {
        match job {
            Job::Pack(members) => self.pack(members).await,
            Job::Open { index, attempt } => self.open(index, attempt).await,
            Job::Chunk { large, first, count } => self.chunk(large, first, count).await,
        }
    }

    /// Runs `work` where it belongs by the pace, not too many at once.
    async fn build<T: Send + 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        let _permit = self.builds.acquire().await;
        let this = Arc::clone(self);
        let work = move || work(&this);
        if self.is_nice { blocking_nicely(work).await } else { blocking(work).await }
    }

    async fn pack(self: Arc<Self>, members: Vec<usize>) -> Done {
        let all = members.clone();
        let mut pack = match self.build(move |this| this.builder.pack(&members)).await {
            Ok(pack) => pack,
            Err(error) => {
                let failure = Failure::from(error);
                let failed = all.into_iter().map(|index| (index, failure.clone())).collect();
                return Done::Pack { stored: Vec::new(), failed, left: Vec::new(), sent: Sent::default() };
            }
        };
        let mut failed = std::mem::take(&mut pack.failed);
        let (sent, refused) = self.send(pack.content, "pack").await;
        let mut stored = Vec::with_capacity(pack.files.len());
        let mut bytes = 0;
        for small in pack.files {
            let size = small.version.size;
            match (locate(&small.place, size, sent.object.as_ref()), &refused) {
                (Some(extents), _) => {
                    bytes += size;
                    let (version, digest) = (small.version, small.digest);
                    stored.push((small.index, StoredFile { version, digest, extents, blocks: None }));
                }
                (None, Some(failure)) => failed.push((small.index, failure.clone())),
                (None, None) => unreachable!("what is not known and not refused is in the object"),
            }
        }
        self.progress.advanced(as_u64(stored.len()), bytes);
        Done::Pack { stored, failed, left: pack.left, sent }
    }

    async fn open(self: Arc<Self>, index: usize, attempt: u32) -> Done {
        let opened = self
            .build(move |this| open_settled(&mut this.builder.dirs.fresh(), &this.builder.found[index].path))
            .await;
        match opened {
            Ok((file, version)) if version.size <= 1 << blocks::BLOCK_LOG2_MIN => {
                // It has become small: too small for blocks.
                drop(file);
                self.pack_again(index, attempt).await
            }
            Ok((file, version)) => {
                let log2 = self.log2_before.get(&index).copied();
                let large = Large::new((index, attempt), file, version, log2);
                if large.count() > blocks::BLOCKS_MAX {
                    let message = format!("{} bytes are more than one entry can describe", version.size);
                    let failure = Failure { reason: LeftOutReason::BeyondLimits, message };
                    return Done::Failed { index, failure, is_refusal: false };
                }
                Done::Opened(large)
            }
            Err(error) => Done::Failed { index, failure: error.into(), is_refusal: false },
        }
    }

    async fn pack_again(self: Arc<Self>, index: usize, attempt: u32) -> Done {
        match self.pack(vec![index]).await {
            Done::Pack { left, .. } if !left.is_empty() => Done::Changed { index, attempt },
            done => done,
        }
    }

    async fn chunk(self: Arc<Self>, large: Arc<Large>, first: usize, count: usize) -> Done {
        let index = large.index();
        let reading = Arc::clone(&large);
        let built = self.build(move |this| this.builder.chunk(&reading, (first, count))).await;
        let (content, mut blocks) = match built {
            Ok(built) => built,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Done::Changed { index, attempt: large.attempt };
            }
            Err(error) => return Done::Failed { index, failure: error.into(), is_refusal: false },
        };
        let (sent, refused) = self.send(content, "bin").await;
        if let Some(failure) = refused {
            return Done::Failed { index, failure, is_refusal: true };
        }
        let mut bytes = 0;
        for (number, block) in (first..).zip(&mut blocks) {
            let (_, length) = large.stretch(number);
            bytes += as_u64(length);
            if let (Place::Here(offset), Some(object)) = (&block.place, &sent.object) {
                let piece = Piece { object: Arc::clone(object), offset: *offset, length: as_u64(length) };
                block.place = Place::Known(piece);
            }
        }
        self.progress.advanced(0, bytes);
        if !large.put(first, blocks) {
            return Done::Chunk { whole: None, sent };
        }
        let checked = Arc::clone(&large);
        match self.build(move |this| this.builder.still_holds(&checked)).await {
            Ok(true) => {}
            Ok(false) => return Done::Changed { index, attempt: large.attempt },
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Done::Changed { index, attempt: large.attempt };
            }
            Err(error) => return Done::Failed { index, failure: error.into(), is_refusal: false },
        }
        self.progress.advanced(1, 0);
        Done::Chunk { whole: large.finished().and_then(|done| whole_file(&large, done)), sent }
    }

    /// Stores the content of one object, notes it, and makes it known. With it the reason why it was refused.
    async fn send(&self, content: Content, kind: &str) -> (Sent, Option<Failure>) {
        let Content { bytes, raw, pieces } = content;
        if bytes.is_empty() {
            return (Sent::default(), None);
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let kind = if raw.is_some() { "zst" } else { kind };
        let key = format!("{}-{number:06}.{kind}", self.prefix);
        let size = as_u64(bytes.len());
        let start = Instant::now();
        match transfer::put(&self.workload, &key, &bytes, &self.deadline).await {
            Ok(attempts) => {
                drop(bytes);
                let object = Arc::new(DataObject { key, size, raw });
                if let Some(log) = &self.log {
                    log.add(Logged { claim: self.claim, object: (*object).clone(), pieces: pieces.clone() });
                }
                self.learn(&object, &pieces);
                let time = start.elapsed();
                if attempts == 1 {
                    self.reserve.learn(time);
                }
                let flow = Some((size, time, attempts));
                (Sent { object: Some(object), flow, is_refused: false }, None)
            }
            Err(error) => (Sent { is_refused: true, ..Sent::default() }, Some(refused(&error))),
        }
    }

    fn learn(&self, object: &Arc<DataObject>, pieces: &[(crate::id::Digest, u64, u64)]) {
        self.builder.known.add(object, pieces);
    }

    /// Makes known what saves before this one have stored without a commit. Objects of another claim are copied
    /// under this one, inside the store: whoever prunes may delete what belongs to an older claim and is in no manifest.
    async fn adopt(&self) {
        let Some(log) = &self.log else { return };
        let logged = log.objects();
        if logged.iter().all(|one| one.claim == self.claim) {
            for one in logged {
                self.learn(&Arc::new(one.object), &one.pieces);
            }
            return;
        }
        let wanted = logged.into_iter().filter(|one| {
            let mut pieces = one.pieces.iter();
            pieces.any(|(digest, _, length)| self.builder.known.find(digest, *length).is_none())
        });
        let mut wanted = wanted.collect::<Vec<_>>().into_iter();
        let mut copying = FuturesUnordered::new();
        let mut copied = Vec::new();
        loop {
            while copying.len() < ADOPTIONS
                && let Some(one) = wanted.next()
            {
                copying.push(self.take_over(one));
            }
            match copying.next().await {
                Some(Ok(one)) => copied.push(one),
                Some(Err(error)) => tracing::debug!(%error, "what was uploaded before is not there any more"),
                None => break,
            }
        }
        log.clear();
        let count = copied.len();
        for one in copied {
            log.add(one.clone());
            self.learn(&Arc::new(one.object), &one.pieces);
        }
        tracing::info!(objects = count, "going on with what was uploaded before");
    }

    async fn take_over(&self, logged: Logged) -> Result<Logged, StoreError> {
        if logged.claim == self.claim {
            return Ok(logged);
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let kind = if logged.object.raw.is_some() { "zst" } else { "bin" };
        let key = format!("{}-{number:06}.{kind}", self.prefix);
        let (from, to) = (self.workload.locate(&logged.object.key), self.workload.locate(&key));
        let store = self.workload.store();
        let retry = Retry::small();
        retry.run("copy", &to, || store.copy(&from, &to)).await?;
        let meta = retry.run("look at", &to, || store.head(&to)).await?;
        if meta.size != logged.object.size {
            return Err(StoreError::corrupt(&to, format!("{} bytes, not {}", meta.size, logged.object.size)));
        }
        let object = DataObject { key, ..logged.object };
        Ok(Logged { claim: self.claim, object, pieces: logged.pieces })
    }
}

/// Where a file's bytes lie; `None` when they should be in an object that is not there.
fn locate(place: &Place, size: u64, object: Option<&Arc<DataObject>>) -> Option<Vec<(Option<Piece>, u64)>> {
    match place {
        Place::Hole if size == 0 => Some(Vec::new()),
        Place::Hole => Some(vec![(None, size)]),
        Place::Known(piece) => Some(vec![(Some(piece.clone()), size)]),
        Place::Here(offset) => {
            let object = Arc::clone(object?);
            Some(vec![(Some(Piece { object, offset: *offset, length: size }), size)])
        }
    }
}

/// A large file of which all blocks are stored.
fn whole_file(
    large: &Large,
    (blocks, places): (blocks::Blocks, Vec<(Place, u64)>),
) -> Option<(usize, StoredFile)> {
    let version = large.version;
    let digest = match blocks.nodes.as_slice() {
        [_, _, ..] => blocks::whole(&blocks, version.size)?,
        [] | [_] => return None,
    };
    let mut extents: Vec<(Option<Piece>, u64)> = Vec::new();
    for (place, length) in places {
        let next = match place {
            Place::Known(piece) => Some(piece),
            Place::Hole | Place::Here(_) => None,
        };
        match (extents.last_mut(), next) {
            (Some((None, before)), None) => *before += length,
            (Some((Some(before), sum)), Some(next))
                if before.object == next.object && before.offset + before.length == next.offset =>
            {
                before.length += next.length;
                *sum += length;
            }
            (Some(_) | None, next) => extents.push((next, length)),
        }
    }
    Some((large.index(), StoredFile { version, digest, extents, blocks: Some(blocks) }))
}

/// Words a refusal of the store.
pub(super) fn refused(error: &StoreError) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure { reason: LeftOutReason::StoreRefused, message: format!("{error}{cause}") }
}

impl Plan {
    /// The sizes of blocks that large files had before.
    fn log2_before(&self, base: Option<&Arc<crate::base::Base>>) -> HashMap<usize, u32> {
        let log2 = |index: &usize| match &base?.entry(&self.found[*index].path)?.kind {
            EntryKind::File { blocks: Some(blocks), .. } => Some((*index, blocks.log2)),
            EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. } => None,
        };
        self.reading.iter().filter_map(log2).collect()
    }
}

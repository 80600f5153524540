//! A store that fails as a seed says: errors before and after the deed, hangs, cut and flipped answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It fails and nothing happens.
    Before,
    /// It happens, and the answer is lost.
    After,
    /// It never answers, and nothing happens.
    Hang,
    /// The answer is too short.
    Cut,
    /// One bit of the answer is wrong.
    Flip,
}

/// Wraps a store; about one request in `one_in` fails while it is switched on.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

#[derive(Debug)]
pub(crate) struct Faults {
    seed: u64,
    one_in: u64,
    requests: AtomicU64,
    is_on: AtomicBool,
    /// So many reads may pass until all are held up; `u64::MAX`: no bound.
    reads_left: AtomicU64,
    is_held: tokio::sync::watch::Sender<bool>,
    reached: tokio::sync::Notify,
}

impl Faults {
    fn draw(&self) -> (Fault, u64) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&number.to_le_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        let drawn = u64::from_le_bytes(bytes);
        if !self.is_on.load(Ordering::Relaxed) || !drawn.is_multiple_of(self.one_in) {
            return (Fault::None, drawn);
        }
        let kinds =
            [Fault::Before, Fault::After, Fault::Before, Fault::After, Fault::Hang, Fault::Cut, Fault::Flip];
        let fault = kinds[usize::try_from((drawn >> 32) % 7).expect("small")];
        (fault, drawn)
    }

    /// Meets the faults that concern requests without an answer of bytes.
    async fn meet(&self) -> Result<Fault> {
        let (fault, _) = self.draw();
        match fault {
            Fault::Before => Err(broken()),
            Fault::Hang => std::future::pending().await,
            Fault::None | Fault::After | Fault::Cut | Fault::Flip => Ok(fault),
        }
    }
}

fn broken() -> Error {
    Error::Generic { store: "faulty", source: "the connection was reset".into() }
}

/// What the caller of a request that has happened is told.
fn answer<T>(fault: Fault, done: T) -> Result<T> {
    match fault {
        Fault::After => Err(broken()),
        Fault::None | Fault::Before | Fault::Hang | Fault::Cut | Fault::Flip => Ok(done),
    }
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, seed: u64, one_in: u64) -> Arc<Self> {
        let faults = Faults {
            seed,
            one_in,
            requests: AtomicU64::new(0),
            is_on: AtomicBool::new(true),
            reads_left: AtomicU64::new(u64::MAX),
            is_held: tokio::sync::watch::Sender::new(true),
            reached: tokio::sync::Notify::new(),
        };
        Arc::new(Self { inner, faults: Arc::new(faults) })
    }

    /// Holds every read up after `reads` of them, until [`Self::resume`].
    pub(crate) fn pause_after(&self, reads: u64) {
        self.faults.reads_left.store(reads, Ordering::Relaxed);
    }

    /// Waits until a read is held up.
    pub(crate) async fn paused(&self) {
        self.faults.reached.notified().await;
    }

    pub(crate) fn resume(&self) {
        self.faults.reads_left.store(u64::MAX, Ordering::Relaxed);
        self.faults.is_held.send_replace(false);
    }

    pub(crate) fn switch(&self, is_on: bool) {
        self.faults.is_on.store(is_on, Ordering::Relaxed);
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fault = self.faults.meet().await?;
        answer(fault, self.inner.put_opts(location, payload, opts).await?)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.faults.meet().await?;
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        answer(fault, Box::new(FaultyUpload { inner, faults: Arc::clone(&self.faults) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let left = self.faults.reads_left.load(Ordering::Relaxed);
        if left == 0 {
            self.faults.reached.notify_one();
            let mut held = self.faults.is_held.subscribe();
            let _ = held.wait_for(|is_held| !is_held).await; // the store lives as long as its readers
        } else if left != u64::MAX {
            self.faults.reads_left.fetch_sub(1, Ordering::Relaxed);
        }
        let (fault, drawn) = self.faults.draw();
        match fault {
            Fault::Before | Fault::After => return Err(broken()),
            Fault::Hang => std::future::pending().await,
            Fault::None | Fault::Cut | Fault::Flip => {}
        }
        let got = self.inner.get_opts(location, options).await?;
        let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
        let extensions = got.extensions.clone();
        let mut bytes = got.bytes().await?.to_vec();
        let at = usize::try_from(drawn >> 40).expect("24 bits") % bytes.len().max(1);
        match fault {
            Fault::Cut => bytes.truncate(at),
            Fault::Flip if !bytes.is_empty() => bytes[at] ^= 1,
            Fault::None | Fault::Before | Fault::After | Fault::Hang | Fault::Flip => {}
        }
        let stream = futures_util::stream::once(async move { Ok(Bytes::from(bytes)) }).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(stream), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let faults = Arc::clone(&self.faults);
        let checked = locations.and_then(move |location| {
            let faults = Arc::clone(&faults);
            async move { faults.meet().await.map(|_| location) }
        });
        self.inner.delete_stream(checked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let faults = Arc::clone(&self.faults);
        let inner = self.inner.list(prefix);
        let listing = async move {
            Ok(match faults.meet().await? {
                // A listing that fails half-way.
                Fault::Cut => {
                    inner.take(1).chain(futures_util::stream::once(async { Err(broken()) })).boxed()
                }
                Fault::None | Fault::Before | Fault::After | Fault::Hang | Fault::Flip => inner,
            })
        };
        listing.try_flatten_stream().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.faults.meet().await?;
        answer(fault, self.inner.list_with_delimiter(prefix).await?)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let faults = Arc::clone(&self.faults);
        let inner = self.inner.put_part(data);
        Box::pin(async move {
            let fault = faults.meet().await?;
            answer(fault, inner.await?)
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.faults.meet().await?;
        answer(fault, self.inner.complete().await?)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

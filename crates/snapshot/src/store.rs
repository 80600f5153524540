//! Opens stores; what can go wrong in any store, and how often to try again.
//!
//! `store/url.rs` says which store a text names; `store/s3.rs` and `store/credentials.rs` are about
//! buckets, `store/clouds.rs` about those of others than Amazon.

mod clouds;
mod credentials;
mod s3;
mod url;

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lifeboat_core::backoff::Backoff;
use lifeboat_core::time::Millis;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::deadline::Deadline;
use crate::id::Nonce;
pub(crate) use s3::ServerChecked;
pub use url::{Checksum, CloudUrl, Encryption, Keys, ParseStoreUrlError, S3Url, StoreUrl, without_secrets};

/// Opens the store that `url` names, creating its directory (readable by its owner only: it holds their work).
///
/// A directory is written with fsync of files and directories before each answer, so that after a power cut the
/// journal never names bytes that are gone. Memory gives a new, empty store at each call: share the `Arc`.
///
/// # Errors
/// [`StoreError::Denied`], [`StoreError::Full`] or [`StoreError::Unavailable`] when the directory cannot be created
/// or entered, or the credentials of a bucket cannot be had by what its URL and the environment say.
pub fn open(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match url {
        StoreUrl::Memory => Ok(Arc::new(InMemory::new())),
        StoreUrl::S3(url) => s3::open(url),
        StoreUrl::Google(url) => clouds::open_google(url),
        StoreUrl::Azure(url) => clouds::open_azure(url),
        StoreUrl::Directory(path) => {
            let failed =
                |source| StoreError::new("open", &Path::from(path.to_string_lossy().as_ref()), source);
            create_private_directory(path).map_err(|source| {
                failed(object_store::Error::Generic { store: "directory", source: Box::new(source) })
            })?;
            let store = LocalFileSystem::new_with_prefix(path).map_err(failed)?;
            Ok(Arc::new(store.with_fsync(true)))
        }
    }
}

/// Creates `path` and what is missing above it with mode 0700; an existing directory keeps its mode.
fn create_private_directory(path: &FilePath) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What went wrong with one object of the store, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there.
    #[error("{key:?} is not in the store")]
    NotFound {
        /// The object's full key.
        key: String,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// Permissions or credentials: a person must act.
    #[error("the store does not allow to {operation} {key:?}")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// The object's full key.
        key: String,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// It will never be taken as it is asked for: the bucket, its region, the storage class or the encryption is wrong.
    #[error("the store refuses to {operation} {key:?}: {code}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The object's full key.
        key: String,
        /// The store's own word for it.
        code: String,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// No space left, or a quota is used up: prune, or use another store.
    #[error("the store is full: could not {operation} {key:?}")]
    Full {
        /// What was tried.
        operation: &'static str,
        /// The object's full key.
        key: String,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// No answer in time, in the last attempt.
    #[error("the store did not answer within {waited_ms} ms to: {operation} {key:?}")]
    TimedOut {
        /// What was tried.
        operation: &'static str,
        /// The object's full key.
        key: String,
        /// How long the last attempt waited.
        waited_ms: u64,
    },
    /// Anything else that may pass with time.
    #[error("the store failed to {operation} {key:?}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// The object's full key.
        key: String,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The object is there and is not what was written, or was never written by this program.
    #[error("{key:?} in the store is damaged: {what}")]
    Corrupt {
        /// The object's full key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
}

impl StoreError {
    /// Sorts an error of `object_store` by what the caller can do about it.
    pub(crate) fn new(operation: &'static str, location: &Path, error: object_store::Error) -> Self {
        use object_store::Error as E;
        let key = location.to_string();
        let io_kind = io_kind(&error);
        let code = code_of(&error);
        let source = Box::new(error);
        match code {
            Some(code) if is_final(&code) => return Self::Refused { operation, key, code, source },
            Some(code) if is_denial(&code) => return Self::Denied { operation, key, source },
            Some(_) | None => {}
        }
        match (&*source, io_kind) {
            (E::NotFound { .. }, _) => Self::NotFound { key, source },
            (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _)
            | (_, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)) => {
                Self::Denied { operation, key, source }
            }
            (_, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) => {
                Self::Full { operation, key, source }
            }
            (_, Some(_) | None) => Self::Unavailable { operation, key, source },
        }
    }

    /// The object at `location` is not what it should be.
    pub(crate) fn corrupt(location: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { key: location.to_string(), what: what.into() }
    }

    /// Whether another attempt may go better without anybody doing something.
    fn may_pass(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Denied { .. } | Self::Refused { .. } => false,
            // Space comes back when a prune runs; damage may have happened on the way.
            Self::Full { .. } | Self::TimedOut { .. } | Self::Unavailable { .. } | Self::Corrupt { .. } => {
                true
            }
        }
    }
}

/// The error code in an S3 answer, if there is one.
fn code_of(error: &object_store::Error) -> Option<String> {
    let text = error.to_string();
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code.to_owned())
}

/// Whether no repetition will change what S3 said. Source: S3 API reference, "Error responses".
///
/// What a repetition may change stays out: an expired token is exchanged.
fn is_final(code: &str) -> bool {
    matches!(
        code,
        "NoSuchBucket"
            | "InvalidBucketName"
            | "InvalidStorageClass"
            | "InvalidArgument"
            | "InvalidRequest"
            | "InvalidEncryptionAlgorithmError"
            | "KMS.DisabledException"
            | "KMS.NotFoundException"
            | "KMS.KMSInvalidStateException"
            | "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "IllegalLocationConstraintException"
            | "MethodNotAllowed"
            | "NotImplemented"
    )
}

/// Whether it is about who asks; `object_store` sees that in most answers, but not in those to listings.
fn is_denial(code: &str) -> bool {
    matches!(
        code,
        "AccessDenied"
            | "AllAccessDisabled"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "RequestTimeTooSkewed"
    )
}

/// The kind of the first I/O error among the causes of `error`.
fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    /// Causes nest three or four deep; the bound is against a cycle.
    const CAUSES_MAX: usize = 16;
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    for _ in 0..CAUSES_MAX {
        let current = cause?;
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = current.source();
    }
    None
}

/// One small object (a journal record, a heartbeat, a listing) has this long per attempt: ten times what a
/// slow answer takes, and short enough to try again within a notice.
const SMALL_ATTEMPT: Duration = Duration::from_secs(10);

/// A pack or part of 8 MiB has this long per attempt: 2.2 Mbit/s are enough, and a connection that died is
/// given up while three quarters of a notice are left.
const LARGE_ATTEMPT: Duration = Duration::from_secs(30);

/// Where a slow link may be why an attempt ran out of time, the next gets twice as long, up to this: 8 MiB then need
/// no more than 280 kbit/s.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(240);

/// Without a deadline so many of these may run out of time.
const TIMEOUTS_MAX: u32 = 4;

/// Without a deadline an operation is tried this often: about ten seconds of waiting in all.
const ATTEMPTS_MAX: u32 = 8;

/// With a deadline it is tried until then; this many times 2.5 s on average is an hour, beyond every deadline
/// of an evacuation.
const ATTEMPTS_BEFORE_DEADLINE_MAX: u32 = 1_500;

/// A full store is asked this often, over about a second.
const FULL_ATTEMPTS_MAX: u32 = 5;

/// A failure or two pass; a person is told of an operation that fails after so many, once.
const FAILURES_TOLD: u32 = 2;

/// Waits between attempts start here…
const FIRST_WAIT: Millis = Millis(50);

/// …and never get longer than this, so that a store that comes back is noticed soon.
const LONGEST_WAIT: Millis = Millis(5_000);

/// How often and how long one operation on the store is tried.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    attempt: Duration,
    /// An attempt after one that ran out of time gets twice as long, up to this.
    longest_attempt: Duration,
    attempts_max: u32,
    deadline: Deadline,
    backoff: Backoff,
}

impl Retry {
    /// For small objects, without a deadline.
    pub(crate) fn small() -> Self {
        Self::new(SMALL_ATTEMPT, Deadline::none())
    }

    /// For small objects, until `deadline` (the caller stops waiting then).
    pub(crate) fn small_until(deadline: &Deadline) -> Self {
        Self::new(SMALL_ATTEMPT, deadline.clone())
    }

    /// For manifests, which are mostly small, until `deadline` (the caller stops waiting then).
    pub(crate) fn manifest_until(deadline: &Deadline) -> Self {
        Self { longest_attempt: LONGEST_ATTEMPT, ..Self::new(SMALL_ATTEMPT, deadline.clone()) }
    }

    /// For packs and parts, until `deadline` (the caller stops waiting then).
    pub(crate) fn large_until(deadline: &Deadline) -> Self {
        Self { longest_attempt: LONGEST_ATTEMPT, ..Self::new(LARGE_ATTEMPT, deadline.clone()) }
    }

    /// For operations of many requests that bound each of them, until `deadline`.
    pub(crate) fn streaming_until(deadline: &Deadline) -> Self {
        Self::new(Duration::MAX, deadline.clone())
    }

    fn new(attempt: Duration, deadline: Deadline) -> Self {
        let backoff = Backoff { first: FIRST_WAIT, longest: LONGEST_WAIT, seed: Nonce::random().seed() };
        Self { attempt, longest_attempt: attempt, attempts_max: ATTEMPTS_MAX, deadline, backoff }
    }

    /// Runs `attempt` until it succeeds or fails for good, with back-off and jitter between.
    pub(crate) async fn run<T, F, Fut>(
        &self,
        operation: &'static str,
        location: &Path,
        mut attempt: F,
    ) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = object_store::Result<T>>,
    {
        self.run_checked(operation, location, || {
            let tried = attempt();
            async { tried.await.map_err(|source| StoreError::new(operation, location, source)) }
        })
        .await
    }

    /// As [`Retry::run`], for an attempt that knows better what went wrong (a hash that does not fit).
    pub(crate) async fn run_checked<T, F, Fut>(
        &self,
        operation: &'static str,
        location: &Path,
        mut attempt: F,
    ) -> Result<T, StoreError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let (mut failures, mut timeouts) = (0, 0);
        let mut time = self.attempt;
        // Bounded by `attempts_max` without and by `ATTEMPTS_BEFORE_DEADLINE_MAX` with a deadline.
        loop {
            let error = match tokio::time::timeout(time, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_elapsed) => {
                    timeouts += u32::from(self.longest_attempt > self.attempt);
                    let waited_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    time = time.saturating_mul(2).min(self.longest_attempt);
                    StoreError::TimedOut { operation, key: location.to_string(), waited_ms }
                }
            };
            let attempts_max = match self.deadline.current() {
                Some(_) => ATTEMPTS_BEFORE_DEADLINE_MAX,
                None if timeouts >= TIMEOUTS_MAX => return Err(error),
                None => self.attempts_max,
            };
            // Space may come back when a prune runs, but not by asking for it until the deadline.
            let attempts_max =
                if matches!(error, StoreError::Full { .. }) { FULL_ATTEMPTS_MAX } else { attempts_max };
            if !error.may_pass() || failures + 1 >= attempts_max {
                return Err(error);
            }
            let wait = Duration::from_millis(self.backoff.wait(failures).0);
            if failures == FAILURES_TOLD {
                let cause = error.source().map(ToString::to_string);
                tracing::warn!(%error, cause, "the store keeps failing; trying again");
            } else {
                tracing::debug!(%error, operation, failures, ?wait, "store operation failed; trying again");
            }
            tokio::time::sleep(wait).await;
            failures += 1;
        }
    }
}

/// Everything below `folder`, or only what comes after `offset`. Each answer has the time of a small object: there may
/// be thousands.
pub(crate) async fn list(
    store: &Arc<dyn ObjectStore>,
    folder: &Path,
    offset: Option<&Path>,
) -> Result<Vec<ObjectMeta>, StoreError> {
    Retry::streaming_until(&Deadline::none())
        .run_checked("list", folder, || async {
            let mut listing = match offset {
                Some(offset) => store.list_with_offset(Some(folder), offset),
                None => store.list(Some(folder)),
            };
            let mut listed = Vec::new();
            // Ends with the listing, or when it stops to move.
            loop {
                match tokio::time::timeout(SMALL_ATTEMPT, listing.next()).await {
                    Ok(Some(Ok(object))) => listed.push(object),
                    Ok(Some(Err(source))) => return Err(StoreError::new("list", folder, source)),
                    Ok(None) => return Ok(listed),
                    Err(_elapsed) => {
                        let waited_ms = u64::try_from(SMALL_ATTEMPT.as_millis()).unwrap_or(u64::MAX);
                        let key = folder.to_string();
                        return Err(StoreError::TimedOut { operation: "list", key, waited_ms });
                    }
                }
            }
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hanging_store_is_given_up_after_a_bounded_time() {
        let start = tokio::time::Instant::now();
        let error = Retry::small()
            .run("read", &Path::from("x"), std::future::pending::<object_store::Result<()>>)
            .await
            .expect_err("never answers");
        assert!(matches!(error, StoreError::TimedOut { .. }), "{error}");
        assert!(start.elapsed() < (SMALL_ATTEMPT + Duration::from_millis(LONGEST_WAIT.0)) * ATTEMPTS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_slow_link_needs_longer_for_gets_longer() {
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            Ok(())
        };
        let none = Deadline::none();
        Retry::large_until(&none)
            .run("store", &Path::from("x"), slow)
            .await
            .expect("the third is long enough");
        let start = tokio::time::Instant::now();
        let hanging = std::future::pending::<object_store::Result<()>>;
        let error = Retry::large_until(&none).run("store", &Path::from("x"), hanging).await;
        assert!(matches!(error, Err(StoreError::TimedOut { .. })), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(30 + 60 + 120 + 240 + 30));
    }
}

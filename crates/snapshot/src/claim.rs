//! Owning a workload: claiming it, showing that the owner lives, recording what it saved, giving it up.
//!
//! A claim is nothing but records in the journal under one nonce. The holder's records must follow one another
//! without a foreign one between; the first foreign record fences it for good. Heartbeats decide nothing: they only
//! tell observers whether waiting makes sense (see [`crate::lease`]).

use std::fmt;
use std::time::Duration;

use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::id::Nonce;
use crate::journal::{self, AppendError, Event, Head, Holder, RecoveryPoint, Release, Writer};
use crate::lease::{Lease, LeaseWatch, Seen};
use crate::manifest::ManifestRef;
use crate::store::{Retry, StoreError};
use crate::workload::Workload;

/// No lease is taken to be shorter: a store's slow second must not look like death.
pub const LEASE_MIN: Duration = Duration::from_secs(1);

/// No lease is taken to be longer, whatever a record says: a damaged one must not lock a workload for ever.
pub const LEASE_MAX: Duration = Duration::from_secs(60 * 60);

/// A holder renews its lease this many times within it, so that two lost heartbeats in a row do no harm.
pub const RENEWALS_PER_LEASE: u32 = 3;

/// An observer looks this many times within a lease; more often gains nothing, less delays the take-over.
const LOOKS_PER_LEASE: u32 = 8;

/// Looks are never closer than this, however short the lease.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// So many times another claimant may be faster before this one gives up; each loss means that somebody owns it.
const RACES_MAX: u32 = 16;

/// The records of its own that a holder may find after lost answers before something must be wrong.
const ADOPTIONS_MAX: u32 = 16;

/// Heartbeats are one short line; anything longer is not ours.
const HEARTBEAT_BYTES_MAX: u64 = 1024;

/// Who wants the workload.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// A lasting identity, drawn once and kept in the state directory under a lock: two processes must never use
    /// it at the same time. Finding its own earlier claim, a claimant goes on at once instead of waiting.
    pub agent: Nonce,
    /// For people; an earlier claim counts as one's own only if `instance` is the same too, so that a machine
    /// started from an image that contains a state directory does not take a living holder's work away.
    pub holder: Holder,
    /// How long this holder may be silent before others may take over.
    pub lease: Duration,
}

/// How long to wait for a holder that may be dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// Until then; taking over from a dead holder takes its lease, from now.
    Until(Instant),
}

/// A claim that has just been made.
#[derive(Debug)]
pub struct Acquired {
    /// The handle by which the holder acts.
    pub claim: Claim,
    /// From where the work goes on; `None` when it starts from nothing.
    pub resume: Option<RecoveryPoint>,
    /// What the holder before left behind.
    pub how: How,
}

/// How the claim came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Nobody had it, or the earlier work is finished.
    Fresh,
    /// It was this claimant's own: the agent was restarted.
    Continued,
    /// The holder before gave it up.
    Released(Box<Release>),
    /// The holder before was silent for its whole lease, and is fenced.
    TookOver {
        /// That holder.
        from: Holder,
    },
}

/// Why a workload could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// It has a holder that was not silent for long enough.
    #[error("the workload is held by {} on {} (process {}), claim {claim}", by.instance, by.host, by.pid)]
    Held {
        /// The holder.
        by: Holder,
        /// The number of its claim.
        claim: u64,
    },
    /// The store failed.
    #[error("the workload could not be claimed")]
    Store(#[from] StoreError),
}

/// Why a holder could not do what it wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The workload has another owner: touch nothing of it any more.
    #[error("the workload now belongs to {} on {} (process {}), claim {claim}", by.instance, by.host, by.pid)]
    Fenced {
        /// The other owner.
        by: Holder,
        /// The number of its claim.
        claim: u64,
    },
    /// This holder itself gave the workload up, or marked it as done: claim it again.
    #[error("claim {claim} has been given up by its holder")]
    Ended {
        /// The number of the claim.
        claim: u64,
    },
    /// The store failed; the claim may or may not stand.
    #[error("the claim could not be used")]
    Store(#[from] StoreError),
}

/// Names one claim: where its objects lie, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimId {
    /// The number of the record that began it.
    pub seq: u64,
    /// Its nonce.
    pub nonce: Nonce,
}

impl ClaimId {
    /// The folder of its objects below `data/`, and the beginning of its manifests' names.
    pub(crate) fn folder(&self) -> String {
        format!("{:020}-{}", self.seq, self.nonce)
    }

    /// The reverse of [`ClaimId::folder`].
    pub(crate) fn parse_folder(folder: &str) -> Option<Self> {
        let (seq, nonce) = folder.split_once('-')?;
        if seq.len() != 20 || !seq.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { seq: seq.parse().ok()?, nonce: nonce.parse().ok()? })
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.seq, self.nonce)
    }
}

/// The holder's handle. Dropping it gives nothing up: the lease runs out, or the same agent goes on.
#[derive(Debug)]
pub struct Claim {
    workload: Workload,
    writer: Writer,
    id: ClaimId,
    head: Head,
    counter: u64,
    renewed: Instant,
}

/// Claims `workload` for `claimant`.
///
/// Nothing else is done to the store than appending one record. Cancelling is safe: a claim that was made
/// unnoticed is found again as the agent's own.
///
/// # Errors
/// [`AcquireError::Held`] when `wait` ends while the holder may live.
pub async fn acquire(workload: &Workload, claimant: &Claimant, wait: Wait) -> Result<Acquired, AcquireError> {
    let head = journal::head(workload).await?;
    acquire_after(workload, claimant, wait, head).await
}

/// As [`acquire`], by one who has just seen the `head` of the journal: that spares a look. Should another record
/// have come since, the claim conflicts with it, and the journal is looked at anew.
///
/// # Errors
/// As [`acquire`].
pub async fn acquire_after(
    workload: &Workload,
    claimant: &Claimant,
    wait: Wait,
    mut head: Option<Head>,
) -> Result<Acquired, AcquireError> {
    let writer = Writer {
        agent: claimant.agent,
        nonce: Nonce::random(),
        holder: claimant.holder.clone(),
        lease_ms: u64::try_from(bounded(claimant.lease).as_millis()).unwrap_or(u64::MAX),
    };
    let mut races = 0;
    // Bounded by `RACES_MAX`, or by `wait`: a holder that commits again and again is alive until then.
    while races < RACES_MAX || matches!(wait, Wait::Until(end) if Instant::now() < end) {
        if races > 0 {
            head = journal::head(workload).await?;
        }
        races += 1;
        let turn = match &head {
            None => Some((How::Fresh, None)),
            Some(found) => wait_for_turn(workload, claimant, found, wait).await?,
        };
        let Some((how, takes_over)) = turn else { continue };
        let resume = match &how {
            How::Fresh => None,
            How::Continued | How::Released(_) | How::TookOver { .. } => {
                head.as_ref().and_then(|found| found.record.point.clone())
            }
        };
        let event = (resume.clone(), Event::Claimed { takes_over });
        let renewed = Instant::now();
        let appended = match journal::append(workload, head.as_ref(), &writer, None, event).await {
            Ok(appended) => appended,
            // An attempt of this very call that was thought lost.
            Err(AppendError::Conflict { by }) if by.record.nonce == writer.nonce => *by,
            Err(AppendError::Conflict { .. }) => continue,
            Err(AppendError::Store(error)) => return Err(error.into()),
        };
        let id = ClaimId { seq: appended.record.seq, nonce: writer.nonce };
        tracing::info!(claim = %id, workload = %workload.name(), "workload claimed");
        let claim = Claim { workload: workload.clone(), writer, id, head: appended, counter: 0, renewed };
        return Ok(Acquired { claim, resume, how });
    }
    Err(held(head.as_ref(), &claimant.holder))
}

/// Returns once the next number may be claimed after `found`, and on which ground; `None` when `found` is no
/// longer the head.
async fn wait_for_turn(
    workload: &Workload,
    claimant: &Claimant,
    found: &Head,
    wait: Wait,
) -> Result<Option<(How, Option<u64>)>, AcquireError> {
    let record = &found.record;
    match &record.event {
        Event::Done { .. } => Ok(Some((How::Fresh, None))),
        Event::Released(release) => Ok(Some((How::Released(release.clone()), None))),
        Event::Claimed { .. } | Event::Committed => {
            let is_own = record.agent == claimant.agent && record.holder.instance == claimant.holder.instance;
            if is_own {
                return Ok(Some((How::Continued, Some(record.claim))));
            }
            let is_dead = wait_for_death(workload, found, wait).await?;
            Ok(is_dead.then(|| (How::TookOver { from: record.holder.clone() }, Some(record.claim))))
        }
    }
}

/// `true` once the holder of `found` has been silent for its lease; `false` as soon as `found` is no longer the head.
async fn wait_for_death(workload: &Workload, found: &Head, wait: Wait) -> Result<bool, AcquireError> {
    let record = &found.record;
    let lease = bounded(Duration::from_millis(record.lease_ms));
    let mut watch = LeaseWatch::new(lease);
    let origin = Instant::now();
    let pause = (lease / LOOKS_PER_LEASE).max(LOOK_INTERVAL_MIN);
    // Ends with `wait`: each round that does not return sleeps towards it.
    loop {
        let asked = origin.elapsed();
        if !journal::list_from(workload, record.seq).await?.is_empty() {
            return Ok(false);
        }
        let counter = read_heartbeat(workload, record.claim).await?;
        let seen = Seen { head: record.seq, counter };
        let until = match watch.observe(asked, origin.elapsed(), seen) {
            Lease::Dead => return Ok(true),
            Lease::Alive { until } => origin + until,
        };
        let Wait::Until(end) = wait else { return Err(held(Some(found), &record.holder)) };
        let now = Instant::now();
        if now >= end {
            return Err(held(Some(found), &record.holder));
        }
        let next = (now + pause).min(until.max(now + LOOK_INTERVAL_MIN)).min(end);
        tokio::time::sleep_until(next).await;
    }
}

/// The error that names who holds the workload as of `head`.
fn held(head: Option<&Head>, otherwise: &Holder) -> AcquireError {
    AcquireError::Held {
        by: head.map_or_else(|| otherwise.clone(), |found| found.record.holder.clone()),
        claim: head.map_or(0, |found| found.record.claim),
    }
}

/// `lease` within [`LEASE_MIN`] and [`LEASE_MAX`].
fn bounded(lease: Duration) -> Duration {
    lease.clamp(LEASE_MIN, LEASE_MAX)
}

/// The content of a heartbeat.
#[derive(Serialize, Deserialize)]
struct Heartbeat {
    counter: u64,
}

/// The key of a claim's heartbeat, relative to the workload.
pub(crate) fn heartbeat_key(claim: u64) -> String {
    format!("heartbeats/{claim:020}")
}

/// The heartbeat counter of `claim`; `None` before the first, and for one that cannot be read: only its changes count.
async fn read_heartbeat(workload: &Workload, claim: u64) -> Result<Option<u64>, StoreError> {
    let location = workload.locate(&heartbeat_key(claim));
    let read = Retry::small()
        .run("read", &location, || async {
            let got = workload.store().get(&location).await?;
            if got.meta.size > HEARTBEAT_BYTES_MAX { Ok(None) } else { got.bytes().await.map(Some) }
        })
        .await;
    match read {
        Ok(bytes) => Ok(bytes
            .and_then(|bytes| serde_json::from_slice::<Heartbeat>(&bytes).ok())
            .map(|heartbeat| heartbeat.counter)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Claim {
    /// Which claim this is; what is saved under it carries this.
    #[must_use]
    pub const fn id(&self) -> ClaimId {
        self.id
    }

    /// The newest recovery point that this holder knows of.
    #[must_use]
    pub const fn point(&self) -> Option<&RecoveryPoint> {
        self.head.record.point.as_ref()
    }

    /// How often [`Claim::renew`] should be called.
    #[must_use]
    pub fn renew_interval(&self) -> Duration {
        self.lease() / RENEWALS_PER_LEASE
    }

    /// Until when nobody else can have taken over, as far as this holder's clock can tell: a lease after the last
    /// successful renewal. Work that must not run twice pauses then, until [`Claim::check`] succeeds again.
    #[must_use]
    pub fn valid_until(&self) -> Instant {
        self.renewed + self.lease()
    }

    fn lease(&self) -> Duration {
        bounded(Duration::from_millis(self.writer.lease_ms))
    }

    /// Shows observers that the holder lives, and checks that it still owns the workload.
    ///
    /// # Errors
    /// [`ClaimError`]
    pub async fn renew(&mut self) -> Result<(), ClaimError> {
        if matches!(self.head.record.event, Event::Released(_) | Event::Done { .. }) {
            // Nothing is left to keep alive, and whoever comes next takes nothing from a holder that gave it up.
            return Err(ClaimError::Ended { claim: self.id.seq });
        }
        let started = Instant::now();
        self.counter += 1;
        let location = self.workload.locate(&heartbeat_key(self.id.seq));
        let bytes = serde_json::to_vec(&Heartbeat { counter: self.counter }).map_err(|error| {
            StoreError::corrupt(&location, format!("heartbeat cannot be written: {error}"))
        })?;
        let payload = PutPayload::from(bytes);
        Retry::small()
            .run("write", &location, || async {
                self.workload.store().put(&location, payload.clone()).await.map(drop)
            })
            .await?;
        self.check().await?;
        self.renewed = started;
        Ok(())
    }

    /// Asks the store whether the workload still belongs to this holder.
    ///
    /// # Errors
    /// [`ClaimError`]
    pub async fn check(&mut self) -> Result<(), ClaimError> {
        for _ in 0..ADOPTIONS_MAX {
            let newer = journal::list_from(&self.workload, self.head.record.seq).await?;
            let Some(highest) = newer.last() else { return Ok(()) };
            let found = journal::read(&self.workload, *highest).await?;
            self.adopt(found)?;
        }
        Err(self.too_many_records().into())
    }

    /// Records `manifest` as the newest recovery point.
    ///
    /// # Errors
    /// [`ClaimError`]
    pub async fn commit(&mut self, manifest: ManifestRef) -> Result<RecoveryPoint, ClaimError> {
        let at_unix_ms = journal::unix_ms();
        for _ in 0..ADOPTIONS_MAX {
            // A commit of the same manifest whose answer was lost has been adopted meanwhile.
            if let Some(point) = self.point()
                && point.manifest == manifest
            {
                return Ok(point.clone());
            }
            let seq = self.head.record.seq + 1;
            let point = RecoveryPoint { seq, at_unix_ms, manifest: manifest.clone() };
            if self.try_append(Some(point.clone()), Event::Committed).await? {
                return Ok(point);
            }
        }
        Err(self.too_many_records().into())
    }

    /// Gives the workload up: the next claimant goes on from the newest recovery point without waiting.
    ///
    /// # Errors
    /// [`ClaimError`]
    pub async fn release(&mut self, release: Release) -> Result<(), ClaimError> {
        self.finish(Event::Released(Box::new(release))).await
    }

    /// Marks the work as finished: it is never restored.
    ///
    /// # Errors
    /// [`ClaimError`]
    pub async fn done(&mut self, exit_code: i32) -> Result<(), ClaimError> {
        self.finish(Event::Done { exit_code }).await
    }

    /// Appends the last record of this claim; doing it twice appends it once.
    async fn finish(&mut self, event: Event) -> Result<(), ClaimError> {
        for _ in 0..ADOPTIONS_MAX {
            if self.head.record.event == event {
                return Ok(());
            }
            let point = self.point().cloned();
            if self.try_append(point, event.clone()).await? {
                return Ok(());
            }
        }
        Err(self.too_many_records().into())
    }

    /// Appends one record. `false`: a record of this claim whose answer was lost was there already; look again.
    async fn try_append(&mut self, point: Option<RecoveryPoint>, event: Event) -> Result<bool, ClaimError> {
        match &self.head.record.event {
            Event::Claimed { .. } | Event::Committed => {}
            Event::Released(_) | Event::Done { .. } => return Err(ClaimError::Ended { claim: self.id.seq }),
        }
        let appended = journal::append(
            &self.workload,
            Some(&self.head),
            &self.writer,
            Some(self.id.seq),
            (point, event),
        )
        .await;
        match appended {
            Ok(head) => {
                self.head = head;
                Ok(true)
            }
            Err(AppendError::Conflict { by }) => self.adopt(*by).map(|()| false),
            Err(AppendError::Store(error)) => Err(error.into()),
        }
    }

    /// Takes `found` for the newest record if it is this claim's own, else this holder is fenced.
    fn adopt(&mut self, found: Head) -> Result<(), ClaimError> {
        let is_own = found.record.nonce == self.id.nonce && found.record.claim == self.id.seq;
        if is_own && found.record.seq > self.head.record.seq {
            self.head = found;
            return Ok(());
        }
        let by = found.record.holder;
        tracing::warn!(claim = %self.id, by = by.instance, "fenced: the workload has another owner");
        Err(ClaimError::Fenced { by, claim: found.record.claim })
    }

    /// More records of this claim exist than this handle can have written.
    fn too_many_records(&self) -> StoreError {
        let location = self.workload.locate(&journal::key(self.head.record.seq));
        StoreError::corrupt(&location, "records keep appearing under this claim: two processes use it")
    }
}

//! The claim as the stages see it: held, or still to be had again by an agent that takes over from a dead one.
//!
//! An agent that restarts in the middle of an evacuation stops the workload and cuts its time whether or not the
//! store answers; only the stages that need the claim wait for it, within their own time.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::backoff::Backoff;
use lifeboat_core::time::Millis;
use lifeboat_snapshot::claim::{AcquireError, Acquired, ClaimError, Claimant, How, Wait};
use lifeboat_snapshot::journal::{self, Event, Record, RecoveryPoint};
use lifeboat_snapshot::{Claim, ManifestRef, Workload, acquire};
use tokio::sync::{Mutex, oneshot, watch};

use crate::hands::chain;
use crate::renewal::Renewal;

/// The claim, used by the stages and by the renewal.
pub(crate) type SharedClaim = Arc<Mutex<Claim>>;

/// Between two attempts on a store that fails; each attempt repeats its requests by itself.
const AGAIN: Backoff = Backoff { first: Millis(200), longest: Millis(2_000), seed: 0 };

/// What the stages know of the claim.
#[derive(Clone, Debug)]
pub(crate) struct Holding(watch::Receiver<State>);

#[derive(Clone, Debug)]
enum State {
    /// It is being asked for.
    Awaited,
    /// It is there.
    Held(SharedClaim),
    /// The work was given back before the agent died.
    GivenBack,
    /// The work is somebody else's.
    Lost,
}

impl Holding {
    /// A claim that is held.
    pub(crate) fn held(claim: SharedClaim) -> Self {
        Self(watch::channel(State::Held(claim)).1)
    }

    /// Waits for the claim; the caller bounds the wait. `None`: the work was given back before the agent died. Never
    /// returns where the work is somebody else's: whoever drives the stages is told and ends them.
    pub(crate) async fn claim(&self) -> Option<SharedClaim> {
        let mut receiver = self.0.clone();
        let settled = match receiver.wait_for(|state| !matches!(state, State::Awaited)).await {
            Ok(state) => state.clone(),
            Err(_) => State::Lost, // whoever asked for it has gone
        };
        match settled {
            State::Held(claim) => Some(claim),
            State::GivenBack => None,
            State::Awaited | State::Lost => std::future::pending().await,
        }
    }
}

/// Asks for a dead agent's claim until it is had, and renews it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reclaim {
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Reclaim {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the dead agent's record says of the store.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    /// The recovery point that the work directory was last equal to.
    pub(crate) base: Option<ManifestRef>,
    /// The recovery point with which the work may have been given back.
    pub(crate) handed_back: Option<u64>,
}

/// Claims again what this agent held before it died. The receiver gets the error when the work is, or becomes,
/// somebody else's.
pub(crate) fn reclaim(
    workload: &Workload,
    claimant: Claimant,
    left: Left,
) -> (Holding, Reclaim, oneshot::Receiver<ClaimError>) {
    let (state, receiver) = watch::channel(State::Awaited);
    let (lost, lost_receiver) = oneshot::channel();
    let workload = workload.clone();
    let task = tokio::spawn(async move {
        let mut attempt = 0;
        // Ends with the task: whoever started it drops it at the evacuation's end.
        loop {
            match again(&workload, &claimant, &left).await {
                Ok(Again::Held(claim)) => {
                    let claim = Arc::new(Mutex::new(*claim));
                    let (_renewal, loss) = Renewal::start(Arc::clone(&claim));
                    let _ = state.send(State::Held(claim)); // nobody listens: it is over
                    if let Ok(error) = loss.await {
                        let _ = lost.send(error); // nobody listens: it is over
                    }
                    return;
                }
                Ok(Again::GivenBack) => {
                    let _ = state.send(State::GivenBack); // nobody listens: it is over
                    return std::future::pending().await;
                }
                Err(AcquireError::Held { by, claim }) => {
                    let _ = state.send(State::Lost); // nobody listens: it is over
                    let _ = lost.send(ClaimError::Fenced { by, claim }); // likewise
                    return;
                }
                Err(AcquireError::Store(error)) => {
                    tracing::warn!(error = chain(&error), "cannot claim the work again; trying again");
                    tokio::time::sleep(AGAIN.wait(attempt).to_duration()).await;
                    attempt = attempt.saturating_add(1);
                }
            }
        }
    });
    (Holding(receiver), Reclaim { task }, lost_receiver)
}

enum Again {
    Held(Box<Claim>),
    GivenBack,
}

/// One attempt. The files here may become the newest recovery point only while they descend from the newest
/// there is, and nobody else holds the work.
async fn again(workload: &Workload, claimant: &Claimant, left: &Left) -> Result<Again, AcquireError> {
    let records = journal::records(workload).await?;
    if let Some(generation) = left.handed_back
        && was_given_back(&records, claimant, generation)
    {
        return Ok(Again::GivenBack);
    }
    if let Some(head) = records.last()
        && let Some(point) = &head.point
        && !descends(&records, claimant, left.base.as_ref(), point)
    {
        return Err(AcquireError::Held { by: head.holder.clone(), claim: head.claim });
    }
    let Acquired { mut claim, how, .. } = acquire(workload, claimant, Wait::No).await?;
    let expected = records.last().map_or(1, |head| head.seq + 1);
    if claim.id().seq == expected {
        return Ok(Again::Held(Box::new(claim)));
    }
    // Somebody held it between the two looks and gave it back: what is there may be newer than what is here.
    if let How::Released(release) = how {
        let given_back = tokio::time::timeout(GIVE_BACK, claim.release(*release)).await;
        if !matches!(given_back, Ok(Ok(()))) {
            tracing::warn!("cannot give the work back that somebody else has carried on");
        }
    }
    Err(AcquireError::Held { by: claimant.holder.clone(), claim: expected })
}

/// One small write; without it the lease has to run out.
const GIVE_BACK: Duration = Duration::from_secs(5);

/// Whether a directory that was last equal to `base`, and where only this agent's workload worked since, holds
/// at least what `point` holds. An agent that died right after its commit did not note it as its base.
pub(crate) fn descends(
    records: &[Record],
    claimant: &Claimant,
    base: Option<&ManifestRef>,
    point: &RecoveryPoint,
) -> bool {
    let is_own = |record: &Record| {
        record.agent == claimant.agent && record.holder.instance == claimant.holder.instance
    };
    base == Some(&point.manifest)
        || records
            .iter()
            .any(|record| record.seq == point.seq && record.event == Event::Committed && is_own(record))
}

/// Whether this agent gave the work back with this recovery point.
fn was_given_back(records: &[Record], claimant: &Claimant, generation: u64) -> bool {
    records.iter().any(|record| {
        record.agent == claimant.agent
            && matches!(record.event, Event::Released(_))
            && record.point.as_ref().is_some_and(|point| point.seq == generation)
    })
}

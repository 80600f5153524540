//! Evacuating what a dead agent left: going on with its evacuation, or beginning one for files that it never saved.

use std::sync::Arc;

use lifeboat_core::evacuation::Progress;
use lifeboat_core::evacuation::stage::{Outcome, Plan, Stage, StageState};
use lifeboat_snapshot::claim::ClaimError;
use tokio::sync::oneshot;

use crate::clock::LocalClock;
use crate::evacuator::{Evacuator, Target};
use crate::hands::Site;
use crate::holding::{Left, Reclaim, reclaim};
use crate::record::{Record, RecordFile};
use crate::setup::{RunError, Setup};

/// An evacuation that takes over from a dead agent, ready for its first input.
#[derive(Debug)]
pub(crate) struct TakenOver {
    pub(crate) evacuator: Evacuator,
    /// Gets the error when the work is, or becomes, somebody else's.
    pub(crate) lost: Option<oneshot::Receiver<ClaimError>>,
    _reclaim: Reclaim,
}

/// Takes over from the agent that left `record`. The store is asked in the background: whether it answers or
/// not, the workload is stopped and the time is kept.
///
/// # Errors
/// [`RunError::Dirs`] when this agent's identity cannot be had.
pub(crate) fn take_over(
    setup: &Setup,
    site: &Arc<Site>,
    clock: LocalClock,
    (file, record): (RecordFile, Record),
) -> Result<TakenOver, RunError> {
    let claimant = setup.claimant(&site.instance)?;
    let (hand_back, drain) = match &record.progress {
        Progress::Evacuating { stages, .. } => {
            (stages[Stage::HandBack.index()], stages[Stage::Drain.index()])
        }
        Progress::Idle { .. } | Progress::Finished { .. } => (StageState::Waiting, StageState::Waiting),
    };
    let may_be_given_back = match hand_back {
        StageState::Waiting => false,
        StageState::Running { .. } => true,
        StageState::Ended { outcome, .. } => outcome == Outcome::Done,
    };
    let generation = record.saved.snapshot.as_ref().map(|snapshot| snapshot.generation);
    let left = Left { base: record.base.clone(), handed_back: generation.filter(|_| may_be_given_back) };
    let (holding, reclaim, lost) = reclaim(&site.workload, claimant, left);
    let target = match (&record.workload, &site.foreign) {
        (Some(mark), _) if !mark.is_of_others() => Target::Leftover(mark.clone()),
        (Some(_) | None, Some(foreign)) => Target::Foreign(Arc::clone(foreign)),
        (Some(_) | None, None) => Target::None,
    };
    let plan = Plan { has_workload: !matches!(target, Target::None), ..site.settings.plan };
    let mut evacuator = Evacuator::new(Arc::clone(site), holding, clock, (file, record), target, plan);
    if matches!(drain, StageState::Ended { .. }) && !evacuator.workload_goes_on() {
        // The agent may have died between deciding to kill and doing it.
        evacuator.kill_workload();
    }
    Ok(TakenOver { evacuator, lost: Some(lost), _reclaim: reclaim })
}

/// The error, once the work is somebody else's; never returns otherwise. Cancel-safe.
pub(crate) async fn loss(lost: &mut Option<oneshot::Receiver<ClaimError>>) -> ClaimError {
    if let Some(receiver) = lost {
        let received = receiver.await;
        *lost = None;
        if let Ok(error) = received {
            return error;
        }
    }
    std::future::pending().await
}

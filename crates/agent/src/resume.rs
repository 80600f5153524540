//! Going on with an evacuation that a killed agent had begun.

use std::sync::Arc;

use lifeboat_core::evacuation::stage::{Plan, Stage, StageState};
use lifeboat_core::evacuation::{Input, Progress};
use lifeboat_snapshot::acquire;
use lifeboat_snapshot::claim::{Acquired, Wait};
use tokio::sync::Mutex;

use crate::clock::LocalClock;
use crate::evacuator::{Evacuator, Target};
use crate::hands::{SharedClaim, Site};
use crate::record::{Record, RecordFile};
use crate::renewal::Renewal;
use crate::setup::{RunError, Setup};
use crate::summary::Summary;

/// Goes on with an evacuation that a killed agent had begun.
pub(crate) async fn resume(
    setup: &Setup,
    site: &Arc<Site>,
    clock: LocalClock,
    (file, record): (RecordFile, Record),
) -> Result<Summary, RunError> {
    let claimant = setup.claimant(&site.instance)?;
    let Acquired { claim, .. } = acquire(&site.workload, &claimant, Wait::No).await?;
    let claim: SharedClaim = Arc::new(Mutex::new(claim));
    let (_renewal, _lost) = Renewal::start(Arc::clone(&claim));
    let target = match &record.workload {
        Some(mark) => Target::Leftover(mark.clone()),
        None => Target::None,
    };
    let drained = match &record.progress {
        Progress::Evacuating { stages, .. } => {
            matches!(stages[Stage::Drain.index()], StageState::Ended { .. })
        }
        Progress::Idle { .. } | Progress::Finished { .. } => false,
    };
    let plan = Plan { has_workload: record.workload.is_some(), ..site.settings.plan };
    let mut evacuator = Evacuator::new(Arc::clone(site), claim, clock, (file, record), target, plan);
    if drained && !evacuator.workload_goes_on() {
        // The agent may have died between deciding to kill and doing it.
        evacuator.kill_workload();
    }
    let mut summary = evacuator.feed(Input::Resumed);
    while summary.is_none() {
        let input = evacuator.next().await;
        summary = evacuator.feed(input);
    }
    evacuator.record.workload = None;
    evacuator.keep_record();
    Ok(summary.expect("the loop ends with one"))
}

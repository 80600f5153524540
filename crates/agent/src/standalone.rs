//! `lifeboat evacuate`: through the running agent if there is one, else by itself.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::evacuation::stage::Plan;
use lifeboat_core::evacuation::{Input, Progress};
use lifeboat_core::notice::{Action, Notice, Source};
use lifeboat_core::time::Millis;
use lifeboat_snapshot::acquire;
use lifeboat_snapshot::claim::{Acquired, Wait};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::clock::LocalClock;
use crate::control::{AskError, ask};
use crate::dirs::DirsError;
use crate::evacuator::{Evacuator, Target};
use crate::hands::SharedClaim;
use crate::record::RecordFile;
use crate::renewal::Renewal;
use crate::resume::resume;
use crate::run::{Ui, instance_name};
use crate::setup::{RunError, Setup};
use crate::summary::Summary;

/// Beyond the evacuation's own time, for the answer to arrive.
const ANSWER_MARGIN: Duration = Duration::from_secs(30);

/// Between two looks at the lock of an evacuation that somebody else runs.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Evacuates the workload of `setup` and waits for the result. Asked twice at once it runs once, and both
/// callers get the one result; asked again within the grace period it gives the result there is.
///
/// # Errors
/// [`RunError`]; its exit code tells whether somebody else owns the work.
pub async fn evacuate(setup: &Setup, ui: Ui) -> Result<Summary, RunError> {
    setup.dirs.create()?;
    let patience = setup.settings.grace.to_duration() + ANSWER_MARGIN;
    let begun = Instant::now();
    let lock = loop {
        match ask(&setup.dirs.socket, "POST", "/v1/evacuate", patience).await {
            Ok(answer) => {
                return serde_json::from_value(answer).map_err(|error| RunError::System {
                    what: "the running agent's answer cannot be read",
                    source: error.into(),
                });
            }
            Err(AskError::NoAgent | AskError::Failed(_)) => {}
        }
        match setup.dirs.lock() {
            Ok(lock) => break lock,
            // An agent that is just starting or ending, or another `lifeboat evacuate`.
            Err(DirsError::Locked { .. }) if begun.elapsed() < patience => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let summary = alone(setup, ui).await;
    drop(lock);
    summary
}

async fn alone(setup: &Setup, ui: Ui) -> Result<Summary, RunError> {
    let file = RecordFile::new(&setup.dirs.agent);
    let record = file.load();
    let clock = LocalClock::start();
    if let Progress::Finished { at, .. } = &record.progress
        && clock.now().since(*at) < setup.settings.grace
        && let Some(summary) = last_summary(setup)
    {
        tracing::info!("this interruption was evacuated a moment ago; that result stands");
        return Ok(summary);
    }
    let instance = instance_name(setup).await;
    let site = Arc::new(setup.site(instance, ui.ring, ui.progress)?);
    if matches!(record.progress, Progress::Evacuating { .. }) {
        return resume(setup, &site, clock, (file, record)).await;
    }
    let claimant = setup.claimant(&site.instance)?;
    // A dead agent on this machine left its claim, which is ours; somebody else's living claim is not waited for.
    let Acquired { claim, .. } = acquire(&site.workload, &claimant, Wait::No).await?;
    let claim: SharedClaim = Arc::new(Mutex::new(claim));
    let (_renewal, _lost) = Renewal::start(Arc::clone(&claim));
    let target = match &record.workload {
        Some(mark) if !mark.processes().is_empty() => Target::Leftover(mark.clone()),
        Some(_) | None => Target::None,
    };
    let plan = Plan { has_workload: !matches!(target, Target::None), ..setup.settings.plan };
    let mut evacuator = Evacuator::new(site, claim, clock, (file, record), target, plan);
    let notice = Notice {
        source: Source::Operator,
        action: Action::Terminate,
        key: None,
        deadline: clock.now() + setup.settings.grace.max(Millis(1)),
    };
    let mut summary = evacuator.feed(Input::Survived).or_else(|| evacuator.feed(Input::Notice(notice)));
    while summary.is_none() {
        let input = evacuator.next().await;
        summary = evacuator.feed(input);
    }
    evacuator.record.workload = None;
    evacuator.keep_record();
    Ok(summary.expect("the loop ends with one"))
}

fn last_summary(setup: &Setup) -> Option<Summary> {
    let text = std::fs::read(setup.dirs.agent.join("last_evacuation.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

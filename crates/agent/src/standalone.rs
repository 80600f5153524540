//! `lifeboat evacuate`: through the running agent if there is one, else by itself.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::evacuation::{Input, Progress};
use lifeboat_core::notice::{Action, Notice, Source};
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_snapshot::journal;
use tokio::time::Instant;

use crate::before::is_all_saved;
use crate::clock::{LocalClock, wall_now};
use crate::control::{AskError, ask};
use crate::dirs::DirsError;
use crate::hands::Site;
use crate::record::RecordFile;
use crate::resume::{loss, take_over};
use crate::run::Ui;
use crate::setup::{RunError, Setup};
use crate::summary::Summary;
use crate::whereabouts::whereabouts;

/// Beyond the evacuation's own time, for the answer to arrive.
const ANSWER_MARGIN: Duration = Duration::from_secs(30);

/// Between two looks at the lock of an evacuation that somebody else runs.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Evacuates the workload of `setup` and waits for the result. Asked twice at once it runs once, and both
/// callers get the one result; asked again within the grace period it gives the result there is,
/// unless something is missing from it.
///
/// # Errors
/// [`RunError`]; its exit code tells whether somebody else owns the work.
pub async fn evacuate(setup: &Setup, ui: Ui) -> Result<Summary, RunError> {
    setup.dirs.create()?;
    let grace = setup.settings.operator_grace.to_duration();
    let patience = grace + ANSWER_MARGIN;
    let (begun, begun_wall) = (Instant::now(), wall_now());
    let mut has_said = false;
    let lock = loop {
        let mut has_begun = true;
        match ask(&setup.dirs.socket, "POST", "/v1/evacuate", patience).await {
            Ok(answer) => {
                return serde_json::from_value(answer).map_err(|error| RunError::System {
                    what: "the running agent's answer cannot be read",
                    source: error.into(),
                });
            }
            Err(AskError::NotBegun) => has_begun = false,
            Err(AskError::NoAgent | AskError::Failed(_)) => {}
        }
        match setup.dirs.lock() {
            Ok(lock) => break lock,
            // An agent that is just starting or ending, or another `lifeboat evacuate`.
            Err(DirsError::Locked { .. }) if begun.elapsed() < if has_begun { patience } else { grace } => {
                if !has_begun && !has_said {
                    has_said = true;
                    tracing::info!(
                        "the agent here has not begun the work; waiting until it has, or has ended"
                    );
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(DirsError::Locked { .. }) if !has_begun => return Err(RunError::NotBegun),
            Err(error) => return Err(error.into()),
        }
    };
    let summary = alone(setup, ui, begun_wall).await;
    drop(lock);
    summary
}

async fn alone(setup: &Setup, ui: Ui, begun: Timestamp) -> Result<Summary, RunError> {
    let file = RecordFile::new(&setup.dirs.agent);
    let record = file.load();
    let clock = LocalClock::start();
    let site = Arc::new(setup.site(whereabouts(setup).await, ui)?);
    if let Progress::Finished { at, .. } = &record.progress
        && (*at >= begun
            || (is_all_saved(&record.progress) && clock.now().since(*at) < setup.settings.operator_grace))
        && let Some(summary) = Summary::of(&record, &site)
    {
        tracing::info!("this interruption was evacuated a moment ago; that result stands");
        return Ok(summary);
    }
    if record.restoring {
        return Err(RunError::Missing(
            "restoring into this work directory was not finished: what it holds must not be saved as the newest",
        ));
    }
    let is_resumed = matches!(record.progress, Progress::Evacuating { .. });
    if !is_resumed && is_finished(&site).await {
        return Err(RunError::Missing("the work is finished: there is nothing to evacuate"));
    }
    let mut taken = take_over(setup, &site, clock, (file, record))?;
    let evacuator = &mut taken.evacuator;
    let first = if is_resumed {
        Input::Resumed
    } else {
        // A hibernation that was outlived must not be taken for this interruption.
        evacuator.feed(Input::Survived);
        Input::Notice(Notice {
            source: Source::Operator,
            action: Action::Terminate,
            key: None,
            deadline: clock.now() + setup.settings.operator_grace.max(Millis(1)),
        })
    };
    let mut summary = evacuator.feed(first);
    let ended = loop {
        if let Some(summary) = summary {
            break Ok(summary);
        }
        let input = tokio::select! {
            input = evacuator.next() => input,
            error = loss(&mut taken.lost) => break Err(error),
        };
        summary = evacuator.feed(input);
    };
    if ended.is_err() {
        evacuator.forget_evacuation();
    }
    if ended.is_err() || !evacuator.workload_goes_on() {
        evacuator.kill_workload();
        evacuator.settle();
    }
    evacuator.keep_record();
    site.hooks.settle().await;
    site.heralds.settle().await;
    Ok(Summary { not_told: site.heralds.failed(), ..ended? })
}

/// Whether the journal says that the work is done. A store that does not answer says nothing.
async fn is_finished(site: &Site) -> bool {
    /// The evacuation itself waits longer for the store.
    const PATIENCE: Duration = Duration::from_secs(2);
    let head = tokio::time::timeout(PATIENCE, journal::head(&site.workload)).await;
    matches!(head, Ok(Ok(Some(head))) if matches!(head.record.event, journal::Event::Done { .. }))
}

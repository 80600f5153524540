//! How a run begins: what the work directory needs before the workload may start, and what it is told.

use std::ffi::OsString;
use std::sync::Arc;

use lifeboat_core::evacuation::Progress;
use lifeboat_core::evacuation::stage::{Outcome, Stage, StageState};
use lifeboat_snapshot::claim::{AcquireError, Acquired, How, Wait};
use lifeboat_snapshot::journal::RecoveryPoint;
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::{ManifestRef, acquire, extra, read_manifest, restore};
use tokio::time::Instant;

use crate::dirs::{Outlive, write_atomically};
use crate::hands::{Site, chain};
use crate::record::Record;
use crate::setup::RunError;

/// What is to be done with the work directory before the workload starts.
#[derive(Debug)]
pub(crate) enum RestorePlan {
    /// It is the newest there is, or there is nothing to restore.
    Keep,
    /// Bring it to this recovery point.
    Restore { point: Box<RecoveryPoint> },
}

/// Files that descend from what is stored are newer than it, unless they never were whole or are gone.
pub(crate) fn restore_plan(
    resume: Option<RecoveryPoint>,
    descends: bool,
    record: &Record,
    site: &Site,
) -> RestorePlan {
    let Some(point) = resume else { return RestorePlan::Keep };
    let own_files_are_newest = descends && !record.restoring && !was_cleaned_up(record) && !is_empty(site);
    if own_files_are_newest { RestorePlan::Keep } else { RestorePlan::Restore { point: Box::new(point) } }
}

/// Whether the last evacuation deleted files from the work directory, or may have.
fn was_cleaned_up(record: &Record) -> bool {
    match &record.progress {
        Progress::Idle { .. } => false,
        Progress::Evacuating { stages, .. } | Progress::Finished { stages, .. } => {
            match stages[Stage::CleanUp.index()] {
                StageState::Ended { outcome, .. } => match outcome {
                    Outcome::NotWanted | Outcome::NoTime | Outcome::NeedUnmet => false,
                    Outcome::Done
                    | Outcome::Partly
                    | Outcome::Failed
                    | Outcome::Nothing
                    | Outcome::TimedOut => true,
                },
                StageState::Waiting => false,
                StageState::Running { .. } => true,
            }
        }
    }
}

/// Whether the work directory holds nothing but what is Lifeboat's.
fn is_empty(site: &Site) -> bool {
    std::fs::read_dir(&site.work_dir)
        .is_ok_and(|entries| entries.flatten().all(|entry| site.own_paths.contains(&entry.path())))
}

pub(crate) fn log_plan(how: &How, plan: &RestorePlan) {
    let how = match how {
        How::Fresh => "new work".to_owned(),
        How::Continued => "going on with this machine's own work".to_owned(),
        How::Released(release) => format!("taking up evacuated work ({})", release.reason),
        How::TookOver { from } => format!("taking over from {}, which fell silent", from.instance),
    };
    match plan {
        RestorePlan::Keep => tracing::info!("{how}; nothing to restore"),
        RestorePlan::Restore { point } => tracing::info!(
            generation = point.seq,
            files = point.manifest.files,
            bytes = point.manifest.bytes,
            complete = point.manifest.complete,
            "{how}; restoring it"
        ),
    }
}

/// Restores `point`. Files that are still as in `base`, an earlier point of the same work, may be replaced.
pub(crate) async fn restore_into(
    site: &Site,
    point: &RecoveryPoint,
    base: Option<&ManifestRef>,
) -> Result<(), RunError> {
    let superseded = match base {
        Some(base) if *base != point.manifest => match read_manifest(&site.workload, base).await {
            Ok(manifest) => vec![Arc::new(manifest)],
            Err(error) => {
                tracing::info!(
                    error = chain(&error),
                    "what this directory held before is no longer stored: nothing in it may be replaced"
                );
                Vec::new()
            }
        },
        Some(_) | None => Vec::new(),
    };
    let options = RestoreOptions {
        superseded,
        exclude: site.settings.exclude.clone(),
        exclude_paths: site.own_paths.clone(),
        progress: (site.progress)("restoring"),
        ..RestoreOptions::new(&site.work_dir)
    };
    let restored = restore(&site.workload, &point.manifest, &options)
        .await
        .map_err(|source| RunError::Restore { path: site.work_dir.clone(), source })?;
    tracing::info!(
        files = restored.files,
        bytes = restored.bytes,
        already_there = restored.already_there,
        "restored"
    );
    Ok(())
}

/// What the workload is told about where it stands.
pub(crate) async fn environment(site: &Site, how: &How, plan: &RestorePlan) -> Vec<(&'static str, OsString)> {
    let restored = match plan {
        RestorePlan::Keep => "no",
        RestorePlan::Restore { point } if point.manifest.complete => "yes",
        RestorePlan::Restore { .. } => "partly",
    };
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("LIFEBOAT_WORKLOAD", site.workload.name().to_string().into()),
        ("LIFEBOAT_INSTANCE", site.instance.clone().into()),
        ("LIFEBOAT_WORK_DIR", site.work_dir.clone().into()),
        ("LIFEBOAT_STATE_FILE", site.work_dir.join(&site.settings.state_file).into()),
        ("LIFEBOAT_SIGNAL_FILE", site.signal_file.clone().into()),
        ("LIFEBOAT_RESTORED", restored.into()),
    ];
    let state = match how {
        How::Released(release) => release.state.as_ref(),
        How::Fresh | How::Continued | How::TookOver { .. } => None,
    };
    if let Some(stored) = state {
        let path = site.agent_dir.join("saved_state.json");
        let kept = match extra::get(&site.workload, stored).await {
            Ok(bytes) => write_atomically(&path, &bytes, Outlive::Process).map_err(|error| error.to_string()),
            Err(error) => Err(chain(&error)),
        };
        match kept {
            Ok(()) => variables.push(("LIFEBOAT_SAVED_STATE", path.into())),
            Err(error) => tracing::warn!(error, "the state that was saved at the interruption cannot be had"),
        }
    }
    variables
}

/// Claims the work; while another machine holds it, says so, to `on_held` as well, and waits.
pub(crate) async fn acquire_patiently(
    workload: &lifeboat_snapshot::Workload,
    claimant: &lifeboat_snapshot::Claimant,
    wait: Instant,
    on_held: impl FnOnce(),
) -> Result<Acquired, AcquireError> {
    match acquire(workload, claimant, Wait::No).await {
        Err(AcquireError::Held { by, .. }) if Instant::now() < wait => {
            tracing::warn!(
                by = by.instance,
                host = by.host,
                "another machine holds the work; waiting until it gives it up or falls silent"
            );
            on_held();
            acquire(workload, claimant, Wait::Until(wait)).await
        }
        other => other,
    }
}

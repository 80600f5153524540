//! The hands of the evacuation: one function a stage. They do what core decided and report what came of it;
//! none of them decides anything about another.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::backoff::Backoff;
use lifeboat_core::evacuation::stage::Report;
use lifeboat_core::notice::Interruption;
use lifeboat_core::time::Millis;
use lifeboat_snapshot::claim::ClaimError;
use lifeboat_snapshot::extra::StoredObject;
use lifeboat_snapshot::journal::{self, Release};
use lifeboat_snapshot::manifest::LeftOut;
use lifeboat_snapshot::save::Saved;
use lifeboat_snapshot::{Deadline, ManifestRef, Rounds, Workload, clean_up, read_manifest};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;
use crate::aside::aside;
use crate::clock::rfc3339;
use crate::config::Settings;
use crate::dirs::{Outlive, write_atomically};
use crate::foreign::Foreign;
use crate::heralds::Heralds;
use crate::holding::{Holding, SharedClaim};
use crate::hooks::{Hooks, Occasion, Outcome};
use crate::metrics::Meter;
use crate::ports::{Balancer, Lifecycle};
use crate::ring::LogRing;
use crate::summary::Snapshot;

/// Makes the progress display of one long operation, by its name.
pub type MakeProgress = Arc<dyn Fn(&str) -> Arc<dyn lifeboat_snapshot::Progress> + Send + Sync>;

/// So many paths that were not saved are named in the summary; the log names all.
const NAMED_MAX: usize = 20;

/// The last recovery point, of which only what differs is stored, is asked for so long: then everything is.
const BASE_WAIT: Duration = Duration::from_secs(3);

/// `before_snapshot` gets one part in so many of the snapshot's time: what is not read in the rest is not saved.
const BEFORE_SHARE: u32 = 4;

/// What every stage needs to know; fixed while the agent runs.
pub struct Site {
    /// The checked configuration.
    pub settings: Settings,
    /// The workload in its store.
    pub workload: Workload,
    /// What is saved and restored; absolute, links resolved.
    pub work_dir: PathBuf,
    /// The agent's own directory.
    pub agent_dir: PathBuf,
    /// Lifeboat's own places; those below the work directory are not saved.
    pub own_paths: Vec<PathBuf>,
    /// The commands around a snapshot.
    pub(crate) hooks: Hooks,
    /// Saves: in rounds while the work goes on, and at the end.
    pub rounds: Mutex<Rounds>,
    /// This machine's name in the store.
    pub instance: String,
    /// Written at the notice.
    pub signal_file: PathBuf,
    /// What the application tells.
    pub(crate) app: Arc<App>,
    /// Who waits for the evacuation.
    pub(crate) lifecycle: Option<Arc<dyn Lifecycle>>,
    /// Who sends requests here.
    pub(crate) balancers: Vec<Arc<dyn Balancer>>,
    /// Who is told of it.
    pub(crate) heralds: Heralds,
    /// What is counted.
    pub(crate) meter: Arc<Meter>,
    /// What runs here and was started by somebody else.
    pub(crate) foreign: Option<Arc<Foreign>>,
    /// The ECS task that this runs in.
    pub(crate) task: Option<lifeboat_imds::task::Task>,
    /// The agent's own last log lines.
    pub ring: LogRing,
    /// For progress bars.
    pub progress: MakeProgress,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site")
            .field("workload", &self.workload)
            .field("work_dir", &self.work_dir)
            .finish_non_exhaustive()
    }
}

/// What a stage's hand reports.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) report: Report,
    /// In a few words, for the summary.
    pub(crate) detail: String,
    /// What it stored, for the stages after it and for the record.
    pub(crate) stored: Stored,
}

/// What a stage has stored.
#[derive(Debug)]
pub(crate) enum Stored {
    Nothing,
    Snapshot(Snapshot, ManifestRef),
    State(StoredObject),
    Logs(StoredObject),
}

impl Handed {
    pub(crate) fn new(report: Report, detail: impl Into<String>) -> Self {
        Self { report, detail: detail.into(), stored: Stored::Nothing }
    }

    pub(crate) fn failed(error: &dyn std::error::Error) -> Self {
        Self::new(Report::Failed, chain(error))
    }

    pub(crate) fn given_back() -> Self {
        Self::new(Report::Failed, "the work has been given back")
    }
}

/// The error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Notify: the signal file, with what was announced.
pub(crate) async fn notify(site: &Site, interruption: &Interruption, deadline: &Deadline) -> Handed {
    let text = format!("{:#}\n", interruption_json(site, interruption));
    let path = site.signal_file.clone();
    let written = move || write_atomically(&path, text.as_bytes(), Outlive::Process);
    let shown = site.signal_file.display();
    match aside(deadline, written).await {
        Some(Ok(())) => Handed::new(Report::Done, shown.to_string()),
        Some(Err(error)) => Handed::new(Report::Failed, format!("{shown}: {error}")),
        None => Handed::new(Report::Failed, format!("{shown}: it cannot be written in time")),
    }
}

pub(crate) fn interruption_json(site: &Site, interruption: &Interruption) -> serde_json::Value {
    json!({
        "instance": site.instance,
        "action": interruption.action,
        "cause": interruption.cause,
        "announced_by": interruption.sources,
        "noticed": rfc3339(interruption.noticed),
        "deadline": rfc3339(interruption.deadline),
    })
}

/// Snapshot: save what the work directory holds, commit the manifest; before and after it, the user's commands. One
/// that fails is named, and keeps nothing from being saved: each file is whole all the same.
pub(crate) async fn snapshot(site: &Site, holding: &Holding, deadline: Deadline) -> Handed {
    let Some(claim) = holding.claim().await else { return Handed::given_back() };
    let share = |end: Instant| end.saturating_duration_since(Instant::now()) / BEFORE_SHARE;
    let around = site.hooks.begin(Occasion::Last, deadline.current().map(share)).await;
    let failure = around.failure().map(str::to_owned);
    let mut handed = save_and_commit(site, &claim, deadline).await;
    around.end(match handed.report {
        Report::Done | Report::Partly | Report::Nothing => Outcome::Committed,
        Report::Failed => Outcome::Failed,
    });
    if let Some(failure) = failure {
        tracing::error!(failure, "the snapshot was taken without being prepared");
        handed.detail = format!("{}; {failure}", handed.detail);
    }
    handed
}

async fn save_and_commit(site: &Site, claim: &SharedClaim, deadline: Deadline) -> Handed {
    let (id, point) = {
        let claim = claim.lock().await;
        (claim.id(), claim.point().cloned())
    };
    // A round that was under way has been broken off and gives this up at once.
    let mut rounds = site.rounds.lock().await;
    if let Some(point) = point.filter(|_| !rounds.has_base()) {
        let reading = tokio::time::timeout(BASE_WAIT, rounds.go_on_from(&point.manifest)).await;
        match reading {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "everything is stored anew"),
            Err(_) => {
                tracing::warn!("the last recovery point is not to be had in time: everything is stored anew")
            }
        }
    }
    let saved = match rounds.last(&id, deadline.clone(), (site.progress)("saving")).await {
        Ok(saved) => saved,
        Err(error) => return nothing_stored(site, &error),
    };
    site.meter.saved(saved.stored_bytes);
    let manifest = saved.manifest.clone();
    let committed = in_time(&deadline, || async { claim.lock().await.commit(manifest.clone()).await }).await;
    match committed {
        Ok(point) => {
            rounds.committed(&saved);
            let snapshot = describe(&saved, point.seq);
            let report = if snapshot.lost_count == 0 { Report::Done } else { Report::Partly };
            let detail = format!(
                "{} files, {}, generation {}",
                snapshot.files,
                bytes_text(snapshot.bytes),
                snapshot.generation
            );
            Handed { report, detail, stored: Stored::Snapshot(snapshot, manifest) }
        }
        Err(error) => nothing_stored(site, &error),
    }
}

/// No file is worth naming above another: none of what changed since the last recovery point is stored.
fn nothing_stored(site: &Site, error: &dyn std::error::Error) -> Handed {
    Handed::new(Report::Failed, format!("{}: {}", still_there(site), chain(error)))
}

/// Where what is not stored is to be found.
pub(crate) fn still_there(site: &Site) -> String {
    format!("nothing new of {} is stored, it is still there", site.work_dir.display())
}

fn describe(saved: &Saved, generation: u64) -> Snapshot {
    let (lost, passed_over): (Vec<_>, Vec<_>) = saved.left_out.iter().partition(|left| left.reason.is_loss());
    for left in &lost {
        tracing::error!(
            what = name(left),
            message = left.message,
            "not saved; it is still in the work directory"
        );
    }
    for left in &passed_over {
        tracing::info!(what = name(left), "passed over");
    }
    Snapshot {
        generation,
        files: saved.files,
        bytes: saved.bytes,
        lost_count: u64::try_from(lost.len()).unwrap_or(u64::MAX),
        lost: lost.iter().take(NAMED_MAX).map(|left| name(left)).collect(),
        passed_over: u64::try_from(passed_over.len()).unwrap_or(u64::MAX),
    }
}

/// Which path was left out and why, on one line.
fn name(left: &LeftOut) -> String {
    let path = left.path.as_ref().map_or_else(|| "the work directory".to_owned(), ToString::to_string);
    format!("{path}: {}", left.reason)
}

/// Repeats what the store refuses until the deadline; a fenced claim is not repeated.
async fn in_time<T, F>(deadline: &Deadline, operation: impl Fn() -> F) -> Result<T, ClaimError>
where
    F: Future<Output = Result<T, ClaimError>>,
{
    let backoff = Backoff { first: Millis(100), longest: Millis(2_000), seed: u64::from(std::process::id()) };
    let mut attempt = 0;
    loop {
        match operation().await {
            Err(ClaimError::Store(error)) => {
                let wait = backoff.wait(attempt).to_duration();
                let next = Instant::now() + wait;
                if deadline.current().is_some_and(|end| next >= end) {
                    return Err(ClaimError::Store(error));
                }
                tracing::warn!(error = chain(&error), "the store refused; trying again");
                tokio::time::sleep(wait).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// HandBack: give the claim up, so that the next machine goes on without waiting for the lease.
pub(crate) async fn hand_back(
    holding: &Holding,
    interruption: &Interruption,
    (state, logs): (Option<StoredObject>, Option<StoredObject>),
    deadline: Deadline,
) -> Handed {
    let Some(claim) = holding.claim().await else {
        return Handed::new(Report::Done, "given back before the agent was restarted");
    };
    let sources: Vec<String> = interruption.sources.iter().map(ToString::to_string).collect();
    let release = Release {
        reason: crate::summary::occasion(interruption),
        interruption: Some(journal::Interruption {
            action: interruption.action.to_string(),
            source: sources.join(", "),
            at: Some(rfc3339(interruption.deadline)),
        }),
        state,
        logs,
    };
    let released = in_time(&deadline, || async { claim.lock().await.release(release.clone()).await }).await;
    match released {
        Ok(()) => Handed::new(Report::Done, "the work may be taken up elsewhere"),
        Err(error) => Handed::failed(&error),
    }
}

/// CleanUp: delete from the work directory what the committed manifest proves to be stored.
pub(crate) async fn clean(site: &Site, committed: Option<ManifestRef>) -> Handed {
    let Some(committed) = committed else {
        return Handed::new(Report::Failed, "no manifest is committed");
    };
    let manifest = match read_manifest(&site.workload, &committed).await {
        Ok(manifest) => manifest,
        Err(error) => return Handed::failed(&error),
    };
    match clean_up(&site.work_dir, &Arc::new(manifest)).await {
        Ok(cleaned) => {
            for (path, reason) in &cleaned.kept {
                tracing::info!(%path, ?reason, "kept");
            }
            let kept = cleaned.kept.len();
            let detail = format!("{} files deleted, {kept} kept because they changed", cleaned.deleted);
            Handed::new(if kept == 0 { Report::Done } else { Report::Partly }, detail)
        }
        Err(error) => Handed::failed(&error),
    }
}

/// Bytes for people: `12.3 MiB`.
#[must_use]
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        let texts = [0, 1023, 1024, 1536, 10 << 20, 5 << 40].map(bytes_text);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10.0 MiB", "5.0 TiB"]);
    }
}

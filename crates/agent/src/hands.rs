//! The hands of the evacuation: one function a stage. They do what core decided and report what came of it;
//! none of them decides anything about another.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::backoff::Backoff;
use lifeboat_core::evacuation::stage::Report;
use lifeboat_core::notice::Interruption;
use lifeboat_core::time::Millis;
use lifeboat_snapshot::claim::{ClaimError, ClaimId};
use lifeboat_snapshot::extra::{self, Extra, StoredObject};
use lifeboat_snapshot::journal::{self, Release};
use lifeboat_snapshot::manifest::LeftOut;
use lifeboat_snapshot::save::Saved;
use lifeboat_snapshot::{Deadline, ManifestRef, Rounds, Workload, clean_up, read_manifest};
use lifeboat_worker::wire::Receipt;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::App;
use crate::clock::rfc3339;
use crate::config::Settings;
use crate::dirs::{Outlive, write_atomically};
use crate::foreign::Foreign;
use crate::heralds::Heralds;
use crate::holding::{Holding, SharedClaim};
use crate::hooks::{Hooks, Occasion, Outcome};
use crate::metrics::Meter;
use crate::ports::{Balancer, Lifecycle, SavedState};
use crate::ring::LogRing;
use crate::summary::Snapshot;

/// Makes the progress display of one long operation, by its name.
pub type MakeProgress = Arc<dyn Fn(&str) -> Arc<dyn lifeboat_snapshot::Progress> + Send + Sync>;

/// A state file larger than this belongs into the work directory, where it is saved as any file.
const STATE_MAX: u64 = 16 << 20;

/// SaveState gives up so long before its time is over; of a short time an eighth.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A table that is slower than this has failed; the store has the state.
const TABLE_WAIT: Duration = Duration::from_secs(5);

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
pub(crate) fn notify(site: &Site, interruption: &Interruption) -> Handed {
    let content = interruption_json(site, interruption);
    match write_atomically(&site.signal_file, format!("{content:#}\n").as_bytes(), Outlive::Process) {
        Ok(()) => Handed::new(Report::Done, site.signal_file.display().to_string()),
        Err(error) => Handed::new(Report::Failed, format!("{}: {error}", site.signal_file.display())),
    }
}

fn interruption_json(site: &Site, interruption: &Interruption) -> serde_json::Value {
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

/// SaveState: what the application told, first on this machine, then in the store: its partial results, its messages
/// back to their queues, and the state with the interruption added.
pub(crate) async fn save_state(
    site: &Site,
    holding: &Holding,
    interruption: &Interruption,
    deadline: Deadline,
) -> Handed {
    // A stage that is ended by force says nothing: what failed is to be named.
    let left = deadline.current().map(|end| end.saturating_duration_since(Instant::now()));
    let deadline = deadline.earlier(left.map_or(Duration::ZERO, |left| (left / 8).min(LAST_WORDS)));
    let (text, mut notes) = state_text(site);
    let state =
        text.map(|text| add_interruption(text, site.app.state(), interruption_json(site, interruption)));
    // Without the store this is all that there is, and `lifeboat evacuate --resume` goes on from it.
    site.app.spool_now();
    if let Some((state, _)) = &state
        && let Err(error) =
            write_atomically(&site.agent_dir.join("saved_state.json"), state, Outlive::PowerCut)
    {
        tracing::warn!(%error, "cannot keep a local copy of the saved state");
    }
    let receipts = receipts_in_file(site).unwrap_or_else(|why| {
        notes.push(why);
        Vec::new()
    });
    // Messages go back whether or not the store still knows us as the owner of the files.
    let claim = async {
        let id = match holding.claim().await {
            Some(claim) => claim.lock().await.id(),
            None => return None,
        };
        site.app.claimed(id.seq);
        Some(id)
    };
    let visibility = site.app.visibility_at(interruption.action);
    let Some(id) = claim.await else { return Handed::given_back() };
    let storing = async {
        match state {
            Some((state, note)) => {
                let kept = keep_state(site, &id, state, &deadline).await;
                Some(kept.map(|kept| Kept { text: format!("{}{note}", kept.text), ..kept }))
            }
            None => None,
        }
    };
    let (stored, handed) = tokio::join!(storing, site.app.hand_over(receipts, visibility, &deadline));
    site.app.spool_now();
    if !handed.is_nothing() {
        notes.push(handed.text());
    }
    let is_whole = notes.is_empty() || (handed.failed == 0 && notes.len() == 1 && !handed.is_nothing());
    match stored {
        None if handed.is_nothing() && notes.is_empty() => {
            Handed::new(Report::Nothing, format!("there is no {}", site.settings.state_file.display()))
        }
        None => {
            let did_something = handed.stored + handed.given_back > 0;
            let rest = if did_something { Report::Partly } else { Report::Failed };
            Handed::new(if is_whole { Report::Done } else { rest }, notes.join("; "))
        }
        Some(Ok(kept)) => Handed {
            report: if is_whole && kept.is_everywhere { Report::Done } else { Report::Partly },
            detail: [vec![kept.text], notes].concat().join("; "),
            stored: Stored::State(kept.stored),
        },
        Some(Err(error)) => Handed::new(Report::Failed, [vec![error], notes].concat().join("; ")),
    }
}

/// The state file as it is, `{}` where only the application told something; and what kept it from being read.
fn state_text(site: &Site) -> (Option<Vec<u8>>, Vec<String>) {
    let path = &site.settings.state_file;
    let told = || site.app.state().map(|_| b"{}".to_vec());
    match read_below(&site.work_dir, path, STATE_MAX) {
        Ok(text) => (Some(text), Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (told(), Vec::new()),
        Err(error) => (told(), vec![format!("{}: {error}", path.display())]),
    }
}

/// A state that is in the store.
struct Kept {
    stored: StoredObject,
    /// How large it is and where, or is not.
    text: String,
    /// In the table, too, where there is one.
    is_everywhere: bool,
}

/// The state into the store, and into the table where there is one. What is in the store counts as kept: whoever takes
/// the work up finds it there.
async fn keep_state(site: &Site, id: &ClaimId, state: Vec<u8>, deadline: &Deadline) -> Result<Kept, String> {
    let text = String::from_utf8_lossy(&state).into_owned();
    let stored = extra::put(&site.workload, id, Extra::State, state.into(), deadline);
    let stored = stored.await.map_err(|error| chain(&error))?;
    let size = bytes_text(stored.size);
    let Some(table) = site.app.table() else {
        return Ok(Kept { stored, text: size, is_everywhere: true });
    };
    let saved = SavedState {
        workload: site.workload.name().to_string(),
        instance: site.instance.clone(),
        at_unix_ms: u64::try_from(crate::clock::wall_now().0).unwrap_or(0),
        claim: id.seq,
        state: text,
        stored: Some(stored.key.clone()),
    };
    let left = deadline
        .current()
        .map_or(TABLE_WAIT, |end| end.saturating_duration_since(Instant::now()).min(TABLE_WAIT));
    let put = table.put(&saved, left).await;
    let text = match &put {
        Ok(()) => format!("{size}, also in {}", table.url()),
        Err(error) => format!("{size} stored, but not in {}: {}", table.url(), chain(error)),
    };
    Ok(Kept { stored, text, is_everywhere: put.is_ok() })
}

/// The receipts that the application keeps in a file: a list of texts, or of objects that name their queue.
fn receipts_in_file(site: &Site) -> Result<Vec<Receipt>, String> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Written {
        Handle(String),
        Named {
            #[serde(alias = "queue_url", alias = "QueueUrl")]
            queue: Option<String>,
            #[serde(alias = "receipt_handle", alias = "ReceiptHandle")]
            receipt: String,
        },
    }
    let path = &site.settings.receipts_file;
    let text = match read_below(&site.work_dir, path, STATE_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let written: Vec<Written> =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    written
        .into_iter()
        .map(|written| {
            let (queue, receipt) = match written {
                Written::Handle(receipt) => (None, receipt),
                Written::Named { queue, receipt } => (queue, receipt),
            };
            match queue.or_else(|| site.settings.queue_url.clone()) {
                Some(queue) => Ok(Receipt { queue, receipt }),
                None => Err(format!(
                    "{}: a receipt does not name its queue, and `queue.url` is not set",
                    path.display()
                )),
            }
        })
        .collect()
}

/// The state with the key `interruption` added; a state that is no JSON object is kept whole under `state`.
/// What the application told of its tasks is added as `tasks`.
fn add_interruption(
    text: Vec<u8>,
    tasks: Option<serde_json::Value>,
    interruption: serde_json::Value,
) -> (Vec<u8>, &'static str) {
    let (mut state, note) = match serde_json::from_slice(&text) {
        Ok(serde_json::Value::Object(state)) => (state, ""),
        Ok(state) => ([("state".to_owned(), state)].into_iter().collect(), ""),
        Err(_) => {
            let kept = String::from_utf8_lossy(&text).into_owned().into();
            ([("state".to_owned(), kept)].into_iter().collect(), ", not valid JSON, kept as text")
        }
    };
    state.extend(tasks.map(|tasks| ("tasks".to_owned(), tasks)));
    state.insert("interruption".to_owned(), interruption);
    (serde_json::to_vec_pretty(&state).unwrap_or(text), note)
}

/// Reads a file below `dir` without following any link on the way.
fn read_below(dir: &Path, path: &Path, size_max: u64) -> io::Result<Vec<u8>> {
    let mut file = open_below(dir, path)?;
    let size = file.metadata()?.len();
    if size > size_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{size} bytes are more than {size_max}"),
        ));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(size_max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(crate) fn open_below(dir: &Path, path: &Path) -> io::Result<std::fs::File> {
    // O_NONBLOCK: a pipe in the file's place must not hang the stage.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let base = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let opened: OwnedFd = rustix::fs::openat2(&base, path, flags, Mode::empty(), resolve)?;
    regular(std::fs::File::from(opened))
}

pub(crate) fn regular(file: std::fs::File) -> io::Result<std::fs::File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
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
    fn the_interruption_is_added_to_any_state() {
        let added = |text: &[u8]| -> serde_json::Value {
            let (state, _) = add_interruption(text.to_vec(), None, json!({"action": "stop"}));
            serde_json::from_slice(&state).expect("valid JSON")
        };
        assert_eq!(added(br#"{"done": 3}"#), json!({"done": 3, "interruption": {"action": "stop"}}));
        assert_eq!(added(b"[1]"), json!({"state": [1], "interruption": {"action": "stop"}}));
        assert_eq!(added(b"\xff{"), json!({"state": "\u{fffd}{", "interruption": {"action": "stop"}}));
    }

    #[test]
    fn nothing_outside_the_work_directory_is_read() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let work = temp.path().join("work");
        std::fs::create_dir_all(work.join("sub")).expect("created");
        std::fs::write(temp.path().join("secret"), "s").expect("written");
        std::fs::write(work.join("sub/state.json"), "{}").expect("written");
        std::os::unix::fs::symlink("../secret", work.join("link")).expect("linked");
        std::os::unix::fs::symlink("..", work.join("up")).expect("linked");
        assert_eq!(read_below(&work, Path::new("sub/state.json"), 9).expect("read"), b"{}");
        for path in ["link", "up/secret", "../secret", "sub"] {
            assert!(read_below(&work, Path::new(path), 9).is_err(), "{path}");
        }
        assert!(read_below(&work, Path::new("sub/state.json"), 1).is_err(), "too large");
    }

    #[test]
    fn bytes_read_well() {
        let texts = [0, 1023, 1024, 1536, 10 << 20, 5 << 40].map(bytes_text);
        assert_eq!(texts, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10.0 MiB", "5.0 TiB"]);
    }
}

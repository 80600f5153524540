//! SaveState: what the application told and keeps in its state file, first on this machine, then in the store; its
//! messages back to their queues.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::evacuation::stage::Report;
use lifeboat_core::notice::Interruption;
use lifeboat_snapshot::Deadline;
use lifeboat_snapshot::claim::ClaimId;
use lifeboat_snapshot::extra::{self, Extra, StoredObject};
use lifeboat_worker::wire::Receipt;
use tokio::time::Instant;

use crate::aside::aside;
use crate::below::read_below;
use crate::dirs::{Outlive, write_atomically};
use crate::hands::{Handed, Site, Stored, bytes_text, chain, interruption_json};
use crate::holding::Holding;
use crate::ports::SavedState;

/// A state file larger than this belongs into the work directory, where it is saved as any file.
const STATE_MAX: u64 = 16 << 20;

/// SaveState gives up so long before its time is over; of a short time an eighth.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A table that is slower than this has failed; the store has the state.
const TABLE_WAIT: Duration = Duration::from_secs(5);

/// A directory in which two small files cannot be read in this time hangs.
const READ_WAIT: Duration = Duration::from_secs(3);

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
    let Read { state, receipts, mut notes } = read(site, &deadline).await;
    let state =
        state.map(|text| add_interruption(text, site.app.state(), interruption_json(site, interruption)));
    // Without the store this is all that there is, and `lifeboat evacuate --resume` goes on from it.
    keep_here(site, state.as_ref().map(|(state, _)| state.clone()), &deadline).await;
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
    let id = tokio::select! {
        biased;
        id = claim => match id {
            Some(id) => id,
            None => return Handed::given_back(),
        },
        () = deadline.passed() => {
            let what = "the store does not answer: the state is on this machine alone";
            return Handed::new(Report::Failed, [vec![what.to_owned()], notes].concat().join("; "));
        }
    };
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
    keep_here(site, None, &deadline).await;
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

/// What the work directory tells.
struct Read {
    /// The state file as it is, `{}` where only the application told something.
    state: Option<Vec<u8>>,
    receipts: Vec<Receipt>,
    /// What could not be read, and why.
    notes: Vec<String>,
}

/// Reads the two files that the application may keep. Its directory may hang: what it told is saved all the same.
async fn read(site: &Site, deadline: &Deadline) -> Read {
    let (state_file, receipts_file) = (&site.settings.state_file, &site.settings.receipts_file);
    let (dir, paths) = (site.work_dir.clone(), [state_file.clone(), receipts_file.clone()]);
    // A share of the time: the store wants some, too.
    let left = deadline.current().map_or(READ_WAIT, |end| end.saturating_duration_since(Instant::now()) / 4);
    let soon = Deadline::at(Instant::now() + left.min(READ_WAIT));
    let files = aside(&soon, move || paths.map(|path| read_below(&dir, &path, STATE_MAX))).await;
    let mut notes = Vec::new();
    let mut found = |path: &Path, file: io::Result<Vec<u8>>| match file {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            notes.push(format!("{}: {error}", path.display()));
            None
        }
    };
    let hangs = || Err(io::Error::new(io::ErrorKind::TimedOut, "it cannot be read in time"));
    let [state, receipts_text] = files.unwrap_or_else(|| [hangs(), hangs()]);
    let state = found(state_file, state).or_else(|| site.app.state().map(|_| b"{}".to_vec()));
    let text = found(receipts_file, receipts_text);
    let (receipts, wrong) =
        text.map_or((Vec::new(), None), |text| receipts(&text, site.settings.queue_url.as_deref()));
    notes.extend(wrong.map(|wrong| format!("{}: {wrong}", receipts_file.display())));
    Read { state, receipts, notes }
}

/// Keeps the state and the tasks on this machine, best effort.
async fn keep_here(site: &Site, state: Option<Vec<u8>>, deadline: &Deadline) {
    let (app, path) = (Arc::clone(&site.app), site.agent_dir.join("saved_state.json"));
    // Half of what is left: the store wants some, too.
    let left = deadline.current().map_or(READ_WAIT, |end| end.saturating_duration_since(Instant::now()) / 2);
    let soon = Deadline::at(Instant::now() + left);
    let written = aside(&soon, move || {
        app.spool_now();
        state.map_or(Ok(()), |state| write_atomically(&path, &state, Outlive::PowerCut))
    });
    match written.await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::warn!(%error, "cannot keep a local copy of the saved state"),
        None => tracing::warn!("cannot keep a local copy of the saved state in time"),
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

/// The receipts that the application keeps in a file: a list of texts, or of objects that name their queue. And what is
/// wrong with the others: one that makes no sense keeps none from going back.
fn receipts(text: &[u8], queue_of_others: Option<&str>) -> (Vec<Receipt>, Option<String>) {
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
    const FORM: &str = "a list of receipts is wanted, texts or objects with `queue` and `receipt`";
    let written: Vec<serde_json::Value> = match serde_json::from_slice(text) {
        Ok(serde_json::Value::Array(written)) => written,
        Ok(_) => return (Vec::new(), Some(FORM.to_owned())),
        Err(error) => return (Vec::new(), Some(format!("{FORM}: {error}"))),
    };
    let (mut known, mut odd, mut homeless) = (Vec::new(), 0, 0);
    for written in written {
        let (queue, receipt) = match serde_json::from_value(written) {
            Ok(Written::Handle(receipt)) => (None, receipt),
            Ok(Written::Named { queue, receipt }) => (queue, receipt),
            Err(_) => {
                odd += 1;
                continue;
            }
        };
        match queue.or_else(|| queue_of_others.map(str::to_owned)) {
            Some(queue) => known.push(Receipt { queue, receipt }),
            None => homeless += 1,
        }
    }
    let mut wrong = Vec::new();
    if odd > 0 {
        wrong.push(format!("{odd} entries make no sense: {FORM}"));
    }
    if homeless > 0 {
        wrong.push(format!("{homeless} receipts do not name their queue, and `queue.url` is not set"));
    }
    (known, (!wrong.is_empty()).then(|| wrong.join("; ")))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
    fn receipts_that_make_no_sense_are_told_and_keep_none_from_going_back() {
        let read = |text: &str, queue| {
            let (receipts, wrong) = receipts(text.as_bytes(), queue);
            let shown: Vec<String> =
                receipts.into_iter().map(|one| format!("{}={}", one.queue, one.receipt)).collect();
            (shown, wrong.unwrap_or_default())
        };
        let list = r#"["a", {"queue": "q", "receipt": "b"}, 5, {"QueueUrl": "q", "ReceiptHandle": "c"}, {}]"#;
        let (known, wrong) = read(list, Some("d"));
        assert_eq!(known, ["d=a", "q=b", "q=c"]);
        assert!(
            wrong.contains("2 entries make no sense") && wrong.contains("`queue` and `receipt`"),
            "{wrong}"
        );
        let (known, wrong) = read(list, None);
        assert_eq!(known, ["q=b", "q=c"]);
        assert!(wrong.contains("1 receipts do not name their queue"), "{wrong}");
        for nonsense in ["", "{\"a\":", "{}", "7"] {
            let (known, wrong) = read(nonsense, Some("d"));
            assert!(known.is_empty() && wrong.contains("a list of receipts is wanted"), "{wrong}");
        }
        assert_eq!(read("[]", None), (vec![], String::new()));
    }
}

//! `lifeboat show`: one workload, as the store has it, and as the table of states has it where one is configured.

use std::time::Duration;

use lifeboat_agent::{RunError, bytes_text};
use lifeboat_snapshot::journal::{self, Event, Record, RecoveryPoint};
use lifeboat_snapshot::manifest::{EntryKind, Manifest};
use lifeboat_snapshot::{Workload, extra, read_manifest};
use serde_json::{Value, json};

use super::store::{state, unknown, workload};
use crate::args::ShowArgs;
use crate::output::{self, instant, table};
use crate::wiring::{self, SavedState};

/// How many recovery points are printed.
const POINTS_SHOWN: usize = 10;

/// A table that is slower than this has failed.
const TABLE_WAIT: Duration = Duration::from_secs(10);

/// What the table of states says.
struct InTable {
    /// `dynamodb://TABLE`.
    url: String,
    /// The newest state, if there is one, or why that is not known.
    found: Result<Option<SavedState>, String>,
}

/// What the store says.
struct InStore {
    head: Record,
    points: Vec<RecoveryPoint>,
    release: Option<Box<journal::Release>>,
    saved_state: Option<String>,
    final_logs: Option<String>,
    /// Which of the two is there and cannot be read, and why.
    unreadable_extras: Vec<String>,
    manifest: Option<Manifest>,
    /// Why the newest recovery point cannot be read.
    unreadable: Option<String>,
}

pub(crate) async fn show(args: &ShowArgs, json: bool) -> anyhow::Result<u8> {
    let (in_store, in_table) = tokio::join!(look_in_store(args), look_in_table(args));
    let in_table = in_table?;
    let has_state = in_table.as_ref().is_some_and(|table| matches!(table.found, Ok(Some(_))));
    let in_store = match in_store {
        Ok(in_store) => Some(in_store),
        // A store that is away must not hide what the table has.
        Err(error) if has_state => {
            output::failure(&error, json);
            None
        }
        Err(error) => return Err(error),
    };
    let mut value = in_store.as_ref().map_or_else(|| json!({}), |in_store| value_of(in_store, args));
    value["name"] = args.name.clone().into();
    value["table"] = in_table.as_ref().map_or(Value::Null, InTable::value);
    output::either(json, &value, || {
        let mut text = in_store.as_ref().map_or_else(String::new, |in_store| text_of(in_store, args));
        if let Some(table) = &in_table {
            let stored = in_store.as_ref().and_then(|in_store| in_store.saved_state.as_deref());
            text.push_str(&table.text(&args.name, stored));
        }
        text
    })?;
    Ok(0)
}

async fn look_in_table(args: &ShowArgs) -> anyhow::Result<Option<InTable>> {
    let config = args.store.config()?;
    if config.state.is_none() {
        return Ok(None);
    }
    let Some(table) = wiring::table(&config.settings()?)? else { return Ok(None) };
    let found = table.newest(&args.name, TABLE_WAIT).await.map_err(|error| error.to_string());
    Ok(Some(InTable { url: table.url(), found }))
}

async fn look_in_store(args: &ShowArgs) -> anyhow::Result<InStore> {
    let workload = workload(&args.store, &args.name)?;
    let mut records = journal::records(&workload).await.map_err(RunError::from)?;
    let release = records.iter().rev().find_map(|record| match &record.event {
        Event::Released(release) => Some(release.clone()),
        Event::Claimed { .. } | Event::Committed | Event::Done { .. } => None,
    });
    let Some(head) = records.pop() else { return Err(unknown(&args.store, &args.name)) };
    let mut points = journal::recovery_points(&workload).await.map_err(RunError::from)?;
    points.sort_by_key(|point| std::cmp::Reverse(point.seq));
    let (state, logs) =
        release.as_ref().map_or((None, None), |release| (release.state.as_ref(), release.logs.as_ref()));
    let mut unreadable_extras = Vec::new();
    let saved_state = saved(&workload, ("saved state", state), &mut unreadable_extras).await;
    let final_logs = saved(&workload, ("final logs", logs), &mut unreadable_extras).await;
    // A damaged recovery point must not hide the rest.
    let (manifest, unreadable) = match points.first() {
        Some(point) => match read_manifest(&workload, &point.manifest).await {
            Ok(manifest) => (Some(manifest), None),
            Err(error) => (None, Some(output::causes(&error.into()).join(": "))),
        },
        None => (None, None),
    };
    Ok(InStore { head, points, release, saved_state, final_logs, unreadable_extras, manifest, unreadable })
}

async fn saved(
    workload: &Workload,
    (what, stored): (&str, Option<&extra::StoredObject>),
    unreadable: &mut Vec<String>,
) -> Option<String> {
    match extra::get(workload, stored?).await {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            unreadable.push(format!("{what}: {}", output::causes(&error.into()).join(": ")));
            None
        }
    }
}

/// Text that is JSON as such, anything else as a text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn files(in_store: &InStore) -> Vec<(String, u64, Value)> {
    let entries = in_store.manifest.iter().flat_map(|manifest| &manifest.entries);
    entries
        .filter_map(|entry| match &entry.kind {
            EntryKind::File { size, digest, .. } => Some((entry.path.to_string(), *size, json!(digest))),
            EntryKind::Directory | EntryKind::Link { .. } => None,
        })
        .collect()
}

fn value_of(in_store: &InStore, args: &ShowArgs) -> Value {
    let left_out = in_store.manifest.iter().flat_map(|manifest| &manifest.left_out);
    let mut value = json!({
        "state": state(&in_store.head.event),
        "head": in_store.head,
        "recovery_points": in_store.points,
        "release": in_store.release,
        "unreadable": in_store.unreadable,
        "unreadable_extras": in_store.unreadable_extras,
        "left_out": left_out.collect::<Vec<_>>(),
        "saved_state": in_store.saved_state.as_deref().map(parsed),
        "final_logs": in_store.final_logs,
    });
    if args.files {
        let files = files(in_store).into_iter();
        let files = files.map(|(path, size, blake3)| json!({ "path": path, "size": size, "blake3": blake3 }));
        value["files"] = files.collect();
    }
    value
}

fn text_of(in_store: &InStore, args: &ShowArgs) -> String {
    let mut text = describe(&args.name, &in_store.head, &in_store.points);
    if let Some(release) = &in_store.release {
        text.push_str(&format!("last given back: {}\n", release.reason));
    }
    if let Some(why) = &in_store.unreadable {
        text.push_str(&format!("the newest recovery point is UNREADABLE: {why}\n"));
    }
    for left in in_store.manifest.iter().flat_map(|manifest| &manifest.left_out) {
        let path = left.path.as_ref().map_or_else(|| "(work directory)".into(), ToString::to_string);
        text.push_str(&format!("left out: {path}: {}\n", left.reason));
    }
    for why in &in_store.unreadable_extras {
        text.push_str(&format!("UNREADABLE: {why}\n"));
    }
    if let Some(state) = &in_store.saved_state {
        text.push_str(&format!("saved state:\n{state}\n"));
    }
    if let Some(logs) = &in_store.final_logs {
        text.push_str(&format!("final logs:\n{logs}\n"));
    }
    if args.files {
        let row = |(path, size, _): (String, u64, Value)| vec![bytes_text(size), path];
        text.push_str(&table(&files(in_store).into_iter().map(row).collect::<Vec<_>>()));
    }
    text
}

fn describe(name: &str, head: &Record, points: &[RecoveryPoint]) -> String {
    let holder = &head.holder;
    let mut text = format!(
        "{name}: {} by {} on {} (process {}) since {}\n",
        state(&head.event),
        holder.instance,
        holder.host,
        holder.pid,
        instant(head.at_unix_ms),
    );
    let mut rows = vec![["GENERATION", "SAVED", "FILES", "SIZE", "LEFT OUT", ""].map(str::to_owned).to_vec()];
    for point in points.iter().take(POINTS_SHOWN) {
        rows.push(vec![
            point.seq.to_string(),
            instant(point.at_unix_ms),
            point.manifest.files.to_string(),
            bytes_text(point.manifest.bytes),
            point.manifest.left_out.to_string(),
            if point.manifest.complete { "complete" } else { "INCOMPLETE" }.to_owned(),
        ]);
    }
    text.push_str(&if points.is_empty() { "no recovery point yet\n".to_owned() } else { table(&rows) });
    text
}

impl InTable {
    fn value(&self) -> Value {
        match &self.found {
            Ok(Some(found)) => json!({
                "url": self.url,
                "instance": found.instance,
                "at_unix_ms": found.at_unix_ms,
                "claim": found.claim,
                "state": Some(&found.state).filter(|text| !text.is_empty()).map(|text| parsed(text)),
                "stored": found.stored,
            }),
            Ok(None) => json!({ "url": self.url, "state": null }),
            Err(error) => json!({ "url": self.url, "error": error }),
        }
    }

    /// `stored`: the state that the store has, which need not be said twice.
    fn text(&self, name: &str, stored: Option<&str>) -> String {
        let url = &self.url;
        let found = match &self.found {
            Ok(Some(found)) => found,
            Ok(None) => return format!("{url} has no state of {name}\n"),
            Err(error) => return format!("{url} CANNOT BE READ: {error}\n"),
        };
        let by = format!("{url}, saved by {} at {}", found.instance, instant(found.at_unix_ms));
        match (found.state.as_str(), &found.stored) {
            ("", Some(key)) => format!("a state in {by}, is too large for the table: {key} in the store\n"),
            (text, _) if Some(text) == stored => format!("the same state is in {by}\n"),
            (text, _) => format!("the state in {by}:\n{text}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_table(found: Result<Option<SavedState>, String>) -> InTable {
        InTable { url: "dynamodb://t".to_owned(), found }
    }

    #[test]
    fn the_table_is_told_of_whether_it_has_the_state_another_one_a_pointer_or_none() {
        let state = SavedState {
            workload: "w".to_owned(),
            instance: "i-1".to_owned(),
            at_unix_ms: 0,
            claim: 3,
            state: "{\"done\":7}".to_owned(),
            stored: Some("extras/3/state.json".to_owned()),
        };
        let pointer = SavedState { state: String::new(), ..state.clone() };
        let is_here = in_table(Ok(Some(state)));
        assert_eq!(
            is_here.text("w", Some("{\"done\":7}")),
            "the same state is in dynamodb://t, saved by i-1 at 1970-01-01T00:00:00.000Z\n"
        );
        assert!(is_here.text("w", None).ends_with("{\"done\":7}\n"));
        assert_eq!(is_here.value()["state"]["done"], 7);
        let is_away = in_table(Ok(Some(pointer)));
        assert!(is_away.text("w", None).contains("extras/3/state.json in the store"));
        assert_eq!(is_away.value()["state"], Value::Null);
        assert_eq!(in_table(Ok(None)).text("w", None), "dynamodb://t has no state of w\n");
        let denied = in_table(Err("not allowed".to_owned()));
        assert_eq!(denied.text("w", None), "dynamodb://t CANNOT BE READ: not allowed\n");
        assert_eq!(denied.value()["error"], "not allowed");
    }
}

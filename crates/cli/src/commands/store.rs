//! What is in the store: `lifeboat list`, `verify`, `prune`. `show` has a file of its own.

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use lifeboat_agent::{RunError, Ui, bytes_text};
use lifeboat_core::conclusion::exit_code;
use lifeboat_snapshot::journal::{self, Event, Head, RecoveryPoint};
use lifeboat_snapshot::manifest::ReadManifestError;
use lifeboat_snapshot::prune::PrunePlan;
use lifeboat_snapshot::{ObjectStore, StoreError, StoreUrl, Workload, WorkloadName};
use serde_json::json;

use crate::args::{PointArgs, PruneArgs, StoreArgs};
use crate::output::{self, instant, table};

pub(crate) async fn list(args: &StoreArgs, json: bool) -> anyhow::Result<u8> {
    let mut rows =
        vec![["NAME", "STATE", "OWNER", "GENERATION", "FILES", "SIZE", "SINCE"].map(str::to_owned).to_vec()];
    let mut values = Vec::new();
    let (url, store) = open(args)?;
    for name in names(store.as_ref()).await? {
        let Some(store) = &store else { break };
        let workload = Workload::new(Arc::clone(store), name.clone());
        // One damaged workload must not hide the others.
        match journal::head(&workload).await {
            Ok(Some(head)) => {
                let record = head.record;
                let point = record.point.as_ref();
                rows.push(vec![
                    name.to_string(),
                    state(&record.event).to_owned(),
                    record.holder.instance.clone(),
                    point.map_or_else(|| "-".into(), |point| point.seq.to_string()),
                    point.map_or_else(|| "-".into(), |point| point.manifest.files.to_string()),
                    point.map_or_else(|| "-".into(), |point| bytes_text(point.manifest.bytes)),
                    instant(record.at_unix_ms),
                ]);
                values.push(json!({ "name": name, "state": state(&record.event), "head": record }));
            }
            Ok(None) => {}
            Err(error) => {
                rows.push(vec![name.to_string(), "damaged".into(), error.to_string()]);
                values.push(json!({ "name": name, "state": "damaged", "error": error.to_string() }));
            }
        }
    }
    output::either(json, &values, || {
        if rows.len() == 1 { format!("nothing is stored in {url}\n") } else { table(&rows) }
    })?;
    Ok(0)
}

pub(super) const fn state(event: &Event) -> &'static str {
    match event {
        Event::Claimed { .. } | Event::Committed => "held",
        Event::Released(_) => "evacuated",
        Event::Done { .. } => "done",
    }
}

pub(crate) async fn verify(args: &PointArgs, ui: &Ui, json: bool) -> anyhow::Result<u8> {
    let (workload, point) = point(args).await?;
    let progress = (ui.progress)("verifying");
    let verified = lifeboat_snapshot::verify(&workload, &point.manifest, progress.as_ref()).await;
    drop(progress);
    let verified = match verified {
        Ok(verified) => verified,
        Err(error) if is_damage(&error) => {
            output::failure(&error.into(), json);
            return Ok(exit_code::NOT_RESTORED);
        }
        Err(error) => return Err(error.into()),
    };
    let damaged: Vec<String> =
        verified.damaged.iter().map(|(key, error)| format!("{key}: {error}")).collect();
    let value = json!({ "generation": point.seq, "sound_objects": verified.sound, "damaged": damaged });
    output::either(json, &value, || {
        let verdict = if damaged.is_empty() { "sound" } else { "DAMAGED" };
        let lines: String = damaged.iter().map(|line| format!("  {line}\n")).collect();
        format!(
            "generation {}: {verdict}, {} files, {}, in {} objects\n{lines}",
            point.seq,
            point.manifest.files,
            bytes_text(point.manifest.bytes),
            verified.sound + u64::try_from(damaged.len()).unwrap_or(u64::MAX),
        )
    })?;
    Ok(if damaged.is_empty() { 0 } else { exit_code::NOT_RESTORED })
}

pub(crate) async fn prune(args: &PruneArgs, json: bool) -> anyhow::Result<u8> {
    let keep = usize::try_from(args.keep).ok().and_then(NonZeroUsize::new);
    let Some(keep) = keep else {
        bail!("--keep must be at least 1: the newest recovery point is never deleted")
    };
    let (url, store) = open(&args.store)?;
    let all = names(store.as_ref()).await?;
    let wanted: Option<WorkloadName> =
        args.name.as_ref().map(|name| name.parse()).transpose().map_err(RunError::from)?;
    let chosen = match wanted {
        Some(name) if all.contains(&name) => vec![name],
        Some(name) => return Err(unknown(&args.store, name.as_str())),
        None => all,
    };
    let plan = PrunePlan { keep, holder: None, is_dry_run: args.dry_run };
    let (mut values, mut text) = (Vec::new(), String::new());
    for name in chosen {
        let Some(store) = &store else { break };
        let workload = Workload::new(Arc::clone(store), name);
        let pruned = lifeboat_snapshot::prune(&workload, &plan).await?;
        let generations: Vec<u64> = pruned.forgotten.iter().map(|point| point.seq).collect();
        let name = workload.name();
        values.push(json!({
            "name": name, "forgotten": generations, "objects": pruned.objects, "bytes": pruned.bytes, "dry_run": args.dry_run,
        }));
        let (verb, count) = (if args.dry_run { "would delete" } else { "deleted" }, pruned.objects.len());
        let forgotten = match generations.as_slice() {
            [] => "every recovery point is kept".to_owned(),
            [one] => format!("recovery point {one}"),
            several => format!(
                "recovery points {}",
                several.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
            ),
        };
        text.push_str(&format!(
            "{name}: {verb} {count} objects, {}; {forgotten}\n",
            bytes_text(pruned.bytes)
        ));
        if args.dry_run {
            for (key, size) in &pruned.objects {
                text.push_str(&format!("  {key} ({})\n", bytes_text(*size)));
            }
        }
    }
    output::either(json, &values, || {
        if text.is_empty() { format!("nothing is stored in {url}\n") } else { text }
    })?;
    Ok(0)
}

/// Whether the fault lies in what is stored, not in the way to it.
const fn is_damage(error: &ReadManifestError) -> bool {
    matches!(
        error,
        ReadManifestError::Refused { .. }
            | ReadManifestError::Store(StoreError::Corrupt { .. } | StoreError::NotFound { .. })
    )
}

/// Opens the store that the flags name. `None`: it is a directory that does not exist; asking creates nothing.
fn open(args: &StoreArgs) -> anyhow::Result<(StoreUrl, Option<Arc<dyn ObjectStore>>)> {
    let url = url(args)?;
    if url.directory().is_some_and(|directory| !directory.exists()) {
        return Ok((url, None));
    }
    let store = lifeboat_agent::setup::open_store(&url)?;
    Ok((url, Some(store)))
}

fn url(args: &StoreArgs) -> anyhow::Result<StoreUrl> {
    let state = lifeboat_agent::dirs::state_dir(|name| std::env::var_os(name));
    Ok(lifeboat_agent::setup::store_url(&args.config()?, &state)?)
}

async fn names(store: Option<&Arc<dyn ObjectStore>>) -> anyhow::Result<Vec<WorkloadName>> {
    match store {
        Some(store) => Ok(Workload::list(store).await.map_err(RunError::from)?),
        None => Ok(Vec::new()),
    }
}

pub(super) fn workload(args: &StoreArgs, name: &str) -> anyhow::Result<Workload> {
    let checked: WorkloadName = name.parse().map_err(RunError::from)?;
    match open(args)? {
        (_, Some(store)) => Ok(Workload::new(store, checked)),
        (_, None) => Err(unknown(args, name)),
    }
}

pub(super) fn unknown(args: &StoreArgs, name: &str) -> anyhow::Error {
    match url(args) {
        Ok(url) => anyhow!("there is no workload `{name}` in {url}; `lifeboat list` shows what there is"),
        Err(error) => error,
    }
}

/// The workload and the recovery point that the flags name.
pub(crate) async fn point(args: &PointArgs) -> anyhow::Result<(Workload, RecoveryPoint)> {
    let (workload, point, _) = point_and_head(args).await?;
    Ok((workload, point))
}

/// The same, with the newest record of the journal as it was looked at for it.
pub(crate) async fn point_and_head(args: &PointArgs) -> anyhow::Result<(Workload, RecoveryPoint, Head)> {
    let workload = workload(&args.store, &args.name)?;
    let Some(head) = journal::head(&workload).await.map_err(RunError::from)? else {
        return Err(unknown(&args.store, &args.name));
    };
    // The head names the newest point itself, unless the work was begun anew since.
    if let (None, Some(newest)) = (args.generation, head.record.point.clone()) {
        return Ok((workload, newest, head));
    }
    let points = journal::recovery_points(&workload).await.map_err(RunError::from)?;
    let wanted = match args.generation {
        Some(generation) => points.into_iter().find(|point| point.seq == generation),
        None => points.into_iter().max_by_key(|point| point.seq),
    };
    let point = wanted.with_context(|| match args.generation {
        Some(generation) => {
            format!("`{0}` has no recovery point {generation}; `lifeboat show {0}` lists them", args.name)
        }
        None => format!("nothing of `{}` has been saved yet: it has no recovery point", args.name),
    })?;
    Ok((workload, point, head))
}

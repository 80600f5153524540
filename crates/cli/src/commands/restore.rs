//! `lifeboat restore`: files of a recovery point into a directory, by hand.

use std::sync::Arc;
use std::time::Duration;

use globset::{Glob, GlobSet, GlobSetBuilder};
use lifeboat_agent::{RunError, Ui, bytes_text};
use lifeboat_snapshot::claim::{AcquireError, Acquired, Claimant, How, Wait};
use lifeboat_snapshot::id::Nonce;
use lifeboat_snapshot::journal::{Event, Head, Holder, RecoveryPoint, Release};
use lifeboat_snapshot::manifest::EntryKind;
use lifeboat_snapshot::restore::{RestoreOptions, Restored};
use lifeboat_snapshot::{Claim, Workload, acquire, acquire_after, read_manifest};
use serde_json::json;

use crate::args::RestoreArgs;
use crate::commands::store::point_and_head;
use crate::output;

/// The lease of a claim that lasts as long as one restore.
const LEASE: Duration = Duration::from_secs(30);

/// A holder is dead once it was silent for its lease; this much longer is waited for that to show.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

pub(crate) async fn restore(args: &RestoreArgs, ui: &Ui, json: bool) -> anyhow::Result<u8> {
    let (workload, point, head) = point_and_head(&args.point).await?;
    let only = if args.only.is_empty() { None } else { Some(globs(&args.only)?) };
    if args.dry_run {
        return plan(&workload, &point, only.as_ref(), args, json).await;
    }
    let options =
        RestoreOptions { only, progress: (ui.progress)("restoring"), ..RestoreOptions::new(&args.to) };
    // Finished work is taken up by nobody, and a claim would make it unfinished.
    let is_done = matches!(head.record.event, Event::Done { .. });
    let restored = if args.no_claim || is_done {
        lifeboat_snapshot::restore(&workload, &point.manifest, &options).await
    } else {
        Box::pin(claimed(&workload, (&point, head), &options)).await?
    };
    drop(options);
    let restored = restored.map_err(|source| RunError::Restore { path: args.to.clone(), source })?;
    report(args, &point, restored, json)
}

/// Restores while holding the claim, so that no machine carries the work on meanwhile, and gives it back.
async fn claimed(
    workload: &Workload,
    (point, head): (&RecoveryPoint, Head),
    options: &RestoreOptions,
) -> anyhow::Result<Result<Restored, lifeboat_snapshot::restore::RestoreError>> {
    let host = lifeboat_agent::setup::host_name();
    let holder = Holder { instance: format!("{host} (lifeboat restore)"), host, pid: std::process::id() };
    let claimant = Claimant { agent: Nonce::random(), holder, lease: LEASE };
    let Acquired { mut claim, how, .. } =
        acquire_or_wait(workload, &claimant, head).await.map_err(RunError::from)?;
    let restored = {
        let renewing = renew(&mut claim);
        tokio::select! {
            restored = lifeboat_snapshot::restore(workload, &point.manifest, options) => restored,
            error = renewing => return Err(RunError::from(error).into()),
        }
    };
    // What the last owner left behind stays with the work.
    let last = match how {
        How::Released(release) => Some(*release),
        How::Fresh | How::Continued | How::TookOver { .. } => None,
    };
    let release = last.unwrap_or_else(|| Release { reason: "restored by hand".into(), ..Release::default() });
    claim.release(release).await.map_err(RunError::from)?;
    Ok(restored)
}

/// A dead holder shows itself by its silence, a living one keeps the work.
async fn acquire_or_wait(
    workload: &Workload,
    claimant: &Claimant,
    head: Head,
) -> Result<Acquired, AcquireError> {
    let lease = Duration::from_millis(head.record.lease_ms) + LEASE_MARGIN;
    match acquire_after(workload, claimant, Wait::No, Some(head)).await {
        Err(AcquireError::Held { by, .. }) => {
            tracing::warn!(
                by = by.instance,
                host = by.host,
                "the work is held; waiting {} s to see whether its holder lives (--no-claim copies the files at once)",
                lease.as_secs()
            );
            acquire(workload, claimant, Wait::Until(tokio::time::Instant::now() + lease)).await
        }
        other => other,
    }
}

/// Renews until the claim is lost.
async fn renew(claim: &mut Claim) -> lifeboat_snapshot::claim::ClaimError {
    loop {
        tokio::time::sleep(claim.renew_interval()).await;
        if let Err(error @ lifeboat_snapshot::claim::ClaimError::Fenced { .. }) = claim.renew().await {
            return error;
        }
    }
}

fn report(args: &RestoreArgs, point: &RecoveryPoint, restored: Restored, json: bool) -> anyhow::Result<u8> {
    let value = json!({
        "generation": point.seq, "to": args.to, "files": restored.files, "bytes": restored.bytes,
        "already_there": restored.already_there, "complete": point.manifest.complete,
    });
    output::either(json, &value, || {
        let warning = if point.manifest.complete {
            ""
        } else {
            "\nthis recovery point is incomplete: `lifeboat show` names what was left out"
        };
        format!(
            "restored generation {} into {}: {} files, {}; {} were already there{warning}\n",
            point.seq,
            args.to.display(),
            restored.files,
            bytes_text(restored.bytes),
            restored.already_there,
        )
    })?;
    Ok(0)
}

async fn plan(
    workload: &Workload,
    point: &RecoveryPoint,
    only: Option<&GlobSet>,
    args: &RestoreArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let manifest = Arc::new(read_manifest(workload, &point.manifest).await?);
    let files: Vec<(String, u64)> = manifest
        .entries
        .iter()
        .filter_map(|entry| match &entry.kind {
            EntryKind::File { size, .. } => Some((entry.path.as_path(), entry.path.to_string(), *size)),
            EntryKind::Directory | EntryKind::Link { .. } => None,
        })
        .filter(|(path, _, _)| only.is_none_or(|only| only.is_match(path)))
        .map(|(_, path, size)| (path, size))
        .collect();
    let value = json!({ "generation": point.seq, "to": args.to, "would_restore": files });
    output::either(json, &value, || {
        let lines: String =
            files.iter().map(|(path, size)| format!("  {path} ({})\n", bytes_text(*size))).collect();
        format!(
            "would restore {} files of generation {} into {}:\n{lines}",
            files.len(),
            point.seq,
            args.to.display()
        )
    })?;
    Ok(0)
}

fn globs(patterns: &[String]) -> anyhow::Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern)?);
    }
    Ok(set.build()?)
}

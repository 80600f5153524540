//! Fetches the missing files, several runs at once, and hands verified bytes to their place.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::RestoreError;
use super::place::{Growing, Target};
use crate::buffer::Pool;
use crate::fetch::{CONCURRENCY, Part, Run, WEIGHT_MAX, blocks_of, fetch, large_runs, small_runs};
use crate::manifest::{EntryKind, Manifest};
use crate::progress::Progress;
use crate::transfer::{as_u64, blocking};
use crate::workload::Workload;

/// What is done next.
enum Job {
    /// Small files, of one object.
    Small(Run),
    /// A large file is to be opened.
    Open(usize),
    /// A stretch of a large file.
    Large(Run, Arc<Growing>),
}

impl Job {
    /// The memory that it takes, in bytes.
    fn weight(&self, manifest: &Manifest) -> u64 {
        match self {
            Self::Small(run) | Self::Large(run, _) => run.weight(manifest),
            Self::Open(_) => 0,
        }
    }
}

/// What came of a job: the stretches of a large file that has been opened.
type Opened = Vec<(Run, Arc<Growing>)>;

/// Fetches and places everything that is missing.
pub(super) async fn fetch_all(
    workload: &Workload,
    target: &Arc<Target>,
    missing: &[usize],
    progress: &Arc<dyn Progress>,
) -> Result<(), RestoreError> {
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for index in missing {
        match &target.manifest.entries[*index].kind {
            EntryKind::File { blocks: None, .. } => small.push(*index),
            EntryKind::File { blocks: Some(_), .. } => large.push(*index),
            EntryKind::Directory | EntryKind::Link { .. } => {}
        }
    }
    let mut jobs: VecDeque<Job> = small_runs(&target.manifest, &small).into_iter().map(Job::Small).collect();
    jobs.extend(large.into_iter().map(Job::Open));
    let pool = Pool::new();
    // Dropped with this future, which ends all that is on its way.
    let mut running = JoinSet::new();
    let mut under_way = 0;
    // Each round ends one job.
    loop {
        while running.len() < CONCURRENCY
            && under_way < WEIGHT_MAX
            && let Some(job) = jobs.pop_front()
        {
            let weight = job.weight(&target.manifest);
            under_way += weight;
            let (workload, target, pool) = (workload.clone(), Arc::clone(target), Arc::clone(&pool));
            let progress = Arc::clone(progress);
            running
                .spawn(async move { (weight, carry_out(&workload, target, &pool, job, &*progress).await) });
        }
        match running.join_next().await {
            Some(Ok((weight, done))) => {
                under_way -= weight;
                for (run, growing) in done?.into_iter().rev() {
                    jobs.push_front(Job::Large(run, growing));
                }
            }
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) => {}
            None => return Ok(()),
        }
    }
}

async fn carry_out(
    workload: &Workload,
    target: Arc<Target>,
    pool: &Arc<Pool>,
    job: Job,
    progress: &dyn Progress,
) -> Result<Opened, RestoreError> {
    match job {
        Job::Small(run) => {
            let parts = fetch(workload, &target.manifest, pool, &Arc::new(run)).await?;
            let (files, bytes) = (as_u64(parts.len()), parts.iter().map(|(part, _)| part.length).sum());
            let incoming = parts.into_iter().map(|(part, bytes)| (part.file, bytes)).collect();
            blocking(move || target.place_all(incoming)).await?;
            progress.advanced(files, bytes);
            Ok(Vec::new())
        }
        Job::Open(index) => open(target, index, progress).await,
        Job::Large(run, growing) => {
            let parts = fetch(workload, &target.manifest, pool, &Arc::new(run)).await?;
            let bytes = parts.iter().map(|(part, _)| part.length).sum();
            let is_whole = blocking(move || {
                for (part, bytes) in parts {
                    target.write(&growing, part.at, &bytes)?;
                }
                target.complete_if_last(&growing)
            });
            let files = u64::from(is_whole.await?);
            progress.advanced(files, bytes);
            Ok(Vec::new())
        }
    }
}

/// Opens the temporary file of a large one. Stretches that a killed restore left there whole are not fetched again.
async fn open(target: Arc<Target>, index: usize, progress: &dyn Progress) -> Result<Opened, RestoreError> {
    let runs = large_runs(&target.manifest, index);
    let here = Arc::clone(&target);
    let (growing, present) = blocking(move || here.grow(index)).await?;
    let log2 = match &target.manifest.entries[index].kind {
        EntryKind::File { blocks: Some(blocks), .. } => blocks.log2,
        EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. } => 0,
    };
    let is_there = |part: &Part| {
        blocks_of(log2, part.at, part.length).all(|number| present.get(number).copied().unwrap_or(false))
    };
    let all: u64 = runs.iter().flat_map(|run| &run.parts).map(|part| part.length).sum();
    let runs: Vec<Run> = runs.into_iter().filter(|run| !run.parts.iter().all(is_there)).collect();
    let left: u64 = runs.iter().flat_map(|run| &run.parts).map(|part| part.length).sum();
    progress.advanced(0, all - left);
    growing.expect(runs.len());
    if runs.is_empty() {
        let (here, whole) = (Arc::clone(&target), Arc::clone(&growing));
        blocking(move || here.complete(&whole)).await?;
        progress.advanced(1, 0);
    }
    Ok(runs.into_iter().map(|run| (run, Arc::clone(&growing))).collect())
}

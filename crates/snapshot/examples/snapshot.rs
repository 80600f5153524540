//! Saves a directory into a store, or restores it: what `cargo xtask bench snapshot` measures, and the smallest
//! program that uses this crate.
//!
//! `snapshot save DIR URL [SECONDS]` · `snapshot again DIR URL COMMAND` (saves, runs COMMAND, saves what it changed) ·
//! `snapshot restore DIR URL`. Each prints one line of JSON.

#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_snapshot::id::Nonce;
use lifeboat_snapshot::journal::{self, Holder};
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::{PriorityRule, SaveOptions};
use lifeboat_snapshot::{Claimant, Deadline, StoreUrl, Wait, Workload, acquire, open, restore, save};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let started = Instant::now();
    // As the agent: one thread for all that waits, others for what reads and hashes.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    runtime.block_on(async {
        match words.as_slice() {
            ["save", directory, url, rest @ ..] => once(directory, url, rest.first().copied(), started).await,
            ["again", directory, url, command] => again(directory, url, command, started).await,
            ["restore", directory, url] => back(directory, url, started).await,
            _ => Err("snapshot save DIR URL [SECONDS] | again DIR URL COMMAND | restore DIR URL".into()),
        }
    })
}

fn workload(url: &str) -> Result<Workload, Failure> {
    let url: StoreUrl = url.parse()?;
    Ok(Workload::new(open(&url)?, "bench".parse()?))
}

fn claimant() -> Claimant {
    let holder = Holder { instance: "bench".to_owned(), host: "bench".to_owned(), pid: std::process::id() };
    Claimant { agent: Nonce::from_bytes([1; 16]), holder, lease: Duration::from_secs(60) }
}

/// Files whose name begins with a number have that priority.
fn rules() -> Result<Vec<PriorityRule>, Failure> {
    let rule = |priority: u32| -> Result<PriorityRule, Failure> {
        let glob = globset::Glob::new(&format!("**/{priority}-*"))?.compile_matcher();
        Ok(PriorityRule { glob, priority })
    };
    [1, 10, 1000, 10_000].into_iter().map(rule).collect()
}

async fn once(directory: &str, url: &str, seconds: Option<&str>, started: Instant) -> Result<(), Failure> {
    let workload = workload(url)?;
    let mut claim = acquire(&workload, &claimant(), Wait::No).await?.claim;
    let mut options = SaveOptions { priorities: rules()?, ..SaveOptions::new(directory) };
    if let Some(seconds) = seconds {
        let end = tokio::time::Instant::now() + Duration::from_secs_f64(seconds.parse()?);
        options.deadline = Deadline::at(end);
    }
    let saved = save(&workload, &claim.id(), &options).await?;
    claim.commit(saved.manifest.clone()).await?;
    let lost: Vec<String> =
        saved.left_out.iter().filter_map(|left| Some(left.path.as_ref()?.to_string())).collect();
    println!(
        "{{\"ms\":{},\"files\":{},\"bytes\":{},\"stored\":{},\"lost\":{}}}",
        started.elapsed().as_millis(),
        saved.files,
        saved.bytes,
        saved.stored_bytes,
        serde_json::to_string(&lost)?
    );
    Ok(())
}

async fn again(directory: &str, url: &str, command: &str, started: Instant) -> Result<(), Failure> {
    let workload = workload(url)?;
    let mut claim = acquire(&workload, &claimant(), Wait::No).await?.claim;
    let mut options = SaveOptions::new(directory);
    let first = save(&workload, &claim.id(), &options).await?;
    claim.commit(first.manifest.clone()).await?;
    let full = started.elapsed();
    options.base = Some(Arc::clone(&first.base));
    let changed =
        std::process::Command::new("sh").args(["-c", command]).current_dir(Path::new(directory)).status()?;
    if !changed.success() {
        return Err(format!("{command} failed").into());
    }
    // Files are left alone for a moment after they were written.
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    let second = save(&workload, &claim.id(), &options).await?;
    claim.commit(second.manifest.clone()).await?;
    println!(
        "{{\"full_ms\":{},\"full_stored\":{},\"ms\":{},\"stored\":{},\"is_new\":{}}}",
        full.as_millis(),
        first.stored_bytes,
        begun.elapsed().as_millis(),
        second.stored_bytes,
        second.is_new
    );
    Ok(())
}

async fn back(directory: &str, url: &str, started: Instant) -> Result<(), Failure> {
    let workload = workload(url)?;
    let points = journal::recovery_points(&workload).await?;
    let point = points.last().ok_or("there is no recovery point")?;
    let restored = restore(&workload, &point.manifest, &RestoreOptions::new(directory)).await?;
    let ms = started.elapsed().as_millis();
    println!("{{\"ms\":{ms},\"files\":{},\"bytes\":{}}}", restored.files, restored.bytes);
    Ok(())
}

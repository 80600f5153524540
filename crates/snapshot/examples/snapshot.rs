//! Saves a directory into a store, or restores it: what `cargo xtask bench snapshot` measures, and the smallest
//! program that uses this crate.
//!
//! `snapshot save DIR URL [SECONDS]` · `snapshot again DIR URL COMMAND` (saves, runs COMMAND, saves what it changed) ·
//! `snapshot restore DIR URL` · `snapshot hash DIR` (reads and hashes, nothing else) · `snapshot put URL COUNT
//! CONCURRENCY` (sends objects of 8 MiB from memory, nothing else). Each prints one line of JSON.

#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use lifeboat_snapshot::id::Nonce;
use lifeboat_snapshot::journal::{self, Holder};
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::{PriorityRule, SaveOptions};
use lifeboat_snapshot::{Claimant, Deadline, StoreUrl, Wait, Workload, acquire, open, restore, save};
use object_store::{ObjectStoreExt, PutPayload};

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
            ["hash", directory] => hash(directory, started),
            ["put", url, count, concurrency] => put(url, count.parse()?, concurrency.parse()?, started).await,
            _ => {
                Err("snapshot save DIR URL [SECONDS] | again DIR URL COMMAND | restore DIR URL | hash DIR | \
                      put URL COUNT CONCURRENCY"
                    .into())
            }
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
        full.as_secs_f64() * 1000.0,
        first.stored_bytes,
        begun.elapsed().as_secs_f64() * 1000.0,
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

/// What one object or one reading holds.
const PIECE: usize = 8 * 1024 * 1024;

/// Reads and hashes every file with all processors.
fn hash(directory: &str, started: Instant) -> Result<(), Failure> {
    let (mut pieces, mut folders) = (Vec::new(), vec![PathBuf::from(directory)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                pieces.extend((0..metadata.len()).step_by(PIECE).map(|offset| (entry.path(), offset)));
            }
        }
    }
    let next = AtomicUsize::new(0);
    let work = || -> std::io::Result<u64> {
        let (mut buffer, mut sum) = (vec![0; PIECE], 0);
        while let Some((path, offset)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let file = std::fs::File::open(path)?;
            let mut length = 0;
            while length < PIECE {
                match file.read_at(&mut buffer[length..], *offset + u64::try_from(length).unwrap_or(0))? {
                    0 => break,
                    count => length += count,
                }
            }
            std::hint::black_box(blake3::hash(&buffer[..length]));
            sum += u64::try_from(length).unwrap_or(0);
        }
        Ok(sum)
    };
    let threads = std::thread::available_parallelism()?.get();
    let bytes = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).sum::<std::io::Result<u64>>()
    })?;
    println!("{{\"ms\":{},\"bytes\":{bytes}}}", started.elapsed().as_millis());
    Ok(())
}

/// Sends `count` objects, so many at once.
async fn put(url: &str, count: usize, concurrency: usize, started: Instant) -> Result<(), Failure> {
    let store = open(&url.parse()?)?;
    let bytes =
        bytes::Bytes::from((0..PIECE).map(|at| u8::try_from(at * 7 % 251).unwrap_or(0)).collect::<Vec<_>>());
    let send = |number: usize| {
        let (store, payload) = (Arc::clone(&store), PutPayload::from(bytes.clone()));
        async move { store.put(&format!("limit/{number}").into(), payload).await.map(drop) }
    };
    futures_util::stream::iter((0..count).map(send))
        .buffer_unordered(concurrency)
        .try_collect::<()>()
        .await?;
    println!("{{\"ms\":{},\"bytes\":{}}}", started.elapsed().as_millis(), count * PIECE);
    Ok(())
}

//! How long it takes from the start of the command to everything stored, and what memory that takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::agents::{Places, lifeboat, source_a};
use super::process::{Memory, Running};
use super::statistics::Random;
use super::{Bench, statistics};

/// Source A's chunk of work, and the size at which a file's own cost still outweighs its bytes.
pub(crate) const FILE_BYTES: usize = 64 * 1024;

/// A folder of the work directory holds so many files.
const FOLDER_FILES: usize = 100;

/// Between two looks at the memory; the peak is the kernel's own.
const LOOK: Duration = Duration::from_millis(10);

/// Who stores, and what is promised at the end.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) promise: &'static str,
    /// Of the peer; empty: `lifeboat evacuate`.
    options: &'static [&'static str],
}

/// The first one is the product, the others the peer: as source A does it, faster, and with the product's promise.
pub(crate) const VARIANTS: [Variant; 5] = [
    Variant {
        name: "Lifeboat",
        promise: "every object fsynced, read back and its BLAKE3 compared, manifest committed",
        options: &[],
    },
    Variant {
        name: "source A, 10 threads",
        promise: "written; a power cut loses it",
        options: &["--workers", "10"],
    },
    Variant {
        name: "source A, 2 threads",
        promise: "written; a power cut loses it",
        options: &["--workers", "2"],
    },
    Variant {
        name: "source A, 2 threads, one sync at the end",
        promise: "written and synced",
        options: &["--workers", "2", "--durability", "sync"],
    },
    Variant {
        name: "source A, 10 threads, fsync and verification",
        promise: "every file fsynced, read back and its SHA-256 compared",
        options: &["--workers", "10", "--durability", "fsync", "--verify"],
    },
];

/// What one variant took.
#[derive(Clone, Debug)]
pub(crate) struct Evacuation {
    pub(crate) variant: Variant,
    pub(crate) seconds: Vec<f64>,
    pub(crate) peak_kib: Vec<f64>,
}

impl Evacuation {
    pub(crate) fn median(&self) -> f64 {
        statistics::median(&self.seconds)
    }
}

/// Every variant in turn, again and again, so that a slow moment of the machine hits all alike.
///
/// # Errors
/// When a program fails or stores less than everything.
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Evacuation>> {
    println!("evacuation: {} files, {} times", bench.extent.files, bench.extent.repetitions);
    let work = work_directory(bench)?;
    let begin = |variant| Evacuation { variant, seconds: Vec::new(), peak_kib: Vec::new() };
    let mut results: Vec<Evacuation> = VARIANTS.into_iter().map(begin).collect();
    for round in 0..bench.extent.repetitions {
        for (number, result) in results.iter_mut().enumerate() {
            // Each into a folder of its own, and nothing is deleted before the end: creating files where many
            // were just deleted takes ext4 up to ten times as long, which would be charged to the peer.
            let folder = bench.scratch.join("evacuation").join(format!("{round}-{number}"));
            let (seconds, peak_kib) = evacuate(bench, &result.variant, &work, &folder)?;
            result.seconds.push(seconds);
            result.peak_kib.push(peak_kib);
        }
    }
    Ok(results)
}

/// Random bytes: what a program may save by compressing is not the question here.
fn work_directory(bench: &Bench) -> anyhow::Result<PathBuf> {
    let work = bench.scratch.join("to-evacuate");
    let mut random = Random::new(1);
    for number in 0..bench.extent.files {
        let folder = work.join(format!("folder-{:03}", number / FOLDER_FILES));
        fs::create_dir_all(&folder)?;
        let mut content = Vec::with_capacity(FILE_BYTES);
        while content.len() < FILE_BYTES {
            content.extend_from_slice(&random.next().to_le_bytes());
        }
        fs::write(folder.join(format!("file-{number:05}.bin")), content)?;
    }
    Ok(work)
}

fn evacuate(bench: &Bench, variant: &Variant, work: &Path, folder: &Path) -> anyhow::Result<(f64, f64)> {
    let places = Places::create(folder)?;
    let mut command = if variant.options.is_empty() {
        let mut command = lifeboat(bench, &places);
        command.args(["evacuate", "--json", "--name", "bench", "--instance-id", "i-0bench", "--work-dir"]);
        command.arg(work).arg("--store").arg(&places.store);
        // No workload runs and there is no service to ask: the time is that of storing.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command
    } else {
        let mut command = source_a("evacuate", work, &places.store);
        command.args(variant.options);
        command
    };
    let said = folder.join("said");
    command.stdout(fs::File::create(&said)?);
    // What was written before, by whomever, must not be written back in this program's time.
    let synced = Command::new("sync").stdin(Stdio::null()).status().context("sync cannot be started")?;
    if !synced.success() {
        bail!("sync failed");
    }
    let (seconds, peak_kib) = timed(&mut command, &folder.join("errors"), variant.name)?;
    let stored = if variant.options.is_empty() {
        files_in_summary(&fs::read_to_string(&said)?)?
    } else {
        // Source A's signal file lies in the work directory and is stored with it.
        fs::remove_file(work.join("shutdown.signal"))?;
        files_below(&places.store)?
    };
    if stored != bench.extent.files {
        bail!("{} stored {stored} of {} files", variant.name, bench.extent.files);
    }
    Ok((seconds, peak_kib))
}

fn timed(command: &mut Command, errors: &Path, name: &str) -> anyhow::Result<(f64, f64)> {
    let has_ended = AtomicBool::new(false);
    let begun = Instant::now();
    let mut process = Running::start(command, errors)?;
    let id = process.id();
    let (status, seconds, peak_kib) = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak_kib = 0;
            while !has_ended.load(Ordering::Relaxed) {
                peak_kib = Memory::of(id).map_or(peak_kib, |memory| memory.peak_kib.max(peak_kib));
                thread::sleep(LOOK);
            }
            peak_kib
        });
        let status = process.child().wait();
        let seconds = begun.elapsed().as_secs_f64();
        has_ended.store(true, Ordering::Relaxed);
        (status, seconds, sampler.join().unwrap_or_default())
    });
    let status = status?;
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", process.said());
    }
    Ok((seconds, f64::from(u32::try_from(peak_kib)?)))
}

/// How many files the product says it has committed, if it says that nothing is missing.
fn files_in_summary(json: &str) -> anyhow::Result<usize> {
    let summary: serde_json::Value = serde_json::from_str(json).context("the summary is no JSON")?;
    let snapshot = &summary["snapshot"];
    if snapshot["lost_count"] != 0 {
        bail!("something was lost: {summary}");
    }
    let files = snapshot["files"].as_u64().with_context(|| format!("no snapshot: {summary}"))?;
    Ok(usize::try_from(files)?)
}

/// The peer's objects of full size: its state and log are smaller.
fn files_below(folder: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            count += files_below(&entry.path())?;
        } else if metadata.len() == u64::try_from(FILE_BYTES)? {
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_summary_of_everything_counts() {
        assert_eq!(files_in_summary(r#"{"snapshot":{"files":7,"lost_count":0}}"#).expect("whole"), 7);
        for json in ["", "{}", r#"{"snapshot":{"files":6,"lost_count":1}}"#, r#"{"snapshot":null}"#] {
            assert!(files_in_summary(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_first_variant_is_the_product() {
        assert!(VARIANTS[0].options.is_empty() && VARIANTS[1..].iter().all(|peer| !peer.options.is_empty()));
    }
}

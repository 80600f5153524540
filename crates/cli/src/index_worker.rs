//! The demo's worker: an honest little indexer that can be interrupted.
//!
//! It turns each input file into postings (word → how often), one file at a time per thread, and at the end
//! merges them into `index.json`. What it has done it finds in its own work directory, so it resumes from
//! whatever is there. It knows nothing of Lifeboat but two variables: where the state belongs, and which file
//! tells it to stop. The ledger, outside the work directory, is the demo's witness: a line at the start and at
//! the end of each file, which no restore can undo.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

use crate::args::IndexWorkerArgs;

/// Ended by a stop signal, with work left. Source: sysexits(3), EX_TEMPFAIL.
const STOPPED: u8 = 75;

/// The result, in the work directory.
pub(crate) const INDEX_FILE: &str = "index.json";

struct Job {
    inputs: Vec<PathBuf>,
    ledger: Mutex<File>,
    next: AtomicUsize,
    done: AtomicUsize,
    stop: Arc<AtomicBool>,
    signal_file: Option<PathBuf>,
    state_file: PathBuf,
    pause: std::time::Duration,
}

pub(crate) async fn work(args: &IndexWorkerArgs) -> anyhow::Result<u8> {
    let list = fs::read_to_string(&args.inputs).context("cannot read the list of inputs")?;
    let inputs: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
    let ledger =
        OpenOptions::new().append(true).create(true).open(&args.ledger).context("cannot open the ledger")?;
    fs::create_dir_all("postings").context("cannot create the folder of postings")?;
    let stop = Arc::new(AtomicBool::new(false));
    let state_file =
        std::env::var_os("LIFEBOAT_STATE_FILE").map_or_else(|| "state.json".into(), PathBuf::from);
    let job = Arc::new(Job {
        inputs,
        ledger: Mutex::new(ledger),
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        stop: Arc::clone(&stop),
        signal_file: std::env::var_os("LIFEBOAT_SIGNAL_FILE").map(PathBuf::from),
        state_file,
        pause: args.pause.0.to_duration(),
    });
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        terminate.recv().await;
        stop.store(true, Ordering::Relaxed);
    });
    let threads: Vec<_> = (0..args.workers)
        .map(|_| {
            let job = Arc::clone(&job);
            std::thread::spawn(move || job.index_until_stopped())
        })
        .collect();
    tokio::task::spawn_blocking(move || -> anyhow::Result<u8> {
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a worker thread panicked"))??;
        }
        job.finish()
    })
    .await?
}

impl Job {
    fn index_until_stopped(&self) -> anyhow::Result<()> {
        loop {
            if self.is_stopped() {
                return Ok(());
            }
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(input) = self.inputs.get(number) else { return Ok(()) };
            if !postings_file(number).exists() {
                self.index(number, input)?;
            }
            self.note_progress();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.signal_file.as_ref().is_some_and(|path| path.exists())
    }

    fn index(&self, number: usize, input: &Path) -> anyhow::Result<()> {
        self.witness("start", number)?;
        let bytes = fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
        let mut postings: BTreeMap<String, u64> = BTreeMap::new();
        for word in String::from_utf8_lossy(&bytes).split(|c: char| !c.is_alphanumeric()) {
            if !word.is_empty() {
                *postings.entry(word.to_lowercase()).or_default() += 1;
            }
        }
        std::thread::sleep(self.pause);
        replace(&postings_file(number), &serde_json::to_vec(&postings)?)?;
        self.witness("end", number)
    }

    fn witness(&self, what: &str, number: usize) -> anyhow::Result<()> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.write_all(format!("{what} {number}\n").as_bytes()).context("cannot write the ledger")
    }

    /// Best effort: the postings themselves say what is done.
    fn note_progress(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let state = serde_json::json!({ "files": self.inputs.len(), "done": done });
        let _ = replace(&self.state_file, state.to_string().as_bytes());
    }

    fn finish(&self) -> anyhow::Result<u8> {
        let mut index: BTreeMap<String, Vec<(usize, u64)>> = BTreeMap::new();
        for number in 0..self.inputs.len() {
            if !postings_file(number).exists() {
                return Ok(STOPPED);
            }
            let postings: BTreeMap<String, u64> =
                serde_json::from_slice(&fs::read(postings_file(number))?)
                    .with_context(|| format!("the postings of file {number} are damaged"))?;
            for (word, count) in postings {
                index.entry(word).or_default().push((number, count));
            }
        }
        replace(Path::new(INDEX_FILE), &serde_json::to_vec(&index)?)?;
        Ok(0)
    }
}

fn postings_file(number: usize) -> PathBuf {
    format!("postings/{number:05}.json").into()
}

/// Whoever reads the file sees the old content or the new, whole.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    // Threads replace the same state file: each through a temporary file of its own.
    let name = format!("{}.{:?}.tmp", path.display(), std::thread::current().id());
    fs::write(&name, bytes).with_context(|| format!("cannot write {name}"))?;
    fs::rename(&name, path).with_context(|| format!("cannot replace {}", path.display()))
}

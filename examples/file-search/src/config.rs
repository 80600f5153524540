//! The configuration file, and what it names, opened.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use lifeboat_snapshot::{ObjectStore, StoreUrl};
use lifeboat_worker::DirectoryQueue;
use lifeboat_worker::directory::Settings;
use serde::Deserialize;

use crate::index::Index;
use crate::sqs::SqsQueue;

/// The file as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the files are: `file:///abs/path`, `s3://BUCKET/PREFIX`.
    pub(crate) files: String,
    /// Where their pages are kept, likewise.
    pub(crate) results: String,
    /// The queue of messages: `file:///abs/path`, or the URL of an SQS queue.
    pub(crate) queue: String,
    /// The full-text index, a file on this machine.
    pub(crate) index: PathBuf,
    /// How long a message stays invisible that nobody extends, in ms; on SQS rounded up to seconds. Of a directory it
    /// holds when the queue is made.
    #[serde(default = "thirty_seconds")]
    pub(crate) visibility_ms: u64,
    /// How long one try of a request to SQS may take, in ms.
    #[serde(default = "three_seconds")]
    pub(crate) sqs_timeout_ms: u64,
    /// A page ends at the last line's end before so many bytes.
    #[serde(default = "sixty_four_kib")]
    pub(crate) page_bytes: usize,
    /// After each page, to make a rehearsal last, in ms.
    #[serde(default)]
    pub(crate) pause_ms: u64,
    /// A line is appended here when work on a file begins and when it ends.
    pub(crate) log: Option<PathBuf>,
}

const fn thirty_seconds() -> u64 {
    30_000
}

const fn three_seconds() -> u64 {
    3_000
}

const fn sixty_four_kib() -> usize {
    64 << 10
}

impl Config {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no valid configuration", path.display()))
    }
}

/// Everything that the configuration names.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) files: Arc<dyn ObjectStore>,
    pub(crate) results: Arc<dyn ObjectStore>,
    /// Of a runtime that a thread of its own drives: the work and its heartbeats block on it side by side.
    pub(crate) runtime: tokio::runtime::Handle,
    /// This machine, as `lifeboat run` names it.
    pub(crate) instance: String,
}

/// Where the messages are.
#[derive(Debug)]
pub(crate) enum Messages {
    Directory(DirectoryQueue),
    Sqs(SqsQueue),
}

impl World {
    pub(crate) fn open(config: Config) -> anyhow::Result<Self> {
        let open = |url: &str| -> anyhow::Result<Arc<dyn ObjectStore>> {
            let parsed: StoreUrl = url.parse().with_context(|| format!("cannot use {url}"))?;
            lifeboat_snapshot::open(&parsed).with_context(|| format!("cannot open {url}"))
        };
        let driven = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let runtime = driven.handle().clone();
        // It ends with the process.
        std::thread::Builder::new()
            .name("runtime".into())
            .spawn(move || driven.block_on(std::future::pending::<()>()))?;
        let (files, results) = {
            let _entered = runtime.enter();
            (open(&config.files)?, open(&config.results)?)
        };
        let instance = std::env::var("LIFEBOAT_INSTANCE").unwrap_or_else(|_| "-".to_owned());
        Ok(Self { config, files, results, runtime, instance })
    }

    pub(crate) fn index(&self) -> anyhow::Result<Index> {
        Index::open(&self.config.index)
    }

    /// The queue that the configuration names.
    pub(crate) fn messages(&self) -> anyhow::Result<Messages> {
        let url = &self.config.queue;
        if let Some(dir) = DirectoryQueue::directory_of(url) {
            let settings = Settings { visibility_ms: self.config.visibility_ms, receives_max: 1_000 };
            let queue = DirectoryQueue::create(dir, settings);
            return Ok(Messages::Directory(queue.with_context(|| format!("cannot use the queue {url}"))?));
        }
        ensure!(
            url.starts_with("https://") || url.starts_with("http://"),
            "`queue` has to be file:///abs/path or the URL of an SQS queue, not {url}"
        );
        let visibility = Duration::from_millis(self.config.visibility_ms);
        let patience = Duration::from_millis(self.config.sqs_timeout_ms);
        Ok(Messages::Sqs(SqsQueue::new(url, visibility, patience, self.runtime.clone())))
    }

    pub(crate) fn pause(&self) {
        std::thread::sleep(Duration::from_millis(self.config.pause_ms));
    }

    /// One line, appended at once.
    pub(crate) fn log(&self, what: &str) -> anyhow::Result<()> {
        let Some(path) = &self.config.log else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(file.write_all(format!("{now} {what}\n").as_bytes())?)
    }
}

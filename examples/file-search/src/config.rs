//! The configuration file, and what it names, opened.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use lifeboat_snapshot::{ObjectStore, StoreUrl};
use lifeboat_worker::DirectoryQueue;
use lifeboat_worker::directory::Settings;
use serde::Deserialize;

use crate::index::Index;

/// The file as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the files are: `file:///abs/path`, `s3://BUCKET/PREFIX`.
    pub(crate) files: String,
    /// Where their pages are kept, likewise.
    pub(crate) results: String,
    /// The queue of messages: `file:///abs/path`.
    pub(crate) queue: String,
    /// The full-text index, a file on this machine.
    pub(crate) index: PathBuf,
    /// How long a message stays invisible that nobody extends, in ms. Holds when the queue is made.
    #[serde(default = "thirty_seconds")]
    pub(crate) visibility_ms: u64,
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
    pub(crate) runtime: tokio::runtime::Runtime,
    /// This machine, as `lifeboat run` names it.
    pub(crate) instance: String,
}

impl World {
    pub(crate) fn open(config: Config) -> anyhow::Result<Self> {
        let open = |url: &str| -> anyhow::Result<Arc<dyn ObjectStore>> {
            let parsed: StoreUrl = url.parse().with_context(|| format!("cannot use {url}"))?;
            lifeboat_snapshot::open(&parsed).with_context(|| format!("cannot open {url}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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

    pub(crate) fn directory_queue(&self) -> anyhow::Result<DirectoryQueue> {
        let dir = DirectoryQueue::directory_of(&self.config.queue)
            .with_context(|| format!("{} is no directory queue", self.config.queue))?;
        let settings = Settings { visibility_ms: self.config.visibility_ms, receives_max: 1_000 };
        DirectoryQueue::create(dir, settings)
            .with_context(|| format!("cannot use the queue {}", dir.display()))
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

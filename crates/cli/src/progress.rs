//! Progress of long operations: a bar on a terminal, plain lines every few seconds otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lifeboat_agent::{MakeProgress, bytes_text};
use lifeboat_snapshot::{NoProgress, Progress};

/// Every bar of the process, so that log lines can step around them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A log does not want more than a line in this time.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Makes displays for standard error, or none where logs are for machines or only warnings are wanted.
pub(crate) fn maker(is_wanted: bool) -> MakeProgress {
    let is_terminal = io::stderr().is_terminal();
    Arc::new(move |name| -> Arc<dyn Progress> {
        if !is_wanted {
            Arc::new(NoProgress)
        } else if is_terminal {
            Arc::new(Bar::new(name))
        } else {
            Arc::new(Lines::new(name))
        }
    })
}

/// Writes log lines above the bars.
#[derive(Debug, Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[derive(Debug)]
struct Bar(ProgressBar);

impl Bar {
    fn new(name: &str) -> Self {
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = BARS.add(ProgressBar::new(0).with_style(style));
        bar.set_message(name.to_owned());
        Self(bar)
    }
}

impl Progress for Bar {
    fn planned(&self, _files: u64, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn advanced(&self, _files: u64, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
        BARS.remove(&self.0);
    }
}

#[derive(Debug)]
struct Lines {
    name: String,
    begun: Instant,
    planned: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    last: Mutex<Instant>,
}

impl Lines {
    fn new(name: &str) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            begun: now,
            planned: AtomicU64::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last: Mutex::new(now),
        }
    }
}

impl Progress for Lines {
    fn planned(&self, _files: u64, bytes: u64) {
        self.planned.store(bytes, Ordering::Relaxed);
    }

    fn advanced(&self, files: u64, bytes: u64) {
        let files = self.files.fetch_add(files, Ordering::Relaxed) + files;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < LINE_INTERVAL {
            return;
        }
        *last = Instant::now();
        drop(last);
        let seconds = self.begun.elapsed().as_secs().max(1);
        tracing::info!(
            files,
            done = bytes_text(bytes),
            of = bytes_text(self.planned.load(Ordering::Relaxed)),
            rate = format!("{}/s", bytes_text(bytes / seconds)),
            "{}",
            self.name
        );
    }
}

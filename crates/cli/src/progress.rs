//! Progress of long operations: a bar on a terminal, plain lines every few seconds otherwise.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};
use lifeboat_agent::{MakeProgress, bytes_text};
use lifeboat_snapshot::{Deadline, NoProgress, Progress};

/// Every bar of the process, so that log lines can step around them.
static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(Terminal))));

/// As wide as terminals were when they could not tell.
const WIDTH_UNKNOWN: u16 = 80;

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

/// Writes log lines above the bars. Never fails: a terminal that was closed, or a reader that has gone, must not
/// stop what is being logged.
#[derive(Debug, Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if io::stderr().is_terminal() {
            BARS.suspend(|| show(bytes));
        } else {
            show(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn show(bytes: &[u8]) {
    let _ = io::stderr().write_all(bytes); // nobody is there to be told
}

/// The terminal behind standard error, for the bars. indicatif panics when drawing fails, and a terminal may be
/// closed at any moment: drawing never fails here.
#[derive(Debug)]
struct Terminal;

impl Terminal {
    /// Source: ECMA-48, 8.3: CSI n A, B, C, D move the cursor up, down, right, left.
    fn move_cursor(cells: usize, direction: char) {
        if cells > 0 {
            show(format!("\x1b[{cells}{direction}").as_bytes());
        }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        // A terminal that does not know its size says 0.
        match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
            Ok(size) if size.ws_col > 0 => size.ws_col,
            Ok(_) | Err(_) => WIDTH_UNKNOWN,
        }
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        Self::move_cursor(n, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        show(format!("{text}\n").as_bytes());
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        show(text.as_bytes());
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        show(b"\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// How far an operation is.
#[derive(Debug)]
struct Counts {
    begun: Instant,
    files_planned: AtomicU64,
    bytes_planned: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    deadline: OnceLock<Deadline>,
}

impl Counts {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            files_planned: AtomicU64::new(0),
            bytes_planned: AtomicU64::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            deadline: OnceLock::new(),
        })
    }

    fn plan(&self, files: u64, bytes: u64) {
        self.files_planned.store(files, Ordering::Relaxed);
        self.bytes_planned.store(bytes, Ordering::Relaxed);
    }

    fn add(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn files(&self) -> String {
        format!("{}/{} files", self.files.load(Ordering::Relaxed), self.files_planned.load(Ordering::Relaxed))
    }

    /// Bytes a second since it began, after `elapsed`.
    fn rate(&self, elapsed: Duration) -> u64 {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        self.bytes.load(Ordering::Relaxed).saturating_mul(1000) / millis
    }

    /// How long the rest takes at that rate; `None` until something has moved.
    fn to_go(&self, elapsed: Duration) -> Option<Duration> {
        let rate = self.rate(elapsed);
        let left =
            self.bytes_planned.load(Ordering::Relaxed).saturating_sub(self.bytes.load(Ordering::Relaxed));
        (rate > 0).then(|| Duration::from_secs(left.div_ceil(rate)))
    }

    /// How long until the deadline, where there is one.
    fn left(&self) -> Option<Duration> {
        let deadline = self.deadline.get()?.current()?;
        Some(deadline.saturating_duration_since(tokio::time::Instant::now()))
    }

    /// What is to go against what is left: `to go 12 s, 40 s left`.
    fn times(&self) -> String {
        let to_go = self
            .to_go(self.begun.elapsed())
            .map_or_else(|| "to go unknown".to_owned(), |time| format!("to go {} s", time.as_secs()));
        match self.left() {
            Some(left) => format!("{to_go}, {} s left", left.as_secs()),
            None => to_go,
        }
    }
}

#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    counts: Arc<Counts>,
    /// Only once it is known how much there is to do: nothing of nothing looks like all of it.
    is_shown: AtomicBool,
}

impl Bar {
    fn new(name: &str) -> Self {
        let counts = Counts::new();
        let (files, times) = (Arc::clone(&counts), Arc::clone(&counts));
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {files} {binary_bytes_per_sec} {times}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("files", move |_: &ProgressState, to: &mut dyn fmt::Write| {
            let _ = to.write_str(&files.files()); // a line in memory
        })
        .with_key("times", move |_: &ProgressState, to: &mut dyn fmt::Write| {
            let _ = to.write_str(&times.times()); // a line in memory
        });
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()).with_style(style);
        bar.set_message(name.to_owned());
        Self { bar, counts, is_shown: AtomicBool::new(false) }
    }
}

impl Progress for Bar {
    fn planned(&self, files: u64, bytes: u64) {
        self.counts.plan(files, bytes);
        self.bar.set_length(bytes);
        if !self.is_shown.swap(true, Ordering::Relaxed) {
            drop(BARS.add(self.bar.clone()));
        }
    }

    fn due(&self, deadline: &Deadline) {
        let _ = self.counts.deadline.set(deadline.clone()); // one operation has one
    }

    fn advanced(&self, files: u64, bytes: u64) {
        self.counts.add(files, bytes);
        self.bar.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if self.is_shown.load(Ordering::Relaxed) {
            BARS.remove(&self.bar);
        }
    }
}

#[derive(Debug)]
struct Lines {
    name: String,
    counts: Arc<Counts>,
    last: Mutex<Instant>,
}

impl Lines {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), counts: Counts::new(), last: Mutex::new(Instant::now()) }
    }
}

impl Progress for Lines {
    fn planned(&self, files: u64, bytes: u64) {
        self.counts.plan(files, bytes);
    }

    fn due(&self, deadline: &Deadline) {
        let _ = self.counts.deadline.set(deadline.clone()); // one operation has one
    }

    fn advanced(&self, files: u64, bytes: u64) {
        self.counts.add(files, bytes);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < LINE_INTERVAL {
            return;
        }
        *last = Instant::now();
        drop(last);
        tracing::info!(
            files = self.counts.files(),
            done = bytes_text(self.counts.bytes.load(Ordering::Relaxed)),
            of = bytes_text(self.counts.bytes_planned.load(Ordering::Relaxed)),
            rate = format!("{}/s", bytes_text(self.counts.rate(self.counts.begun.elapsed()))),
            time = self.counts.times(),
            "{}",
            self.name
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_go_is_told_against_the_deadline_as_it_stands() {
        let counts = Counts::new();
        counts.plan(40, 10 << 20);
        assert_eq!((counts.files().as_str(), counts.to_go(Duration::from_secs(2))), ("0/40 files", None));
        assert_eq!(counts.times(), "to go unknown");
        counts.add(10, 2 << 20);
        let two = Duration::from_secs(2);
        assert_eq!((counts.rate(two), counts.to_go(two)), (1 << 20, Some(Duration::from_secs(8))));
        let (sender, receiver) = tokio::sync::watch::channel(None);
        let _ = counts.deadline.set(Deadline::following(receiver)); // the only one
        assert_eq!(counts.left(), None);
        let soon = tokio::time::Instant::now() + Duration::from_secs(3600);
        sender.send(Some(soon)).expect("it listens");
        let left = counts.left().expect("there is a deadline").as_secs();
        assert!((3000..=3600).contains(&left), "{left}");
        assert!(counts.times().ends_with(" s left"), "{}", counts.times());
        counts.add(30, 8 << 20);
        assert_eq!(counts.to_go(two), Some(Duration::ZERO));
    }
}

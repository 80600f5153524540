//! Progress of long operations: a bar on a terminal, plain lines every few seconds otherwise.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use lifeboat_agent::{MakeProgress, bytes_text};
use lifeboat_snapshot::{NoProgress, Progress};

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

#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    /// Only once it is known how much there is to do: nothing of nothing looks like all of it.
    is_shown: AtomicBool,
}

impl Bar {
    fn new(name: &str) -> Self {
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()).with_style(style);
        bar.set_message(name.to_owned());
        Self { bar, is_shown: AtomicBool::new(false) }
    }
}

impl Progress for Bar {
    fn planned(&self, _files: u64, bytes: u64) {
        self.bar.set_length(bytes);
        if !self.is_shown.swap(true, Ordering::Relaxed) {
            drop(BARS.add(self.bar.clone()));
        }
    }

    fn advanced(&self, _files: u64, bytes: u64) {
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

//! The last log lines of the agent itself, kept in memory, so that they can be stored before the machine goes.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// A line longer than this is cut: the ring's memory stays bounded.
const LINE_MAX: usize = 4096;

/// A writer that keeps the last lines written to it. Clones share them.
#[derive(Clone, Debug)]
pub struct LogRing {
    lines: Arc<Mutex<VecDeque<String>>>,
    capacity: usize,
}

impl LogRing {
    /// A ring of `capacity` lines.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { lines: Arc::default(), capacity }
    }

    /// The lines now kept, oldest first, each with its line end.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect()
    }
}

impl io::Write for LogRing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for line in String::from_utf8_lossy(bytes).lines() {
            if lines.len() >= self.capacity {
                lines.pop_front();
            }
            lines.push_back(line.chars().take(LINE_MAX).collect());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn keeps_the_last_lines_only() {
        let mut ring = LogRing::new(2);
        ring.write_all(b"one\ntwo\n").expect("never fails");
        ring.write_all(b"three\n").expect("never fails");
        assert_eq!(ring.text(), "two\nthree\n");
    }
}

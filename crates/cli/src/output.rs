//! Results to standard output, everything else to standard error.

use std::io::{IsTerminal, Write};

use lifeboat_core::time::Timestamp;
use serde::Serialize;

/// Prints a result. A reader that has gone (`lifeboat list | head`) is no failure.
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
    print(text).map(|_| ())
}

/// Whether there is still a reader.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Prints one of many looks at the same thing: on a terminal in place of the last, in a pipe after it, as JSON one line
/// each. False where the reader has gone and there is nobody to look for.
pub(crate) fn again(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<bool> {
    match json {
        true => print(&format!("{}\n", serde_json::to_string(value)?)),
        false if std::io::stdout().is_terminal() => print(&format!("\x1b[2J\x1b[H{}", text())),
        false => print(&format!("{}\n", text())),
    }
}

/// Prints a result as JSON, or as `text`.
pub(crate) fn either(
    json: bool,
    value: &impl Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    if json { result(&format!("{}\n", serde_json::to_string_pretty(value)?)) } else { result(&text()) }
}

/// Prints something for people to standard error.
pub(crate) fn note(text: &str) {
    let _ = crate::progress::LogWriter.write_all(format!("{text}\n").as_bytes()); // nowhere else to say it
}

/// Prints a failure with its causes, once.
pub(crate) fn failure(error: &anyhow::Error, json: bool) {
    let causes = causes(error);
    let text = if json {
        serde_json::json!({ "error": causes.first(), "causes": causes.get(1..) }).to_string()
    } else {
        format!("lifeboat: {}", causes.join("\n  because: "))
    };
    note(&text);
}

/// What went wrong, and why, level by level. Some libraries repeat a cause in the text of its effect: it is said
/// once.
pub(crate) fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !causes.iter().any(|before| before.contains(&cause)) {
            causes.push(cause);
        }
    }
    causes
}

/// Columns padded to their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

/// An instant of a writer's wall clock, for people.
pub(crate) fn instant(unix_ms: u64) -> String {
    lifeboat_agent::clock::rfc3339(Timestamp(i64::try_from(unix_ms).unwrap_or(i64::MAX)))
}

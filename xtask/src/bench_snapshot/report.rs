//! What was measured, as a table and as a plot.

use super::{Run, TOOLS};

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) load: String,
    pub(crate) tool: String,
    pub(crate) slow: bool,
    pub(crate) save: Run,
    pub(crate) restore: Run,
}

/// Rows that are no copying have one of these in the place of a tool.
const DELTA: &str = "delta";
const VALUE: &str = "value";

impl Row {
    /// A second save: its time and that of the first, and the bytes that it stored.
    pub(crate) fn delta(load: &str, (full, again): (f64, f64), stored: f64) -> Self {
        let save = Run { seconds: again, peak_mib: 0 };
        let restore = Run { seconds: full, peak_mib: 0 };
        Self {
            load: format!("{load}|{:.3}", stored / 1024.0 / 1024.0),
            tool: DELTA.to_owned(),
            slow: false,
            save,
            restore,
        }
    }

    /// The parts of the optimum that were saved, and that plain order would have saved.
    pub(crate) fn value(saved: f64, plain: f64) -> Self {
        let save = Run { seconds: saved, peak_mib: 0 };
        let restore = Run { seconds: plain, peak_mib: 0 };
        Self { load: String::new(), tool: VALUE.to_owned(), slow: false, save, restore }
    }

    fn is_copying(&self) -> bool {
        TOOLS.contains(&self.tool.as_str())
    }
}

/// The fastest of the other tools.
fn best(rows: &[Row], row: &Row, time: impl Fn(&Row) -> f64) -> f64 {
    rows.iter()
        .filter(|other| {
            other.is_copying() && other.tool != TOOLS[0] && other.load == row.load && other.slow == row.slow
        })
        .map(time)
        .fold(f64::INFINITY, f64::min)
}

/// All rows as Markdown.
pub(crate) fn table(rows: &[Row], divisor: u64) -> String {
    let mut text = String::from(
        "# Saving and restoring, beside the copying tools\n\n\
         Written by `cargo xtask bench snapshot`: one S3 server (s3s-fs) on loopback, on the same machine as the tool; the \
         clock runs from the start of the process to its end, for Lifeboat with the verified and committed manifest. Every \
         upload was fetched back and compared. Seconds; the ratio is the fastest other tool's time to Lifeboat's. \
         The data is noise but for the source tree. The best tool's time is also what the server has been seen to take.\n\n",
    );
    if divisor > 1 {
        text += &format!("A short run, with a {divisor}th of the data.\n\n");
    }
    text += "| load | link | tool | save | ratio | peak MiB | restore | ratio | peak MiB |\n|---|---|---|---|---|---|---|---|---|\n";
    for row in rows.iter().filter(|row| row.is_copying()) {
        let link = if row.slow { "30 ms, 1 Gbit/s" } else { "loopback" };
        let ratio = |time: &dyn Fn(&Row) -> f64| {
            if row.tool == TOOLS[0] {
                format!("**{:.2}**", best(rows, row, time) / time(row))
            } else {
                String::new()
            }
        };
        text += &format!(
            "| {} | {link} | {} | {:.2} | {} | {} | {:.2} | {} | {} |\n",
            row.load,
            row.tool,
            row.save.seconds,
            ratio(&|row: &Row| row.save.seconds),
            row.save.peak_mib,
            row.restore.seconds,
            ratio(&|row: &Row| row.restore.seconds),
            row.restore.peak_mib,
        );
    }
    text += "\n## A second save\n\n| change | first save, s | second, s | part | stored, MiB |\n|---|---|---|---|---|\n";
    for row in rows.iter().filter(|row| row.tool == DELTA) {
        let (name, stored) = row.load.split_once('|').unwrap_or((&row.load, ""));
        let (full, again) = (row.restore.seconds, row.save.seconds);
        text += &format!("| {name} | {full:.2} | {again:.3} | {:.1} % | {stored} |\n", again / full * 100.0);
    }
    for row in rows.iter().filter(|row| row.tool == VALUE) {
        text += &format!(
            "\n## Value saved in 5 s when the data needs 20 s\n\nΣ priority of complete files, as parts of the fractional \
             optimum: {:.3}; in plain order: {:.3}.\n",
            row.save.seconds, row.restore.seconds
        );
    }
    text + "\n![Times beside each other](bench-snapshot.svg)\n"
}

/// The saves on loopback as bars.
pub(crate) fn plot(rows: &[Row]) -> String {
    let shown: Vec<&Row> = rows.iter().filter(|row| row.is_copying() && !row.slow).collect();
    let height = shown.len() * 22 + 40;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<text x=\"10\" y=\"20\">Seconds to save (dark) and to restore (light); each load to its own scale</text>\n"
    );
    for (number, row) in shown.iter().enumerate() {
        let longest = shown
            .iter()
            .filter(|other| other.load == row.load)
            .map(|other| other.save.seconds.max(other.restore.seconds))
            .fold(0.001, f64::max);
        let y = 32 + number * 22;
        let colour = if row.tool == TOOLS[0] { ("#0b6e99", "#8ec6de") } else { ("#777777", "#c4c4c4") };
        let width = |seconds: f64| seconds / longest * 420.0;
        svg += &format!(
            "<text x=\"10\" y=\"{}\">{} · {}</text>\
             <rect x=\"210\" y=\"{y}\" width=\"{:.1}\" height=\"8\" fill=\"{}\"/>\
             <rect x=\"210\" y=\"{}\" width=\"{:.1}\" height=\"8\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\" font-size=\"10\">{:.1} / {:.1}</text>\n",
            y + 13,
            row.load,
            row.tool,
            width(row.save.seconds),
            colour.0,
            y + 9,
            width(row.restore.seconds),
            colour.1,
            216.0 + width(row.save.seconds.max(row.restore.seconds)),
            y + 12,
            row.save.seconds,
            row.restore.seconds,
        );
    }
    svg + "</svg>\n"
}

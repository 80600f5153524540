//! What was measured, as tables and as a plot.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::own::Own;
use super::tools::{OURS, Outcome, Tools};
use super::{Row, Table};
use crate::tree::{output_of, root};

/// In every load.
const PEAK_AIM_MIB: u64 = 128;

/// Large files: so much of what the best client sends.
const LIMIT_AIM: f64 = 0.85;

const DELTA_AIM_PERCENT: f64 = 5.0;

const APPENDED_AIM_MIB: f64 = 16.0;

const VALUE_AIM: f64 = 0.95;

/// Where and when it was measured.
#[derive(Debug)]
pub(super) struct Surroundings {
    lines: Vec<(&'static str, String)>,
}

impl Surroundings {
    pub(super) fn look(tools: &Tools, scratch: &Path) -> anyhow::Result<Self> {
        let ask = |program: &str, args: &[&str]| {
            let answer = output_of(Command::new(program).args(args).current_dir(root()));
            answer.map(|text| text.trim().to_owned()).unwrap_or_else(|_| "unknown".to_owned())
        };
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown processor", |(_, name)| name.trim());
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let disk = ask("df", &["--output=fstype", &scratch.to_string_lossy()]);
        let revision = ask("git", &["describe", "--always", "--dirty"]);
        let version = output_of(Command::new(&tools.lifeboat).arg("--version"))?;
        Ok(Self {
            lines: vec![
                ("date", ask("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
                ("machine", format!("{cores} × {processor}, {} GiB of memory", kib.div_ceil(1024 * 1024))),
                (
                    "kernel, file system",
                    format!("{}, {}", ask("uname", &["-sr"]), disk.lines().last().unwrap_or_default()),
                ),
                ("program", format!("{} ({revision})", version.trim())),
                ("others", tools.versions()),
                ("server", "s3s-fs 0.14.1, on the same machine".to_owned()),
                ("load average before", load()),
            ],
        })
    }

    pub(super) fn end(&mut self, took: Duration) {
        self.lines.push(("load average after", load()));
        self.lines.push(("the whole run took", format!("{} s", took.as_secs())));
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// An outcome for people.
pub(super) fn time(outcome: Outcome) -> String {
    match outcome {
        Outcome::Took(run) => format!("{:.2} s", run.seconds),
        Outcome::Stopped(seconds) => format!("stopped after {seconds} s"),
        Outcome::Failed => "failed".to_owned(),
        Outcome::NotRun => "–".to_owned(),
    }
}

type Which = fn(&Row) -> Outcome;

const SAVE: Which = |row| row.save;
const RESTORE: Which = |row| row.restore;

impl Table {
    fn ours(&self, which: Which) -> Option<f64> {
        self.rows.iter().find(|row| row.tool == OURS).and_then(|row| which(row).seconds())
    }

    /// The fastest other tool.
    fn best(&self, which: Which) -> Option<(&'static str, f64)> {
        let others = self.rows.iter().filter(|row| row.tool != OURS);
        others.filter_map(|row| Some((row.tool, which(row).seconds()?))).min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// How many times faster than the fastest other tool.
    fn ratio(&self, which: Which) -> Option<f64> {
        Some(self.best(which)?.1 / self.ours(which)?)
    }

    fn peak_mib(&self) -> u64 {
        let ours = self.rows.iter().filter(|row| row.tool == OURS);
        let peaks = ours.flat_map(|row| [row.save, row.restore]).map(|outcome| match outcome {
            Outcome::Took(run) => run.peak_mib,
            Outcome::Stopped(_) | Outcome::Failed | Outcome::NotRun => 0,
        });
        peaks.max().unwrap_or(0)
    }

    fn title(&self) -> String {
        let (name, files) = (self.load.name(), super::loads::grouped(self.made.files));
        match self.part {
            "sources" => {
                format!("{name}: {files} files of cargo's registry, {:.1} MiB", mib(self.made.bytes))
            }
            _ => name,
        }
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

/// Everything as Markdown.
pub(super) fn document(
    surroundings: &Surroundings,
    tables: &[Table],
    own: Option<&Own>,
    divisor: u64,
) -> String {
    let mut text = String::from(
        "# Saving and restoring, beside the copying tools\n\nWritten by `cargo xtask bench snapshot`; every number is a \
         measurement of that one run.\n\n",
    );
    if divisor > 1 {
        let _ = writeln!(text, "A short run: the data were divided by {divisor}.\n");
    }
    text += "| | |\n|---|---|\n";
    for (name, value) in &surroundings.lines {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    text += "\n## The aims\n\n| | aim | measured | |\n|---|---|---:|---|\n";
    for line in aims(tables, own) {
        text += &line;
    }
    for (is_far, title) in [(false, "On loopback"), (true, "Over a link with 30 ms and 1 Gbit/s")] {
        let here: Vec<&Table> = tables.iter().filter(|table| table.is_far == is_far).collect();
        if !here.is_empty() {
            let _ = writeln!(text, "\n## {title}\n\n{HEAD}");
            here.iter().for_each(|table| text += &rows(table));
        }
    }
    if let Some(own) = own {
        text += &second_saves(own);
        text += &limits(own, tables);
    }
    text += METHOD;
    text
}

const HEAD: &str = "| load | tool | save | Lifeboat is faster by | peak MiB | restore | Lifeboat is faster by | peak MiB \
                    |\n|---|---|---:|---:|---:|---:|---:|---:|";

fn rows(table: &Table) -> String {
    let mut text = String::new();
    for row in &table.rows {
        let cells = [SAVE, RESTORE].map(|which| {
            let outcome = which(row);
            let (peak, seconds) = match outcome {
                Outcome::Took(run) => (run.peak_mib.to_string(), Some(run.seconds)),
                Outcome::Stopped(_) | Outcome::Failed | Outcome::NotRun => (String::new(), None),
            };
            let ratio = match (row.tool, seconds, table.ours(which)) {
                (OURS, _, _) | (_, None, _) | (_, _, None) => String::new(),
                (_, Some(theirs), Some(ours)) => format!("{:.2} ×", theirs / ours),
            };
            format!("{} | {ratio} | {peak}", time(outcome))
        });
        let title = if row.tool == OURS { table.title() } else { String::new() };
        let _ = writeln!(text, "| {title} | {} | {} | {} |", row.tool, cells[0], cells[1]);
    }
    text
}

/// One line for each aim.
fn aims(tables: &[Table], own: Option<&Own>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |what: String, aim: String, measured: String, is_met: bool| {
        lines.push(format!("| {what} | {aim} | {measured} | {} |\n", if is_met { "yes" } else { "**no**" }));
    };
    for table in tables.iter().filter(|table| !table.is_far) {
        for (verb, which, aim) in [("save", SAVE, table.aim), ("restore", RESTORE, 1.0)] {
            if let (Some(ratio), Some((tool, _))) = (table.ratio(which), table.best(which)) {
                let what = format!("{verb} {}, against the fastest other ({tool})", table.load.name());
                line(what, format!("≥ {aim} ×"), format!("{ratio:.2} ×"), ratio >= aim);
            }
        }
    }
    if let (Some(own), Some(table)) =
        (own, tables.iter().find(|table| table.part == "large" && !table.is_far))
        && let Some(part) = part_of_limit(own, table)
    {
        let what = "save large files, as a part of the best client's rate".to_owned();
        line(what, format!("≥ {LIMIT_AIM}"), format!("{part:.2}"), part >= LIMIT_AIM);
    }
    if let Some(peak) = tables.iter().map(Table::peak_mib).max() {
        line(
            "peak memory in all loads".to_owned(),
            format!("≤ {PEAK_AIM_MIB} MiB"),
            format!("{peak} MiB"),
            peak <= PEAK_AIM_MIB,
        );
    }
    if let Some(own) = own {
        for second in &own.seconds {
            let percent = second.seconds / second.full_seconds * 100.0;
            let (aim, measured, is_met) = match second.name {
                name if name.starts_with("1 %") => {
                    let aim = format!("≤ {DELTA_AIM_PERCENT} % of the full time");
                    (aim, format!("{percent:.1} %"), percent <= DELTA_AIM_PERCENT)
                }
                name if name.starts_with("1 MiB") => {
                    let aim = format!("≤ {APPENDED_AIM_MIB} MiB sent");
                    (aim, format!("{:.2} MiB", second.stored_mib), second.stored_mib <= APPENDED_AIM_MIB)
                }
                _ => (
                    "nothing sent".to_owned(),
                    format!("{:.2} MiB", second.stored_mib),
                    second.stored_mib == 0.0,
                ),
            };
            line(format!("second save, {}", second.name), aim, measured, is_met);
        }
        line(
            "value saved in 5 s when the data needs 20 s, of the fractional optimum".to_owned(),
            format!("≥ {VALUE_AIM}"),
            format!("{:.3}", own.value.saved),
            own.value.saved >= VALUE_AIM,
        );
    }
    lines
}

fn second_saves(own: &Own) -> String {
    let mut text = String::from(
        "\n## A second save\n\nThe process has made the first; from its order to the committed manifest.\n\n\
         | change | first save | second save | part of the first | sent |\n|---|---:|---:|---:|---:|\n",
    );
    for second in &own.seconds {
        let percent = second.seconds / second.full_seconds * 100.0;
        let (full, again, sent) = (second.full_seconds, second.seconds, second.stored_mib);
        let _ = writeln!(
            text,
            "| {} | {full:.2} s | {again:.3} s | {percent:.1} % | {sent:.2} MiB |",
            second.name
        );
    }
    let (saved, plain) = (own.value.saved, own.value.plain);
    let _ = writeln!(
        text,
        "\n## Short of time\n\nFiles of 4 KiB to 2 MB with priorities of 1 to 10,000; all of them need 20 s over a link of \
         10 MB/s, and there are 5 s. Σ priority of the files that a restore brings back, as a part of what 5 s of the bare \
         link are worth in the best order with the last file cut (which nobody can reach): **{saved:.3}**. In the order of \
         their names, without any overhead: {plain:.3}."
    );
    text
}

/// The rate of our save of `table` to that of the best client that was found, ourselves excepted.
fn part_of_limit(own: &Own, table: &Table) -> Option<f64> {
    let rate = |seconds: f64| mib(table.made.bytes) / seconds;
    let best = table.best(SAVE).map_or(0.0, |(_, seconds)| rate(seconds)).max(own.limits.server_mib_s);
    Some(rate(table.ours(SAVE)?) / best)
}

fn limits(own: &Own, tables: &[Table]) -> String {
    let limits = &own.limits;
    let mut text = format!(
        "\n## The limits of this machine\n\n| | MiB/s |\n|---|---:|\n\
         | reading 1 GiB from the page cache and hashing it, all processors | {:.0} |\n\
         | the server alone: 8 MiB objects sent from memory, {} at once, nothing read or hashed but the checksum | {:.0} |\n",
        limits.hash_mib_s, limits.server_concurrency, limits.server_mib_s
    );
    for table in tables.iter().filter(|table| !table.is_far) {
        if let Some(ours) = table.ours(SAVE) {
            let rate = mib(table.made.bytes) / ours;
            let _ = writeln!(text, "| Lifeboat, saving {} | {rate:.0} |", table.load.name());
        }
    }
    text += "\nClient and server share the processors: a client that reads and hashes leaves the server less of them.\n";
    text
}

const METHOD: &str = "
## How it is measured

* The clock runs from the start of the process to its end. For Lifeboat that is `lifeboat evacuate` (claim, save, proof by
  the server's checksum, committed manifest, log and release) and `lifeboat restore` (claim, fetch, every BLAKE3 checked,
  every file synced, release). The others promise less: none of them commits anything or checks a hash end to end.
* What every tool uploaded was fetched back by the same tool and compared byte for byte with what was made. The server is
  new and empty for each. Data, store and what comes back are in memory where `/dev/shm` has room, so that no disk is
  measured: `sync` costs nothing there.
* Tools take turns; the faster of two runs counts. A tool that takes longer than 60 s there and back is run once, one
  that takes longer than 60 s one way (40 s in a short run) is stopped. Over the link each is run once.
* Concurrency as the manuals recommend: s5cmd with its 256 workers; rclone with `--transfers 32 --checkers 32
  --use-server-modtime --s3-no-check-bucket`; the AWS command line with `max_concurrent_requests = 20` and the other values
  of its manual's example; the AWS CRT through `s3transfer.crt` with its own choice. A tool that is missing from a table was
  not to be had.
* Noise does not compress; the source tree does, by which Lifeboat gains and the others cannot.
* The link is a proxy in the benchmark: 15 ms each way, one rate for all connections, no loss, no slow start. Loads are
  smaller there, because a gigabit is slow.
* Peak memory is the process's own (`VmHWM`).

![Seconds to save and to restore](bench-snapshot.svg)
";

/// All runs as bars, the loads to scales of their own.
pub(super) fn plot(tables: &[Table]) -> String {
    const ROW: usize = 20;
    const TITLE: usize = 26;
    const LEFT: usize = 120;
    const WIDTH: f64 = 480.0;
    let height = 50 + tables.iter().map(|table| TITLE + ROW * table.rows.len() + 8).sum::<usize>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"760\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"14\">Seconds to save (dark) and to restore (light), each load to its own \
         scale</text>\n"
    );
    let mut y = 36;
    for table in tables {
        let link = if table.is_far { ", 30 ms and 1 Gbit/s" } else { ", loopback" };
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{}\" font-weight=\"bold\">{}{link}</text>",
            y + 16,
            table.title()
        );
        y += TITLE;
        let seconds = |outcome: Outcome| outcome.seconds().unwrap_or(0.0);
        let longest =
            table.rows.iter().map(|row| seconds(row.save).max(seconds(row.restore))).fold(0.001, f64::max);
        for row in &table.rows {
            let colours = if row.tool == OURS { ("#0b6e99", "#8ec6de") } else { ("#777777", "#c4c4c4") };
            let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{}</text>", y + 13, row.tool);
            for (offset, outcome, colour) in [(2, row.save, colours.0), (10, row.restore, colours.1)] {
                let width = seconds(outcome) / longest * WIDTH;
                let _ = writeln!(
                    svg,
                    "<rect x=\"{LEFT}\" y=\"{}\" width=\"{width:.1}\" height=\"7\" fill=\"{colour}\"/>",
                    y + offset
                );
            }
            let end = LEFT as f64 + seconds(row.save).max(seconds(row.restore)) / longest * WIDTH + 6.0;
            let (save, restore) = (time(row.save), time(row.restore));
            let _ = writeln!(
                svg,
                "<text x=\"{end:.0}\" y=\"{}\" font-size=\"10\">{save} / {restore}</text>",
                y + 13
            );
            y += ROW;
        }
        y += 8;
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::super::loads::{Load, Made};
    use super::super::own::{Limits, Second, Value5};
    use super::super::tools::Run;
    use super::*;

    fn table(is_far: bool) -> Table {
        let took = |seconds| Outcome::Took(Run { seconds, peak_mib: 40 });
        let rows = vec![
            Row { tool: OURS, save: took(2.0), restore: took(1.0) },
            Row { tool: "s5cmd", save: took(3.0), restore: took(0.5) },
            Row { tool: "rclone", save: Outcome::Stopped(9), restore: Outcome::NotRun },
        ];
        let load = Load::Noise { count: 4, size: 1 << 30 };
        Table { part: "large", load, made: Made { files: 4, bytes: 4 << 30 }, is_far, aim: 1.0, rows }
    }

    #[test]
    fn the_document_holds_every_measurement_and_says_what_was_missed() {
        let limits = Limits { hash_mib_s: 4000.0, server_mib_s: 2500.0, server_concurrency: 4 };
        let second = |name, seconds, stored_mib| Second { name, full_seconds: 2.0, seconds, stored_mib };
        let seconds = vec![
            second("1 % of 20,000 files changed", 0.2, 3.0),
            second("1 MiB appended to 1 GiB", 0.1, 2.0),
            second("nothing changed", 0.1, 0.0),
        ];
        let own = Own { limits, seconds, value: Value5 { saved: 0.97, plain: 0.3 } };
        let surroundings = Surroundings { lines: vec![("date", "today".to_owned())] };
        let text = document(&surroundings, &[table(false), table(true)], Some(&own), 1);
        for line in [
            "| date | today |\n",
            "| save 4 × 1 GiB, against the fastest other (s5cmd) | ≥ 1 × | 1.50 × | yes |\n",
            "| restore 4 × 1 GiB, against the fastest other (s5cmd) | ≥ 1 × | 0.50 × | **no** |\n",
            "| save large files, as a part of the best client's rate | ≥ 0.85 | 0.82 | **no** |\n",
            "| second save, 1 % of 20,000 files changed | ≤ 5 % of the full time | 10.0 % | **no** |\n",
            "| second save, nothing changed | nothing sent | 0.00 MiB | yes |\n",
            "|  | rclone | stopped after 9 s |  |  | – |  |  |\n",
            "## Over a link with 30 ms and 1 Gbit/s",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let plot = plot(&[table(false)]);
        assert!(plot.starts_with("<svg") && plot.contains("2.00 s / 1.00 s") && plot.ends_with("</svg>\n"));
    }
}

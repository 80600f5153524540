//! From measurements to `docs/bench-agent.md`: the tables, and where and how they were taken.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::Context;

use super::aws::AllOfAws;
use super::evacuation::{Evacuation, FILE_BYTES};
use super::idle::Idle;
use super::reaction::Reaction;
use super::statistics::{greatest, mean, median, percentile, smallest};
use super::{Bench, Extent};
use crate::tree::{output_of, root};

/// Issue "Foundation": what an idle agent may hold.
const RESIDENT_AIM_MIB: f64 = 12.0;
/// What it may compute, CPU seconds an hour.
const CPU_AIM: f64 = 5.0;
/// From the moment in which it could know, ms.
const OWN_AIM_MS: f64 = 20.0;
/// And half an interval before that, which no poller can avoid on average, ms.
const REACTION_AIM_MS: f64 = 1_000.0 + OWN_AIM_MS;

/// What it may hold with all of AWS switched on.
const AWS_RESIDENT_AIM_MIB: f64 = 30.0;
/// From its start to its first request for a notice, ms.
const FIRST_POLL_AIM_MS: f64 = 300.0;

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) idle: Vec<Idle>,
    pub(crate) reaction: Vec<Reaction>,
    pub(crate) evacuation: Vec<Evacuation>,
    pub(crate) aws: AllOfAws,
}

/// Where and when.
#[derive(Debug)]
pub(crate) struct Surroundings {
    lines: Vec<(&'static str, String)>,
}

impl Surroundings {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When one of the programs that are asked is missing.
    pub(crate) fn look(bench: &Bench) -> anyhow::Result<Self> {
        let ask = |program: &str, args: &[&str]| -> anyhow::Result<String> {
            Ok(output_of(Command::new(program).args(args).current_dir(root()))?.trim().to_owned())
        };
        let revision =
            ask("git", &["describe", "--always", "--dirty"]).unwrap_or_else(|_| "unknown".to_owned());
        let version = output_of(Command::new(&bench.lifeboat).arg("--version"))?;
        let machine = format!("{} × {}, {} of memory", cores(), processor()?, memory()?);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let disk = ask("df", &["--output=fstype", &bench.scratch.to_string_lossy()])?;
        let disk = disk.lines().last().unwrap_or("unknown file system").to_owned();
        Ok(Self {
            lines: vec![
                ("date", ask("date", &["-u", "+%Y-%m-%d %H:%M UTC"])?),
                ("machine", machine),
                ("kernel, file system", format!("Linux {}, {disk}", kernel.trim())),
                ("programs", format!("{} ({revision}), {}", version.trim(), ask("python3", &["--version"])?)),
                ("compiler", ask("rustc", &["--version"])?),
                ("load before", load()),
            ],
        })
    }

    pub(crate) fn text(&self) -> String {
        let lines: Vec<String> = self.lines.iter().map(|(name, text)| format!("{name}: {text}")).collect();
        lines.join("\n")
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn processor() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name =
        line.and_then(|line| line.split_once(':')).map_or("unknown processor", |(_, name)| name.trim());
    Ok(name.to_owned())
}

fn memory() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = kib.context("/proc/meminfo without MemTotal")?;
    Ok(format!("{} GiB", kib.div_ceil(1024 * 1024)))
}

/// The load averages over 1, 5 and 15 minutes.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The whole document.
///
/// # Errors
/// When a measurement is missing.
pub(crate) fn document(extent: &Extent, before: &Surroundings, results: &Results) -> anyhow::Result<String> {
    let mut text = String::from(
        "# The agent in numbers\n\nWritten by `cargo xtask bench agent`; every number is a measurement of that one run. \
         The peer, `bench/source_a.py`, is a Python program that does what source A's two scripts do.\n\n| | |\n|---|---|\n",
    );
    let after = ("load after", load());
    for (name, value) in before.lines.iter().chain([&after]) {
        writeln!(text, "| {name} | {value} |")?;
    }
    text += "\n## While nothing happens, and at the notice\n\n";
    text += &watching(results)?;
    text += "\n## Storing everything\n\n";
    text += &storing(extent, &results.evacuation)?;
    text += "\n## With all of AWS switched on\n\n";
    text += &all_of_aws(&results.aws);
    text += "\n## How it is measured\n\n";
    text += &method(extent);
    Ok(text)
}

fn watching(results: &Results) -> anyhow::Result<String> {
    let mut text = row(["", "aim"]
        .into_iter()
        .map(str::to_owned)
        .chain(results.idle.iter().map(|one| one.agent.name())));
    text.insert_str(text.len() - 1, " source A, 5 s ÷ Lifeboat |");
    text += "|---|---|---:|---:|---:|---:|\n";
    let idle = |of: fn(&Idle) -> f64| -> Vec<f64> { results.idle.iter().map(of).collect() };
    let reaction = |of: &dyn Fn(&Reaction) -> f64| -> Vec<f64> { results.reaction.iter().map(of).collect() };
    let at_most = |aim: f64, unit: &str| format!("≤ {aim} {unit}");
    let no_aim = String::new;
    let rows = [
        (
            "resident memory",
            at_most(RESIDENT_AIM_MIB, "MiB"),
            "MiB",
            idle(|one| mib(one.memory.resident_kib)),
        ),
        ("peak resident memory", no_aim(), "MiB", idle(|one| mib(one.memory.peak_kib))),
        ("CPU time an hour", at_most(CPU_AIM, "s"), "s", idle(|one| one.cpu_seconds_an_hour)),
        (
            "notice → workload signalled, mean",
            at_most(REACTION_AIM_MS, "ms"),
            "ms",
            reaction(&|one| mean(&one.ms)),
        ),
        ("— P50", no_aim(), "ms", reaction(&|one| percentile(&one.ms, 50))),
        ("— P99", no_aim(), "ms", reaction(&|one| percentile(&one.ms, 99))),
        (
            "told → workload signalled, mean",
            at_most(OWN_AIM_MS, "ms"),
            "ms",
            reaction(&|one| mean(&one.own_ms)),
        ),
        ("— P50", no_aim(), "ms", reaction(&|one| percentile(&one.own_ms, 50))),
        ("— P99", no_aim(), "ms", reaction(&|one| percentile(&one.own_ms, 99))),
    ];
    for (name, aim, unit, values) in rows {
        let [ours, theirs, ..] = values.as_slice() else { anyhow::bail!("{name} was not measured") };
        let ratio = times(theirs / ours);
        let cells = [name.to_owned(), aim].into_iter();
        let cells =
            cells.chain(values.iter().map(|value| format!("{} {unit}", number(*value)))).chain([ratio]);
        text += &row(cells);
    }
    Ok(text)
}

fn all_of_aws(aws: &AllOfAws) -> String {
    let mut text = String::from("| | aim | |\n|---|---|---:|\n");
    let polls = |ms: &[f64]| format!("median {} ms, slowest {} ms", number(median(ms)), number(greatest(ms)));
    let of_memory = |kib| format!("{} MiB", number(mib(kib)));
    let binary_mib = mib(aws.binary_bytes / 1_024);
    let rows = [
        ("resident memory, idle", format!("≤ {AWS_RESIDENT_AIM_MIB} MiB"), of_memory(aws.idle.resident_kib)),
        ("peak resident memory before the notice", String::new(), of_memory(aws.idle.peak_kib)),
        ("peak resident memory, evacuation included", String::new(), of_memory(aws.evacuating_peak_kib)),
        ("CPU time an hour, idle", String::new(), format!("{} s", number(aws.cpu_seconds_an_hour))),
        ("start → first poll", format!("≤ {FIRST_POLL_AIM_MS} ms"), polls(&aws.first_poll_ms)),
        ("the same without AWS", String::new(), polls(&aws.first_poll_plain_ms)),
        ("the program's file", String::new(), format!("{} MiB", number(binary_mib))),
    ];
    for (name, aim, value) in rows {
        text += &row([name.to_owned(), aim, value]);
    }
    text
}

fn storing(extent: &Extent, evacuations: &[Evacuation]) -> anyhow::Result<String> {
    let ours = evacuations.first().context("nothing was evacuated")?.median();
    let mut text = format!(
        "{} files of {} KiB into a directory on the same disk, from the start of the command to its end.\n\n",
        extent.files,
        FILE_BYTES / 1024
    );
    text += "| | median | fastest – slowest | ÷ Lifeboat | peak memory | what is promised at the end |\n";
    text += "|---|---:|---:|---:|---:|---|\n";
    for one in evacuations {
        let range = format!("{} – {} s", number(smallest(&one.seconds)), number(greatest(&one.seconds)));
        text += &row([
            one.variant.name.to_owned(),
            format!("{} s", number(one.median())),
            range,
            times(one.median() / ours),
            format!("{} MiB", number(median(&one.peak_kib) / 1024.0)),
            one.variant.promise.to_owned(),
        ]);
    }
    Ok(text)
}

fn method(extent: &Extent) -> String {
    format!(
        "* Idle: each agent polls its own `lifeboat mock-imds` and protects `sleep`; all run side by side for {idle} s \
         after {warm} s of warm-up. Memory is the greatest `VmRSS` of a look each second, and `VmHWM`; CPU time is \
         the kernel's count by thread, in ns, of the agent alone: neither the mock nor the workload. In this time \
         Lifeboat asks for every kind of notice and renews its claim on the work; the peer asks for one path.\n\
         * Reaction: {notices} notices for each agent, in {lanes} lanes at once, each with its own agent, mock and \
         moments (one in each of {notices} equal parts of the polling interval, at a random place in it, seeded). \
         Counted from just before the mock gets the notice to the time that the workload (`bench/signalled.py`) \
         reads when SIGTERM arrives. Waiting for the next poll is chance, half an interval on average. What the agent \
         adds is counted from the moment in which a proxy passes the answer with the notice on to it (\"told\").\n\
         * Storing: {times} times each, in turn, after a `sync`, each into a new folder, the files in the page cache, \
         their bytes random. Lifeboat: `lifeboat evacuate` without a workload, which includes its claim, its own \
         records and the commit. The peer starts Python, which takes part of its time, and keeps each file's \
         metadata as extended attributes.\n\
         * All of AWS: a bucket (s3s-fs), a table, a queue with two messages in flight, a lifecycle hook, a topic, \
         CloudWatch and Prometheus are configured, `precopy` every 30 s; `bench/aws.py` stands in for all but the \
         bucket and says yes. Idle as above, then one notice: the run counts only if every one of them was called. \
         Before a notice an agent calls the bucket alone. Start → first poll: {starts} starts of each kind, in turn, \
         from before the process is created to the moment in which a proxy sees it ask for `spot/instance-action`.\n\
         * A ratio above 1 means that the peer takes so many times what Lifeboat takes.\n",
        idle = extent.idle.as_secs(),
        warm = extent.warm_up.as_secs(),
        notices = extent.notices(),
        lanes = extent.lanes,
        times = extent.repetitions,
        starts = extent.starts,
    )
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}

fn row(cells: impl IntoIterator<Item = String>) -> String {
    let mut text = String::from("|");
    for cell in cells {
        text.push(' ');
        text += &cell;
        text += " |";
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::agents::AGENTS;
    use super::super::evacuation::VARIANTS;
    use super::super::process::Memory;
    use super::*;

    #[test]
    fn the_document_holds_every_measurement_and_its_ratio() {
        let idle = AGENTS.into_iter().enumerate().map(|(index, agent)| Idle {
            agent,
            memory: Memory { resident_kib: 10_240 * (1 + index as u64), peak_kib: 20_480 },
            cpu_seconds_an_hour: 2.0,
        });
        let reaction = AGENTS
            .into_iter()
            .map(|_| Reaction { ms: vec![990.0, 1_020.0, 1_050.0], own_ms: vec![4.0, 8.0, 9.0] });
        let evacuation = VARIANTS.into_iter().map(|variant| Evacuation {
            variant,
            seconds: vec![0.5, 0.25, 1.0],
            peak_kib: vec![30_720.0],
        });
        let aws = AllOfAws {
            idle: Memory { resident_kib: 15_360, peak_kib: 16_384 },
            cpu_seconds_an_hour: 1.0,
            evacuating_peak_kib: 65_536,
            first_poll_ms: vec![20.0, 40.0, 60.0],
            first_poll_plain_ms: vec![10.0, 20.0, 30.0],
            binary_bytes: 24 << 20,
        };
        let (idle, reaction) = (idle.collect(), reaction.collect());
        let results = Results { idle, reaction, evacuation: evacuation.collect(), aws };
        let before = Surroundings { lines: vec![("date", "today".to_owned())] };
        let text = document(&Extent::FULL, &before, &results).expect("whole");
        for line in [
            "| date | today |\n",
            "| resident memory | ≤ 12 MiB | 10.0 MiB | 20.0 MiB | 30.0 MiB | 2.00 × |\n",
            "| notice → workload signalled, mean | ≤ 1020 ms | 1020 ms | 1020 ms | 1020 ms | 1.00 × |\n",
            "| told → workload signalled, mean | ≤ 20 ms | 7.00 ms | 7.00 ms | 7.00 ms | 1.00 × |\n",
            "| resident memory, idle | ≤ 30 MiB | 15.0 MiB |\n",
            "| start → first poll | ≤ 300 ms | median 40.0 ms, slowest 60.0 ms |\n",
            "| the program's file |  | 24.0 MiB |\n",
            "| Lifeboat | 0.50 s | 0.25 – 1.00 s | 1.00 × | 30.0 MiB |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.123, 1.234, 12.34, 1234.5].map(number), ["0.12", "1.23", "12.3", "1234"]);
    }
}

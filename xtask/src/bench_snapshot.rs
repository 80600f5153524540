//! `cargo xtask bench snapshot`: saving and restoring beside the copying tools that people use, against one S3 server
//! on loopback, and over a link.
//!
//! Every tool's upload is fetched back and compared, byte for byte. [`loads`]: what is copied. [`tools`]: the programs
//! and how they are watched. [`own`]: what only Lifeboat does, and the limits. [`link`]: the proxy that makes loopback
//! a link. [`report`]: the tables and the plot.

mod link;
mod loads;
mod own;
mod report;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::tree::{cargo, output_of, root, run};
use loads::{Load, Made, Planned, plan};
use own::Own;
use report::Surroundings;
use tools::{Outcome, Tools, Way};

const USAGE: &str = "cargo xtask bench snapshot [--quick] [--only small|medium|large|sources|own]… [--near] [--write] \
                     [--peers DIR] [--programs DIR] [--scratch DIR]";

/// What `--only` takes, in the order of the plan; `own` is all that is measured without other tools.
const PARTS: [&str; 5] = ["small", "medium", "large", "sources", "own"];

/// With `--quick` there is so much less data.
const QUICK_DIVISOR: u64 = 8;

/// One way of the link; there and back it is 30 ms.
const LINK_DELAY: Duration = Duration::from_millis(15);

/// Bytes a second of the link each way: 1 Gbit/s.
const LINK_RATE: u64 = 125_000_000;

/// Each tool is measured so often, in turns; the fastest run counts. Over the link once: there chance is little.
const ROUNDS: usize = 2;

/// A tool that takes longer to save and restore, in seconds, is measured once: what it loses to chance is little beside
/// that. Large files are measured twice by all: whoever is first to touch a virtual machine's memory pays for it.
const REPEATED_BELOW: f64 = 60.0;

/// What is on disk at once at most: 4 GiB of data, their copy in the store, and the server's and our own rest.
const SCRATCH_BYTES: u64 = 10 * 1024 * 1024 * 1024;

/// What is asked for.
#[derive(Debug)]
struct Asked {
    divisor: u64,
    only: Vec<String>,
    is_near_only: bool,
    /// Also what is not whole is written down.
    is_kept: bool,
    peers: PathBuf,
    /// Where `lifeboat` and `snapshot` are; built where it is not said.
    programs: Option<PathBuf>,
    scratch: PathBuf,
}

impl Asked {
    fn parse(args: &[&str], target: &Path) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let is_roomy = free_bytes(memory).is_some_and(|free| free > SCRATCH_BYTES);
        let mut asked = Self {
            divisor: 1,
            only: Vec::new(),
            is_near_only: false,
            is_kept: false,
            peers: target.join("bench-peers/bin"),
            programs: None,
            scratch: if is_roomy { memory.to_owned() } else { target.to_owned() },
        };
        let mut rest = args;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            match *first {
                "--quick" => asked.divisor = QUICK_DIVISOR,
                "--near" => asked.is_near_only = true,
                "--write" => asked.is_kept = true,
                "--only" | "--peers" | "--programs" | "--scratch" => {
                    let (value, after) = rest.split_first().context(USAGE)?;
                    rest = after;
                    match *first {
                        "--peers" => asked.peers = PathBuf::from(value),
                        "--programs" => asked.programs = Some(PathBuf::from(value)),
                        "--scratch" => asked.scratch = PathBuf::from(value),
                        _ if PARTS.contains(value) => asked.only.push((*value).to_owned()),
                        _ => bail!(USAGE),
                    }
                }
                _ => bail!(USAGE),
            }
        }
        Ok(asked)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Only then is it worth being written down.
    fn is_whole(&self) -> bool {
        self.divisor == 1 && self.only.is_empty() && !self.is_near_only
    }
}

/// What one tool did with one load.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) tool: &'static str,
    pub(crate) save: Outcome,
    pub(crate) restore: Outcome,
}

/// What all tools did with one load.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// As in [`PARTS`].
    pub(crate) part: &'static str,
    pub(crate) load: Load,
    pub(crate) made: Made,
    pub(crate) is_far: bool,
    /// How many times faster than the fastest other tool the save shall be, on loopback.
    pub(crate) aim: f64,
    pub(crate) rows: Vec<Row>,
}

struct Bench {
    work: PathBuf,
    tools: Tools,
    begun: Instant,
}

/// The folder of everything that is made; it goes in any case.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // gone already
    }
}

/// Runs the benchmark.
///
/// # Errors
/// When Lifeboat fails, or anybody's upload does not come back as it was.
pub(crate) fn run_all(args: &[&str]) -> anyhow::Result<ExitCode> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let asked = Asked::parse(args, &target)?;
    Tools::install(&asked.peers)?;
    let (lifeboat, example) = programs(&asked, &target)?;
    let scratch = Scratch(asked.scratch.join("lifeboat-bench-snapshot"));
    if scratch.0.exists() {
        fs::remove_dir_all(&scratch.0)?;
    }
    let tools = Tools {
        home: scratch.0.join("home"),
        peers: asked.peers.clone(),
        lifeboat,
        example,
        server: crate::ci::s3s_fs()?,
        patience: Duration::from_secs(if asked.divisor == 1 { 60 } else { 40 }),
    };
    tools.configure()?;
    let mut surroundings = Surroundings::look(&tools, &scratch.0)?;
    let bench = Bench { work: scratch.0.clone(), tools, begun: Instant::now() };
    let tables = bench.beside_others(&asked)?;
    let own = if asked.wants("own") { Some(bench.own(asked.divisor)?) } else { None };
    surroundings.end(bench.begun.elapsed());
    let text = report::document(&surroundings, &tables, own.as_ref(), asked.divisor);
    println!("\n{text}");
    if asked.is_whole() || asked.is_kept {
        fs::write(root().join("docs/bench-snapshot.md"), text)?;
        fs::write(root().join("docs/bench-snapshot.svg"), report::plot(&tables))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What is measured: `lifeboat` and the example `snapshot`.
fn programs(asked: &Asked, target: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    if let Some(programs) = &asked.programs {
        return Ok((programs.join("lifeboat"), programs.join("snapshot")));
    }
    run(cargo().args(["build", "--release", "--locked", "-p", "lifeboat", "--bin", "lifeboat"]))?;
    let example = ["-p", "lifeboat-snapshot", "--example", "snapshot"];
    run(cargo().args(["build", "--release", "--locked"]).args(example))?;
    Ok((target.join("release/lifeboat"), target.join("release/examples/snapshot")))
}

impl Bench {
    fn say(&self, text: &str) {
        println!("{:5.0} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    fn beside_others(&self, asked: &Asked) -> anyhow::Result<Vec<Table>> {
        let mut tables = Vec::new();
        for (part, Planned { near, far, aim }) in PARTS.into_iter().zip(plan(asked.divisor)) {
            for (load, is_far) in [(near, false), (far, true)] {
                if asked.wants(part) && !(is_far && asked.is_near_only) {
                    let (made, rows) = self.table(load, is_far)?;
                    tables.push(Table { part, load, made, is_far, aim, rows });
                }
            }
        }
        Ok(tables)
    }

    /// Lets all tools, in turns, copy one load there and back.
    fn table(&self, load: Load, is_far: bool) -> anyhow::Result<(Made, Vec<Row>)> {
        let source = self.work.join("source");
        let made = load.make(&source)?;
        let mut rows: Vec<Row> = Vec::new();
        let is_quick = |row: &Row| match (row.save.seconds(), row.restore.seconds()) {
            (Some(save), Some(restore)) => save + restore < REPEATED_BELOW,
            (_, _) => false,
        };
        for round in 0..if is_far { 1 } else { ROUNDS } {
            // Never two chances for ours and one for all the others.
            let is_fair = |row: &Row| row.tool != tools::OURS && is_quick(row);
            if round > 0 && !rows.iter().any(is_fair) {
                break;
            }
            for tool in self.tools.present() {
                let before = rows.iter().position(|row| row.tool == tool);
                if before.is_some_and(|index| !is_quick(&rows[index])) {
                    continue;
                }
                let (save, restore) = self.there_and_back(tool, &load, &source, is_far)?;
                let link = if is_far { " over the link" } else { "" };
                self.say(&format!(
                    "{}{link}, {tool}: {}, back {}",
                    load.name(),
                    report::time(save),
                    report::time(restore)
                ));
                match before {
                    Some(index) => {
                        let row = &mut rows[index];
                        (row.save, row.restore) = (row.save.best(save), row.restore.best(restore));
                    }
                    None => rows.push(Row { tool, save, restore }),
                }
            }
        }
        // A huge one made room already.
        if source.exists() {
            fs::remove_dir_all(&source)?;
        }
        Ok((made, rows))
    }

    /// Uploads with one tool to a new server, downloads again, and compares.
    fn there_and_back(
        &self,
        tool: &str,
        load: &Load,
        source: &Path,
        is_far: bool,
    ) -> anyhow::Result<(Outcome, Outcome)> {
        if !source.exists() {
            load.make(source)?;
        }
        let mut server = self.tools.serve(&self.work.join("server"))?;
        if is_far {
            server = server.behind(LINK_DELAY, LINK_RATE)?;
        }
        let save = self.tools.copy(tool, server.port(), source, Way::Up)?;
        if save.seconds().is_none() {
            return Ok((save, Outcome::NotRun));
        }
        if load.is_huge() {
            fs::remove_dir_all(source)?;
        }
        let back = self.work.join("back");
        fs::create_dir_all(&back)?;
        let restore = self.tools.copy(tool, server.port(), &back, Way::Down)?;
        drop(server);
        if restore.seconds().is_some() {
            load.compare(source, &back).with_context(|| format!("what {tool} brought back differs"))?;
        }
        fs::remove_dir_all(&back)?;
        fs::remove_dir_all(self.work.join("server"))?;
        Ok((save, restore))
    }

    fn own(&self, divisor: u64) -> anyhow::Result<Own> {
        own::measure(&self.tools, &self.work, divisor, &|text| self.say(text))
    }
}

/// How much room is left where `path` is.
fn free_bytes(path: &Path) -> Option<u64> {
    let text = output_of(Command::new("df").args(["-B1", "--output=avail"]).arg(path)).ok()?;
    text.lines().last()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_chosen_by_name_and_only_a_whole_run_is_written_down() {
        let parse = |args: &[&str]| Asked::parse(args, Path::new("/tmp"));
        assert!(parse(&[]).expect("all").is_whole());
        let some = parse(&["--only", "small", "--only", "own"]).expect("known");
        assert!(some.wants("own") && !some.wants("large") && !some.is_whole());
        assert!(!parse(&["--quick"]).expect("known").is_whole());
        for wrong in [&["--only"][..], &["--only", "nothing"], &["--slow"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}

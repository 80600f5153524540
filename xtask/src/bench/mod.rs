//! `cargo xtask bench agent`: what the agent costs while nothing happens, how fast it reacts, how long it takes to
//! store everything, each beside a Python program that does what source A's scripts do (`bench/source_a.py`).
//!
//! Never part of CI: what it says depends on the machine. [`idle`], [`reaction`], [`evacuation`] and [`aws`] measure,
//! [`report`] writes it down; [`agents`], [`mock`], [`tap`] and [`process`] are what they measure with.

mod agents;
mod aws;
mod evacuation;
mod hand_back;
mod idle;
mod mock;
mod process;
mod reaction;
mod report;
mod statistics;
mod tap;
mod worker;

pub(crate) use worker::run as worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::tree::{cargo, output_of, root, run, succeeds};

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// After this time an agent counts as idle.
    pub(crate) warm_up: Duration,
    /// Over this time its CPU time is taken.
    pub(crate) idle: Duration,
    /// So many agents get a notice side by side…
    pub(crate) lanes: usize,
    /// …so many times.
    pub(crate) rounds: usize,
    /// So many files are stored…
    pub(crate) files: usize,
    /// …so many times by each program.
    pub(crate) repetitions: usize,
    /// So many starts are timed.
    pub(crate) starts: usize,
}

impl Extent {
    const FULL: Self = Self {
        warm_up: Duration::from_secs(10),
        idle: Duration::from_secs(120),
        lanes: 5,
        rounds: 20,
        files: 2_000,
        repetitions: 7,
        starts: 20,
    };
    const QUICK: Self = Self {
        warm_up: Duration::from_secs(2),
        idle: Duration::from_secs(6),
        lanes: 2,
        rounds: 1,
        files: 200,
        repetitions: 1,
        starts: 2,
    };

    /// Notices in all.
    pub(crate) const fn notices(&self) -> usize {
        self.lanes * self.rounds
    }
}

/// What is measured, and where it may write.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    pub(crate) extent: Extent,
    /// The product's binary.
    pub(crate) lifeboat: PathBuf,
    /// Empty at the beginning, gone at the end.
    pub(crate) scratch: PathBuf,
}

/// Runs a benchmark of the simulator, which has its own programs: `policies` or `sim`.
///
/// # Errors
/// When it fails, or when `policies` is not told where the traces are.
pub(crate) fn of_the_simulator(name: &str, args: &[&str]) -> anyhow::Result<ExitCode> {
    if name == "policies" && args.iter().all(|arg| arg.starts_with("--")) {
        bail!("`cargo xtask bench policies` wants the directory with the recorded traces");
    }
    // Cargo starts the program in the directory of its crate, where a relative path leads nowhere.
    let paths = args.iter().map(|arg| match std::path::absolute(arg) {
        Ok(path) if !arg.starts_with("--") => path,
        _ => PathBuf::from(arg),
    });
    run(cargo().args(["bench", "--locked", "--package", "lifeboat-sim", "--bench", name, "--"]).args(paths))?;
    Ok(ExitCode::SUCCESS)
}

/// Measures, prints the table and writes `docs/bench-agent.md`.
///
/// # Errors
/// When something that is measured does not do what it should: a number of a failed run is worth nothing.
pub(crate) fn agent(args: &[&str]) -> anyhow::Result<ExitCode> {
    let (is_quick, lifeboat) = parse(args)?;
    if !succeeds(std::process::Command::new("python3").arg("--version")) {
        bail!("there is no python3, which the peer needs");
    }
    let lifeboat = match lifeboat {
        Some(path) => path.canonicalize().with_context(|| format!("there is no {}", path.display()))?,
        None => built()?,
    };
    let scratch = process::Scratch::new()?;
    let extent = if is_quick { Extent::QUICK } else { Extent::FULL };
    let bench = Bench { extent, lifeboat, scratch: scratch.path().to_owned() };
    let before = report::Surroundings::look(&bench)?;
    println!("{}\n", before.text());
    let results = report::Results {
        idle: idle::measure(&bench)?,
        reaction: reaction::measure(&bench)?,
        evacuation: evacuation::measure(&bench)?,
        aws: aws::measure(&bench)?,
    };
    let document = report::document(&bench.extent, &before, &results)?;
    println!("\n{document}");
    if !is_quick {
        let path = root().join("docs/bench-agent.md");
        std::fs::write(&path, document).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written to docs/bench-agent.md");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `bench/controller.py`, which measures the controller against labs of its own and writes
/// `docs/bench-controller.md`. The peer needs boto3, which moto's environment has.
///
/// # Errors
/// When something that is measured does not do what it should.
pub(crate) fn controller(args: &[&str]) -> anyhow::Result<ExitCode> {
    let (is_quick, lifeboat) = parse(args)?;
    let python = crate::ci::aws_python()?;
    let lifeboat = match lifeboat {
        Some(path) => path.canonicalize().with_context(|| format!("there is no {}", path.display()))?,
        None => built()?,
    };
    let mut command = std::process::Command::new(&python);
    command.arg(root().join("bench/controller.py")).arg("--lifeboat").arg(lifeboat);
    command.arg("--python").arg(&python);
    command.arg("--out").arg(root().join("docs/bench-controller.md"));
    if is_quick {
        command.arg("--quick");
    }
    run(&mut command)?;
    Ok(ExitCode::SUCCESS)
}

fn parse(args: &[&str]) -> anyhow::Result<(bool, Option<PathBuf>)> {
    let mut is_quick = false;
    let mut lifeboat = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "--quick" => is_quick = true,
            "--lifeboat" => lifeboat = Some(PathBuf::from(rest.next().context("--lifeboat wants a file")?)),
            other => {
                bail!("`{other}` makes no sense here: cargo xtask bench agent [--quick] [--lifeboat FILE]")
            }
        }
    }
    Ok((is_quick, lifeboat))
}

/// Builds the product as it is shipped, and says where it is.
fn built() -> anyhow::Result<PathBuf> {
    run(cargo().args(["build", "--release", "--locked", "--package", "lifeboat"]))?;
    let metadata = output_of(cargo().args(["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata without target_directory")?;
    Ok(PathBuf::from(target).join("release/lifeboat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        assert_eq!(parse(&[]).expect("sensible"), (false, None));
        let given = parse(&["--lifeboat", "x", "--quick"]).expect("sensible");
        assert_eq!(given, (true, Some(PathBuf::from("x"))));
        assert!(parse(&["--lifeboat"]).is_err() && parse(&["--slow"]).is_err());
    }

    #[test]
    fn a_full_run_sends_a_hundred_notices() {
        assert_eq!(Extent::FULL.notices(), 100);
    }
}

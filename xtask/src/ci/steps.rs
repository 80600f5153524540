//! The steps of `cargo xtask ci`, quick ones first, the tests last.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};

use super::{directions, tidy};
use crate::tree::{cargo, output_of, root, run, source_files, succeeds};

/// The version that the repository is checked with; another one may know other licences.
const CARGO_DENY: &str = "0.20.2";

/// The S3 server of the tests; its tests are written for this version.
const S3S_FS: &str = "0.14.1";

/// The stand-in for the rest of AWS; its tests are written for this version. What it needs is pinned beside.
const MOTO: &str = "5.2.5";

/// Every package with its hash. Written by `pip-compile --generate-hashes` from `moto[server]==5.2.5`.
const MOTO_REQUIREMENTS: &str = "xtask/moto-requirements.txt";

/// Has no standard library: what builds for it reads no clock, file or network.
const BARE_TARGET: &str = "x86_64-unknown-none";

/// One check.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Part of a run that names no step.
    pub(crate) by_default: bool,
    pub(crate) run: fn() -> anyhow::Result<Done>,
}

/// A step that did not fail.
pub(crate) enum Done {
    Passed,
    /// This machine lacks what it takes; the reason says what.
    Skipped(String),
}

const fn step(name: &'static str, what: &'static str, run: fn() -> anyhow::Result<Done>) -> Step {
    Step { name, what, by_default: true, run }
}

/// All steps in the order in which they run.
pub(crate) const STEPS: [Step; 15] = [
    step("tools", "what the other steps need is there", tools),
    step("fmt", "every file is formatted", fmt),
    step("tidy", "headers, lengths, links, and no traces of one machine", tidy_tree),
    step("directions", "who may depend on whom", who_depends_on_whom),
    step("lock", "Cargo.lock is committed as it is used", lock),
    step("deny", "licences, bans and sources of dependencies", deny),
    Step { by_default: false, ..step("advisories", "known vulnerabilities in dependencies", advisories) },
    step("clippy", "no warning in any target", clippy),
    step("bare", "core builds without a standard library", bare),
    step("doc", "the documentation builds, its links lead somewhere", doc),
    step("doctest", "the examples in the documentation work", doctest),
    step("s3-server", "the S3 server of the tests is installed", s3_server),
    step("aws-server", "the stand-in for AWS of the tests is installed", aws_server),
    step("test", "the tests, those of the real binary among them", test),
    step("swarm", "the failover machine keeps its promises in 20,000 worlds with faults", swarm),
];

/// rustup's minimal profile, as on a fresh machine, has neither of the two.
fn tools() -> anyhow::Result<Done> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if !succeeds(cargo().args([command, "--version"])) {
            run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("`cargo {command}` is missing and rustup cannot add it"))?;
        }
    }
    if !succeeds(Command::new("cc").arg("--version")) {
        bail!("there is no C compiler, which zstd and every link need: apt-get install gcc libc6-dev");
    }
    if !succeeds(Command::new("python3").arg("--version")) {
        bail!("there is no python3, which tests use: apt-get install python3");
    }
    run(Command::new("rustc").arg("--version"))?;
    Ok(Done::Passed)
}

fn fmt() -> anyhow::Result<Done> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Done::Passed)
}

fn tidy_tree() -> anyhow::Result<Done> {
    let files = source_files(&root())?;
    let found = tidy::check(&files);
    println!("{} files read", files.len());
    pass_if_none(&found)
}

fn who_depends_on_whom() -> anyhow::Result<Done> {
    let text = output_of(cargo().args(["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    let packages = directions::parse(&text)?;
    println!("{} crates read", packages.len());
    pass_if_none(&directions::check(&packages))
}

fn pass_if_none(found: &[String]) -> anyhow::Result<Done> {
    for line in found {
        println!("{line}");
    }
    match found.len() {
        0 => Ok(Done::Passed),
        count => bail!("{count} found"),
    }
}

/// Only CI can tell: elsewhere a changed lock file is work in progress.
fn lock() -> anyhow::Result<Done> {
    let is_ci = std::env::var_os("CI").is_some();
    if !is_ci || !root().join(".git").exists() {
        return Ok(Done::Skipped("only where CI is set, in a git clone".to_owned()));
    }
    run(Command::new("git").current_dir(root()).args(["diff", "--exit-code", "--stat", "Cargo.lock"]))?;
    Ok(Done::Passed)
}

fn deny() -> anyhow::Result<Done> {
    // Where a duplicate comes from: `cargo tree -d`.
    let which = ["check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    run(Command::new(cargo_deny()?).current_dir(root()).arg("--locked").args(which))?;
    Ok(Done::Passed)
}

fn advisories() -> anyhow::Result<Done> {
    run(Command::new(cargo_deny()?).current_dir(root()).args(["--locked", "check", "advisories"]))?;
    Ok(Done::Passed)
}

/// The pinned cargo-deny, installed once a user and outside the repository, so that `cargo clean` keeps it.
fn cargo_deny() -> anyhow::Result<PathBuf> {
    installed("cargo-deny", CARGO_DENY, &[])
}

/// The tests find it where this installs it.
fn s3_server() -> anyhow::Result<Done> {
    println!("{}", s3s_fs()?.display());
    Ok(Done::Passed)
}

/// The pinned S3 server, installed as cargo-deny is.
pub(crate) fn s3s_fs() -> anyhow::Result<PathBuf> {
    installed("s3s-fs", S3S_FS, &["--features", "binary"])
}

/// The tests find it where this installs it.
fn aws_server() -> anyhow::Result<Done> {
    println!("{}", aws_python()?.with_file_name("moto_server").display());
    Ok(Done::Passed)
}

/// The Python of a virtual environment with moto and boto3, in pinned packages; installed where it is missing.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn aws_python() -> anyhow::Result<PathBuf> {
    let home = tool_home("moto", MOTO)?;
    let python = home.join("bin/python3");
    // Written last: an installation that was cut off, or whose Python is gone, is made anew.
    let mark = home.join("installed");
    let requirements = root().join(MOTO_REQUIREMENTS);
    let wanted = std::fs::read_to_string(&requirements).context(MOTO_REQUIREMENTS)?;
    let is_whole = std::fs::read_to_string(&mark).is_ok_and(|found| found == wanted)
        && succeeds(Command::new(&python).args(["-c", "import moto.server"]));
    if !is_whole {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))
            .context("python3 makes no virtual environments: apt-get install python3-venv")?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"];
        run(Command::new(&python).args(pip).args(["--require-hashes", "--requirement"]).arg(&requirements))?;
        std::fs::write(&mark, wanted).with_context(|| format!("cannot write {}", mark.display()))?;
    }
    Ok(python)
}

/// The stand-in for AWS, where `aws_server` has installed it.
pub(crate) fn moto_program() -> Option<PathBuf> {
    let home = tool_home("moto", MOTO).ok()?;
    home.join("installed").is_file().then(|| home.join("bin/moto_server"))
}

/// Where a tool is installed: once a user, outside the repository.
fn tool_home(name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let home = cache_home()
        .with_context(|| format!("neither XDG_CACHE_HOME nor HOME is set: nowhere to install {name}"))?;
    Ok(home.join("lifeboat/tools").join(format!("{name}-{version}")))
}

/// A program from crates.io in its pinned version, built where it is missing.
fn installed(name: &str, version: &str, args: &[&str]) -> anyhow::Result<PathBuf> {
    let tool = tool_home(name, version)?;
    let program = tool.join("bin").join(name);
    if !program.exists() {
        let mut install = cargo();
        install.args(["install", "--locked", name, "--version", version]).args(args).arg("--root").arg(&tool);
        // What is built for it is needed once; CARGO_TARGET_DIR would keep it among ours.
        install.env_remove("CARGO_TARGET_DIR");
        run(&mut install)?;
    }
    Ok(program)
}

fn cache_home() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
}

fn clippy() -> anyhow::Result<Done> {
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--keep-going", "--", "-D", "warnings"];
    run(cargo().args(args))?;
    Ok(Done::Passed)
}

fn bare() -> anyhow::Result<Done> {
    let library =
        output_of(Command::new("rustc").args(["--print", "target-libdir", "--target", BARE_TARGET]))?;
    if !PathBuf::from(library.trim()).is_dir() {
        let why = format!("target {BARE_TARGET} is not installed: rustup target add {BARE_TARGET}");
        return Ok(Done::Skipped(why));
    }
    run(cargo().args(["build", "--package", "lifeboat-core", "--target", BARE_TARGET, "--locked"]))?;
    Ok(Done::Passed)
}

fn doc() -> anyhow::Result<Done> {
    let args = ["doc", "--workspace", "--no-deps", "--locked", "--keep-going"];
    run(cargo().args(args).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Done::Passed)
}

fn doctest() -> anyhow::Result<Done> {
    run(for_tests(cargo().args(["test", "--workspace", "--doc", "--locked"])))?;
    Ok(Done::Passed)
}

fn test() -> anyhow::Result<Done> {
    // nextest gives each test its own process; without it the ordinary runner does.
    if succeeds(cargo().args(["nextest", "--version"])) {
        let args = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--status-level", "slow"];
        run(for_tests(cargo().args(args)))?;
    } else {
        let targets = ["--lib", "--bins", "--tests", "--examples"];
        let args = ["test", "--workspace", "--locked", "--no-fail-fast"];
        run(for_tests(cargo().args(args).args(targets)))?;
    }
    Ok(Done::Passed)
}

/// The test that runs 2,000 worlds in `test`, with ten times as many. `--workspace` shares what `test` has built.
fn swarm() -> anyhow::Result<Done> {
    let args = ["test", "--workspace", "--locked", "--test", "swarm", "every_promise_holds_in_every_world"];
    run(for_tests(cargo().args(args)).env("LIFEBOAT_SWARM_WORLDS", "20000"))?;
    Ok(Done::Passed)
}

/// Tests reach no metadata service by accident: on EC2 there is a real one.
fn for_tests(command: &mut Command) -> &mut Command {
    // What must not be missing here: `s3_server` and `aws_server` have installed it.
    command
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("LIFEBOAT_TEST_S3", "1")
        .env("LIFEBOAT_TEST_AWS", "1")
}

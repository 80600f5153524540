//! The command without the rest of the program: `cargo run -p lifeboat-sim --features cli --example simulate -- …`.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use lifeboat_sim::cli::{self, SimulateArgs};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: SimulateArgs,
    /// Print the results as JSON.
    #[arg(long, conflicts_with = "csv")]
    json: bool,
}

#[expect(clippy::print_stderr, reason = "a command line's output")]
fn main() -> ExitCode {
    let command = Command::parse();
    let args = SimulateArgs { json: command.json, ..command.args };
    let Err(error) = cli::run(&args, &mut std::io::stdout()) else {
        return ExitCode::SUCCESS;
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    eprintln!("error: {text}");
    ExitCode::from(2)
}

//! `lifeboat`: arguments → configuration → wiring → exit code.

mod args;
mod commands;
mod demo;
mod index_worker;
mod log;
mod output;
mod progress;
mod render;
mod wiring;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use lifeboat_agent::RunError;
use lifeboat_core::conclusion::exit_code;

use crate::args::{Cli, Command, ConfigCommand};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // nobody reads it
            // Not clap's 2, which may be the command's own code.
            return ExitCode::from(if error.use_stderr() { exit_code::FAILED } else { 0 });
        }
    };
    let ring = log::start(&cli);
    let json = cli.json;
    // One thread runs everything that waits; what reads and hashes files has threads of its own. An idle
    // agent shall cost next to nothing.
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| {
            let code = runtime.block_on(Box::pin(dispatch(cli, ring)));
            // A thread that hangs in a dead file system must not keep the process from ending.
            runtime.shutdown_timeout(std::time::Duration::from_millis(200));
            code
        });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::failure(&error, json);
            ExitCode::from(code_of(&error))
        }
    }
}

/// Reading and hashing use at most so many threads; each holds a bounded buffer.
const BLOCKING_THREADS: usize = 16;

async fn dispatch(cli: Cli, ring: lifeboat_agent::LogRing) -> anyhow::Result<u8> {
    let ports = lifeboat_agent::Ports::default(); // a run and an evacuation add theirs
    let ui = lifeboat_agent::Ui { ring, progress: progress::maker(!cli.quiet && !cli.json), ports };
    let (json, is_quiet) = (cli.json, cli.quiet);
    match cli.command {
        Command::Run(args) => commands::run::run(&args, ui, commands::run::Say { json, is_quiet }).await,
        Command::Agent(args) => commands::run::agent(&args, ui, commands::run::Say { json, is_quiet }).await,
        Command::Evacuate(args) => commands::run::evacuate(&args, ui, json).await,
        Command::Status(args) => match &args.workload.store.config {
            Some(file) if commands::fleet::is_controllers(file) => {
                commands::fleet::status(file, args.watch, json).await
            }
            Some(file) => {
                commands::fleet::is_somebodys(file)?;
                commands::run::status(&args.workload, args.watch, json).await
            }
            None => commands::run::status(&args.workload, args.watch, json).await,
        },
        Command::Controller(args) => Box::pin(commands::controller::run(&args)).await,
        Command::History(args) => commands::fleet::history(&args, json).await,
        Command::Shift(args) => commands::fleet::shift(&args, json).await,
        Command::Pause(args) => commands::fleet::pause(&args, json).await,
        Command::Resume(args) => commands::fleet::resume(&args, json).await,
        Command::List(args) => commands::store::list(&args, json).await,
        Command::Show(args) => Box::pin(commands::show::show(&args, json)).await,
        Command::Restore(args) => commands::restore::restore(&args, &ui, json).await,
        Command::Verify(args) => commands::store::verify(&args, &ui, json).await,
        Command::Prune(args) => commands::store::prune(&args, json).await,
        Command::Doctor(args) => commands::doctor::doctor(&args, json).await,
        Command::Simulate(args) => {
            let args = lifeboat_sim::cli::SimulateArgs { json, ..*args };
            let mut text = Vec::new();
            lifeboat_sim::cli::run(&args, &mut text)?;
            output::result(&String::from_utf8_lossy(&text))?;
            Ok(0)
        }
        Command::Config(ConfigCommand::Check { file }) => commands::config::check(&file, json),
        Command::Policy { file } => commands::policy::print(&file),
        Command::Render(command) => commands::render::render(&command),
        Command::Demo(args) => match &args.what {
            Some(args::DemoCommand::Fleet(args)) => demo::fleet::demo(args, json).await,
            None => demo::demo(&args, json).await,
        },
        Command::Lab(args) => commands::lab::serve(*args, json).await,
        Command::MockImds(args) => commands::mock::serve(*args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lifeboat", &mut script);
            output::result(&String::from_utf8_lossy(&script))?;
            Ok(0)
        }
        Command::IndexWorker(args) => index_worker::work(&args).await,
    }
}

/// The exit code of a failure: what the agent says of its own errors, else "lifeboat itself failed".
fn code_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<RunError>().map_or(exit_code::FAILED, RunError::exit_code)
}

//! Makes files searchable with a fleet of interruptible workers: messages name files; a worker fetches one, extracts
//! its text page by page, keeps the pages in the store and indexes them; `search WORDS` answers. Interrupted between
//! or within files, the next worker goes on at the page where the last one stopped.
//!
//! * `config`: the configuration file. * `work`: one message. * `extract`: text out of a file's bytes.
//! * `sqs`: SQS as a queue of `lifeboat-worker`; the directory queue is that crate's own.
//! * `results`: the pages in the store. * `index`: the full-text index, SQLite's FTS5.

mod config;
mod extract;
mod index;
mod results;
mod sqs;
mod work;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use futures_util::TryStreamExt;
use lifeboat_worker::{Consumer, Queue, Worker};

use config::{Config, Messages, World};

#[derive(Debug, Parser)]
#[command(name = "file-search", version)]
struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send one message for every file.
    Enqueue,
    /// Work on messages until the machine is interrupted.
    Work {
        /// End when no message is left.
        #[arg(long)]
        until_empty: bool,
    },
    /// Find the files in which all these words stand.
    Search {
        /// The words.
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Print everything that is indexed, one page a line: two equal indexes print the same.
    Dump,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let config = Config::read(&cli.config)?;
    let world = Arc::new(World::open(config)?);
    match cli.command {
        Command::Enqueue => enqueue(&world),
        Command::Work { until_empty } => match world.messages()? {
            Messages::Directory(queue) => consume(&world, queue, until_empty),
            Messages::Sqs(queue) => consume(&world, queue, until_empty),
        },
        Command::Search { words } => {
            let mut index = world.index()?;
            index.catch_up(&world)?;
            let lines = index.search(&words)?.into_iter();
            print(lines.map(|hit| format!("{}:{}: {}", hit.file, hit.page, hit.snippet)))
        }
        Command::Dump => {
            let mut index = world.index()?;
            index.catch_up(&world)?;
            print(index.dump()?.into_iter())
        }
    }
}

fn print(lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    for line in lines {
        writeln!(output, "{line}")?;
    }
    Ok(())
}

fn enqueue(world: &World) -> anyhow::Result<()> {
    let files: Vec<_> = world.runtime.block_on(world.files.list(None).try_collect())?;
    let mut names: Vec<String> = files.into_iter().map(|file| file.location.to_string()).collect();
    names.sort();
    let order = |file: &String| serde_json::to_string(&work::Order { file: file.clone() });
    let orders = names.iter().map(order).collect::<Result<Vec<_>, _>>()?;
    match world.messages()? {
        Messages::Directory(queue) => {
            for order in &orders {
                queue.send(order.as_bytes())?;
            }
        }
        Messages::Sqs(queue) => queue.send(orders)?,
    }
    print([format!("{} files", names.len())].into_iter())
}

fn consume(world: &Arc<World>, queue: impl Queue + 'static, until_empty: bool) -> anyhow::Result<()> {
    let worker = Worker::connect()?;
    let consumer = Consumer::new(worker, Arc::new(queue));
    let consumer = if until_empty { consumer.until_empty() } else { consumer };
    let consumed = consumer.run(|job| work::handle(world, job))?;
    let said = format!(
        "file-search: {} files done, {} given back, {} failed\n",
        consumed.done, consumed.interrupted, consumed.failed
    );
    let _ = std::io::stderr().write_all(said.as_bytes()); // nobody reads it
    Ok(())
}

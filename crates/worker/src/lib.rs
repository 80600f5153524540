//! What an application uses while it runs under `lifeboat run`: it learns of the notice, says what it is working
//! on, stores partial results, and takes messages from a queue that come back when it is interrupted.
//!
//! ```no_run
//! use lifeboat_worker::Worker;
//!
//! let worker = Worker::connect()?;
//! let shutdown = worker.shutdown();
//! let task = worker.task("report-7").start()?;
//! let mut line = match task.take_partial()? {
//!     Some(partial) => partial.json()?,
//!     None => 0u64,
//! };
//! while line < 1_000 && !shutdown.is_requested() {
//!     line += 1; // the work
//!     task.checkpoint_json(&line, line as f64 / 1_000.0)?;
//! }
//! if line == 1_000 { task.done()?; } // dropped without `done`: given back
//! # Ok::<(), lifeboat_worker::Error>(())
//! ```
//!
//! Everything blocks, and needs no runtime: from async code it is called on a thread of its own. Without
//! `lifeboat run` around the program (no `LIFEBOAT_SOCKET`) it says so once and does nothing.
//!
//! * [`Worker`], [`Task`]: the client of the interface, which docs/applications.md describes request by request.
//! * [`Shutdown`]: the notice, or SIGTERM.
//! * [`Consumer`], [`Queue`]: messages; [`directory`]: a queue that is a directory, for machines without a cloud.
//! * [`wire`]: the form of the requests, which the agent shares.

pub mod client;
mod connection;
pub mod consumer;
pub mod directory;
pub mod queue;
pub mod shutdown;
pub mod wire;

pub use client::{Error, Partial, Start, Task, Worker};
pub use consumer::{Consumed, Consumer, Handled, Job};
pub use directory::DirectoryQueue;
pub use queue::{Message, Queue, QueueError};
pub use shutdown::Shutdown;

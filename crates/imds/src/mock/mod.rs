//! A metadata server for rehearsals and tests. It speaks IMDSv2 as documented, plays a [`Script`], misbehaves
//! on demand, and binds to loopback only.
//!
//! * [`script`], [`fault`]: what it plays, and how it misbehaves.
//! * [`args`]: the command line of `lifeboat mock-imds`, with the flags of amazon-ec2-metadata-mock's `spot`.
//! * [`control`]: changing it while it runs, from Rust and over HTTP below `/lifeboat-mock/`.
//!
//! [`Mock`] serves TCP from within a test, [`MemoryMock`] needs no network and runs under tokio's paused
//! clock, [`serve`] is for the command.

pub mod args;
pub mod control;
pub mod fault;
mod routes;
pub mod script;
mod server;
mod state;

pub use control::Control;
pub use fault::{Extent, Fault, FaultKind, FaultTarget};
pub use script::{NoticePlan, RebalancePlan, Script, StatePlan, TerminationTimePlan, TokenUse};
pub use server::{MemoryMock, Mock, ServeError, listen, serve};
pub use state::Requests;

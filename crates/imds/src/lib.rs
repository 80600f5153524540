//! Instance metadata: what the EC2 metadata service (IMDS) says, asked for and served.
//!
//! * [`wire`]: what is on the wire, shared by client and mock.
//! * [`endpoint`], [`client`]: where the service is, and an IMDSv2 client for it.
//! * [`identity`]: which instance this is; [`task`]: which ECS task.
//! * [`poller`]: one poller for all the paths that announce something.
//! * [`diagnose`]: why the service cannot be used, and how to mend it.
//! * [`mock`]: a metadata server for rehearsals and tests, on loopback only.
//!
//! Not here: what a notice leads to. That is decided in `lifeboat-core` and done by the agent.

pub mod client;
pub mod clock;
mod connection;
pub mod diagnose;
pub mod endpoint;
pub mod error;
pub mod identity;
pub mod mock;
pub mod poller;
pub mod task;
pub mod wire;

pub use client::{Answer, Client};
pub use clock::WallClock;
pub use connection::Connector;
pub use endpoint::Endpoint;
pub use error::{GetError, GetErrorKind};
pub use poller::{Pace, Sighting};

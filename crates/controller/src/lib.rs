//! Runs core's failover decisions over a fleet of ECS services.
//!
//! *Decide purely, act dumbly*: `lifeboat_core::failover` decides; this crate receives, looks, stores, orders, tells.
//!
//! * [`config`], [`discover`]: which services belong together. [`event`], [`key`]: what the queue holds.
//! * [`port`]: what it needs of the world. [`store`]: where states and history are kept.
//! * [`fleet`]: everything together. `service`: one service's worker; `observe`: shared looks; `inbox`: the queue;
//!   `machines`: Layer 3; `alert`, `metrics`: who is told. [`clock`]: time, faster in rehearsals.
//!
//! `docs/controller.md` says what it promises and how it behaves when the world is odd.

pub mod alert;
pub mod aws;
mod call;
pub mod clock;
pub mod config;
pub mod counters;
mod crash;
mod directory;
pub mod discover;
pub mod event;
pub mod fleet;
mod inbox;
pub mod key;
mod machines;
mod metrics;
mod observe;
pub mod port;
mod service;
pub mod snapshot;
pub mod store;

//! Every decision that Lifeboat takes, as plain synchronous functions.
//!
//! Nothing in this crate can read a clock, a file, the network, the environment or a random number: it is
//! `no_std`, and what it needs to know is passed in. The agent, the simulator and the tests run the same code.
//!
//! * [`time`], [`span`], [`backoff`], [`clock`]: instants, spans as people write them, waits, the difference between
//!   two clocks.
//! * [`notice`]: what was announced. [`evacuation`]: the agent's machine.
//! * [`conclusion`]: what becomes of work whose process ended.
//! * [`precondition`]: what must be so before an interruption comes.
//! * [`failover`]: how a fleet moves between Spot and On-Demand.

#![cfg_attr(not(test), no_std)]
#![warn(clippy::wildcard_enum_match_arm, clippy::float_arithmetic)]

extern crate alloc;

pub mod backoff;
pub mod clock;
pub mod conclusion;
pub mod evacuation;
pub mod failover;
pub mod notice;
pub mod precondition;
pub mod span;
pub mod time;

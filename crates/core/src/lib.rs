//! Every decision that Lifeboat takes, as plain synchronous functions.
//!
//! Nothing in this crate can read a clock, a file, the network, the environment or a random number: it is
//! `no_std`, and what it needs to know is passed in. The agent, the simulator and the tests run the same code.
//!
//! * [`time`], [`backoff`], [`clock`]: instants, waits, the difference between two clocks.
//! * [`failover`]: how a fleet moves between Spot and On-Demand.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod backoff;
pub mod clock;
pub mod failover;
pub mod time;

//! A seeded world that runs Lifeboat's failover decisions on recorded Spot traces.
//!
//! Nothing here decides: policies, phases, windows and zone memory are those of `lifeboat-core`, the same code that
//! runs in production. The same seed gives the same run, byte for byte, on every machine: random numbers are
//! integers from the seed, and no order comes from a hash.
//!
//! * [`trace`]: what each zone would have given, from JSON or CSV.
//! * [`zones`]: the world in which the caller chooses zones.
//! * [`ecs`]: the world in which AWS chooses, and controllers fail as they do.
//! * [`maintain`]: what EC2 does with instances that it stops; for itself, in neither world.
//! * [`swarm`]: worlds drawn from seeds, with faults.
//! * [`scenario`], [`simulate`], [`model`]: what `lifeboat simulate` runs.
//! * `lab` (feature `lab`): that world over AWS's wire protocols, on loopback.
//! * [`tally`], [`mod@bound`], [`record`]: what a run cost and held, what no plan can beat, what to show of it.

pub mod bound;
#[cfg(feature = "cli")]
pub mod cli;
pub mod ecs;
mod forms;
pub mod html;
#[cfg(feature = "lab")]
pub mod lab;
pub mod maintain;
pub mod model;
pub mod policies;
pub mod record;
pub mod report;
pub mod rng;
pub mod scenario;
pub mod simulate;
pub mod swarm;
pub mod tally;
pub mod trace;
pub mod zones;

//! A directory to an object store and back.
//!
//! This crate moves the bytes and decides who owns them: it knows nothing of Spot, notices or processes.
//! The format and the reasons for it stand in `docs/decisions/0001-one-journal.md`.
//!
//! * [`store`]: which store a URL names, and the errors of every store.
//! * [`workload`]: the name under which everything of one piece of work lies.
//! * [`journal`], [`lease`], [`claim`]: who owns the workload, and its recovery points.
//! * [`manifest`]: what one recovery point contains, line by line.
//! * [`extra`]: small objects beside the recovery points (the application's state, the last log lines).

pub mod claim;
pub mod deadline;
pub mod extra;
pub mod id;
pub mod journal;
pub mod lease;
pub mod manifest;
mod order;
pub mod path;
pub mod progress;
pub mod store;
pub mod workload;

pub use claim::{Acquired, Claim, Claimant, How, Wait, acquire};
pub use deadline::Deadline;
pub use manifest::{Manifest, ManifestRef, read_manifest};
pub use progress::{NoProgress, Progress};
pub use store::{StoreError, StoreUrl, open};
pub use workload::{Workload, WorkloadName};

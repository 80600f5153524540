//! A directory to an object store and back.
//!
//! This crate moves the bytes and decides who owns them: it knows nothing of Spot, notices or processes.
//! The format and the reasons for it stand in `docs/decisions/0001-one-journal.md`.
//!
//! * [`store`]: which store a URL names, and the errors of every store.
//! * [`workload`]: the name under which everything of one piece of work lies.
//! * [`journal`], [`lease`], [`claim`]: who owns the workload, and its recovery points.
//! * [`manifest`]: what one recovery point contains, line by line.
//! * [`mod@save`], [`mod@restore`], [`mod@verify`]: bytes into the store, out of it, and checked in place.
//! * [`precopy`]: rounds that store only what has changed.
//! * [`mod@prune`], [`mod@clean_up`]: what may be deleted in the store, and in the work directory.
//! * [`mod@probe`]: whether a store can be trusted with work.
//! * [`partial`]: partial results of an application's tasks, and who may go on with a task.
//! * [`extra`]: small objects beside the recovery points (the application's state, the last log lines).

pub mod base;
pub mod blocks;
mod buffer;
pub mod claim;
pub mod clean_up;
pub mod deadline;
mod dirs;
pub mod extra;
mod fetch;
pub mod id;
pub mod journal;
mod known;
pub mod lease;
pub mod manifest;
pub mod partial;
pub mod path;
mod plain;
pub mod precopy;
pub mod probe;
pub mod progress;
pub mod prune;
mod read;
mod readers;
pub mod restore;
pub mod save;
mod scan;
pub mod store;
mod transfer;
pub mod verify;
pub mod workload;

pub use object_store::ObjectStore;

pub use base::Base;
pub use claim::{Acquired, Claim, Claimant, How, Wait, acquire, acquire_after};
pub use clean_up::clean_up;
pub use deadline::Deadline;
pub use known::UploadLog;
pub use manifest::{Manifest, ManifestRef, read_manifest};
pub use plain::Layout;
pub use precopy::Rounds;
pub use progress::{NoProgress, Progress};
pub use prune::prune;
pub use restore::restore;
pub use save::save;
pub use store::{StoreError, StoreUrl, open};
pub use verify::verify;
pub use workload::{Workload, WorkloadName};

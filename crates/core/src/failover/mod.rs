//! Failing over from Spot to On-Demand and back: every decision about a fleet.
//!
//! * [`view`], [`split`], [`reason`]: what a decision sees, what it answers, and why.
//! * [`policy`]: `shortfall`, `switch`, and the peers that they are measured against.
//! * [`phase`], [`window`], [`stability`], [`state`]: what is stored of a service and how a look moves it on.
//! * [`zones`]: where Spot tasks go, for callers that may choose.
//! * [`health`]: the score that dashboards show.
//! * [`instruction`]: what a person told.
//! * [`observation`], [`event`]: what AWS tells; [`machine`]: when to load, look, commit and order; [`mod@history`].

pub mod event;
pub mod health;
pub mod history;
pub mod instruction;
pub mod machine;
pub mod observation;
pub mod phase;
pub mod policy;
pub mod reason;
pub mod split;
pub mod stability;
pub mod state;
#[cfg(test)]
mod tests;
pub mod view;
pub mod window;
pub mod zones;

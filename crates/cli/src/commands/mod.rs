//! One module a group of commands.

pub(crate) mod config;
pub(crate) mod controller;
pub(crate) mod doctor;
pub(crate) mod fleet;
pub(crate) mod lab;
pub(crate) mod mock;
pub(crate) mod policy;
pub(crate) mod render;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod store;

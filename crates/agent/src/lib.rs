//! Protects one workload on one machine: sees the notice, stops the work, saves it, and later takes it up again.
//!
//! What is to be done is decided in `lifeboat-core`; this crate is its hands. Where to look:
//!
//! * [`config`], [`setup`]: from TOML and flags to what a run needs.
//! * [`mod@run`]: the life of `lifeboat run`, step by step; `before`: what precedes the work; `begin`: what the
//!   work directory needs; `protect`: while the workload runs; `resume`: taking over from a dead agent; [`standalone`]: `lifeboat evacuate`.
//! * `intake`, [`watch`]: what reaches the agent; `evacuator`: the driver of core's machine; `hands`: one
//!   function a stage; `state`: SaveState; `aside`, `below`: how files are read while others wait.
//! * `app`: the interface for the application: tasks, partial results, messages.
//! * [`agent`]: the life of `lifeboat agent`; `foreign`, `systemd`, `pid_file`: what it protects and did not start.
//! * [`process`]: the workload's processes; `apart`, `errand`: those that are none of it; [`hooks`]: the commands around a
//!   snapshot; `holding`: the claim as the stages see it; `renewal`: its heartbeat.
//! * [`ports`]: queues, tables and more of a cloud, as this crate asks for them; [`cloud`]: their configuration;
//!   `whereabouts`: instance, task or pod; `deregister`, `lifecycle`, `heralds`: who sends requests here,
//!   who waits for an evacuation, and who is told of it; `metrics`: what Prometheus reads.
//! * [`dirs`], [`record`]: what is kept on this machine; [`control`]: the socket; [`summary`]: the result.
//!
//! The bytes move in `lifeboat-snapshot`; the metadata service is asked in `lifeboat-imds`.

mod agent;
mod apart;
mod app;
mod aside;
mod before;
mod begin;
mod below;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod control;
mod deregister;
pub mod dirs;
mod errand;
mod evacuator;
mod foreign;
mod hands;
mod heralds;
mod holding;
pub mod hooks;
mod intake;
mod lifecycle;
mod logs;
mod metrics;
mod pid_file;
pub mod ports;
mod precopy;
pub mod process;
mod protect;
pub mod record;
mod renewal;
mod resume;
pub mod ring;
pub mod run;
pub mod setup;
pub mod signal;
pub mod standalone;
mod state;
pub mod summary;
mod systemd;
pub mod watch;
mod whereabouts;

pub use agent::{agent, protected};
pub use config::{Config, ConfigError, Settings};
pub use hands::{MakeProgress, Site, bytes_text};
pub use ports::Ports;
pub use ring::LogRing;
pub use run::{RunEnd, Ui, run};
pub use setup::{RunError, Setup};
pub use standalone::evacuate;
pub use summary::Summary;

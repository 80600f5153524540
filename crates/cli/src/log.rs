//! Where log events go: standard error for people or machines, and a ring of the last lines for the store.

use std::io::IsTerminal;

use lifeboat_agent::LogRing;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::args::Cli;

/// The agent keeps so many of its own last lines. Source A saves 100.
const RING_LINES: usize = 100;

/// Starts logging. Called once.
pub(crate) fn start(cli: &Cli) -> LogRing {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "warn",
        (false, 0) => "info",
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    let filter = || {
        EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| {
            EnvFilter::new(format!(
                "warn,lifeboat={level},lifeboat_aws={level},lifeboat_controller={level},lifeboat_agent={level},lifeboat_imds={level},lifeboat_snapshot={level}"
            ))
        })
    };
    let ring = LogRing::new(RING_LINES);
    let into_ring = {
        let ring = ring.clone();
        fmt::layer()
            .with_ansi(false)
            .with_target(false)
            .log_internal_errors(false)
            .with_writer(move || ring.clone())
            .with_filter(filter())
    };
    let registry = tracing_subscriber::registry().with(into_ring);
    if cli.json {
        let lines = fmt::layer()
            .json()
            .flatten_event(true)
            .log_internal_errors(false)
            .with_writer(crate::progress::LogWriter::default)
            .with_filter(filter());
        registry.with(lines).init();
    } else {
        let lines = fmt::layer()
            .with_target(false)
            .with_ansi(wants_colour())
            // Reporting a failed write to standard error on standard error would panic.
            .log_internal_errors(false)
            .with_writer(crate::progress::LogWriter::default)
            .with_filter(filter());
        registry.with(lines).init();
    }
    ring
}

/// Source: <https://no-color.org>: any value that is not empty.
fn wants_colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

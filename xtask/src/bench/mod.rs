//! Measurements.
use std::process::ExitCode;
pub(crate) fn agent(_args: &[&str]) -> anyhow::Result<ExitCode> {
    anyhow::bail!("soon")
}

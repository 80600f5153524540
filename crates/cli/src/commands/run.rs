//! `lifeboat run`, `evacuate`, `status`.

use std::time::Duration;

use lifeboat_agent::control::ask;
use lifeboat_agent::{RunError, Setup, Ui};
use lifeboat_core::conclusion::exit_code;
use lifeboat_core::evacuation::Verdict;

use crate::args::{RunArgs, WorkloadArgs};
use crate::output;

/// A status is answered between two of the agent's turns.
const STATUS_WAIT: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: &RunArgs, ui: Ui, json: bool) -> anyhow::Result<u8> {
    let setup = Setup::new(&args.config()?, args.command.first(), |name| std::env::var_os(name))?;
    let end = lifeboat_agent::run(&setup, &args.command, ui).await?;
    // Standard output belongs to the command.
    if json {
        output::note(&serde_json::to_string(&end)?);
    } else {
        if let Some(summary) = &end.summary {
            output::note(summary.table().trim_end());
        }
        output::note(&format!("lifeboat: {} (exit code {})", end.message, end.code));
    }
    Ok(end.code)
}

pub(crate) async fn evacuate(args: &WorkloadArgs, ui: Ui, json: bool) -> anyhow::Result<u8> {
    let setup = setup(args)?;
    let summary = lifeboat_agent::evacuate(&setup, ui).await?;
    output::either(json, &summary, || summary.table())?;
    Ok(match summary.verdict {
        Verdict::Complete => 0,
        Verdict::Incomplete => exit_code::INCOMPLETE,
    })
}

pub(crate) async fn status(args: &WorkloadArgs, json: bool) -> anyhow::Result<u8> {
    let setup = setup(args)?;
    let status = ask(&setup.dirs.socket, "GET", "/v1/status", STATUS_WAIT).await?;
    output::either(json, &status, || {
        let rows: Vec<Vec<String>> = status
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| {
                vec![key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)]
            })
            .collect();
        output::table(&rows)
    })?;
    Ok(0)
}

fn setup(args: &WorkloadArgs) -> anyhow::Result<Setup> {
    let setup: Result<Setup, RunError> =
        Setup::new(&args.config_of_last_run()?, None, |name| std::env::var_os(name));
    Ok(setup?)
}

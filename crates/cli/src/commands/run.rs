//! `lifeboat run`, `agent`, `evacuate`, `status`.

use std::time::Duration;

use lifeboat_agent::control::ask;
use lifeboat_agent::record::RecordFile;
use lifeboat_agent::{RunEnd, RunError, Setup, Ui};
use lifeboat_core::conclusion::exit_code;
use lifeboat_core::evacuation::{Progress, Verdict};

use crate::args::{AgentArgs, EvacuateArgs, RunArgs, WorkloadArgs};
use crate::output;

/// A status is answered between two of the agent's turns.
const STATUS_WAIT: Duration = Duration::from_secs(5);

/// How much is said of a run's end, and to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Say {
    /// To programs.
    pub(crate) json: bool,
    /// Nothing where nothing went wrong.
    pub(crate) is_quiet: bool,
}

pub(crate) async fn run(args: &RunArgs, ui: Ui, say: Say) -> anyhow::Result<u8> {
    let setup = Setup::new(&args.config()?, args.command.first(), |name| std::env::var_os(name))?;
    tracing::debug!(
        store = %setup.store,
        work_dir = %setup.work_dir.display(),
        state_dir = %setup.dirs.agent.display(),
        metadata = setup.metadata.as_ref().map(tracing::field::display),
        "set up"
    );
    let ui = Ui { ports: crate::wiring::ports(&setup.settings)?, ..ui };
    let end = lifeboat_agent::run(&setup, &args.command, ui).await?;
    tell(&end, say)
}

pub(crate) async fn agent(args: &AgentArgs, ui: Ui, say: Say) -> anyhow::Result<u8> {
    let setup = Setup::new(&args.config()?, None, |name| std::env::var_os(name))?;
    let ui = Ui { ports: crate::wiring::ports(&setup.settings)?, ..ui };
    let end = lifeboat_agent::agent(&setup, ui).await?;
    tell(&end, say)
}

/// Says how it ended; returns the exit code.
fn tell(end: &RunEnd, say: Say) -> anyhow::Result<u8> {
    // Standard output belongs to the command.
    if say.json {
        output::note(&serde_json::to_string(end)?);
    } else if !say.is_quiet || end.code == exit_code::INCOMPLETE {
        if let Some(summary) = &end.summary {
            output::note(summary.table().trim_end());
        }
        let code = format!("exit code {}", end.code);
        let code = if end.message.ends_with(&code) { String::new() } else { format!("; {code}") };
        output::note(&format!("lifeboat: {}{code}", end.message));
    }
    Ok(end.code)
}

pub(crate) async fn evacuate(args: &EvacuateArgs, ui: Ui, json: bool) -> anyhow::Result<u8> {
    let EvacuateArgs { workload: args, resume } = args;
    let setup = setup(args)?;
    if *resume && !is_anything_left(&setup) {
        output::note("nothing is left to be evacuated");
        return Ok(0);
    }
    let is_known = args.work_dir.is_some() || args.store.config.is_some() || setup.has_run();
    anyhow::ensure!(
        is_known,
        "`{}` has never run on this machine for this user; to save a directory under that name, give --work-dir",
        setup.name
    );
    let ui = Ui { ports: crate::wiring::ports(&setup.settings)?, ..ui };
    let summary = lifeboat_agent::evacuate(&setup, ui).await?;
    output::either(json, &summary, || summary.table())?;
    Ok(match summary.verdict {
        Verdict::Complete => 0,
        Verdict::Incomplete => exit_code::INCOMPLETE,
    })
}

/// Whether an evacuation on this machine was broken off, or left something behind.
fn is_anything_left(setup: &Setup) -> bool {
    match RecordFile::new(&setup.dirs.agent).load().progress {
        Progress::Idle { .. } => false,
        Progress::Evacuating { .. } => true,
        Progress::Finished { verdict, .. } => verdict == Verdict::Incomplete,
    }
}

pub(crate) async fn status(args: &WorkloadArgs, watch: bool, json: bool) -> anyhow::Result<u8> {
    let setup = setup(args)?;
    loop {
        let status = ask(&setup.dirs.socket, "GET", "/v1/status", STATUS_WAIT).await?;
        if !watch {
            output::either(json, &status, || status_table(&status))?;
            return Ok(0);
        }
        if !output::again(json, &status, || status_table(&status))? {
            return Ok(0);
        }
        tokio::time::sleep(super::fleet::WATCH).await;
    }
}

fn status_table(status: &serde_json::Value) -> String {
    let rows: Vec<Vec<String>> = status
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(key, value)| match value.as_object() {
            Some(parts) => parts.iter().map(|(part, value)| row(part, value)).collect(),
            None => vec![row(key, value)],
        })
        .collect();
    output::table(&rows)
}

fn row(key: &str, value: &serde_json::Value) -> Vec<String> {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::Array(items) if items.is_empty() => "-".to_owned(),
        serde_json::Value::Bool(true) => "yes".to_owned(),
        serde_json::Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    vec![key.replace('_', " "), text]
}

fn setup(args: &WorkloadArgs) -> anyhow::Result<Setup> {
    let setup: Result<Setup, RunError> =
        Setup::new(&args.config_of_last_run()?, None, |name| std::env::var_os(name));
    Ok(setup?)
}

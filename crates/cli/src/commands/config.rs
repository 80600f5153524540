//! `lifeboat config check`.

use std::path::Path;

use anyhow::Context;
use lifeboat_agent::config::Protected;
use lifeboat_agent::{Config, RunError, Settings};
use lifeboat_core::evacuation::stage::Stage;
use lifeboat_snapshot::WorkloadName;
use serde_json::json;

use crate::output;

/// The same for a controller's file.
fn check_controllers(file: &Path, json: bool) -> anyhow::Result<u8> {
    let config = lifeboat_controller::config::Config::read(file)?;
    let settings = config.settings()?;
    let value = json!({
        "file": file.display().to_string(),
        "written": config,
        "clusters": settings.clusters,
        "policy": format!("{:?}", settings.terms.rules.policy),
        "services": settings.services.iter().map(|service| &service.name).collect::<Vec<_>>(),
        "visibility_ms": settings.visibility.0,
        "history_ms": settings.history.0,
    });
    output::either(json, &value, || {
        format!("{} is a valid configuration of the controller\n", file.display())
    })?;
    Ok(0)
}

/// The configuration of a workload in `file`, with everything refused that a run would refuse; nothing is opened and
/// nobody is asked.
pub(crate) fn checked(file: &Path) -> anyhow::Result<(Config, Settings)> {
    let config = Config::read(file).map_err(RunError::from)?;
    let settings =
        settings_of(&config).with_context(|| format!("{} is not a valid configuration", file.display()))?;
    Ok((config, settings))
}

fn settings_of(config: &Config) -> anyhow::Result<Settings> {
    let settings = config.settings().map_err(RunError::from)?;
    if let Some(name) = &config.name {
        name.parse::<WorkloadName>().map_err(RunError::from)?;
    }
    lifeboat_agent::setup::store_url(config, Path::new("/"))?;
    if let Some(address) = &settings.metadata_endpoint {
        lifeboat_imds::Endpoint::parse(address).map_err(RunError::from)?;
    }
    crate::wiring::ports(&settings)?;
    Ok(settings)
}

/// Checks a file and prints what is in force.
pub(crate) fn check(file: &Path, json: bool) -> anyhow::Result<u8> {
    // Read once where that is enough: it may be a pipe.
    let (config, settings) = match checked(file) {
        Ok(checked) => checked,
        Err(_) if super::fleet::is_controllers(file) => return check_controllers(file, json),
        Err(error) => return Err(error),
    };
    let budgets: serde_json::Map<String, serde_json::Value> = Stage::ALL
        .into_iter()
        .map(|stage| {
            let budget = settings.plan.budget(stage);
            let value = json!({
                "minimum_ms": budget.minimum.0, "wanted_ms": budget.wanted.0, "maximum_ms": budget.maximum.0,
            });
            (stage.to_string(), value)
        })
        .collect();
    let value = json!({
        "file": file.display().to_string(),
        "written": config,
        "grace_ms": settings.grace.0,
        "operator_grace_ms": settings.operator_grace.0,
        "reserve_ms": settings.plan.reserve.0,
        "late_ms": settings.patience.late.0,
        "stale_ms": settings.patience.stale.0,
        "lease_ms": settings.lease.0,
        "claim_wait_ms": settings.claim_wait.0,
        "interval_ms": settings.interval.0,
        "stop_signal": settings.stop_signal.name(),
        "linger_ms": settings.linger.0,
        "protects": protects(&settings),
        "target_groups": settings.cloud.load_balancer.target_groups,
        "clean_up": settings.plan.clean_up,
        "snapshot_on_stop": settings.plan.snapshot_on_stop,
        "keep": settings.keep,
        "state_file": settings.state_file,
        "log_files": settings.log_files,
        "log_lines": settings.log_lines,
        "budgets": budgets,
    });
    output::either(json, &value, || {
        let mut rows = vec![vec!["stage".into(), "minimum".into(), "wanted".into(), "maximum".into()]];
        for stage in Stage::ALL {
            let budget = settings.plan.budget(stage);
            rows.push(vec![
                stage.to_string(),
                budget.minimum.to_string(),
                budget.wanted.to_string(),
                budget.maximum.to_string(),
            ]);
        }
        format!(
            "{} is valid.\nprotects {}; grace {}, reserve {}, lease {}, metadata every {}, stop signal {}, clean-up {}\n{}",
            file.display(),
            protects(&settings),
            settings.grace,
            settings.plan.reserve,
            settings.lease,
            settings.interval,
            settings.stop_signal.name(),
            if settings.plan.clean_up { "on" } else { "off" },
            output::table(&rows)
        )
    })?;
    Ok(0)
}

/// What is stopped at the notice.
fn protects(settings: &Settings) -> String {
    match &settings.protect.what {
        Protected::Directories => "its command, or a directory alone".to_owned(),
        Protected::Unit(unit) => format!("the unit {unit}"),
        Protected::PidFile(path) => format!("the process of {}", path.display()),
    }
}

//! `lifeboat controller`: configuration → ports → the fleet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use lifeboat_aws::{Aws, Options};
use lifeboat_controller::alert::Slack;
use lifeboat_controller::aws::{EcsCalls, Namespace, Queue, RunCommand, Topic};
use lifeboat_controller::config::{Config, Settings};
use lifeboat_controller::fleet::{self, Mode, Ports};
use lifeboat_controller::port::{Alerts, Commands, Inbox, Metrics};
use lifeboat_controller::store::{DynamoStore, SqliteStore, Store};

/// Holds the URL of a Slack webhook, which is a secret.
const SLACK: &str = "LIFEBOAT_SLACK_WEBHOOK";

#[derive(Args, Debug)]
pub(crate) struct ControllerArgs {
    /// The controller's configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Decide and record, act on nothing: no count is set, no message received, nobody told. The record is a file beside
    /// the store's, with `.dry-run` behind its name.
    #[arg(long)]
    dry_run: bool,
    /// Look, decide and act once, then end; without receiving events.
    #[arg(long)]
    once: bool,
}

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(args: &ControllerArgs) -> anyhow::Result<u8> {
    let (config, settings) = read(&args.config)?;
    let aws = aws(&config);
    let store: Arc<dyn Store> =
        if args.dry_run { dry_store(&config)? } else { open_store(&config, &settings, &aws)? };
    let ports = Ports {
        ecs: Arc::new(EcsCalls::new(&aws)),
        store,
        inbox: if args.once { None } else { inbox(&config, &settings, &aws) },
        alerts: if args.dry_run { Vec::new() } else { alerts(&config, &aws)? },
        metrics: if args.dry_run || args.once { None } else { metrics(&config, &aws) },
        commands: Some(Arc::new(RunCommand::new(&aws)) as Arc<dyn Commands>),
    };
    let mode = Mode {
        is_dry_run: args.dry_run,
        is_once: args.once,
        prometheus: config.metrics.prometheus.filter(|_| !args.once),
    };
    Box::pin(fleet::run(settings, ports, mode, stopped()?)).await?;
    Ok(0)
}

/// The controller's configuration file, checked.
pub(crate) fn read(path: &Path) -> anyhow::Result<(Config, Settings)> {
    let config = Config::read(path)?;
    let settings = config.settings();
    let checked = settings
        .with_context(|| format!("{} is not a valid configuration of the controller", path.display()))?;
    Ok((config, checked))
}

fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

pub(crate) fn aws(config: &Config) -> Aws {
    Aws::new(Options {
        region: config.region.clone(),
        endpoint: config.endpoint.clone(),
        ..Options::default()
    })
}

/// Opens the store that the file names; a new one where the controller runs without.
pub(crate) fn open_store(config: &Config, settings: &Settings, aws: &Aws) -> anyhow::Result<Arc<dyn Store>> {
    if let Some(table) = &config.store.dynamodb {
        return Ok(Arc::new(DynamoStore::new(aws.dynamodb(), table, settings.history)));
    }
    let path = sqlite_path(config);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    Ok(Arc::new(SqliteStore::open(&path)?))
}

/// Opens the store that a controller has made.
pub(crate) fn existing_store(
    config: &Config,
    settings: &Settings,
    aws: &Aws,
) -> anyhow::Result<Arc<dyn Store>> {
    if config.store.dynamodb.is_some() {
        return open_store(config, settings, aws);
    }
    let path = sqlite_path(config);
    let store = SqliteStore::open_existing(&path)
        .with_context(|| format!("has a controller run with this store? {}", path.display()))?;
    Ok(Arc::new(store))
}

/// A dry run's own record: what it decides must never become the state of a controller that acts.
fn dry_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let mut path = sqlite_path(config).into_os_string();
    path.push(".dry-run");
    let path = PathBuf::from(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    tracing::info!(file = %path.display(), "a dry run: decisions are recorded there and nothing is done");
    Ok(Arc::new(SqliteStore::open(&path)?))
}

fn sqlite_path(config: &Config) -> PathBuf {
    let default = || lifeboat_agent::dirs::state_dir(|name| std::env::var_os(name)).join("fleet.db");
    config.store.sqlite.clone().unwrap_or_else(default)
}

fn inbox(config: &Config, settings: &Settings, aws: &Aws) -> Option<Arc<dyn Inbox>> {
    let queue = config.queue.as_ref()?;
    let visibility = settings.visibility.to_duration();
    Some(Arc::new(Queue::new(aws, &queue.url, queue.dead_letters.as_deref(), visibility)))
}

fn metrics(config: &Config, aws: &Aws) -> Option<Arc<dyn Metrics>> {
    let namespace = config.metrics.namespace.as_ref()?;
    Some(Arc::new(Namespace::new(aws, namespace)))
}

fn alerts(config: &Config, aws: &Aws) -> anyhow::Result<Vec<Arc<dyn Alerts>>> {
    let mut alerts: Vec<Arc<dyn Alerts>> = Vec::new();
    if let Some(topic) = &config.alerts.topic {
        alerts.push(Arc::new(Topic::new(aws, topic)));
    }
    if let Some(url) = slack(config.alerts.slack_webhook_file.as_deref())? {
        alerts.push(Arc::new(Slack::new(&url)?));
    }
    Ok(alerts)
}

fn slack(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    if let Some(url) = std::env::var(SLACK).ok().filter(|url| !url.is_empty()) {
        return Ok(Some(url));
    }
    let Some(path) = file else { return Ok(None) };
    let url = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(url.trim().to_owned()))
}

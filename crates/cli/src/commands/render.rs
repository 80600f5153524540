//! `lifeboat render`: from the controller's configuration to what surrounds a controller.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use lifeboat_controller::config::{Config, QueueConfig, Settings};

use crate::output;
use crate::render::{self, Plan};

#[derive(Debug, Subcommand)]
pub(crate) enum RenderCommand {
    /// Print a CloudFormation template (JSON): rules, queue, table, alarms, dashboards, roles, and the controller's own
    /// container service.
    Cloudformation(CloudFormationArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CloudFormationArgs {
    /// The controller's configuration file (TOML). Names of its queue, table and topic are used; what it does not name
    /// is called lifeboat-events, lifeboat, lifeboat-alerts.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// A workload of agents on instances that gets an alarm and a dashboard; may be given several times.
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<String>,
}

/// Prints the template.
pub(crate) fn render(command: &RenderCommand) -> anyhow::Result<u8> {
    let RenderCommand::Cloudformation(args) = command;
    let plan = plan(Config::read(&args.config)?, args.workloads.clone())
        .with_context(|| format!("cannot render {}", args.config.display()))?;
    output::result(&format!("{:#}\n", render::cloudformation(&plan)))?;
    Ok(0)
}

/// The configuration as the container shall have it, and what the template needs to know of it.
fn plan(mut config: Config, workloads: Vec<String>) -> anyhow::Result<Plan> {
    let settings = config.settings()?;
    if config.clock.is_some() || config.endpoint.is_some() {
        bail!("`clock` and `endpoint` are for rehearsals: leave them out of what is rendered");
    }
    let queue = config.queue.take();
    let last = |text: &str, separator: char| text.rsplit(separator).next().unwrap_or(text).to_owned();
    let queue_name =
        queue.as_ref().map_or_else(|| "lifeboat-events".to_owned(), |queue| last(&queue.url, '/'));
    let topic =
        config.alerts.topic.as_deref().map_or_else(|| "lifeboat-alerts".to_owned(), |arn| last(arn, ':'));
    let table = config.store.dynamodb.take().unwrap_or_else(|| "lifeboat".to_owned());
    let namespace = config.metrics.namespace.take().unwrap_or_else(|| "Lifeboat".to_owned());
    config.queue = Some(QueueConfig {
        url: render::QUEUE.to_owned(),
        dead_letters: Some(render::DEAD_LETTERS.to_owned()),
        visibility: queue.as_ref().and_then(|queue| queue.visibility),
        receivers: queue.as_ref().and_then(|queue| queue.receivers),
    });
    // A container's disk ends with it.
    config.store.sqlite = None;
    config.store.dynamodb = Some(table.clone());
    config.alerts.topic = Some(render::TOPIC.to_owned());
    // A secret, so not in a template: the parameter SlackWebhook names it.
    config.alerts.slack_webhook_file = None;
    config.metrics.namespace = Some(namespace.clone());
    config.region = Some(render::REGION.to_owned());
    Ok(Plan {
        services: names(&settings),
        workloads,
        namespace,
        queue: queue_name,
        table,
        topic,
        visibility_s: settings.visibility.0.div_ceil(1_000),
        machines: config.machines.is_some(),
        config: toml::to_string(&config).context("the configuration cannot be written as TOML")?,
        clusters: settings.clusters,
    })
}

/// What listed pairs are called in metrics.
fn names(settings: &Settings) -> Vec<String> {
    let name = |service: &lifeboat_controller::config::ListedService| match settings.clusters.as_slice() {
        [_] => service.name.clone(),
        _ => format!("{}/{}", service.cluster, service.name),
    };
    settings.services.iter().map(name).collect()
}

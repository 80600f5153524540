//! The controller's configuration file: its form, its defaults, and the checks that turn it into [`Settings`].
//!
//! One TOML file; unknown keys are errors; durations carry units. `docs/controller.md` documents each key.

mod clock;
mod machines;
mod policy;
mod ports;
mod prices;
mod services;

use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lifeboat_core::failover::machine::Target;
use lifeboat_core::failover::state::Rules;
pub use lifeboat_core::span::Span;
use lifeboat_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::clock::ClockConfig;
pub use self::machines::{Machines, MachinesConfig, OnRebalance};
pub use self::policy::{PolicyConfig, PolicyName};
pub use self::ports::{AlertsConfig, MetricsConfig, QueueConfig, StoreConfig};
pub use self::prices::PricesConfig;
pub use self::services::{Find, FindBy, ListedService, ServiceConfig, ServicesConfig};

/// The file as written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// AWS region; default: as the SDK finds it.
    pub region: Option<String>,
    /// For rehearsals: all calls go there.
    pub endpoint: Option<String>,
    /// ECS clusters whose services are looked at.
    pub clusters: Vec<String>,
    /// How the split is decided, where a service does not say otherwise.
    pub policy: PolicyConfig,
    /// Which services belong together.
    pub services: ServicesConfig,
    /// Services that are listed by hand, or that differ from the rest.
    pub service: Vec<ServiceConfig>,
    /// Where events come from.
    pub queue: Option<QueueConfig>,
    /// Where states are kept.
    pub store: StoreConfig,
    /// Who is told.
    pub alerts: AlertsConfig,
    /// Where numbers go.
    pub metrics: MetricsConfig,
    /// What is done about machines that will be interrupted.
    pub machines: Option<MachinesConfig>,
    /// What a task costs, for what Spot saves.
    pub prices: Option<PricesConfig>,
    /// For rehearsals: a faster clock.
    pub clock: Option<ClockConfig>,
}

/// Oftener than this costs calls and tells nothing more; more rarely, a new service is not managed for long.
const EVERY_MIN: Millis = Millis::from_secs(10);
const EVERY_MAX: Millis = Millis::from_secs(3_600);

/// History that ends within the hour explains nothing; ten years are for ever.
const HISTORY_MIN: Millis = Millis::from_secs(3_600);
const HISTORY_MAX: Millis = Millis::from_secs(10 * 366 * 86_400);

/// Tasks of one service. Source: ECS service quotas, 5,000 tasks a service, can be raised; read 2026-11.
const TASKS_MAX: u32 = 100_000;

/// A larger file is no configuration.
const SIZE_MAX: u64 = 1 << 20;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no TOML, has a key that does not exist, or a value of the wrong form.
    #[error("{path} is not a valid configuration of the controller:\n{message}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and why, over several lines.
        message: String,
    },
    /// A value makes no sense.
    #[error("{key}: {why}")]
    Invalid {
        /// Which.
        key: String,
        /// Why, and what to do.
        why: String,
    },
}

/// What holds for one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How it is decided.
    pub rules: Rules,
    /// What is wanted.
    pub target: Target,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one.
    pub clusters: Vec<String>,
    /// How pairs are found.
    pub find: Find,
    /// Where nothing else is said.
    pub terms: Terms,
    /// By the pair's name.
    pub services: Vec<ListedService>,
    /// How often services are looked for.
    pub find_every: Millis,
    /// How long a message stays hidden, in real time.
    pub visibility: Millis,
    /// Receives that run at once.
    pub receivers: usize,
    /// How long history is kept.
    pub history: Millis,
    /// How often metrics are published.
    pub metrics_every: Millis,
    /// What is done about machines.
    pub machines: Option<Machines>,
    /// What one ready Spot task saves in an hour, in millionths of a dollar.
    pub saving_per_task_hour: u64,
    /// Speed and origin of a rehearsal's clock.
    pub clock: Option<(u32, Timestamp)>,
}

/// The text of a file; of a device, or a log given by mistake, no more than shows that it is no configuration.
fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(SIZE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SIZE_MAX {
        let why = format!("it has more than {SIZE_MAX} bytes: this is no configuration");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(text)
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`], [`ConfigError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = text(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Malformed { path: path.to_owned(), message: error.to_string() })
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the key and what to do.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let clusters = clusters(&self.clusters)?;
        let is_url = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if !self.endpoint.as_ref().is_none_or(is_url) {
            return Err(invalid("endpoint", "is no URL as http://127.0.0.1:4570; leave it out for AWS"));
        }
        if self.alerts.slack_webhook_file.as_ref().is_some_and(|file| file.starts_with("https:")) {
            let why = "is an address: write that secret into a file, and the file's path here";
            return Err(invalid("alerts.slack_webhook_file", why));
        }
        let terms = Terms { rules: self.policy.rules("policy")?, target: Target::FollowSpot };
        if self.store.sqlite.is_some() && self.store.dynamodb.is_some() {
            return Err(invalid("store", "sqlite and dynamodb exclude each other: choose one"));
        }
        let is_loopback = |address: &SocketAddr| address.ip().is_loopback();
        if !self.metrics.prometheus.as_ref().is_none_or(is_loopback) {
            let why = "serves without authentication: choose an address on loopback (127.0.0.1:9465)";
            return Err(invalid("metrics.prometheus", why));
        }
        let find = self.services.find()?;
        let services = self.service.iter().map(|service| service.listed(&clusters, &find, terms));
        let services = services.collect::<Result<Vec<_>, _>>()?;
        if find == Find::Listed && services.is_empty() {
            return Err(invalid("services.by", "is \"listed\" and there is no [[service]]"));
        }
        let queue = self.queue.as_ref();
        let visibility = span(queue.and_then(|queue| queue.visibility), 30);
        if !(5_000..=43_200_000).contains(&visibility.0) {
            return Err(invalid("queue.visibility", "must be from 5s to 12h"));
        }
        let receivers = queue.and_then(|queue| queue.receivers).unwrap_or(4);
        if !(1..=64).contains(&receivers) {
            return Err(invalid("queue.receivers", "must be from 1 to 64"));
        }
        if let Some(queue) = queue {
            queue.check()?;
        }
        let find_every = within("services.every", span(self.services.every, 60), EVERY_MIN, EVERY_MAX)?;
        let metrics_every = within("metrics.every", span(self.metrics.every, 60), EVERY_MIN, EVERY_MAX)?;
        let history = self.store.history.map_or(crate::store::HISTORY_KEPT, |span| span.0);
        let history = within("store.history", history, HISTORY_MIN, HISTORY_MAX)?;
        Ok(Settings {
            find,
            terms,
            services,
            find_every,
            visibility,
            receivers: receivers as usize,
            history,
            metrics_every,
            machines: self.machines.as_ref().map(MachinesConfig::settings).transpose()?,
            saving_per_task_hour: self.prices.map(PricesConfig::saving).transpose()?.unwrap_or(0),
            clock: self.clock.as_ref().map(ClockConfig::settings).transpose()?,
            clusters,
        })
    }
}

/// The clusters' names, as events name them: of an ARN the last part.
fn clusters(given: &[String]) -> Result<Vec<String>, ConfigError> {
    if given.is_empty() {
        return Ok(vec!["default".to_owned()]);
    }
    let mut clusters: Vec<String> = Vec::new();
    for cluster in given {
        let name = name_of_cluster(cluster);
        if name.is_empty() {
            return Err(invalid("clusters", "has an empty name"));
        }
        if clusters.iter().any(|known| known == name) {
            return Err(invalid("clusters", &format!("has {name:?} twice")));
        }
        clusters.push(name.to_owned());
    }
    Ok(clusters)
}

/// Source: ECS API, `cluster`: the short name or the ARN, `arn:aws:ecs:REGION:ACCOUNT:cluster/NAME`; read 2023.
fn name_of_cluster(given: &str) -> &str {
    if given.starts_with("arn:") { given.rsplit('/').next().unwrap_or(given) } else { given }
}

fn within(key: &str, span: Millis, least: Millis, most: Millis) -> Result<Millis, ConfigError> {
    if (least..=most).contains(&span) {
        return Ok(span);
    }
    Err(invalid(key, &format!("must be from {least} to {most}")))
}

fn span(given: Option<Span>, seconds: u64) -> Millis {
    given.map_or_else(|| Millis::from_secs(seconds), |span| span.0)
}

fn invalid(key: &str, why: &str) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests;

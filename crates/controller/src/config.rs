//! The controller's configuration file: its form, its defaults, and the checks that turn it into [`Settings`].
//!
//! One TOML file; unknown keys are errors; durations carry units. `docs/controller.md` documents each key.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lifeboat_core::failover::machine::Target;
use lifeboat_core::failover::policy::{Policy, Shortfall, Switch};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::{Millis, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::clock::parse_rfc3339;

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

/// `[policy]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// `shortfall` or `switch`.
    pub name: Option<PolicyName>,
    /// `shortfall`: Spot tasks beyond the target.
    pub spares: Option<u32>,
    /// `switch`: refused launches in the window that trip it.
    pub capacity_errors: Option<u32>,
    /// `switch`: interruptions in the window that trip it.
    pub interruptions: Option<u32>,
    /// `switch`: a task that is not ready for so long trips it.
    pub pending_max: Option<Span>,
    /// `switch`: Spot is given up once this share of the target is ready On-Demand.
    pub floor_percent: Option<u32>,
    /// `switch`: how long Spot must have been good.
    pub stable: Option<Span>,
    /// `switch`: Spot tasks kept as probes.
    pub probes: Option<u32>,
    /// The sliding window of errors.
    pub window: Option<Span>,
    /// A shift that is not complete after this long is given up, and a person told.
    pub shift_max: Option<Span>,
    /// How long On-Demand that was just raised stays at least.
    pub hold: Option<Span>,
}

/// The policies that a fleet may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// On-Demand for exactly what Spot is missing.
    #[default]
    Shortfall,
    /// Source B: everything moves at a threshold.
    Switch,
}

/// `[services]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicesConfig {
    /// How pairs are found: by `name` (default), by `tags`, or only those `listed`.
    pub by: Option<FindBy>,
    /// By name: the Spot service's name, with `{name}` in it.
    pub spot: Option<String>,
    /// By name: the On-Demand service's name, with `{name}` in it.
    pub on_demand: Option<String>,
    /// By tags: the tag that holds the pair's name.
    pub workload_tag: Option<String>,
    /// By tags: the tag that holds `spot` or `on-demand`.
    pub capacity_tag: Option<String>,
    /// How often services are looked for.
    pub every: Option<Span>,
}

/// How pairs are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindBy {
    /// By the pattern of their names.
    #[default]
    Name,
    /// By their tags.
    Tags,
    /// Only those under `[[service]]`.
    Listed,
}

/// `[[service]]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// The pair's name.
    pub name: String,
    /// Its cluster; default: the only one of `clusters`.
    pub cluster: Option<String>,
    /// The Spot service; default: by the pattern.
    pub spot: Option<String>,
    /// The On-Demand service; default: by the pattern.
    pub on_demand: Option<String>,
    /// How many tasks are wanted; default: what the Spot service's desired count says.
    pub target: Option<u32>,
    /// In place of `[policy]`.
    pub policy: Option<PolicyConfig>,
}

/// `[queue]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// The SQS queue that EventBridge writes to.
    pub url: String,
    /// Where messages go that cannot be read; without it they stay for the queue's own redrive policy.
    pub dead_letters: Option<String>,
    /// How long a received message stays hidden; it is extended while it is worked on.
    pub visibility: Option<Span>,
    /// Receives that run at once.
    pub receivers: Option<u32>,
}

/// `[store]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// A SQLite file: one controller, or several on one machine.
    pub sqlite: Option<PathBuf>,
    /// A DynamoDB table: several controllers.
    pub dynamodb: Option<String>,
    /// How long history is kept.
    pub history: Option<Span>,
}

/// `[alerts]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// An SNS topic for every alert.
    pub topic: Option<String>,
    /// A file that holds the URL of a Slack webhook: a secret, so not the URL itself. The environment variable
    /// `LIFEBOAT_SLACK_WEBHOOK` does as well.
    pub slack_webhook_file: Option<PathBuf>,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The CloudWatch namespace; none: nothing is published there.
    pub namespace: Option<String>,
    /// How often.
    pub every: Option<Span>,
    /// An address on loopback that serves the same to Prometheus.
    pub prometheus: Option<SocketAddr>,
}

/// `[machines]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachinesConfig {
    /// The shell command that SSM runs on an instance that will be interrupted.
    pub command: Option<String>,
    /// What follows from a rebalance recommendation.
    pub rebalance: Option<OnRebalance>,
}

/// What follows from a rebalance recommendation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRebalance {
    /// The same as from an interruption warning.
    #[default]
    Evacuate,
    /// A person is told.
    Alert,
    /// Nothing.
    Ignore,
}

/// `[prices]`: dollars.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PricesConfig {
    /// One task On-Demand for an hour.
    pub on_demand_task_hour: f64,
    /// One task on Spot for an hour.
    pub spot_task_hour: f64,
}

/// `[clock]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClockConfig {
    /// So many times faster than real time.
    pub scale: u32,
    /// When the scaled clock showed real time (RFC 3339): what `lifeboat lab` prints. All who share a world, restarts
    /// included, need the same.
    pub origin: String,
}

/// A duration as written in the file, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Millis);

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
        source: std::io::Error,
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

/// A pair that the file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedService {
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// The Spot service.
    pub spot: String,
    /// The On-Demand service.
    pub on_demand: String,
    /// What holds for it.
    pub terms: Terms,
}

/// How pairs are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Find {
    /// What is before and after `{name}`.
    Name {
        /// In the Spot service's name.
        spot: (String, String),
        /// In the On-Demand service's name.
        on_demand: (String, String),
    },
    /// The tags with the pair's name and its side.
    Tags {
        /// Holds the pair's name.
        workload: String,
        /// Holds `spot` or `on-demand`.
        capacity: String,
    },
    /// Only what is listed.
    Listed,
}

/// What is done about machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machines {
    /// The shell command.
    pub command: String,
    /// At a rebalance recommendation.
    pub rebalance: OnRebalance,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`], [`ConfigError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Malformed { path: path.to_owned(), message: error.to_string() })
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the key and what to do.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let clusters =
            if self.clusters.is_empty() { vec!["default".to_owned()] } else { self.clusters.clone() };
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
        let services = self.service.iter().map(|service| self.listed(service, &clusters, &find, terms));
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
        Ok(Settings {
            find,
            terms,
            services,
            find_every: span(self.services.every, 60),
            visibility,
            receivers: receivers as usize,
            history: self.store.history.map_or(crate::store::HISTORY_KEPT, |span| span.0),
            metrics_every: span(self.metrics.every, 60),
            machines: self.machines.as_ref().map(MachinesConfig::settings),
            saving_per_task_hour: self.prices.map(PricesConfig::saving).transpose()?.unwrap_or(0),
            clock: self.clock.as_ref().map(ClockConfig::settings).transpose()?,
            clusters,
        })
    }

    fn listed(
        &self,
        service: &ServiceConfig,
        clusters: &[String],
        find: &Find,
        terms: Terms,
    ) -> Result<ListedService, ConfigError> {
        let key = format!("service {:?}", service.name);
        if service.name.is_empty() {
            return Err(invalid("service.name", "is missing"));
        }
        let cluster = match (&service.cluster, clusters) {
            (Some(cluster), _) if clusters.contains(cluster) => cluster.clone(),
            (Some(cluster), _) => {
                return Err(invalid(&key, &format!("its cluster {cluster:?} is not in `clusters`")));
            }
            (None, [only]) => only.clone(),
            (None, _) => return Err(invalid(&key, "needs a `cluster`, as there are several")),
        };
        let by_pattern = |side: &(String, String)| format!("{}{}{}", side.0, service.name, side.1);
        let (spot, on_demand) = match find {
            Find::Name { spot, on_demand } => (by_pattern(spot), by_pattern(on_demand)),
            Find::Tags { .. } | Find::Listed => {
                (format!("{}-spot", service.name), format!("{}-standard", service.name))
            }
        };
        let rules = match &service.policy {
            Some(policy) => policy.rules(&format!("{key}: policy"))?,
            None => terms.rules,
        };
        Ok(ListedService {
            name: service.name.clone(),
            cluster,
            spot: service.spot.clone().unwrap_or(spot),
            on_demand: service.on_demand.clone().unwrap_or(on_demand),
            terms: Terms { rules, target: service.target.map_or(terms.target, Target::Fixed) },
        })
    }
}

impl PolicyConfig {
    fn rules(&self, key: &str) -> Result<Rules, ConfigError> {
        let switch = [
            ("capacity_errors", self.capacity_errors.is_some()),
            ("interruptions", self.interruptions.is_some()),
            ("pending_max", self.pending_max.is_some()),
            ("floor_percent", self.floor_percent.is_some()),
            ("stable", self.stable.is_some()),
            ("probes", self.probes.is_some()),
        ];
        let policy = match self.name.unwrap_or_default() {
            PolicyName::Shortfall => {
                if let Some((name, _)) = switch.iter().find(|(_, is_set)| *is_set) {
                    let why = "belongs to the policy `switch`: set name = \"switch\", or leave it out";
                    return Err(invalid(&format!("{key}.{name}"), why));
                }
                Policy::Shortfall(Shortfall { spares: self.spares.unwrap_or(0) })
            }
            PolicyName::Switch => Policy::Switch(self.switch(key)?),
        };
        let mut rules = Rules::new(policy);
        rules.window = self.window.map_or(rules.window, |span| span.0);
        rules.shift_max = self.shift_max.map_or(rules.shift_max, |span| span.0);
        rules.degraded_max = rules.shift_max;
        rules.hold = self.hold.map_or(rules.hold, |span| span.0);
        Ok(rules)
    }

    fn switch(&self, key: &str) -> Result<Switch, ConfigError> {
        let default = Switch::default();
        if self.spares.is_some() {
            return Err(invalid(&format!("{key}.spares"), "belongs to the policy `shortfall`"));
        }
        if self.probes == Some(0) {
            let why = "with 0 there are no samples and Spot is never returned to: at least 1";
            return Err(invalid(&format!("{key}.probes"), why));
        }
        let floor_percent = self.floor_percent.unwrap_or(default.floor_percent);
        if !(1..=100).contains(&floor_percent) {
            return Err(invalid(&format!("{key}.floor_percent"), "must be from 1 to 100"));
        }
        Ok(Switch {
            capacity_errors: self.capacity_errors.unwrap_or(default.capacity_errors).max(1),
            interruptions: self.interruptions.unwrap_or(default.interruptions).max(1),
            pending_max: self.pending_max.map_or(default.pending_max, |span| span.0),
            floor_percent,
            stable: self.stable.map_or(default.stable, |span| span.0),
            probes: self.probes.unwrap_or(default.probes),
            ..default
        })
    }
}

impl ServicesConfig {
    fn find(&self) -> Result<Find, ConfigError> {
        let split = |key: &str, pattern: &str| {
            let why = format!("{pattern:?} must hold {{name}} once, and more than that");
            let parts = pattern.split_once("{name}").filter(|(before, after)| {
                !(after.contains("{name}") || (before.is_empty() && after.is_empty()))
            });
            parts.map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or_else(|| invalid(key, &why))
        };
        match self.by.unwrap_or_default() {
            FindBy::Name => {
                let spot = split("services.spot", self.spot.as_deref().unwrap_or("{name}-spot"))?;
                let on_demand = self.on_demand.as_deref().unwrap_or("{name}-standard");
                let on_demand = split("services.on_demand", on_demand)?;
                if spot == on_demand {
                    return Err(invalid("services.on_demand", "must differ from services.spot"));
                }
                Ok(Find::Name { spot, on_demand })
            }
            FindBy::Tags => Ok(Find::Tags {
                workload: self.workload_tag.clone().unwrap_or_else(|| "lifeboat:workload".to_owned()),
                capacity: self.capacity_tag.clone().unwrap_or_else(|| "lifeboat:capacity".to_owned()),
            }),
            FindBy::Listed => Ok(Find::Listed),
        }
    }
}

impl MachinesConfig {
    fn settings(&self) -> Machines {
        Machines {
            command: self.command.clone().unwrap_or_else(|| "lifeboat evacuate".to_owned()),
            rebalance: self.rebalance.unwrap_or_default(),
        }
    }
}

impl PricesConfig {
    fn saving(self) -> Result<u64, ConfigError> {
        let micros = (self.on_demand_task_hour - self.spot_task_hour) * 1e6;
        if !(0.0..1e12).contains(&micros) {
            return Err(invalid("prices", "Spot must cost less than On-Demand, both in dollars an hour"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0..1e12")]
        Ok(micros as u64)
    }
}

impl ClockConfig {
    fn settings(&self) -> Result<(u32, Timestamp), ConfigError> {
        if !(1..=1_000).contains(&self.scale) {
            return Err(invalid("clock.scale", "must be from 1 to 1000"));
        }
        let origin = parse_rfc3339(&self.origin);
        let why = format!("{:?} is no time as in 2026-03-02T09:15:04Z", self.origin);
        Ok((self.scale, origin.ok_or_else(|| invalid("clock.origin", &why))?))
    }
}

fn span(given: Option<Span>, seconds: u64) -> Millis {
    given.map_or_else(|| Millis::from_secs(seconds), |span| span.0)
}

fn invalid(key: &str, why: &str) -> ConfigError {
    ConfigError::Invalid { key: key.to_owned(), why: why.to_owned() }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration: \"500ms\", \"30s\", \"10m\", \"2h\" or \"90d\"");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(unit).map(|ms| Self(Millis(ms))).ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.0;
        match () {
            () if ms > 0 && ms.is_multiple_of(86_400_000) => write!(f, "{}d", ms / 86_400_000),
            () if ms > 0 && ms.is_multiple_of(3_600_000) => write!(f, "{}h", ms / 3_600_000),
            () if ms > 0 && ms.is_multiple_of(60_000) => write!(f, "{}m", ms / 60_000),
            () if ms.is_multiple_of(1_000) => write!(f, "{}s", ms / 1_000),
            () => write!(f, "{ms}ms"),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let settings = settings("").expect("valid");
        assert_eq!(settings.clusters, ["default"]);
        assert_eq!(settings.terms.rules, Rules::new(Policy::Shortfall(Shortfall::default())));
        assert_eq!(settings.terms.target, Target::FollowSpot);
    }

    #[test]
    fn services_are_listed_with_terms_of_their_own() {
        let text = r#"
            clusters = ["prod"]
            [policy]
            name = "switch"
            stable = "5m"
            [[service]]
            name = "orders"
            target = 10
            policy = { spares = 2 }
        "#;
        let settings = settings(text).expect("valid");
        let [orders] = settings.services.as_slice() else { panic!("one") };
        assert_eq!((orders.spot.as_str(), orders.on_demand.as_str()), ("orders-spot", "orders-standard"));
        assert_eq!(orders.terms.target, Target::Fixed(10));
        assert_eq!(orders.terms.rules.policy, Policy::Shortfall(Shortfall { spares: 2 }));
        let Policy::Switch(switch) = settings.terms.rules.policy else { panic!("switch") };
        assert_eq!(switch.stable, Millis::from_secs(300));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_key() {
        for (text, said) in [
            ("cluster = 'x'", "unknown field"),
            ("[policy]\nprobes = 1", "policy.probes"),
            ("[policy]\nname = 'switch'\nprobes = 0", "policy.probes"),
            ("[policy]\nname = 'switch'\nfloor_percent = 0", "policy.floor_percent"),
            ("[policy]\nwindow = '5'", "no duration"),
            ("[services]\nspot = 'x'", "services.spot"),
            ("[services]\nby = 'listed'", "services.by"),
            ("[store]\nsqlite = 'a'\ndynamodb = 'b'", "store"),
            ("[metrics]\nprometheus = '0.0.0.0:9465'", "metrics.prometheus"),
            ("[queue]\nurl = 'q'\nvisibility = '1s'", "queue.visibility"),
            ("[clock]\nscale = 0\norigin = '2026-03-02T09:15:04Z'", "clock.scale"),
            ("[clock]\nscale = 2\norigin = 'now'", "clock.origin"),
            ("clusters = ['a', 'b']\n[[service]]\nname = 'x'", "needs a `cluster`"),
            ("[prices]\non_demand_task_hour = 0.1\nspot_task_hour = 0.2", "prices"),
        ] {
            let error = settings(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["500ms", "30s", "10m", "2h", "90d", "0s", "90s"] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.to_string(), text);
        }
        for text in ["", "5", "s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

//! The configuration file: its form, its defaults, and the checks that turn it into [`Settings`].
//!
//! One TOML file; flags override it; unknown keys are errors. Durations carry units (`"30s"`). The sections are in
//! the modules below; those that name a cloud's services in [`crate::cloud`].

mod command;
mod evacuation;
mod files;
mod hook;
mod log_agent;
mod metadata;
mod precopy;
mod protect;
mod queue;
mod read;
#[cfg(test)]
mod tests;
mod units;

use std::path::{Path, PathBuf};

use globset::GlobSet;
use lifeboat_core::evacuation::stage::Plan;
use lifeboat_core::notice::Patience;
use lifeboat_core::time::Millis;
use lifeboat_snapshot::WorkloadName;
use lifeboat_snapshot::claim::LEASE_MAX;
use lifeboat_snapshot::save::Pace;
use lifeboat_snapshot::workload::ParseWorkloadNameError;
use serde::{Deserialize, Serialize};

pub use self::command::CommandConfig;
pub use self::evacuation::{BudgetConfig, EvacuationConfig};
pub use self::files::{LayoutChoice, PriorityRule};
pub use self::hook::HookConfig;
use self::hook::hook;
pub use self::log_agent::{LogAgent, LogAgentConfig};
pub use self::metadata::MetadataConfig;
pub use self::protect::{OnSigterm, Protect, ProtectConfig, Protected};
pub use self::queue::{OnInterrupt, QueueConfig};
use self::units::or;
pub use self::units::{Rate, Span};
use crate::cloud::{AlertsConfig, AutoScalingConfig, AwsConfig, Cloud, LoadBalancerConfig, MetricsConfig};
use crate::hooks::Hook;
use crate::signal::Signal;

/// The file as written. Everything is optional; `None` means the default, so that a flag can tell a chosen
/// value from a defaulted one.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the work; machines that use the same name in the same store carry on each other's work.
    pub name: Option<String>,
    /// The directory that is saved and restored.
    pub work_dir: Option<PathBuf>,
    /// Where it is saved: `file:///abs/path`.
    pub store: Option<String>,
    /// This machine's name in the store, where the metadata service does not tell one.
    pub instance_id: Option<String>,
    /// The workload's own state, relative to the work directory.
    pub state_file: Option<PathBuf>,
    /// Written at the notice; default: a file outside the work directory.
    pub signal_file: Option<PathBuf>,
    /// Globs of paths below the work directory that are not saved.
    pub exclude: Vec<String>,
    /// Files of which the last lines are saved at the end, relative to the work directory or absolute.
    pub log_files: Vec<PathBuf>,
    /// How many lines of each.
    pub log_lines: Option<u32>,
    /// Who ships the log, and is told at the end.
    pub log_agent: LogAgentConfig,
    /// After the evacuation, delete from the work directory what is proven to be stored.
    pub clean_up: Option<bool>,
    /// At `stop`, save the files although EBS keeps them.
    pub snapshot_on_stop: Option<bool>,
    /// How many recovery points are kept in the store.
    pub keep: Option<u32>,
    /// How often what has changed is copied while the work goes on; never without it, until a rebalance recommendation.
    pub precopy: Option<Span>,
    /// How the store's objects are laid out.
    pub layout: Option<LayoutChoice>,
    /// How many bytes a second such a copy may send.
    pub precopy_rate: Option<Rate>,
    /// How many objects of it are on their way at once.
    pub precopy_concurrency: Option<u32>,
    /// How long a claim holds after its holder fell silent.
    pub lease: Option<Span>,
    /// How long `lifeboat run` waits for work that another machine holds.
    pub claim_wait: Option<Span>,
    /// Globs with priorities: the first that matches counts; files that none matches have 100.
    pub priority: Vec<PriorityRule>,
    /// The application whose workers share tasks: a task's partial result is found by every worker of the same
    /// application in the same store. Default: the workload's name.
    pub application: Option<String>,
    /// Where the state goes beside the store: `dynamodb://TABLE`.
    pub state: Option<String>,
    /// Messages in flight at the notice.
    pub queue: QueueConfig,
    /// Which AWS.
    pub aws: AwsConfig,
    /// The Auto Scaling group's lifecycle hook.
    pub auto_scaling: AutoScalingConfig,
    /// The load balancers' groups that this machine leaves.
    pub load_balancer: LoadBalancerConfig,
    /// Where metrics go.
    pub metrics: MetricsConfig,
    /// Who is told of an evacuation.
    pub alerts: AlertsConfig,
    /// Run before each snapshot.
    pub before_snapshot: Option<HookConfig>,
    /// Run after each snapshot.
    pub after_snapshot: Option<HookConfig>,
    /// How the workload is run.
    pub command: CommandConfig,
    /// What is protected that somebody else starts.
    pub protect: ProtectConfig,
    /// How the metadata service is watched.
    pub metadata: MetadataConfig,
    /// Times of the evacuation.
    pub evacuation: EvacuationConfig,
}

/// The checked configuration: no option is left open but those that only the start of a run can fill.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What an evacuation does and how long.
    pub plan: Plan,
    /// How sightings in the metadata are judged.
    pub patience: Patience,
    /// The time from SIGTERM to the end.
    pub grace: Millis,
    /// The time from `lifeboat evacuate`, or from a failure of the workload, to the end.
    pub operator_grace: Millis,
    /// Sent to the workload at the notice.
    pub stop_signal: Signal,
    /// For processes that the workload left behind.
    pub linger: Millis,
    /// What is protected that somebody else starts.
    pub protect: Protect,
    /// Whether the metadata service is watched.
    pub metadata_enabled: bool,
    /// Its address, where the configuration names one.
    pub metadata_endpoint: Option<String>,
    /// Between two polls.
    pub interval: Millis,
    /// How long a claim holds without renewal.
    pub lease: Millis,
    /// How long to wait for work that another machine holds.
    pub claim_wait: Millis,
    /// Between two rounds of copying what has changed.
    pub precopy: Option<Millis>,
    /// How the store's objects are laid out.
    pub layout: LayoutChoice,
    /// How fast that goes.
    pub pace: Pace,
    /// Run before each snapshot.
    pub before_snapshot: Option<Hook>,
    /// Run after each snapshot.
    pub after_snapshot: Option<Hook>,
    /// Recovery points kept.
    pub keep: u32,
    /// Paths that are not saved.
    pub exclude: GlobSet,
    /// First match counts.
    pub priorities: Vec<lifeboat_snapshot::save::PriorityRule>,
    /// Relative to the work directory.
    pub state_file: PathBuf,
    /// Where the configuration names one.
    pub signal_file: Option<PathBuf>,
    /// Their last lines are saved.
    pub log_files: Vec<PathBuf>,
    /// How many lines.
    pub log_lines: usize,
    /// Who ships the log, and is told at the end.
    pub log_agent: Option<LogAgent>,
    /// Whose workers share tasks; `None`: the workload's alone.
    pub application: Option<WorkloadName>,
    /// Where the state goes beside the store.
    pub state: Option<String>,
    /// A cloud's services.
    pub cloud: Cloud,
    /// The time from `target-lifecycle-state` = `Terminated` to the end.
    pub lifecycle_grace: Millis,
    /// What becomes of messages in flight.
    pub on_interrupt: OnInterrupt,
    /// Relative to the work directory.
    pub receipts_file: PathBuf,
    /// The queue of receipts in that file which do not name theirs.
    pub queue_url: Option<String>,
}

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
    #[error("{path} is not a valid configuration:\n{message}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and why, over several lines.
        message: String,
    },
    /// A value is of the right form and makes no sense.
    #[error("`{key}` {problem}")]
    Senseless {
        /// Which key, with its section.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// A lease shorter than this would take work away from a machine that is only slow.
const LEASE_MIN: Millis = Millis::from_secs(3);

/// The longest name of a machine, in bytes: host names and ids are far shorter.
const INSTANCE_ID_MAX: usize = 255;

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`], [`ConfigError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            read::text(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            message: read::without_secrets(&error),
        })
    }

    /// Checks every value and fills the defaults in.
    ///
    /// # Errors
    /// [`ConfigError::Senseless`] names the first value that makes no sense.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let lease = or(self.lease, Millis::from_secs(30));
        if lease < LEASE_MIN || lease.to_duration() > LEASE_MAX {
            return Err(senseless("lease", "must lie between 3s and 1h"));
        }
        let is_name = |id: &String| {
            (1..=INSTANCE_ID_MAX).contains(&id.len()) && !id.chars().any(|char| char.is_control())
        };
        if self.instance_id.as_ref().is_some_and(|id| !is_name(id)) {
            return Err(senseless(
                "instance_id",
                "must have 1 to 255 bytes, without line breaks and the like",
            ));
        }
        let keep = self.keep.unwrap_or(3);
        if keep == 0 {
            return Err(senseless("keep", "must be at least 1: the newest recovery point is never deleted"));
        }
        if self.signal_file.as_ref().is_some_and(|path| path.is_relative()) {
            return Err(senseless("signal_file", "must be an absolute path"));
        }
        Ok(Settings {
            plan: self.plan()?,
            patience: self.evacuation.patience()?,
            grace: self.evacuation.grace()?,
            operator_grace: self.evacuation.operator_grace()?,
            stop_signal: self.command.stop_signal.unwrap_or_default(),
            linger: or(self.command.linger, Millis::from_secs(2)),
            protect: self.protect.checked()?,
            metadata_enabled: self.metadata.enabled.unwrap_or(true),
            metadata_endpoint: self.metadata.endpoint.clone(),
            interval: self.metadata.interval()?,
            lease,
            claim_wait: or(self.claim_wait, Millis::from_secs(600)),
            precopy: self.rounds()?,
            layout: self.layout.unwrap_or_default(),
            pace: self.pace()?,
            before_snapshot: hook("before_snapshot", self.before_snapshot.as_ref())?,
            after_snapshot: hook("after_snapshot", self.after_snapshot.as_ref())?,
            keep,
            exclude: self.excluded()?,
            priorities: self.priorities()?,
            state_file: self.state_path()?,
            signal_file: self.signal_file.clone(),
            application: self.application()?,
            state: self.state.clone(),
            cloud: self.cloud()?,
            lifecycle_grace: self.evacuation.lifecycle_grace(),
            on_interrupt: self.queue.on_interrupt()?,
            receipts_file: self.queue.receipts_file()?,
            queue_url: self.queue.url()?,
            log_agent: self.log_agent.checked()?,
            log_files: self.log_files.clone(),
            log_lines: usize::try_from(self.log_lines.unwrap_or(100)).unwrap_or(usize::MAX),
        })
    }

    fn plan(&self) -> Result<Plan, ConfigError> {
        Ok(Plan {
            budgets: self.evacuation.budgets()?,
            reserve: self.evacuation.reserve(),
            clean_up: self.clean_up.unwrap_or(false),
            deregister: !self.load_balancer.target_groups.is_empty(),
            complete_lifecycle: self.auto_scaling.hook.is_some(),
            snapshot_on_stop: self.snapshot_on_stop.unwrap_or(true),
            has_workload: true,
        })
    }

    fn application(&self) -> Result<Option<WorkloadName>, ConfigError> {
        let parsed = self.application.as_ref().map(|name| name.parse());
        let is_refused = |error: ParseWorkloadNameError| senseless("application", &error.to_string());
        parsed.transpose().map_err(is_refused)
    }

    fn cloud(&self) -> Result<Cloud, ConfigError> {
        let cloud = Cloud {
            aws: self.aws.clone(),
            auto_scaling: self.auto_scaling.clone(),
            load_balancer: self.load_balancer.clone(),
            metrics: self.metrics.clone(),
            alerts: self.alerts.clone(),
        };
        cloud.checked()
    }
}

pub(crate) fn senseless(key: &str, problem: &str) -> ConfigError {
    ConfigError::Senseless { key: key.to_owned(), problem: problem.to_owned() }
}

/// Whether a path, from the work directory on, surely stays inside it.
fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

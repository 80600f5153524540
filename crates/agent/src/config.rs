//! The configuration file: its form, its defaults, and the checks that turn it into [`Settings`].
//!
//! One TOML file; flags override it; unknown keys are errors. Durations carry units (`"30s"`).

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobSet, GlobSetBuilder};
use lifeboat_core::evacuation::budget::Budget;
use lifeboat_core::evacuation::stage::{Plan, STAGES, Stage};
use lifeboat_core::notice::Patience;
use lifeboat_core::time::Millis;
use lifeboat_snapshot::save::Pace;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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
    /// Run before each snapshot.
    pub before_snapshot: Option<HookConfig>,
    /// Run after each snapshot.
    pub after_snapshot: Option<HookConfig>,
    /// How the workload is run.
    pub command: CommandConfig,
    /// How the metadata service is watched.
    pub metadata: MetadataConfig,
    /// Times of the evacuation.
    pub evacuation: EvacuationConfig,
}

/// One rule of `[[priority]]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PriorityRule {
    /// Which paths below the work directory.
    pub glob: String,
    /// The greater the earlier, in proportion to the size. 0: last of all.
    pub priority: u32,
}

/// `layout`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutChoice {
    /// Files together in packs, large ones in blocks.
    #[default]
    Packed,
    /// Each file as an object under its own name.
    Plain,
}

/// `[before_snapshot]`, `[after_snapshot]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// It is killed after so long.
    pub timeout: Option<Span>,
}

/// `[queue]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// What becomes of messages in flight: `"release"`, or `{ extend = "300s" }`.
    pub on_interrupt: Option<OnInterrupt>,
    /// Receipts that the application keeps in a file, relative to the work directory, beside those it registered.
    pub receipts_file: Option<PathBuf>,
    /// The queue of receipts in that file which do not name theirs.
    pub url: Option<String>,
}

/// What becomes of a message in flight when its worker is interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInterrupt {
    /// It is visible again at once, after its partial result is stored.
    #[default]
    Release,
    /// It stays invisible for so long, counted from the hand-back.
    Extend(Span),
}

impl OnInterrupt {
    /// How long the message stays invisible.
    #[must_use]
    pub const fn visibility(self) -> std::time::Duration {
        match self {
            Self::Release => std::time::Duration::ZERO,
            Self::Extend(span) => span.0.to_duration(),
        }
    }
}

/// `[command]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommandConfig {
    /// Sent to the workload's process group at the notice.
    pub stop_signal: Option<Signal>,
    /// When the workload ended by itself, how long processes that it left behind may take to follow.
    pub linger: Option<Span>,
}

/// `[metadata]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataConfig {
    /// False: do not watch it at all.
    pub enabled: Option<bool>,
    /// Default: as the AWS SDKs (`AWS_EC2_METADATA_SERVICE_ENDPOINT`).
    pub endpoint: Option<String>,
    /// Between two polls.
    pub interval: Option<Span>,
}

/// `[evacuation]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvacuationConfig {
    /// The time from SIGTERM to SIGKILL, as the container platform grants it.
    pub grace: Option<Span>,
    /// The time that `lifeboat evacuate` may take, and the saving of work that failed by itself.
    pub operator_grace: Option<Span>,
    /// Kept free at the end; at most a tenth of the time.
    pub reserve: Option<Span>,
    /// The time given when the announced instant is over, unknown, or hibernation has begun.
    pub late: Option<Span>,
    /// A notice whose instant passed longer ago than this did not come true.
    pub stale: Option<Span>,
    /// Budget of the stage `notify`.
    pub notify: Option<BudgetConfig>,
    /// Budget of the stage `drain`.
    pub drain: Option<BudgetConfig>,
    /// Budget of the stage `snapshot`.
    pub snapshot: Option<BudgetConfig>,
    /// Budget of the stage `save_state`.
    pub save_state: Option<BudgetConfig>,
    /// Budget of the stage `flush_logs`.
    pub flush_logs: Option<BudgetConfig>,
    /// Budget of the stage `hand_back`.
    pub hand_back: Option<BudgetConfig>,
    /// Budget of the stage `clean_up`.
    pub clean_up: Option<BudgetConfig>,
}

/// The budget of one stage; what is missing keeps its default.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// With less the stage is not worth starting.
    pub minimum: Option<Span>,
    /// What it normally needs.
    pub wanted: Option<Span>,
    /// The most it gets.
    pub maximum: Option<Span>,
}

/// A duration as written in the file, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Millis);

/// Bytes a second as written in the file: `"32MiB/s"`, `"500kB/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub NonZeroU64);

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
    /// Whose workers share tasks; `None`: the workload's alone.
    pub application: Option<lifeboat_snapshot::WorkloadName>,
    /// Where the state goes beside the store.
    pub state: Option<String>,
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

/// Source A polls every 5 s, aws-node-termination-handler every 2 s; the metadata service is throttled per
/// instance, so no more often than every half second.
const INTERVAL_MIN: Millis = Millis(500);

/// Above a minute, half of the two minutes of a notice could be lost.
const INTERVAL_MAX: Millis = Millis::from_secs(60);

/// What most platforms grant between SIGTERM and SIGKILL. Counting on more would lose work where nobody
/// configured it. Source: the Kubernetes documentation, "Pod termination" (30 s); the ECS task definition's
/// `stopTimeout` (30 s by default, at most 120 s).
const GRACE: Millis = Millis::from_secs(30);

/// A lease shorter than this would take work away from a machine that is only slow.
const LEASE_MIN: Millis = Millis::from_secs(3);

/// More would need more memory: each object holds a buffer of 8 MiB.
const PRECOPY_CONCURRENCY_MAX: usize = 8;

/// An object of the smallest kind then takes a second.
const PRECOPY_RATE_MIN: u64 = 64 * 1024;

/// A database flushes within seconds, and holds its users up for as long.
const HOOK_TIMEOUT: Millis = Millis::from_secs(10);

/// Longer than any evacuation lasts.
const HOOK_TIMEOUT_MAX: Millis = Millis::from_secs(600);

/// Source: Amazon SQS API Reference, `ChangeMessageVisibility` (0 to 43200 seconds), read November 2026.
const VISIBILITY_MAX: std::time::Duration = std::time::Duration::from_secs(43_200);

/// Each round looks at every file.
const PRECOPY_MIN: Millis = Millis::from_secs(1);

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`], [`ConfigError::Malformed`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| ConfigError::Malformed {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })
    }

    /// Checks every value and fills the defaults in.
    ///
    /// # Errors
    /// [`ConfigError::Senseless`] names the first value that makes no sense.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let span = |value: Option<Span>, default: Millis| value.map_or(default, |span| span.0);
        let times = &self.evacuation;
        let interval = span(self.metadata.interval, Millis::from_secs(2));
        if interval < INTERVAL_MIN || interval > INTERVAL_MAX {
            return Err(senseless("metadata.interval", "must lie between 500ms and 60s"));
        }
        let lease = span(self.lease, Millis::from_secs(30));
        if lease < LEASE_MIN {
            return Err(senseless("lease", "must be at least 3s"));
        }
        if self.precopy.is_some_and(|span| span.0 < PRECOPY_MIN) {
            return Err(senseless("precopy", "must be at least 1s"));
        }
        let grace = span(times.grace, GRACE);
        if grace == Millis::ZERO {
            return Err(senseless("evacuation.grace", "must be more than nothing"));
        }
        let operator_grace = span(times.operator_grace, Millis::from_secs(120));
        if operator_grace == Millis::ZERO {
            return Err(senseless("evacuation.operator_grace", "must be more than nothing"));
        }
        let keep = self.keep.unwrap_or(3);
        if keep == 0 {
            return Err(senseless("keep", "must be at least 1: the newest recovery point is never deleted"));
        }
        let state_file = self.state_file.clone().unwrap_or_else(|| PathBuf::from("state.json"));
        let escapes = state_file.components().any(|part| !matches!(part, std::path::Component::Normal(_)));
        if state_file.is_absolute() || escapes {
            return Err(senseless("state_file", "must be a path inside the work directory"));
        }
        let receipts_file =
            self.queue.receipts_file.clone().unwrap_or_else(|| PathBuf::from("active_receipts.json"));
        if receipts_file.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(senseless("queue.receipts_file", "must be a path inside the work directory"));
        }
        let on_interrupt = self.queue.on_interrupt.unwrap_or_default();
        if on_interrupt.visibility() > VISIBILITY_MAX {
            return Err(senseless("queue.on_interrupt", "must extend by 12h at most"));
        }
        let application = match &self.application {
            Some(name) => {
                Some(name.parse().map_err(|error: lifeboat_snapshot::workload::ParseWorkloadNameError| {
                    senseless("application", &error.to_string())
                })?)
            }
            None => None,
        };
        if self.signal_file.as_ref().is_some_and(|path| path.is_relative()) {
            return Err(senseless("signal_file", "must be an absolute path"));
        }
        Ok(Settings {
            plan: Plan {
                budgets: self.budgets()?,
                reserve: span(times.reserve, Millis::from_secs(5)),
                clean_up: self.clean_up.unwrap_or(false),
                snapshot_on_stop: self.snapshot_on_stop.unwrap_or(true),
                has_workload: true,
            },
            patience: Patience {
                late: span(times.late, Millis::from_secs(10)),
                stale: span(times.stale, Millis::from_secs(60)),
            },
            grace,
            operator_grace,
            stop_signal: self.command.stop_signal.unwrap_or_default(),
            linger: span(self.command.linger, Millis::from_secs(2)),
            metadata_enabled: self.metadata.enabled.unwrap_or(true),
            metadata_endpoint: self.metadata.endpoint.clone(),
            interval,
            lease,
            claim_wait: span(self.claim_wait, Millis::from_secs(600)),
            precopy: self.precopy.map(|span| span.0),
            layout: self.layout.unwrap_or_default(),
            pace: self.pace()?,
            before_snapshot: hook("before_snapshot", self.before_snapshot.as_ref())?,
            after_snapshot: hook("after_snapshot", self.after_snapshot.as_ref())?,
            keep,
            exclude: exclude(&self.exclude)?,
            priorities: self.priorities()?,
            state_file,
            signal_file: self.signal_file.clone(),
            application,
            state: self.state.clone(),
            on_interrupt,
            receipts_file,
            queue_url: self.queue.url.clone(),
            log_files: self.log_files.clone(),
            log_lines: usize::try_from(self.log_lines.unwrap_or(100)).unwrap_or(usize::MAX),
        })
    }

    fn pace(&self) -> Result<Pace, ConfigError> {
        let background = Pace::BACKGROUND;
        let concurrency = match self.precopy_concurrency {
            None => background.concurrency,
            Some(number) => match usize::try_from(number) {
                Ok(number @ 1..=PRECOPY_CONCURRENCY_MAX) => number,
                Ok(_) | Err(_) => return Err(senseless("precopy_concurrency", "must lie between 1 and 8")),
            },
        };
        let bytes_per_second = self.precopy_rate.map(|rate| rate.0).or(background.bytes_per_second);
        if bytes_per_second.is_some_and(|rate| rate.get() < PRECOPY_RATE_MIN) {
            return Err(senseless("precopy_rate", "must be at least 64KiB/s: a round would never end"));
        }
        Ok(Pace { concurrency, bytes_per_second, ..background })
    }

    fn priorities(&self) -> Result<Vec<lifeboat_snapshot::save::PriorityRule>, ConfigError> {
        self.priority
            .iter()
            .map(|rule| match Glob::new(&rule.glob) {
                Ok(glob) => Ok(lifeboat_snapshot::save::PriorityRule {
                    glob: glob.compile_matcher(),
                    priority: rule.priority,
                }),
                Err(error) => Err(senseless("priority.glob", &error.to_string())),
            })
            .collect()
    }

    fn budgets(&self) -> Result<[Budget; STAGES], ConfigError> {
        let times = &self.evacuation;
        let mut budgets = [Budget { minimum: Millis(0), wanted: Millis(0), maximum: Millis(0) }; STAGES];
        for stage in Stage::ALL {
            let written = match stage {
                Stage::Notify => times.notify,
                Stage::Drain => times.drain,
                Stage::Snapshot => times.snapshot,
                Stage::SaveState => times.save_state,
                Stage::FlushLogs => times.flush_logs,
                Stage::HandBack => times.hand_back,
                Stage::CleanUp => times.clean_up,
            }
            .unwrap_or_default();
            let default = default_budget(stage);
            let budget = Budget {
                minimum: written.minimum.map_or(default.minimum, |span| span.0),
                wanted: written.wanted.map_or(default.wanted, |span| span.0),
                maximum: written.maximum.map_or(default.maximum, |span| span.0),
            };
            // One chosen value moves the defaulted ones along; two chosen ones must fit each other.
            let budget = Budget {
                minimum: if written.minimum.is_none() {
                    budget.minimum.min(written.wanted.map_or(budget.minimum, |s| s.0)).min(budget.maximum)
                } else {
                    budget.minimum
                },
                ..budget
            };
            let budget = Budget {
                wanted: if written.wanted.is_none() {
                    budget.wanted.clamp(budget.minimum, budget.maximum.max(budget.minimum))
                } else {
                    budget.wanted
                },
                maximum: if written.maximum.is_none() {
                    budget.maximum.max(budget.wanted).max(budget.minimum)
                } else {
                    budget.maximum
                },
                ..budget
            };
            if !budget.is_ordered() {
                return Err(senseless(
                    &format!("evacuation.{stage}"),
                    "must have minimum ≤ wanted ≤ maximum",
                ));
            }
            budgets[stage.index()] = budget;
        }
        Ok(budgets)
    }
}

/// The budgets that source A's steps and the two minutes suggest: what it gives each step is our maximum,
/// except for the files, which get all that the others leave. The minima are small: with little time left,
/// trying is better than not.
const fn default_budget(stage: Stage) -> Budget {
    let (minimum, wanted, maximum) = match stage {
        Stage::Notify => (10, 1_000, 5_000),
        Stage::Drain => (200, 20_000, 45_000),
        Stage::Snapshot => (200, 60_000, 3_600_000),
        // Source A: 10 s for the state and 10 s for the messages.
        Stage::SaveState => (100, 8_000, 20_000),
        Stage::FlushLogs => (50, 3_000, 5_000),
        Stage::HandBack => (100, 3_000, 10_000),
        Stage::CleanUp => (100, 5_000, 10_000),
    };
    Budget { minimum: Millis(minimum), wanted: Millis(wanted), maximum: Millis(maximum) }
}

fn hook(key: &str, written: Option<&HookConfig>) -> Result<Option<Hook>, ConfigError> {
    let Some(written) = written else { return Ok(None) };
    let timeout = written.timeout.map_or(HOOK_TIMEOUT, |span| span.0);
    if written.command.first().is_none_or(String::is_empty) {
        return Err(senseless(&format!("{key}.command"), "must name a program: [\"program\", \"argument\"]"));
    }
    if timeout == Millis::ZERO || timeout > HOOK_TIMEOUT_MAX {
        return Err(senseless(&format!("{key}.timeout"), "must be more than nothing and at most 10m"));
    }
    Ok(Some(Hook { command: written.command.clone(), timeout: timeout.to_duration() }))
}

fn exclude(globs: &[String]) -> Result<GlobSet, ConfigError> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob).map_err(|error| senseless("exclude", &error.to_string()))?);
    }
    set.build().map_err(|error| senseless("exclude", &error.to_string()))
}

fn senseless(key: &str, problem: &str) -> ConfigError {
    ConfigError::Senseless { key: key.to_owned(), problem: problem.to_owned() }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span: jiff::SignedDuration =
            text.parse().map_err(|_| format!("`{text}` is no duration; write for example \"30s\""))?;
        let millis = u64::try_from(span.as_millis())
            .map_err(|_| format!("`{text}` is negative; a duration is not"))?;
        Ok(Self(Millis(millis)))
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 7] = [
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("GB", 1_000_000_000),
            ("MB", 1_000_000),
            ("kB", 1_000),
            ("B", 1),
        ];
        let problem = || format!("`{text}` is no rate; write for example \"32MiB/s\"");
        let size = text.trim().strip_suffix("/s").ok_or_else(problem)?.trim();
        let (unit, factor) = UNITS.iter().find(|(unit, _)| size.ends_with(unit)).ok_or_else(problem)?;
        let number: u64 = size.strip_suffix(unit).and_then(|n| n.trim().parse().ok()).ok_or_else(problem)?;
        number.checked_mul(*factor).and_then(NonZeroU64::new).map(Self).ok_or_else(problem)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}B/s", self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Span;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration in quotes with its unit, \"30s\" for example")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_str(Written)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}ms", self.0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let settings = parse("").expect("valid");
        assert_eq!(settings.interval, Millis(2_000));
        assert_eq!(settings.grace, Millis(30_000));
        assert!(!settings.plan.clean_up, "nothing of the user's is deleted by default");
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_key() {
        for text in ["clean_upp = true", "[evacuation]\ngrase = \"5s\"", "[command]\nx = 1"] {
            let error = parse(text).expect_err("refused");
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn senseless_values_are_named() {
        for (text, key) in [
            ("[metadata]\ninterval = \"10ms\"", "metadata.interval"),
            ("[metadata]\ninterval = \"5m\"", "metadata.interval"),
            ("lease = \"1s\"", "lease"),
            ("keep = 0", "keep"),
            ("state_file = \"../x\"", "state_file"),
            ("state_file = \"/x\"", "state_file"),
            ("signal_file = \"x\"", "signal_file"),
            ("exclude = [\"a[\"]", "exclude"),
            ("[evacuation]\ngrace = \"0s\"", "evacuation.grace"),
            ("application = \"a/b\"", "application"),
            ("[queue]\nreceipts_file = \"../x\"", "queue.receipts_file"),
            ("[queue]\non_interrupt = { extend = \"13h\" }", "queue.on_interrupt"),
            ("[queue]\non_interrupt = \"drop\"", "on_interrupt"),
            ("[evacuation.drain]\nminimum = \"9s\"\nmaximum = \"3s\"", "evacuation.drain"),
            ("[evacuation]\ngrace = \"5 parsecs\"", "duration"),
            ("[evacuation]\ngrace = \"-5s\"", "negative"),
            ("[evacuation]\ngrace = 5", "with its unit"),
            ("[command]\nstop_signal = \"SIGKILL\"", "SIGKILL"),
            ("precopy = \"10ms\"", "precopy"),
            ("precopy_rate = \"0MiB/s\"", "no rate"),
            ("precopy_rate = \"32MiB\"", "32MiB/s"),
            ("precopy_rate = \"1B/s\"", "precopy_rate"),
            ("precopy_concurrency = 9", "precopy_concurrency"),
            ("precopy_concurrency = 0", "precopy_concurrency"),
            ("[before_snapshot]\ncommand = []", "before_snapshot.command"),
            ("[after_snapshot]\ncommand = [\"x\"]\ntimeout = \"0s\"", "after_snapshot.timeout"),
            ("[after_snapshot]\ncommand = [\"x\"]\ntimeout = \"11m\"", "after_snapshot.timeout"),
            ("[after_snapshot]\ntimeout = \"1s\"", "command"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn the_pace_of_copying_is_configurable() {
        let pace = |text| parse(text).expect("valid").pace;
        assert_eq!(pace(""), Pace::BACKGROUND);
        let chosen = pace("precopy_rate = \"2MB/s\"\nprecopy_concurrency = 5");
        assert_eq!((chosen.concurrency, chosen.bytes_per_second), (5, NonZeroU64::new(2_000_000)));
        assert!(chosen.is_nice);
        for (text, bytes) in [("32MiB/s", 32 << 20), ("1 GiB/s", 1 << 30), ("70kB/s", 70_000), ("9B/s", 9)] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!(rate.0.get(), bytes, "{text}");
        }
    }

    #[test]
    fn one_chosen_budget_moves_the_defaults_along() {
        let settings = parse("[evacuation.drain]\nmaximum = \"3s\"").expect("valid");
        let drain = settings.plan.budget(Stage::Drain);
        assert_eq!((drain.wanted, drain.maximum), (Millis(3_000), Millis(3_000)));
        let settings = parse("[evacuation.drain]\nwanted = \"90s\"").expect("valid");
        assert_eq!(settings.plan.budget(Stage::Drain).maximum, Millis(90_000));
    }
}

//! From configuration and command line to what a run needs: names, places, the open store.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_core::conclusion::exit_code;
use lifeboat_core::time::Millis;
use lifeboat_imds::Endpoint;
use lifeboat_imds::task::Task;
use lifeboat_snapshot::claim::{AcquireError, ClaimError, Claimant};
use lifeboat_snapshot::journal::Holder;
use lifeboat_snapshot::restore::RestoreError;
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::workload::ParseWorkloadNameError;
use lifeboat_snapshot::{
    Layout, ObjectStore, Rounds, StoreError, StoreUrl, UploadLog, Workload, WorkloadName,
};

use crate::app::App;
use crate::config::{Config, ConfigError, LayoutChoice, Settings};
use crate::dirs::{Dirs, DirsError, Outlive, state_dir, write_atomically};
use crate::foreign::Foreign;
use crate::hands::{Site, chain};
use crate::heralds::Heralds;
use crate::hooks::Hooks;
use crate::metrics::Meter;
use crate::process::StartError;
use crate::record::agent_id;
use crate::run::Ui;
use crate::whereabouts::Whereabouts;

/// How long to wait at the start for the metadata service to name this instance.
pub const IDENTITY_WAIT: Millis = Millis::from_secs(1);

/// Everything about a run that is known before anything was asked or opened.
#[derive(Debug)]
pub struct Setup {
    /// The configuration as it was given, with every path absolute.
    pub config: Config,
    /// The checked configuration.
    pub settings: Settings,
    /// The workload's name.
    pub name: WorkloadName,
    /// Absolute, links resolved; exists.
    pub work_dir: PathBuf,
    /// The store.
    pub store: StoreUrl,
    /// Lifeboat's state directory of this user.
    pub state_dir: PathBuf,
    /// The agent's places.
    pub dirs: Dirs,
    /// This machine's name, where the configuration gives one.
    pub instance_id: Option<String>,
    /// Where the metadata service is, if it is to be watched.
    pub metadata: Option<Endpoint>,
    /// Where the metadata of the ECS task are, if this is one.
    pub task_metadata: Option<Endpoint>,
    /// Whether this runs in a pod of Kubernetes.
    pub is_pod: bool,
}

/// Why a run, or one of its relatives, cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The workload has no usable name.
    #[error("the workload needs a usable name: give one with --name")]
    Name(#[from] ParseWorkloadNameError),
    /// Something that is needed is neither given nor can be derived.
    #[error("{0}")]
    Missing(&'static str),
    /// The work directory cannot be used.
    #[error("cannot use the work directory {path}")]
    WorkDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store's URL makes no sense.
    #[error("cannot use the store {url}")]
    StoreUrl {
        /// As given.
        url: String,
        /// Why.
        #[source]
        source: lifeboat_snapshot::store::ParseStoreUrlError,
    },
    /// The metadata service's address makes no sense.
    #[error("cannot use the metadata service")]
    Endpoint(#[from] lifeboat_imds::endpoint::EndpointError),
    /// Lifeboat's own directory cannot be used, or another agent is using it.
    #[error(transparent)]
    Dirs(#[from] DirsError),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The work belongs to somebody else, or could not be claimed.
    #[error(transparent)]
    Acquire(#[from] AcquireError),
    /// The claim was lost.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The evacuated work could not be restored; nothing of the user's was touched.
    #[error("the evacuated work could not be restored into {path}")]
    Restore {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// The command could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What the agent is to protect cannot be protected as it is.
    #[error("cannot protect {what}: {problem}")]
    Protect {
        /// What.
        what: String,
        /// Why not, and what would help.
        problem: String,
    },
    /// It runs already, and its files are still to be restored; nothing was touched.
    #[error(
        "the evacuated work is to be restored into {path}, and {what} runs there already: stop it, or have it started after this agent"
    )]
    RunsAlready {
        /// What.
        what: String,
        /// Where.
        path: PathBuf,
    },
    /// There is nothing to be evacuated: the agent here waits for the work, or restores it.
    #[error(
        "nothing was evacuated: the agent here has not begun the work, because another machine holds it, it is still being restored, or this machine is about to go; `lifeboat status` shows it, SIGTERM ends it"
    )]
    NotBegun,
    /// The store cannot be opened.
    #[error("cannot open the store {url}")]
    Open {
        /// Which.
        url: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The operating system refused something that always works.
    #[error("{what}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl RunError {
    /// The exit code that says what kind of failure it was.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Dirs(DirsError::Locked { .. })
            | Self::Acquire(AcquireError::Held { .. })
            | Self::NotBegun
            | Self::Claim(ClaimError::Fenced { .. }) => exit_code::NOT_OURS,
            Self::Restore { .. } | Self::RunsAlready { .. } => exit_code::NOT_RESTORED,
            Self::Start(StartError::NotFound(_)) => exit_code::NOT_FOUND,
            Self::Start(StartError::CannotExecute { .. }) => exit_code::CANNOT_EXECUTE,
            Self::Config(_)
            | Self::Name(_)
            | Self::Missing(_)
            | Self::WorkDir { .. }
            | Self::StoreUrl { .. }
            | Self::Endpoint(_)
            | Self::Dirs(DirsError::Unusable { .. })
            | Self::Store(_)
            | Self::Acquire(AcquireError::Store(_))
            | Self::Claim(ClaimError::Store(_) | ClaimError::Ended { .. })
            | Self::Open { .. }
            | Self::Protect { .. }
            | Self::System { .. } => exit_code::FAILED,
        }
    }
}

/// The store that a configuration names, or the default under the state directory.
///
/// # Errors
/// [`RunError::StoreUrl`].
pub fn store_url(config: &Config, state_dir: &Path) -> Result<StoreUrl, RunError> {
    let text = config.store.clone().unwrap_or_else(|| state_dir.join("store").to_string_lossy().into_owned());
    text.parse().map_err(|source| RunError::StoreUrl {
        url: lifeboat_snapshot::store::without_secrets(&text),
        source,
    })
}

/// Opens the store, and names it where it cannot be opened.
///
/// # Errors
/// [`RunError::Open`].
pub fn open_store(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, RunError> {
    let named = || lifeboat_snapshot::store::without_secrets(&url.to_string());
    lifeboat_snapshot::open(url).map_err(|source| RunError::Open { url: named(), source })
}

/// Where [`Setup::keep_config`] puts the configuration of the last run of `workload`.
#[must_use]
pub fn kept_config(state_dir: &Path, workload: &str) -> PathBuf {
    state_dir.join("agents").join(workload).join("config.toml")
}

impl Setup {
    /// Checks the configuration and finds every place. For a run, `command` gives the name where nothing else
    /// does, and a work directory that does not exist is created: a replacement machine has none yet. Without a
    /// command it must exist: saving a directory that was misspelt would store an empty one.
    ///
    /// # Errors
    /// [`RunError`], by what is wrong.
    pub fn new(
        config: &Config,
        command: Option<&OsString>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, RunError> {
        let settings = config.settings()?;
        if command.is_some() && config.protect.names_something() {
            return Err(RunError::Missing(
                "`[protect]` names what somebody else starts: that is protected by `lifeboat agent`, while `lifeboat run` starts its command itself",
            ));
        }
        let name: WorkloadName = match (&config.name, command) {
            (Some(name), _) => name.parse()?,
            (None, Some(command)) => name_of(command).parse()?,
            (None, None) => return Err(RunError::Missing("which workload? give its name with --name")),
        };
        let state_dir = state_dir(&variable);
        let store = store_url(config, &state_dir)?;
        let work_dir = config.work_dir.clone().unwrap_or_else(|| PathBuf::from("."));
        let unusable = |source| RunError::WorkDir { path: work_dir.clone(), source };
        if command.is_some() {
            std::fs::create_dir_all(&work_dir).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => unusable(io::ErrorKind::NotADirectory.into()),
                _ => unusable(error),
            })?;
        }
        let work_dir = work_dir.canonicalize().map_err(unusable)?;
        if !work_dir.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
        let metadata = match (&settings.metadata_endpoint, settings.metadata_enabled) {
            (_, false) => None,
            (Some(address), true) => Some(Endpoint::parse(address)?),
            // There is none on Fargate. Source: ECS developer guide, "Fargate task metadata" (read 2023-06).
            (None, true) if text("AWS_EXECUTION_ENV").as_deref() == Some("AWS_ECS_FARGATE") => None,
            (None, true) => Endpoint::from_environment(text)?,
        };
        // It only tells the task's name: nothing is worth stopping for.
        let task_metadata = lifeboat_imds::task::endpoint_from_environment(text).unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "the metadata of the ECS task are not asked");
            None
        });
        let is_pod = text("KUBERNETES_SERVICE_HOST").is_some();
        let dirs = Dirs::new(&state_dir, name.as_str());
        let instance_id = config.instance_id.clone();
        let config = Config {
            name: Some(name.to_string()),
            work_dir: Some(work_dir.clone()),
            store: Some(store.to_string()),
            ..config.clone()
        };
        Ok(Self {
            config,
            instance_id,
            settings,
            name,
            work_dir,
            store,
            state_dir,
            dirs,
            metadata,
            task_metadata,
            is_pod,
        })
    }

    /// Whether an agent of this user has protected the workload on this machine before.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.dirs.agent.join("lock").exists()
    }

    /// Keeps the configuration beside the lock, best effort, so that `lifeboat evacuate --name NAME` from
    /// anywhere on this machine evacuates what this run protects.
    pub fn keep_config(&self) {
        let kept = toml::to_string(&self.config).map_err(io::Error::other).and_then(|text| {
            write_atomically(
                &kept_config(&self.state_dir, self.name.as_str()),
                text.as_bytes(),
                Outlive::PowerCut,
            )
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "cannot keep the configuration for `lifeboat evacuate`");
        }
    }

    /// Opens the store and brings together what the stages need.
    ///
    /// # Errors
    /// [`RunError::Open`] when the store cannot be opened.
    pub(crate) fn site(&self, whereabouts: Whereabouts, ui: Ui) -> Result<Site, RunError> {
        let Whereabouts { instance, task } = whereabouts;
        let Ui { ring, progress, ports } = ui;
        let target = self.target(&instance, task.as_ref());
        let balancers = ports.balancers.as_ref().map(|make| make(&target)).unwrap_or_default();
        let meter = Arc::new(Meter::new(&self.name));
        let heralds = Heralds::new(ports.heralds.clone(), Arc::clone(&meter));
        let lifecycle = ports.lifecycle.clone();
        let store = open_store(&self.store)?;
        let signal_file =
            self.settings.signal_file.clone().unwrap_or_else(|| self.dirs.agent.join("shutdown.signal"));
        let mut own_paths = vec![self.state_dir.clone(), signal_file.clone()];
        own_paths.extend(self.store.directory().map(Path::to_owned));
        let own_paths: Vec<PathBuf> =
            own_paths.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
        let workload = Workload::new(store, self.name.clone());
        let options = SaveOptions {
            exclude: self.settings.exclude.clone(),
            exclude_paths: own_paths.clone(),
            priorities: self.settings.priorities.clone(),
            pace: self.settings.pace,
            layout: match self.settings.layout {
                LayoutChoice::Packed => Layout::Packed,
                LayoutChoice::Plain => Layout::Plain {
                    instance: instance.clone(),
                    // The workload's name and a slash stand before each key.
                    key_bytes_max: self.store.key_bytes_max().saturating_sub(self.name.as_str().len() + 1),
                },
            },
            ..SaveOptions::new(&self.work_dir)
        };
        let keep = usize::try_from(self.settings.keep).ok().and_then(NonZeroUsize::new);
        let log = UploadLog::at(&self.dirs.agent.join("uploads"));
        let rounds = Rounds::new(workload.clone(), options, log, keep.unwrap_or(NonZeroUsize::MIN));
        let app = App::new(&workload, &self.settings, &instance, &self.dirs.agent, ports);
        let hooks = Hooks::new(
            (self.settings.before_snapshot.clone(), self.settings.after_snapshot.clone()),
            self.work_dir.clone(),
            vec![
                ("LIFEBOAT_WORKLOAD", self.name.to_string().into()),
                ("LIFEBOAT_INSTANCE", instance.clone().into()),
                ("LIFEBOAT_WORK_DIR", self.work_dir.clone().into()),
            ],
        );
        Ok(Site {
            app,
            hooks,
            lifecycle,
            heralds,
            meter,
            balancers,
            foreign: Foreign::of(&self.settings.protect.what).map(Arc::new),
            task,
            settings: self.settings.clone(),
            workload,
            work_dir: self.work_dir.clone(),
            agent_dir: self.dirs.agent.clone(),
            own_paths,
            rounds: tokio::sync::Mutex::new(rounds),
            instance,
            signal_file,
            ring,
            progress,
        })
    }

    /// What a load balancer calls this machine: as configured, the address of the ECS task, or the instance's id.
    fn target(&self, instance: &str, task: Option<&Task>) -> String {
        let configured = self.settings.cloud.load_balancer.target.clone();
        let address = || task.and_then(|task| task.addresses.first().cloned());
        configured.or_else(address).unwrap_or_else(|| instance.to_owned())
    }

    /// Who this agent is towards the store. To be called under the agent's lock.
    ///
    /// # Errors
    /// [`RunError::Dirs`] when its identity can be neither read nor kept.
    pub fn claimant(&self, instance: &str) -> Result<Claimant, RunError> {
        let agent = agent_id(&self.dirs.agent)
            .map_err(|source| DirsError::Unusable { path: self.dirs.agent.clone(), source })?;
        Ok(Claimant {
            agent,
            holder: Holder { instance: instance.to_owned(), host: host_name(), pid: std::process::id() },
            lease: self.settings.lease.to_duration(),
        })
    }
}

/// A workload's name from its command: the file name without what a name may not contain.
fn name_of(command: &OsString) -> String {
    let file = Path::new(command).file_name().unwrap_or(command).to_string_lossy();
    file.chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect()
}

/// The host's name, for people.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_its_workload() {
        assert_eq!(name_of(&"/usr/bin/index.sh".into()), "index.sh");
        assert_eq!(name_of(&"./my job".into()), "my-job");
    }

    #[test]
    fn the_default_store_lies_in_the_state_directory() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let home = temp.path().as_os_str().to_owned();
        let config = Config { work_dir: Some(temp.path().join("new/work")), ..Config::default() };
        let variable = |name: &str| (name == "XDG_STATE_HOME").then(|| home.clone());
        let setup = Setup::new(&config, Some(&"job".into()), variable).expect("valid");
        assert!(setup.work_dir.is_dir(), "a replacement's work directory is created");
        assert_eq!(setup.store.directory(), Some(temp.path().join("lifeboat/store").as_path()));
        assert!(matches!(Setup::new(&config, None, variable), Err(RunError::Missing(_))));
        setup.dirs.create().expect("created");
        setup.keep_config();
        let kept = Config::read(&kept_config(&setup.state_dir, "job")).expect("kept");
        let again = Setup::new(&kept, None, variable).expect("valid");
        assert_eq!((again.work_dir, again.store.to_string()), (setup.work_dir, setup.store.to_string()));
    }
}

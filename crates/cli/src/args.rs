//! The command line: what can be asked for, and how it overrides the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use lifeboat_agent::config::{Config, Span};
use lifeboat_agent::signal::Signal;

/// Keeps work alive on AWS Spot capacity: notices the interruption, saves the work, resumes it elsewhere.
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Machine-readable output: results as JSON on standard output, logs as JSON lines on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more (-v: debug, -vv: trace). LIFEBOAT_LOG takes a filter, "lifeboat_imds=debug" for example.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say less: warnings and errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: `run` passes the command's own code through. Lifeboat's own are
   85  evacuated: everything is stored and can be taken up elsewhere
   86  evacuated, but something could not be saved (the summary names it)
   87  the work belongs to another machine or agent
   88  restoring was refused or failed; nothing of yours was overwritten
  125  lifeboat itself could not do what was asked, or did not understand the command line
  126  the command cannot be executed      127  there is no such command
  128+n  the command was ended by signal n";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a command under protection: restore its evacuated work, watch for notices, evacuate.
    Run(RunArgs),
    /// Protect what somebody else starts: a systemd unit, a daemon with a PID file, or a directory alone.
    Agent(AgentArgs),
    /// Evacuate now: through the running agent, or without one.
    Evacuate(EvacuateArgs),
    /// Ask the running agent how it stands; with a controller's configuration file, how its services stand.
    Status(StatusArgs),
    /// Move ECS services between Spot and On-Demand: the fleet's controller.
    Controller(crate::commands::controller::ControllerArgs),
    /// What the controller changed, and why.
    History(crate::commands::fleet::HistoryArgs),
    /// Have a service run everything on Spot or On-Demand for a while.
    Shift(crate::commands::fleet::ShiftArgs),
    /// Have the controller leave a service alone until it is resumed.
    Pause(crate::commands::fleet::ServiceArgs),
    /// Give a service back to its policy.
    Resume(crate::commands::fleet::ServiceArgs),
    /// List the workloads in the store.
    List(StoreArgs),
    /// Show one workload: its owner, its recovery points, its last interruption.
    Show(ShowArgs),
    /// Restore a workload's files into a directory.
    Restore(RestoreArgs),
    /// Read everything of a recovery point back and check it.
    Verify(PointArgs),
    /// Delete old recovery points and what only they need.
    Prune(PruneArgs),
    /// Check this machine, and say what is wrong and how to mend it; with --from, check how a fleet is set up.
    Doctor(DoctorArgs),
    /// Compare failover policies on a recorded trace or a scenario file.
    Simulate(Box<lifeboat_sim::cli::SimulateArgs>),
    /// Print what surrounds a controller, from its configuration.
    #[command(subcommand)]
    Render(crate::commands::render::RenderCommand),
    /// Work with the configuration file.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the least IAM policy that a configuration needs.
    Policy {
        /// The configuration file.
        file: PathBuf,
    },
    /// Watch all of it, for real, in a temporary folder, in under a minute.
    Demo(DemoArgs),
    /// Serve a simulated ECS fleet over AWS's wire protocols, on loopback, with a live page.
    Lab(Box<crate::commands::lab::LabArgs>),
    /// Serve a mock metadata service for rehearsals and tests.
    MockImds(Box<lifeboat_imds::mock::args::MockArgs>),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// The demo's worker: indexes text files.
    #[command(hide = true, name = "index-worker")]
    IndexWorker(IndexWorkerArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check a configuration file and print what is in force, defaults included.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// Which store.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Where the work is saved: a directory or s3://BUCKET/PREFIX (docs/stores.md). Default: under XDG_STATE_HOME.
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Configuration file (TOML). Flags override it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Which work, where, in which store.
#[derive(Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// The work's name: machines that use the same one in the same store carry on each other's work.
    /// Default: the command's file name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The directory that is saved and restored [default: the current one].
    #[arg(long, value_name = "DIR")]
    pub(crate) work_dir: Option<PathBuf>,
    /// This machine's name in the store [default: the instance id, else the host's name].
    #[arg(long, value_name = "ID")]
    pub(crate) instance_id: Option<String>,
    /// How long an evacuation may take that no notice of AWS set a time for
    /// [default: 30s from SIGTERM, 120s from `lifeboat evacuate`].
    #[arg(long, value_name = "TIME")]
    pub(crate) grace: Option<Span>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Judge what these files tell, and look at nothing else: JSON as `aws` prints it (ec2 describe-instances,
    /// describe-launch-template-versions, describe-spot-instance-requests, …; autoscaling
    /// describe-auto-scaling-groups; ecs describe-task-definition; elbv2 describe-target-group-attributes;
    /// service-quotas get-service-quota), a launch template's data, or a task definition.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) from: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Print it again every two seconds.
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvacuateArgs {
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Only finish an evacuation that was broken off or left something behind; begin none.
    #[arg(long)]
    pub(crate) resume: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// Sent to the command at the notice [default: SIGTERM].
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<Signal>,
    /// Paths below the work directory that are not saved; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// After the evacuation, delete from the work directory what is proven to be stored.
    #[arg(long)]
    pub(crate) clean_up: bool,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,
    /// The systemd unit that is stopped at the notice.
    #[arg(long, value_name = "UNIT", conflicts_with = "pid_file")]
    pub(crate) unit: Option<String>,
    /// The file with the id of the process that is stopped at the notice.
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The workload.
    pub(crate) name: String,
    /// List the files of the newest recovery point.
    #[arg(long)]
    pub(crate) files: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    /// The workload.
    pub(crate) name: String,
    /// The recovery point [default: the newest].
    #[arg(long)]
    pub(crate) generation: Option<u64>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) point: PointArgs,
    /// Where to: an empty directory, or one that holds the same files.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Only files that match; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Vec<String>,
    /// Do not claim the work: copy the files while another machine may own it.
    #[arg(long)]
    pub(crate) no_claim: bool,
    /// Print what would be restored.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// The workload; without one, every workload in the store.
    pub(crate) name: Option<String>,
    /// How many recovery points to keep.
    #[arg(long, default_value_t = 3)]
    pub(crate) keep: u32,
    /// Print what would be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    pub(crate) what: Option<DemoCommand>,
    /// Index the text files in this directory instead of those found on the machine.
    #[arg(long, value_name = "DIR")]
    pub(crate) input: Option<PathBuf>,
    /// How many files, at most.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    pub(crate) files: u32,
    /// How many worker threads; at most a third of the files, so that there is a middle to be interrupted in.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) workers: u32,
    /// Switch restoring off: the demo must then fail.
    #[arg(long)]
    pub(crate) no_restore: bool,
    /// Keep the temporary folder and print where it is.
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// A simulated fleet and a real controller: Spot fails over to On-Demand and back.
    Fleet(crate::demo::fleet::FleetDemoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct IndexWorkerArgs {
    /// A file that lists the input files, one a line.
    #[arg(long)]
    pub(crate) inputs: PathBuf,
    /// Appended to at the start and the end of each file; outside the work directory.
    #[arg(long)]
    pub(crate) ledger: PathBuf,
    /// Threads.
    #[arg(long)]
    pub(crate) workers: u32,
    /// Rest so long after each file, so that there is something to interrupt.
    #[arg(long, default_value = "0s")]
    pub(crate) pause: Span,
}

impl StoreArgs {
    /// The configuration file with these flags over it.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        override_with(&mut config.store, self.store.as_ref());
        Ok(config)
    }
}

impl WorkloadArgs {
    /// The configuration file with these flags over it; without one, that of the workload's last run on this
    /// machine, so that its name is enough.
    pub(crate) fn config_of_last_run(&self) -> anyhow::Result<Config> {
        let state = lifeboat_agent::dirs::state_dir(|name| std::env::var_os(name));
        // A name that is not allowed is refused later, and never becomes a path here.
        let name: Option<lifeboat_snapshot::WorkloadName> =
            self.name.as_ref().and_then(|name| name.parse().ok());
        let kept = name.map(|name| lifeboat_agent::setup::kept_config(&state, name.as_str()));
        match kept.filter(|path| self.store.config.is_none() && path.exists()) {
            Some(path) => {
                let mut config = Config::read(&path)?;
                override_with(&mut config.store, self.store.store.as_ref());
                Ok(self.over(config))
            }
            None => self.config(),
        }
    }

    /// The configuration file with these flags over it.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        Ok(self.over(self.store.config()?))
    }

    fn over(&self, mut config: Config) -> Config {
        override_with(&mut config.name, self.name.as_ref());
        override_with(&mut config.work_dir, self.work_dir.as_ref());
        override_with(&mut config.instance_id, self.instance_id.as_ref());
        override_with(&mut config.evacuation.grace, self.grace.as_ref());
        override_with(&mut config.evacuation.operator_grace, self.grace.as_ref());
        config
    }
}

impl RunArgs {
    /// The configuration file with these flags over it.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let mut config = self.workload.config()?;
        override_with(&mut config.command.stop_signal, self.stop_signal.as_ref());
        config.exclude.extend(self.exclude.iter().cloned());
        if self.clean_up {
            config.clean_up = Some(true);
        }
        Ok(config)
    }
}

impl AgentArgs {
    /// The configuration file with these flags over it.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let mut config = self.workload.config()?;
        if self.unit.is_some() || self.pid_file.is_some() {
            (config.protect.unit, config.protect.pid_file) = (self.unit.clone(), self.pid_file.clone());
        }
        Ok(config)
    }
}

fn override_with<T: Clone>(setting: &mut Option<T>, flag: Option<&T>) {
    if let Some(flag) = flag {
        *setting = Some(flag.clone());
    }
}

//! Where the agent runs: an instance, an ECS task, a pod; under which name the store knows it, and how much time its
//! platform gives between SIGTERM and SIGKILL.

use std::path::{Path, PathBuf};

use lifeboat_core::time::Millis;
use lifeboat_imds::identity::{Identity, identity};
use lifeboat_imds::task::{Task, task};
use lifeboat_imds::{Client, Endpoint, WallClock};
use serde::{Deserialize, Serialize};

use crate::clock::wall_now;
use crate::dirs::{Outlive, write_atomically};
use crate::hands::chain;
use crate::process::boot_id;
use crate::setup::{IDENTITY_WAIT, Setup};

/// The name of a task is worth waiting for: without it two tasks may have the same.
const TASK_WAIT: Millis = Millis::from_secs(3);

/// What platforms call the time between SIGTERM and SIGKILL. None of them tells a container how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Platform {
    Ecs,
    Kubernetes,
}

/// Where the agent runs.
#[derive(Clone, Debug)]
pub(crate) struct Whereabouts {
    /// This machine's, or task's, name in the store.
    pub(crate) instance: String,
    /// The ECS task.
    pub(crate) task: Option<Task>,
}

/// Asks the services that tell it, for seconds at most. As configured, as the task metadata say, as the instance
/// metadata say, or the host's name.
pub(crate) async fn whereabouts(setup: &Setup) -> Whereabouts {
    let task = match &setup.task_metadata {
        Some(endpoint) => ask_task(endpoint).await,
        None => None,
    };
    say_the_grace(setup, task.is_some());
    let of_task = task.as_ref().map(Task::id).filter(|id| !id.is_empty()).map(str::to_owned);
    let instance = match setup.instance_id.clone().or(of_task) {
        Some(instance) => instance,
        None => match ask_instance(setup.metadata.as_ref()).await {
            Some(instance) => {
                Remembered::keep(&setup.dirs.agent, &instance);
                instance
            }
            None => Remembered::of(&setup.dirs.agent).unwrap_or_else(crate::setup::host_name),
        },
    };
    Whereabouts { instance, task }
}

/// What the metadata service called this machine. An agent that is started again while the service does not answer is to
/// know its own claim and recovery points, which are under that name.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    /// A copy of this directory on another machine, or on this one under another id, is no memory of it.
    boot: String,
    instance: String,
}

impl Remembered {
    fn path(agent_dir: &Path) -> PathBuf {
        agent_dir.join("instance.json")
    }

    fn keep(agent_dir: &Path, instance: &str) {
        let Some(boot) = boot_id() else { return };
        let remembered = Self { boot, instance: instance.to_owned() };
        let text = serde_json::to_vec(&remembered).expect("texts are JSON");
        if let Err(error) = write_atomically(&Self::path(agent_dir), &text, Outlive::Process) {
            tracing::debug!(%error, "cannot keep this machine's name"); // a full disk must not stop a run
        }
    }

    fn of(agent_dir: &Path) -> Option<String> {
        let text = std::fs::read(Self::path(agent_dir)).ok()?;
        let remembered: Self = serde_json::from_slice(&text).ok()?;
        (boot_id()? == remembered.boot).then_some(remembered.instance)
    }
}

async fn ask_task(endpoint: &Endpoint) -> Option<Task> {
    match task(endpoint, TASK_WAIT).await {
        Ok(task) => {
            tracing::info!(
                task = task.arn,
                cluster = task.cluster,
                service = task.service,
                definition = task.definition,
                availability_zone = task.availability_zone,
                launch_type = task.launch_type,
                cpu = task.cpu,
                memory_mib = task.memory_mib,
                "this is an ECS task"
            );
            Some(task)
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "this is an ECS task, and which one is not known");
            None
        }
    }
}

async fn ask_instance(metadata: Option<&Endpoint>) -> Option<String> {
    let identity = match metadata {
        Some(endpoint) => {
            let mut client = Client::new(endpoint.clone(), WallClock::new(wall_now));
            identity(&mut client, IDENTITY_WAIT).await.unwrap_or_default()
        }
        None => Identity::default(),
    };
    if identity.instance_id.is_some() && !identity.is_spot() {
        tracing::info!(
            life_cycle = identity.life_cycle,
            "this is no Spot instance; it is protected all the same"
        );
    }
    identity.instance_id
}

/// In a container SIGTERM is the notice. How long the platform then waits is not to be asked for: where nobody has
/// configured it the platform's own default is taken, and it is said where both are to be raised.
fn say_the_grace(setup: &Setup, is_task: bool) {
    if setup.config.evacuation.grace.is_some() {
        return;
    }
    let platform = match (is_task || setup.task_metadata.is_some(), setup.is_pod) {
        (true, _) => Platform::Ecs,
        (false, true) => Platform::Kubernetes,
        (false, false) => return,
    };
    let grace = setup.settings.grace;
    tracing::warn!(%grace, "`evacuation.grace` is not set: {}", where_grace_is_set(platform, grace));
}

fn where_grace_is_set(platform: Platform, grace: Millis) -> String {
    match platform {
        // Source: ECS developer guide, "Task definition parameters", `stopTimeout` (read 2023-06): 30 s by default, at
        // most 120 s on Fargate.
        Platform::Ecs => format!(
            "{grace} is taken, the default of `stopTimeout` in the task definition; set that to 120, and `evacuation.grace` to \"120s\""
        ),
        // Source: Kubernetes documentation, "Pod Lifecycle", termination of pods: 30 s by default.
        Platform::Kubernetes => format!(
            "{grace} is taken, the default of `terminationGracePeriodSeconds` in the pod's spec; set both to the same"
        ),
    }
}

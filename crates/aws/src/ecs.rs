//! ECS: services and tasks as AWS shows them, and the one thing that is changed, a service's desired count.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ecs::types::{self as sdk, ServiceField};
use aws_smithy_types::DateTime;
use tokio::time::Instant;

use crate::client::call;
use crate::{Aws, AwsError, Operation};

/// Source: ECS API reference, `DescribeServices` (read 2023): ten services a call.
pub const SERVICES_BATCH: usize = 10;

/// Source: ECS API reference, `DescribeTasks` (read 2023): a hundred tasks a call; `ListTasks` pages of as many.
pub const TASKS_BATCH: usize = 100;

/// Pages of one listing: half a million tasks. One that goes on beyond is an error: half a list looks like a fleet that
/// has lost half of its tasks.
const PAGES_MAX: usize = 5_000;

/// ECS, as one account sees it.
#[derive(Clone, Debug)]
pub struct Ecs(Aws);

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// `ACTIVE`, `DRAINING`, `INACTIVE`.
    pub status: String,
    /// Wanted tasks.
    pub desired: u32,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that are not there yet.
    pub pending: u32,
    /// `EC2`, `FARGATE`, `EXTERNAL`, where it names one.
    pub launch_type: Option<String>,
    /// Its capacity providers, in its order.
    pub capacity_providers: Vec<CapacityProvider>,
    /// Its task definition's ARN.
    pub task_definition: Option<String>,
    /// Its deployments, the newest first.
    pub deployments: Vec<Deployment>,
    /// Target groups that its tasks are in.
    pub target_groups: Vec<String>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// One part of a capacity provider strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapacityProvider {
    /// `FARGATE`, `FARGATE_SPOT`, or another's name.
    pub name: String,
    /// Its share.
    pub weight: i32,
    /// So many tasks go there first.
    pub base: i32,
}

/// A deployment of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// `PRIMARY`, `ACTIVE`, `INACTIVE`.
    pub status: String,
    /// `COMPLETED`, `FAILED`, `IN_PROGRESS`.
    pub rollout: Option<String>,
    /// Wanted tasks.
    pub desired: u32,
    /// Tasks that run.
    pub running: u32,
    /// Tasks that are not there yet.
    pub pending: u32,
    /// Tasks that failed to start, one after the other.
    pub failed: u32,
}

/// A task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Its ARN.
    pub arn: String,
    /// `service:NAME` for a service's task.
    pub group: Option<String>,
    /// How it stands.
    pub last_status: String,
    /// How it is to stand; `STOPPED` while it runs is a task that is about to end.
    pub desired_status: String,
    /// `FARGATE_SPOT` and its like.
    pub capacity_provider: Option<String>,
    /// `SpotInterruption`, `TerminationNotice`, `TaskFailedToStart`, …
    pub stop_code: Option<String>,
    /// In words.
    pub stopped_reason: Option<String>,
    /// `HEALTHY`, `UNHEALTHY`, `UNKNOWN`.
    pub health: Option<String>,
    /// Rises with each change.
    pub version: i64,
    /// In ms since 1970.
    pub created_ms: Option<i64>,
    /// In ms since 1970.
    pub started_ms: Option<i64>,
    /// When its stopping began, in ms since 1970.
    pub stopping_ms: Option<i64>,
    /// In ms since 1970.
    pub stopped_ms: Option<i64>,
    /// Where it runs.
    pub zone: Option<String>,
    /// Its task definition's ARN.
    pub task_definition: Option<String>,
    /// Which deployment started it.
    pub started_by: Option<String>,
}

/// What was asked for and could not be described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Its ARN or name.
    pub arn: String,
    /// `MISSING` and its like.
    pub reason: String,
}

/// What was described, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described<T> {
    /// In no particular order.
    pub found: Vec<T>,
    /// The rest.
    pub failures: Vec<Failure>,
}

/// Which tasks to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// That are to run.
    Running,
    /// That are to stop: those about to end, and those that ended within the last hour.
    Stopped,
}

fn endless(operation: Operation, resource: &str) -> AwsError {
    let message = format!("the list has more than {PAGES_MAX} pages");
    AwsError { message, ..AwsError::new(operation, resource, crate::Kind::Invalid) }
}

impl Aws {
    /// ECS.
    #[must_use]
    pub fn ecs(&self) -> Ecs {
        Ecs(self.clone())
    }
}

impl Ecs {
    /// ARNs of all services of a cluster.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when there is no such cluster; [`AwsError`].
    pub async fn list_services(&self, cluster: &str, within: Duration) -> Result<Vec<String>, AwsError> {
        let until = Instant::now() + within;
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let answer = async {
                let request = self.0.ecs_client().await.list_services().cluster(cluster);
                request.max_results(100).set_next_token(next.take()).send().await
            };
            let page = call(Operation::ListServices, cluster, left(until), answer).await?;
            all.extend(page.service_arns.unwrap_or_default());
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(all);
            }
        }
        Err(endless(Operation::ListServices, cluster))
    }

    /// ARNs of the tasks of a service, or of the whole cluster.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when there is no such cluster or service; [`AwsError`].
    pub async fn list_tasks(
        &self,
        cluster: &str,
        service: Option<&str>,
        wanted: Wanted,
        within: Duration,
    ) -> Result<Vec<String>, AwsError> {
        let until = Instant::now() + within;
        let mut all = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let answer = async {
                let request = self.0.ecs_client().await.list_tasks().cluster(cluster);
                let request = request.set_service_name(service.map(str::to_owned));
                let status = match wanted {
                    Wanted::Running => sdk::DesiredStatus::Running,
                    Wanted::Stopped => sdk::DesiredStatus::Stopped,
                };
                request.desired_status(status).max_results(100).set_next_token(next.take()).send().await
            };
            let page = call(Operation::ListTasks, service.unwrap_or(cluster), left(until), answer).await?;
            all.extend(page.task_arns.unwrap_or_default());
            next = page.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(all);
            }
        }
        Err(endless(Operation::ListTasks, service.unwrap_or(cluster)))
    }

    /// Services by name or ARN, ten a call; the first call that fails ends it.
    ///
    /// # Errors
    /// [`AwsError`]; a service that does not exist is among the failures instead.
    pub async fn describe_services(
        &self,
        cluster: &str,
        services: &[String],
        within: Duration,
    ) -> Result<Described<Service>, AwsError> {
        let until = Instant::now() + within;
        let mut all = Described::default();
        for batch in services.chunks(SERVICES_BATCH) {
            let answer = async {
                let request = self.0.ecs_client().await.describe_services().cluster(cluster);
                request.set_services(Some(batch.to_vec())).include(ServiceField::Tags).send().await
            };
            let answer = call(Operation::DescribeServices, cluster, left(until), answer).await?;
            all.found.extend(answer.services.unwrap_or_default().into_iter().map(service));
            all.failures.extend(answer.failures.unwrap_or_default().into_iter().map(failure));
        }
        Ok(all)
    }

    /// Tasks by ARN, a hundred a call; the first call that fails ends it.
    ///
    /// # Errors
    /// [`AwsError`]; a task that does not exist is among the failures instead.
    pub async fn describe_tasks(
        &self,
        cluster: &str,
        tasks: &[String],
        within: Duration,
    ) -> Result<Described<Task>, AwsError> {
        let until = Instant::now() + within;
        let mut all = Described::default();
        for batch in tasks.chunks(TASKS_BATCH) {
            let answer = async {
                let request = self.0.ecs_client().await.describe_tasks().cluster(cluster);
                request.set_tasks(Some(batch.to_vec())).send().await
            };
            let answer = call(Operation::DescribeTasks, cluster, left(until), answer).await?;
            all.found.extend(answer.tasks.unwrap_or_default().into_iter().map(task));
            all.failures.extend(answer.failures.unwrap_or_default().into_iter().map(failure));
        }
        Ok(all)
    }

    /// Sets how many tasks a service is to have; returns the service as it is then.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when it does not exist or is not active; [`AwsError`].
    pub async fn set_desired(
        &self,
        cluster: &str,
        name: &str,
        desired: u32,
        within: Duration,
    ) -> Result<Service, AwsError> {
        let operation = Operation::UpdateService;
        let answer = async {
            let count = i32::try_from(desired).unwrap_or(i32::MAX);
            let request = self.0.ecs_client().await.update_service().cluster(cluster).service(name);
            request.desired_count(count).send().await
        };
        let answer = call(operation, name, within, answer).await?;
        Ok(answer.service.map(service).unwrap_or_default())
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn count(count: i32) -> u32 {
    u32::try_from(count).unwrap_or(0)
}

fn ms(time: Option<DateTime>) -> Option<i64> {
    time.and_then(|time| time.to_millis().ok())
}

fn service(from: sdk::Service) -> Service {
    let provider = |item: sdk::CapacityProviderStrategyItem| CapacityProvider {
        name: item.capacity_provider,
        weight: item.weight,
        base: item.base,
    };
    let balancers = from.load_balancers.unwrap_or_default().into_iter();
    let tags = from.tags.unwrap_or_default().into_iter();
    Service {
        arn: from.service_arn.unwrap_or_default(),
        name: from.service_name.unwrap_or_default(),
        status: from.status.unwrap_or_default(),
        desired: count(from.desired_count),
        running: count(from.running_count),
        pending: count(from.pending_count),
        launch_type: from.launch_type.map(|kind| kind.as_str().to_owned()),
        capacity_providers: from
            .capacity_provider_strategy
            .unwrap_or_default()
            .into_iter()
            .map(provider)
            .collect(),
        task_definition: from.task_definition,
        deployments: from.deployments.unwrap_or_default().into_iter().map(deployment).collect(),
        target_groups: balancers.filter_map(|balancer| balancer.target_group_arn).collect(),
        tags: tags.filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect(),
    }
}

fn deployment(from: sdk::Deployment) -> Deployment {
    Deployment {
        id: from.id.unwrap_or_default(),
        status: from.status.unwrap_or_default(),
        rollout: from.rollout_state.map(|state| state.as_str().to_owned()),
        desired: count(from.desired_count),
        running: count(from.running_count),
        pending: count(from.pending_count),
        failed: count(from.failed_tasks),
    }
}

fn task(from: sdk::Task) -> Task {
    Task {
        arn: from.task_arn.unwrap_or_default(),
        group: from.group,
        last_status: from.last_status.unwrap_or_default(),
        desired_status: from.desired_status.unwrap_or_default(),
        capacity_provider: from.capacity_provider_name,
        stop_code: from.stop_code.map(|code| code.as_str().to_owned()),
        stopped_reason: from.stopped_reason,
        health: from.health_status.map(|health| health.as_str().to_owned()),
        version: from.version,
        created_ms: ms(from.created_at),
        started_ms: ms(from.started_at),
        stopping_ms: ms(from.stopping_at),
        stopped_ms: ms(from.stopped_at),
        zone: from.availability_zone,
        task_definition: from.task_definition_arn,
        started_by: from.started_by,
    }
}

fn failure(from: sdk::Failure) -> Failure {
    Failure { arn: from.arn.unwrap_or_default(), reason: from.reason.unwrap_or_default() }
}

//! The ports over AWS. The one file that knows both sides; it decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_aws::cloudwatch::{CloudWatch, Metric, Unit};
use lifeboat_aws::sns::Sns;
use lifeboat_aws::sqs::{Outgoing, Receive, Sqs, WAIT_MAX};
use lifeboat_aws::ssm::{Command, Ssm};
use lifeboat_aws::{Aws, AwsError, Kind, ecs};
use lifeboat_core::time::Timestamp;

use crate::port::{Alerts, CallError, Commands, Datum, Ecs, Inbox, Message, Metrics, ServiceView, TaskView};

/// One call; whoever asks has a time of its own as well.
const CALL_MAX: Duration = Duration::from_secs(9);

/// A list of many pages. 200,000 tasks are 2,000 of them.
const LIST_MAX: Duration = Duration::from_secs(60);

/// Receives wait for messages, the receiver's own limit is longer.
const RECEIVE_MAX: Duration = Duration::from_secs(5);

/// An SSM agent that does not take the command up in this time comes too late: a notice is two minutes.
const COMMAND_EXPIRES: Duration = Duration::from_secs(120);

fn failed(error: AwsError) -> CallError {
    let text = error.to_string();
    match error.kind {
        Kind::Throttled => CallError::Throttled(text),
        Kind::NotFound => CallError::NotFound(text),
        Kind::Unavailable | Kind::TimedOut { .. } | Kind::Conflict => CallError::Unavailable(text),
        Kind::Denied { .. }
        | Kind::Expired
        | Kind::NoCredentials
        | Kind::StaleReceipt
        | Kind::TooLarge { .. }
        | Kind::Invalid => CallError::Refused(text),
    }
}

/// An SQS queue.
#[derive(Clone, Debug)]
pub struct Queue {
    sqs: Sqs,
    url: String,
    dead_letters: Option<String>,
    visibility: Duration,
}

impl Queue {
    /// The queue of `url`; `visibility` as the queue counts it.
    #[must_use]
    pub fn new(aws: &Aws, url: &str, dead_letters: Option<&str>, visibility: Duration) -> Self {
        Self {
            sqs: aws.sqs(),
            url: url.to_owned(),
            dead_letters: dead_letters.map(str::to_owned),
            visibility,
        }
    }
}

#[async_trait]
impl Inbox for Queue {
    async fn receive(&self) -> Result<Vec<Message>, CallError> {
        let how = Receive { max: 10, wait: WAIT_MAX, visibility: Some(self.visibility) };
        let messages = self.sqs.receive(&self.url, how, RECEIVE_MAX).await.map_err(failed)?;
        let message = |message: lifeboat_aws::sqs::Message| Message {
            handle: message.receipt,
            body: message.body,
            receives: message.received,
        };
        Ok(messages.into_iter().map(message).collect())
    }

    async fn delete(&self, handles: &[String]) -> Result<usize, CallError> {
        let results = self.sqs.delete(&self.url, handles, CALL_MAX).await;
        all_or_some(results)
    }

    async fn extend(&self, handles: &[String], visibility: Duration) -> Result<(), CallError> {
        let entries: Vec<(String, Duration)> =
            handles.iter().map(|handle| (handle.clone(), visibility)).collect();
        let results = self.sqs.change_visibility(&self.url, &entries, CALL_MAX).await;
        all_or_some(results).map(drop)
    }

    async fn bury(&self, body: &str, _why: &str) -> Result<bool, CallError> {
        let Some(dead_letters) = &self.dead_letters else { return Ok(false) };
        let message = Outgoing { body: body.to_owned(), ..Outgoing::default() };
        let results = self.sqs.send(dead_letters, &[message], CALL_MAX).await;
        match all_or_some(results)? {
            0 => Ok(true),
            _ => Err(CallError::Unavailable("the dead-letter queue took nothing".to_owned())),
        }
    }
}

/// How many of them failed; an error where all did.
fn all_or_some(results: Vec<Result<(), AwsError>>) -> Result<usize, CallError> {
    let count = results.len();
    let errors: Vec<AwsError> = results.into_iter().filter_map(Result::err).collect();
    match errors.len() {
        failures if failures == count && count > 0 => {
            Err(errors.into_iter().next().map_or_else(|| CallError::Unavailable(String::new()), failed))
        }
        failures => Ok(failures),
    }
}

/// ECS.
#[derive(Clone, Debug)]
pub struct EcsCalls(ecs::Ecs);

impl EcsCalls {
    /// ECS of this account and region.
    #[must_use]
    pub fn new(aws: &Aws) -> Self {
        Self(aws.ecs())
    }
}

#[async_trait]
impl Ecs for EcsCalls {
    async fn services(&self, cluster: &str) -> Result<Vec<String>, CallError> {
        let arns = self.0.list_services(cluster, CALL_MAX).await.map_err(failed)?;
        Ok(arns.into_iter().filter_map(|arn| arn.rsplit('/').next().map(str::to_owned)).collect())
    }

    async fn describe_services(
        &self,
        cluster: &str,
        names: &[String],
    ) -> Result<Vec<ServiceView>, CallError> {
        let described = self.0.describe_services(cluster, names, CALL_MAX).await.map_err(failed)?;
        Ok(described.found.into_iter().map(service).collect())
    }

    async fn tasks(&self, cluster: &str, service: Option<&str>) -> Result<Vec<String>, CallError> {
        // A task that was warned is meant to stop and not among them: it counts as missing, which it soon is.
        self.0.list_tasks(cluster, service, ecs::Wanted::Running, LIST_MAX).await.map_err(failed)
    }

    async fn describe_tasks(&self, cluster: &str, arns: &[String]) -> Result<Vec<TaskView>, CallError> {
        let described = self.0.describe_tasks(cluster, arns, CALL_MAX).await.map_err(failed)?;
        let task = |task: ecs::Task| TaskView {
            arn: task.arn,
            group: task.group.unwrap_or_default(),
            created_at: task.created_ms.map(Timestamp),
            last_status: task.last_status,
            desired_status: task.desired_status,
        };
        Ok(described.found.into_iter().map(task).collect())
    }

    async fn set_desired(&self, cluster: &str, service: &str, count: u32) -> Result<(), CallError> {
        self.0.set_desired(cluster, service, count, CALL_MAX).await.map(drop).map_err(failed)
    }
}

fn service(from: ecs::Service) -> ServiceView {
    ServiceView {
        is_active: from.status == "ACTIVE",
        // ECS calls a rollout IN_PROGRESS, too, while a changed count is being reached: with one deployment all tasks
        // are of one version and none is replaced.
        is_deploying: from.deployments.len() > 1,
        name: from.name,
        desired: from.desired,
        tags: from.tags.into_iter().collect(),
    }
}

/// An SNS topic.
#[derive(Clone, Debug)]
pub struct Topic {
    sns: Sns,
    arn: String,
}

impl Topic {
    /// The topic of `arn`.
    #[must_use]
    pub fn new(aws: &Aws, arn: &str) -> Self {
        Self { sns: aws.sns(), arn: arn.to_owned() }
    }
}

#[async_trait]
impl Alerts for Topic {
    fn name(&self) -> &str {
        &self.arn
    }

    async fn send(&self, subject: &str, text: &str) -> Result<(), CallError> {
        self.sns.publish(&self.arn, subject, text, CALL_MAX).await.map(drop).map_err(failed)
    }
}

/// A CloudWatch namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    cloudwatch: CloudWatch,
    name: String,
}

impl Namespace {
    /// The namespace called `name`.
    #[must_use]
    pub fn new(aws: &Aws, name: &str) -> Self {
        Self { cloudwatch: aws.cloudwatch(), name: name.to_owned() }
    }
}

#[async_trait]
impl Metrics for Namespace {
    async fn publish(&self, data: &[Datum]) -> Result<(), CallError> {
        let metric = |datum: &Datum| Metric {
            name: datum.metric.to_owned(),
            dimensions: vec![("Service".to_owned(), datum.service.clone())],
            unit: if datum.unit == "Count" { Unit::Count } else { Unit::None },
            value: datum.value,
            at_ms: None,
        };
        let metrics: Vec<Metric> = data.iter().map(metric).collect();
        self.cloudwatch.put(&self.name, &metrics, CALL_MAX).await.map_err(failed)
    }
}

/// SSM Run Command.
#[derive(Clone, Debug)]
pub struct RunCommand(Ssm);

impl RunCommand {
    /// Systems Manager of this account and region.
    #[must_use]
    pub fn new(aws: &Aws) -> Self {
        Self(aws.ssm())
    }
}

#[async_trait]
impl Commands for RunCommand {
    async fn run(&self, instances: &[String], command: &str) -> Result<(), CallError> {
        let command = Command {
            document: "AWS-RunShellScript".to_owned(),
            parameters: BTreeMap::from([("commands".to_owned(), vec![command.to_owned()])]),
            comment: "Lifeboat: this instance will be interrupted".to_owned(),
            expires: COMMAND_EXPIRES,
        };
        self.0.send_command(instances, &command, CALL_MAX).await.map(drop).map_err(failed)
    }
}

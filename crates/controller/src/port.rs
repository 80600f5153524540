//! What the controller needs of the world, in plain types: a queue, ECS, topics, metrics, commands. The store is in
//! [`crate::store`]. `aws` holds the real ones; tests bring their own.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_core::time::Timestamp;

/// Why a call did not do what it should, by what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Fewer calls, later.
    #[error("throttled: {0}")]
    Throttled(String),
    /// No answer, or one that is not the caller's fault: later. Whether it was done is not known.
    #[error("not available: {0}")]
    Unavailable(String),
    /// What it is about does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// A person must mend permissions, credentials or the request.
    #[error("refused: {0}")]
    Refused(String),
}

/// One message of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// For deleting and hiding it; another one at each receipt.
    pub handle: String,
    /// What it says.
    pub body: String,
    /// How often it was received, this time included.
    pub receives: u32,
}

/// The queue of events.
#[async_trait]
pub trait Inbox: Send + Sync + Debug {
    /// Waits for messages, at most as long as the queue lets it, and hides up to ten of them.
    async fn receive(&self) -> Result<Vec<Message>, CallError>;

    /// Deletes messages, at most ten; returns how many were not deleted.
    async fn delete(&self, handles: &[String]) -> Result<usize, CallError>;

    /// Hides messages, at most ten, for this long from now on.
    async fn extend(&self, handles: &[String], visibility: Duration) -> Result<(), CallError>;

    /// Puts a body into the dead-letter queue. False where none is known: the message then stays, and the queue's own
    /// redrive policy moves it.
    async fn bury(&self, body: &str, why: &str) -> Result<bool, CallError>;
}

/// An ECS service as DescribeServices shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// ACTIVE; not DRAINING or INACTIVE.
    pub is_active: bool,
    /// Its desired count.
    pub desired: u32,
    /// A deployment is in progress.
    pub is_deploying: bool,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

/// A task as DescribeTasks shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Its ARN.
    pub arn: String,
    /// `service:NAME` for a service's task.
    pub group: String,
    /// When ECS created it.
    pub created_at: Option<Timestamp>,
    /// `lastStatus`.
    pub last_status: String,
    /// `desiredStatus`.
    pub desired_status: String,
}

/// The ECS calls.
#[async_trait]
pub trait Ecs: Send + Sync + Debug {
    /// The names of all services of a cluster.
    async fn services(&self, cluster: &str) -> Result<Vec<String>, CallError>;

    /// Up to ten services; those that do not exist are left out.
    async fn describe_services(&self, cluster: &str, names: &[String])
    -> Result<Vec<ServiceView>, CallError>;

    /// The ARNs of all tasks that are meant to run, of one service or of the whole cluster.
    async fn tasks(&self, cluster: &str, service: Option<&str>) -> Result<Vec<String>, CallError>;

    /// Up to a hundred tasks; those that do not exist are left out.
    async fn describe_tasks(&self, cluster: &str, arns: &[String]) -> Result<Vec<TaskView>, CallError>;

    /// Sets a service's desired count.
    async fn set_desired(&self, cluster: &str, service: &str, count: u32) -> Result<(), CallError>;
}

/// A topic that people listen to.
#[async_trait]
pub trait Alerts: Send + Sync + Debug {
    /// Its name, for the log; no secret.
    fn name(&self) -> &str;

    /// Sends one alert.
    async fn send(&self, subject: &str, text: &str) -> Result<(), CallError>;
}

/// One value of a metric with the dimension `Service`.
#[derive(Clone, Debug, PartialEq)]
pub struct Datum {
    /// The metric.
    pub metric: &'static str,
    /// The pair's name.
    pub service: String,
    /// The value.
    pub value: f64,
    /// CloudWatch's unit.
    pub unit: &'static str,
}

/// Where metrics go.
#[async_trait]
pub trait Metrics: Send + Sync + Debug {
    /// Publishes values, any number of them.
    async fn publish(&self, data: &[Datum]) -> Result<(), CallError>;
}

/// Commands on machines (SSM Run Command).
#[async_trait]
pub trait Commands: Send + Sync + Debug {
    /// Runs a shell command on instances, at most 50. That SSM does not manage one is [`CallError::NotFound`] or
    /// [`CallError::Refused`].
    async fn run(&self, instances: &[String], command: &str) -> Result<(), CallError>;
}

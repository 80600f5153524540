//! AWS behind the agent's ports: SQS, DynamoDB, the Auto Scaling hook. Converts types and errors, decides nothing.

use std::time::Duration;

use async_trait::async_trait;
use lifeboat_agent::ports::{Balancer, Lifecycle, PortError, Queues, SavedState, StateTable};
use lifeboat_aws::autoscaling::{ActionOf, AutoScaling, Lifecycle as Waiting, LifecycleAction, Outcome};
use lifeboat_aws::dynamodb::DynamoDb;
use lifeboat_aws::elb::{Elb, Target};
use lifeboat_aws::sqs::Sqs;
use lifeboat_aws::states::State;
use lifeboat_aws::{AwsError, Kind};
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// What the caller can do, with AWS's own words.
pub(super) fn port_error(error: &AwsError) -> PortError {
    let text = error.to_string();
    match &error.kind {
        Kind::Throttled => PortError::Throttled(text),
        Kind::Denied { .. } | Kind::Expired | Kind::NoCredentials => PortError::Denied(text),
        Kind::NotFound | Kind::StaleReceipt => PortError::NotFound(text),
        Kind::Conflict => PortError::Conflict(text),
        Kind::Unavailable | Kind::TimedOut { .. } => PortError::Unavailable(text),
        Kind::TooLarge { .. } | Kind::Invalid => PortError::Refused(text),
    }
}

/// Queues whose URL is one of the web.
#[derive(Debug)]
pub(super) struct SqsQueues(pub(super) Sqs);

#[async_trait]
impl Queues for SqsQueues {
    fn knows(&self, queue: &str) -> bool {
        queue.starts_with("https://") || queue.starts_with("http://")
    }

    async fn change_visibility(
        &self,
        queue: &str,
        receipts: &[String],
        visibility: Duration,
        within: Duration,
    ) -> Vec<Result<(), PortError>> {
        let results = self.0.give_back(queue, receipts, visibility, within).await;
        results.into_iter().map(|result| result.map_err(|error| port_error(&error))).collect()
    }
}

/// A table of states.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) aws: DynamoDb,
    pub(super) name: String,
}

#[async_trait]
impl StateTable for Table {
    fn url(&self) -> String {
        format!("dynamodb://{}", self.name)
    }

    async fn put(&self, state: &SavedState, within: Duration) -> Result<(), PortError> {
        let state = State {
            workload: state.workload.clone(),
            instance: state.instance.clone(),
            at_ms: state.at_unix_ms,
            claim: state.claim,
            text: state.state.clone(),
            stored: state.stored.clone(),
        };
        self.aws.put_state(&self.name, &state, within).await.map_err(|error| port_error(&error))
    }

    async fn newest(&self, workload: &str, within: Duration) -> Result<Option<SavedState>, PortError> {
        let found = self.aws.newest_state(&self.name, workload, within).await;
        let found = found.map_err(|error| port_error(&error))?;
        Ok(found.map(|state| SavedState {
            workload: state.workload,
            instance: state.instance,
            at_unix_ms: state.at_ms,
            claim: state.claim,
            state: state.text,
            stored: state.stored,
        }))
    }
}

/// The lifecycle hook of the group that this machine is in.
#[derive(Debug)]
pub(super) struct Hook {
    aws: AutoScaling,
    /// As configured, or as found out at the first call.
    group: OnceCell<String>,
    hook: String,
    token: Option<String>,
}

impl Hook {
    pub(super) fn new(aws: AutoScaling, group: Option<String>, hook: String, token: Option<String>) -> Self {
        Self { aws, group: OnceCell::new_with(group), hook, token }
    }

    async fn action(&self, instance: &str, within: Duration) -> Result<LifecycleAction, PortError> {
        let ask = || async {
            let found = self.aws.instance(instance, within).await.map_err(|error| port_error(&error))?;
            let group = found.and_then(|instance| instance.group);
            group.ok_or_else(|| PortError::NotFound(format!("{instance} is in no Auto Scaling group")))
        };
        let of = match &self.token {
            Some(token) => ActionOf::Token(token.clone()),
            None => ActionOf::Instance(instance.to_owned()),
        };
        let group = self.group.get_or_try_init(ask).await?.clone();
        Ok(LifecycleAction { group, hook: self.hook.clone(), of })
    }
}

#[async_trait]
impl Lifecycle for Hook {
    async fn complete(&self, instance: &str, within: Duration) -> Result<bool, PortError> {
        let until = Instant::now() + within;
        let action = self.action(instance, within).await?;
        let left = until.saturating_duration_since(Instant::now());
        let waiting = self.aws.complete(&action, Outcome::Continue, left).await;
        Ok(waiting.map_err(|error| port_error(&error))? == Waiting::Done)
    }

    async fn heartbeat(&self, instance: &str, within: Duration) -> Result<bool, PortError> {
        let until = Instant::now() + within;
        let action = self.action(instance, within).await?;
        let left = until.saturating_duration_since(Instant::now());
        let waiting = self.aws.heartbeat(&action, left).await;
        Ok(waiting.map_err(|error| port_error(&error))? == Waiting::Done)
    }
}

/// A target group, and this machine as it is called there.
#[derive(Debug)]
pub(super) struct TargetGroup {
    elb: Elb,
    arn: String,
    /// An instance's id or an address.
    target: String,
    /// With their ports, as they were found in the group.
    found: OnceCell<Vec<Target>>,
}

impl TargetGroup {
    pub(super) fn new(elb: Elb, arn: String, target: String) -> Self {
        Self { elb, arn, target, found: OnceCell::new() }
    }

    /// This machine is in the group under the ports on which it listens; without them AWS takes the group's own port
    /// and answers that it is done also where the target has another one.
    async fn find(&self, within: Duration) -> Result<Vec<Target>, PortError> {
        let all = self.elb.health(&self.arn, &[], within).await.map_err(|error| port_error(&error))?;
        Ok(all.into_iter().map(|health| health.target).filter(|target| target.id == self.target).collect())
    }
}

#[async_trait]
impl Balancer for TargetGroup {
    fn name(&self) -> String {
        // arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID
        self.arn.split('/').nth(1).unwrap_or(&self.arn).to_owned()
    }

    async fn leave(&self, within: Duration) -> Result<bool, PortError> {
        let until = Instant::now() + within;
        // Half of the time, so that a look that hangs leaves some for the deed.
        let targets = match self.found.get_or_try_init(|| self.find(within / 2)).await {
            Ok(targets) if targets.is_empty() => return Ok(false),
            Ok(targets) => targets.clone(),
            // Without the look, by the group's own port.
            Err(_) => vec![Target { id: self.target.clone(), port: None }],
        };
        let left = until.saturating_duration_since(Instant::now());
        self.elb.deregister(&self.arn, &targets, left).await.map_err(|error| port_error(&error))?;
        Ok(true)
    }

    async fn is_drained(&self, within: Duration) -> Result<bool, PortError> {
        let unknown = vec![Target { id: self.target.clone(), port: None }];
        let targets = self.found.get().unwrap_or(&unknown);
        let health = self.elb.health(&self.arn, targets, within).await.map_err(|error| port_error(&error))?;
        // Source: Elastic Load Balancing API reference, `TargetHealth` (read 2023): one that is deregistered is `unused`,
        // with the reason `Target.NotRegistered`; until that is known everywhere it may be called healthy.
        Ok(health.iter().all(|one| one.state == "unused"))
    }
}

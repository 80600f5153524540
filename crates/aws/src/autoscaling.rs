//! EC2 Auto Scaling: lifecycle actions, and what a group says of itself and its instances.

use std::time::Duration;

use crate::client::call;
use crate::{Aws, AwsError, Kind, Operation};

/// Auto Scaling, as one account sees it.
#[derive(Clone, Debug)]
pub struct AutoScaling(Aws);

/// Which lifecycle action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleAction {
    /// The group's name.
    pub group: String,
    /// The hook's name.
    pub hook: String,
    /// The instance, or the token of the event.
    pub of: ActionOf,
}

/// How a lifecycle action is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionOf {
    /// By the instance that waits.
    Instance(String),
    /// By the token that the event carries.
    Token(String),
}

/// What the group does next with an instance that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on. A terminating instance is terminated either way.
    Continue,
    /// Leave the remaining hooks out.
    Abandon,
}

/// What came of a call about a lifecycle action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It was done.
    Done,
    /// No such action is waiting: the usual case at a plain Spot notice, and after the hook's time is over.
    NotActive,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Whether it replaces instances at a rebalance recommendation.
    pub has_capacity_rebalancing: bool,
    /// Wanted instances.
    pub desired: i32,
    /// Its instances.
    pub instances: Vec<Instance>,
    /// The launch template's id or name, or the launch configuration's name.
    pub launch: Option<String>,
    /// Maximum Spot price, where one is set.
    pub spot_max_price: Option<String>,
    /// ARNs of the target groups that it registers instances with.
    pub target_groups: Vec<String>,
}

/// An instance of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// The group, where the answer names it.
    pub group: Option<String>,
    /// `InService`, `Terminating:Wait`, … as AWS writes it.
    pub state: String,
    /// `Healthy` or `Unhealthy`.
    pub health: String,
}

/// A lifecycle hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// `autoscaling:EC2_INSTANCE_TERMINATING` or `…_LAUNCHING`.
    pub transition: String,
    /// How long an instance waits without a heartbeat.
    pub heartbeat: Option<Duration>,
    /// How long it waits with heartbeats, at most.
    pub global: Option<Duration>,
    /// What happens when the time is over.
    pub default_result: Option<String>,
}

impl Hook {
    /// Whether it holds instances that are about to end.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.transition == "autoscaling:EC2_INSTANCE_TERMINATING"
    }
}

impl Aws {
    /// Auto Scaling.
    #[must_use]
    pub fn autoscaling(&self) -> AutoScaling {
        AutoScaling(self.clone())
    }
}

impl AutoScaling {
    /// Ends the waiting of a lifecycle action.
    ///
    /// # Errors
    /// [`AwsError`]; that none waits is [`Lifecycle::NotActive`].
    pub async fn complete(
        &self,
        action: &LifecycleAction,
        outcome: Outcome,
        within: Duration,
    ) -> Result<Lifecycle, AwsError> {
        let (instance, token) = found_by(action);
        let answer = async {
            let request = self.0.autoscaling_client().await.complete_lifecycle_action();
            request
                .auto_scaling_group_name(&action.group)
                .lifecycle_hook_name(&action.hook)
                .lifecycle_action_result(match outcome {
                    Outcome::Continue => "CONTINUE",
                    Outcome::Abandon => "ABANDON",
                })
                .set_instance_id(instance)
                .set_lifecycle_action_token(token)
                .send()
                .await
        };
        let operation = Operation::CompleteLifecycleAction;
        waiting(call(operation, &shown(action), within, answer).await.map(drop))
    }

    /// Gives a lifecycle action another heartbeat time-out.
    ///
    /// # Errors
    /// [`AwsError`]; that none waits is [`Lifecycle::NotActive`].
    pub async fn heartbeat(&self, action: &LifecycleAction, within: Duration) -> Result<Lifecycle, AwsError> {
        let (instance, token) = found_by(action);
        let answer = async {
            let request = self.0.autoscaling_client().await.record_lifecycle_action_heartbeat();
            request
                .auto_scaling_group_name(&action.group)
                .lifecycle_hook_name(&action.hook)
                .set_instance_id(instance)
                .set_lifecycle_action_token(token)
                .send()
                .await
        };
        let operation = Operation::RecordLifecycleActionHeartbeat;
        waiting(call(operation, &shown(action), within, answer).await.map(drop))
    }

    /// The group called `name`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none; [`AwsError`].
    pub async fn group(&self, name: &str, within: Duration) -> Result<Group, AwsError> {
        let operation = Operation::DescribeAutoScalingGroups;
        let answer = async {
            let request = self.0.autoscaling_client().await.describe_auto_scaling_groups();
            request.auto_scaling_group_names(name).send().await
        };
        let answer = call(operation, name, within, answer).await?;
        let group = answer.auto_scaling_groups.unwrap_or_default().into_iter().next();
        let group = group.ok_or_else(|| AwsError::new(operation, name, Kind::NotFound))?;
        let template = group.launch_template.and_then(|t| t.launch_template_id.or(t.launch_template_name));
        let mixed = group.mixed_instances_policy;
        let spot_max_price = mixed.and_then(|policy| policy.instances_distribution?.spot_max_price);
        Ok(Group {
            name: group.auto_scaling_group_name.unwrap_or_default(),
            has_capacity_rebalancing: group.capacity_rebalance.unwrap_or(false),
            desired: group.desired_capacity.unwrap_or(0),
            instances: group.instances.unwrap_or_default().into_iter().map(member).collect(),
            launch: template.or(group.launch_configuration_name),
            spot_max_price: spot_max_price.filter(|price| !price.is_empty()),
            target_groups: group.target_group_arns.unwrap_or_default(),
        })
    }

    /// The hooks of the group called `name`.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn hooks(&self, name: &str, within: Duration) -> Result<Vec<Hook>, AwsError> {
        let answer = async {
            let request = self.0.autoscaling_client().await.describe_lifecycle_hooks();
            request.auto_scaling_group_name(name).send().await
        };
        let answer = call(Operation::DescribeLifecycleHooks, name, within, answer).await?;
        let time = |seconds: Option<i32>| Some(Duration::from_secs(u64::try_from(seconds?).ok()?));
        let hook = |hook: aws_sdk_autoscaling::types::LifecycleHook| Hook {
            name: hook.lifecycle_hook_name.unwrap_or_default(),
            transition: hook.lifecycle_transition.unwrap_or_default(),
            heartbeat: time(hook.heartbeat_timeout),
            global: time(hook.global_timeout),
            default_result: hook.default_result,
        };
        Ok(answer.lifecycle_hooks.unwrap_or_default().into_iter().map(hook).collect())
    }

    /// An instance, if it is in a group.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn instance(&self, id: &str, within: Duration) -> Result<Option<Instance>, AwsError> {
        let answer = async {
            let request = self.0.autoscaling_client().await.describe_auto_scaling_instances();
            request.instance_ids(id).send().await
        };
        let answer = call(Operation::DescribeAutoScalingInstances, id, within, answer).await?;
        let found = answer.auto_scaling_instances.unwrap_or_default().into_iter().next();
        Ok(found.map(|instance| Instance {
            id: instance.instance_id.unwrap_or_default(),
            group: instance.auto_scaling_group_name,
            state: instance.lifecycle_state.unwrap_or_default(),
            health: instance.health_status.unwrap_or_default(),
        }))
    }
}

fn member(instance: aws_sdk_autoscaling::types::Instance) -> Instance {
    Instance {
        id: instance.instance_id.unwrap_or_default(),
        group: None,
        state: instance.lifecycle_state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
        health: instance.health_status.unwrap_or_default(),
    }
}

fn found_by(action: &LifecycleAction) -> (Option<String>, Option<String>) {
    match &action.of {
        ActionOf::Instance(id) => (Some(id.clone()), None),
        ActionOf::Token(token) => (None, Some(token.clone())),
    }
}

fn shown(action: &LifecycleAction) -> String {
    match &action.of {
        ActionOf::Instance(id) => format!("{}/{} of {id}", action.group, action.hook),
        ActionOf::Token(_) => format!("{}/{}", action.group, action.hook),
    }
}

/// Source: aws-node-termination-handler and re:Post (read 2023): the answer for an action that does not wait is
/// `ValidationError` with "No active Lifecycle Action found with instance ID …" or "… with token …".
fn waiting(answer: Result<(), AwsError>) -> Result<Lifecycle, AwsError> {
    match answer {
        Ok(()) => Ok(Lifecycle::Done),
        Err(error) if error.message.contains("No active Lifecycle Action found") => Ok(Lifecycle::NotActive),
        Err(error) => Err(error),
    }
}

//! `lifeboat render cloudformation`: everything around a controller as one template: where events come from, where
//! states are kept, who is told, what is watched, and the service that runs the controller itself.
//!
//! * `rules`: which events reach the queue. `roles`: what the controller may do. `watch`: alarms and dashboards.
//!   `service`: the controller's own container.
//!
//! Pure: from a [`Plan`] to JSON. Names in the plan are used as they are, so that a configuration that says where its
//! queue and table are stays right.

mod roles;
mod rules;
mod service;
mod watch;

use serde_json::{Map, Value, json};

/// What stands in a configuration's text where the stack's own resources belong.
pub(crate) const QUEUE: &str = "@@queue@@";
pub(crate) const DEAD_LETTERS: &str = "@@dead-letters@@";
pub(crate) const TOPIC: &str = "@@topic@@";
pub(crate) const REGION: &str = "@@region@@";

/// What the template is made from.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// ECS clusters whose services are watched.
    pub(crate) clusters: Vec<String>,
    /// Pairs that are known by name; the metrics' dimension `Service` holds them.
    pub(crate) services: Vec<String>,
    /// Workloads of agents on instances; the metrics' dimension `Workload` holds them.
    pub(crate) workloads: Vec<String>,
    /// The CloudWatch namespace.
    pub(crate) namespace: String,
    /// Names of the queue, the table and the topic.
    pub(crate) queue: String,
    pub(crate) table: String,
    pub(crate) topic: String,
    /// How long a received message stays hidden, in seconds.
    pub(crate) visibility_s: u64,
    /// Events of machines are wanted, and the controller may run a command on them.
    pub(crate) machines: bool,
    /// The controller's configuration, with the marks above in it.
    pub(crate) config: String,
}

/// The template.
pub(crate) fn cloudformation(plan: &Plan) -> Value {
    let mut resources = Map::new();
    queues(plan, &mut resources);
    rules::add(plan, &mut resources);
    table(plan, &mut resources);
    topics(plan, &mut resources);
    watch::add(plan, &mut resources);
    roles::add(plan, &mut resources);
    service::add(plan, &mut resources);
    json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Lifeboat: events, state, alarms and the controller that fails ECS services over from Spot to On-Demand and back",
        "Parameters": service::parameters(plan),
        "Conditions": { "HasEmail": is_given("AlertEmail"), "HasSlack": is_given("SlackWebhook") },
        "Resources": resources,
        "Outputs": {
            "EventQueue": { "Description": "queue.url", "Value": { "Ref": "Events" } },
            "DeadLetterQueue": { "Description": "queue.dead_letters", "Value": { "Ref": "DeadLetters" } },
            "StateTable": { "Description": "store.dynamodb", "Value": { "Ref": "States" } },
            "AlertTopic": { "Description": "alerts.topic", "Value": { "Ref": "Alerts" } },
            "WarningTopic": { "Description": "What may wait until morning", "Value": { "Ref": "Warnings" } },
        },
    })
}

fn is_given(parameter: &str) -> Value {
    json!({ "Fn::Not": [{ "Fn::Equals": [{ "Ref": parameter }, ""] }] })
}

fn queues(plan: &Plan, resources: &mut Map<String, Value>) {
    // A message that comes for the tenth time has met ten failures, none of which was the controller's own crash alone.
    let redrive = json!({ "deadLetterTargetArn": arn("DeadLetters"), "maxReceiveCount": 10 });
    resources.insert(
        "DeadLetters".to_owned(),
        json!({
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "QueueName": format!("{}-dead", plan.queue),
                "MessageRetentionPeriod": 1_209_600,
                "SqsManagedSseEnabled": true,
            },
        }),
    );
    resources.insert(
        "Events".to_owned(),
        json!({
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "QueueName": plan.queue,
                "VisibilityTimeout": plan.visibility_s,
                // What is older than an hour tells nothing that a look does not.
                "MessageRetentionPeriod": 3_600,
                "RedrivePolicy": redrive,
                "SqsManagedSseEnabled": true,
            },
        }),
    );
}

fn table(plan: &Plan, resources: &mut Map<String, Value>) {
    resources.insert(
        "States".to_owned(),
        json!({
            "Type": "AWS::DynamoDB::Table",
            // A stack that is deleted must not forget a failover that is under way.
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "TableName": plan.table,
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [
                    { "AttributeName": "pk", "AttributeType": "S" },
                    { "AttributeName": "sk", "AttributeType": "S" },
                ],
                "KeySchema": [
                    { "AttributeName": "pk", "KeyType": "HASH" },
                    { "AttributeName": "sk", "KeyType": "RANGE" },
                ],
                // Only history has this attribute. A TTL on states would forget a long failover and never return.
                "TimeToLiveSpecification": { "AttributeName": "expires", "Enabled": true },
                "PointInTimeRecoverySpecification": { "PointInTimeRecoveryEnabled": true },
                "SSESpecification": { "SSEEnabled": true },
            },
        }),
    );
}

fn topics(plan: &Plan, resources: &mut Map<String, Value>) {
    for (id, name) in [("Alerts", plan.topic.clone()), ("Warnings", format!("{}-warnings", plan.topic))] {
        resources
            .insert(id.to_owned(), json!({ "Type": "AWS::SNS::Topic", "Properties": { "TopicName": name } }));
        resources.insert(format!("{id}Email"), json!({
            "Type": "AWS::SNS::Subscription",
            "Condition": "HasEmail",
            "Properties": { "TopicArn": { "Ref": id }, "Protocol": "email", "Endpoint": { "Ref": "AlertEmail" } },
        }));
    }
    let topics = json!([{ "Ref": "Alerts" }, { "Ref": "Warnings" }]);
    resources.insert(
        "AlarmsMayPublish".to_owned(),
        json!({
            "Type": "AWS::SNS::TopicPolicy",
            "Properties": {
                "Topics": topics,
                "PolicyDocument": policy(json!([{
                    "Effect": "Allow",
                    "Principal": { "Service": "cloudwatch.amazonaws.com" },
                    "Action": "sns:Publish",
                    "Resource": topics,
                    "Condition": { "StringEquals": { "aws:SourceAccount": { "Ref": "AWS::AccountId" } } },
                }])),
            },
        }),
    );
}

fn policy(statements: Value) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn arn(id: &str) -> Value {
    json!({ "Fn::GetAtt": [id, "Arn"] })
}

fn sub(text: &str) -> Value {
    json!({ "Fn::Sub": text })
}

/// An ARN of ECS in this account and region.
fn ecs_arn(rest: &str) -> Value {
    sub(&format!("arn:${{AWS::Partition}}:ecs:${{AWS::Region}}:${{AWS::AccountId}}:{rest}"))
}

#[cfg(test)]
mod tests;

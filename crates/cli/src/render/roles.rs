//! What the controller may do: the calls that it makes, on what it was given, and nothing else.
//!
//! Source: AWS Service Authorization Reference, "Actions, resources, and condition keys" of each service; read 2026-11.

use lifeboat_aws::Operation;
use serde_json::{Map, Value, json};

use super::{Plan, arn, ecs_arn, policy, sub};

/// The actions of these calls, each once.
fn actions(operations: &[Operation]) -> Vec<&'static str> {
    let mut actions: Vec<&str> =
        operations.iter().flat_map(|operation| operation.iam_actions()).copied().collect();
    actions.sort_unstable();
    actions.dedup();
    actions
}

fn allow(id: &str, operations: &[Operation], resource: Value) -> Value {
    json!({ "Sid": id, "Effect": "Allow", "Action": actions(operations), "Resource": resource })
}

fn when(mut statement: Value, condition: Value) -> Value {
    statement["Condition"] = condition;
    statement
}

pub(super) fn statements(plan: &Plan) -> Vec<Value> {
    let of = |kind: &str| -> Vec<Value> {
        plan.clusters.iter().map(|name| ecs_arn(&format!("{kind}/{name}/*"))).collect()
    };
    let clusters: Vec<Value> = plan.clusters.iter().map(|name| ecs_arn(&format!("cluster/{name}"))).collect();
    let in_clusters = json!({ "ArnEquals": { "ecs:cluster": clusters } });
    let mut statements = vec![
        allow(
            "Receive",
            &[
                Operation::ReceiveMessage,
                Operation::DeleteMessageBatch,
                Operation::ChangeMessageVisibilityBatch,
                Operation::GetQueueAttributes,
            ],
            arn("Events"),
        ),
        allow("Bury", &[Operation::SendMessageBatch], arn("DeadLetters")),
        allow(
            "Remember",
            &[
                Operation::DescribeTable,
                Operation::GetItem,
                Operation::PutItem,
                Operation::Query,
                Operation::TransactWriteItems,
            ],
            arn("States"),
        ),
        // These two know no resource of their own but the cluster's container instances.
        when(
            allow("List", &[Operation::ListServices, Operation::ListTasks], json!("*")),
            in_clusters.clone(),
        ),
        allow("LookAtServices", &[Operation::DescribeServices], json!(of("service"))),
        allow("LookAtTasks", &[Operation::DescribeTasks], json!(of("task"))),
        when(allow("Shift", &[Operation::UpdateService], json!(of("service"))), in_clusters),
        allow("Tell", &[Operation::Publish], json!([{ "Ref": "Alerts" }, { "Ref": "Warnings" }])),
        // PutMetricData knows no resources; the namespace is its limit.
        when(
            allow("Measure", &[Operation::PutMetricData], json!("*")),
            json!({ "StringEquals": { "cloudwatch:namespace": plan.namespace } }),
        ),
    ];
    if plan.machines {
        statements.push(allow(
            "EvacuateInstances",
            &[Operation::SendCommand],
            json!([
                sub("arn:${AWS::Partition}:ssm:${AWS::Region}::document/AWS-RunShellScript"),
                sub("arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*"),
            ]),
        ));
    }
    statements
}

pub(super) fn add(plan: &Plan, resources: &mut Map<String, Value>) {
    let trust = policy(json!([{
        "Effect": "Allow",
        "Principal": { "Service": "ecs-tasks.amazonaws.com" },
        "Action": "sts:AssumeRole",
        "Condition": { "StringEquals": { "aws:SourceAccount": { "Ref": "AWS::AccountId" } } },
    }]));
    resources.insert("ControllerRole".to_owned(), json!({
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Description": "What the Lifeboat controller may do",
            "AssumeRolePolicyDocument": trust,
            "Policies": [{ "PolicyName": "controller", "PolicyDocument": policy(json!(statements(plan))) }],
        },
    }));
    resources.insert("StartRole".to_owned(), json!({
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Description": "What ECS may do to start the Lifeboat controller: fetch its image, write its log",
            "AssumeRolePolicyDocument": trust,
            "ManagedPolicyArns": [
                sub("arn:${AWS::Partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"),
            ],
        },
    }));
    resources.insert("StartMayReadSlackWebhook".to_owned(), json!({
        "Type": "AWS::IAM::Policy",
        "Condition": "HasSlack",
        "Properties": {
            "PolicyName": "slack-webhook",
            "Roles": [{ "Ref": "StartRole" }],
            "PolicyDocument": policy(json!([{
                "Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": { "Ref": "SlackWebhook" },
            }])),
        },
    }));
}

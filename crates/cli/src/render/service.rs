//! The controller's own container service. It runs On-Demand: what saves others from Spot must not be on it.

use serde_json::{Map, Value, json};

use super::{DEAD_LETTERS, Plan, QUEUE, REGION, TOPIC, arn};

/// The file that the container writes its configuration to.
const FILE: &str = "/tmp/fleet.toml";

pub(super) fn parameters(plan: &Plan) -> Value {
    json!({
        "Image": { "Type": "String", "Description": "Container image with lifeboat and /bin/sh in it" },
        "Cluster": {
            "Type": "String",
            "Description": "ECS cluster that the controller runs in",
            "Default": plan.clusters.first().map_or("default", String::as_str),
        },
        "Subnets": { "Type": "List<AWS::EC2::Subnet::Id>", "Description": "Subnets that reach AWS's end points" },
        "SecurityGroups": {
            "Type": "List<AWS::EC2::SecurityGroup::Id>",
            "Description": "Security groups that allow HTTPS out; nothing comes in",
        },
        "AssignPublicIp": {
            "Type": "String", "Default": "DISABLED", "AllowedValues": ["DISABLED", "ENABLED"],
            "Description": "ENABLED in public subnets without NAT",
        },
        "Controllers": {
            "Type": "Number", "Default": 2, "MinValue": 0, "MaxValue": 10,
            "Description": "How many run at once; two survive the loss of a zone",
        },
        "SlackWebhook": {
            "Type": "String", "Default": "",
            "Description": "ARN of the Secrets Manager secret that holds a Slack webhook's URL; empty: no Slack",
        },
        "AlertEmail": { "Type": "String", "Default": "", "Description": "Gets every alert; empty: nobody by e-mail" },
    })
}

/// The configuration's text with the stack's own resources in it, for `Fn::Sub`.
pub(super) fn config(plan: &Plan) -> Value {
    let text = plan
        .config
        .replace("${", "${!")
        .replace(QUEUE, "${Events}")
        .replace(DEAD_LETTERS, "${DeadLetters}")
        .replace(TOPIC, "${Alerts}")
        .replace(REGION, "${AWS::Region}");
    json!({ "Fn::Sub": text })
}

pub(super) fn add(plan: &Plan, resources: &mut Map<String, Value>) {
    resources.insert(
        "Log".to_owned(),
        json!({
            "Type": "AWS::Logs::LogGroup",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": { "RetentionInDays": 30 },
        }),
    );
    let command =
        format!("printf '%s' \"$LIFEBOAT_CONFIG\" > {FILE} && exec lifeboat controller --config {FILE}");
    resources.insert(
        "ControllerTask".to_owned(),
        json!({
            "Type": "AWS::ECS::TaskDefinition",
            "Properties": {
                "Family": "lifeboat-controller",
                "RequiresCompatibilities": ["FARGATE"],
                "NetworkMode": "awsvpc",
                "Cpu": "256",
                "Memory": "512",
                "TaskRoleArn": arn("ControllerRole"),
                "ExecutionRoleArn": arn("StartRole"),
                "ContainerDefinitions": [{
                    "Name": "controller",
                    "Image": { "Ref": "Image" },
                    "Essential": true,
                    "EntryPoint": ["/bin/sh", "-c"],
                    "Command": [command],
                    "Environment": [{ "Name": "LIFEBOAT_CONFIG", "Value": config(plan) }],
                    "Secrets": { "Fn::If": [
                        "HasSlack",
                        [{ "Name": "LIFEBOAT_SLACK_WEBHOOK", "ValueFrom": { "Ref": "SlackWebhook" } }],
                        { "Ref": "AWS::NoValue" },
                    ] },
                    "StopTimeout": 30,
                    "LogConfiguration": {
                        "LogDriver": "awslogs",
                        "Options": {
                            "awslogs-group": { "Ref": "Log" },
                            "awslogs-region": { "Ref": "AWS::Region" },
                            "awslogs-stream-prefix": "controller",
                        },
                    },
                }],
            },
        }),
    );
    resources.insert(
        "Controller".to_owned(),
        json!({
            "Type": "AWS::ECS::Service",
            "Properties": {
                "ServiceName": "lifeboat-controller",
                "Cluster": { "Ref": "Cluster" },
                "TaskDefinition": { "Ref": "ControllerTask" },
                "DesiredCount": { "Ref": "Controllers" },
                "CapacityProviderStrategy": [{ "CapacityProvider": "FARGATE", "Weight": 1 }],
                "DeploymentConfiguration": {
                    "MinimumHealthyPercent": 50, "MaximumPercent": 200,
                    "DeploymentCircuitBreaker": { "Enable": true, "Rollback": true },
                },
                "NetworkConfiguration": { "AwsvpcConfiguration": {
                    "Subnets": { "Ref": "Subnets" },
                    "SecurityGroups": { "Ref": "SecurityGroups" },
                    "AssignPublicIp": { "Ref": "AssignPublicIp" },
                } },
            },
        }),
    );
}

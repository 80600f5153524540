//! Which events reach the queue: EventBridge rules, each with a pattern that lets through what decides something.
//!
//! Source: EventBridge user guide, "Creating event patterns"; ECS and EC2 guides for the events; read 2026-11.

use serde_json::{Map, Value, json};

use super::{Plan, arn, ecs_arn, policy};

/// Rules by name, with their patterns. No event matches two of them: it would arrive twice.
pub(super) fn patterns(plan: &Plan) -> Vec<(&'static str, Value)> {
    let clusters: Vec<Value> = plan.clusters.iter().map(|name| ecs_arn(&format!("cluster/{name}"))).collect();
    let mut rules = vec![
        (
            "TaskChanges",
            json!({
                "source": ["aws.ecs"],
                "detail-type": ["ECS Task State Change"],
                "detail": {
                    "clusterArn": clusters,
                    // A task of Spot that runs, is warned (RUNNING, wants STOPPED) or has stopped. Where an event lacks its
                    // provider, the stop code or the reason tell, and source B's strings.
                    "lastStatus": ["RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"],
                    "$or": [
                        { "capacityProviderName": ["FARGATE_SPOT"] },
                        { "stopCode": ["TerminationNotice", "SpotInterruption"] },
                        { "stoppedReason": [
                            { "prefix": "Your Spot Task was interrupted" },
                            { "prefix": "SpotInterruption" },
                            { "prefix": "ResourcesNotAvailable" },
                        ] },
                    ],
                },
            }),
        ),
        // No capacity is the reason RESOURCE:FARGATE alone: a bad subnet or a missing permission is no signal.
        (
            "RefusedLaunches",
            json!({
                "source": ["aws.ecs"],
                "detail-type": ["ECS Service Action"],
                "detail": {
                    "clusterArn": clusters,
                    "eventName": ["SERVICE_TASK_PLACEMENT_FAILURE"],
                    "reason": ["RESOURCE:FARGATE"],
                },
            }),
        ),
    ];
    if plan.machines {
        rules.extend(machine_patterns());
    }
    rules
}

fn machine_patterns() -> [(&'static str, Value); 4] {
    [
        (
            "InstanceNotices",
            json!({
                "source": ["aws.ec2"],
                "detail-type": ["EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"],
            }),
        ),
        (
            "InstanceStates",
            json!({
                "source": ["aws.ec2"],
                "detail-type": ["EC2 Instance State-change Notification"],
                "detail": { "state": ["stopping", "stopped", "shutting-down", "terminated"] },
            }),
        ),
        (
            "LifecycleActions",
            json!({
                "source": ["aws.autoscaling"],
                "detail-type": ["EC2 Instance-terminate Lifecycle Action"],
            }),
        ),
        (
            "HealthEvents",
            json!({
                "source": ["aws.health"],
                "detail-type": ["AWS Health Event"],
                "detail": { "service": ["EC2"], "eventTypeCategory": ["scheduledChange"] },
            }),
        ),
    ]
}

pub(super) fn add(plan: &Plan, resources: &mut Map<String, Value>) {
    let mut sources = Vec::new();
    for (name, pattern) in patterns(plan) {
        sources.push(arn(name));
        resources.insert(
            name.to_owned(),
            json!({
                "Type": "AWS::Events::Rule",
                "Properties": {
                    "Description": format!("Lifeboat: {name}"),
                    "State": "ENABLED",
                    "EventPattern": pattern,
                    "Targets": [{
                        "Id": "queue",
                        "Arn": arn("Events"),
                        // A notice that is a quarter of an hour late is of no use; the next look has seen it.
                        "RetryPolicy": { "MaximumEventAgeInSeconds": 900, "MaximumRetryAttempts": 20 },
                        "DeadLetterConfig": { "Arn": arn("DeadLetters") },
                    }],
                },
            }),
        );
    }
    resources.insert(
        "RulesMaySend".to_owned(),
        json!({
            "Type": "AWS::SQS::QueuePolicy",
            "Properties": {
                "Queues": [{ "Ref": "Events" }, { "Ref": "DeadLetters" }],
                "PolicyDocument": policy(json!([{
                    "Effect": "Allow",
                    "Principal": { "Service": "events.amazonaws.com" },
                    "Action": "sqs:SendMessage",
                    "Resource": [arn("Events"), arn("DeadLetters")],
                    "Condition": { "ArnEquals": { "aws:SourceArn": sources } },
                }])),
            },
        }),
    );
}

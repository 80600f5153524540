//! Events as EventBridge sends them, and as SQS then holds them: the envelope, and the details of ECS and EC2.
//!
//! Source: ECS developer guide, "Amazon ECS events"; EC2 user guide, "Spot Instance interruption notices"; Auto
//! Scaling user guide, "EventBridge events"; read 2026-11.

use serde_json::{Value, json};

use super::names::uuid;
use super::state::Lab;
use super::wire::ecs;

fn envelope(lab: &Lab, source: &str, kind: &str, stamp: i64) -> Value {
    json!({
        "version": "0",
        "id": "",
        "detail-type": kind,
        "source": source,
        "account": lab.names.account,
        "time": rfc3339_s(stamp),
        "region": lab.names.region,
        "resources": [],
        "detail": {},
    })
}

/// Milliseconds since 1970 as EventBridge writes a time: whole seconds.
pub(crate) fn rfc3339_s(stamp: i64) -> String {
    rfc3339(stamp - stamp.rem_euclid(1000))
}

/// Milliseconds since 1970 in RFC 3339.
pub(crate) fn rfc3339(stamp: i64) -> String {
    jiff::Timestamp::from_millisecond(stamp).map_or_else(|_| String::new(), |time| time.to_string())
}

/// "ECS Task State Change" of a task as it is now.
pub(crate) fn task_change(lab: &Lab, key: u64, stamp: i64, id: u64) -> Value {
    let mut event = envelope(lab, "aws.ecs", "ECS Task State Change", stamp);
    let mut detail = ecs::task(lab, key, &rfc3339_value);
    detail["updatedAt"] = json!(rfc3339(stamp));
    event["id"] = json!(uuid(id, key));
    event["resources"] = json!([lab.names.task(key)]);
    event["detail"] = detail;
    event
}

fn rfc3339_value(stamp: i64) -> Value {
    json!(rfc3339(stamp))
}

fn service_action(lab: &Lab, index: usize, stamp: i64, id: u64) -> Value {
    let service = &lab.services[index];
    let mut event = envelope(lab, "aws.ecs", "ECS Service Action", stamp);
    event["id"] = json!(uuid(id, index as u64));
    event["resources"] = json!([lab.names.service(&service.name)]);
    event["detail"] = json!({
        "clusterArn": lab.names.cluster(),
        "createdAt": rfc3339(stamp),
        "capacityProviderArns": [lab.names.capacity_provider(service.capacity)],
    });
    event
}

/// `SERVICE_TASK_PLACEMENT_FAILURE` for want of capacity.
pub(crate) fn placement_failure(lab: &Lab, index: usize, stamp: i64, id: u64) -> Value {
    let mut event = service_action(lab, index, stamp, id);
    event["detail"]["eventType"] = json!("ERROR");
    event["detail"]["eventName"] = json!("SERVICE_TASK_PLACEMENT_FAILURE");
    event["detail"]["reason"] = json!("RESOURCE:FARGATE");
    event
}

/// `SERVICE_STEADY_STATE`.
pub(crate) fn steady_state(lab: &Lab, index: usize, stamp: i64, id: u64) -> Value {
    let mut event = service_action(lab, index, stamp, id);
    event["detail"]["eventType"] = json!("INFO");
    event["detail"]["eventName"] = json!("SERVICE_STEADY_STATE");
    event
}

/// What EC2, Auto Scaling and Health tell of an instance; `None` where the lab does not know the kind.
pub(crate) fn of_instance(lab: &Lab, kind: &str, instances: &[String], stamp: i64, id: u64) -> Option<Value> {
    let instance = instances.first()?;
    let arn = lab.names.arn("ec2", &format!("instance/{instance}"));
    let (source, name, detail) = match kind {
        "interruption" => (
            "aws.ec2",
            "EC2 Spot Instance Interruption Warning",
            json!({ "instance-id": instance, "instance-action": "terminate" }),
        ),
        "rebalance" => {
            ("aws.ec2", "EC2 Instance Rebalance Recommendation", json!({ "instance-id": instance }))
        }
        "shutting-down" | "stopping" | "stopped" | "terminated" => (
            "aws.ec2",
            "EC2 Instance State-change Notification",
            json!({ "instance-id": instance, "state": kind }),
        ),
        "lifecycle" => (
            "aws.autoscaling",
            "EC2 Instance-terminate Lifecycle Action",
            json!({
                "LifecycleActionToken": uuid(id, 1),
                "AutoScalingGroupName": "lab",
                "LifecycleHookName": "lab",
                "EC2InstanceId": instance,
                "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
            }),
        ),
        "health" => (
            "aws.health",
            "AWS Health Event",
            json!({
                "eventArn": lab.names.arn("health", "event/EC2/AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED/lab"),
                "service": "EC2",
                "eventTypeCode": "AWS_EC2_INSTANCE_RETIREMENT_SCHEDULED",
                "eventTypeCategory": "scheduledChange",
                "startTime": rfc3339(stamp),
                "affectedEntities": instances.iter().map(|id| json!({ "entityValue": id })).collect::<Vec<_>>(),
            }),
        ),
        _ => return None,
    };
    let mut event = envelope(lab, source, name, stamp);
    event["id"] = json!(uuid(id, 7));
    event["resources"] = json!([arn]);
    event["detail"] = detail;
    Some(event)
}

/// The group of a service's tasks.
pub(crate) fn group(service: &str) -> String {
    format!("service:{service}")
}

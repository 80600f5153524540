//! Events about machines: EC2, Auto Scaling (through EventBridge, a hook's own queue, or SNS) and Health.

use serde_json::Value;

use super::{Envelope, MachineEvent, MachineNews, ParseError, Parsed};

/// The states in which a machine is lost. Compared exactly: a substring test lets an empty state through.
/// Source: EC2 guide, "Instance lifecycle"; read 2023.
const GONE: [&str; 4] = ["stopping", "stopped", "shutting-down", "terminated"];

pub(super) fn interruption(envelope: &Envelope) -> Result<Parsed, ParseError> {
    let action = envelope.text("instance-action").unwrap_or("terminate").to_owned();
    about(envelope, "the interruption warning", MachineNews::Interruption { action })
}

pub(super) fn rebalance(envelope: &Envelope) -> Result<Parsed, ParseError> {
    about(envelope, "the rebalance recommendation", MachineNews::Rebalance)
}

pub(super) fn state_change(envelope: &Envelope) -> Result<Parsed, ParseError> {
    let kind = "the instance's state change";
    let state = envelope.text("state").ok_or(ParseError::Missing { kind, field: "state" })?;
    if !GONE.contains(&state) {
        return Ok(Parsed::Nothing);
    }
    about(envelope, kind, MachineNews::Gone { state: state.to_owned() })
}

fn about(envelope: &Envelope, kind: &'static str, what: MachineNews) -> Result<Parsed, ParseError> {
    let missing = ParseError::Missing { kind, field: "instance-id" };
    let instance = envelope.text("instance-id").ok_or(missing)?.to_owned();
    Ok(Parsed::Machine(MachineEvent { instances: vec![instance], at: envelope.at(), what }))
}

pub(super) fn lifecycle(envelope: &Envelope) -> Result<Parsed, ParseError> {
    lifecycle_detail(&envelope.detail, envelope.at())
}

/// A message without an envelope: a lifecycle hook that targets the queue, or its topic, itself.
///
/// Source: Auto Scaling guide, "Prepare to add a lifecycle hook": the test notification has `Event` and no
/// `LifecycleTransition`; read 2023.
pub(super) fn bare(value: &Value) -> Result<Parsed, ParseError> {
    if value.get("LifecycleTransition").is_some() {
        let time = value.get("Time").and_then(Value::as_str).and_then(crate::clock::parse_rfc3339);
        return lifecycle_detail(value, time);
    }
    match value.get("Event").and_then(Value::as_str) {
        Some("autoscaling:TEST_NOTIFICATION") => Ok(Parsed::Nothing),
        Some(event) => Ok(Parsed::Unknown(event.to_owned())),
        None => Err(ParseError::Missing { kind: "the message", field: "detail-type" }),
    }
}

fn lifecycle_detail(
    detail: &Value,
    at: Option<lifeboat_core::time::Timestamp>,
) -> Result<Parsed, ParseError> {
    let text = |field: &'static str| {
        let value = detail.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        value.map(str::to_owned).ok_or(ParseError::Missing { kind: "the lifecycle action", field })
    };
    if text("LifecycleTransition")? != "autoscaling:EC2_INSTANCE_TERMINATING" {
        return Ok(Parsed::Nothing);
    }
    let what =
        MachineNews::Terminating { group: text("AutoScalingGroupName")?, hook: text("LifecycleHookName")? };
    Ok(Parsed::Machine(MachineEvent { instances: vec![text("EC2InstanceId")?], at, what }))
}

pub(super) fn health(envelope: &Envelope) -> Result<Parsed, ParseError> {
    let is_ours = envelope.text("service") == Some("EC2")
        && envelope.text("eventTypeCategory") == Some("scheduledChange");
    if !is_ours {
        return Ok(Parsed::Nothing);
    }
    let code = envelope.text("eventTypeCode").unwrap_or("unknown").to_owned();
    let entities = envelope.detail.get("affectedEntities").and_then(Value::as_array);
    let values = entities.into_iter().flatten().filter_map(|entity| entity.get("entityValue")?.as_str());
    let instances: Vec<String> = values.filter(|id| id.starts_with("i-")).map(str::to_owned).collect();
    if instances.is_empty() {
        return Ok(Parsed::Nothing);
    }
    Ok(Parsed::Machine(MachineEvent {
        instances,
        at: envelope.at(),
        what: MachineNews::Maintenance { code },
    }))
}

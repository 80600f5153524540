//! What the queue holds, as EventBridge, Auto Scaling and SNS write it, and what it means. Pure: text in, value out.
//!
//! * [`parse`]: one message's body → [`Parsed`]. `ecs`: tasks and services. `machine`: EC2, Auto Scaling, Health.
//!
//! Delivery is at least once, unordered and possibly late; nothing here remembers anything.

mod ecs;
mod machine;
#[cfg(test)]
mod tests;

use lifeboat_core::failover::event::Happening;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::clock::parse_rfc3339;

/// What one message tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Something happened to a task or a service of ECS.
    Ecs(EcsEvent),
    /// Something happens to machines.
    Machine(MachineEvent),
    /// Known, and nothing follows from it: a task that is pending, a test notification.
    Nothing,
    /// A kind of event that Lifeboat does not know; its name, for a person.
    Unknown(String),
}

/// What happened to a task or a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EcsEvent {
    /// Which service.
    pub service: ServiceName,
    /// The capacity provider, where the event names a Fargate one; else the service tells.
    pub capacity: Option<Capacity>,
    /// The event's own time, where it has one that can be read.
    pub at: Option<Timestamp>,
    /// What happened.
    pub what: Happening,
    /// The task's key and `detail.version`, which rises with each change of the task.
    pub version: Option<(u64, u64)>,
}

/// A service as an event names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceName {
    /// The cluster's name; old service ARNs lack it.
    pub cluster: Option<String>,
    /// The service's name.
    pub service: String,
}

/// What happens to machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineEvent {
    /// The instances that it concerns; a Health event may name several.
    pub instances: Vec<String>,
    /// The event's own time, where it has one that can be read.
    pub at: Option<Timestamp>,
    /// What happens.
    pub what: MachineNews,
}

/// The news about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineNews {
    /// It will be interrupted in two minutes, or at once where it hibernates.
    Interruption {
        /// `terminate`, `stop` or `hibernate`.
        action: String,
    },
    /// It is at a higher risk of interruption.
    Rebalance,
    /// Its Auto Scaling group terminates it and waits for a lifecycle hook.
    Terminating {
        /// The group.
        group: String,
        /// The hook.
        hook: String,
    },
    /// It has left, or is leaving: `stopping`, `stopped`, `shutting-down` or `terminated`.
    Gone {
        /// Its state.
        state: String,
    },
    /// AWS has scheduled maintenance for it.
    Maintenance {
        /// `AWS_EC2_…`.
        code: String,
    },
}

/// Why a message cannot be read. It belongs into the dead-letter queue: a person must look at it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It is no JSON object.
    #[error("the message is no JSON object")]
    NotJson,
    /// It is longer than any event.
    #[error("the message has {0} bytes, more than any event")]
    TooLong(usize),
    /// An event of a known kind lacks something.
    #[error("{kind} has no usable {field}")]
    Missing {
        /// Which kind.
        kind: &'static str,
        /// What it lacks.
        field: &'static str,
    },
}

/// Source: EventBridge and SQS quotas, 256 KiB an event; read 2023. SQS takes up to 1 MiB since 2025.
const BYTES_MAX: usize = 1024 * 1024;

/// The envelope. Whatever is missing is empty: the parser of each kind says what it needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    id: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    source: String,
    time: Option<String>,
    resources: Vec<Value>,
    detail: Value,
}

impl Envelope {
    fn at(&self) -> Option<Timestamp> {
        self.time.as_deref().and_then(parse_rfc3339)
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.detail.get(field)?.as_str().filter(|text| !text.is_empty())
    }
}

/// Reads one message's body.
///
/// # Errors
/// When it is no event at all, or one of a known kind that lacks what makes it one.
pub fn parse(body: &str) -> Result<Parsed, ParseError> {
    if body.len() > BYTES_MAX {
        return Err(ParseError::TooLong(body.len()));
    }
    let value: Value = serde_json::from_str(body).map_err(|_| ParseError::NotJson)?;
    match sns_message(&value) {
        Some(inner) => parse_value(serde_json::from_str(inner).map_err(|_| ParseError::NotJson)?),
        None => parse_value(value),
    }
}

/// What SNS wraps. Source: SNS guide, "Amazon SNS message and JSON formats"; read 2023.
fn sns_message(value: &Value) -> Option<&str> {
    let is_sns = value.get("Type").is_some_and(|kind| kind == "Notification");
    value.get("Message").filter(|_| is_sns)?.as_str()
}

fn parse_value(value: Value) -> Result<Parsed, ParseError> {
    if !value.is_object() {
        return Err(ParseError::NotJson);
    }
    if value.get("detail-type").is_none() {
        return machine::bare(&value);
    }
    let envelope: Envelope = serde_json::from_value(value)
        .map_err(|_| ParseError::Missing { kind: "the event", field: "envelope" })?;
    match (envelope.source.as_str(), envelope.detail_type.as_str()) {
        ("aws.ecs", "ECS Task State Change") => ecs::task(&envelope),
        ("aws.ecs", "ECS Service Action") => ecs::service_action(&envelope),
        ("aws.ecs", "ECS Deployment State Change" | "ECS Container Instance State Change") => {
            Ok(Parsed::Nothing)
        }
        ("aws.ec2", "EC2 Spot Instance Interruption Warning") => machine::interruption(&envelope),
        ("aws.ec2", "EC2 Instance Rebalance Recommendation") => machine::rebalance(&envelope),
        ("aws.ec2", "EC2 Instance State-change Notification") => machine::state_change(&envelope),
        ("aws.autoscaling", "EC2 Instance-terminate Lifecycle Action") => machine::lifecycle(&envelope),
        ("aws.health", "AWS Health Event") => machine::health(&envelope),
        (source, kind) => Ok(Parsed::Unknown(format!("{source} {kind}"))),
    }
}

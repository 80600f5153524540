//! ECS events: interruptions, refused launches, tasks that start and stop.
//!
//! Source: ECS guide, "Amazon ECS events" and "Amazon ECS service action events" (read 2023); containers-roadmap
//! issues 797 and 1565 for the stop code that is missing.

use lifeboat_core::failover::event::Happening;
use lifeboat_core::failover::observation::Capacity;

use super::{EcsEvent, Envelope, ParseError, Parsed, ServiceName};
use crate::key::key;

/// Source: ECS API, `TaskStopCode`: `TerminationNotice` in the guide of 2023, `SpotInterruption` in today's SDK.
const INTERRUPTION_CODES: [&str; 2] = ["TerminationNotice", "SpotInterruption"];

/// Source: containers-roadmap 797: what users see in `stoppedReason`.
const INTERRUPTION_REASON: &str = "Your Spot Task was interrupted.";

/// Source: service events and RunTask, as users quote them; read 2026-11.
const NO_CAPACITY: &str = "Capacity is unavailable at this time";

pub(super) fn task(envelope: &Envelope) -> Result<Parsed, ParseError> {
    let missing = |field| ParseError::Missing { kind: "the task's state change", field };
    let arn = envelope.text("taskArn").ok_or_else(|| missing("taskArn"))?;
    let last = envelope.text("lastStatus").ok_or_else(|| missing("lastStatus"))?;
    let desired = envelope.text("desiredStatus").ok_or_else(|| missing("desiredStatus"))?;
    // Tasks that no service started are nobody's here.
    let Some(service) = envelope.text("group").and_then(|group| group.strip_prefix("service:")) else {
        return Ok(Parsed::Nothing);
    };
    let task = key(arn);
    let what = match (desired, last) {
        ("STOPPED", "STOPPED") if is_refused(envelope) => Happening::Refused { event: task },
        ("STOPPED", "STOPPED") => Happening::Stopped { task, is_interruption: is_interrupted(envelope) },
        // The notice, two minutes before the end.
        ("STOPPED", _) if is_interrupted(envelope) => Happening::Warned { task },
        // Stopped by somebody, or the code is missing: it is on its way out in any case.
        ("STOPPED", _) => Happening::Stopped { task, is_interruption: false },
        (_, "RUNNING") => Happening::Ready { task },
        _ => return Ok(Parsed::Nothing),
    };
    let cluster = envelope.text("clusterArn").and_then(|arn| arn.rsplit('/').next());
    let version = envelope.detail.get("version").and_then(serde_json::Value::as_u64);
    Ok(Parsed::Ecs(EcsEvent {
        service: ServiceName { cluster: cluster.map(str::to_owned), service: service.to_owned() },
        capacity: envelope.text("capacityProviderName").and_then(provider),
        at: envelope.at(),
        what,
        version: version.map(|version| (task, version)),
    }))
}

fn is_interrupted(envelope: &Envelope) -> bool {
    let reason = envelope.text("stoppedReason").unwrap_or_default();
    envelope.text("stopCode").is_some_and(|code| INTERRUPTION_CODES.contains(&code))
        || reason.trim() == INTERRUPTION_REASON
        // Source B's string.
        || reason.starts_with("SpotInterruption")
}

fn is_refused(envelope: &Envelope) -> bool {
    let reason = envelope.text("stoppedReason").unwrap_or_default();
    // The first is source B's string.
    reason.starts_with("ResourcesNotAvailable") || reason.contains(NO_CAPACITY)
}

fn provider(name: &str) -> Option<Capacity> {
    match name {
        "FARGATE_SPOT" => Some(Capacity::Spot),
        "FARGATE" => Some(Capacity::OnDemand),
        // A provider of the user's own: the service says which side it is.
        _ => None,
    }
}

pub(super) fn service_action(envelope: &Envelope) -> Result<Parsed, ParseError> {
    let missing = |field| ParseError::Missing { kind: "the service action", field };
    let name = envelope.text("eventName").ok_or_else(|| missing("eventName"))?;
    let arn = envelope.resources.first().and_then(|arn| arn.as_str()).ok_or_else(|| missing("resources"))?;
    let service = service_of(arn).ok_or_else(|| missing("resources"))?;
    let what = match name {
        "SERVICE_TASK_PLACEMENT_FAILURE" if envelope.text("reason") == Some("RESOURCE:FARGATE") => {
            Happening::Refused { event: key(&envelope.id) }
        }
        "SERVICE_STEADY_STATE" => Happening::Steady,
        // Other reasons (CPU, a bad subnet, IAM) are no signal of capacity; other actions none at all.
        _ => return Ok(Parsed::Nothing),
    };
    if envelope.id.is_empty() {
        return Err(missing("id"));
    }
    let providers = envelope.detail.get("capacityProviderArns").and_then(|arns| arns.as_array());
    let mut named = providers.into_iter().flatten().filter_map(|arn| arn.as_str()?.rsplit('/').next());
    let capacity = named.find_map(provider);
    Ok(Parsed::Ecs(EcsEvent { service, capacity, at: envelope.at(), what, version: None }))
}

/// `arn:aws:ecs:REGION:ACCOUNT:service/CLUSTER/NAME`, or the old form without the cluster.
fn service_of(arn: &str) -> Option<ServiceName> {
    let (_, path) = arn.split_once(":service/")?;
    let (cluster, service) = match path.split_once('/') {
        Some((cluster, service)) => (Some(cluster.to_owned()), service),
        None => (None, path),
    };
    (!service.is_empty()).then(|| ServiceName { cluster, service: service.to_owned() })
}

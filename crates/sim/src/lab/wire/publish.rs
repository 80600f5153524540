//! CloudWatch, SNS and SSM: what is published, alerted and ordered is kept and shown; nothing comes of it.
//!
//! Source: API references of PutMetricData, Publish and SendCommand; read 2026-11.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Api, Fault, epoch_s, read};
use crate::lab::names::uuid;
use crate::lab::state::Lab;

/// Source: PutMetricData, at most 1,000 metrics a call, 30 dimensions a metric; read 2026-11.
const METRICS_MAX: usize = 1_000;
const DIMENSIONS_MAX: usize = 30;

/// Source: SendCommand, at most 50 instance ids a call; read 2026-11.
const INSTANCES_MAX: usize = 50;

pub(super) fn call(lab: &mut Lab, api: Api, operation: &str, input: &Value) -> Result<Value, Fault> {
    match (api, operation) {
        (Api::CloudWatch, "PutMetricData") => put_metrics(lab, input),
        (Api::Sns, "Publish") => publish(lab, input),
        (Api::Ssm, "SendCommand") => send_command(lab, input),
        _ => Err(Fault::not_served(&format!("{}:{operation}", api.name()))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutMetricData {
    namespace: String,
    #[serde(default)]
    metric_data: Vec<Datum>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Datum {
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Value>,
    value: Option<Value>,
    statistic_values: Option<Value>,
    #[serde(default)]
    values: Vec<Value>,
    unit: Option<String>,
    timestamp: Option<Value>,
    storage_resolution: Option<Value>,
}

fn put_metrics(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let asked: PutMetricData = read(input)?;
    let wrong = |message: &str| Err(Fault::new("InvalidParameterValue", message));
    if asked.namespace.is_empty() || asked.namespace.starts_with("AWS/") {
        return wrong("The value AWS/ for parameter Namespace is invalid.");
    }
    if asked.metric_data.is_empty() || asked.metric_data.len() > METRICS_MAX {
        return wrong("The collection MetricData must have a size between 1 and 1000.");
    }
    for datum in &asked.metric_data {
        let has_value = datum.value.is_some() || datum.statistic_values.is_some() || !datum.values.is_empty();
        if !has_value || datum.dimensions.len() > DIMENSIONS_MAX {
            return wrong("A metric needs Value, Values or StatisticValues, and at most 30 dimensions.");
        }
    }
    let at_ms = lab.now().0;
    for datum in asked.metric_data {
        lab.records.metric(json!({
            "at_ms": at_ms,
            "namespace": asked.namespace,
            "name": datum.metric_name,
            "dimensions": datum.dimensions,
            "value": datum.value.map(number),
            "statistics": datum.statistic_values,
            "values": datum.values,
            "unit": datum.unit,
            "timestamp": datum.timestamp,
            "storage_resolution": datum.storage_resolution.map(number),
        }));
    }
    Ok(json!({}))
}

/// The query protocol sends numbers as text.
fn number(value: Value) -> Value {
    let parsed = value.as_str().and_then(|text| text.parse::<f64>().ok());
    parsed.map_or(value, |number| json!(number))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Publish {
    topic_arn: Option<String>,
    target_arn: Option<String>,
    message: Option<String>,
    subject: Option<String>,
}

fn publish(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let asked: Publish = read(input)?;
    let arn = asked.topic_arn.or(asked.target_arn).unwrap_or_default();
    if !arn.starts_with("arn:aws:sns:") {
        return Err(Fault::new("InvalidParameter", "Invalid parameter: TopicArn"));
    }
    let Some(message) = asked.message.filter(|message| !message.is_empty()) else {
        return Err(Fault::new("InvalidParameter", "Invalid parameter: Empty message"));
    };
    // Source: SNS Publish: a subject has up to 100 characters and no line breaks; read 2026-11.
    if asked.subject.as_ref().is_some_and(|subject| subject.len() > 100 || subject.contains('\n')) {
        return Err(Fault::new("InvalidParameter", "Invalid parameter: Subject"));
    }
    let id = uuid(lab.live.draw(), lab.live.draw());
    lab.records.note(lab.live.now(), "alert", asked.subject.clone().unwrap_or_else(|| message.clone()));
    let at_ms = lab.now().0;
    lab.records.alert(json!({ "at_ms": at_ms, "topic": arn, "subject": asked.subject, "message": message }));
    Ok(json!({ "MessageId": id }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendCommand {
    document_name: String,
    #[serde(default)]
    instance_ids: Vec<String>,
    #[serde(default)]
    targets: Vec<Value>,
    #[serde(default)]
    parameters: Value,
    comment: Option<String>,
    timeout_seconds: Option<i64>,
}

fn send_command(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let asked: SendCommand = read(input)?;
    if asked.instance_ids.len() > INSTANCES_MAX || (asked.instance_ids.is_empty() && asked.targets.is_empty())
    {
        return Err(Fault::new("InvalidInstanceId", "One to 50 instance ids, or targets, are needed."));
    }
    if asked.timeout_seconds.is_some_and(|seconds| !(30..=2_592_000).contains(&seconds)) {
        return Err(Fault::new("ValidationException", "TimeoutSeconds must be 30 to 2592000."));
    }
    let id = uuid(lab.live.draw(), lab.live.draw());
    let at_ms = lab.now().0;
    lab.records.note(
        lab.live.now(),
        "command",
        format!("{} on {}", asked.document_name, asked.instance_ids.join(", ")),
    );
    let stamp = epoch_s(lab.client_now());
    let command = json!({
        "CommandId": id,
        "DocumentName": asked.document_name,
        "DocumentVersion": "",
        "Comment": asked.comment.unwrap_or_default(),
        "ExpiresAfter": epoch_s(lab.client_now() + 3_600_000),
        "Parameters": if asked.parameters.is_null() { json!({}) } else { asked.parameters },
        "InstanceIds": asked.instance_ids,
        "Targets": asked.targets,
        "RequestedDateTime": stamp,
        "Status": "Pending",
        "StatusDetails": "Pending",
        "OutputS3Region": "",
        "OutputS3BucketName": "",
        "OutputS3KeyPrefix": "",
        "MaxConcurrency": "50",
        "MaxErrors": "0",
        "TargetCount": 1,
        "CompletedCount": 0,
        "ErrorCount": 0,
        "DeliveryTimedOutCount": 0,
        "ServiceRole": "",
        "NotificationConfig": { "NotificationArn": "", "NotificationEvents": [], "NotificationType": "" },
        "TimeoutSeconds": asked.timeout_seconds.unwrap_or(3_600),
    });
    lab.records.command(json!({ "at_ms": at_ms, "command": command }));
    Ok(json!({ "Command": command }))
}

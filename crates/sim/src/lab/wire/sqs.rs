//! SQS, JSON 1.0: a queue and its dead letters.
//!
//! Source: Amazon SQS API reference, the operations named here; read 2026-11.

use md5::{Digest, Md5};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fault, Reply, read};
use crate::lab::names::uuid;
use crate::lab::queue::{Message, Queue, ReceiptError};
use crate::lab::state::Lab;

/// Source: SQS quotas: ten entries a batch, ten messages a receive, 20 s of waiting, 12 h hidden; read 2026-11.
const BATCH_MAX: usize = 10;
const WAIT_MAX_S: i64 = 20;
const VISIBILITY_MAX_S: i64 = 43_200;

/// Source: SQS quotas: 1 MiB a message or batch; read 2026-11.
const BODY_MAX: usize = 1 << 20;

pub(super) fn call(lab: &mut Lab, operation: &str, input: &Value, host: &str) -> Result<Reply, Fault> {
    match operation {
        "ReceiveMessage" => return receive(lab, input),
        "DeleteMessage" => delete(lab, input),
        "DeleteMessageBatch" => delete_batch(lab, input),
        "ChangeMessageVisibility" => change(lab, input),
        "ChangeMessageVisibilityBatch" => change_batch(lab, input),
        "SendMessage" => send(lab, input),
        "SendMessageBatch" => send_batch(lab, input),
        "GetQueueUrl" => queue_url(lab, input, host),
        "GetQueueAttributes" => attributes(lab, input),
        "ListQueues" => Ok(list(lab, input, host)),
        "PurgeQueue" => purge(lab, input),
        _ => Err(Fault::not_served(&format!("sqs:{operation}"))),
    }
    .map(Reply::Value)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfQueue {
    queue_url: String,
}

fn missing() -> Fault {
    Fault::new("QueueDoesNotExist", "The specified queue does not exist.")
}

/// The name of the queue that an input means.
fn name_of(lab: &Lab, input: &Value) -> Result<String, Fault> {
    let asked: OfQueue = read(input)?;
    let name = asked.queue_url.rsplit('/').next().unwrap_or_default().to_owned();
    if lab.queues.contains_key(&name) { Ok(name) } else { Err(missing()) }
}

fn queue<'a>(lab: &'a mut Lab, input: &Value) -> Result<&'a mut Queue, Fault> {
    let name = name_of(lab, input)?;
    lab.queues.get_mut(&name).ok_or_else(missing)
}

fn out_of_range(name: &str, range: &str) -> Fault {
    Fault::new(
        "InvalidParameterValue",
        format!("Value for parameter {name} is invalid. Reason: Must be {range}."),
    )
}

fn visibility(given: Option<i64>, default: u32) -> Result<i64, Fault> {
    let seconds = given.unwrap_or_else(|| i64::from(default));
    if !(0..=VISIBILITY_MAX_S).contains(&seconds) {
        return Err(out_of_range("VisibilityTimeout", "between 0 and 43200"));
    }
    Ok(seconds * 1000)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receive {
    max_number_of_messages: Option<usize>,
    visibility_timeout: Option<i64>,
    wait_time_seconds: Option<i64>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
}

fn receive(lab: &mut Lab, input: &Value) -> Result<Reply, Fault> {
    let asked: Receive = read(input)?;
    let (now, wall) = (lab.client_now(), lab.wall);
    let most = asked.max_number_of_messages.unwrap_or(1);
    if !(1..=BATCH_MAX).contains(&most) {
        return Err(out_of_range("MaxNumberOfMessages", "between 1 and 10"));
    }
    let wait = asked.wait_time_seconds.unwrap_or(0);
    if !(0..=WAIT_MAX_S).contains(&wait) {
        return Err(out_of_range("WaitTimeSeconds", "between 0 and 20"));
    }
    let queue = queue(lab, input)?;
    let visibility = visibility(asked.visibility_timeout, queue.visibility_s)?;
    let (received, dead) = queue.receive(now, most, visibility);
    if let Some((name, _)) = queue.dead_letters.clone() {
        let number = dead.len();
        let to = lab.queues.get_mut(&name);
        let kept = to.map_or(0, |to| {
            dead.into_iter()
                .filter(|message| to.send(message.id.to_string(), message.body.to_string(), now))
                .count()
        });
        if number > 0 {
            lab.records.note(lab.live.now(), "dead letter", format!("{kept} messages went to {name}"));
        }
    }
    if received.is_empty() && wait > 0 {
        return Ok(Reply::Wait { until: wall + wait * 1000 });
    }
    let names: Vec<&String> =
        asked.attribute_names.iter().chain(&asked.message_system_attribute_names).collect();
    let messages: Vec<Value> =
        received.iter().map(|(receipt, message)| message_value(receipt, message, &names)).collect();
    Ok(Reply::Value(if messages.is_empty() { json!({}) } else { json!({ "Messages": messages }) }))
}

fn message_value(receipt: &str, message: &Message, names: &[&String]) -> Value {
    let mut attributes = Map::new();
    for (name, value) in [
        ("SenderId", "AIDALAB".to_owned()),
        ("SentTimestamp", message.sent_at.to_string()),
        ("ApproximateReceiveCount", message.received.to_string()),
        ("ApproximateFirstReceiveTimestamp", message.first_received_at.to_string()),
    ] {
        if names.iter().any(|asked| *asked == name || *asked == "All") {
            attributes.insert(name.to_owned(), json!(value));
        }
    }
    let mut value = json!({
        "MessageId": *message.id,
        "ReceiptHandle": receipt,
        "MD5OfBody": md5(&message.body),
        "Body": *message.body,
    });
    if !attributes.is_empty() {
        value["Attributes"] = Value::Object(attributes);
    }
    value
}

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn of_receipt(error: ReceiptError) -> Fault {
    match error {
        ReceiptError::Invalid => Fault::new("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        ReceiptError::NotInFlight => Fault::new(
            "MessageNotInflight",
            "Value for parameter VisibilityTimeout is invalid. Reason: Message does not exist or is not available \
             for visibility timeout change.",
        ),
    }
}

/// One entry of a batch, or the whole input of the single form.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default)]
    id: String,
    #[serde(default)]
    receipt_handle: String,
    visibility_timeout: Option<i64>,
    #[serde(default)]
    message_body: String,
    #[serde(default)]
    delay_seconds: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch {
    entries: Vec<Entry>,
}

fn batch(input: &Value) -> Result<Vec<Entry>, Fault> {
    let asked: Batch = read(input)?;
    if asked.entries.is_empty() {
        return Err(Fault::new("EmptyBatchRequest", "There should be at least one entry in the request."));
    }
    if asked.entries.len() > BATCH_MAX {
        return Err(Fault::new(
            "TooManyEntriesInBatchRequest",
            "Maximum number of entries per request are 10.",
        ));
    }
    for (index, entry) in asked.entries.iter().enumerate() {
        if asked.entries[..index].iter().any(|other| other.id == entry.id) {
            let message = format!("Id {} repeated.", entry.id);
            return Err(Fault::new("BatchEntryIdsNotDistinct", message));
        }
    }
    Ok(asked.entries)
}

fn batched(input: &Value, mut each: impl FnMut(&Entry) -> Result<Value, Fault>) -> Result<Value, Fault> {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for entry in batch(input)? {
        match each(&entry) {
            Ok(mut value) => {
                value["Id"] = json!(entry.id);
                done.push(value);
            }
            Err(fault) => failed.push(json!({
                "Id": entry.id, "SenderFault": true, "Code": fault.code, "Message": fault.message,
            })),
        }
    }
    Ok(json!({ "Successful": done, "Failed": failed }))
}

fn delete(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let entry: Entry = read(input)?;
    let now = lab.client_now();
    queue(lab, input)?.delete(&entry.receipt_handle, now).map_err(of_receipt)?;
    Ok(json!({}))
}

fn delete_batch(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let now = lab.client_now();
    let queue = queue(lab, input)?;
    batched(input, |entry| queue.delete(&entry.receipt_handle, now).map(|()| json!({})).map_err(of_receipt))
}

fn change(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let entry: Entry = read(input)?;
    let now = lab.client_now();
    change_one(queue(lab, input)?, &entry, now)
}

fn change_one(queue: &mut Queue, entry: &Entry, now: i64) -> Result<Value, Fault> {
    let ms = visibility(Some(entry.visibility_timeout.unwrap_or(-1)), 0)?;
    queue.change(&entry.receipt_handle, now, ms).map_err(of_receipt)?;
    Ok(json!({}))
}

fn change_batch(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let now = lab.client_now();
    let queue = queue(lab, input)?;
    batched(input, |entry| change_one(queue, entry, now))
}

fn send(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let entry: Entry = read(input)?;
    let name = name_of(lab, input)?;
    send_one(lab, &name, &entry)
}

fn send_one(lab: &mut Lab, name: &str, entry: &Entry) -> Result<Value, Fault> {
    if entry.message_body.is_empty() {
        return Err(Fault::new("MissingParameter", "The request must contain the parameter MessageBody."));
    }
    if entry.message_body.len() > BODY_MAX {
        return Err(out_of_range("MessageBody", "shorter than 1048576 bytes"));
    }
    if entry.delay_seconds != 0 {
        return Err(out_of_range("DelaySeconds", "0: lifeboat lab has no delayed messages"));
    }
    let id = uuid(lab.live.draw(), lab.live.draw());
    let now = lab.client_now();
    let queue = lab.queues.get_mut(name).ok_or_else(missing)?;
    if !queue.send(id.clone(), entry.message_body.clone(), now) {
        return Err(Fault::new("OverLimit", "lifeboat lab keeps a million messages a queue."));
    }
    Ok(json!({ "MessageId": id, "MD5OfMessageBody": md5(&entry.message_body) }))
}

fn send_batch(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let name = name_of(lab, input)?;
    batched(input, |entry| send_one(lab, &name, entry))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    #[serde(default)]
    queue_name: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

fn url(lab: &Lab, name: &str, host: &str) -> String {
    format!("http://{host}/{}/{name}", lab.names.account)
}

fn queue_url(lab: &Lab, input: &Value, host: &str) -> Result<Value, Fault> {
    let asked: Named = read(input)?;
    if !lab.queues.contains_key(&asked.queue_name) {
        return Err(missing());
    }
    Ok(json!({ "QueueUrl": url(lab, &asked.queue_name, host) }))
}

fn list(lab: &Lab, input: &Value, host: &str) -> Value {
    let prefix = input["QueueNamePrefix"].as_str().unwrap_or_default();
    let names = lab.queues.keys().filter(|name| name.starts_with(prefix));
    json!({ "QueueUrls": names.map(|name| url(lab, name, host)).collect::<Vec<_>>() })
}

fn attributes(lab: &Lab, input: &Value) -> Result<Value, Fault> {
    let asked: Named = read(input)?;
    let name = name_of(lab, input)?;
    let queue = lab.queues.get(&name).ok_or_else(missing)?;
    let depth = queue.depth();
    let mut all = vec![
        ("ApproximateNumberOfMessages", depth.visible.to_string()),
        ("ApproximateNumberOfMessagesNotVisible", depth.in_flight.to_string()),
        ("ApproximateNumberOfMessagesDelayed", "0".to_owned()),
        ("QueueArn", lab.names.arn("sqs", &name)),
        ("VisibilityTimeout", queue.visibility_s.to_string()),
        ("MaximumMessageSize", BODY_MAX.to_string()),
        ("MessageRetentionPeriod", "345600".to_owned()),
        ("DelaySeconds", "0".to_owned()),
        ("ReceiveMessageWaitTimeSeconds", "0".to_owned()),
    ];
    if let Some((dead, receives)) = &queue.dead_letters {
        let policy =
            json!({ "deadLetterTargetArn": lab.names.arn("sqs", dead), "maxReceiveCount": receives });
        all.push(("RedrivePolicy", policy.to_string()));
    }
    let wanted = |name: &str| asked.attribute_names.iter().any(|asked| asked == name || asked == "All");
    let found: Map<String, Value> = all
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    Ok(json!({ "Attributes": found }))
}

fn purge(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    queue(lab, input)?.purge();
    Ok(json!({}))
}

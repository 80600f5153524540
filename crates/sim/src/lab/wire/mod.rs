//! AWS's wire protocols: what a request asks for, and how an answer looks. The operations themselves are in one file
//! a service.
//!
//! * `protocol`: JSON 1.0 and 1.1, RPC v2 CBOR, query; from bytes to one form of value and back.
//! * `ecs`, `sqs`: the two that the world lives in.
//! * `publish`: CloudWatch, SNS and SSM, which only take something in.

pub(crate) mod ecs;
pub(crate) mod protocol;
pub(crate) mod publish;
pub(crate) mod sqs;

use lifeboat_core::time::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::state::Lab;

/// Which service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Ecs,
    Sqs,
    CloudWatch,
    Sns,
    Ssm,
}

impl Api {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ecs => "ecs",
            Self::Sqs => "sqs",
            Self::CloudWatch => "cloudwatch",
            Self::Sns => "sns",
            Self::Ssm => "ssm",
        }
    }
}

/// An error as AWS words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The name, such as `ServiceNotFoundException`.
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) status: u16,
}

impl Fault {
    /// The caller's mistake.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), status: 400 }
    }

    pub(crate) fn throttled() -> Self {
        Self::new("ThrottlingException", "Rate exceeded")
    }

    pub(crate) fn server() -> Self {
        Self {
            code: "ServerException".to_owned(),
            message: "Service Unavailable. Please try again later.".to_owned(),
            status: 500,
        }
    }

    /// What AWS has and the lab has not.
    pub(crate) fn not_served(what: &str) -> Self {
        Self::new(
            "UnknownOperationException",
            format!(
                "lifeboat lab does not serve {what}; DynamoDB and the rest need another stand-in, such as moto"
            ),
        )
    }
}

/// What a call comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// The answer.
    Value(Value),
    /// Nothing is there yet, and the caller waits for it until then, by the wall.
    Wait { until: i64 },
}

/// Carries a call out.
pub(crate) fn call(
    lab: &mut Lab,
    api: Api,
    operation: &str,
    input: &Value,
    host: &str,
) -> Result<Reply, Fault> {
    match api {
        Api::Ecs => ecs::call(lab, operation, input).map(Reply::Value),
        Api::Sqs => sqs::call(lab, operation, input, host),
        Api::CloudWatch | Api::Sns | Api::Ssm => publish::call(lab, api, operation, input).map(Reply::Value),
    }
}

/// The input in the form that the operation takes.
pub(crate) fn read<T: DeserializeOwned>(input: &Value) -> Result<T, Fault> {
    T::deserialize(input).map_err(|error| Fault::new("SerializationException", error.to_string()))
}

/// Seconds since 1970 with a fraction, as the JSON protocols write a time.
pub(crate) fn epoch_s(stamp: i64) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "exact to the millisecond for 285,000 years")]
    let seconds = stamp as f64 / 1000.0;
    serde_json::json!(seconds)
}

/// What a call asked for, short enough for a line.
pub(crate) fn summary(input: &Value) -> String {
    let mut text = String::new();
    for key in [
        "service",
        "services",
        "serviceName",
        "tasks",
        "desiredCount",
        "desiredStatus",
        "QueueUrl",
        "Namespace",
        "TopicArn",
        "InstanceIds",
        "MaxNumberOfMessages",
        "Entries",
        "VisibilityTimeout",
    ] {
        let part = match input.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) if list.len() > 1 => format!("{} {key}", list.len()),
            Some(Value::Array(list)) => format!("{key} {}", list.first().map(last_part).unwrap_or_default()),
            Some(other) => format!("{key} {}", last_part(other)),
        };
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&part);
    }
    text
}

fn last_part(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let last = text.rsplit('/').next().unwrap_or(&text).to_owned();
    last.chars().take(60).collect()
}

/// The moment `ms` after now.
pub(crate) fn later(now: Timestamp, ms: u64) -> Timestamp {
    now + lifeboat_core::time::Millis(ms)
}

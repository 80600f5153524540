//! Which ECS task this is, and what it may use: the task metadata endpoint, version 4. There is no instance metadata on
//! Fargate; this is asked once, at the start, and announces nothing.

use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};

use crate::client::deadline_in;
use crate::clock::WallClock;
use crate::connection::{Body, Connection, Connector};
use crate::endpoint::{Endpoint, EndpointError};
use crate::wire::bounded;

/// The variable that every container of a task has.
/// Source: <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate.html> (read
/// 2023-06), as for the fields here.
pub const URI_VARIABLE: &str = "ECS_CONTAINER_METADATA_URI_V4";

/// The link-local address of the endpoint; same source.
const HOST: &str = "169.254.170.2";

/// An ECS task. What the endpoint does not say is `None` or empty; nothing is guessed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Task {
    /// As `arn:aws:ecs:eu-west-1:123456789012:task/cluster/0123456789abcdef0123456789abcdef`.
    pub arn: String,
    /// The cluster's ARN or name.
    pub cluster: Option<String>,
    /// The task definition: family and revision, `worker:7`.
    pub definition: Option<String>,
    /// The service that runs it.
    pub service: Option<String>,
    /// As `eu-west-1a`.
    pub availability_zone: Option<String>,
    /// `FARGATE`, `EC2` or `EXTERNAL`.
    pub launch_type: Option<String>,
    /// How many virtual processors the whole task may use.
    pub cpu: Option<f64>,
    /// How much memory the whole task may use, MiB.
    pub memory_mib: Option<u64>,
    /// Its private addresses, of version 4.
    pub addresses: Vec<String>,
}

/// Why the endpoint could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The variable holds what is no address.
    #[error("{URI_VARIABLE} is no address")]
    Address(#[from] EndpointError),
    /// The variable leads away from this task.
    #[error("{URI_VARIABLE} names {host}, which is neither {HOST} nor this machine")]
    Elsewhere {
        /// Where it leads.
        host: String,
    },
    /// No answer.
    #[error("the task metadata endpoint does not answer: {why}")]
    Unreachable {
        /// In a few words.
        why: String,
    },
    /// An answer that is none.
    #[error("the task metadata endpoint answered with {why}")]
    Unreadable {
        /// In a few words.
        why: String,
    },
}

/// Where the endpoint is; `None` outside of ECS.
///
/// # Errors
/// [`TaskError::Address`], [`TaskError::Elsewhere`].
pub fn endpoint_from_environment(
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Option<Endpoint>, TaskError> {
    let set = lookup(URI_VARIABLE).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let Some(text) = set else { return Ok(None) };
    let endpoint = Endpoint::parse(&text)?;
    let is_loopback = endpoint.host().parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    if endpoint.host() != HOST && !is_loopback {
        return Err(TaskError::Elsewhere { host: endpoint.host().to_owned() });
    }
    Ok(Some(endpoint))
}

/// Asks which task this is.
///
/// # Errors
/// [`TaskError::Unreachable`], [`TaskError::Unreadable`].
pub async fn task(endpoint: &Endpoint, within: Millis) -> Result<Task, TaskError> {
    let unreachable = |why: &dyn std::fmt::Display| TaskError::Unreachable { why: why.to_string() };
    let asking = async {
        let stream = Connector::tcp(endpoint).connect().await.map_err(|error| unreachable(&error))?;
        let mut connection = Connection::over(stream).await.map_err(|error| unreachable(&error))?;
        let request = hyper::Request::get(format!("{}/task", endpoint.base()))
            .header(hyper::header::HOST, endpoint.authority())
            .body(http_body_util::Empty::new())
            .map_err(|error| unreachable(&error))?;
        let wall = WallClock::new(|| lifeboat_core::time::Timestamp(0)); // no clock is compared
        connection.exchange(request, &wall).await.map_err(|error| unreachable(&error))
    };
    let reply = match tokio::time::timeout_at(deadline_in(within), asking).await {
        Ok(reply) => reply?,
        Err(_) => return Err(unreachable(&format_args!("nothing within {within}"))),
    };
    let unreadable = |why: String| TaskError::Unreadable { why };
    match (reply.status.as_u16(), reply.body) {
        (200, Body::Whole(body)) => read(&body).map_err(|error| unreadable(error.to_string())),
        (200, Body::TooLong) => Err(unreadable("more than it should".to_owned())),
        (status, _) => Err(unreadable(format!("the status {status}"))),
    }
}

impl Task {
    /// The last part of the ARN.
    #[must_use]
    pub fn id(&self) -> &str {
        self.arn.rsplit('/').next().unwrap_or_default()
    }

    /// The region that the ARN names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.arn.split(':').nth(3).filter(|region| !region.is_empty())
    }

    /// Whether it runs on Fargate, where there is no instance metadata.
    #[must_use]
    pub fn is_fargate(&self) -> bool {
        self.launch_type.as_deref() == Some("FARGATE")
    }
}

/// What is on the wire.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Wire {
    cluster: Option<String>,
    #[serde(rename = "TaskARN")]
    arn: String,
    family: Option<String>,
    revision: Option<String>,
    service_name: Option<String>,
    availability_zone: Option<String>,
    launch_type: Option<String>,
    limits: Limits,
    containers: Vec<Container>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Limits {
    #[serde(rename = "CPU")]
    cpu: Option<f64>,
    #[serde(rename = "Memory")]
    memory: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Container {
    networks: Vec<Network>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network {
    #[serde(rename = "IPv4Addresses")]
    addresses: Vec<String>,
}

fn read(body: &[u8]) -> Result<Task, serde_json::Error> {
    let wire: Wire = serde_json::from_slice(body)?;
    let text = |text: Option<String>| text.map(|text| bounded(text.trim())).filter(|text| !text.is_empty());
    let mut addresses: Vec<String> = wire
        .containers
        .into_iter()
        .flat_map(|container| container.networks)
        .flat_map(|network| network.addresses)
        .map(|address| bounded(&address))
        .collect();
    // The containers of a task share its network.
    addresses.sort_unstable();
    addresses.dedup();
    let definition = match (text(wire.family), text(wire.revision)) {
        (Some(family), Some(revision)) => Some(format!("{family}:{revision}")),
        (family, _) => family,
    };
    Ok(Task {
        arn: bounded(&wire.arn),
        cluster: text(wire.cluster),
        definition,
        service: text(wire.service_name),
        availability_zone: text(wire.availability_zone),
        launch_type: text(wire.launch_type),
        cpu: wire.limits.cpu,
        memory_mib: wire.limits.memory,
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shortened from the example in the ECS guide, "Amazon ECS task metadata v4" on Fargate.
    const ANSWER: &str = r#"{
        "Cluster": "arn:aws:ecs:us-west-2:111122223333:cluster/default",
        "TaskARN": "arn:aws:ecs:us-west-2:111122223333:task/default/e9028f8d5d8e4f258373e7b93ce9a3c3",
        "Family": "curltest", "Revision": "3", "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
        "Limits": { "CPU": 0.25, "Memory": 512 },
        "PullStartedAt": "2020-10-08T20:47:16.053330955Z",
        "AvailabilityZone": "us-west-2a",
        "Containers": [ { "DockerId": "e9028f8d-895858941", "Name": "curl",
            "Networks": [ { "NetworkMode": "awsvpc", "IPv4Addresses": ["192.0.2.3"],
                "MACAddress": "0a:de:f6:10:51:e5" } ] } ],
        "LaunchType": "FARGATE" }"#;

    #[test]
    fn a_documented_answer_is_understood() {
        let task = read(ANSWER.as_bytes()).expect("valid");
        assert_eq!(task.id(), "e9028f8d5d8e4f258373e7b93ce9a3c3");
        assert_eq!((task.region(), task.is_fargate()), (Some("us-west-2"), true));
        assert_eq!(task.definition.as_deref(), Some("curltest:3"));
        assert_eq!(task.availability_zone.as_deref(), Some("us-west-2a"));
        assert_eq!((task.cpu, task.memory_mib), (Some(0.25), Some(512)));
        assert_eq!(task.addresses, ["192.0.2.3"]);
        assert_eq!(read(b"{}").expect("valid"), Task::default(), "nothing is guessed");
    }

    #[test]
    fn only_the_tasks_own_endpoint_is_asked() {
        let at = |uri: &'static str| endpoint_from_environment(move |_| Some(uri.to_owned()));
        assert_eq!(at("").expect("unset"), None);
        let own = at("http://169.254.170.2/v4/e9028f8d-895858941").expect("valid").expect("set");
        assert_eq!((own.host(), own.base()), ("169.254.170.2", "/v4/e9028f8d-895858941"));
        assert!(at("http://127.0.0.1:1234/v4/x").expect("valid").is_some());
        for elsewhere in ["http://169.254.169.254/v4/x", "http://example.com/v4/x", "https://169.254.170.2/"]
        {
            at(elsewhere).expect_err(elsewhere);
        }
    }
}

//! The sections of the configuration that name a cloud's services, checked. What speaks to them is handed in with
//! [`crate::Ports`].

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, Span, senseless};

/// Between two heartbeats, where nothing else is configured. A hook's own time-out is 30 s at least.
/// Source: Auto Scaling API reference, `PutLifecycleHook` (read 2023).
const HEARTBEAT: Duration = Duration::from_secs(15);

/// `[aws]`: which AWS; what is missing is found as the AWS SDKs find it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AwsConfig {
    /// Such as `eu-west-1`.
    pub region: Option<String>,
    /// A profile of the shared files.
    pub profile: Option<String>,
    /// In place of every service's address.
    pub endpoint: Option<String>,
}

/// `[auto_scaling]`: the lifecycle hook that waits for the evacuation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoScalingConfig {
    /// The group; default: the one that the instance is in.
    pub group: Option<String>,
    /// The hook. Without it no lifecycle action is completed.
    pub hook: Option<String>,
    /// The token of the lifecycle action, where whoever starts `lifeboat evacuate` has it from the event.
    pub token: Option<String>,
    /// Between two heartbeats while the evacuation lasts.
    pub heartbeat: Option<Span>,
}

/// `[load_balancer]`: the groups that this machine leaves before its workload is stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancerConfig {
    /// The target groups' ARNs. Without any nothing is deregistered.
    pub target_groups: Vec<String>,
    /// What the groups call this machine: an instance's id or an address. Default: the address of the ECS task, else the
    /// instance's id.
    pub target: Option<String>,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The CloudWatch namespace. Without it nothing is published.
    pub namespace: Option<String>,
    /// Where the agent serves what it counts to Prometheus: an address on loopback.
    #[serde(deserialize_with = "address_and_port")]
    pub prometheus: Option<SocketAddr>,
    /// Whether that address may be one that other machines reach: nobody is asked who they are.
    pub prometheus_public: Option<bool>,
}

/// `[alerts]`: who is told at the start and at the end of an evacuation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertsConfig {
    /// An SNS topic's ARN.
    pub sns: Option<String>,
    /// The environment variable that holds the address of a Slack-compatible webhook: the address is a secret.
    pub webhook_env: Option<String>,
    /// Said at the start, with `{workload}`, `{instance}`, `{action}`, `{sources}`, `{deadline}`.
    pub start: Option<String>,
    /// Said at the end, with `{verdict}`, `{took}` and `{table}`, too.
    pub end: Option<String>,
    /// Where an incomplete evacuation is told in place of the above.
    pub critical: ChannelConfig,
}

/// `[alerts.critical]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelConfig {
    /// An SNS topic's ARN.
    pub sns: Option<String>,
    /// The environment variable that holds the address of a webhook.
    pub webhook_env: Option<String>,
}

/// The checked sections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cloud {
    /// Which AWS.
    pub aws: AwsConfig,
    /// The hook.
    pub auto_scaling: AutoScalingConfig,
    /// Who sends requests here.
    pub load_balancer: LoadBalancerConfig,
    /// Where metrics go.
    pub metrics: MetricsConfig,
    /// Who is told.
    pub alerts: AlertsConfig,
}

impl Cloud {
    /// Checks what the configuration says.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        let is_address = |text: &String| text.starts_with("http://") || text.starts_with("https://");
        if self.aws.endpoint.as_ref().is_some_and(|text| !is_address(text)) {
            return Err(senseless("aws.endpoint", "must be an address: http://HOST:PORT or https://HOST"));
        }
        let scaling = &self.auto_scaling;
        if scaling.hook.is_none() && (scaling.group.is_some() || scaling.token.is_some()) {
            return Err(senseless("auto_scaling.hook", "must be given with `group` or `token`"));
        }
        if scaling.heartbeat.is_some_and(|span| span.0.to_duration() < Duration::from_secs(1)) {
            return Err(senseless("auto_scaling.heartbeat", "must be at least 1s"));
        }
        let groups = &self.load_balancer.target_groups;
        if let Some(group) =
            groups.iter().find(|arn| !(arn.starts_with("arn:") && arn.contains(":targetgroup/")))
        {
            return Err(senseless(
                "load_balancer.target_groups",
                &format!(
                    "must list ARNs, `arn:aws:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID`, and {group:?} is none"
                ),
            ));
        }
        if groups.is_empty() && self.load_balancer.target.is_some() {
            return Err(senseless("load_balancer.target", "must be given with `target_groups`"));
        }
        let namespace = self.metrics.namespace.as_deref();
        // Source: CloudWatch API reference, `PutMetricData` (read 2023).
        if namespace.is_some_and(|name| name.is_empty() || name.len() > 255 || name.starts_with("AWS/")) {
            return Err(senseless(
                "metrics.namespace",
                "must have 1 to 255 characters and not begin with `AWS/`",
            ));
        }
        let metrics = &self.metrics;
        let is_public = metrics.prometheus.is_some_and(|address| !address.ip().is_loopback());
        if is_public && metrics.prometheus_public != Some(true) {
            return Err(senseless(
                "metrics.prometheus",
                "serves without authentication: choose an address on loopback (\"127.0.0.1:9464\"), or say \
                 prometheus_public = true",
            ));
        }
        let topics = [("alerts.sns", &self.alerts.sns), ("alerts.critical.sns", &self.alerts.critical.sns)];
        for (key, topic) in topics {
            if topic.as_deref().is_some_and(|arn| !arn.starts_with("arn:")) {
                return Err(senseless(key, "must be the ARN of a topic: `arn:aws:sns:REGION:ACCOUNT:NAME`"));
            }
        }
        let critical = &self.alerts.critical;
        let hooks = [
            ("alerts.webhook_env", &self.alerts.webhook_env),
            ("alerts.critical.webhook_env", &critical.webhook_env),
        ];
        for (key, variable) in hooks {
            // Without what was written: it may be the address, which is a secret.
            if variable.as_deref().is_some_and(|name| !is_variable(name)) {
                return Err(senseless(
                    key,
                    "must be the name of an environment variable that holds the address: \"SLACK_WEBHOOK\"",
                ));
            }
        }
        Ok(self)
    }

    /// Between two heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        self.auto_scaling.heartbeat.map_or(HEARTBEAT, |span| span.0.to_duration())
    }
}

/// Source: POSIX.1-2017, "Environment variables": portable names.
fn is_variable(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

fn address_and_port<'de, D: serde::Deserializer<'de>>(written: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(written)?;
    let address = text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "`{text}` is no address with a port; write for example \"127.0.0.1:9464\""
        ))
    })?;
    Ok(Some(address))
}

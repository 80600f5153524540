//! `lifeboat policy`: the permissions that a configuration needs, and no more, as an IAM policy.

use std::path::Path;

use anyhow::Context;
use lifeboat_agent::Settings;
use lifeboat_snapshot::StoreUrl;
use serde_json::{Value, json};

/// Prints the policy for the configuration in `file`.
pub(crate) fn print(file: &Path) -> anyhow::Result<u8> {
    let (config, settings) = super::config::checked(file)?;
    let store = config.store.as_deref().map(str::parse::<StoreUrl>).transpose();
    let store = store.with_context(|| format!("{} names a store that makes no sense", file.display()))?;
    let policy = json!({ "Version": "2012-10-17", "Statement": statements(&settings, store.as_ref()) });
    crate::output::result(&serde_json::to_string_pretty(&policy)?)?;
    Ok(0)
}

/// One statement a service.
///
/// Source: AWS Service Authorization Reference (read 2023): which actions can be limited to which resources. The
/// describing calls of Auto Scaling and `PutMetricData` cannot; the latter can be limited to a namespace.
fn statements(settings: &Settings, store: Option<&StoreUrl>) -> Vec<Value> {
    let mut all = Vec::new();
    let mut allow = |id: &str, actions: &[&str], resources: &[String]| {
        all.push(json!({ "Sid": id, "Effect": "Allow", "Action": actions, "Resource": resources }));
    };
    if let Some(StoreUrl::S3(url)) = store {
        let bucket = format!("arn:aws:s3:::{}", url.bucket);
        let below = if url.prefix.is_empty() { "*".to_owned() } else { format!("{}/*", url.prefix) };
        allow("StoreList", &["s3:ListBucket"], std::slice::from_ref(&bucket));
        let objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"];
        allow("StoreObjects", &objects, &[format!("{bucket}/{below}")]);
    }
    if let Some(queue) = &settings.queue_url {
        allow("Queue", &["sqs:ChangeMessageVisibility"], &[queue_arn(queue)]);
    }
    if let Some(table) = settings.state.as_deref().and_then(|url| url.strip_prefix("dynamodb://")) {
        // Reading is `lifeboat show`.
        let actions = ["dynamodb:PutItem", "dynamodb:GetItem"];
        allow("State", &actions, &[format!("arn:aws:dynamodb:*:*:table/{table}")]);
    }
    let cloud = &settings.cloud;
    if cloud.auto_scaling.hook.is_some() {
        let group = cloud.auto_scaling.group.as_deref().unwrap_or("*");
        let actions = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"];
        let groups = format!("arn:aws:autoscaling:*:*:autoScalingGroup:*:autoScalingGroupName/{group}");
        allow("Hook", &actions, &[groups]);
        if cloud.auto_scaling.group.is_none() {
            allow("FindGroup", &["autoscaling:DescribeAutoScalingInstances"], &["*".to_owned()]);
        }
    }
    let groups = &cloud.load_balancer.target_groups;
    if !groups.is_empty() {
        allow("LeaveLoadBalancer", &["elasticloadbalancing:DeregisterTargets"], groups);
        // It cannot be limited to a group.
        allow("SeeWhetherDrained", &["elasticloadbalancing:DescribeTargetHealth"], &["*".to_owned()]);
    }
    let topics: Vec<String> =
        [&cloud.alerts.sns, &cloud.alerts.critical.sns].into_iter().flatten().cloned().collect();
    if !topics.is_empty() {
        allow("Alerts", &["sns:Publish"], &topics);
    }
    if let Some(namespace) = &cloud.metrics.namespace {
        all.push(json!({
            "Sid": "Metrics", "Effect": "Allow", "Action": ["cloudwatch:PutMetricData"], "Resource": ["*"],
            "Condition": { "StringEquals": { "cloudwatch:namespace": namespace } },
        }));
    }
    all
}

/// A queue's ARN from its URL, `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`; of what it does not tell, any.
fn queue_arn(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let mut parts = rest.split('/');
    let host = parts.next().unwrap_or_default();
    let region = host.strip_prefix("sqs.").and_then(|host| host.split('.').next()).unwrap_or("*");
    let account = parts.next().unwrap_or("*");
    let name = parts.next().unwrap_or("*");
    format!("arn:aws:sqs:{region}:{account}:{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_s_arn_is_in_its_url() {
        let arn = queue_arn("https://sqs.eu-west-1.amazonaws.com/123456789012/work");
        assert_eq!(arn, "arn:aws:sqs:eu-west-1:123456789012:work");
        assert_eq!(queue_arn("http://127.0.0.1:5000/123456789012/work"), "arn:aws:sqs:*:123456789012:work");
    }
}

//! What the configuration names in AWS: looked at, and tried where trying changes nothing.
//!
//! Every call here reads, or is a write that cannot succeed. What only an effect could prove (a completed hook, a
//! published message, a message's visibility, a metric) is named with its IAM action, and not tried.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_agent::Settings;
use lifeboat_aws::autoscaling::Group as AwsGroup;
use lifeboat_aws::dynamodb::{Condition, Item, Put};
use lifeboat_aws::elb::Health;
use lifeboat_aws::states::{PARTITION_KEY, SORT_KEY};
use lifeboat_aws::{Aws, AwsError, Kind, Operation};
use lifeboat_core::precondition::{Group, Hook, MaximumPrice, TargetGroup};
use lifeboat_core::time::Millis;
use lifeboat_snapshot::StoreUrl;
use tokio::time::Instant;

use super::{Finding, Verdict};

/// All of it, its own tries included.
const WITHIN: Duration = Duration::from_secs(10);

/// The key of an item that nobody has: no workload is called so, for the space in it.
const NOBODY: &str = "lifeboat doctor";

/// What was found, and the facts that are judged elsewhere.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    pub(super) groups: Vec<Group>,
    pub(super) target_groups: Vec<TargetGroup>,
}

/// AWS, and the end of the time for asking it.
struct Asked {
    aws: Aws,
    until: Instant,
}

impl Asked {
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// Who needs what was denied.
#[derive(Clone, Copy)]
pub(super) enum Needs {
    /// An evacuation.
    Agent,
    /// This look alone.
    Doctor,
}

/// Looks at everything side by side. `instance` is this machine's id, where it is known.
pub(super) async fn look(settings: &Settings, store: Option<&StoreUrl>, instance: Option<&str>) -> Seen {
    let aws = crate::wiring::aws(&settings.cloud);
    let asked = Asked { aws, until: Instant::now() + WITHIN };
    let mut seen = Seen::default();
    let (queue, table, topics, group, balanced) = tokio::join!(
        Box::pin(queue(&asked, settings)),
        Box::pin(table(&asked, settings)),
        Box::pin(topics(&asked, settings)),
        Box::pin(group(&asked, settings, instance)),
        Box::pin(balancers(&asked, settings, instance)),
    );
    for part in [queue, table, topics, group.findings, balanced.findings] {
        seen.findings.extend(part);
    }
    (seen.groups, seen.target_groups) = (group.groups, group.target_groups);
    for one in balanced.target_groups {
        // The group may register its instances with the same.
        if seen.target_groups.iter().all(|known| known.arn != one.arn) {
            seen.target_groups.push(one);
        }
    }
    seen.findings.extend(webhooks(settings));
    if let Some(namespace) = &settings.cloud.metrics.namespace {
        seen.findings.extend(not_tried(Operation::PutMetricData, &format!("the namespace {namespace}")));
    }
    if let Some(StoreUrl::S3(url)) = store {
        let what = format!("the bucket {}", url.bucket);
        seen.findings.push(untried("s3:AbortMultipartUpload", &what));
    }
    seen
}

async fn queue(asked: &Asked, settings: &Settings) -> Vec<Finding> {
    let check = "queue";
    let Some(url) = settings.queue_url.as_deref().filter(|url| url.starts_with("http")) else {
        return Vec::new();
    };
    let mut found = vec![match asked.aws.sqs().attributes(url, asked.left()).await {
        Ok(attributes) => {
            let seconds = attributes.visibility.map_or(0, |time| time.as_secs());
            let count = attributes.in_flight.unwrap_or(0);
            let what = format!("about {count} messages in flight, invisible for {seconds} s by default");
            match attributes.dead_letters {
                Some(_) => about(check, url, Verdict::Ok, what, None),
                None => {
                    let remedy =
                        "give it a dead-letter queue: a message that ends every worker comes back for ever";
                    about(check, url, Verdict::Warn, what + ", without a dead-letter queue", Some(remedy))
                }
            }
        }
        Err(error) => failed(check, url, &error, Needs::Doctor),
    }];
    found.extend(not_tried(Operation::ChangeMessageVisibilityBatch, url));
    found
}

async fn table(asked: &Asked, settings: &Settings) -> Vec<Finding> {
    let check = "state table";
    let name = settings.state.as_deref().and_then(|url| url.strip_prefix("dynamodb://"));
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Vec::new() };
    let mut found = Vec::new();
    match asked.aws.dynamodb().table(name, asked.left()).await {
        Ok(table) => {
            let is_right =
                table.partition_key == PARTITION_KEY && table.sort_key.as_deref() == Some(SORT_KEY);
            let sort = table.sort_key.as_deref().unwrap_or("none");
            let keys = format!("{}, its keys are {} and {sort}", table.status, table.partition_key);
            found.push(if is_right {
                about(check, name, Verdict::Ok, keys, None)
            } else {
                let remedy = "create it with the partition key `workload` and the sort key `instance_time`, both texts";
                about(check, name, Verdict::Fail, keys, Some(remedy))
            });
            if !is_right {
                return found;
            }
        }
        Err(error) => {
            let is_there = matches!(error.kind, Kind::Denied { .. });
            found.push(failed(check, name, &error, Needs::Doctor));
            if !is_there {
                return found;
            }
        }
    }
    let key = Item::from([(PARTITION_KEY.to_owned(), NOBODY.into()), (SORT_KEY.to_owned(), NOBODY.into())]);
    found.push(match asked.aws.dynamodb().get(name, key.clone(), asked.left()).await {
        Ok(_) => allowed(Operation::GetItem, name, "read a key that nobody has"),
        Err(error) => failed("permission", Operation::GetItem.iam_actions()[0], &error, Needs::Agent),
    });
    found.push(match asked.aws.dynamodb().put(name, key, Some(never()), asked.left()).await {
        Ok(Put::Refused { .. }) => {
            allowed(Operation::PutItem, name, "tried a write whose condition cannot hold")
        }
        Ok(Put::Written) => about(
            check,
            name,
            Verdict::Fail,
            "it wrote although the condition of the write cannot hold".to_owned(),
            Some("no state is safe in it: use DynamoDB itself"),
        ),
        Err(error) => failed("permission", Operation::PutItem.iam_actions()[0], &error, Needs::Agent),
    });
    found
}

/// Holds for no item, there or not.
fn never() -> Condition {
    Condition {
        expression: "attribute_exists(#key) AND attribute_not_exists(#key)".to_owned(),
        names: BTreeMap::from([("#key".to_owned(), PARTITION_KEY.to_owned())]),
        values: Item::new(),
    }
}

async fn topics(asked: &Asked, settings: &Settings) -> Vec<Finding> {
    let check = "alert topic";
    let alerts = &settings.cloud.alerts;
    let mut found = Vec::new();
    for topic in [&alerts.sns, &alerts.critical.sns].into_iter().flatten() {
        found.push(match asked.aws.sns().subscriptions(topic, asked.left()).await {
            Ok(Some(0)) => about(
                check,
                topic,
                Verdict::Warn,
                "is there, and nobody has confirmed a subscription".to_owned(),
                Some("subscribe, and confirm: aws sns subscribe --protocol email --topic-arn … "),
            ),
            Ok(Some(count)) => about(check, topic, Verdict::Ok, format!("{count} subscriptions"), None),
            Ok(None) => about(check, topic, Verdict::Ok, "is there".to_owned(), None),
            Err(error) => failed(check, topic, &error, Needs::Doctor),
        });
        found.extend(not_tried(Operation::Publish, topic));
    }
    found
}

fn webhooks(settings: &Settings) -> Vec<Finding> {
    let alerts = &settings.cloud.alerts;
    let variables = [&alerts.webhook_env, &alerts.critical.webhook_env].into_iter().flatten();
    let finding = |variable: &String| match crate::wiring::check_webhook(variable) {
        Ok(()) => {
            let what = "holds an address; nothing was sent there".to_owned();
            about("alert webhook", variable, Verdict::Ok, what, None)
        }
        Err(why) => {
            let remedy = "set it where the agent starts, in the unit's EnvironmentFile for example";
            about("alert webhook", variable, Verdict::Fail, why, Some(remedy))
        }
    };
    variables.map(finding).collect()
}

async fn group(asked: &Asked, settings: &Settings, instance: Option<&str>) -> Seen {
    let check = "Auto Scaling group";
    let scaling = &settings.cloud.auto_scaling;
    let mut seen = Seen::default();
    if scaling.hook.is_none() {
        return seen;
    }
    for operation in [Operation::CompleteLifecycleAction, Operation::RecordLifecycleActionHeartbeat] {
        seen.findings
            .extend(not_tried(operation, scaling.group.as_deref().unwrap_or("the instance's group")));
    }
    let name = match (&scaling.group, instance) {
        (Some(name), _) => name.clone(),
        (None, None) => {
            let what = "which group this is cannot be asked without the instance's id".to_owned();
            let remedy = "run the doctor on the instance, or set auto_scaling.group";
            seen.findings.push(about(check, "this machine", Verdict::Unknown, what, Some(remedy)));
            return seen;
        }
        (None, Some(id)) => match asked.aws.autoscaling().instance(id, asked.left()).await {
            Ok(Some(found)) => match found.group {
                Some(group) => group,
                None => return none_of(seen, check, id),
            },
            Ok(None) => return none_of(seen, check, id),
            Err(error) => {
                seen.findings.push(failed(check, id, &error, Needs::Agent));
                return seen;
            }
        },
    };
    let scaling = asked.aws.autoscaling();
    let (group, hooks) = tokio::join!(scaling.group(&name, asked.left()), scaling.hooks(&name, asked.left()));
    let mut facts = Group { name: name.clone(), ..Group::default() };
    match hooks {
        Ok(hooks) => facts.hooks = Some(hooks.iter().map(hook).collect()),
        Err(error) => seen.findings.push(failed("lifecycle hook", &name, &error, Needs::Doctor)),
    }
    match group {
        Ok(group) => {
            facts.rebalances = Some(group.has_capacity_rebalancing);
            facts.price = Some(price(&group));
            seen.target_groups = target_groups(asked, group.target_groups, &mut seen.findings).await;
        }
        Err(error) => seen.findings.push(failed(check, &name, &error, Needs::Doctor)),
    }
    seen.groups.push(facts);
    seen
}

fn none_of(mut seen: Seen, check: &'static str, id: &str) -> Seen {
    let remedy = "take [auto_scaling] out of the configuration, or attach the instance to the group";
    let what = "is in no Auto Scaling group, and a hook is configured".to_owned();
    seen.findings.push(about(check, id, Verdict::Warn, what, Some(remedy)));
    seen
}

fn hook(from: &lifeboat_aws::autoscaling::Hook) -> Hook {
    let timeout = from.heartbeat.map(|time| Millis::from_secs(time.as_secs()));
    Hook { name: from.name.clone(), is_terminating: from.is_terminating(), timeout }
}

fn price(group: &AwsGroup) -> MaximumPrice {
    group.spot_max_price.clone().map_or(MaximumPrice::NotSet, MaximumPrice::Set)
}

/// So many at most; a group is in few.
const TARGET_GROUPS_MAX: usize = 10;

async fn target_groups(asked: &Asked, arns: Vec<String>, findings: &mut Vec<Finding>) -> Vec<TargetGroup> {
    let mut all = Vec::new();
    for arn in arns.into_iter().take(TARGET_GROUPS_MAX) {
        let delay = match asked.aws.elb().deregistration_delay(&arn, asked.left()).await {
            Ok(delay) => delay.map(|time| Millis::from_secs(time.as_secs())),
            Err(error) => {
                findings.push(failed("target group", &arn, &error, Needs::Doctor));
                None
            }
        };
        all.push(TargetGroup { arn, delay });
    }
    all
}

/// The groups that this machine is to leave: whether it is in them, and how long they drain it.
async fn balancers(asked: &Asked, settings: &Settings, instance: Option<&str>) -> Seen {
    let config = &settings.cloud.load_balancer;
    let mut seen = Seen::default();
    let target = config.target.as_deref().or(instance);
    for arn in config.target_groups.iter().take(TARGET_GROUPS_MAX) {
        seen.findings.push(match asked.aws.elb().health(arn, &[], asked.left()).await {
            Ok(targets) => registered(arn, target, &targets),
            Err(error) => failed("target group", arn, &error, Needs::Agent),
        });
        seen.findings.extend(not_tried(Operation::DeregisterTargets, arn));
    }
    let arns = config.target_groups.clone();
    seen.target_groups = target_groups(asked, arns, &mut seen.findings).await;
    seen
}

fn registered(arn: &str, target: Option<&str>, targets: &[Health]) -> Finding {
    let check = "target group";
    let Some(target) = target else {
        let what = format!("has {} targets; which of them this is, is not known here", targets.len());
        let remedy = "run the doctor on the instance, or set load_balancer.target";
        return about(check, arn, Verdict::Unknown, what, Some(remedy));
    };
    match targets.iter().find(|health| health.target.id == target) {
        Some(health) => about(check, arn, Verdict::Ok, format!("{target} is in it, {}", health.state), None),
        None => {
            let what = format!("{target} is none of its {} targets", targets.len());
            let remedy = "where the group lists addresses, set load_balancer.target to this machine's";
            about(check, arn, Verdict::Warn, what, Some(remedy))
        }
    }
}

pub(super) fn about(
    check: &'static str,
    about: &str,
    verdict: Verdict,
    what: String,
    remedy: Option<&str>,
) -> Finding {
    Finding { check, about: Some(about.to_owned()), verdict, what, remedy: remedy.map(str::to_owned) }
}

fn allowed(operation: Operation, on: &str, how: &str) -> Finding {
    let action = operation.iam_actions()[0];
    about("permission", action, Verdict::Ok, format!("granted on {on}: {how}"), None)
}

fn not_tried(operation: Operation, on: &str) -> impl Iterator<Item = Finding> {
    operation.iam_actions().iter().map(move |action| untried(action, on))
}

fn untried(action: &str, on: &str) -> Finding {
    let what =
        format!("not tried, for it would have an effect on {on}; `lifeboat policy` prints what is needed");
    about("permission", action, Verdict::Skipped, what, None)
}

/// What a failed call says, by what can be done about it.
pub(super) fn failed(check: &'static str, on: &str, error: &AwsError, needs: Needs) -> Finding {
    let (verdict, remedy) = match (&error.kind, needs) {
        (Kind::Denied { action }, Needs::Doctor) => (
            Verdict::Unknown,
            format!("to have it looked at, allow {action}; an evacuation does not need it"),
        ),
        (Kind::Denied { action }, Needs::Agent) => (
            Verdict::Fail,
            format!("allow {action}; `lifeboat policy FILE` prints what the configuration needs"),
        ),
        (Kind::NoCredentials, _) => {
            (Verdict::Fail, "give this machine a role, a profile, or keys in the environment".to_owned())
        }
        (Kind::Expired, _) => (Verdict::Fail, "renew the credentials, and check the clock".to_owned()),
        (Kind::NotFound, _) => (Verdict::Fail, "check its name, the region and the account".to_owned()),
        (Kind::Throttled, _) => (Verdict::Unknown, "AWS asks for patience: try again in a minute".to_owned()),
        (Kind::Unavailable | Kind::TimedOut { .. }, _) => (
            Verdict::Fail,
            "check the region, and the way to AWS: a NAT gateway or a VPC end point".to_owned(),
        ),
        (Kind::Conflict | Kind::StaleReceipt | Kind::TooLarge { .. } | Kind::Invalid, _) => {
            (Verdict::Fail, "check what the configuration says of it".to_owned())
        }
    };
    about(check, on, verdict, error.to_string(), Some(&remedy))
}

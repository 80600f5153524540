//! Every call against moto, where moto has it: the SDK speaks what a server understands, and types mean what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_aws::dynamodb::{Condition, Item, Put, Query, Transacted, Value, Write};
use lifeboat_aws::ecs::Wanted;
use lifeboat_aws::elb::Target;
use lifeboat_aws::sqs::{Outgoing, Receive};
use lifeboat_aws::ssm::Command;
use lifeboat_aws::states::{PARTITION_KEY, SORT_KEY, State};
use lifeboat_aws::testing::{Moto, aws_at};
use lifeboat_aws::{Aws, Kind};
use serde_json::json;

/// Generous: the machine may be busy, and nothing here is about time.
const WITHIN: Duration = Duration::from_secs(60);

const NOW: Receive = Receive { max: 10, wait: Duration::ZERO, visibility: None };

fn started() -> Option<(Moto, Aws)> {
    let moto = Moto::start()?;
    let aws = aws_at(&moto.url());
    Some((moto, aws))
}

#[tokio::test]
async fn messages_are_sent_received_given_back_and_deleted() {
    let Some((moto, aws)) = started() else { return };
    let sqs = aws.sqs();
    let queue = moto.create_queue("work", &json!({ "VisibilityTimeout": "600" }));
    assert_eq!(sqs.queue_url("work", WITHIN).await.expect("found"), queue);
    let missing = sqs.queue_url("none", WITHIN).await.expect_err("there is none");
    assert_eq!(missing.kind, Kind::NotFound, "{missing}");

    let mut messages: Vec<Outgoing> =
        (0..25).map(|n| Outgoing { body: format!("m{n}"), ..Outgoing::default() }).collect();
    messages[7].body = "x".repeat(300_000);
    let sent = sqs.send(&queue, &messages, WITHIN).await;
    assert_eq!(sent.len(), 25);
    for (index, result) in sent.iter().enumerate() {
        let too_large = matches!(result, Err(error) if matches!(error.kind, Kind::TooLarge { .. }));
        assert_eq!(too_large, index == 7, "{index}: {result:?}");
    }

    let mut receipts = Vec::new();
    let mut bodies = std::collections::BTreeSet::new();
    while receipts.len() < 24 {
        let some = sqs.receive(&queue, NOW, WITHIN).await.expect("received");
        assert!(!some.is_empty(), "{} came", receipts.len());
        assert!(some.iter().all(|message| message.received == 1 && message.sent_ms.is_some()));
        bodies.extend(some.iter().map(|message| message.body.clone()));
        receipts.extend(some.into_iter().map(|message| message.receipt));
    }
    assert_eq!(bodies.len(), 24);
    let attributes = sqs.attributes(&queue, WITHIN).await.expect("described");
    assert_eq!((attributes.waiting, attributes.in_flight), (Some(0), Some(24)));
    assert_eq!(attributes.visibility, Some(Duration::from_secs(600)));

    // Ten at once go back, the rest is deleted, and one receipt is nonsense.
    let back: Vec<(String, Duration)> =
        receipts[..10].iter().map(|receipt| (receipt.clone(), Duration::ZERO)).collect();
    assert!(sqs.change_visibility(&queue, &back, WITHIN).await.iter().all(Result::is_ok));
    let mut rest = receipts[10..].to_vec();
    rest.push("nonsense".to_owned());
    let deleted = sqs.delete(&queue, &rest, WITHIN).await;
    assert!(deleted[..14].iter().all(Result::is_ok), "{deleted:?}");
    let stale = deleted[14].as_ref().expect_err("no such receipt");
    assert_eq!(stale.kind, Kind::StaleReceipt, "{stale}");
    let again = sqs.receive(&queue, NOW, WITHIN).await.expect("received");
    assert_eq!(again.len(), 10);
    assert!(again.iter().all(|message| message.received == 2));
    // A long poll without messages ends by itself.
    let wait = Receive { wait: Duration::from_secs(4), ..NOW };
    assert_eq!(sqs.receive(&queue, wait, WITHIN).await.expect("received"), []);
}

fn item(pairs: &[(&str, Value)]) -> Item {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn new_only() -> Option<Condition> {
    Some(Condition { expression: "attribute_not_exists(pk)".to_owned(), ..Condition::default() })
}

#[tokio::test]
async fn one_of_several_conditional_writes_wins_and_transactions_say_why_not() {
    let Some((moto, aws)) = started() else { return };
    let table = aws.dynamodb();
    moto.create_table("state", "pk", Some("sk"));
    let described = table.table("state", WITHIN).await.expect("described");
    assert_eq!((described.partition_key.as_str(), described.sort_key.as_deref()), ("pk", Some("sk")));
    let missing = table.table("none", WITHIN).await.expect_err("there is none");
    assert_eq!(missing.kind, Kind::NotFound, "{missing}");

    let one = |sort: i64, who: i64| {
        item(&[("pk", "w".into()), ("sk", format!("i#{sort}").into()), ("who", who.into())])
    };
    let puts = (0..8).map(|who| table.put("state", one(0, who), new_only(), WITHIN));
    let puts = futures_util::future::join_all(puts).await;
    let won: Vec<_> = puts.iter().filter(|put| matches!(put, Ok(Put::Written))).collect();
    assert_eq!(won.len(), 1, "{puts:?}");
    let kept = table.get("state", item(&[("pk", "w".into()), ("sk", "i#0".into())]), WITHIN).await;
    let kept = kept.expect("read").expect("there");
    for put in &puts {
        let put = put.as_ref().expect("answered");
        assert!(
            matches!(put, Put::Written) || *put == Put::Refused { current: Some(kept.clone()) },
            "{put:?}"
        );
    }

    for sort in 1..5 {
        assert_eq!(table.put("state", one(sort, 0), None, WITHIN).await, Ok(Put::Written));
    }
    let query = Query {
        partition: ("pk".to_owned(), "w".into()),
        sort_prefix: Some(("sk".to_owned(), "i#".to_owned())),
        newest_first: true,
        limit: 3,
    };
    let found = table.query("state", &query, WITHIN).await.expect("found");
    let sorts: Vec<_> = found.iter().filter_map(|item| item["sk"].as_text()).collect();
    assert_eq!(sorts, ["i#4", "i#3", "i#2"]);

    let put = |sort, condition| Write::Put { table: "state".to_owned(), item: one(sort, 9), condition };
    let refused =
        table.transact(vec![put(9, None), put(0, new_only())], None, WITHIN).await.expect("answered");
    assert!(refused.is_refused(), "{refused:?}");
    let key = item(&[("pk", "w".into()), ("sk", "i#9".into())]);
    assert_eq!(table.get("state", key.clone(), WITHIN).await, Ok(None), "nothing was written");
    let delete = Write::Delete {
        table: "state".to_owned(),
        key: item(&[("pk", "w".into()), ("sk", "i#1".into())]),
        condition: None,
    };
    let writes = vec![put(9, new_only()), delete];
    let token = Some("once".to_owned());
    assert_eq!(table.transact(writes, token, WITHIN).await, Ok(Transacted::Done));

    let large = item(&[("pk", "w".into()), ("sk", "large".into()), ("x", "x".repeat(409_600).into())]);
    let error = table.put("state", large, None, WITHIN).await.expect_err("too large");
    assert!(matches!(error.kind, Kind::TooLarge { limit: 409_600, .. }), "{error}");
    // moto draws the line at 405,000 bytes.
    let bytes = 404_000;
    let large = item(&[("pk", "w".into()), ("sk", "large".into()), ("x", "x".repeat(bytes).into())]);
    assert_eq!(table.put("state", large, None, WITHIN).await, Ok(Put::Written));
}

#[tokio::test]
async fn the_newest_state_of_a_workload_is_never_replaced_by_an_older_one() {
    let Some((moto, aws)) = started() else { return };
    moto.create_table("states", PARTITION_KEY, Some(SORT_KEY));
    let table = aws.dynamodb();
    let state = |instance: &str, claim, at_ms, text: &str| State {
        workload: "w".to_owned(),
        instance: instance.to_owned(),
        at_ms,
        claim,
        text: text.to_owned(),
        stored: Some("some/key".to_owned()),
    };
    assert_eq!(table.newest_state("states", "w", WITHIN).await, Ok(None));
    let first = state("i-1", 1, 50, r#"{"done":1}"#);
    for _ in 0..2 {
        table.put_state("states", &first, WITHIN).await.expect("kept, and once more");
    }
    assert_eq!(table.newest_state("states", "w", WITHIN).await, Ok(Some(first.clone())));
    // A later claim is newer whatever its machine's clock says.
    let second = state("i-2", 2, 10, r#"{"done":2}"#);
    table.put_state("states", &second, WITHIN).await.expect("kept");
    let late = table.put_state("states", &state("i-1", 1, 99, "{}"), WITHIN).await.expect_err("too late");
    assert_eq!(late.kind, Kind::Conflict, "{late}");
    assert_eq!(table.newest_state("states", "w", WITHIN).await, Ok(Some(second)));
    let large = state("i-3", 3, 1, &"x".repeat(500_000));
    table.put_state("states", &large, WITHIN).await.expect("as a pointer");
    let found = table.newest_state("states", "w", WITHIN).await.expect("read").expect("there");
    assert_eq!((found.text.as_str(), found.stored.as_deref()), ("", Some("some/key")));
    let nowhere = State { stored: None, ..large };
    let error = table.put_state("states", &nowhere, WITHIN).await.expect_err("nowhere else");
    assert!(matches!(error.kind, Kind::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn alerts_and_commands_arrive() {
    let Some((moto, aws)) = started() else { return };
    let (topic, heard) = moto.create_topic("alerts");
    aws.sns().publish(&topic, "Spot\ninterruption", "it goes", WITHIN).await.expect("published");
    assert_eq!(moto.drain_queue(&heard), ["it goes"]);
    let missing =
        aws.sns().publish(&format!("{topic}-no"), "s", "m", WITHIN).await.expect_err("no such topic");
    assert_eq!(missing.kind, Kind::NotFound, "{missing}");

    let command = Command {
        document: "AWS-RunShellScript".to_owned(),
        parameters: BTreeMap::from([("commands".to_owned(), vec!["lifeboat evacuate --name w".to_owned()])]),
        comment: "evacuate".to_owned(),
        expires: Duration::from_secs(60),
    };
    let instances: Vec<String> = (0..51).map(|n| format!("i-{n:017x}")).collect();
    let sent = aws.ssm().send_command(&instances, &command, WITHIN).await.expect("sent");
    assert_eq!(sent.len(), 2, "fifty a call");
}

#[tokio::test]
async fn services_and_tasks_are_described_in_batches_and_scaled() {
    let Some((moto, aws)) = started() else { return };
    let ecs = aws.ecs();
    let target = |name: &str| format!("AmazonEC2ContainerServiceV20141113.{name}");
    let _ = moto.json("ecs", &target("CreateCluster"), &json!({ "clusterName": "c" }));
    let _ = moto.json(
        "ecs",
        &target("RegisterTaskDefinition"),
        &json!({ "family": "f", "containerDefinitions": [{ "name": "x", "image": "x", "memory": 64 }] }),
    );
    for number in 0..12 {
        let body = json!({
            "cluster": "c", "serviceName": format!("s{number}"), "taskDefinition": "f", "desiredCount": 2,
            "capacityProviderStrategy": [{ "capacityProvider": "FARGATE_SPOT", "weight": 1 }],
            "tags": [{ "key": "lifeboat", "value": "yes" }],
        });
        let _ = moto.json("ecs", &target("CreateService"), &body);
    }
    let arns = ecs.list_services("c", WITHIN).await.expect("listed");
    assert_eq!(arns.len(), 12);
    let mut asked = arns.clone();
    asked.push("missing".to_owned());
    let described = ecs.describe_services("c", &asked, WITHIN).await.expect("described");
    assert_eq!((described.found.len(), described.failures.len()), (12, 1), "{:?}", described.failures);
    let first = described.found.iter().find(|service| service.name == "s0").expect("there");
    assert_eq!((first.desired, first.status.as_str()), (2, "ACTIVE"));
    assert_eq!(first.tags.get("lifeboat").map(String::as_str), Some("yes"));
    let scaled = ecs.set_desired("c", "s0", 7, WITHIN).await.expect("scaled");
    assert_eq!(scaled.desired, 7);
    let missing = ecs.set_desired("c", "missing", 1, WITHIN).await.expect_err("no such service");
    assert_eq!(missing.kind, Kind::NotFound, "{missing}");
    let tasks = ecs.list_tasks("c", Some("s0"), Wanted::Running, WITHIN).await.expect("listed");
    assert_eq!(tasks, Vec::<String>::new(), "moto has no task behind a service");
    let missing = ecs.list_services("none", WITHIN).await.expect_err("no such cluster");
    assert_eq!(missing.kind, Kind::NotFound, "{missing}");
}

#[tokio::test]
async fn groups_hooks_and_targets_are_described() {
    let Some((moto, aws)) = started() else { return };
    let scaling = aws.autoscaling();
    let missing = scaling.group("none", WITHIN).await.expect_err("there is none");
    assert_eq!(missing.kind, Kind::NotFound, "{missing}");
    let version = "Version=2011-01-01";
    let _ = moto.query(
        "autoscaling",
        &format!(
            "Action=CreateLaunchConfiguration&{version}&LaunchConfigurationName=lc&ImageId=ami-12345678\
             &InstanceType=t3.small"
        ),
    );
    let _ = moto.query(
        "autoscaling",
        &format!(
            "Action=CreateAutoScalingGroup&{version}&AutoScalingGroupName=g&LaunchConfigurationName=lc&MinSize=0\
             &MaxSize=1&DesiredCapacity=1&AvailabilityZones.member.1=eu-west-1a&CapacityRebalance=true"
        ),
    );
    let _ = moto.query(
        "autoscaling",
        &format!(
            "Action=PutLifecycleHook&{version}&AutoScalingGroupName=g&LifecycleHookName=h&HeartbeatTimeout=120\
             &LifecycleTransition=autoscaling:EC2_INSTANCE_TERMINATING"
        ),
    );
    let group = scaling.group("g", WITHIN).await.expect("described");
    assert_eq!((group.name.as_str(), group.desired, group.instances.len()), ("g", 1, 1));
    assert!(group.has_capacity_rebalancing);
    let hooks = scaling.hooks("g", WITHIN).await.expect("described");
    assert!(hooks[0].is_terminating(), "{hooks:?}");
    assert_eq!(hooks[0].heartbeat, Some(Duration::from_secs(120)));
    let id = &group.instances[0].id;
    let instance = scaling.instance(id, WITHIN).await.expect("described").expect("in a group");
    assert_eq!((instance.group.as_deref(), instance.state.as_str()), (Some("g"), "InService"));
    assert_eq!(scaling.instance("i-00000000", WITHIN).await, Ok(None));

    let elb = aws.elb();
    let form = "Action=CreateTargetGroup&Version=2015-12-01&Name=t&Protocol=HTTP&Port=80&TargetType=instance\
                &VpcId=vpc-1";
    let vpc = moto.query("ec2", "Action=DescribeVpcs&Version=2016-11-15");
    let vpc = vpc.split("<vpcId>").nth(1).and_then(|rest| rest.split('<').next()).expect("a default VPC");
    let answer = moto.query("elasticloadbalancing", &form.replace("vpc-1", vpc));
    let arn =
        answer.split("<TargetGroupArn>").nth(1).and_then(|rest| rest.split('<').next()).expect("an ARN");
    let delay = elb.deregistration_delay(arn, WITHIN).await.expect("described");
    assert_eq!(delay, Some(Duration::from_secs(300)), "AWS's default");
    let form =
        format!("Action=RegisterTargets&Version=2015-12-01&TargetGroupArn={arn}&Targets.member.1.Id={id}");
    let _ = moto.query("elasticloadbalancing", &form);
    let target = Target { id: id.clone(), port: None };
    let health = elb.health(arn, std::slice::from_ref(&target), WITHIN).await.expect("described");
    assert_eq!(health[0].target.id, *id);
    elb.deregister(arn, std::slice::from_ref(&target), WITHIN).await.expect("taken out");
    let health = elb.health(arn, &[], WITHIN).await.expect("described");
    assert!(health.is_empty(), "moto drains at once: {health:?}");
    let other = format!("{}0", arn.trim_end_matches(|c: char| c.is_ascii_hexdigit()));
    let missing = elb.deregistration_delay(&other, WITHIN).await.expect_err("no such group");
    assert_eq!(missing.kind, Kind::NotFound, "{missing}");
}

//! `lifeboat doctor` and AWS: it finds what is wrong, and makes no call that has an effect. The real binary, against
//! moto and against a server that keeps every request.

mod harness;

use std::collections::BTreeSet;

use harness::{Machine, World};
use lifeboat_aws::testing::{Moto, Reply, Request, Wire, environment};
use serde_json::{Value, json};

/// Whatever the doctor may ask for. All but the last change nothing by their nature; that one carries a condition that
/// no item can meet.
const WITHOUT_EFFECT: [&str; 8] = [
    "DescribeAutoScalingGroups",
    "DescribeAutoScalingInstances",
    "DescribeLifecycleHooks",
    "DescribeTable",
    "DescribeTargetGroupAttributes",
    "GetItem",
    "GetQueueAttributes",
    "GetTopicAttributes",
];

const PUT: &str = "PutItem";

/// What the account has beyond moto: a group with a hook and a target group that drains too long.
fn group(request: &Request) -> Reply {
    let text = match request.operation.as_str() {
        "DescribeAutoScalingInstances" => {
            "<AutoScalingInstances><member><InstanceId>i-one</InstanceId><AutoScalingGroupName>fleet\
             </AutoScalingGroupName><LifecycleState>InService</LifecycleState></member></AutoScalingInstances>"
        }
        "DescribeAutoScalingGroups" => {
            "<AutoScalingGroups><member><AutoScalingGroupName>fleet</AutoScalingGroupName>\
             <CapacityRebalance>false</CapacityRebalance><MixedInstancesPolicy><InstancesDistribution>\
             <SpotMaxPrice>0.05</SpotMaxPrice></InstancesDistribution></MixedInstancesPolicy><TargetGroupARNs>\
             <member>arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/t/1</member></TargetGroupARNs></member>\
             </AutoScalingGroups>"
        }
        "DescribeLifecycleHooks" => {
            "<LifecycleHooks><member><AutoScalingGroupName>fleet</AutoScalingGroupName><LifecycleHookName>\
             cis-file-search-terminating</LifecycleHookName><LifecycleTransition>autoscaling:EC2_INSTANCE_TERMINATING\
             </LifecycleTransition><HeartbeatTimeout>60</HeartbeatTimeout></member></LifecycleHooks>"
        }
        "DescribeTargetGroupAttributes" => {
            "<Attributes><member><Key>deregistration_delay.timeout_seconds</Key><Value>300</Value></member>\
             </Attributes>"
        }
        _ => return Reply::Forward,
    };
    Reply::Ok(text.to_owned())
}

/// The whole set-up of source A, with what the test created in place of the account's.
fn configure(machine: &Machine, queue: &str, topic: &str) {
    let text = include_str!("../../../examples/source-a.toml");
    let text = text
        .replace("/var/lib/cis-file-search/work", &machine.work().to_string_lossy())
        .replace("s3://cis-file-search-evacuation/lifeboat", &machine.store.to_string_lossy())
        .replace("https://sqs.eu-west-1.amazonaws.com/123456789012/cis-file-search-queue", queue)
        .replace("arn:aws:sns:eu-west-1:123456789012:cis-file-search-alerts", topic);
    machine.configure(&text);
}

/// The findings, and the exit code.
fn doctor(machine: &Machine, endpoint: &str) -> (Vec<Value>, i32) {
    let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let mut command = machine.lifeboat(&["doctor", "--json", "--config", &config]);
    let of_aws = environment(endpoint).into_iter();
    command.envs(of_aws.filter(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED"));
    let output = command.output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr);
    let found = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (found, output.status.code().expect("an exit code"))
}

#[track_caller]
fn expect(found: &[Value], check: &str, about: &str, verdict: &str, text: &str) {
    let is_so = found.iter().any(|finding| {
        let said = format!("{} → {}", finding["what"], finding["remedy"]);
        let of = finding["about"].as_str().unwrap_or_default();
        finding["check"] == check
            && of.contains(about)
            && finding["verdict"] == verdict
            && said.contains(text)
    });
    assert!(is_so, "no `{check}` of {about:?} that is {verdict} with {text:?}: {found:#?}");
}

/// No call but these was made, and every write carried the condition that cannot hold.
fn without_effect(wire: &Wire) {
    let called: BTreeSet<String> = wire.requests().into_iter().map(|request| request.operation).collect();
    for operation in &called {
        assert!(operation == PUT || WITHOUT_EFFECT.contains(&operation.as_str()), "{operation} was called");
    }
    for put in wire.requests_of(PUT) {
        let body = put.json().expect("JSON");
        assert_eq!(body["ConditionExpression"], "attribute_exists(#key) AND attribute_not_exists(#key)");
        assert_eq!(body["Item"]["workload"]["S"], "lifeboat doctor");
    }
}

#[test]
fn the_doctor_finds_what_is_wrong_and_makes_no_call_that_has_an_effect() {
    let Some(moto) = Moto::start() else { return };
    let world = World::new();
    let machine = world.spot_machine("one");
    let queue = moto.create_queue("work", &json!({ "VisibilityTimeout": "600" }));
    let body = json!({ "QueueUrl": queue, "MessageBody": "a file" });
    let _ = moto.json("sqs", "AmazonSQS.SendMessage", &body); // its id is not needed
    let (topic, heard) = moto.create_topic("alerts");
    moto.create_table("cis-file-search-state", "workload", Some("instance_time"));
    configure(&machine, &queue, &topic);
    let wire = Wire::start(Some(&moto.url()), group);
    let (found, code) = doctor(&machine, &wire.url());

    expect(&found, "queue", &queue, "warn", "600 s");
    expect(&found, "state table", "cis-file-search-state", "ok", "instance_time");
    expect(&found, "permission", "dynamodb:PutItem", "ok", "cannot hold");
    expect(&found, "permission", "dynamodb:GetItem", "ok", "nobody has");
    // moto counts no subscription as confirmed.
    expect(&found, "alert topic", &topic, "warn", "nobody has confirmed");
    expect(&found, "lifecycle hook", "fleet", "ok", "waits 60 s; heartbeats come every 15 s");
    expect(&found, "Capacity Rebalancing", "fleet", "warn", "--capacity-rebalance");
    expect(&found, "maximum price", "fleet", "warn", "0.05");
    expect(&found, "deregistration delay", "targetgroup/t/1", "fail", "Value=90");
    expect(&found, "interruption behaviour", "i-one", "unknown", "describe-spot-instance-requests");
    for action in [
        "sqs:ChangeMessageVisibility",
        "sns:Publish",
        "cloudwatch:PutMetricData",
        "autoscaling:CompleteLifecycleAction",
        "autoscaling:RecordLifecycleActionHeartbeat",
    ] {
        expect(&found, "permission", action, "skipped", "not tried");
    }
    assert_eq!(code, 125, "the delay is a failure");

    without_effect(&wire);
    let called: BTreeSet<String> = wire.requests().into_iter().map(|request| request.operation).collect();
    for operation in WITHOUT_EFFECT.iter().chain([&PUT]) {
        assert!(called.contains(*operation), "{operation} was not called: the list above is too long");
    }
    let scan = json!({ "TableName": "cis-file-search-state" });
    let items = moto.json("dynamodb", "DynamoDB_20120810.Scan", &scan);
    assert_eq!(items["Count"], 0, "{items}");
    assert_eq!(moto.drain_queue(&queue), ["a file"], "it is still visible");
    assert_eq!(moto.drain_queue(&heard), Vec::<String>::new());
}

#[test]
fn what_is_denied_is_named_by_its_permission() {
    let world = World::new();
    let machine = world.spot_machine("one");
    configure(&machine, "https://sqs.eu-west-1.amazonaws.com/1/work", "arn:aws:sns:eu-west-1:1:alerts");
    let wire = Wire::start(None, |_| Reply::Error { status: 403, code: "AccessDenied", message: "no" });
    let (found, code) = doctor(&machine, &wire.url());
    expect(&found, "queue", "/1/work", "unknown", "allow sqs:GetQueueAttributes");
    expect(&found, "alert topic", ":alerts", "unknown", "allow sns:GetTopicAttributes");
    expect(&found, "state table", "cis-file-search-state", "unknown", "allow dynamodb:DescribeTable");
    expect(&found, "permission", "dynamodb:GetItem", "fail", "allow dynamodb:GetItem");
    expect(&found, "permission", "dynamodb:PutItem", "fail", "allow dynamodb:PutItem");
    expect(&found, "Auto Scaling group", "i-one", "fail", "allow autoscaling:DescribeAutoScalingInstances");
    assert_eq!(code, 125);
    without_effect(&wire);
}

#[test]
fn a_table_with_other_keys_and_an_aws_that_does_not_answer_are_failures() {
    let Some(moto) = Moto::start() else { return };
    let world = World::new();
    let machine = world.spot_machine("one");
    moto.create_table("cis-file-search-state", "id", None);
    configure(&machine, "https://sqs.eu-west-1.amazonaws.com/1/work", "arn:aws:sns:eu-west-1:1:alerts");
    let wire = Wire::start(Some(&moto.url()), |request| match request.operation.as_str() {
        "DescribeTable" => Reply::Forward,
        _ => Reply::Close,
    });
    let (found, _) = doctor(&machine, &wire.url());
    expect(&found, "state table", "cis-file-search-state", "fail", "partition key `workload`");
    expect(&found, "queue", "/1/work", "fail", "the way to AWS");
    assert!(wire.requests_of(PUT).is_empty(), "nothing is tried in a table that cannot be the one");
    without_effect(&wire);
}

#[test]
fn a_webhook_without_its_address_and_a_template_that_nobody_can_fill_are_failures() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("[alerts]\nwebhook_env = \"LIFEBOAT_TEST_NO_SUCH_VARIABLE\"\nstart = \"{nmae}\"\n");
    let wire = Wire::start(None, |_| Reply::Close);
    let (found, code) = doctor(&machine, &wire.url());
    expect(&found, "alert webhook", "LIFEBOAT_TEST_NO_SUCH_VARIABLE", "fail", "is not set");
    expect(&found, "configuration", "", "fail", "{nmae}");
    assert_eq!(code, 125);
    assert!(wire.requests().is_empty());
}

//! `lifeboat doctor` and AWS: it finds what is wrong, and makes no call that has an effect. The real binary, against
//! moto and against a server that keeps every request.

mod harness;

use std::collections::BTreeSet;

use harness::{Machine, World};
use lifeboat_aws::testing::{Moto, Reply, Request, Wire, environment};
use serde_json::{Value, json};

/// Whatever the doctor may ask for. All but the last change nothing by their nature; that one carries a condition that
/// no item can meet.
const WITHOUT_EFFECT: [&str; 9] = [
    "DescribeAutoScalingGroups",
    "DescribeAutoScalingInstances",
    "DescribeLifecycleHooks",
    "DescribeTable",
    "DescribeTargetGroupAttributes",
    "DescribeTargetHealth",
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
        "DescribeTargetHealth" => {
            "<TargetHealthDescriptions><member><Target><Id>i-one</Id><Port>80</Port></Target><TargetHealth>\
             <State>healthy</State></TargetHealth></member></TargetHealthDescriptions>"
        }
        _ => return Reply::Forward,
    };
    Reply::Ok(text.to_owned())
}

/// The group's other target group, which the configuration names.
const TARGET_GROUP: &str = "arn:aws:elasticloadbalancing:eu-west-1:1:targetgroup/u/2";

/// The whole set-up of source A, with what the test created in place of the account's, behind a load balancer.
fn configure(machine: &Machine, queue: &str, topic: &str) {
    let text = include_str!("../../../examples/source-a.toml");
    let text = text
        .replace("/var/lib/cis-file-search/work", &machine.work().to_string_lossy())
        .replace("s3://cis-file-search-evacuation/lifeboat", &machine.store.to_string_lossy())
        .replace("https://sqs.eu-west-1.amazonaws.com/123456789012/cis-file-search-queue", queue)
        .replace("arn:aws:sns:eu-west-1:123456789012:cis-file-search-alerts", topic);
    machine.configure(&format!("{text}\n[load_balancer]\ntarget_groups = [\"{TARGET_GROUP}\"]\n"));
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
    expect(&found, "deregistration delay", "targetgroup/u/2", "fail", "300 s");
    expect(&found, "target group", "targetgroup/u/2", "ok", "i-one is in it, healthy");
    expect(&found, "interruption behaviour", "i-one", "unknown", "describe-spot-instance-requests");
    for action in [
        "sqs:ChangeMessageVisibility",
        "sns:Publish",
        "cloudwatch:PutMetricData",
        "autoscaling:CompleteLifecycleAction",
        "autoscaling:RecordLifecycleActionHeartbeat",
        "elasticloadbalancing:DeregisterTargets",
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
fn a_controllers_fleet_is_looked_at_and_what_ecs_does_not_tell_is_asked_for() {
    let world = World::new();
    let machine = world.machine("one");
    let config = include_str!("../../../examples/source-b.toml");
    machine.configure(config);
    let wire = Wire::start(None, |request| {
        match request.operation.as_str() {
        "DescribeServices" => Reply::Ok(
            json!({ "services": [{
                "serviceName": "file-processor-spot", "status": "ACTIVE", "desiredCount": 200, "runningCount": 199,
                "capacityProviderStrategy": [{ "capacityProvider": "FARGATE_SPOT", "weight": 1, "base": 0 }],
                "taskDefinition": "arn:aws:ecs:us-east-1:1:task-definition/work:7",
                "loadBalancers": [{ "targetGroupArn": "arn:aws:elasticloadbalancing:us-east-1:1:targetgroup/t/1" }],
            }], "failures": [{ "arn": "file-processor-standard", "reason": "MISSING" }] })
            .to_string(),
        ),
        _ => group(request),
    }
    });
    let (found, code) = doctor(&machine, &wire.url());
    expect(&found, "service", "file-processor-spot", "ok", "199 of 200 tasks run, on FARGATE_SPOT");
    expect(&found, "service", "file-processor-standard", "fail", "is not in the cluster production");
    expect(&found, "deregistration delay", "targetgroup/t/1", "fail", "Value=90");
    expect(&found, "stopTimeout", "task-definition/work:7", "unknown", "describe-task-definition");
    expect(&found, "On-Demand quota", "Fargate", "unknown", "--quota-code L-3032A538");
    assert_eq!(code, 125);
    let called: BTreeSet<String> = wire.requests().into_iter().map(|request| request.operation).collect();
    let read = ["DescribeServices", "DescribeTargetGroupAttributes"];
    assert!(called.iter().all(|name| read.contains(&name.as_str())), "{called:?}");

    let quota = machine.dir.join("quota.json");
    std::fs::write(&quota, r#"{ "Quota": { "QuotaCode": "L-3032A538", "Value": 6.0 } }"#).expect("written");
    let (config, quota) = (machine.dir.join("lifeboat.toml"), quota.to_string_lossy().into_owned());
    let config = config.to_string_lossy();
    let output = machine.lifeboat(&["doctor", "--json", "--config", &config, "--from", &quota]).output();
    let found: Vec<Value> = serde_json::from_slice(&output.expect("started").stdout).expect("a list");
    expect(
        &found,
        "On-Demand quota",
        "Fargate",
        "unknown",
        "6 vCPUs; how many this fleet would need is not known",
    );
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
    expect(&found, "target group", "/u/2", "fail", "allow elasticloadbalancing:DescribeTargetHealth");
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

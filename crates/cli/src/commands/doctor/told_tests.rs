//! Files as `aws` prints them, and what is judged of them.

use lifeboat_core::precondition::{Check, Finding, Verdict, judge};
use serde_json::{Value, json};

use super::*;

/// What is judged of documents as `aws` prints them, each with a file's name.
fn judged(documents: &[(&str, Value)]) -> Vec<Finding> {
    let parsed = documents.iter().map(|(name, value)| {
        let text = serde_json::to_vec(value).expect("JSON");
        ((*name).to_owned(), parse(&text).unwrap_or_else(|error| panic!("{name}: {error:#}")))
    });
    judge(&facts(parsed.collect()))
}

#[track_caller]
fn expect(found: &[Finding], check: Check, about: &str, verdict: Verdict, text: &str) {
    let matching: Vec<_> =
        found.iter().filter(|finding| finding.check == check && finding.about == about).collect();
    let is_so = matching.iter().any(|finding| finding.verdict == verdict && finding.what.contains(text));
    assert!(is_so, "{check} of {about} is not {verdict:?} with {text:?}: {found:#?}");
}

fn instance() -> Value {
    json!({ "Reservations": [{ "Instances": [{
        "InstanceId": "i-1", "InstanceType": "m5.large", "InstanceLifecycle": "spot", "ImageId": "ami-1",
        "SpotInstanceRequestId": "sir-1", "State": { "Code": 16, "Name": "running" }, "PlatformDetails": "Linux/UNIX",
        "RootDeviceType": "ebs", "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [
            { "DeviceName": "/dev/sdb", "Ebs": { "VolumeId": "vol-2", "DeleteOnTermination": true } },
            { "DeviceName": "/dev/xvda", "Ebs": { "VolumeId": "vol-1", "DeleteOnTermination": true } },
        ],
        "HibernationOptions": { "Configured": true },
        "MetadataOptions": { "HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled" },
        "Tags": [{ "Key": "Name", "Value": "x" }],
    }] }] })
}

fn request(kind: &str, behaviour: &str) -> Value {
    json!({ "SpotInstanceRequests": [
        { "SpotInstanceRequestId": "sir-0", "State": "closed", "Type": "one-time" },
        { "SpotInstanceRequestId": "sir-1", "InstanceId": "i-1", "State": "active", "Type": kind,
          "InstanceInterruptionBehavior": behaviour, "SpotPrice": "0.096000",
          "Status": { "Code": "fulfilled" }, "LaunchSpecification": { "InstanceType": "m5.large" } },
    ] })
}

#[test]
fn an_instance_finds_its_request_its_volume_and_its_type() {
    let volumes = json!({ "Volumes": [
        { "VolumeId": "vol-1", "Size": 20, "Encrypted": true, "VolumeType": "gp3" },
        { "VolumeId": "vol-2", "Size": 500, "Encrypted": false },
    ] });
    let types = json!({ "InstanceTypes": [{ "InstanceType": "m5.large", "HibernationSupported": true,
        "MemoryInfo": { "SizeInMiB": 8192 }, "VCpuInfo": { "DefaultVCpus": 2 } }] });
    let all = [
        ("volumes", volumes),
        ("requests", request("persistent", "hibernate")),
        ("types", types),
        ("instances", instance()),
    ];
    let found = judged(&all);
    expect(&found, Check::Behaviour, "i-1", Verdict::Ok, "hibernate");
    expect(&found, Check::Request, "i-1", Verdict::Ok, "persistent");
    expect(&found, Check::RootVolume, "i-1", Verdict::Ok, "20 GiB for 8192 MiB");
    expect(&found, Check::Hibernation, "i-1", Verdict::Ok, "m5.large can");
    expect(&found, Check::MaximumPrice, "i-1", Verdict::Unknown, "$0.096000");
    expect(&found, Check::HopLimit, "i-1", Verdict::Warn, "1:");
    assert!(found.iter().all(|finding| finding.about == "i-1"), "the closed request is left out: {found:#?}");

    let found = judged(&[("instances", instance()), ("requests", request("one-time", "stop"))]);
    expect(&found, Check::Request, "i-1", Verdict::Fail, "only terminate");
    let found = judged(&[("instances", instance())]);
    expect(&found, Check::Behaviour, "i-1", Verdict::Unknown, "not known");
}

#[test]
fn an_instance_of_a_fleet_or_a_group_is_judged_by_what_started_it() {
    let mut tagged = instance();
    let tags = &mut tagged["Reservations"][0]["Instances"][0]["Tags"];
    *tags = json!([{ "Key": "aws:ec2:fleet-id", "Value": "fleet-1" }]);
    let fleet = |kind: &str| {
        json!({ "Fleets": [{ "FleetId": "fleet-1", "Type": kind, "SpotOptions": {
            "InstanceInterruptionBehavior": "stop",
            "MaintenanceStrategies": { "CapacityRebalance": { "ReplacementStrategy": "launch" } } } }] })
    };
    let found = judged(&[("i", tagged.clone()), ("f", fleet("maintain"))]);
    expect(&found, Check::Request, "i-1", Verdict::Ok, "fleet-1");
    expect(&found, Check::CapacityRebalancing, "fleet-1", Verdict::Ok, "on");
    let found = judged(&[("i", tagged), ("f", fleet("request"))]);
    expect(&found, Check::Request, "i-1", Verdict::Fail, "fleet-1");

    let group = json!({ "AutoScalingGroups": [{ "AutoScalingGroupName": "g", "DesiredCapacity": 3,
        "Instances": [{ "InstanceId": "i-1", "InstanceType": "m5.large" }], "TargetGroupARNs": ["arn:tg"],
        "MixedInstancesPolicy": { "InstancesDistribution": { "SpotMaxPrice": "0.05" } } }] });
    let hooks = json!({ "LifecycleHooks": [{ "AutoScalingGroupName": "g", "LifecycleHookName": "h",
        "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING", "HeartbeatTimeout": 300 }] });
    let request = request("one-time", "terminate");
    let found = judged(&[("i", instance()), ("g", group.clone()), ("h", hooks), ("r", request)]);
    expect(&found, Check::CapacityRebalancing, "g", Verdict::Warn, "off");
    expect(&found, Check::MaximumPrice, "g", Verdict::Warn, "$0.05");
    expect(&found, Check::LifecycleHook, "g", Verdict::Warn, "h waits 300 s");
    expect(&found, Check::DeregistrationDelay, "arn:tg", Verdict::Unknown, "");
    let delay = json!({ "Attributes": [{ "Key": "stickiness.enabled", "Value": "false" },
        { "Key": "deregistration_delay.timeout_seconds", "Value": "300" }] });
    let none = json!({ "LifecycleHooks": [] });
    let quota = json!({ "Quota": { "ServiceCode": "ec2", "QuotaCode": "L-1216C47A", "Value": 5.0 } });
    let types =
        json!({ "InstanceTypes": [{ "InstanceType": "m5.large", "VCpuInfo": { "DefaultVCpus": 2 } }] });
    let found = judged(&[("g", group), ("a", delay), ("h", none), ("q", quota), ("t", types)]);
    expect(&found, Check::DeregistrationDelay, "arn:tg", Verdict::Fail, "300 s");
    expect(&found, Check::LifecycleHook, "g", Verdict::Warn, "none waits");
    expect(&found, Check::OnDemandQuota, "EC2", Verdict::Fail, "5 vCPUs; the whole fleet on demand needs 6");
}

#[test]
fn a_launch_template_is_read_with_and_without_what_surrounds_it() {
    let data = json!({ "ImageId": "ami-1", "InstanceType": "m5.large",
        "InstanceMarketOptions": { "MarketType": "spot",
            "SpotOptions": { "MaxPrice": "0.02", "InstanceInterruptionBehavior": "stop" } } });
    let versions = json!({ "LaunchTemplateVersions": [{ "LaunchTemplateId": "lt-1", "LaunchTemplateName": "work",
        "VersionNumber": 3, "DefaultVersion": true, "LaunchTemplateData": data }] });
    for (documents, name) in [
        (vec![("x", versions)], "work version 3"),
        (vec![("bare", data.clone())], "bare"),
        (vec![("wrapped", json!({ "LaunchTemplateData": data }))], "wrapped"),
    ] {
        let found = judged(&documents);
        expect(&found, Check::Behaviour, name, Verdict::Ok, "stop");
        expect(&found, Check::Request, name, Verdict::Fail, "made once");
        expect(&found, Check::MaximumPrice, name, Verdict::Warn, "$0.02");
        expect(&found, Check::RootVolume, name, Verdict::Unknown, "");
    }
    let hibernating = json!({ "ImageId": "ami-1", "HibernationOptions": { "Configured": true },
        "InstanceMarketOptions": { "MarketType": "spot", "SpotOptions": { "SpotInstanceType": "persistent" } },
        "BlockDeviceMappings": [{ "DeviceName": "/dev/xvda", "Ebs": { "Encrypted": true } }] });
    let image = json!({ "Images": [{ "ImageId": "ami-1", "RootDeviceType": "ebs", "RootDeviceName": "/dev/xvda",
        "ImdsSupport": "v2.0", "BlockDeviceMappings":
            [{ "DeviceName": "/dev/xvda", "Ebs": { "VolumeSize": 8, "Encrypted": false } }] }] });
    let found = judged(&[("t", hibernating), ("image", image)]);
    expect(&found, Check::Behaviour, "t", Verdict::Ok, "hibernate");
    expect(&found, Check::HopLimit, "t", Verdict::Ok, "2");
    expect(&found, Check::RootVolume, "t", Verdict::Ok, "on EBS");
    // The template encrypts what the image leaves open; the memory's size is not known without the type.
    expect(&found, Check::RootVolume, "t", Verdict::Unknown, "memory");
}

#[test]
fn a_task_definition_is_judged_and_the_whole_fleet_compared_with_the_quota() {
    let definition = json!({ "family": "work", "revision": 7, "cpu": "4096",
        "containerDefinitions": [{ "name": "worker", "stopTimeout": 120 }, { "name": "sidecar" }] });
    let services = json!({ "services": [
        { "serviceName": "w-spot", "desiredCount": 200,
          "taskDefinition": "arn:aws:ecs:eu-west-1:123456789012:task-definition/work:7" },
        { "serviceName": "w-standard", "desiredCount": 0,
          "taskDefinition": "arn:aws:ecs:eu-west-1:123456789012:task-definition/work:7" } ], "failures": [] });
    let quotas = json!({ "Quotas": [{ "QuotaCode": "L-0000", "Value": 1.5 },
        { "ServiceCode": "fargate", "QuotaCode": "L-3032A538", "Value": 500.0 }] });
    let described = json!({ "taskDefinition": definition, "tags": [] });
    let found = judged(&[("t", described), ("s", services), ("q", quotas)]);
    expect(&found, Check::StopTimeout, "worker of work:7", Verdict::Ok, "120 s");
    expect(&found, Check::StopTimeout, "sidecar of work:7", Verdict::Warn, "30 s (the default)");
    expect(
        &found,
        Check::OnDemandQuota,
        "Fargate",
        Verdict::Fail,
        "500 vCPUs; the whole fleet on demand needs 800",
    );
    let found = judged(&[("t", definition)]);
    expect(&found, Check::StopTimeout, "worker of work", Verdict::Ok, "");
}

#[test]
fn nonsense_is_told_apart_and_never_judged() {
    let error = |text: &str| format!("{:#}", parse(text.as_bytes()).expect_err(text));
    assert!(error("").contains("no JSON"), "{}", error(""));
    assert!(error("InstanceId: i-1").contains("--output json"));
    assert!(error("[]").contains("no object"));
    let unknown = error(r#"{ "Buckets": [], "Owner": {} }"#);
    assert!(unknown.contains("Buckets, Owner") && unknown.contains("describe-instances"), "{unknown}");
    assert!(error("{}").contains("no keys"));
    for wrong in [
        r#"{ "Reservations": {} }"#,
        r#"{ "Volumes": [{ "VolumeId": "v", "Size": -1 }] }"#,
        r#"{ "LifecycleHooks": [{ "LifecycleHookName": "h", "HeartbeatTimeout": "soon" }] }"#,
        r#"{ "Quota": { "QuotaCode": "L-3032A538", "Value": "many" } }"#,
    ] {
        assert!(error(wrong).contains("another form"), "{wrong}: {}", error(wrong));
    }
}

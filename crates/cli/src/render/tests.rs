//! What is rendered, held against sample events, the published metrics and the calls that are made.

use serde_json::{Value, json};

use super::*;

fn plan() -> Plan {
    Plan {
        clusters: vec!["prod".to_owned()],
        services: vec!["web".to_owned(), "orders-api".to_owned()],
        workloads: vec!["file-search".to_owned()],
        namespace: "Lifeboat".to_owned(),
        queue: "lifeboat-events".to_owned(),
        table: "lifeboat".to_owned(),
        topic: "lifeboat-alerts".to_owned(),
        visibility_s: 30,
        machines: true,
        config: format!("url = \"{QUEUE}\"\ndead = \"{DEAD_LETTERS}\"\ntopic = \"{TOPIC}\"\n# ${{x}}\n"),
    }
}

/// EventBridge's matching, as far as the rules use it: exact values, `prefix`, `$or`, nesting.
/// Source: EventBridge user guide, "Comparison operators"; read 2026-11.
fn matches(pattern: &Value, event: &Value) -> bool {
    let Value::Object(pattern) = pattern else { panic!("a pattern is an object: {pattern}") };
    pattern.iter().all(|(key, wanted)| match (key.as_str(), wanted) {
        ("$or", Value::Array(any)) => any.iter().any(|pattern| matches(pattern, event)),
        (_, Value::Object(_)) => {
            event.get(key).is_some_and(|inner| inner.is_object() && matches(wanted, inner))
        }
        (_, Value::Array(any)) => {
            event.get(key).is_some_and(|found| any.iter().any(|value| is(value, found)))
        }
        _ => panic!("no such pattern: {key} {wanted}"),
    })
}

fn is(wanted: &Value, found: &Value) -> bool {
    if let Some(prefix) = wanted.get("prefix") {
        let prefix = prefix.as_str().expect("a prefix is text");
        return found.as_str().is_some_and(|found| found.starts_with(prefix));
    }
    wanted == found
}

/// The rules that an event matches, with the cluster's ARN filled in.
fn matching(event: &Value) -> Vec<&'static str> {
    let filled = |pattern: Value| {
        let text = pattern.to_string();
        let arn = "{\"Fn::Sub\":\"arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:cluster/prod\"}";
        serde_json::from_str(&text.replace(arn, &format!("\"{CLUSTER}\""))).expect("still JSON")
    };
    let rules = rules::patterns(&plan()).into_iter();
    rules.filter(|(_, pattern)| matches(&filled(pattern.clone()), event)).map(|(name, _)| name).collect()
}

const CLUSTER: &str = "arn:aws:ecs:eu-west-1:123456789012:cluster/prod";

fn task(changed: Value) -> Value {
    let mut event = json!({
        "version": "0", "id": "3317b2af-7005-947d-b652-f55e762e571a", "detail-type": "ECS Task State Change",
        "source": "aws.ecs", "account": "123456789012", "time": "2026-01-02T03:04:05Z", "region": "eu-west-1",
        "resources": ["arn:aws:ecs:eu-west-1:123456789012:task/prod/0123456789abcdef0123456789abcdef"],
        "detail": {
            "clusterArn": CLUSTER, "group": "service:web-spot", "launchType": "FARGATE",
            "capacityProviderName": "FARGATE_SPOT", "desiredStatus": "RUNNING", "lastStatus": "RUNNING",
            "taskArn": "arn:aws:ecs:eu-west-1:123456789012:task/prod/0123456789abcdef0123456789abcdef", "version": 4,
        },
    });
    for (key, value) in changed.as_object().expect("changes are an object") {
        event["detail"][key] = value.clone();
    }
    event
}

#[test]
fn every_form_of_an_interruption_reaches_the_queue_once() {
    let warned = json!({ "desiredStatus": "STOPPED", "stoppedReason": "Your Spot Task was interrupted." });
    for changed in [
        json!({ "desiredStatus": "STOPPED", "stopCode": "TerminationNotice" }),
        json!({ "desiredStatus": "STOPPED", "stopCode": "SpotInterruption" }),
        warned.clone(),
        json!({ "desiredStatus": "STOPPED" }),
        json!({ "desiredStatus": "STOPPED", "lastStatus": "STOPPED", "stopCode": "SpotInterruption" }),
        // Source B's strings, and an event that does not name its provider.
        json!({ "lastStatus": "STOPPED", "stoppedReason": "SpotInterruption: reclaimed", "capacityProviderName": null }),
        json!({ "lastStatus": "STOPPED", "stoppedReason": "ResourcesNotAvailable: none", "capacityProviderName": null }),
        json!({ "desiredStatus": "STOPPED", "stopCode": "TerminationNotice", "capacityProviderName": null }),
        json!({}),
    ] {
        assert_eq!(matching(&task(changed.clone())), ["TaskChanges"], "{changed}");
    }
}

#[test]
fn what_decides_nothing_stays_away_from_the_queue() {
    for changed in [
        json!({ "capacityProviderName": "FARGATE" }),
        json!({ "lastStatus": "PENDING" }),
        json!({ "lastStatus": "PROVISIONING" }),
        json!({ "clusterArn": "arn:aws:ecs:eu-west-1:123456789012:cluster/other" }),
    ] {
        assert_eq!(matching(&task(changed.clone())), [""; 0], "{changed}");
    }
    let action = |name: &str, reason: &str| {
        json!({
            "detail-type": "ECS Service Action", "source": "aws.ecs",
            "resources": ["arn:aws:ecs:eu-west-1:123456789012:service/prod/web-spot"],
            "detail": {
                "eventType": "ERROR", "eventName": name, "clusterArn": CLUSTER, "reason": reason,
                "capacityProviderArns": ["arn:aws:ecs:eu-west-1:123456789012:capacity-provider/FARGATE_SPOT"],
            },
        })
    };
    assert_eq!(matching(&action("SERVICE_TASK_PLACEMENT_FAILURE", "RESOURCE:FARGATE")), ["RefusedLaunches"]);
    assert_eq!(matching(&action("SERVICE_TASK_PLACEMENT_FAILURE", "RESOURCE:CPU")), [""; 0]);
    assert_eq!(matching(&action("SERVICE_STEADY_STATE", "")), [""; 0]);
}

#[test]
fn events_of_machines_reach_the_queue_where_they_are_wanted() {
    let event = |source: &str, kind: &str, detail: Value| json!({ "source": source, "detail-type": kind, "resources": [], "detail": detail });
    for (event, rule) in [
        (
            event(
                "aws.ec2",
                "EC2 Spot Instance Interruption Warning",
                json!({ "instance-id": "i-1", "instance-action": "terminate" }),
            ),
            "InstanceNotices",
        ),
        (
            event("aws.ec2", "EC2 Instance Rebalance Recommendation", json!({ "instance-id": "i-1" })),
            "InstanceNotices",
        ),
        (
            event(
                "aws.ec2",
                "EC2 Instance State-change Notification",
                json!({ "instance-id": "i-1", "state": "shutting-down" }),
            ),
            "InstanceStates",
        ),
        (
            event(
                "aws.autoscaling",
                "EC2 Instance-terminate Lifecycle Action",
                json!({ "EC2InstanceId": "i-1" }),
            ),
            "LifecycleActions",
        ),
        (
            event(
                "aws.health",
                "AWS Health Event",
                json!({ "service": "EC2", "eventTypeCategory": "scheduledChange" }),
            ),
            "HealthEvents",
        ),
    ] {
        assert_eq!(matching(&event), [rule]);
    }
    let running = event("aws.ec2", "EC2 Instance State-change Notification", json!({ "state": "running" }));
    assert_eq!(matching(&running), [""; 0]);
    let without = Plan { machines: false, ..plan() };
    assert_eq!(rules::patterns(&without).len(), 2);
    let text = json!(roles::statements(&without)).to_string();
    assert!(!text.contains("ssm:"), "nor may the controller run commands then");
}

#[test]
fn every_alarm_sees_a_metric_with_the_dimension_that_it_is_published_with() {
    let template = cloudformation(&plan());
    let resources = template["Resources"].as_object().expect("resources");
    let mut seen = Vec::new();
    for (id, alarm) in resources.iter().filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm") {
        let properties = &alarm["Properties"];
        if let Some(query) = properties["Metrics"][0]["Expression"].as_str() {
            let metric = query.split(['(', ')']).nth(1).expect("a metric");
            assert!(watch::SERVICE_METRICS.contains(&metric), "{id}: {query}");
            assert!(query.ends_with("FROM SCHEMA(\"Lifeboat\", Service)"), "{id}: {query}");
            continue;
        }
        let metric = properties["MetricName"].as_str().expect("a metric");
        let dimensions = properties["Dimensions"].as_array().expect("dimensions");
        assert_eq!(dimensions.len(), 1, "{id}");
        let dimension = dimensions[0]["Name"].as_str().expect("a name");
        match properties["Namespace"].as_str().expect("a namespace") {
            "AWS/SQS" => assert_eq!(dimension, "QueueName"),
            "Lifeboat" if watch::SERVICE_METRICS.contains(&metric) => assert_eq!(dimension, "Service"),
            "Lifeboat" => {
                assert!(watch::WORKLOAD_METRICS.contains(&metric), "{id}: nobody publishes {metric}");
                assert_eq!(dimension, "Workload");
            }
            other => panic!("{id}: {other}"),
        }
        seen.push((metric.to_owned(), dimensions[0]["Value"].clone()));
    }
    for service in ["web", "orders-api"] {
        assert!(seen.contains(&("SpotHealthScore".to_owned(), json!(service))));
        assert!(seen.contains(&("FailoverCount".to_owned(), json!(service))));
    }
    assert!(seen.contains(&("SpotInterruption".to_owned(), json!("file-search"))));
}

#[test]
fn the_dashboard_has_its_lines_and_finds_services_that_nobody_named() {
    let template = cloudformation(&Plan { services: Vec::new(), ..plan() });
    let body = template["Resources"]["FleetDashboard"]["Properties"]["DashboardBody"]["Fn::Sub"].as_str();
    let body: Value = serde_json::from_str(body.expect("a body")).expect("a dashboard is JSON");
    let score = &body["widgets"][0]["properties"];
    let lines: Vec<&Value> = score["annotations"]["horizontal"]
        .as_array()
        .expect("lines")
        .iter()
        .map(|line| &line["value"])
        .collect();
    assert_eq!(lines, [&json!(30), &json!(60)]);
    assert_eq!(
        score["metrics"][0][0]["expression"],
        "SEARCH('{\"Lifeboat\",Service} MetricName=\"SpotHealthScore\"', 'Minimum')"
    );
}

#[test]
fn the_controller_may_do_what_it_does_and_only_on_what_it_was_given() {
    for statement in roles::statements(&plan()) {
        let actions = statement["Action"].as_array().expect("a list").clone();
        assert!(!actions.is_empty());
        assert!(actions.iter().all(|action| !action.as_str().expect("text").contains('*')), "{statement}");
        let is_everything = statement["Resource"] == "*";
        assert!(!is_everything || statement.get("Condition").is_some(), "unlimited: {statement}");
    }
    let text = json!(roles::statements(&plan())).to_string();
    for action in ["ecs:UpdateService", "sqs:DeleteMessage", "dynamodb:ConditionCheckItem", "ssm:SendCommand"]
    {
        assert!(text.contains(action), "{action}");
    }
    assert!(!text.contains("iam:") && !text.contains("ec2:Terminate"));
}

#[test]
fn only_history_expires_and_states_outlive_the_stack() {
    let template = cloudformation(&plan());
    let table = &template["Resources"]["States"];
    assert_eq!(
        table["Properties"]["TimeToLiveSpecification"],
        json!({ "AttributeName": "expires", "Enabled": true })
    );
    assert_eq!(
        (&table["DeletionPolicy"], &table["UpdateReplacePolicy"]),
        (&json!("Retain"), &json!("Retain"))
    );
}

#[test]
fn the_configuration_names_the_stacks_own_resources_and_nothing_else_is_replaced() {
    let text = service::config(&plan());
    assert_eq!(
        text["Fn::Sub"],
        "url = \"${Events}\"\ndead = \"${DeadLetters}\"\ntopic = \"${Alerts}\"\n# ${!x}\n"
    );
}

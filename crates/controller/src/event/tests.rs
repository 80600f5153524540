//! Golden samples of every kind of message, and whatever else may lie in a queue.

use lifeboat_core::failover::event::Happening;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::time::Timestamp;
use proptest::prelude::*;

use super::{EcsEvent, MachineEvent, MachineNews, ParseError, Parsed, ServiceName, parse};
use crate::key::key;

macro_rules! sample {
    ($name:literal) => {
        include_str!(concat!("../../samples/", $name, ".json"))
    };
}

const TASK: &str = "arn:aws:ecs:eu-west-1:123456789012:task/prod/0f9de17a6465404e8b1b2356dc13c2f8";
const EVENT: &str = "3317b2af-7005-947d-b652-f55e762e571a";
const INSTANCE: &str = "i-1234567890abcdef0";
/// 2026-03-02T09:15:04Z
const AT: Timestamp = Timestamp(1_772_442_904_000);

fn ecs(body: &str) -> EcsEvent {
    match parse(body) {
        Ok(Parsed::Ecs(event)) => event,
        other => panic!("no ECS event: {other:?}"),
    }
}

fn machine(body: &str) -> MachineEvent {
    match parse(body) {
        Ok(Parsed::Machine(event)) => event,
        other => panic!("no machine event: {other:?}"),
    }
}

fn orders(cluster: Option<&str>, service: &str) -> ServiceName {
    ServiceName { cluster: cluster.map(str::to_owned), service: service.to_owned() }
}

#[test]
fn an_interruption_is_seen_two_minutes_before_the_end_whatever_its_code() {
    let warned = EcsEvent {
        service: orders(Some("prod"), "orders-spot"),
        capacity: Some(Capacity::Spot),
        at: Some(AT),
        what: Happening::Warned { task: key(TASK) },
        version: Some((key(TASK), 5)),
    };
    assert_eq!(ecs(sample!("ecs-task-interruption-sdk")), warned);
    assert_eq!(ecs(sample!("ecs-task-interruption-guide")), warned);
    assert_eq!(ecs(sample!("ecs-task-interruption-without-code")), warned);
}

#[test]
fn what_happens_to_a_task_is_told_apart() {
    let task = key(TASK);
    let what = |body| ecs(body).what;
    let stopped = |is_interruption| Happening::Stopped { task, is_interruption };
    assert_eq!(what(sample!("ecs-task-interrupted-stopped")), stopped(true));
    assert_eq!(what(sample!("ecs-task-source-b-interruption")), stopped(true));
    assert_eq!(what(sample!("ecs-task-scaled-in")), stopped(false));
    assert_eq!(what(sample!("ecs-task-source-b-capacity")), Happening::Refused { event: task });
    assert_eq!(what(sample!("ecs-task-capacity-unavailable")), Happening::Refused { event: task });
    assert_eq!(what(sample!("ecs-task-running")), Happening::Ready { task });
    assert_eq!(ecs(sample!("ecs-task-running-standard")).capacity, Some(Capacity::OnDemand));
    assert_eq!(parse(sample!("ecs-task-pending")), Ok(Parsed::Nothing));
    assert_eq!(parse(sample!("ecs-task-without-service")), Ok(Parsed::Nothing));
}

#[test]
fn a_refused_placement_counts_for_fargate_alone_and_both_forms_of_the_arn_are_read() {
    let refused = ecs(sample!("ecs-service-placement-failure"));
    assert_eq!(refused.what, Happening::Refused { event: key(EVENT) });
    assert_eq!(refused.capacity, Some(Capacity::Spot));
    assert_eq!(refused.service, orders(Some("prod"), "orders-spot"));
    let old = ecs(sample!("ecs-service-placement-failure-old-arn"));
    assert_eq!((old.what, old.service), (refused.what, orders(None, "orders-spot")));
    assert_eq!(parse(sample!("ecs-service-placement-failure-cpu")), Ok(Parsed::Nothing));
    assert_eq!(ecs(sample!("ecs-service-steady-state")).what, Happening::Steady);
    assert_eq!(parse(sample!("ecs-deployment")), Ok(Parsed::Nothing));
}

#[test]
fn an_empty_or_malformed_time_is_accepted() {
    assert_eq!(ecs(sample!("ecs-task-empty-time")).at, None);
    assert_eq!(ecs(sample!("ecs-task-malformed-time")).at, None);
    for time in ["", r#""time":null,"#, r#""time":"","#] {
        let body = format!(
            r#"{{{time}"id":"e","source":"aws.ec2","detail-type":"EC2 Instance Rebalance Recommendation",
               "detail":{{"instance-id":"i-1"}}}}"#
        );
        assert_eq!(machine(&body).at, None, "{time}");
    }
}

#[test]
fn machine_events_name_every_instance_and_exact_states() {
    let event = |what| MachineEvent { instances: vec![INSTANCE.to_owned()], at: Some(AT), what };
    let action = |action: &str| MachineNews::Interruption { action: action.to_owned() };
    assert_eq!(machine(sample!("ec2-spot-interruption-warning")), event(action("terminate")));
    assert_eq!(machine(sample!("ec2-spot-interruption-hibernate")), event(action("hibernate")));
    assert_eq!(machine(sample!("ec2-rebalance-recommendation")), event(MachineNews::Rebalance));
    let gone = MachineNews::Gone { state: "shutting-down".to_owned() };
    assert_eq!(machine(sample!("ec2-state-shutting-down")), event(gone));
    assert_eq!(parse(sample!("ec2-state-running")), Ok(Parsed::Nothing));
    assert!(matches!(parse(sample!("ec2-state-empty")), Err(ParseError::Missing { field: "state", .. })));
    let health = machine(sample!("health-scheduled-change"));
    assert_eq!(health.instances, [INSTANCE, "i-0abcdef1234567890"], "every entity that is an instance");
    assert_eq!(parse(sample!("health-other-service")), Ok(Parsed::Nothing));
}

#[test]
fn lifecycle_actions_are_read_from_every_way_they_come_and_test_notifications_dropped() {
    let what = MachineNews::Terminating { group: "my-asg".into(), hook: "my-lifecycle-hook".into() };
    for body in [
        sample!("autoscaling-terminate"),
        sample!("autoscaling-terminate-bare"),
        sample!("autoscaling-terminate-sns"),
    ] {
        let event = machine(body);
        assert_eq!((event.instances, event.what), (vec![INSTANCE.to_owned()], what.clone()));
        assert!(event.at.is_some());
    }
    for body in [sample!("autoscaling-test-notification"), sample!("autoscaling-test-notification-sns")] {
        assert_eq!(parse(body), Ok(Parsed::Nothing));
    }
    let launching = sample!("autoscaling-terminate-bare").replace("_TERMINATING", "_LAUNCHING");
    assert_eq!(parse(&launching), Ok(Parsed::Nothing));
}

#[test]
fn unknown_events_are_named_and_what_is_no_event_is_refused() {
    assert_eq!(parse(sample!("unknown-event")), Ok(Parsed::Unknown("aws.s3 Object Created".to_owned())));
    for body in ["", "null", "[]", "7", "\"x\"", "{", "not json", "\u{0}"] {
        assert_eq!(parse(body), Err(ParseError::NotJson), "{body:?}");
    }
    for body in ["{}", r#"{"a":1}"#, r#"{"detail-type":7}"#, r#"{"Type":"Notification","Message":"{}"}"#] {
        assert!(matches!(parse(body), Err(ParseError::Missing { .. })), "{body:?}");
    }
    let broken = sample!("ecs-task-running").replace("\"taskArn\": ", "\"taskarn\": ");
    assert!(matches!(parse(&broken), Err(ParseError::Missing { field: "taskArn", .. })));
    assert!(matches!(parse(&" ".repeat(2 << 20)), Err(ParseError::TooLong(_))));
}

const SAMPLES: [&str; 6] = [
    sample!("ecs-task-interruption-sdk"),
    sample!("ecs-service-placement-failure"),
    sample!("ec2-spot-interruption-warning"),
    sample!("autoscaling-terminate-sns"),
    sample!("autoscaling-terminate-bare"),
    sample!("health-scheduled-change"),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes changed, cut out or doubled anywhere: never a panic, and never an event of a service or machine that the
    /// sample does not name.
    #[test]
    fn damaged_messages_never_panic(
        sample in 0..SAMPLES.len(),
        from in 0_usize..4_000,
        length in 0_usize..60,
        with in "\\PC{0,12}",
    ) {
        let chars: Vec<char> = SAMPLES[sample].chars().collect();
        let from = from % chars.len();
        let until = (from + length).min(chars.len());
        let damaged: String =
            chars[..from].iter().copied().chain(with.chars()).chain(chars[until..].iter().copied()).collect();
        if let Ok(Parsed::Machine(event)) = parse(&damaged) {
            prop_assert!(event.instances.iter().all(|id| !id.is_empty()));
        }
    }

    /// Any JSON under the known kinds: never a panic.
    #[test]
    fn odd_details_never_panic(
        kind in prop::sample::select(vec![
            "ECS Task State Change", "ECS Service Action", "AWS Health Event",
            "EC2 Instance State-change Notification", "EC2 Instance-terminate Lifecycle Action",
        ]),
        source in prop::sample::select(vec!["aws.ecs", "aws.ec2", "aws.health", "aws.autoscaling", ""]),
        fields in prop::collection::vec((
            prop::sample::select(vec![
                "taskArn", "lastStatus", "desiredStatus", "group", "eventName", "reason", "state", "instance-id",
                "affectedEntities", "LifecycleTransition", "version", "capacityProviderArns",
            ]),
            prop::sample::select(vec!["null", "7", "-1.5", "[]", "{}", "\"\"", "\"RUNNING\"", "\"STOPPED\"", "[null,{}]"]),
        ), 0..8),
    ) {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let body = format!(
            r#"{{"source":"{source}","detail-type":"{kind}","resources":[{}],"detail":{{{}}}}}"#,
            "null", fields.join(",")
        );
        let _ = parse(&body); // only that it returns
    }
}

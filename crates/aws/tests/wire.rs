//! What moto lacks, from recorded shapes: lifecycle actions, and every way in which a call can fail.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lifeboat_aws::autoscaling::{ActionOf, Lifecycle, LifecycleAction, Outcome};
use lifeboat_aws::cloudwatch::{Metric, Unit};
use lifeboat_aws::dynamodb::{Item, Put, Transacted, Write};
use lifeboat_aws::ecs::Wanted;
use lifeboat_aws::sqs::{Outgoing, Receive};
use lifeboat_aws::ssm::Command;
use lifeboat_aws::states::State;
use lifeboat_aws::testing::{Reply, Wire, aws_at};
use lifeboat_aws::{Aws, AwsError, Kind, Operation, Options};

const WITHIN: Duration = Duration::from_secs(60);

const SHORT: Duration = Duration::from_millis(300);

fn refusing(status: u16, code: &'static str, message: &'static str) -> Wire {
    Wire::start(None, move |_| Reply::Error { status, code, message })
}

/// Makes every call once, each with `within`, and returns what failed.
async fn every_call(aws: &Aws, within: Duration) -> Vec<AwsError> {
    let mut failed = Vec::new();
    let mut keep = |result: Result<(), AwsError>| failed.extend(result.err());
    let action = LifecycleAction {
        group: "g".to_owned(),
        hook: "h".to_owned(),
        of: ActionOf::Instance("i-1".to_owned()),
    };
    let text = |text: &str| text.to_owned();
    let item = Item::from([("pk".to_owned(), "x".into())]);
    let (scaling, ecs, elb, sqs) = (aws.autoscaling(), aws.ecs(), aws.elb(), aws.sqs());
    keep(scaling.complete(&action, Outcome::Continue, within).await.map(drop));
    keep(scaling.heartbeat(&action, within).await.map(drop));
    keep(scaling.group("g", within).await.map(drop));
    keep(scaling.hooks("g", within).await.map(drop));
    keep(scaling.instance("i-1", within).await.map(drop));
    keep(aws.cloudwatch().put("n", &[metric()], within).await);
    let table = aws.dynamodb();
    keep(table.put("t", item.clone(), None, within).await.map(drop));
    keep(table.get("t", item.clone(), within).await.map(drop));
    let partition = (text("pk"), "x".into());
    let query = lifeboat_aws::dynamodb::Query { partition, sort_prefix: None, newest_first: true, limit: 1 };
    keep(table.query("t", &query, within).await.map(drop));
    let write = Write::Put { table: text("t"), item, condition: None };
    keep(table.transact(vec![write], None, within).await.map(drop));
    keep(table.table("t", within).await.map(drop));
    keep(ecs.list_services("c", within).await.map(drop));
    keep(ecs.list_tasks("c", Some("s"), Wanted::Running, within).await.map(drop));
    keep(ecs.describe_services("c", &[text("s")], within).await.map(drop));
    keep(ecs.describe_tasks("c", &[text("t")], within).await.map(drop));
    keep(ecs.set_desired("c", "s", 1, within).await.map(drop));
    keep(elb.deregister("arn", &[], within).await);
    keep(elb.health("arn", &[], within).await.map(drop));
    keep(elb.deregistration_delay("arn", within).await.map(drop));
    keep(aws.sns().publish("arn", "s", "m", within).await.map(drop));
    keep(aws.sns().subscriptions("arn", within).await.map(drop));
    keep(sqs.queue_url("q", within).await.map(drop));
    keep(sqs.attributes("q", within).await.map(drop));
    let receive = Receive { max: 1, wait: Duration::ZERO, visibility: None };
    keep(sqs.receive("q", receive, within).await.map(drop));
    keep(sqs.delete("q", &[text("r")], within).await.remove(0));
    keep(sqs.change_visibility("q", &[(text("r"), Duration::ZERO)], within).await.remove(0));
    keep(sqs.send("q", &[Outgoing { body: text("b"), ..Outgoing::default() }], within).await.remove(0));
    let command = Command { document: text("d"), ..Command::default() };
    keep(aws.ssm().send_command(&[text("i-1")], &command, within).await.map(drop));
    failed
}

fn metric() -> Metric {
    let name = "M".to_owned();
    Metric { name, dimensions: vec![], unit: Unit::Count, value: 1.0, at_ms: Some(0) }
}

/// Every call there is failed, once.
fn all_failed(failed: &[AwsError]) {
    let mut operations: Vec<Operation> = failed.iter().map(|error| error.operation).collect();
    operations.sort();
    assert_eq!(operations, Operation::ALL, "each call once, and each failed");
}

#[tokio::test]
async fn every_refusal_means_the_same_whatever_protocol_a_service_speaks() {
    type Check = fn(&AwsError) -> bool;
    let cases: [(u16, &'static str, &'static str, Check); 5] = [
        (400, "ThrottlingException", "Rate exceeded", |error| error.kind == Kind::Throttled),
        (403, "AccessDenied", "", |error| {
            let Kind::Denied { action } = &error.kind else { return false };
            *action == error.operation.iam_actions().join(", ")
        }),
        (403, "ExpiredToken", "The security token included in the request is expired", |error| {
            error.kind == Kind::Expired
        }),
        (500, "InternalFailure", "", |error| error.kind == Kind::Unavailable),
        (400, "ValidationError", "1 validation error detected", |error| error.kind == Kind::Invalid),
    ];
    for (status, code, message, is_right) in cases {
        let wire = refusing(status, code, message);
        let failed = every_call(&aws_at(&wire.url()), WITHIN).await;
        all_failed(&failed);
        for error in &failed {
            assert!(is_right(error), "{code}: {error:?}");
            assert_eq!(error.code.as_deref(), Some(code), "{error:?}");
            assert!(error.message.contains(message), "{error:?}");
            assert!(!error.to_string().contains("SKTEST"), "{error}");
        }
        let tries = wire.requests_of("GetItem").len();
        let is_tried_again = failed[0].is_temporary();
        assert!(tries <= 3 && (tries > 1) == is_tried_again, "{code}: {tries} tries");
    }
}

#[tokio::test]
async fn a_service_that_says_nothing_or_nonsense_costs_the_time_given_and_no_more() {
    let wire = Wire::start(None, |_| Reply::Hang);
    let begun = Instant::now();
    let failed = every_call(&aws_at(&wire.url()), SHORT).await;
    let took = begun.elapsed();
    all_failed(&failed);
    assert!(failed.iter().all(|error| error.kind == Kind::TimedOut { within: error_time(error) }));
    let count = u32::try_from(failed.len()).expect("few");
    assert!(took >= SHORT * count, "{took:?}: somebody gave up early");
    // Twenty times slower is still far from the ten seconds a call that an SDK left to itself would take.
    assert!(took < SHORT * count + Duration::from_secs(120), "{took:?}");

    for reply in [Reply::Close, Reply::Garbage] {
        let wire = Wire::start(None, move |_| reply.clone());
        for error in every_call(&aws_at(&wire.url()), Duration::from_secs(20)).await {
            assert!(matches!(error.kind, Kind::Unavailable | Kind::TimedOut { .. }), "{error:?}");
        }
    }
}

/// The time that a timed-out call names, which is at most what it was given.
fn error_time(error: &AwsError) -> Duration {
    let Kind::TimedOut { within } = error.kind else { panic!("{error:?}") };
    assert!(within <= SHORT, "{within:?}");
    within
}

#[tokio::test]
async fn nobody_listening_is_told_as_such() {
    let wire = Wire::start(None, |_| Reply::Close);
    let url = wire.url();
    drop(wire);
    let error = aws_at(&url).sqs().queue_url("q", WITHIN).await.expect_err("nobody listens");
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
}

#[tokio::test]
async fn lifecycle_actions_are_completed_by_instance_or_token_and_none_waiting_is_no_failure() {
    let action = |of| LifecycleAction { group: "g".to_owned(), hook: "h".to_owned(), of };
    let by_instance = action(ActionOf::Instance("i-1".to_owned()));
    let by_token = action(ActionOf::Token("bcd2f1b8-9a78-44d3-8a7a-4dd07d7cf635".to_owned()));
    let wire = Wire::start(None, |_| Reply::Ok(String::new()));
    let scaling = aws_at(&wire.url()).autoscaling();
    assert_eq!(scaling.complete(&by_instance, Outcome::Continue, WITHIN).await, Ok(Lifecycle::Done));
    assert_eq!(scaling.complete(&by_token, Outcome::Abandon, WITHIN).await, Ok(Lifecycle::Done));
    assert_eq!(scaling.heartbeat(&by_instance, WITHIN).await, Ok(Lifecycle::Done));
    let forms: Vec<String> = wire.requests().iter().map(lifeboat_aws::testing::Request::text).collect();
    assert!(
        forms[0].contains("LifecycleActionResult=CONTINUE") && forms[0].contains("InstanceId=i-1"),
        "{forms:?}"
    );
    assert!(forms[1].contains("LifecycleActionResult=ABANDON"), "{forms:?}");
    assert!(
        forms[1].contains("LifecycleActionToken=bcd2f1b8") && !forms[1].contains("InstanceId"),
        "{forms:?}"
    );

    // Source: the answer as users report it (read 2023).
    let wire = refusing(400, "ValidationError", "No active Lifecycle Action found with instance ID i-1");
    let scaling = aws_at(&wire.url()).autoscaling();
    assert_eq!(scaling.complete(&by_instance, Outcome::Continue, WITHIN).await, Ok(Lifecycle::NotActive));
    assert_eq!(scaling.heartbeat(&by_token, WITHIN).await, Ok(Lifecycle::NotActive));
}

#[tokio::test]
async fn entries_of_a_batch_fail_one_by_one() {
    let wire = Wire::start(None, |_| {
        let failed = [
            r#"{"Id":"1","SenderFault":true,"Code":"ReceiptHandleIsInvalid","Message":"The input receipt handle is invalid."}"#,
            r#"{"Id":"2","SenderFault":true,"Code":"InvalidParameterValue","Message":"Value x for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."}"#,
            r#"{"Id":"3","SenderFault":false,"Code":"InternalError"}"#,
        ];
        Reply::Ok(format!(r#"{{"Successful":[{{"Id":"0"}}],"Failed":[{}]}}"#, failed.join(",")))
    });
    let entries: Vec<_> = (0..4).map(|n| (n.to_string(), Duration::ZERO)).collect();
    let results = aws_at(&wire.url()).sqs().change_visibility("q", &entries, WITHIN).await;
    let kinds: Vec<_> = results.into_iter().map(|result| result.err().map(|error| error.kind)).collect();
    let wanted = [None, Some(Kind::StaleReceipt), Some(Kind::StaleReceipt), Some(Kind::Unavailable)];
    assert_eq!(kinds, wanted);
}

#[tokio::test]
async fn five_hundred_receipts_are_fifty_calls_some_of_them_at_once() {
    let wire = Wire::start(None, |_| {
        std::thread::sleep(Duration::from_millis(50)); // as far as a region may be
        Reply::Ok(r#"{"Successful":[],"Failed":[]}"#.to_owned())
    });
    let aws = aws_at(&wire.url());
    let entries: Vec<_> = (0..500).map(|n| (n.to_string(), Duration::ZERO)).collect();
    let results = aws.sqs().change_visibility("q", &entries, WITHIN).await;
    assert!(results.len() == 500 && results.iter().all(Result::is_ok));
    assert_eq!(wire.requests().len(), 50);
}

#[tokio::test]
async fn a_conflict_is_an_outcome_where_conditions_are_asked_for() {
    let wire = refusing(400, "ConditionalCheckFailedException", "The conditional request failed");
    let table = aws_at(&wire.url()).dynamodb();
    let item = Item::from([("pk".to_owned(), "x".into())]);
    assert_eq!(table.put("t", item.clone(), None, WITHIN).await, Ok(Put::Refused { current: None }));
    let wire = refusing(400, "TransactionInProgressException", "in progress");
    let write = Write::Put { table: "t".to_owned(), item, condition: None };
    let error = aws_at(&wire.url()).dynamodb().transact(vec![write.clone()], None, WITHIN).await;
    assert_eq!(error.expect_err("not yet").kind, Kind::Conflict);
    let wire = Wire::start(None, |_| Reply::Ok(String::new()));
    let done = aws_at(&wire.url()).dynamodb().transact(vec![write], None, WITHIN).await;
    assert_eq!(done, Ok(Transacted::Done));
}

#[tokio::test]
async fn without_credentials_nothing_is_sent_and_the_reason_is_named() {
    let wire = Wire::start(None, |_| Reply::Ok(String::new()));
    // A profile that is nowhere: no test of this process has credentials of the machine by it.
    let aws = Aws::new(Options {
        region: Some("eu-west-1".to_owned()),
        profile: Some("lifeboat-no-such-profile".to_owned()),
        endpoint: Some(wire.url()),
        ..Options::default()
    });
    let error = aws.sqs().queue_url("q", WITHIN).await.expect_err("no credentials");
    assert_eq!(error.kind, Kind::NoCredentials, "{error:?}");
    assert!(wire.requests().is_empty());
}

/// moto's CloudWatch does not understand the protocol that the SDK speaks today, CBOR.
#[tokio::test]
async fn metrics_go_out_in_calls_of_a_thousand_with_their_dimensions() {
    let wire = Wire::start(None, |_| Reply::Ok(String::new()));
    let dimensions = vec![("Workload".to_owned(), "w".to_owned())];
    let metrics = vec![Metric { dimensions, value: 2.5, ..metric() }; 1_001];
    aws_at(&wire.url()).cloudwatch().put("Lifeboat", &metrics, WITHIN).await.expect("published");
    let requests = wire.requests_of("PutMetricData");
    assert_eq!(requests.len(), 2);
    // The large one is compressed.
    let last = requests[1].json().expect("readable");
    assert_eq!(last["Namespace"], "Lifeboat");
    let datum = &last["MetricData"][0];
    assert_eq!(
        (&datum["MetricName"], &datum["Value"], &datum["Unit"]),
        (&"M".into(), &2.5.into(), &"Count".into())
    );
    assert_eq!(datum["Dimensions"], serde_json::json!([{ "Name": "Workload", "Value": "w" }]));
}

/// moto has no tasks behind services. Source: the shapes of the ECS API reference's examples (read 2023).
#[tokio::test]
async fn services_and_tasks_keep_what_decisions_need() {
    let wire = Wire::start(None, |request| {
        match request.operation.as_str() {
        "ListTasks" if request.text().contains("next") => Reply::Ok(r#"{"taskArns":["b"]}"#.to_owned()),
        "ListTasks" => Reply::Ok(r#"{"taskArns":["a"],"nextToken":"next"}"#.to_owned()),
        "DescribeServices" => Reply::Ok(
            r#"{"services":[{"serviceName":"s","status":"ACTIVE","desiredCount":3,"runningCount":2,"pendingCount":1,
                "capacityProviderStrategy":[{"capacityProvider":"FARGATE_SPOT","weight":1,"base":0}],
                "deployments":[{"id":"d","status":"PRIMARY","rolloutState":"IN_PROGRESS","failedTasks":4}],
                "loadBalancers":[{"targetGroupArn":"tg"}]}],
                "failures":[{"arn":"x","reason":"MISSING"}]}"#
                .to_owned(),
        ),
        _ => Reply::Ok(
            r#"{"tasks":[{"taskArn":"a","group":"service:s","lastStatus":"RUNNING","desiredStatus":"STOPPED",
                "capacityProviderName":"FARGATE_SPOT","stopCode":"SpotInterruption","version":7,
                "stoppedReason":"Your Spot Task was interrupted.","createdAt":1700000000.25}]}"#
                .to_owned(),
        ),
    }
    });
    let ecs = aws_at(&wire.url()).ecs();
    let tasks = ecs.list_tasks("c", Some("s"), Wanted::Running, WITHIN).await.expect("listed");
    assert_eq!(tasks, ["a", "b"]);
    let services = ecs.describe_services("c", &["s".to_owned()], WITHIN).await.expect("described");
    let service = &services.found[0];
    assert_eq!((service.desired, service.running, service.pending), (3, 2, 1));
    assert_eq!(service.capacity_providers[0].name, "FARGATE_SPOT");
    assert_eq!(service.deployments[0].rollout.as_deref(), Some("IN_PROGRESS"));
    assert_eq!((service.deployments[0].failed, service.target_groups[0].as_str()), (4, "tg"));
    assert_eq!(services.failures[0].reason, "MISSING");
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let described = ecs.describe_tasks("c", &many, WITHIN).await.expect("described").found;
    assert_eq!(described.len(), 2, "a hundred a call");
    let task = &described[0];
    // What current SDKs call the interruption, and older documents do not, comes through all the same.
    assert_eq!(task.stop_code.as_deref(), Some("SpotInterruption"));
    assert_eq!((task.desired_status.as_str(), task.version), ("STOPPED", 7));
    assert_eq!(task.created_ms, Some(1_700_000_000_250));
}

#[tokio::test]
async fn a_hand_back_asks_again_for_what_may_pass_and_for_nothing_else() {
    let wire = Wire::start(None, |request| {
        // The first receipt is throttled twice, the second is stale for good.
        let (throttled, stale) = (
            r#"{"Id":"0","SenderFault":false,"Code":"RequestThrottled"}"#,
            r#"{"Id":"1","SenderFault":true,"Code":"ReceiptHandleIsInvalid"}"#,
        );
        let asked = request.json().expect("JSON")["Entries"].as_array().expect("entries").len();
        Reply::Ok(match asked {
            3 => format!(r#"{{"Successful":[],"Failed":[{throttled},{stale}]}}"#),
            _ => r#"{"Successful":[],"Failed":[]}"#.to_owned(),
        })
    });
    let receipts: Vec<String> = (0..3).map(|n| n.to_string()).collect();
    let results = aws_at(&wire.url()).sqs().give_back("q", &receipts, Duration::ZERO, WITHIN).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert_eq!(results[1].as_ref().expect_err("stale").kind, Kind::StaleReceipt);
    assert_eq!(wire.requests().len(), 2, "three entries, then the throttled one");
}

#[tokio::test]
async fn what_went_wrong_is_told_even_when_the_last_try_is_cut_short() {
    // Three tries are one call of the SDK's: the second call is never answered.
    let wire = || {
        let asked = AtomicU32::new(0);
        Wire::start(None, move |_| match asked.fetch_add(1, Relaxed) {
            0..3 => Reply::Error { status: 400, code: "ThrottlingException", message: "Rate exceeded" },
            _ => Reply::Hang,
        })
    };
    let told = |error: &AwsError| {
        assert_eq!(error.kind, Kind::Throttled, "{error}");
        let text = error.to_string();
        assert!(text.contains("Rate exceeded; the last try did not answer within"), "{text}");
    };
    let within = Duration::from_secs(5);
    let table = wire();
    let state = State { workload: "w".to_owned(), instance: "i".to_owned(), ..State::default() };
    told(&aws_at(&table.url()).dynamodb().put_state("t", &state, within).await.expect_err("throttled"));
    let queue = wire();
    let results = aws_at(&queue.url()).sqs().give_back("q", &["r".to_owned()], Duration::ZERO, within).await;
    told(results[0].as_ref().expect_err("throttled"));
}

#[tokio::test]
async fn a_long_list_is_read_to_its_end_and_one_without_end_is_an_error() {
    // One task a page, so that as many pages as more than a hundred thousand tasks have are quickly told.
    let page = |last: u64| {
        move |request: &lifeboat_aws::testing::Request| {
            let asked: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
            let number = asked["nextToken"].as_str().map_or(0, |token| token.parse::<u64>().expect("ours"));
            let next = (number < last).then(|| (number + 1).to_string());
            Reply::Ok(
                serde_json::json!({ "taskArns": [format!("t{number}")], "nextToken": next }).to_string(),
            )
        }
    };
    let wire = Wire::start(None, page(1_099));
    let tasks = aws_at(&wire.url()).ecs().list_tasks("c", None, Wanted::Running, 5 * WITHIN).await;
    assert_eq!(tasks.expect("listed").len(), 1_100);
    let wire = Wire::start(None, page(u64::MAX));
    let endless = aws_at(&wire.url()).ecs().list_tasks("c", None, Wanted::Running, WITHIN).await;
    // By its pages, or on a slow machine by the time: never half a list.
    endless.expect_err("half a list looks like half a fleet");
}

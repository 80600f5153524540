//! AWS around an evacuation: queue, table, hook, alerts, metrics. The real binary and the real SDK, against moto, and
//! against a server that answers what moto lacks and fails as AWS does.

mod harness;

use std::collections::BTreeSet;
use std::fs;

use harness::{Machine, Running, World, eventually};
use lifeboat_aws::Operation;
use lifeboat_aws::testing::{Moto, Reply, Wire, environment};
use lifeboat_core::time::Millis;
use lifeboat_imds::mock::{NoticePlan, StatePlan};
use lifeboat_imds::wire::Action;
use serde_json::{Value, json};

/// A worker: writes its state, holds three messages, ends when it is told.
const WORKER: &str = "trap 'echo stopped >> worker.log; exit 0' TERM
echo '{\"done\": 7}' > state.json; mkdir -p partial; echo half > partial/t1; echo begun > worker.log
touch ../begun; while :; do sleep 0.05; done";

const SOURCE_A: &str = include_str!("../../../examples/source-a.toml");

/// The example's set-up on this machine: its own paths, and what the test created in place of the account's.
fn source_a(machine: &Machine, queue: &str, topic: &str) -> String {
    let mut text = SOURCE_A.to_owned();
    let path = |path: &str| machine.dir.join(path).to_string_lossy().into_owned();
    for (of_example, here) in [
        ("/var/lib/cis-file-search/work", path("work")),
        ("s3://cis-file-search-evacuation/lifeboat", machine.store.to_string_lossy().into_owned()),
        ("/var/run/cis-file-search/shutdown.signal", path("shutdown.signal")),
        ("/var/log/cis-file-search/worker.log", path("other.log")),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/cis-file-search-queue", queue.to_owned()),
        ("arn:aws:sns:eu-west-1:123456789012:cis-file-search-alerts", topic.to_owned()),
        ("interval = \"5s\"", "interval = \"500ms\"".to_owned()),
    ] {
        assert!(text.contains(of_example), "the example names {of_example}");
        text = text.replace(of_example, &here);
    }
    text
}

fn start(machine: &Machine, config: &str, endpoint: &str) -> Running {
    machine.configure(config);
    let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let mut command = machine.lifeboat(&["run", "--config", &config, "--", "/bin/sh", "-c", WORKER]);
    for (name, value) in
        environment(endpoint).into_iter().filter(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED")
    {
        command.env(name, value);
    }
    let mut run = Running::start(&mut command);
    run.wait_for("workload started");
    eventually("the workload runs", || machine.dir.join("begun").exists());
    run
}

fn summary(machine: &Machine) -> Value {
    let path = machine.agent("cis-file-search").join("last_evacuation.json");
    serde_json::from_slice(&fs::read(path).expect("a summary")).expect("JSON")
}

fn stage(summary: &Value, name: &str) -> (String, String) {
    let lines = summary["stages"].as_array().expect("a list");
    let line = lines.iter().find(|line| line["stage"] == name).expect("every stage is told of");
    let text = |key: &str| line[key].as_str().expect("text").to_owned();
    (text("outcome"), text("detail"))
}

/// Moto in front of which lifecycle actions wait and metrics are taken.
fn with_hook(moto: &Moto) -> Wire {
    Wire::start(Some(&moto.url()), |request| {
        match request.operation.as_str() {
        "CompleteLifecycleAction" | "RecordLifecycleActionHeartbeat" | "PutMetricData" => Reply::Ok(String::new()),
        "DescribeAutoScalingInstances" => Reply::Ok(
            "<AutoScalingInstances><member><InstanceId>i-one</InstanceId><AutoScalingGroupName>fleet\
             </AutoScalingGroupName><LifecycleState>Terminating:Wait</LifecycleState></member></AutoScalingInstances>"
                .to_owned(),
        ),
        _ => Reply::Forward,
    }
    })
}

/// A queue with three messages in flight; their receipts are where the application keeps them.
fn queue_in_flight(moto: &Moto, machine: &Machine) -> String {
    let queue = moto.create_queue("cis-file-search-queue", &json!({ "VisibilityTimeout": "600" }));
    let mut receipts = Vec::new();
    for number in 0..3 {
        let body = json!({ "QueueUrl": queue, "MessageBody": format!("file {number}") });
        let _ = moto.json("sqs", "AmazonSQS.SendMessage", &body);
        let body = json!({ "QueueUrl": queue, "MaxNumberOfMessages": 1 });
        let answer = moto.json("sqs", "AmazonSQS.ReceiveMessage", &body);
        receipts.push(answer["Messages"][0]["ReceiptHandle"].clone());
    }
    machine.write("active_receipts.json", Value::from(receipts).to_string());
    queue
}

#[test]
fn the_whole_set_up_of_the_guide_does_every_step() {
    let Some(moto) = Moto::start() else { return };
    let world = World::new();
    let machine = world.spot_machine("one");
    let queue = queue_in_flight(&moto, &machine);
    let (topic, heard) = moto.create_topic("cis-file-search-alerts");
    moto.create_table("cis-file-search-state", "workload", Some("instance_time"));
    let wire = with_hook(&moto);
    let mut run = start(&machine, &source_a(&machine, &queue, &topic), &wire.url());
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);

    let summary = summary(&machine);
    let not_told = &summary["not_told"];
    // Notified: the file, and the stop signal.
    assert!(fs::read_to_string(machine.dir.join("shutdown.signal")).expect("written").contains("terminate"));
    for name in [
        "notify",
        "drain",
        "snapshot",
        "save_state",
        "flush_logs",
        "hand_back",
        "complete_lifecycle",
        "clean_up",
    ] {
        assert_eq!(stage(&summary, name).0, "done", "{name}: {summary:#}");
    }
    // The state, with the interruption, in the table.
    let key = |sort: &str| json!({ "workload": { "S": "cis-file-search" }, "instance_time": { "S": sort } });
    let get = |sort: &str| {
        let body = json!({ "TableName": "cis-file-search-state", "Key": key(sort) });
        moto.json("dynamodb", "DynamoDB_20120810.GetItem", &body)["Item"].clone()
    };
    let newest = get("newest");
    let item = get(newest["item"]["S"].as_str().expect("the newest is named"));
    let state: Value = serde_json::from_str(item["state"]["S"].as_str().expect("text")).expect("JSON");
    assert_eq!((&state["done"], &state["interruption"]["action"]), (&7.into(), &"terminate".into()));
    assert_eq!(item["instance"]["S"], "i-one");
    // The messages stay invisible for 300 s more.
    let changes = wire.requests_of("ChangeMessageVisibilityBatch");
    let entries: Vec<Value> = changes
        .iter()
        .flat_map(|request| request.json().expect("JSON")["Entries"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(entries.iter().all(|entry| entry["VisibilityTimeout"] == 300), "{entries:?}");
    // The group was told that the instance may go, and to wait until then.
    let complete = wire.requests_of("CompleteLifecycleAction");
    let form = complete[0].text();
    for part in ["AutoScalingGroupName=fleet", "InstanceId=i-one", "cis-file-search-terminating", "CONTINUE"]
    {
        assert!(form.contains(part), "{form}");
    }
    assert!(!wire.requests_of("RecordLifecycleActionHeartbeat").is_empty());
    // People and dashboards.
    let alerts = moto.drain_queue(&heard);
    assert_eq!(alerts.len(), 2, "start and end: {alerts:?}, {not_told}");
    assert!(alerts.iter().any(|text| text.contains("terminate announced by instance-action")), "{alerts:?}");
    assert!(
        alerts.iter().any(|text| text.contains("is complete") && text.contains("save_state")),
        "{alerts:?}"
    );
    let mut metrics = Vec::new();
    for request in wire.requests_of("PutMetricData") {
        let data = request.json().expect("readable");
        assert_eq!(data["Namespace"], "CISFileSearch/Spot");
        for datum in data["MetricData"].as_array().expect("a list") {
            assert_eq!(datum["Dimensions"], json!([{ "Name": "Workload", "Value": "cis-file-search" }]));
            metrics.push(datum["MetricName"].as_str().expect("text").to_owned());
        }
    }
    metrics.sort();
    let wanted = ["DataEvacuationSuccess", "EvacuationTime", "SpotInterruption", "SpotInterruptionHandled"];
    assert_eq!(metrics, wanted);
    // What was called is what the policy allows, and all of it but the reading of the state.
    let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let printed = machine.lifeboat(&["policy", &config]).output().expect("started");
    let policy: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    let statements = policy["Statement"].as_array().expect("a list");
    let allowed: BTreeSet<&str> = statements
        .iter()
        .flat_map(|statement| statement["Action"].as_array().expect("a list"))
        .filter_map(Value::as_str)
        .collect();
    let called: BTreeSet<&'static Operation> = wire
        .requests()
        .iter()
        .map(|request| {
            let found = Operation::ALL.iter().find(|operation| operation.name() == request.operation);
            found.unwrap_or_else(|| panic!("{request:?}"))
        })
        .collect();
    for operation in &called {
        let is_allowed = operation.iam_actions().iter().any(|action| allowed.contains(action));
        assert!(is_allowed, "{operation} is called and not in {allowed:?}");
    }
    for action in allowed {
        let is_called = called.iter().any(|operation| operation.iam_actions().contains(&action));
        assert!(is_called || action == "dynamodb:GetItem", "{action} is allowed and never called");
    }
    // People find the state in either place, also when the store is away.
    let show = |more: &[&str]| {
        let mut command = machine.lifeboat(&["show", "cis-file-search", "--config", &config]);
        let output = command.args(more).envs(environment(&wire.url())).output().expect("started");
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(show(&[]).contains("the same state is in dynamodb://cis-file-search-state, saved by i-one"));
    let shown: Value = serde_json::from_str(&show(&["--json"])).expect("JSON");
    assert_eq!(shown["table"]["state"], shown["saved_state"]);
    assert_eq!((&shown["table"]["state"]["done"], &shown["table"]["instance"]), (&7.into(), &"i-one".into()));
    let away = machine.dir.join("away").to_string_lossy().into_owned();
    let shown: Value = serde_json::from_str(&show(&["--json", "--store", &away])).expect("JSON");
    assert_eq!(shown["table"]["state"]["interruption"]["action"], "terminate");
    // Cleaned up: what is proven to be stored is gone from here, and comes back elsewhere.
    assert!(!machine.work().join("partial/t1").exists());
    let log = machine.ask_json(&["list"]);
    assert!(log.to_string().contains("cis-file-search"), "{log}");
}

#[test]
fn an_instance_that_its_group_ends_is_evacuated_and_then_let_go() {
    let Some(moto) = Moto::start() else { return };
    let world = World::new();
    let machine = world.spot_machine("one");
    let wire = with_hook(&moto);
    let config =
        "name = \"cis-file-search\"\n[metadata]\ninterval = \"500ms\"\n[auto_scaling]\nhook = \"h\"\n";
    let store = format!("store = \"{}\"\n", machine.store.display());
    let mut run = start(&machine, &(store + config), &wire.url());
    let control = &machine.imds.as_ref().expect("has one").control;
    control.target_lifecycle_state(Some(StatePlan { after: Millis::ZERO, state: "Terminated".into() }));
    run.expect_code(85);
    let summary = summary(&machine);
    assert_eq!(summary["interruption"]["sources"], json!(["lifecycle_state"]));
    assert_eq!(stage(&summary, "complete_lifecycle").0, "done");
    let order: Vec<String> = wire.requests().into_iter().map(|request| request.operation).collect();
    let complete = order.iter().position(|name| name == "CompleteLifecycleAction").expect("completed");
    assert!(order[..complete].contains(&"RecordLifecycleActionHeartbeat".to_owned()), "{order:?}");
}

#[test]
fn aws_that_refuses_or_hangs_is_named_and_the_files_are_saved_in_time_all_the_same() {
    let denied = Reply::Error { status: 403, code: "AccessDenied", message: "not authorized" };
    let not_waiting = Reply::Error {
        status: 400,
        code: "ValidationError",
        message: "No active Lifecycle Action found with instance ID i-one",
    };
    for (reply, lifecycle, said) in [
        (denied, "failed", "denied"),
        (Reply::Hang, "failed", "did not answer"),
        (not_waiting, "nothing", "no lifecycle action"),
    ] {
        let world = World::new();
        let machine = world.spot_machine("one");
        machine.write("active_receipts.json", r#"["AQEB1", "AQEB2"]"#);
        let wire = Wire::start(None, move |_| reply.clone());
        let queue = format!("{}/123456789012/q", wire.url());
        let config = source_a(&machine, &queue, "arn:aws:sns:eu-west-1:123456789012:t");
        let config = config.replace("hook = ", "group = \"fleet\"\nhook = ");
        let mut run = start(&machine, &config, &wire.url());
        machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
        run.expect_code(86);
        let summary = summary(&machine);
        assert_eq!(stage(&summary, "snapshot").0, "done", "{summary:#}");
        assert_eq!(stage(&summary, "hand_back").0, "done", "{summary:#}");
        assert_eq!(summary["verdict"], "incomplete");
        let (outcome, detail) = stage(&summary, "complete_lifecycle");
        assert!(
            outcome == lifecycle || (outcome == "timed_out" && lifecycle == "failed"),
            "{outcome}: {detail}"
        );
        assert!(outcome == "timed_out" || detail.contains(said), "{detail}");
        let (outcome, detail) = stage(&summary, "save_state");
        assert!(["partly", "failed", "timed_out"].contains(&outcome.as_str()), "{outcome}: {detail}");
        assert!(summary["remaining_ms"].as_u64().is_some_and(|left| left > 0), "{summary:#}");
    }
}

/// AWS that does everything at once, but for one call.
fn all_well_but(failing: &'static str, reply: Reply) -> Wire {
    Wire::start(None, move |request| {
        let receipts = request.json().map_or(0, |body| body["Entries"].as_array().map_or(0, Vec::len));
        let each: Vec<Value> = (0..receipts).map(|n| json!({ "Id": n.to_string() })).collect();
        match request.operation.as_str() {
            operation if operation == failing => reply.clone(),
            "ChangeMessageVisibilityBatch" => {
                Reply::Ok(json!({ "Successful": each, "Failed": [] }).to_string())
            }
            "Publish" => Reply::Ok("<MessageId>m</MessageId>".to_owned()),
            _ => Reply::Ok(String::new()),
        }
    })
}

/// One evacuation with a failing call: what became of the stage that made it, in its own words.
fn evacuated_with(failing: &'static str, reply: Reply) -> (String, String) {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.write("active_receipts.json", r#"["AQEB1", "AQEB2"]"#);
    let wire = all_well_but(failing, reply);
    let queue = format!("{}/123456789012/q", wire.url());
    let config = source_a(&machine, &queue, "arn:aws:sns:eu-west-1:123456789012:t");
    let config = config.replace("hook = ", "group = \"fleet\"\nhook = ");
    let mut run = start(&machine, &config, &wire.url());
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    let code = run.wait().code();
    let summary = summary(&machine);
    let (outcome, detail) = stage(&summary, "save_state");
    for other in ["snapshot", "flush_logs", "hand_back", "complete_lifecycle", "clean_up"] {
        assert_eq!(stage(&summary, other).0, "done", "{failing}: {other}: {summary:#}");
    }
    assert!(summary["remaining_ms"].as_u64().is_some_and(|left| left > 60_000), "{summary:#}");
    assert_eq!(code, Some(if outcome == "done" { 85 } else { 86 }), "{failing}: {detail}: {}", run.log());
    (outcome, detail)
}

#[test]
fn every_failure_of_the_queue_and_of_the_table_is_named_and_the_other_stages_do_their_work() {
    const QUEUE: &str = "ChangeMessageVisibilityBatch";
    const TABLE: &str = "TransactWriteItems";
    let refusal = |status, code, message| Reply::Error { status, code, message };
    let stale = json!({ "Successful": [{ "Id": "0" }], "Failed": [
        { "Id": "1", "SenderFault": true, "Code": "ReceiptHandleIsInvalid", "Message": "The receipt handle is invalid." },
    ] });
    let mut cases = vec![
        (QUEUE, Reply::Ok(stale.to_string()), "done", "1 messages given back, 1 messages had gone on"),
        (
            TABLE,
            refusal(400, "TransactionConflictException", "ongoing"),
            "partly",
            "something newer is there",
        ),
        (TABLE, refusal(400, "ConditionalCheckFailedException", "no"), "partly", "something newer is there"),
    ];
    for call in [QUEUE, TABLE] {
        cases.extend([
            (call, refusal(400, "ThrottlingException", "Rate exceeded"), "partly", "throttled"),
            (call, refusal(403, "AccessDeniedException", "no"), "partly", "not allowed"),
            (call, refusal(403, "ExpiredTokenException", "old"), "partly", "credentials have expired"),
            (call, refusal(500, "InternalServerError", "oops"), "partly", "unavailable"),
            (call, Reply::Hang, "partly", "did not answer"),
            (call, Reply::Garbage, "partly", "unavailable"),
        ]);
    }
    // Each waits for its own world alone.
    std::thread::scope(|scope| {
        for (call, reply, outcome, said) in cases {
            scope.spawn(move || {
                let (mut found, mut detail) = evacuated_with(call, reply.clone());
                // On a busy machine a stage may be ended by force before it can say why; not every time.
                for _ in 0..3 {
                    if found == "timed_out" {
                        (found, detail) = evacuated_with(call, reply.clone());
                    }
                }
                assert_eq!(found, outcome, "{call} with {reply:?}: {detail}");
                let is_named = detail.contains(said) && (outcome == "done" || detail.contains(call));
                assert!(is_named, "{call} with {reply:?}: {detail}");
            });
        }
    });
}

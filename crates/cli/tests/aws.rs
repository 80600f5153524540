//! AWS around an evacuation: queue, table, hook, alerts, metrics. The real binary and the real SDK, against moto, and
//! against a server that answers what moto lacks and fails as AWS does.

mod harness;
#[path = "../../snapshot/tests/common/s3.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod s3;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use harness::systemd::Unit;
use harness::{Machine, Running, World, eventually, task_metadata};
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

pub(crate) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The example's set-up on this machine: its own paths, and what the test created in place of the account's.
fn source_a(machine: &Machine, store: &str, queue: &str, topic: &str) -> String {
    let mut text = SOURCE_A.to_owned();
    let path = |path: &str| machine.dir.join(path).to_string_lossy().into_owned();
    for (of_example, here) in [
        ("/var/lib/cis-file-search/work", path("work")),
        ("s3://cis-file-search-evacuation/lifeboat", store.to_owned()),
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

/// The worker as a command of `lifeboat run`.
fn start(machine: &Machine, config: &str, endpoint: &str) -> Running {
    machine.configure(&config.replace("unit = \"cis-file-search.service\"", ""));
    let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let mut command = machine.lifeboat(&["run", "--config", &config, "--", "/bin/sh", "-c", WORKER]);
    in_aws(&mut command, endpoint);
    let mut run = Running::start(&mut command);
    run.wait_for("workload started");
    eventually("the workload runs", || machine.dir.join("begun").exists());
    run
}

/// `command` finds AWS at `endpoint`; the machine's own metadata stay.
fn in_aws(command: &mut std::process::Command, endpoint: &str) {
    let all = environment(endpoint);
    command.envs(all.into_iter().filter(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED"));
}

/// Every file below `dir` whose name ends so.
fn files_ending(dir: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).expect("listed").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(name) {
                found.push(path);
            }
        }
    }
    found
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
    let (Some(moto), Some(s3)) = (Moto::start(), s3::S3Server::start()) else { return };
    let bucket = s3.directory.path().join("cis-file-search-evacuation");
    fs::create_dir(&bucket).expect("a bucket");
    let store = format!("s3://cis-file-search-evacuation/lifeboat?endpoint=http://127.0.0.1:{}", s3.port);
    let world = World::new();
    let machine = world.spot_machine("one");
    let unit = Unit::install(&machine, WORKER);
    let queue = queue_in_flight(&moto, &machine);
    let lines: String = (0..300).map(|line| format!("line {line}\n")).collect();
    fs::write(machine.dir.join("other.log"), lines).expect("written");
    let (topic, heard) = moto.create_topic("cis-file-search-alerts");
    moto.create_table("cis-file-search-state", "workload", Some("instance_time"));
    let wire = with_hook(&moto);
    let protect = |machine: &Machine, unit: &Unit| {
        machine.configure(&source_a(machine, &store, &queue, &topic));
        let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
        let mut command = machine.lifeboat(&["agent", "--config", &config]);
        in_aws(&mut command, &wire.url());
        let mut agent = Running::start(command.env("PATH", unit.path()));
        agent.wait_for("protecting");
        agent
    };
    let mut run = protect(&machine, &unit);
    unit.start_beside(&machine, "../begun");
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);

    let summary = summary(&machine);
    let not_told = &summary["not_told"];
    // Step 1, notified: the file, and the unit, stopped without blocking.
    let calls = unit.calls();
    assert!(calls.contains(&"stop --no-block -- cis-file-search.service".to_owned()), "{calls:?}");
    assert!(!unit.runs());
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
    // Step 3, the state, with the interruption: in the table, and in the bucket.
    assert_eq!(files_ending(&bucket, "-state.json").len(), 1);
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
    // Step 4, the messages stay invisible for 300 s more.
    let changes = wire.requests_of("ChangeMessageVisibilityBatch");
    let entries: Vec<Value> = changes
        .iter()
        .flat_map(|request| request.json().expect("JSON")["Entries"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert!(entries.iter().all(|entry| entry["VisibilityTimeout"] == 300), "{entries:?}");
    // Step 5, the log: its last lines are in the bucket, and whoever ships it was told.
    let logs = files_ending(&bucket, "-final_logs.txt");
    let text = fs::read_to_string(logs.first().expect("in the bucket")).expect("readable");
    assert!(
        text.contains("line 200\n") && text.contains("line 299\n") && !text.contains("line 199\n"),
        "{text}"
    );
    assert!(text.contains("stopped") && text.contains("==> lifeboat <=="), "{text}");
    assert!(calls.contains(&"reload -- amazon-cloudwatch-agent.service".to_owned()), "{calls:?}");
    // Step 6, the group was told that the instance may go, and to wait until then.
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
        // The bucket has a server of its own here.
        let is_seen = is_called || action.starts_with("s3:") || action == "dynamodb:GetItem";
        assert!(is_seen, "{action} is allowed and never called");
    }
    // People find the state in either place, also when the store is away.
    let show = |more: &[&str]| {
        let mut command = machine.lifeboat(&["show", "cis-file-search", "--config", &config]);
        in_aws(command.args(more), &wire.url());
        let output = command.output().expect("started");
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
    // Step 7, cleaned up: what is proven to be stored is gone from here.
    assert!(!machine.work().join("partial/t1").exists());
    // Step 2, the files: another machine finds them in the bucket and goes on with them.
    let other = world.spot_machine("two");
    let unit = Unit::install(&other, WORKER);
    let agent = protect(&other, &unit);
    assert_eq!(
        (other.read("partial/t1"), other.read("worker.log")),
        ("half\n".into(), "begun\nstopped\n".into())
    );
    drop(agent);
}

/// A target group with this machine in it, under port 8080, and another one. Requests are under way for two looks after
/// it was taken out. `met_ended`: the worker had ended when somebody asked.
fn balancer(reply: Option<Reply>, log: std::path::PathBuf) -> (Wire, Arc<AtomicBool>) {
    let met_ended = Arc::new(AtomicBool::new(false));
    let (met, looks, is_out) = (Arc::clone(&met_ended), AtomicUsize::new(0), AtomicBool::new(false));
    let target = |id: &str, state: &str| {
        format!(
            "<member><Target><Id>{id}</Id><Port>8080</Port></Target><TargetHealth><State>{state}</State></TargetHealth></member>"
        )
    };
    let health = move |targets: &[String]| {
        Reply::Ok(format!("<TargetHealthDescriptions>{}</TargetHealthDescriptions>", targets.concat()))
    };
    let wire = Wire::start(None, move |request| {
        let name = request.operation.as_str();
        if !["DescribeTargetHealth", "DeregisterTargets"].contains(&name) {
            return Reply::Ok(String::new());
        }
        if let Some(reply) = &reply {
            return reply.clone();
        }
        let has_ended = fs::read_to_string(&log).is_ok_and(|text| text.contains("stopped"));
        met.fetch_or(has_ended, Ordering::Relaxed);
        if name == "DeregisterTargets" {
            is_out.store(true, Ordering::Relaxed);
            return Reply::Ok(String::new());
        }
        let state = match (is_out.load(Ordering::Relaxed), looks.load(Ordering::Relaxed)) {
            (false, _) => "healthy",
            (true, 0..2) => {
                looks.fetch_add(1, Ordering::Relaxed);
                "draining"
            }
            (true, _) => "unused",
        };
        if request.text().contains("Targets.member.1") {
            health(&[target("i-one", state)])
        } else {
            health(&[target("i-other", "healthy"), target("i-one", state)])
        }
    });
    (wire, met_ended)
}

const BEHIND_A_BALANCER: &str =
    "name = \"cis-file-search\"\n[metadata]\ninterval = \"500ms\"\n[load_balancer]
target_groups = [\"arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/web/0123456789abcdef\"]\n";

#[test]
fn the_load_balancer_sends_no_more_requests_before_the_worker_is_told_to_stop() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let (wire, met_ended) = balancer(None, machine.work().join("worker.log"));
    let store = format!("store = \"{}\"\n", machine.store.display());
    let mut run = start(&machine, &(store + BEHIND_A_BALANCER), &wire.url());
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    assert_eq!(
        stage(&summary(&machine), "deregister"),
        ("done".to_owned(), "no request is under way".to_owned())
    );
    assert!(!met_ended.load(Ordering::Relaxed), "a request could have met a worker that had ended");
    let out = wire.requests_of("DeregisterTargets");
    let form = out.first().expect("deregistered").text();
    assert!(form.contains("i-one") && form.contains("8080") && !form.contains("i-other"), "{form}");
    assert!(
        wire.requests_of("DescribeTargetHealth").len() >= 4,
        "it was looked at until nothing was under way"
    );
}

#[test]
fn a_task_of_ecs_is_known_to_the_load_balancer_by_its_address() {
    let world = World::new();
    let machine = world.machine("one");
    let wire = Wire::start(None, |request| {
        match request.operation.as_str() {
        "DescribeTargetHealth" if !request.text().contains("Targets.member.1") => Reply::Ok(
            "<TargetHealthDescriptions><member><Target><Id>10.0.1.2</Id><Port>9000</Port></Target><TargetHealth><State>\
             healthy</State></TargetHealth></member></TargetHealthDescriptions>"
                .to_owned(),
        ),
        _ => Reply::Ok(String::new()),
    }
    });
    let store = format!("store = \"{}\"\n", machine.store.display());
    machine.configure(&(store + BEHIND_A_BALANCER));
    let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let mut command = machine.lifeboat(&["run", "--config", &config, "--", "/bin/sh", "-c", WORKER]);
    in_aws(&mut command, &wire.url());
    let mut run = Running::start(
        command
            .env("ECS_CONTAINER_METADATA_URI_V4", task_metadata())
            .env("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE"),
    );
    eventually("the workload runs", || machine.dir.join("begun").exists());
    run.signal(rustix::process::Signal::TERM);
    run.expect_code(85);
    let out = wire.requests_of("DeregisterTargets");
    let form = out.first().expect("deregistered").text();
    assert!(form.contains("10.0.1.2") && form.contains("9000"), "{form}");
    assert_eq!(stage(&summary(&machine), "deregister").0, "done");
}

#[test]
fn a_load_balancer_that_refuses_hangs_or_never_drains_is_named_and_holds_nothing_up_beyond_its_time() {
    let denied = Reply::Error { status: 403, code: "AccessDenied", message: "not authorized" };
    let throttled = Reply::Error { status: 400, code: "Throttling", message: "Rate exceeded" };
    for (reply, said) in [(denied, "denied"), (throttled, "throttled"), (Reply::Hang, "did not answer")] {
        let world = World::new();
        let machine = world.spot_machine("one");
        let (wire, _) = balancer(Some(reply), machine.work().join("worker.log"));
        let store = format!("store = \"{}\"\n", machine.store.display());
        let mut run = start(&machine, &(store + BEHIND_A_BALANCER), &wire.url());
        machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
        run.expect_code(85);
        let summary = summary(&machine);
        let (outcome, detail) = stage(&summary, "deregister");
        // On a slow machine the time may be over before what is tried again is refused for good.
        let is_told = detail.contains(said) || detail.contains("did not answer");
        assert!(outcome == "failed" && detail.contains("web: ") && is_told, "{outcome}: {detail}");
        assert_eq!(stage(&summary, "snapshot").0, "done", "{summary:#}");
        assert_eq!(stage(&summary, "drain").0, "done", "{summary:#}");
    }
    // Requests that never end: the stage's time does.
    let world = World::new();
    let machine = world.spot_machine("one");
    let draining = Reply::Ok(
        "<TargetHealthDescriptions><member><Target><Id>i-one</Id><Port>8080</Port></Target><TargetHealth><State>draining\
         </State></TargetHealth></member></TargetHealthDescriptions>"
            .to_owned(),
    );
    let (wire, _) = balancer(Some(draining), machine.work().join("worker.log"));
    let store = format!("store = \"{}\"\n", machine.store.display());
    let short = "[evacuation]\nderegister = { maximum = \"2s\" }\n";
    let mut run = start(&machine, &(store + BEHIND_A_BALANCER + short), &wire.url());
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    let (outcome, detail) = stage(&summary(&machine), "deregister");
    let is_told = outcome == "timed_out" || detail.contains("requests may be under way");
    assert!(is_told && ["partly", "timed_out"].contains(&outcome.as_str()), "{outcome}: {detail}");
    assert_eq!(stage(&summary(&machine), "drain").0, "done");
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
        let store = machine.store.to_string_lossy().into_owned();
        let config = source_a(&machine, &store, &queue, "arn:aws:sns:eu-west-1:123456789012:t");
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

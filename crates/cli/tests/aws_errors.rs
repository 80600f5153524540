//! Every way in which the calls of an evacuation to the queue and to the table can fail, one call at a time, with the
//! real binary and the real SDK: named in its stage, within its time, and the other stages do their work.

mod harness;

use harness::{Running, World, eventually};
use lifeboat_aws::testing::{Reply, Wire, environment};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use serde_json::{Value, json};

const CONFIG: &str = "state = \"dynamodb://states\"
clean_up = true
[queue]
url = \"QUEUE\"
[metadata]
interval = \"500ms\"
[auto_scaling]
group = \"fleet\"
hook = \"h\"
[evacuation]
save_state = { maximum = \"10s\" }
flush_logs = { maximum = \"40s\" }
hand_back = { maximum = \"40s\" }
complete_lifecycle = { maximum = \"40s\" }
clean_up = { maximum = \"40s\" }
";

fn stage(summary: &Value, name: &str) -> (String, String) {
    let lines = summary["stages"].as_array().expect("a list");
    let line = lines.iter().find(|line| line["stage"] == name).expect("every stage is told of");
    let text = |key: &str| line[key].as_str().expect("text").to_owned();
    (text("outcome"), text("detail"))
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
    machine.configure(&CONFIG.replace("QUEUE", &queue));
    let script = "echo '{\"done\": 7}' > state.json; touch ../begun; while :; do sleep 0.05; done";
    let mut command = machine.run_command("w", &[], &["/bin/sh", "-c", script]);
    let all = environment(&wire.url()).into_iter();
    command.envs(all.filter(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED"));
    let mut run = Running::start(&mut command);
    eventually("the workload runs", || machine.dir.join("begun").exists());
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    let code = run.wait().code();
    let summary = machine.summary();
    let (outcome, detail) = stage(&summary, "save_state");
    for other in ["snapshot", "flush_logs", "hand_back", "complete_lifecycle", "clean_up"] {
        assert_eq!(stage(&summary, other).0, "done", "{failing}: {other}: {summary:#}");
    }
    assert!(summary["remaining_ms"].as_u64().is_some_and(|left| left > 20_000), "{summary:#}");
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
    // Each waits for its own world alone; few at once, or they wait for one another.
    for some in cases.chunks(5) {
        std::thread::scope(|scope| {
            for (call, reply, outcome, said) in some.iter().cloned() {
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
}

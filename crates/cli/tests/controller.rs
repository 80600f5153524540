//! The real controller, through the real SDK, against a lab whose ECS takes its time: failing over and back, and what
//! happens when anything on the way is lost, late, refused, killed or frozen.

mod harness;
mod lab;

use std::time::{Duration, Instant};

use harness::{World, eventually};
use lab::{Lab, Watched};
use lifeboat_core::failover::phase::Phase;
use lifeboat_core::failover::policy::{Policy, Shortfall, Switch};
use lifeboat_core::failover::reason::Reason;
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::Millis;
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::Signal;
use serde_json::{Value, json};

const SWITCH: &str = "[policy]\nname = 'switch'";

fn switch() -> Rules {
    Rules::new(Policy::Switch(Switch::default()))
}

fn shortfall() -> Rules {
    Rules::new(Policy::Shortfall(Shortfall::default()))
}

/// The controller has adopted `web`, and says so in its store.
fn adopted(lab: &Lab) {
    lab.until("web is known", |lab| {
        let output = lab.ask(&["status", "--json"]);
        output.status.success()
            && serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|list| list[0]["service"] == "web")
    });
}

#[test]
fn switch_fails_over_waits_for_half_of_on_demand_and_returns_after_the_stable_window() {
    let lab = Lab::start(20, "");
    lab.config(SWITCH);
    let mut controller = lab.controller(&[]);
    adopted(&lab);
    lab.post("capacity", json!({ "spot": 0, "for_seconds": 300 }));
    lab.until("Standard runs everything", |lab| lab.told() == (1, 10) && lab.web("on_demand", "ready") == 10);
    let history = lab.history();
    let first = history.iter().find(|entry| entry.to == Phase::ShiftingToOnDemand).expect("it failed over");
    assert!(matches!(first.reason, Reason::Interruptions { threshold: 5, .. }), "{first:?}");
    assert_eq!(first.split.spot, 10, "Standard first: Spot is not touched yet");
    let figures = lab.figures();
    let lowered = figures.iter().position(|figures| figures.spot_desired < 10).expect("Spot was lowered");
    assert!(figures[lowered].on_demand_serving >= 5, "half of it serves: {:?}", figures[lowered]);
    lab.until("Spot has everything again", |lab| {
        lab.told() == (10, 0) && lab.web("spot", "ready") == 10 && lab.web("on_demand", "ready") == 0
    });
    lab.check(&switch());
    let returned = lab.history();
    let on_demand = returned.iter().find(|entry| entry.to == Phase::OnDemand).expect("it was there");
    let stable = returned.iter().find(|entry| entry.to == Phase::ShiftingToSpot).expect("it returned");
    assert!(stable.at.since(on_demand.at).0 >= 600_000, "a stable window of ten minutes: {returned:#?}");
    let Reason::SpotStable { taken, good } = stable.reason else { panic!("{stable:?}") };
    assert!(taken >= 10 && good * 100 >= taken * 80, "it says why it returned: {stable:?}");
    let alerts = lab.get("alerts").to_string();
    for text in ["fails over to On-Demand", "returns to Spot", "is back on Spot"] {
        assert!(alerts.contains(text), "{text}: {alerts}");
    }
    let metrics = lab.get("metrics").to_string();
    for text in ["SpotHealthScore", "FailoverActive", "ErrorCount5min", "FailoverCount", "Service", "web"] {
        assert!(metrics.contains(text), "{text}: {metrics}");
    }
    controller.signal(Signal::TERM);
    controller.expect_code(0);
}

#[test]
fn shortfall_starts_on_demand_at_the_notice_for_exactly_what_will_vanish() {
    let lab = Lab::start(15, "");
    lab.config("");
    let _controller = lab.controller(&[]);
    adopted(&lab);
    lab.take_spot(7, 450);
    lab.until("three are asked for", |lab| lab.told() == (10, 3));
    lab.until("Spot has everything again", |lab| lab.told() == (10, 0) && lab.web("spot", "ready") == 10);
    lab.check(&shortfall());
}

#[test]
fn a_warned_task_whose_event_is_lost_is_found_by_looking() {
    let lab = Lab::start(15, "[faults]\nlost = 1.0");
    lab.config("");
    let _controller = lab.controller(&[]);
    adopted(&lab);
    lab.take_spot(8, 450);
    lab.until("two are asked for", |lab| lab.told() == (10, 2));
    let queue = lab.get("state");
    assert_eq!(lab::at(&queue, &["queues", "lifeboat-events", "sent"]), 0, "no event told of it");
    lab.until("Spot has everything again", |lab| lab.told() == (10, 0) && lab.web("spot", "ready") == 10);
    lab.check(&shortfall());
}

#[test]
fn a_task_that_stays_pending_and_tells_nobody_fails_the_service_over() {
    let lab = Lab::start(15, "silent = 1.0\n[faults]\nlost = 1.0");
    lab.config(SWITCH);
    let _controller = lab.controller(&[]);
    adopted(&lab);
    lab.post("capacity", json!({ "spot": 9 }));
    lab.until("it fails over", |lab| lab.told().1 == 10);
    let history = lab.history();
    let first = history.iter().find(|entry| entry.to == Phase::ShiftingToOnDemand).expect("it failed over");
    let Reason::PendingTooLong { pending } = first.reason else { panic!("{first:?}") };
    assert!(pending.0 >= 180_000, "{pending}");
    lab.check(&switch());
}

#[test]
fn a_controller_killed_at_any_step_goes_on_where_it_was() {
    let lab = Lab::start(15, "");
    lab.config("");
    {
        let _controller = lab.controller(&[]);
        adopted(&lab);
    }
    for point in ["received", "commit", "committed", "order", "ordered", "delete", "deleted"] {
        let mut controller = lab.doomed_controller(point, 1);
        lab.interrupt(1);
        // What it is killed at comes with the event, or with the next look.
        let status = controller.wait();
        assert_eq!(status.code(), None, "{point}: it was killed, not ended: {status}\n{}", controller.log());
    }
    let _controller = lab.controller(&[]);
    lab.until("Spot has everything again", |lab| lab.told() == (10, 0) && lab.web("spot", "ready") == 10);
    lab.check(&shortfall());
    lab.until("every message is dealt with", |lab| {
        let state = lab.get("state");
        let queue = lab::at(&state, &["queues", "lifeboat-events"]);
        queue["visible"] == 0 && queue["in_flight"] == 0
    });
    let state = lab.get("state");
    assert_eq!(lab::at(&state, &["queues", "lifeboat-events-dead", "sent"]), 0, "none became a dead letter");
}

#[test]
fn of_two_controllers_the_one_that_was_frozen_longer_than_its_commands_are_valid_does_no_harm() {
    let lab = Lab::start(15, "");
    lab.config(SWITCH);
    let mut frozen = lab.controller(&[]);
    adopted(&lab);
    frozen.wait_for("state");
    let _other = lab.controller(&[]);
    lab.interrupt(10);
    lab.until("it fails over", |lab| lab.told().1 == 10);
    // In the middle of the shift; its commands are valid for 30 s of the world's time.
    frozen.signal(Signal::STOP);
    lab.until("the other goes on", |lab| lab.told() == (1, 10) && lab.web("on_demand", "ready") == 10);
    std::thread::sleep(lab.real(60)); // twice as long
    frozen.signal(Signal::CONT);
    lab.until("Spot has everything again", |lab| lab.told() == (10, 0) && lab.web("spot", "ready") == 10);
    lab.check(&switch());
}

#[test]
fn two_controllers_share_a_dynamodb_table_and_one_that_was_frozen_does_no_harm() {
    let Some(lab) = Lab::start_with_dynamodb(10, "") else { return };
    lab.config("");
    let mut frozen = lab.controller(&[]);
    adopted(&lab);
    frozen.wait_for("state");
    let mut other = lab.controller(&[]);
    other.wait_for("is managed");
    lab.post("capacity", json!({ "spot": 7 }));
    lab.until("three are covered", |lab| lab.told().1 == 3);
    frozen.signal(Signal::STOP);
    lab.post("capacity", json!({ "spot": 5 }));
    lab.until("the other goes on", |lab| lab.told().1 == 5);
    std::thread::sleep(lab.real(60)); // twice as long as a command is valid
    frozen.signal(Signal::CONT);
    lab.post("capacity", json!({ "spot": 40 }));
    lab.until("Spot has everything again", |lab| lab.told() == (10, 0) && lab.web("spot", "ready") == 10);
    lab.until("every message is dealt with", |lab| {
        let state = lab.get("state");
        let queue = lab::at(&state, &["queues", "lifeboat-events"]);
        queue["visible"] == 0 && queue["in_flight"] == 0
    });
    lab.check(&shortfall());
}

#[test]
fn throttling_and_errors_of_queue_and_ecs_delay_and_never_break() {
    let lab = Lab::start(15, "");
    lab.config("");
    let _controller = lab.controller(&[]);
    adopted(&lab);
    for (operation, error) in [
        ("sqs:*", "ThrottlingException"),
        ("ecs:*", "ThrottlingException"),
        ("ecs:UpdateService", "ServerException"),
        ("sqs:DeleteMessageBatch", "InternalError"),
    ] {
        lab.post("fail", json!({ "operation": operation, "error": error, "seconds": 2 }));
    }
    lab.take_spot(7, 450);
    lab.until("they are covered", |lab| lab.told().1 >= 3);
    lab.post(
        "faults",
        json!({ "throttled": 0.2, "landed_late": 0.1, "stale": 0.1, "lost": 0.2, "doubled": 0.3 }),
    );
    lab.interrupt(2);
    std::thread::sleep(lab.real(120));
    lab.post("faults", json!({}));
    lab.post("mend", json!({}));
    lab.until("Spot has everything again", |lab| lab.told() == (10, 0) && lab.web("spot", "ready") == 10);
    lab.check(&shortfall());
}

#[test]
fn on_demand_that_cannot_start_leaves_spot_as_it_is_and_a_person_is_told() {
    let lab = Lab::start(40, "on_demand_quota = 0");
    lab.config("[policy]\nname = 'switch'\ninterruptions = 2");
    let _controller = lab.controller(&[]);
    adopted(&lab);
    lab.post("capacity", json!({ "spot": 7 }));
    lab.until("a person is told", |lab| lab.get("alerts").to_string().contains("On-Demand does not start"));
    assert_eq!(lab.told().0, 10, "Spot stays");
    lab.post("quota", json!({}));
    lab.until("Spot or On-Demand has everything", |lab| {
        lab.history().last().is_some_and(|entry| matches!(entry.to, Phase::OnDemand | Phase::Spot))
    });
    lab.check(&Rules::new(Policy::Switch(Switch { interruptions: 2, ..Switch::default() })));
}

#[test]
fn an_instance_that_will_be_interrupted_is_told_to_evacuate_through_ssm() {
    let lab = Lab::start(15, "");
    lab.config("[machines]");
    let _controller = lab.controller(&[]);
    adopted(&lab);
    lab.post("instance", json!({ "kind": "interruption", "instances": ["i-0123456789abcdef0"] }));
    lab.until("the command is sent", |lab| {
        let commands = lab.get("commands").to_string();
        commands.contains("i-0123456789abcdef0") && commands.contains("lifeboat evacuate")
    });
    lab.until("a person is told", |lab| lab.get("alerts").to_string().contains("i-0123456789abcdef0"));
    lab.check_quiet(&shortfall());
}

#[test]
fn what_ssm_is_told_to_run_and_the_agents_own_notice_are_one_evacuation() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let lab = Lab::start(15, "");
    let (work, store) = (machine.work(), machine.store.clone());
    let command =
        format!("evacuate --name w --json --work-dir {} --store {}", work.display(), store.display());
    lab.config(&format!("[machines]\ncommand = 'lifeboat {command}'"));
    let _controller = lab.controller(&[]);
    adopted(&lab);
    let mut run =
        machine.run(&[], "touch begun; trap 'sleep 0.5; exit 0' TERM; while :; do sleep 0.05; done");
    eventually("the workload runs", || work.join("begun").exists());
    // The same interruption, told three times by EventBridge and once by the instance itself.
    let instances = ["i-0123456789abcdef0"];
    for kind in ["rebalance", "interruption", "interruption"] {
        lab.post("instance", json!({ "kind": kind, "instances": instances }));
    }
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    lab.until("both commands are sent", |lab| sent_commands(lab).len() >= 2);
    let sent = sent_commands(&lab);
    assert!(sent.iter().all(|sent| *sent == format!("lifeboat {command}")), "{sent:?}");
    let words: Vec<&str> = command.split(' ').collect();
    // What the SSM agent does there, each time at once.
    let results: Vec<Value> = std::thread::scope(|scope| {
        let told = sent.iter().map(|_| scope.spawn(|| machine.lifeboat(&words).output().expect("started")));
        let told: Vec<_> = told.collect();
        told.into_iter()
            .map(|asker| {
                let output = asker.join().expect("an answer");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                serde_json::from_slice(&output.stdout).expect("JSON")
            })
            .collect()
    });
    run.expect_code(85);
    assert!(results.iter().all(|result| *result == machine.summary()), "{results:?}");
    let records = std::fs::read_dir(store.join("w/journal")).expect("listed").count();
    assert_eq!(records, 3, "claimed, committed, released: once");
    lab.check_quiet(&shortfall());
}

/// The shell commands that were sent to instances.
fn sent_commands(lab: &Lab) -> Vec<String> {
    let commands = lab.get("commands");
    let sent = commands["commands"].as_array().expect("a list").iter();
    sent.map(|sent| {
        lab::at(sent, &["command", "Parameters", "commands"])[0].as_str().expect("text").to_owned()
    })
    .collect()
}

#[test]
fn a_burst_on_one_service_is_counted_right_and_what_cannot_be_read_is_set_aside() {
    let lab = Lab::start(15, "");
    // Sixty interruptions trip nothing, and leave the window on no machine before they are counted.
    let policy = "window = '12h'\ninterruptions = 64\ncapacity_errors = 64\npending_max = '2h'";
    lab.config(&format!("[policy]\nname = 'switch'\n{policy}"));
    let pending_max = Millis::from_secs(7_200);
    let policy = Switch { interruptions: 64, capacity_errors: 64, pending_max, ..Switch::default() };
    let rules = Rules { window: Millis::from_secs(43_200), ..Rules::new(Policy::Switch(policy)) };
    let _controller = lab.controller(&[]);
    adopted(&lab);
    let cluster = "arn:aws:ecs:us-east-1:123456789012:cluster/lab";
    let until = Instant::now() + lab.real(60);
    for number in 0..60 {
        let body = json!({
            "id": format!("e{number}"), "source": "aws.ecs", "detail-type": "ECS Task State Change",
            "detail": {
                "taskArn": format!("arn:aws:ecs:us-east-1:123456789012:task/lab/{number}"), "clusterArn": cluster,
                "group": "service:web-spot", "lastStatus": "RUNNING", "desiredStatus": "STOPPED",
                "stopCode": "SpotInterruption", "capacityProviderName": "FARGATE_SPOT", "version": 3,
            },
        });
        lab.post("send", json!({ "body": body, "copies": 50 }));
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(left / (60 - number));
    }
    lab.post("send", json!({ "body": "{ this is no event" }));
    lab.until("every message is dealt with", |lab| {
        let state = lab.get("state");
        let queue = lab::at(&state, &["queues", "lifeboat-events"]);
        queue["sent"].as_u64() >= Some(3_001) && queue["visible"] == 0 && queue["in_flight"] == 0
    });
    let store = lab.stored("web");
    let facts = store["state"]["window"]["entries"].as_array().expect("a list");
    let interrupted = facts.iter().filter(|fact| fact["fact"] == "interrupted").count();
    assert_eq!(interrupted, 60, "3,000 messages, sixty tasks, each counted once");
    assert_eq!(lab::at(&lab.get("state"), &["queues", "lifeboat-events-dead", "sent"]), 1);
    lab.check_quiet(&rules);
}

#[test]
fn people_see_shift_pause_and_resume() {
    let lab = Lab::start(15, "");
    lab.config("");
    assert_eq!(lab.ask(&["status"]).status.code(), Some(125), "no controller has run");
    let _controller = lab.controller(&[]);
    adopted(&lab);
    let dry = lab.ask_json(&["shift", "web", "--to", "on-demand", "--for", "2h", "--dry-run"]);
    assert!(dry["asked"].as_str().expect("text").starts_with("on-demand until"), "{dry}");
    assert_eq!(lab.ask_json(&["status"])[0]["asked"], Value::Null, "nothing was stored");
    lab.ask_json(&["shift", "web", "--to", "on-demand"]);
    lab.until("all of it runs On-Demand", |lab| lab.told() == (0, 10));
    lab.ask_json(&["shift", "web", "--to", "on-demand", "--for", "2m"]);
    lab.until("the time is over and all of it is back on Spot", |lab| {
        lab.told() == (10, 0) && lab.web("spot", "ready") == 10
    });
    lab.ask_json(&["pause", "web"]);
    lab.until("the pause is shown", |lab| lab.ask_json(&["status"])[0]["paused"] == true);
    lab.interrupt(2);
    std::thread::sleep(lab.real(90));
    assert_eq!(lab.told(), (10, 0), "a paused service is left alone");
    lab.ask_json(&["resume", "web"]);
    lab.post("desired", json!({ "service": "web-spot", "count": 14 }));
    lab.until("an autoscaler's count is followed", |lab| lab.ask_json(&["status"])[0]["target"] == 14);
    let text = String::from_utf8(lab.ask(&["history", "web"]).stdout).expect("text");
    for reason in ["a person asked for on-demand", "a person paused it", "a person resumed it"] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
    for nobodys in [&["shift", "nobody", "--to", "spot"][..], &["history", "nobody"]] {
        let refused = lab.ask(nobodys);
        assert_eq!(refused.status.code(), Some(125), "{nobodys:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("no service \"nobody\" is known"));
    }
    let never = lab.ask(&["shift", "web", "--to", "spot", "--for", "0s"]);
    assert_eq!(never.status.code(), Some(125));
    lab.check(&shortfall());
}

#[test]
fn status_is_watched_on_a_terminal_and_in_a_pipe_until_nobody_reads() {
    let lab = Lab::start(15, "");
    lab.config("");
    let _controller = lab.controller(&[]);
    adopted(&lab);
    let mut json = Watched::start(lab.lifeboat(&["status", "--watch", "--json"]), false);
    let mut piped = Watched::start(lab.lifeboat(&["status", "--watch"]), false);
    let mut terminal = Watched::start(lab.lifeboat(&["status", "--watch"]), true);
    let phase = |line: &str| serde_json::from_str::<Value>(line).expect("a line is JSON")[0]["phase"].clone();
    assert_eq!(phase(&json.line("web")), "spot");
    piped.line("web      spot ");
    terminal.line("\u{1b}[2J\u{1b}[HSERVICE");
    lab.post("capacity", json!({ "spot": 7 }));
    while phase(&json.line("web")) == "spot" {}
    piped.line("_demand");
    terminal.line("_demand");
    for mut watched in [json, piped] {
        watched.close();
        let status = watched.ended();
        assert!(status.success(), "nobody reads any more, and that is no failure: {status}");
    }
    lab.check(&shortfall());
}

#[test]
fn a_dry_run_sets_no_count_and_once_ends_by_itself() {
    let lab = Lab::start(15, "");
    lab.config("");
    lab.interrupt(3);
    let mut dry = lab.controller(&["--dry-run"]);
    dry.wait_for("would set the desired count");
    assert_eq!(lab.told(), (10, 0));
    dry.signal(Signal::TERM);
    dry.expect_code(0);
    lab.interrupt(3);
    let mut once = lab.controller(&["--once"]);
    once.expect_code(0);
    assert!(lab.told().1 > 0, "it acted: {:?}", lab.told());
    lab.check(&shortfall());
}

#[test]
fn a_service_that_is_deleted_is_let_go_and_one_that_deploys_is_not_lowered() {
    let lab = Lab::start(30, "");
    lab.config("");
    let mut controller = lab.controller(&[]);
    adopted(&lab);
    lab.take_spot(7, 1_800);
    lab.until("three are asked for", |lab| lab.told().1 == 3);
    lab.post("service", json!({ "name": "web", "deploying": true }));
    lab.post("capacity", json!({ "spot": 40 }));
    lab.until("Spot is whole", |lab| lab.web("spot", "ready") == 10);
    std::thread::sleep(lab.real(150));
    assert!(lab.told().1 > 0, "nothing is lowered while a deployment is in progress");
    lab.post("service", json!({ "name": "web", "deploying": false }));
    lab.until("On-Demand is given up", |lab| lab.told() == (10, 0));
    let back = lab.history().last().expect("it moved").at;
    // Not later: a service that somebody deletes stops all of its tasks, and nobody promised otherwise.
    lab.check(&shortfall());
    lab.post("service", json!({ "name": "web", "deleted": true }));
    controller.wait_for("is gone and no longer managed");
    lab.post("service", json!({ "name": "web", "deleted": false }));
    controller.wait_for("is managed");
    lab.interrupt(1);
    lab.until("it is moved again", |lab| lab.history().last().is_some_and(|last| last.at > back));
}

#[test]
fn kills_at_random_moments_lose_nothing() {
    let lab = Lab::start(15, "");
    lab.config("");
    let mut seed = 0x5eed_u64;
    for _ in 0..8 {
        let mut controller = lab.controller(&[]);
        lab.interrupt(1);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((seed >> 33) % 1_500));
        controller.kill_agent();
    }
    let _controller = lab.controller(&[]);
    lab.until("Spot has everything again", |lab| lab.told() == (10, 0) && lab.web("spot", "ready") == 10);
    lab.check(&shortfall());
}

#[test]
fn what_cannot_work_ends_at_once_and_says_what_is_wrong_with_which_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::create_dir(path("directory.db")).expect("created");
    std::fs::write(path("garbage.db"), "no database at all, ".repeat(50)).expect("written");
    let store = |name: &str| format!("[store]\nsqlite = '{}'", path(name));
    let cases = [
        ("clusters = 3", "fleet.toml"),
        ("cluster = 'x'", "unknown field `cluster`"),
        ("endpoint = 'localhost'", "endpoint: is no URL"),
        ("endpoint = 'localhost'", "fleet.toml is not a valid configuration of the controller"),
        ("[queue]\nurl = 'events'", "queue.url: is no URL"),
        (
            "[alerts]\nslack_webhook_file = 'https://hooks.example/SECRET'",
            "alerts.slack_webhook_file: is an address",
        ),
        (&store("directory.db"), "directory.db"),
        (&store("garbage.db"), "garbage.db: file is not a database"),
    ];
    for (text, said) in cases {
        std::fs::write(path("fleet.toml"), text).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(["controller", "--config", &path("fleet.toml")]).stdin(std::process::Stdio::null());
        let output = command.env("AWS_EC2_METADATA_DISABLED", "true").output().expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{text}: {told}");
        let is_clear = told.contains(said) && !told.contains("panicked") && !told.contains("SECRET");
        assert!(is_clear, "{text}: {told}");
    }
}

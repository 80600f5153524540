//! What is announced, by whom, how oddly, over a service that fails: one interruption makes one evacuation, with the
//! time that is really left.

mod harness;

use std::fs;
use std::time::{Duration, Instant};

use harness::{Imds, Machine, Running, World, eventually, is_alive, tree};
use lifeboat_agent::clock::{rfc3339, wall_now};
use lifeboat_core::time::Millis;
use lifeboat_imds::mock::{
    Extent, Fault, FaultKind, FaultTarget, NoticePlan, RebalancePlan, StatePlan, TerminationTimePlan,
};
use lifeboat_imds::wire::{Action, ScheduledEvent};
use rustix::process::Signal;

/// Runs until it is told to stop.
const RUNS: &str = "trap 'exit 0' TERM; echo $$ > ../pid; echo begun > begun; while :; do sleep 0.05; done";

/// Does not end before the test says so, whatever it is told.
const HOLDS_OUT: &str =
    "trap '' TERM; echo $$ > ../pid; touch begun; until [ -e ../go ]; do sleep 0.05; done";

fn imds(machine: &Machine) -> &Imds {
    machine.imds.as_ref().expect("has one")
}

fn start(machine: &Machine, options: &[&str], script: &str) -> Running {
    let mut run = machine.run(options, script);
    run.wait_for("workload started");
    eventually("the workload runs", || machine.work().join("begun").exists());
    run
}

fn announce(machine: &Machine, action: Action) {
    imds(machine).control.notice(NoticePlan::now(action));
}

fn outcome(summary: &serde_json::Value, stage: &str) -> String {
    let lines = summary["stages"].as_array().expect("a list");
    let line = lines.iter().find(|line| line["stage"] == stage).expect("every stage is told of");
    line["outcome"].as_str().expect("text").to_owned()
}

fn number(value: &serde_json::Value) -> i64 {
    value.as_i64().expect("a number")
}

/// The time that was left when the notice was seen.
fn left(summary: &serde_json::Value) -> i64 {
    number(&summary["interruption"]["deadline"]) - number(&summary["interruption"]["noticed"])
}

fn records(machine: &Machine) -> usize {
    fs::read_dir(machine.store.join("w/journal")).expect("listed").count()
}

#[test]
fn stop_saves_everything_and_hands_the_work_back_as_terminate_does() {
    for (action, name) in [(Action::Stop, "stop"), (Action::Terminate, "terminate")] {
        let world = World::new();
        let machine = world.spot_machine("one");
        let mut run = start(&machine, &[], RUNS);
        announce(&machine, action);
        run.expect_code(85);
        let summary = machine.summary();
        assert_eq!(summary["interruption"]["action"], name);
        for stage in ["drain", "snapshot", "hand_back"] {
            assert_eq!(outcome(&summary, stage), "done", "{name} {stage}");
        }
    }
}

#[test]
fn stop_may_leave_the_files_to_the_volume_that_stays() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.configure("lease = \"3s\"\nsnapshot_on_stop = false\n[metadata]\ninterval = \"500ms\"\n");
    machine.write("state.json", "{}");
    let mut run = start(&machine, &[], RUNS);
    announce(&machine, Action::Stop);
    run.expect_code(85);
    let summary = machine.summary();
    for (stage, ended) in
        [("drain", "done"), ("save_state", "done"), ("snapshot", "not_wanted"), ("hand_back", "not_wanted")]
    {
        assert_eq!(outcome(&summary, stage), ended, "{stage}");
    }
    assert_eq!(records(&machine), 1, "it stays this machine's work");
    // It is started again, with its volume.
    imds(&machine).control.withdraw_notice();
    machine.run(&[], "[ -e begun ]").expect_code(0);
}

#[test]
fn hibernate_saves_the_state_first_and_does_not_stop_the_workload() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.write("state.json", "{}");
    let mut run = start(&machine, &[], RUNS);
    let pid = fs::read_to_string(machine.dir.join("pid")).expect("written");
    announce(&machine, Action::Hibernate);
    run.wait_for("the workload goes on");
    let summary = machine.summary();
    assert_eq!(summary["verdict"], "complete");
    for (stage, ended) in
        [("drain", "not_wanted"), ("save_state", "done"), ("snapshot", "done"), ("hand_back", "not_wanted")]
    {
        assert_eq!(outcome(&summary, stage), ended, "{stage}");
    }
    let place = |text: &str| run.seen.iter().position(|line| line.contains(text)).expect("logged");
    assert!(place("stage ended stage=save_state") < place("stage started stage=snapshot"), "{}", run.log());
    assert!(is_alive(&pid), "the workload is not stopped");
    assert_eq!(machine.ask_json(&["status", "--name", "w"])["phase"], "running");
    // Later the machine really goes.
    machine.write("later", "later");
    announce(&machine, Action::Terminate);
    run.expect_code(85);
    assert!(!is_alive(&pid));
    assert_eq!(machine.summary()["interruption"]["action"], "terminate");
    let second = world.machine("two");
    second.run(&[], "exit 3").expect_code(3);
    assert_eq!(tree(&second.work()), tree(&machine.work()));
}

#[test]
fn two_hibernations_are_two_interruptions() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.configure(
        "lease = \"3s\"\n[metadata]\ninterval = \"500ms\"\n[evacuation]\nlate = \"8s\"\nstale = \"2s\"\n",
    );
    let mut run = start(&machine, &[], RUNS);
    machine.write("first", "saved at the first");
    announce(&machine, Action::Hibernate);
    run.wait_for("the workload goes on");
    run.wait_for("the machine outlived the interruption");
    machine.write("second", "saved at the second");
    announce(&machine, Action::Hibernate);
    run.wait_for("the workload goes on");
    machine.write("third", "saved at the end");
    run.signal(Signal::TERM);
    run.expect_code(85);
    // claimed, twice committed for a hibernation, committed and released at the end
    assert_eq!(records(&machine), 5);
}

#[test]
fn work_that_ends_by_itself_after_a_hibernation_is_done() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &[], HOLDS_OUT);
    announce(&machine, Action::Hibernate);
    run.wait_for("the workload goes on");
    fs::write(machine.dir.join("go"), "").expect("written");
    run.expect_code(0);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "done");
}

#[test]
fn every_source_of_one_interruption_joins_its_one_evacuation() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &["--grace", "100s"], HOLDS_OUT);
    announce(&machine, Action::Terminate);
    run.wait_for("instance-action announced terminate");
    run.wait_for("termination-time announced the same interruption");
    run.signal(Signal::TERM);
    run.wait_for("SIGTERM left only");
    let answer = std::thread::scope(|scope| {
        let asker = scope.spawn(|| machine.ask_json(&["evacuate", "--name", "w"]));
        run.wait_for("lifeboat evacuate announced the same interruption");
        fs::write(machine.dir.join("go"), "").expect("written");
        asker.join().expect("an answer")
    });
    run.expect_code(85);
    let summary = machine.summary();
    assert_eq!(summary, answer);
    let sources = ["instance_action", "termination_time", "sigterm", "operator"];
    assert_eq!(summary["interruption"]["sources"], serde_json::json!(sources));
    // claimed, committed, released
    assert_eq!(records(&machine), 3);
}

#[test]
fn a_later_notice_with_less_time_shortens_the_evacuation() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &["--grace", "15s"], HOLDS_OUT);
    announce(&machine, Action::Terminate);
    run.wait_for("stage started stage=drain");
    let asked = Instant::now();
    run.signal(Signal::TERM);
    run.expect_code(85);
    // Without it the workload would be waited for 45 s.
    assert!(asked.elapsed() < Duration::from_secs(40), "{:?}", asked.elapsed());
    assert_eq!(outcome(&machine.summary(), "drain"), "timed_out");
    assert_eq!(outcome(&machine.summary(), "snapshot"), "done");
}

#[test]
fn a_later_notice_with_more_time_never_lengthens_the_evacuation() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &["--grace", "15s"], HOLDS_OUT);
    run.signal(Signal::TERM);
    run.wait_for("stage started stage=drain");
    announce(&machine, Action::Terminate);
    run.expect_code(85);
    assert!(left(&machine.summary()) <= 15_000, "{}", machine.summary());
}

#[test]
fn a_termination_time_that_is_no_time_or_long_over_starts_nothing() {
    for text in ["n/a", "2015-01-05T18:02:00Z", "<html></html>", ""] {
        let world = World::new();
        let machine = world.spot_machine("one");
        imds(&machine).control.termination_time(TerminationTimePlan::Text(text.into()));
        let mut run = start(&machine, &[], HOLDS_OUT);
        let asked = || imds(&machine).control.requests().of("GET /latest/meta-data/spot/termination-time");
        let before = asked();
        eventually("it was seen", || asked() > before);
        fs::write(machine.dir.join("go"), "").expect("written");
        run.expect_code(0);
        assert!(!run.log().contains("announced terminate"), "{text:?}: {}", run.log());
    }
}

#[test]
fn the_older_path_alone_suffices() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &[], RUNS);
    let soon = rfc3339(wall_now() + Millis::from_secs(100));
    imds(&machine).control.termination_time(TerminationTimePlan::Text(soon));
    run.expect_code(85);
    let summary = machine.summary();
    assert_eq!(summary["interruption"]["sources"], serde_json::json!(["termination_time"]));
    assert!((80_000..=101_000).contains(&left(&summary)), "{summary}");
}

#[test]
fn an_unknown_action_is_prepared_for_as_terminate() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &[], RUNS);
    announce(&machine, Action::Other("explode".into()));
    run.expect_code(85);
    assert_eq!(machine.summary()["interruption"]["action"], "terminate");
    assert!(run.log().contains("unknown interruption action"), "{}", run.log());
}

#[test]
fn a_notice_without_a_readable_time_leaves_little_time_and_is_obeyed() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &[], RUNS);
    let plan = NoticePlan { time_text: Some("soon".into()), ..NoticePlan::now(Action::Terminate) };
    imds(&machine).control.notice(plan);
    run.expect_code(85);
    assert!((1..=10_000).contains(&left(&machine.summary())), "{}", machine.summary());
}

#[test]
fn the_notices_own_time_is_what_counts() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &[], RUNS);
    imds(&machine)
        .control
        .notice(NoticePlan { length: Millis::from_secs(30), ..NoticePlan::now(Action::Stop) });
    run.expect_code(85);
    assert!((20_000..=30_000).contains(&left(&machine.summary())), "{}", machine.summary());
}

#[test]
fn a_clock_that_is_a_minute_off_changes_nothing_about_the_time_that_is_left() {
    std::thread::scope(|scope| {
        for skew in [60_000, -60_000] {
            scope.spawn(move || {
                let world = World::new();
                let machine = world.spot_machine("one");
                imds(&machine).control.skew_ms(skew);
                let mut run = start(&machine, &[], RUNS);
                announce(&machine, Action::Terminate);
                run.expect_code(85);
                let summary = machine.summary();
                assert!((110_000..=120_000).contains(&left(&summary)), "{skew}: {summary}");
                assert!(run.log().contains("clock is off"), "{skew}: {}", run.log());
            });
        }
    });
}

#[test]
fn a_rebalance_recommendation_and_scheduled_events_are_logged_and_shown_and_start_nothing() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &[], HOLDS_OUT);
    let control = &imds(&machine).control;
    control.rebalance(Some(RebalancePlan::default()));
    control.target_lifecycle_state(Some(StatePlan { after: Millis::ZERO, state: "Standby".into() }));
    control.scheduled_events(vec![ScheduledEvent {
        code: "instance-stop".into(),
        description: "The instance is running on degraded hardware".into(),
        event_id: "instance-event-0d59937288b749b32".into(),
        not_before: None,
        not_after: None,
        not_before_deadline: None,
        state: "active".into(),
    }]);
    let mut awaited = vec!["rebalance recommendation", "target lifecycle state", "scheduled event"];
    while !awaited.is_empty() {
        let line = run.next_line().expect("it runs");
        awaited.retain(|text| !line.contains(text));
    }
    let status = machine.ask_json(&["status", "--name", "w"]);
    assert_eq!(status["phase"], "running");
    let seen = &status["metadata"];
    assert_eq!(seen["reachable"], true);
    assert!(seen["rebalance"].as_str().is_some_and(|time| time.ends_with('Z')), "{status}");
    assert!(seen["target_lifecycle_state"].is_string(), "{status}");
    let event = seen["scheduled_events"][0].as_str().expect("text");
    assert!(event.contains("instance-stop") && event.contains("degraded hardware"), "{event}");
    // And gone again.
    control.rebalance(None);
    control.scheduled_events(Vec::new());
    run.wait_for("no longer announced");
    run.wait_for("no longer announced");
    let status = machine.ask_json(&["status", "--name", "w"]);
    assert!(status["metadata"]["rebalance"].is_null(), "{status}");
    fs::write(machine.dir.join("go"), "").expect("written");
    run.expect_code(0);
}

#[test]
fn a_metadata_service_that_fails_is_explained_once_and_a_notice_after_it_is_seen() {
    let faults: [(&str, &[FaultKind]); 4] = [
        ("403", &[FaultKind::Denied]),
        ("503", &[FaultKind::Throttled]),
        ("hang", &[FaultKind::Hang]),
        ("401", &[FaultKind::Unauthorized]),
    ];
    std::thread::scope(|scope| {
        for (name, kinds) in faults {
            scope.spawn(move || {
                let world = World::new();
                let machine = world.spot_machine("one");
                let mut run = start(&machine, &[], RUNS);
                eventually("it is watched", || imds(&machine).control.requests().total > 6);
                let control = &imds(&machine).control;
                control.faults(kinds.iter().cloned().map(Fault::always).collect());
                run.wait_for("the metadata service no longer answers");
                let asked = control.requests().total;
                eventually("it is asked again", || control.requests().total > asked + 2);
                control.faults(Vec::new());
                run.wait_for("watching the metadata service");
                announce(&machine, Action::Terminate);
                run.expect_code(85);
                let told = run.log().matches("no longer answers").count();
                assert_eq!(told, 1, "{name}: {}", run.log());
                assert!(run.log().contains("remedy="), "{name}: {}", run.log());
                assert_eq!(control.requests().without_token, 0, "{name}: never a silent IMDSv1");
                assert_eq!(control.requests().with_several_tokens, 0, "{name}");
            });
        }
    });
}

#[test]
fn a_service_that_fails_now_and_then_and_forgets_its_tokens_hides_no_notice() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let short = FaultKind::ShortToken(Millis(700));
    imds(&machine).control.faults(vec![
        Fault::always(short),
        Fault { kind: FaultKind::Throttled, on: FaultTarget::Metadata, extent: Extent::Percent(30) },
    ]);
    let mut run = start(&machine, &[], RUNS);
    eventually("it is watched", || imds(&machine).control.requests().total > 8);
    announce(&machine, Action::Terminate);
    run.expect_code(85);
    let requests = imds(&machine).control.requests();
    assert!(requests.of("PUT /latest/api/token") >= 2, "{requests:?}");
    assert_eq!(requests.without_token, 0);
}

#[test]
fn a_notice_that_is_withdrawn_after_the_evacuation_lets_the_work_go_on_here() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = start(&machine, &[], RUNS);
    announce(&machine, Action::Terminate);
    run.expect_code(85);
    // As a supervisor does that restarts what ended.
    let mut again = machine.run(&[], "[ -e begun ] && touch ../again");
    again.wait_for("no work is begun on it");
    assert!(!machine.dir.join("again").exists());
    imds(&machine).control.withdraw_notice();
    again.expect_code(0);
    assert!(machine.dir.join("again").exists());
}

#[test]
fn a_notice_that_stays_after_its_time_is_not_obeyed_for_ever() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.configure(
        "lease = \"3s\"\n[metadata]\ninterval = \"500ms\"\n[evacuation]\nlate = \"1s\"\nstale = \"2s\"\n",
    );
    let plan = NoticePlan { length: Millis::from_secs(10), ..NoticePlan::now(Action::Terminate) };
    imds(&machine).control.notice(plan);
    // Announced ten seconds ahead, over two seconds later; the machine is still there.
    let mut run = machine.run(&[], "touch ../started");
    run.wait_for("no work is begun on it");
    run.expect_code(0);
    assert!(machine.dir.join("started").exists());
}

#[test]
fn the_result_of_a_run_is_one_line_of_json_for_programs() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = machine.run(&["--json"], RUNS);
    eventually("the workload runs", || machine.work().join("begun").exists());
    announce(&machine, Action::Stop);
    run.expect_code(85);
    for line in &run.seen {
        assert!(line == "Terminated" || serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
    let last = run.seen.last().expect("a line");
    let end: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(end["code"], 85);
    assert_eq!(end["summary"], machine.summary());
    assert_eq!(end["summary"]["instance"], "i-one");
    assert!(end["message"].is_string());
    let stages: Vec<_> =
        end["summary"]["stages"].as_array().expect("a list").iter().map(|s| &s["stage"]).collect();
    assert_eq!(stages.len(), 9, "{stages:?}");
}

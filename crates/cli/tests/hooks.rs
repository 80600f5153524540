//! `before_snapshot` and `after_snapshot`: run around every snapshot, named when they fail, killed when they hang,
//! and never in the way of an evacuation.

mod harness;

use std::fs;
use std::time::Duration;

use harness::{Machine, Running, World, eventually, is_alive, tree};
use rustix::process::Signal;

/// Runs until it is told to stop.
const RUNS: &str = "trap 'exit 0' TERM; echo begun > begun; while :; do sleep 0.05; done";

const BASE: &str = "lease = \"3s\"\n";

/// A machine with the two commands as shell scripts, and more lines for the top of its configuration.
fn machine(world: &World, top: &str, before: &str, after: &str) -> Machine {
    let machine = world.machine("one");
    let hook = |name: &str, script: &str| {
        format!("[{name}]\ncommand = [\"/bin/sh\", \"-c\", '''{script}''']\ntimeout = \"30s\"\n")
    };
    machine.configure(&format!(
        "{BASE}{top}\n{}{}",
        hook("before_snapshot", before),
        hook("after_snapshot", after)
    ));
    machine
}

fn running(machine: &Machine) -> Running {
    let run = machine.run(&["--grace", "60s"], RUNS);
    eventually("the workload runs", || machine.work().join("begun").exists());
    run
}

fn lines(machine: &Machine) -> Vec<String> {
    let text = fs::read_to_string(machine.dir.join("hooks.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn snapshot(machine: &Machine) -> (String, String) {
    let summary = machine.summary();
    let stages = summary["stages"].as_array().expect("a list");
    let line = stages.iter().find(|line| line["stage"] == "snapshot").expect("told of");
    let text = |key: &str| line[key].as_str().expect("text").to_owned();
    (text("outcome"), text("detail"))
}

fn is_stored(machine: &Machine) {
    let to = machine.dir.join("restored");
    let output = machine.ask(&["restore", "w", "--no-claim", "--to", &to.to_string_lossy()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(tree(&to), tree(&machine.work()));
}

fn generations(machine: &Machine) -> usize {
    machine.ask_json(&["show", "w"])["points"].as_array().map_or(0, Vec::len)
}

#[test]
fn both_commands_run_around_the_last_snapshot_and_are_told_what_it_is() {
    let world = World::new();
    let machine = machine(
        &world,
        "",
        "echo flushed > flushed; echo before $LIFEBOAT_SNAPSHOT $LIFEBOAT_WORKLOAD >> ../hooks.log",
        "echo after $LIFEBOAT_SNAPSHOT $LIFEBOAT_SNAPSHOT_RESULT >> ../hooks.log",
    );
    let mut run = running(&machine);
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert_eq!(lines(&machine), ["before last w", "after last committed"]);
    assert!(machine.work().join("flushed").exists());
    is_stored(&machine);
}

#[test]
fn a_command_that_fails_is_named_and_keeps_nothing_from_being_saved() {
    let world = World::new();
    let machine = machine(&world, "", "echo the disk is odd >&2; exit 3", "exit 4");
    machine.write("data", "kept");
    let mut run = running(&machine);
    run.signal(Signal::TERM);
    run.expect_code(85);
    let (outcome, detail) = snapshot(&machine);
    assert_eq!(outcome, "done");
    assert!(
        detail.contains("before_snapshot") && detail.contains("exit status: 3: the disk is odd"),
        "{detail}"
    );
    assert!(run.log().contains("after_snapshot `/bin/sh` failed with exit status: 4"), "{}", run.log());
    is_stored(&machine);
}

#[test]
fn a_command_that_does_not_exist_is_named_too() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(&format!("{BASE}[before_snapshot]\ncommand = [\"/no/such/flush\"]\n"));
    let mut run = running(&machine);
    run.signal(Signal::TERM);
    run.expect_code(85);
    let (outcome, detail) = snapshot(&machine);
    assert!(outcome == "done" && detail.contains("`/no/such/flush` cannot be started"), "{outcome} {detail}");
}

#[test]
fn a_command_that_hangs_is_killed_with_its_group_and_the_evacuation_goes_on() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(&format!(
        "{BASE}[before_snapshot]\ncommand = [\"/bin/sh\", \"-c\", \"trap '' TERM; sleep 1000 & echo $! > ../child; wait\"]\n\
         timeout = \"500ms\"\n[after_snapshot]\ncommand = [\"/bin/sh\", \"-c\", \"echo after >> ../hooks.log; sleep 1000\"]\n\
         timeout = \"500ms\"\n"
    ));
    machine.write("data", "kept");
    let mut run = running(&machine);
    run.signal(Signal::TERM);
    run.expect_code(85);
    let (outcome, detail) = snapshot(&machine);
    assert!(
        outcome == "done" && detail.contains("did not end within 500 ms and was killed"),
        "{outcome} {detail}"
    );
    assert!(run.log().contains("after_snapshot `/bin/sh` did not end within 500 ms"), "{}", run.log());
    let child = fs::read_to_string(machine.dir.join("child")).expect("it ran");
    eventually("its child is gone", || !is_alive(&child));
    is_stored(&machine);
}

#[test]
fn a_command_that_may_take_long_gets_a_share_of_the_time_that_is_left_and_no_more() {
    let world = World::new();
    let machine = machine(&world, "", "sleep 1000", ":");
    machine.write("data", "kept");
    // Its time-out is 30 s; the whole evacuation has 8.
    let mut run = machine.run(&["--grace", "24s"], RUNS);
    eventually("the workload runs", || machine.work().join("begun").exists());
    run.signal(Signal::TERM);
    run.expect_code(85);
    let (outcome, detail) = snapshot(&machine);
    assert!(outcome == "done" && detail.contains("was killed"), "{outcome} {detail}");
    is_stored(&machine);
}

#[test]
fn what_follows_a_snapshot_runs_when_it_failed_too() {
    let world = World::new();
    let machine = machine(
        &world,
        "[evacuation]\nsnapshot = { maximum = \"2s\" }\n",
        ":",
        "echo after $LIFEBOAT_SNAPSHOT_RESULT >> ../hooks.log",
    );
    let mut run = machine.run(&["--grace", "8s"], RUNS);
    eventually("the workload runs", || machine.work().join("begun").exists());
    fs::rename(&machine.store, machine.store.with_extension("away")).expect("moved");
    fs::write(&machine.store, "in the way").expect("written");
    run.signal(Signal::TERM);
    run.expect_code(86);
    let lines = lines(&machine);
    assert!(lines == ["after failed"] || lines == ["after broken-off"], "{lines:?}");
}

#[test]
fn every_round_has_its_commands_and_one_that_is_not_prepared_is_not_taken() {
    let world = World::new();
    let machine = machine(
        &world,
        "precopy = \"1s\"",
        "test -e ../ready || { echo not ready >&2; exit 9; }",
        "echo after $LIFEBOAT_SNAPSHOT $LIFEBOAT_SNAPSHOT_RESULT >> ../hooks.log",
    );
    machine.write("data", "kept");
    let mut run = running(&machine);
    run.wait_for("nothing is copied in this round");
    run.wait_for("nothing is copied in this round");
    assert_eq!(generations(&machine), 0);
    assert!(lines(&machine).iter().all(|line| line == "after round broken-off"), "{:?}", lines(&machine));
    fs::write(machine.dir.join("ready"), "").expect("written");
    run.wait_for("copied what has changed");
    eventually("the round's second command", || {
        lines(&machine).contains(&"after round committed".to_owned())
    });
    run.signal(Signal::TERM);
    run.expect_code(85);
    is_stored(&machine);
}

#[test]
fn a_notice_in_the_middle_of_a_rounds_command_kills_that_and_sets_free_what_it_held() {
    let world = World::new();
    let machine = machine(
        &world,
        "precopy = \"1s\"",
        "if test $LIFEBOAT_SNAPSHOT = round; then echo $$ > ../hook; sleep 1000; fi; echo before >> ../hooks.log",
        "echo after $LIFEBOAT_SNAPSHOT $LIFEBOAT_SNAPSHOT_RESULT >> ../hooks.log",
    );
    machine.write("data", "kept");
    let mut run = running(&machine);
    eventually("the round's command runs", || machine.dir.join("hook").exists());
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert_eq!(lines(&machine), ["after round broken-off", "before", "after last committed"]);
    let hook = fs::read_to_string(machine.dir.join("hook")).expect("it ran");
    eventually("it is gone", || !is_alive(&hook));
    is_stored(&machine);
}

#[test]
fn the_agent_that_reaps_every_orphan_does_not_take_the_commands_exit_status() {
    let world = World::new();
    let machine = machine(&world, "precopy = \"1s\"", "sleep 0.3; exit 21", ":");
    // A storm of orphans: each is reaped by the agent while a command runs.
    let mut run = machine.run(
        &[],
        "trap 'exit 7' TERM; touch begun; while :; do (sleep 0.02 & sleep 0.01 &) ; sleep 0.02; done",
    );
    eventually("the workload runs", || machine.work().join("begun").exists());
    for _ in 0..4 {
        let line = run.wait_for("nothing is copied in this round");
        assert!(line.contains("exit status: 21"), "{line}");
    }
    drop(run);
}

#[test]
fn a_workload_that_ends_beside_a_running_command_is_over_at_once() {
    let world = World::new();
    let machine = machine(&world, "precopy = \"1s\"", "touch ../hook; sleep 2", ":");
    let begun = std::time::Instant::now();
    let mut run = machine.run(&[], "until [ -e ../hook ]; do sleep 0.02; done; exit 0");
    run.expect_code(0);
    assert!(begun.elapsed() < Duration::from_secs(60), "{}", run.log());
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "done");
}

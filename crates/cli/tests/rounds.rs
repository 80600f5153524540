//! Copying while the work goes on, by the real program: a machine that vanishes without a notice loses no more than a
//! round.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::{Machine, Running, World, descendants, eventually, tree};
use lifeboat_core::time::Millis;
use lifeboat_imds::mock::RebalancePlan;
use rustix::process::{Signal, kill_process};

/// Writes what the test asks for, until it is told to stop.
const WORKS: &str = "
    trap 'exit 0' TERM
    echo begun > begun
    while :; do
        if [ -e ../write ]; then cp ../write written; mv ../write ../wrote; fi
        sleep 0.05
    done";

fn start(machine: &Machine) -> Running {
    let mut command = machine.run_command("w", &[], &["/bin/sh", "-c", WORKS]);
    let run = Running::start(command.env("LIFEBOAT_LOG", "debug"));
    eventually("the workload runs", || machine.work().join("begun").exists());
    run
}

/// The workload writes `text` now.
fn write(machine: &Machine, text: &str) {
    fs::write(machine.dir.join("new"), text).expect("written");
    fs::rename(machine.dir.join("new"), machine.dir.join("write")).expect("moved");
    eventually("it is written", || machine.dir.join("wrote").exists());
    fs::remove_file(machine.dir.join("wrote")).expect("removed");
}

/// As when the power goes: no signal that could be caught, nobody left to do anything.
fn power_off(mut run: Running) {
    let below = descendants(run.pid());
    run.kill_agent();
    for pid in below {
        let _ = kill_process(pid, Signal::KILL); // it may have ended with its parent
    }
}

/// Everything in the store but what proves that the holder lives.
fn stored(store: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    tree(store).into_iter().filter(|(path, _)| !path.to_string_lossy().contains("heartbeats")).collect()
}

#[test]
fn a_machine_that_vanishes_without_a_notice_loses_no_more_than_its_last_round() {
    let world = World::new();
    let first = world.machine("one");
    first.configure("lease = \"3s\"\nprecopy = \"1s\"\n");
    first.write("large.bin", (0..6_000_000u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
    let mut run = start(&first);
    run.wait_for("copied what has changed");
    write(&first, "of the second round");
    run.wait_for("copied what has changed");
    let expected = tree(&first.work());
    power_off(run);
    // This came after the last round, and is lost with the machine.
    first.write("later", "never stored");

    let second = world.machine("two");
    let mut run = second.run(&[], "echo $LIFEBOAT_RESTORED > ../restored; cp -a . ../seen; exit 0");
    run.expect_code(0);
    assert_eq!(fs::read_to_string(second.dir.join("restored")).expect("told").trim(), "yes");
    assert_eq!(tree(&second.dir.join("seen")), expected);
}

#[test]
fn the_same_machine_goes_on_with_its_own_newer_files_after_a_power_cut() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("lease = \"3s\"\nprecopy = \"1s\"\n");
    let mut run = start(&machine);
    run.wait_for("copied what has changed");
    power_off(run);
    machine.write("later", "on this disk only");
    let mut again = machine.run(&[], "cat later > ../seen; exit 0");
    again.expect_code(0);
    assert_eq!(fs::read_to_string(machine.dir.join("seen")).expect("kept"), "on this disk only");
}

#[test]
fn a_rebalance_recommendation_starts_a_round_at_once() {
    let world = World::new();
    let machine = world.spot_machine("one");
    // A day away, or not configured at all: what is copied is copied because of the recommendation.
    for text in ["precopy = \"24h\"\n", ""] {
        machine.configure(&format!("lease = \"3s\"\n{text}[metadata]\ninterval = \"500ms\"\n"));
        let _ = fs::remove_file(machine.work().join("begun")); // of the run before
        let mut run = start(&machine);
        write(&machine, &format!("new with {text:?}"));
        let imds = machine.imds.as_ref().expect("has one");
        imds.control.rebalance(Some(RebalancePlan { after: Millis::ZERO, time_text: None }));
        run.wait_for("copied what has changed");
        imds.control.rebalance(None);
        run.signal(Signal::TERM);
        run.expect_code(85);
    }
}

#[test]
fn a_round_in_which_nothing_changed_writes_nothing() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("lease = \"3s\"\nprecopy = \"1s\"\n");
    machine.write("data", "the same");
    let mut run = start(&machine);
    run.wait_for("copied what has changed");
    // The file that was young when the first round read it is looked at once more.
    run.wait_for("nothing has changed since the last recovery point");
    let before = stored(&world.store());
    run.wait_for("nothing has changed since the last recovery point");
    run.wait_for("nothing has changed since the last recovery point");
    assert_eq!(stored(&world.store()), before);
}

#[test]
fn rounds_keep_to_the_rate_that_is_configured() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("precopy = \"1s\"\nprecopy_rate = \"2MiB/s\"\nprecopy_concurrency = 1\n");
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(24 << 20)
    .collect();
    machine.write("noise", noise);
    let mut run = start(&machine);
    let line = run.wait_for("copied what has changed");
    let took: u64 = line
        .split("took_ms=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("says how long it took");
    // The first objects go at once: 24 MiB less two of 8 MiB, at 2 MiB a second.
    assert!(took >= 4_000, "{line}");
}

#[test]
fn in_the_layout_plain_another_machine_finds_each_file_under_its_name_and_goes_on() {
    let world = World::new();
    let first = world.machine("one");
    first.configure("lease = \"3s\"\nlayout = \"plain\"\ninstance_id = \"i-one\"\n");
    first.write("data/h\u{f6}her", "found by name");
    first.write("large.bin", (0..6_000_000u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
    let run = start(&first);
    run.signal(Signal::TERM);
    let mut run = run;
    run.expect_code(85);
    let stored = tree(&world.store().join("w/interrupted/i-one"));
    let file = stored.keys().find(|path| path.ends_with("data/h\u{f6}her")).expect("under its name");
    let text = fs::read_to_string(world.store().join("w/interrupted/i-one").join(file)).expect("readable");
    assert_eq!(text, "found by name");
    let expected = tree(&first.work());
    let second = world.machine("two");
    let mut run = second.run(&[], "cp -a . ../seen; exit 0");
    run.expect_code(0);
    assert_eq!(tree(&second.dir.join("seen")), expected);
    assert!(second.ask_json(&["verify", "w"])["damaged"].as_array().is_some_and(Vec::is_empty));
}

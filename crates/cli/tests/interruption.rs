//! An interruption from end to end: notice → evacuation → another machine goes on.

mod harness;

use harness::{World, eventually, tree};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::Signal;

/// Counts up in a file until it is told to stop; ends by itself at 3.
const COUNT_TO_THREE: &str = "
    n=$(cat count 2>/dev/null || echo 0)
    trap 'exit 0' TERM
    while [ $n -lt 3 ]; do
        n=$((n+1)); echo $n > count
        [ $n -eq 1 ] && [ \"$LIFEBOAT_RESTORED\" = no ] && { sleep 60 & wait; }
    done
    echo done > result";

#[test]
fn work_that_is_interrupted_goes_on_elsewhere_where_it_stopped() {
    let world = World::new();
    let first = world.spot_machine("one");
    first.write("input/a.txt", "alpha");
    let mut run = first.run(&[], COUNT_TO_THREE);
    eventually("the first step is done", || first.work().join("count").exists());
    first.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    let saved = tree(&first.work());
    let summary = first.summary();
    assert_eq!(summary["verdict"], "complete");
    assert_eq!(summary["interruption"]["sources"][0], "instance_action");
    assert!(summary["remaining_ms"].as_u64().expect("a number") > 20_000, "{summary}");

    let second = world.spot_machine("two");
    let mut run = second.run(&[], "exit 7");
    run.expect_code(7);
    assert_eq!(tree(&second.work()), saved, "restored as it was, and saved again after the failure");

    let third = world.spot_machine("three");
    let mut run = third.run(&[], COUNT_TO_THREE);
    run.expect_code(0);
    assert_eq!(third.read("count").trim(), "3");
    assert_eq!(third.read("result").trim(), "done");

    let fourth = world.spot_machine("four");
    let mut run = fourth.run(&[], "[ ! -e count ]");
    run.expect_code(0);
}

#[test]
fn sigterm_is_a_notice_with_the_configured_grace() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine.run(&["--grace", "60s"], "echo x > file; sleep 600");
    eventually("the workload runs", || machine.work().join("file").exists());
    run.signal(Signal::TERM);
    run.expect_code(85);
    let summary = machine.summary();
    assert_eq!(summary["interruption"]["sources"][0], "sigterm");
    assert!(summary["took_ms"].as_u64().expect("a number") <= 60_000);
    let listed = machine.ask_json(&["list"]);
    assert_eq!(listed[0]["state"], "evacuated");
}

//! Whose work it is: one runs it at any time, whoever comes back asks first, nothing newer is overwritten, and what
//! is finished stays finished.

mod harness;

use std::fs;
use std::path::Path;
use std::process::Output;

use harness::{Machine, Running, World, eventually, is_alive, tree};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::Signal;

/// Runs until it is told to stop; takes its process id down outside the work directory.
const RUNS: &str = "
    trap 'exit 0' TERM
    echo $$ > ../pid; echo begun > begun
    while :; do sleep 0.05; done";

/// Adds one to a number, and fails, so that it is saved and given back.
const COUNTS: &str = "echo $(($(cat n 2>/dev/null || echo 0) + 1)) > n; exit 3";

fn running(machine: &Machine, options: &[&str]) -> Running {
    let run = machine.run(options, RUNS);
    eventually("the workload runs", || {
        machine.dir.join("pid").exists() && machine.work().join("begun").exists()
    });
    run
}

fn evacuate(machine: &Machine) -> Output {
    machine.ask(&["evacuate", "--name", "w", "--work-dir", &machine.work().to_string_lossy(), "--json"])
}

fn result(output: &Output) -> serde_json::Value {
    let code = output.status.code();
    assert!(code == Some(0), "{code:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The newest record of the journal.
fn head(machine: &Machine) -> String {
    let names = fs::read_dir(machine.store.join("w/journal")).expect("listed");
    names
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .max()
        .expect("a record")
}

/// What the machine's configuration file says beside the defaults of the tests.
fn patient(machine: &Machine, claim_wait: &str) {
    machine.configure(&format!(
        "lease = \"3s\"\nclaim_wait = \"{claim_wait}\"\n[metadata]\ninterval = \"500ms\"\n"
    ));
}

#[test]
fn the_second_machine_starts_only_after_the_first_has_evacuated() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    // Fails where it finds the other at work.
    let witness = world.path().join("witness");
    let alone = format!(
        "mkdir {0} || exit 9; trap 'rmdir {0}; exit 0' TERM; touch ../begun; while :; do sleep 0.05; done",
        witness.display()
    );
    let mut one = first.run(&[], &alone);
    eventually("the first runs", || first.dir.join("begun").exists());
    let mut two = second.run(&[], &alone);
    let line = two.wait_for("another machine holds the work");
    assert!(line.contains("by="), "{line}");
    // Longer than the lease: a living holder keeps its work.
    two.wait_for_silence(std::time::Duration::from_secs(4));
    assert!(!second.dir.join("begun").exists());
    one.signal(Signal::TERM);
    one.expect_code(85);
    two.wait_for("taking up evacuated work");
    eventually("the second runs", || second.dir.join("begun").exists());
    two.signal(Signal::TERM);
    two.expect_code(85);
}

#[test]
fn whoever_waited_too_long_is_told_who_holds_the_work() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    let _one = running(&first, &[]);
    patient(&second, "1s");
    let mut two = second.run_named("w", &["--instance-id", "i-two"], &["touch", "../started"]);
    two.expect_code(87);
    assert!(two.log().contains("the workload is held by"), "{}", two.log());
    assert!(!second.dir.join("started").exists());
}

#[test]
fn an_agent_that_is_started_again_while_the_metadata_service_is_away_knows_its_own_work() {
    let world = World::new();
    let mut machine = world.spot_machine("one");
    machine.configure("lease = \"3s\"\nprecopy = \"1s\"\n[metadata]\ninterval = \"500ms\"\n");
    let mut run = machine.run(&[], "echo 1 > n; sleep 1000");
    run.wait_for("copied what has changed");
    run.kill_agent();
    machine.write("n", "2\n");
    machine.imds = None;
    let mut again = machine.run(&[], "[ $(cat n) = 2 ] && [ $LIFEBOAT_INSTANCE = i-one ] && exit 3");
    again.expect_code(3);
    assert!(again.log().contains("going on with this machine's own work"), "{}", again.log());
}

#[test]
fn a_machine_that_waits_for_the_work_has_nothing_to_evacuate_and_says_so() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    let _one = running(&first, &[]);
    let mut two = second.run(&["--instance-id", "i-two"], "touch ../started");
    two.wait_for("another machine holds the work");
    let output = second.ask(&["evacuate", "--name", "w", "--grace", "1s"]);
    assert_eq!(output.status.code(), Some(87), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("nothing was evacuated: the agent here has not begun"),
        "{}",
        stderr(&output)
    );
    two.signal(Signal::TERM);
    two.expect_code(85);
    assert!(!second.dir.join("started").exists());
}

#[test]
fn a_second_agent_on_the_same_machine_is_refused_and_told_which_process_is_the_first() {
    let world = World::new();
    let machine = world.machine("one");
    let one = running(&machine, &[]);
    let mut two = machine.run(&[], "touch ../started");
    two.expect_code(87);
    assert!(two.log().contains(&format!("process {}", one.pid().as_raw_nonzero())), "{}", two.log());
    assert!(!machine.dir.join("started").exists());
}

#[test]
fn a_machine_whose_work_nobody_took_goes_on_with_its_local_files() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = running(&machine, &[]);
    run.signal(Signal::TERM);
    run.expect_code(85);
    machine.write("local", "written after the evacuation");
    let mut again = machine.run(&[], "[ -e local ] && [ -e begun ] && [ \"$LIFEBOAT_RESTORED\" = no ]");
    again.expect_code(0);
}

#[test]
fn a_machine_that_comes_back_while_another_works_waits_and_does_not_start() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    let mut run = running(&first, &[]);
    run.signal(Signal::TERM);
    run.expect_code(85);
    let mut two = running(&second, &[]);
    patient(&first, "1s");
    let mut back = first.run(&[], "touch ../started");
    back.expect_code(87);
    assert!(!first.dir.join("started").exists());
    patient(&first, "60s");
    let mut back = first.run(&[], "touch ../started; exit 3");
    back.wait_for("another machine holds the work");
    assert!(!first.dir.join("started").exists());
    two.signal(Signal::TERM);
    two.expect_code(85);
    back.expect_code(3);
    assert!(first.dir.join("started").exists());
}

#[test]
fn a_directory_is_brought_forward_when_the_work_went_further_elsewhere() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    first.write("same", "same");
    first.write("old/gone", "gone later");
    first.run(&[], COUNTS).expect_code(3);
    second.run(&[], "rm -r old; mkdir new; echo new > new/file; echo 2 > n; exit 3").expect_code(3);
    let mut back = first.run(&[], "exit 4");
    back.expect_code(4);
    assert_eq!(first.read("n").trim(), "2");
    assert_eq!(first.read("new/file").trim(), "new");
    assert_eq!(first.read("same"), "same");
    assert!(!first.work().join("old/gone").exists(), "it is stored in the older recovery point");
}

#[test]
fn a_locally_changed_file_is_never_overwritten_by_what_went_further_elsewhere() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    first.write("other", "other");
    first.run(&[], COUNTS).expect_code(3);
    second.run(&[], COUNTS).expect_code(3);
    first.write("n", "changed here");
    let before = tree(&first.work());
    for _ in 0..2 {
        let mut back = first.run(&[], "touch ../started");
        back.expect_code(88);
        assert!(back.log().contains("\"n\"") || back.log().contains(" n"), "names it: {}", back.log());
        assert_eq!(tree(&first.work()), before, "nothing is overwritten");
        assert!(!first.dir.join("started").exists());
    }
    // The work itself is not held up: it was given back.
    let third = world.machine("three");
    third.run(&[], "[ \"$(cat n)\" = 2 ]").expect_code(0);
}

#[test]
fn stale_files_are_never_saved_over_what_went_further_elsewhere() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    let mut run = first.run(&["--grace", "60s"], &format!("echo 1 > n; {RUNS}"));
    eventually("it runs", || first.work().join("begun").exists());
    run.signal(Signal::TERM);
    run.expect_code(85);
    second.run(&[], COUNTS).expect_code(3);
    let before = head(&first);
    eventually("the grace of the first evacuation is over", || {
        let output = first.ask(&[
            "evacuate",
            "--name",
            "w",
            "--grace",
            "1s",
            "--work-dir",
            &first.work().to_string_lossy(),
        ]);
        match output.status.code() {
            Some(87) => true,
            Some(0) => false, // the result that there is
            other => panic!("{other:?}: {}", stderr(&output)),
        }
    });
    assert_eq!(head(&first), before, "the journal is as it was");
    let third = world.machine("three");
    third.run(&[], "[ \"$(cat n)\" = 2 ]").expect_code(0);
}

#[test]
fn finished_work_is_never_restored() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    first.run(&[], COUNTS).expect_code(3);
    first.run(&[], "echo result > result").expect_code(0);
    assert_eq!(first.ask_json(&["list"])[0]["state"], "done");
    let output = evacuate(&first);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("finished"), "{}", stderr(&output));
    second.run(&[], "[ ! -e n ] && [ ! -e result ] && [ \"$LIFEBOAT_RESTORED\" = no ]").expect_code(0);
}

#[test]
fn an_agent_that_was_frozen_beyond_its_lease_kills_its_workload_and_commits_nothing() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    first.run(&[], COUNTS).expect_code(3);
    let mut one = running(&first, &[]);
    let pid = fs::read_to_string(first.dir.join("pid")).expect("written");
    one.signal(Signal::STOP);
    let mut two = second.run(&[], "sleep 60");
    two.wait_for("fell silent");
    two.wait_for("workload started");
    let before = head(&first);
    assert!(is_alive(&pid));
    one.signal(Signal::CONT);
    one.expect_code(87);
    assert!(!is_alive(&pid), "the workload is killed");
    assert_eq!(head(&first), before, "nothing is committed");
    assert!(one.log().contains("belongs to"), "{}", one.log());
    // Its next run asks and waits, as anyone; it does not go on with its evacuation or its files.
    patient(&first, "1s");
    first.run(&[], "touch ../started").expect_code(87);
    assert!(!first.dir.join("started").exists());
}

#[test]
fn an_agent_that_was_frozen_in_its_evacuation_commits_nothing_after_a_take_over() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    first.run(&[], COUNTS).expect_code(3);
    let slow = "trap 'sleep 1; exit 0' TERM; touch begun; echo $$ > ../pid; while :; do sleep 0.05; done";
    let mut one = first.run(&[], slow);
    eventually("it runs", || first.dir.join("pid").exists());
    one.signal(Signal::TERM);
    one.wait_for("stage started stage=drain");
    one.signal(Signal::STOP);
    let mut two = second.run(&[], "echo $(($(cat n) + 1)) > n; exit 3");
    two.wait_for("fell silent");
    two.expect_code(3);
    let before = head(&first);
    one.signal(Signal::CONT);
    one.expect_code(87);
    assert_eq!(head(&first), before, "nothing is committed");
    // What the first left behind is neither resumed nor taken for the newest.
    first.run(&[], "touch ../started").expect_code(88);
    assert!(!first.dir.join("started").exists());
    world.machine("three").run(&[], "[ \"$(cat n)\" = 2 ]").expect_code(0);
}

#[test]
fn clean_up_deletes_only_what_is_stored_and_the_next_run_restores_it() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("stored/a", "a");
    machine.write("keep/cache", "not saved");
    let options = ["--clean-up", "--exclude", "keep/**"];
    let mut run = running(&machine, &options);
    let before = tree(&machine.work());
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert!(!machine.work().join("stored/a").exists(), "deleted");
    assert!(!machine.work().join("begun").exists(), "deleted");
    assert_eq!(machine.read("keep/cache"), "not saved", "what is not stored is not deleted");
    let mut again = machine.run(&options, "exit 3");
    again.expect_code(3);
    assert_eq!(tree(&machine.work()), before);
}

#[test]
fn evacuate_through_the_agent_ends_the_run_and_both_tell_the_same() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = running(&machine, &[]);
    let told = result(&evacuate(&machine));
    run.expect_code(85);
    assert_eq!(told, machine.summary());
    assert_eq!(told["interruption"]["sources"][0], "operator");
    let again = result(&evacuate(&machine));
    assert_eq!(again, told, "asked again right after");
}

#[test]
fn evacuate_asked_for_by_many_at_once_runs_once_and_all_get_its_result() {
    let world = World::new();
    let machine = world.machine("one");
    let slow = "trap 'sleep 0.5; exit 0' TERM; touch begun; while :; do sleep 0.05; done";
    let mut run = machine.run(&[], slow);
    eventually("it runs", || machine.work().join("begun").exists());
    let results: Vec<_> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..4).map(|_| scope.spawn(|| result(&evacuate(&machine)))).collect();
        askers.into_iter().map(|asker| asker.join().expect("an answer")).collect()
    });
    run.expect_code(85);
    assert!(results.iter().all(|one| *one == results[0]), "{results:?}");
    assert!(head(&machine).ends_with("0003.json"), "claimed, committed, released: {}", head(&machine));
}

#[test]
fn evacuate_without_an_agent_saves_the_directory_once_however_often_it_is_asked_for() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("file", "by hand");
    let results: Vec<_> = std::thread::scope(|scope| {
        let askers: Vec<_> = (0..3).map(|_| scope.spawn(|| result(&evacuate(&machine)))).collect();
        askers.into_iter().map(|asker| asker.join().expect("an answer")).collect()
    });
    assert!(results.iter().all(|one| *one == results[0]), "{results:?}");
    assert!(head(&machine).ends_with("0003.json"), "claimed, committed, released: {}", head(&machine));
    let second = world.machine("two");
    second.run(&[], "[ \"$(cat file)\" = 'by hand' ]").expect_code(0);
}

#[test]
fn a_work_directory_that_was_emptied_or_deleted_is_restored() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("dir/file", "file");
    machine.run(&[], COUNTS).expect_code(3);
    let saved = tree(&machine.work());
    fs::remove_dir_all(machine.work()).expect("removed");
    fs::create_dir(machine.work()).expect("created");
    machine.run(&[], "exit 4").expect_code(4);
    assert_eq!(tree(&machine.work()), saved);
    fs::remove_dir_all(machine.work()).expect("removed");
    let mut command = machine.run_command("w", &[], &["/bin/sh", "-c", "exit 4"]);
    command.current_dir(&machine.dir);
    Running::start(&mut command).expect_code(4);
    assert_eq!(tree(&machine.work()), saved);
}

#[test]
fn no_work_is_begun_on_a_machine_that_is_about_to_go() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let control = &machine.imds.as_ref().expect("has one").control;
    control.notice(NoticePlan::now(Action::Terminate));
    let mut run = machine.run(&[], "touch ../started");
    run.wait_for("no work is begun on it");
    // The older path tells of the same interruption a few rounds later: it does not end the hold.
    run.wait_for("no work is begun on it");
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert!(!machine.dir.join("started").exists());
    assert!(!machine.store.join("w/journal").exists(), "nothing is claimed");
}

#[test]
fn a_machine_that_waits_for_work_does_not_begin_it_when_its_own_end_is_announced() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.spot_machine("two"));
    let mut one = running(&first, &[]);
    let mut two = second.run(&[], "touch ../started");
    two.wait_for("another machine holds the work");
    second.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    two.wait_for("no work is begun on it");
    two.wait_for("no work is begun on it");
    one.signal(Signal::TERM);
    one.expect_code(85);
    two.signal(Signal::TERM);
    two.expect_code(85);
    assert!(!second.dir.join("started").exists());
    assert_eq!(first.ask_json(&["list"])[0]["state"], "evacuated");
}

#[test]
fn work_evacuated_for_a_notice_is_not_begun_again_on_the_same_machine_while_it_may_go() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = running(&machine, &[]);
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    // As a supervisor does that restarts what ended.
    let mut again = machine.run(&[], "touch ../started");
    again.wait_for("no work is begun on it");
    let second = world.machine("two");
    second.run(&[], "[ -e begun ]").expect_code(0);
    again.signal(Signal::TERM);
    again.expect_code(85);
    assert!(!machine.dir.join("started").exists());
}

#[test]
fn a_state_directory_copied_with_a_machine_image_takes_no_work_from_its_living_holder() {
    let world = World::new();
    let (first, second) = (world.spot_machine("one"), world.spot_machine("two"));
    first.run(&[], COUNTS).expect_code(3);
    copy(&first.dir.join("state"), &second.dir.join("state"));
    let _one = running(&first, &[]);
    patient(&second, "1s");
    second.run(&[], "touch ../started").expect_code(87);
    assert!(!second.dir.join("started").exists());
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-r").args([from, to]).status().expect("cp");
    assert!(done.success());
}

#[test]
fn lifeboats_own_state_and_what_is_excluded_may_lie_in_the_work_directory() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    let run = |machine: &Machine, script: &str| {
        let (store, dir) = (machine.store.to_string_lossy(), machine.dir.to_string_lossy());
        let args =
            ["run", "--name", "w", "--store", &store, "--work-dir", &dir, "--exclude", "cache/**", "--"];
        Running::start(&mut machine.lifeboat(&[&args[..], &["/bin/sh", "-c", script]].concat()))
    };
    fs::create_dir(second.dir.join("cache")).expect("created");
    fs::write(second.dir.join("cache/own"), "own").expect("written");
    std::os::unix::net::UnixListener::bind(second.dir.join("left.sock")).expect("bound");
    run(&first, "mkdir cache; touch cache/x; echo 1 > n; exit 3").expect_code(3);
    run(&second, "[ $(cat n) = 1 ] && [ ! -e cache/x ] && exit 4").expect_code(4);
    assert_eq!(fs::read_to_string(second.dir.join("cache/own")).expect("kept"), "own");
    run(&first, "[ -e cache/x ] && exit 5").expect_code(5);
}

#[test]
fn evacuate_on_a_machine_that_waits_for_its_end_tells_the_result_there_is() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = running(&machine, &[]);
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    let summary = machine.summary();
    // A supervisor has restarted the run, and the remote command that repeats the notice arrives.
    let mut again = machine.run(&[], "touch ../started");
    again.wait_for("no work is begun on it");
    let head_before = head(&machine);
    assert_eq!(result(&evacuate(&machine)), summary);
    assert_eq!(head(&machine), head_before);
    again.signal(Signal::TERM);
    again.expect_code(85);
}

//! The agent is killed at any moment, or the machine dies: the work is not lost, nothing is left running, and an
//! evacuation that was begun ends within its own deadline.

mod harness;

use std::fs;
use std::path::PathBuf;

use harness::{Machine, Running, World, eventually, is_alive, tree};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::{Signal, kill_process_group};

/// Writes its process id outside, works until it is told to stop, and takes its time to end.
const SLOW_TO_STOP: &str = "
    trap 'sleep 0.2; echo last > last; exit 0' TERM
    echo $$ > ../pid; echo begun > begun
    while :; do sleep 0.05; done";

/// What the whole evacuation of [`SLOW_TO_STOP`] logs, at least; the sweep goes on until it has seen the end.
const LINES_MAX: usize = 60;

/// So many machines at once.
const AT_ONCE: usize = 4;

fn begin(machine: &Machine, options: &[&str]) -> Running {
    machine.write("data/a.bin", vec![7; 300_000]);
    machine.write("data/b.txt", "words");
    machine.write("state.json", r#"{"done": 3}"#);
    let run = machine.run(options, SLOW_TO_STOP);
    eventually("the workload runs", || machine.work().join("begun").exists());
    run
}

fn record(machine: &Machine) -> serde_json::Value {
    fs::read(machine.agent("w").join("record.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn nothing_is_left_of(machine: &Machine) {
    let pid = fs::read_to_string(machine.dir.join("pid")).expect("written by the workload");
    assert!(!is_alive(&pid), "process {pid} of the workload is left");
}

/// The newest recovery point is what the work directory holds.
fn is_stored(machine: &Machine) {
    let to = machine.dir.join("restored");
    let to_text = to.to_string_lossy().into_owned();
    let output = machine.ask(&["restore", "w", "--no-claim", "--to", &to_text]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(tree(&to), tree(&machine.work()));
}

/// Asks for an evacuation, and kills the agent after `lines` more log lines. False when it ended before.
fn interrupt_and_kill_after(run: &mut Running, lines: usize) -> bool {
    run.signal(Signal::TERM);
    run.wait_for("evacuation");
    for _ in 0..lines {
        if run.next_line().is_none() {
            return false;
        }
    }
    run.kill_agent();
    true
}

/// The evacuation on `machine`, whose agent is dead, is brought to its end by `lifeboat run` or `evacuate`.
fn is_brought_to_its_end(machine: &Machine, with_evacuate: bool, what: &str) {
    let before = record(machine);
    let phase = before["progress"]["phase"].as_str().expect("a record").to_owned();
    if phase == "evacuating" && !with_evacuate {
        let mut again = machine.run(&[], SLOW_TO_STOP);
        again.expect_code(85);
    } else {
        // Over, or not begun: a new run would go on with the work.
        let output =
            machine.ask(&["evacuate", "--name", "w", "--work-dir", &machine.work().to_string_lossy()]);
        assert_eq!(output.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    nothing_is_left_of(machine);
    let after = record(machine);
    assert_eq!(after["progress"]["phase"], "finished", "{what}");
    assert_eq!(after["progress"]["verdict"], "complete", "{what}");
    if phase != "idle" {
        let deadline = |record: &serde_json::Value| record["progress"]["interruption"]["deadline"].clone();
        assert_eq!(deadline(&before), deadline(&after), "{what}: the deadline is the same");
    }
    assert_eq!(fs::read_to_string(machine.work().join("state.json")).expect("kept"), r#"{"done": 3}"#);
    is_stored(machine);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "evacuated", "{what}");
}

fn killed_after_every_line(with_evacuate: bool) {
    let ended = std::sync::atomic::AtomicBool::new(false);
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::SeqCst) {
                    let lines = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert!(lines < LINES_MAX, "the evacuation never ends");
                    let world = World::new();
                    let machine = world.machine("one");
                    let mut run = begin(&machine, &["--grace", "60s"]);
                    if !interrupt_and_kill_after(&mut run, lines) {
                        ended.store(true, std::sync::atomic::Ordering::SeqCst);
                        run.expect_code(85);
                    }
                    is_brought_to_its_end(&machine, with_evacuate, &format!("killed after {lines} lines"));
                }
            });
        }
    });
    assert!(next.into_inner() > 12, "an evacuation has more lines than that");
}

#[test]
fn an_agent_killed_after_any_line_of_the_evacuation_goes_on_within_its_deadline() {
    killed_after_every_line(false);
}

#[test]
fn evacuate_by_hand_goes_on_wherever_the_agent_was_killed() {
    killed_after_every_line(true);
}

#[test]
fn an_agent_killed_at_the_start_of_any_stage_loses_nothing_and_hands_the_work_back() {
    std::thread::scope(|scope| {
        for stage in ["notify", "drain", "snapshot", "save_state", "flush_logs", "hand_back", "clean_up"] {
            scope.spawn(move || {
                let world = World::new();
                let machine = world.machine("one");
                machine
                    .write("large.bin", (0..24_000_000u32).map(|n| n.to_le_bytes()[1]).collect::<Vec<u8>>());
                let mut run = begin(&machine, &["--grace", "60s", "--clean-up"]);
                run.signal(Signal::TERM);
                run.wait_for(&format!("stage started stage={stage}"));
                run.kill_agent();
                let before = record(&machine);
                let mut again = machine.run(&["--clean-up"], SLOW_TO_STOP);
                again.expect_code(85);
                nothing_is_left_of(&machine);
                let after = record(&machine);
                let deadline =
                    |record: &serde_json::Value| record["progress"]["interruption"]["deadline"].clone();
                assert_eq!(deadline(&before), deadline(&after), "{stage}");
                assert_eq!(after["progress"]["verdict"], "complete", "{stage}");
                // Nobody has to wait for a lease: it was handed back, and it is whole.
                let second = world.machine("two");
                let mut run = second
                    .run(&[], "[ \"$(cat last)\" = last ] && [ -s large.bin ] && cat data/b.txt > ../got");
                run.expect_code(0);
                assert_eq!(fs::read_to_string(second.dir.join("got")).expect("written"), "words", "{stage}");
                assert!(!run.log().contains("fell silent"), "{stage}: {}", run.log());
                // And it is gone here, where it was proven to be stored.
                assert!(!machine.work().join("large.bin").exists(), "{stage}");
            });
        }
    });
}

#[test]
fn an_agent_killed_twice_in_one_evacuation_still_ends_it() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = begin(&machine, &["--grace", "60s"]);
    run.signal(Signal::TERM);
    run.wait_for("stage started stage=drain");
    run.kill_agent();
    let mut second = machine.run(&[], SLOW_TO_STOP);
    second.wait_for("stage started stage=snapshot");
    second.kill_agent();
    is_brought_to_its_end(&machine, false, "killed twice");
}

#[test]
fn an_agent_killed_while_the_workload_hangs_kills_it_in_time() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("lease = \"3s\"\n[evacuation.drain]\nmaximum = \"2s\"\n");
    let mut run =
        machine.run(&["--grace", "30s"], "trap '' TERM; echo $$ > ../pid; while :; do sleep 0.1; done");
    eventually("the workload runs", || machine.dir.join("pid").exists());
    run.signal(Signal::TERM);
    run.wait_for("stage started stage=drain");
    run.kill_agent();
    let mut again = machine.run(&[], "exit 1");
    again.expect_code(85);
    nothing_is_left_of(&machine);
    let summary = machine.summary();
    let stages = summary["stages"].as_array().expect("a list");
    let drain = stages.iter().find(|line| line["stage"] == "drain").expect("told of");
    assert_eq!(drain["outcome"], "timed_out", "{summary}");
}

#[test]
fn a_shorter_deadline_shortens_a_resumed_evacuation_too() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("lease = \"3s\"\n[evacuation.drain]\nmaximum = \"400s\"\n");
    let mut run =
        machine.run(&["--grace", "600s"], "trap '' TERM; echo $$ > ../pid; while :; do sleep 0.1; done");
    eventually("the workload runs", || machine.dir.join("pid").exists());
    run.signal(Signal::TERM);
    run.wait_for("stage started stage=drain");
    run.kill_agent();
    // A shorter one is obeyed by the agent that took over.
    let mut again = machine.run(&["--grace", "10s"], "exit 1");
    again.wait_for("stage started stage=drain");
    again.signal(Signal::TERM);
    again.expect_code(85);
    nothing_is_left_of(&machine);
    assert!(machine.summary()["took_ms"].as_u64().expect("a number") < 300_000, "{}", machine.summary());
}

#[test]
fn a_workload_that_goes_on_while_hibernating_is_not_lost_when_the_agent_is_killed() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.write("large.bin", vec![1; 8_000_000]);
    let mut run = machine.run(&[], SLOW_TO_STOP);
    eventually("the workload runs", || machine.work().join("begun").exists());
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Hibernate));
    run.wait_for("stage started stage=snapshot");
    run.kill_agent();
    machine.imds.as_ref().expect("has one").control.withdraw_notice();
    let mut again = machine.run(&[], "[ -s last ] && [ -s large.bin ]");
    again.expect_code(0);
    nothing_is_left_of(&machine);
}

#[test]
fn an_agent_killed_without_a_notice_goes_on_with_its_own_newer_files() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = begin(&machine, &[]);
    run.kill_agent();
    let mut again =
        machine.run(&[], "[ -e begun ] && [ -e last ] && [ \"$LIFEBOAT_RESTORED\" = no ] && exit 7");
    again.expect_code(7);
    nothing_is_left_of(&machine);
    is_stored(&machine);
}

#[test]
fn what_a_killed_agent_never_saved_is_evacuated_by_the_next_one_before_it_begins() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = begin(&machine, &[]);
    run.kill_agent();
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    let mut again = machine.run(&[], "touch ../started");
    again.expect_code(85);
    nothing_is_left_of(&machine);
    assert!(!machine.dir.join("started").exists(), "no work is begun on a machine that is about to go");
    is_stored(&machine);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "evacuated");
}

#[test]
fn another_machine_takes_a_killed_agents_work_over_only_after_the_lease() {
    let world = World::new();
    let first = world.machine("one");
    let mut run = begin(&first, &[]);
    let saved = {
        let output = first.ask(&["evacuate", "--name", "w", "--work-dir", &first.work().to_string_lossy()]);
        assert!(output.status.success());
        run.expect_code(85);
        tree(&first.work())
    };
    // The same machine goes on, and dies with its workload.
    fs::remove_file(first.dir.join("pid")).expect("there");
    let mut run = first.run(&[], SLOW_TO_STOP);
    let mut pid = 0;
    eventually("the workload runs", || {
        let text = fs::read_to_string(first.dir.join("pid")).unwrap_or_default();
        text.trim().parse().is_ok_and(|number| {
            pid = number;
            true
        })
    });
    run.kill_agent();
    kill_process_group(rustix::process::Pid::from_raw(pid).expect("positive"), Signal::KILL)
        .expect("it runs");

    let second = world.machine("two");
    let begun = std::time::Instant::now();
    let mut run = second.run(&[], "sleep 60");
    run.wait_for("another machine holds the work");
    run.wait_for("fell silent");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(3), "not before the lease is over");
    run.wait_for("workload started");
    assert_eq!(tree(&second.work()), saved, "the last recovery point");
}

#[test]
fn an_agent_killed_while_restoring_restores_the_rest_when_it_is_restarted() {
    let world = World::new();
    let first = world.machine("one");
    for n in 0..40u8 {
        first.write(&format!("data/{n}.bin"), vec![n; 500_000]);
    }
    let mut run = first.run(&[], "exit 3");
    run.expect_code(3);
    let saved = tree(&first.work());
    let second = world.machine("two");
    let mut run = second.run(&[], "touch ../started");
    run.wait_for("restoring it");
    let some = || fs::read_dir(second.work()).expect("listed").count() > 0;
    eventually("something is there", some);
    run.kill_agent();
    assert!(!second.dir.join("started").exists());
    let mut again = second.run(&[], "touch ../started; exit 3");
    again.expect_code(3);
    assert!(second.dir.join("started").exists());
    assert_eq!(tree(&second.work()), saved);
}

#[test]
fn an_agent_killed_between_its_claim_and_the_restore_does_not_take_stale_files_for_the_newest() {
    let world = World::new();
    let first = world.machine("one");
    let count = "echo $(($(cat n 2>/dev/null || echo 0) + 1)) > n; exit 3";
    first.run(&[], count).expect_code(3);
    let second = world.machine("two");
    second.run(&[], count).expect_code(3);
    // The first machine comes back, claims, and is killed wherever that line is written.
    let mut run = first.run(&[], count);
    run.wait_for("workload claimed");
    run.kill_agent();
    let mut run = first.run(&[], "[ $(cat n) -ge 2 ] && exit 4");
    run.expect_code(4);
}

#[test]
fn one_evacuation_is_one_release_however_often_the_agent_was_killed_after_it() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = begin(&machine, &["--grace", "60s"]);
    run.signal(Signal::TERM);
    run.wait_for("stage ended stage=hand_back");
    run.kill_agent();
    let journal = || -> Vec<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(machine.store.join("w/journal"))
            .expect("listed")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        paths.sort();
        paths
    };
    let before = journal();
    let output = machine.ask(&["evacuate", "--name", "w", "--work-dir", &machine.work().to_string_lossy()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(journal(), before, "it was handed back once");
}

/// Random bytes, which no compression makes fewer.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(length)
    .collect()
}

/// How much of a large file lies in a folder below `target` under another name, in bytes on disk.
fn half_restored(target: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = |dir: &std::path::Path| fs::read_dir(dir).into_iter().flatten().flatten();
    entries(target)
        .flat_map(|folder| entries(&folder.path()).collect::<Vec<_>>())
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "large"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}

#[test]
fn a_restore_by_hand_that_is_killed_within_a_large_file_goes_on_when_it_is_repeated() {
    /// The restore may be over before it is seen to have begun.
    const TRIES: usize = 20;
    let world = World::new();
    let machine = world.machine("one");
    machine.write("large", noise(96 << 20));
    machine.write("small", "small");
    let mut run = machine.run(&["--grace", "120s"], "exit 3");
    run.expect_code(3);
    for number in 0..TRIES {
        let to = machine.dir.join(format!("restored {number}"));
        let target = to.to_string_lossy().into_owned();
        let store = machine.store.to_string_lossy().into_owned();
        let args = ["restore", "w", "--no-claim", "--to", &target, "--store", &store];
        let mut restoring = Running::start(&mut machine.lifeboat(&args));
        eventually("some of it is there", || half_restored(&to) > 0 || to.join("large").exists());
        restoring.kill_agent();
        let was_half = half_restored(&to) > 0 && !to.join("large").exists();
        let output = machine.ask(&["restore", "w", "--no-claim", "--to", &target]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(tree(&to), tree(&machine.work()));
        fs::remove_dir_all(&to).expect("removed");
        if was_half {
            return;
        }
    }
    panic!("never killed in the middle");
}

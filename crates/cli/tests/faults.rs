//! What fails around an evacuation: disks, stores, files. It goes on with what works, retries while there is time,
//! names what could not be saved, leaves it on disk, and says so with its exit code.

mod harness;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Machine, Running, World, eventually, is_alive, tree};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::Signal;

/// Runs until it is told to stop.
const RUNS: &str = "trap 'exit 0' TERM; echo $$ > ../pid; echo begun > begun; while :; do sleep 0.05; done";

fn running(machine: &Machine, options: &[&str]) -> Running {
    let run = machine.run(options, RUNS);
    begun(machine);
    run
}

fn begun(machine: &Machine) {
    eventually("the workload runs", || machine.work().join("begun").exists());
}

fn stop_with(run: &mut Running, code: i32) {
    run.signal(Signal::TERM);
    run.expect_code(code);
}

/// How a stage ended, and what it said of itself.
fn stage(machine: &Machine, stage: &str) -> (String, String) {
    let summary = machine.summary();
    let lines = summary["stages"].as_array().expect("a list");
    let line = lines.iter().find(|line| line["stage"] == stage).expect("every stage is told of");
    let text = |key: &str| line[key].as_str().expect("text").to_owned();
    (text("outcome"), text("detail"))
}

/// Puts a file where the store was, so that everything in it fails.
fn break_store(machine: &Machine) -> PathBuf {
    let away = machine.store.with_extension("away");
    fs::rename(&machine.store, &away).expect("moved");
    fs::write(&machine.store, "in the way").expect("written");
    away
}

fn mend_store(machine: &Machine, away: &Path) {
    fs::remove_file(&machine.store).expect("removed");
    fs::rename(away, &machine.store).expect("moved back");
}

/// The same command with a small file system of its own at `dir`; `None` where this user may not mount.
fn with_small_disk(command: &Command, dir: &Path, size: &str) -> Option<Command> {
    let unshare = || {
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.arg("--map-root-user");
        }
        unshare.arg("--mount").arg("--");
        unshare
    };
    fs::create_dir_all(dir).expect("created");
    let mount = format!("mount -t tmpfs -o size={size} tmpfs \"$0\"");
    let may = unshare().args(["/bin/sh", "-c", &mount]).arg(dir).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return None; // nothing to be tested here: no mount namespaces for this user
    }
    let mut wrapped = unshare();
    wrapped.args(["/bin/sh", "-c", &format!("{mount} && exec \"$@\"")]).arg(dir);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped.current_dir(command.get_current_dir().expect("given")).stdin(std::process::Stdio::null());
    Some(wrapped)
}

#[test]
fn an_unreadable_record_does_not_keep_a_run_from_going_on() {
    for damage in ["garbage", "{\"format\":1}", "", "directory"] {
        let world = World::new();
        let machine = world.machine("one");
        stop_with(&mut running(&machine, &[]), 85);
        let record = machine.agent("w").join("record.json");
        fs::remove_file(&record).expect("there");
        if damage == "directory" {
            fs::create_dir(&record).expect("created");
        } else {
            fs::write(&record, damage).expect("written");
        }
        machine.write("newer", "newer");
        let mut run = machine.run(&[], &format!("[ -e newer ] || exit 9; touch again; {RUNS}"));
        eventually("it goes on", || machine.work().join("again").exists());
        stop_with(&mut run, 85);
        assert!(run.log().contains("record is unreadable"), "{damage}: {}", run.log());
        world.machine("two").run(&[], "[ -e newer ] && [ -e again ]").expect_code(0);
    }
}

#[test]
fn a_state_directory_that_vanishes_in_the_middle_does_not_stop_an_evacuation() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = running(&machine, &[]);
    // The agent may just be replacing a file in it.
    eventually("the directory is gone", || fs::remove_dir_all(machine.dir.join("state")).is_ok());
    stop_with(&mut run, 85);
    assert!(run.log().contains("cannot keep the agent's record"), "{}", run.log());
    world.machine("two").run(&[], "[ -e begun ]").expect_code(0);
}

#[test]
fn a_full_local_disk_does_not_stop_an_evacuation() {
    let world = World::new();
    let machine = world.machine("one");
    let state = machine.dir.join("state");
    let script = format!("cat /dev/zero > {}/full 2>/dev/null; touch ../full; {RUNS}", state.display());
    let command = machine.run_command("w", &[], &["/bin/sh", "-c", &script]);
    let Some(mut command) = with_small_disk(&command, &state, "256k") else { return };
    let mut run = Running::start(&mut command);
    eventually("the disk is full", || machine.dir.join("full").exists());
    begun(&machine);
    stop_with(&mut run, 85);
    assert!(run.log().contains("cannot keep the agent's record"), "{}", run.log());
    world.machine("two").run(&[], "[ -e begun ]").expect_code(0);
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        // Source: xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_full_store_keeps_what_fits_and_the_rest_is_named_and_stays_on_disk() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("small", "small");
    machine.write("large", noise(6_000_000));
    let command = machine.run_command("w", &["--grace", "60s"], &["/bin/sh", "-c", RUNS]);
    let Some(mut command) = with_small_disk(&command, &machine.store, "2m") else { return };
    let mut run = Running::start(&mut command);
    begun(&machine);
    let asked = Instant::now();
    stop_with(&mut run, 86);
    assert!(asked.elapsed() < Duration::from_secs(60), "within its time");
    let summary = machine.summary();
    assert_eq!(summary["snapshot"]["lost_count"], 1, "{summary}");
    assert!(summary["snapshot"]["lost"][0].as_str().expect("text").starts_with("large: "), "{summary}");
    assert_eq!(summary["snapshot"]["files"], 2, "{summary}");
    assert_eq!(fs::metadata(machine.work().join("large")).expect("kept").len(), 6_000_000);
    assert!(run.log().contains("not saved: large"), "{}", run.log());
}

#[test]
fn a_store_that_cannot_be_had_at_the_start_is_an_error_and_nothing_is_started() {
    let world = World::new();
    let machine = world.machine("one");
    fs::write(&machine.store, "in the way").expect("written");
    let mut run = machine.run(&[], "touch ../started");
    run.expect_code(125);
    assert!(run.log().contains("store"), "{}", run.log());
    assert!(!machine.dir.join("started").exists());
}

#[test]
fn a_store_that_is_lost_in_the_middle_costs_the_evacuation_and_not_the_files() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("file", "kept");
    let mut run = running(&machine, &["--grace", "4s"]);
    let pid = fs::read_to_string(machine.dir.join("pid")).expect("written");
    let away = break_store(&machine);
    let before = tree(&machine.work());
    let asked = Instant::now();
    stop_with(&mut run, 86);
    assert!(asked.elapsed() < Duration::from_secs(40), "within its time: {:?}", asked.elapsed());
    assert!(!is_alive(&pid), "the workload is stopped all the same");
    assert_eq!(tree(&machine.work()), before, "everything is still on disk");
    assert!(run.log().contains(&machine.work().display().to_string()), "says where it is: {}", run.log());
    // The store is back: this machine goes on with what it kept.
    mend_store(&machine, &away);
    machine.run(&[], "[ -e file ] && exit 3").expect_code(3);
    world.machine("two").run(&[], "[ -e file ] && [ -e begun ]").expect_code(0);
}

#[test]
fn what_could_not_be_stored_is_tried_again_by_a_restarted_run_while_the_machine_lasts() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.write("file", "kept");
    let mut run = running(&machine, &["--grace", "3s"]);
    let away = break_store(&machine);
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.wait_for("stage started stage=drain");
    run.signal(Signal::TERM); // less time
    run.expect_code(86);
    mend_store(&machine, &away);
    let mut again = machine.run(&[], "touch ../started");
    again.expect_code(85);
    assert!(!machine.dir.join("started").exists());
    world.machine("two").run(&[], "[ -e file ] && [ -e begun ]").expect_code(0);
}

#[test]
fn work_that_is_finished_while_the_store_is_gone_is_marked_done_when_it_comes_back() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine.run(&[], "touch begun; until [ -e ../go ]; do sleep 0.02; done");
    begun(&machine);
    let away = break_store(&machine);
    fs::write(machine.dir.join("go"), "").expect("written");
    run.wait_for("the store keeps failing; trying again");
    mend_store(&machine, &away);
    run.expect_code(0);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "done");
}

#[test]
fn a_store_that_comes_back_while_there_is_time_gets_everything() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("file", "kept");
    let mut run = running(&machine, &["--grace", "60s"]);
    let away = break_store(&machine);
    run.signal(Signal::TERM);
    run.wait_for("stage started stage=snapshot");
    run.wait_for("the store keeps failing; trying again");
    mend_store(&machine, &away);
    run.expect_code(85);
    world.machine("two").run(&[], "[ -e file ] && [ -e begun ]").expect_code(0);
}

#[test]
fn a_store_that_hangs_ends_the_evacuation_within_its_time() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("file", "kept");
    let mut run = running(&machine, &["--grace", "4s"]);
    let pipe = machine.store.join("w/journal/00000000000000000002.json");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    let asked = Instant::now();
    stop_with(&mut run, 86);
    assert!(asked.elapsed() < Duration::from_secs(40), "within its time: {:?}", asked.elapsed());
    assert_eq!(machine.read("file"), "kept");
    let (outcome, detail) = stage(&machine, "snapshot");
    assert!(outcome == "timed_out" || outcome == "failed", "{outcome} {detail}");
    fs::remove_file(pipe).expect("there");
    machine.run(&[], "[ -e file ] && exit 3").expect_code(3);
}

#[test]
fn an_agent_that_is_restarted_while_the_store_is_gone_still_stops_the_workload_in_time() {
    let world = World::new();
    let machine = world.machine("one");
    let slow = "trap 'sleep 0.5; exit 0' TERM; echo $$ > ../pid; touch begun; while :; do sleep 0.05; done";
    let mut run = machine.run(&["--grace", "12s"], slow);
    begun(&machine);
    run.signal(Signal::TERM);
    run.wait_for("stage started stage=drain");
    run.kill_agent();
    let pid = fs::read_to_string(machine.dir.join("pid")).expect("written");
    // Readable, so that the agent can begin; nothing can be listed or written.
    let journal = machine.store.join("w");
    let away = machine.store.join("away");
    fs::rename(&journal, &away).expect("moved");
    fs::write(&journal, "in the way").expect("written");
    let mut again = machine.run(&[], "touch ../started");
    again.expect_code(86);
    assert!(!is_alive(&pid));
    assert!(!machine.dir.join("started").exists());
    assert!(again.log().contains("the store keeps failing"), "{}", again.log());
}

#[test]
fn names_and_links_of_every_kind_survive_the_journey() {
    let world = World::new();
    let (first, second) = (world.machine("one"), world.machine("two"));
    let work = first.work();
    fs::write(world.path().join("outside"), "not ours").expect("written");
    for name in [&b"line\nbreak"[..], b"\xff\xfe no UTF-8", b" spaces ", b"-rf", b"quote'\"\\", &[b'n'; 255]]
    {
        fs::write(work.join(OsStr::from_bytes(name)), name).expect("written");
    }
    let mut deep = work.clone();
    for _ in 0..8 {
        deep.push("d".repeat(200));
    }
    fs::create_dir_all(&deep).expect("created");
    fs::write(deep.join("bottom"), "deep").expect("written");
    first.write("empty", "");
    fs::create_dir(work.join("empty folder")).expect("created");
    let sparse = fs::File::create(work.join("sparse")).expect("created");
    sparse.set_len(30_000_000).expect("set");
    for (target, link) in [
        ("../../outside", "out"),
        ("/etc/passwd", "absolute"),
        ("nowhere", "dangling"),
        (".", "self"),
        ("loop", "loop"),
    ] {
        symlink(target, work.join(link)).expect("linked");
    }
    fs::set_permissions(work.join("empty"), fs::Permissions::from_mode(0o4751)).expect("set");
    let before = tree(&work);
    std::os::unix::net::UnixListener::bind(work.join("a.socket")).expect("bound");
    let fifo = |path: &Path| {
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("made");
    };
    fifo(&work.join("a pipe"));
    let mut run = first.run(&[], "exit 3");
    run.expect_code(3);
    assert_eq!(first.summary()["snapshot"]["passed_over"], 2);
    second.run(&[], "exit 3").expect_code(3);
    assert_eq!(tree(&second.work()), before);
    assert!(fs::metadata(second.work().join("sparse")).expect("there").blocks() < 1000, "holes stay holes");
    // The first machine's socket and pipe do not keep it from going on.
    first.run(&[], "exit 4").expect_code(4);
}

#[test]
fn files_that_change_while_they_are_read_cost_at_most_themselves() {
    let world = World::new();
    let machine = world.spot_machine("one");
    for n in 0..200 {
        machine.write(&format!("still/{n}"), format!("{n}"));
    }
    machine.write("grows", vec![0; 4_000_000]);
    let churns = "
        trap 'exit 0' TERM
        touch begun
        n=0; while :; do n=$((n+1)); echo $n > churn.$n; rm -f churn.$((n-3)); echo $n >> grows; done";
    let mut run = machine.run(&[], churns);
    begun(&machine);
    let control = &machine.imds.as_ref().expect("has one").control;
    // It goes on while it is saved.
    control.notice(NoticePlan::now(Action::Hibernate));
    run.wait_for("the workload goes on");
    let summary = machine.summary();
    assert_eq!(summary["interruption"]["action"], "hibernate");
    for lost in summary["snapshot"]["lost"].as_array().expect("a list") {
        let lost = lost.as_str().expect("text");
        assert!(lost.starts_with("grows: ") || lost.starts_with("churn."), "{lost}");
    }
    assert!(summary["snapshot"]["files"].as_u64().expect("a number") >= 201, "{summary}");
    // It stopped and stands still: now everything is saved.
    control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
    let second = world.machine("two");
    second.run(&[], "exit 3").expect_code(3);
    assert_eq!(tree(&second.work()), tree(&machine.work()));
}

#[test]
fn a_file_without_permission_is_named_and_the_rest_is_saved() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("open", "open");
    machine.write("closed", "closed");
    machine.write("folder/inside", "inside");
    let command = machine.run_command("w", &[], &["/bin/sh", "-c", "exit 3"]);
    // Root may read everything.
    let mut command = if rustix::process::geteuid().is_root() {
        let binary = world.path().join("lifeboat");
        fs::copy(command.get_program(), &binary).expect("copied");
        let mut as_nobody = Command::new(&binary);
        as_nobody.args(command.get_args()).current_dir(machine.work());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => as_nobody.env(key, value),
                None => as_nobody.env_remove(key),
            };
        }
        let given = Command::new("chown").args(["-R", "65534:65534"]).arg(world.path()).status();
        assert!(given.expect("chown").success());
        as_nobody.uid(65534).gid(65534);
        as_nobody
    } else {
        command
    };
    fs::set_permissions(machine.work().join("closed"), fs::Permissions::from_mode(0o000)).expect("set");
    fs::set_permissions(machine.work().join("folder"), fs::Permissions::from_mode(0o000)).expect("set");
    let mut run = Running::start(&mut command);
    run.expect_code(3);
    let summary = machine.summary();
    fs::set_permissions(machine.work().join("folder"), fs::Permissions::from_mode(0o700)).expect("set");
    assert_eq!(summary["verdict"], "incomplete");
    assert_eq!(summary["snapshot"]["lost_count"], 2, "{summary}");
    assert!(run.log().contains("not saved: closed: "), "{}", run.log());
    assert!(run.log().contains("not saved: folder: "), "{}", run.log());
    world
        .machine("two")
        .run(&[], "[ -e open ] && [ ! -e closed ] && [ \"$LIFEBOAT_RESTORED\" = partly ]")
        .expect_code(0);
}

#[test]
fn a_state_file_of_any_kind_is_saved_or_named_and_never_stops_the_rest() {
    type Make = fn(&Machine);
    let cases: [(&str, Make, i32, &str, &str); 6] = [
        ("missing", |_| {}, 85, "nothing", "there is no state.json"),
        ("invalid", |machine| machine.write("state.json", b"\xff{"), 85, "done", "not valid JSON"),
        ("huge", |machine| machine.write("state.json", vec![b' '; 17 << 20]), 86, "failed", "more than"),
        (
            "a link to outside",
            |machine| {
                fs::write(machine.dir.join("secret"), "secret").expect("written");
                symlink("../secret", machine.work().join("state.json")).expect("linked");
            },
            86,
            "failed",
            "state.json",
        ),
        (
            "a pipe",
            |machine| {
                let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
                let path = machine.work().join("state.json");
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).expect("made");
            },
            86,
            "failed",
            "no regular file",
        ),
        (
            "a folder",
            |machine| fs::create_dir(machine.work().join("state.json")).expect("made"),
            86,
            "failed",
            "",
        ),
    ];
    std::thread::scope(|scope| {
        for (what, make, code, outcome, said) in cases {
            scope.spawn(move || {
                let world = World::new();
                let machine = world.machine("one");
                make(&machine);
                stop_with(&mut running(&machine, &[]), code);
                let (ended, detail) = stage(&machine, "save_state");
                assert_eq!(ended, outcome, "{what}: {detail}");
                assert!(detail.contains(said), "{what}: {detail}");
                assert_eq!(stage(&machine, "snapshot").0, "done", "{what}: {}", machine.summary());
                assert_eq!(stage(&machine, "hand_back").0, "done", "{what}");
                assert!(!stored_anywhere(&machine.store, b"secret"), "{what}");
            });
        }
    });
}

/// Whether some file of the store contains these bytes.
fn stored_anywhere(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).expect("listed").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return stored_anywhere(&path, bytes);
        }
        fs::read(&path).expect("read").windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn the_saved_state_reaches_the_next_workload_with_the_interruption_added() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("state.json", r#"{"done": 3}"#);
    stop_with(&mut running(&machine, &[]), 85);
    let second = world.machine("two");
    second
        .run(&[], "cp \"$LIFEBOAT_SAVED_STATE\" ../saved; cp \"$LIFEBOAT_STATE_FILE\" ../plain")
        .expect_code(0);
    let saved: serde_json::Value =
        serde_json::from_slice(&fs::read(second.dir.join("saved")).expect("copied")).expect("JSON");
    assert_eq!(saved["done"], 3);
    assert_eq!(saved["interruption"]["announced_by"][0], "sigterm");
    assert_eq!(fs::read_to_string(second.dir.join("plain")).expect("copied"), r#"{"done": 3}"#, "as it was");
}

#[test]
fn a_signal_file_that_cannot_be_written_does_not_stop_an_evacuation() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("lease = \"3s\"\nsignal_file = \"/proc/self/nowhere/shutdown.signal\"\n");
    stop_with(&mut running(&machine, &[]), 85);
    assert_eq!(stage(&machine, "notify").0, "failed");
}

#[test]
fn the_workload_sees_the_signal_file_at_the_notice_and_not_before() {
    let world = World::new();
    let machine = world.machine("one");
    let script = "[ ! -e \"$LIFEBOAT_SIGNAL_FILE\" ] || exit 9
        trap '' TERM; touch begun
        until [ -e \"$LIFEBOAT_SIGNAL_FILE\" ]; do sleep 0.02; done; cp \"$LIFEBOAT_SIGNAL_FILE\" seen";
    for _ in 0..2 {
        let mut run = machine.run(&[], script);
        begun(&machine);
        stop_with(&mut run, 85);
        let seen: serde_json::Value = serde_json::from_str(&machine.read("seen")).expect("JSON");
        assert_eq!(seen["action"], "terminate");
        fs::remove_file(machine.work().join("begun")).expect("there");
    }
}

#[test]
fn log_files_of_any_kind_are_saved_or_named_and_never_stop_the_rest() {
    let world = World::new();
    let machine = world.machine("one");
    machine
        .configure("lease = \"3s\"\nlog_lines = 2\nlog_files = [\"app.log\", \"none.log\", \"huge.log\"]\n");
    machine.write("app.log", "one\ntwo\nthree\n");
    machine.write(
        "huge.log",
        (0..2_000_000u32).map(|n| if n % 80 == 0 { b'\n' } else { b'x' }).collect::<Vec<_>>(),
    );
    stop_with(&mut running(&machine, &[]), 85);
    let (outcome, detail) = stage(&machine, "flush_logs");
    assert_eq!(outcome, "done", "a log that was never written is no loss: {detail}");
    assert!(detail.contains("none.log"), "{detail}");
    assert!(stored_anywhere(&machine.store, b"==> app.log <==\ntwo\nthree\n"));

    let machine = world.machine("three");
    machine.configure("lease = \"3s\"\nname = \"x\"\nlog_files = [\"link.log\"]\n");
    fs::write(machine.dir.join("secret"), "secret").expect("written");
    symlink("../secret", machine.work().join("link.log")).expect("linked");
    let mut run = machine.run_named("x", &[], &["/bin/sh", "-c", RUNS]);
    begun(&machine);
    stop_with(&mut run, 86);
    assert!(run.log().contains("link.log"), "named: {}", run.log());
    assert!(!stored_anywhere(&machine.store, b"secret"), "links are not followed");
}

#[test]
fn a_deadline_too_short_for_everything_stores_what_is_complete_and_names_the_rest() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("small", "small");
    let huge = fs::File::create(machine.work().join("huge")).expect("created");
    huge.set_len(1 << 40).expect("sparse");
    let mut run = running(&machine, &["--grace", "15s"]);
    let asked = Instant::now();
    stop_with(&mut run, 86);
    assert!(asked.elapsed() < Duration::from_secs(50), "{:?}", asked.elapsed());
    let summary = machine.summary();
    assert_eq!(summary["snapshot"]["files"], 2, "{summary}");
    assert_eq!(summary["snapshot"]["lost"][0], "huge: out of time", "{summary}");
    assert_eq!(stage(&machine, "hand_back").0, "done");
    assert_eq!(fs::metadata(machine.work().join("huge")).expect("kept").len(), 1 << 40);
    world
        .machine("two")
        .run(&[], "[ \"$(cat small)\" = small ] && [ \"$LIFEBOAT_RESTORED\" = partly ]")
        .expect_code(0);
}

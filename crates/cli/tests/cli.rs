//! The command line of the real binary: what it refuses, what it prints, what it leaves alone.

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::{Machine, World, eventually, tree};
use rustix::process::Signal;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn expect(output: &Output, code: i32, texts: &[&str]) {
    let said = format!("{}{}", stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "{said}");
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in:\n{said}");
    }
}

/// Evacuated work `w` with two text files and a folder.
fn with_evacuated_work(world: &World) -> Machine {
    let machine = world.machine("one");
    machine.write("a.txt", "alpha");
    machine.write("folder/b.txt", "beta");
    machine.write("folder/c.bin", [7u8; 40_000]);
    machine.run(&[], "exit 1").expect_code(1);
    machine
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_wrong_configuration_is_refused_with_its_reason_and_nothing_is_run() {
    let world = World::new();
    let machine = world.machine("one");
    for (text, reason) in [
        ("clean_upp = true", "unknown field `clean_upp`"),
        ("[evacuation]\ngrace = 5", "a duration in quotes with its unit"),
        ("[evacuation]\ngrace = \"soon\"", "`soon` is no duration"),
        ("[metadata]\ninterval = \"1ms\"", "`metadata.interval` must lie between"),
        ("[command]\nstop_signal = \"SIGKILL\"", "`SIGKILL` cannot ask a process to stop"),
        ("keep = 0", "`keep` must be at least 1"),
        ("not toml at all", "line 1"),
    ] {
        machine.configure(text);
        let file = machine.dir.join("lifeboat.toml");
        let checked = machine.lifeboat(&["config", "check", path(&file)]).output().expect("started");
        expect(&checked, 125, &[reason, "lifeboat.toml"]);
        let mut run = machine.run(&[], "echo x > ran");
        run.expect_code(125);
        assert!(run.log().contains(reason), "{}", run.log());
    }
    for unreadable in ["no-such-file.toml", "/"] {
        let checked = machine.lifeboat(&["config", "check", unreadable]).output().expect("started");
        expect(&checked, 125, &["cannot read the configuration file", "because:"]);
    }
    assert!(!machine.work().join("ran").exists());
    assert!(!machine.store.exists());
}

#[test]
fn what_a_run_would_refuse_is_not_called_valid() {
    let world = World::new();
    let machine = world.machine("one");
    for (text, reason) in [
        ("state = \"mysql://x\"", "dynamodb://TABLE"),
        ("store = \"ftp://x\"", "ftp:// are not supported"),
        ("name = \"a/b\"", "cannot name a workload"),
        ("[alerts]\nstart = \"{worklaod}\"", "{worklaod}"),
        ("[metadata]\nendpoint = \"file:///x\"", "does not begin with http://"),
        ("[queue]\nurl = \"nonsense\"", "queue.url"),
    ] {
        machine.configure(text);
        let file = machine.dir.join("lifeboat.toml");
        for command in [&["config", "check"][..], &["policy"]] {
            let output = machine.lifeboat(&[command, &[path(&file)]].concat()).output().expect("started");
            expect(&output, 125, &[reason]);
        }
        let mut run = machine.lifeboat(&["run", "--config", path(&file), "--", "touch", "ran"]);
        expect(&run.output().expect("started"), 125, &[reason]);
    }
    // Where a webhook's address was written in place of its variable's name it is not repeated.
    for key in ["webhook", "webhook_env"] {
        machine.configure(&format!("[alerts]\n{key} = \"https://hooks.example/SECRET\""));
        let file = machine.dir.join("lifeboat.toml");
        for command in [&["config", "check"][..], &["doctor", "--config"], &["policy"]] {
            let output = machine.lifeboat(&[command, &[path(&file)]].concat()).output().expect("started");
            expect(&output, 125, &["webhook_env"]);
            assert!(!(stderr(&output) + &stdout(&output)).contains("SECRET"), "{}", stderr(&output));
        }
    }
    // A pipe is read once, and what does not end is no file.
    let mut check = machine.lifeboat(&["config", "check", "/dev/stdin"]);
    let mut child =
        check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    child.stdin.take().expect("piped").write_all(b"nonsense = 1\n").expect("written");
    expect(&child.wait_with_output().expect("ended"), 125, &["unknown field `nonsense`"]);
    for command in [&["policy"][..], &["config", "check"], &["doctor", "--config"]] {
        let endless = machine.lifeboat(&[command, &["/dev/zero"]].concat()).output().expect("started");
        expect(&endless, 125, &["no configuration"]);
    }
    let endless = machine.lifeboat(&["doctor", "--from", "/dev/zero"]).output().expect("started");
    expect(&endless, 125, &["cannot use /dev/zero", "bytes"]);
    // A place is named.
    machine.write("file", "");
    let output = machine.lifeboat(&["run", "--work-dir", "file", "--", "true"]).output().expect("started");
    expect(&output, 125, &["cannot use the work directory file", "not a directory"]);
    let output = machine.lifeboat(&["list", "--store", "file"]).output().expect("started");
    expect(&output, 125, &["cannot open the store file:///"]);
}

#[test]
fn a_right_configuration_is_printed_with_what_is_in_force() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("keep = 7\n[evacuation.drain]\nmaximum = \"3s\"\n");
    let file = machine.dir.join("lifeboat.toml");
    let text = machine.lifeboat(&["config", "check", path(&file)]).output().expect("started");
    expect(&text, 0, &["is valid", "clean-up off", "drain"]);
    let json = machine.lifeboat(&["config", "check", path(&file), "--json"]).output().expect("started");
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(value["keep"], 7);
    assert_eq!(value["interval_ms"], 2_000);
    assert_eq!(value["budgets"]["drain"]["maximum_ms"], 3_000);
    assert_eq!(value["written"]["keep"], 7);
}

#[test]
fn a_command_line_that_is_not_understood_gives_125_and_help_gives_0() {
    let world = World::new();
    let machine = world.machine("one");
    for args in [
        &["frobnicate"][..],
        &["run"],
        &["run", "--"],
        &["run", "true"],
        &["run", "--grace", "5 parsecs", "--", "true"],
        &["run", "--stop-signal", "SIGKILL", "--", "true"],
        &["restore", "w"],
        &["list", "-q", "-v"],
        &["demo", "--files", "1"],
    ] {
        let output = machine.lifeboat(args).output().expect("started");
        expect(&output, 125, &["--help"]);
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["help", "restore"], &["--version"]] {
        let output = machine.lifeboat(args).output().expect("started");
        expect(&output, 0, &["lifeboat"]);
        assert!(output.stderr.is_empty(), "{args:?}");
    }
    let all = stdout(&machine.lifeboat(&["--help"]).output().expect("started"));
    for code in ["85", "86", "87", "88", "125", "126", "127", "128+n"] {
        assert!(all.contains(code), "exit code {code} is documented");
    }
    assert!(!all.contains("index-worker"), "the demo's worker is nobody's business");
}

#[test]
fn names_that_could_not_be_a_folder_are_refused_once_and_say_what_is_allowed() {
    let world = World::new();
    let machine = world.machine("one");
    let long = "x".repeat(65);
    for name in ["a/b", "", "..", "-x", "ä", "a b", &long] {
        let name = format!("--name={name}");
        let output = machine.lifeboat(&["run", &name, "--", "true"]).output().expect("started");
        expect(&output, 125, &["--name", "letters, digits, dots"]);
        assert_eq!(stderr(&output).matches("cannot name a workload").count(), 1, "{}", stderr(&output));
    }
    expect(&machine.ask(&["show", "../x"]), 125, &["cannot name a workload"]);
    expect(&machine.ask(&["evacuate"]), 125, &["--name"]);
}

#[test]
fn a_run_without_a_name_is_named_after_its_command() {
    let world = World::new();
    let machine = world.machine("one");
    let output = machine
        .lifeboat(&["run", "--store", path(&machine.store), "--", "/bin/sh", "-c", "exit 0"])
        .output()
        .expect("started");
    expect(&output, 0, &[]);
    assert_eq!(machine.ask_json(&["list"])[0]["name"], "sh");
}

#[test]
fn asking_an_empty_store_says_so_and_creates_nothing() {
    let world = World::new();
    let machine = world.machine("one");
    let before = tree(world.path());
    expect(&machine.ask(&["list"]), 0, &["nothing is stored in file:///"]);
    expect(&machine.ask(&["prune"]), 0, &["nothing is stored in file:///"]);
    assert_eq!(machine.ask_json(&["list"]), serde_json::json!([]));
    assert_eq!(machine.ask_json(&["prune", "--dry-run"]), serde_json::json!([]));
    for args in [&["show", "w"][..], &["verify", "w"], &["restore", "w", "--to", "there"], &["prune", "w"]] {
        expect(&machine.ask(args), 125, &["there is no workload `w` in file:///"]);
        let json = machine.ask(&[args, &["--json"]].concat());
        assert_eq!(json.status.code(), Some(125));
        assert!(json.stdout.is_empty());
        let error: serde_json::Value = serde_json::from_slice(&json.stderr).expect("JSON on standard error");
        assert!(error["error"].as_str().expect("text").contains("no workload"), "{error}");
    }
    assert_eq!(tree(world.path()), before);
    fs::create_dir(&machine.store).expect("created");
    expect(&machine.ask(&["list"]), 0, &["nothing is stored in"]);
    expect(&machine.ask(&["show", "w"]), 125, &["there is no workload `w`"]);
}

#[test]
fn what_is_stored_is_listed_shown_and_verified() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    expect(&machine.ask(&["list"]), 0, &["NAME", "w ", "evacuated"]);
    expect(
        &machine.ask(&["show", "w", "--files"]),
        0,
        &["w: evacuated", "GENERATION", "a.txt", "folder/b.txt", "final logs"],
    );
    expect(&machine.ask(&["verify", "w"]), 0, &["sound, 3 files"]);
    let shown = machine.ask_json(&["show", "w", "--files"]);
    assert_eq!(shown["files"].as_array().expect("a list").len(), 3);
    assert_eq!(shown["left_out"], serde_json::json!([]));
    assert_eq!(machine.ask_json(&["verify", "w"])["damaged"], serde_json::json!([]));
    expect(&machine.ask(&["verify", "w", "--generation", "99"]), 125, &["no recovery point 99"]);
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("keep = 10\n");
    for round in ["1", "2", "3"] {
        machine.write("file", round.repeat(5_000));
        machine.run(&[], "exit 1").expect_code(1);
    }
    let before = tree(world.path());
    let plan = machine.ask_json(&["prune", "w", "--keep", "1", "--dry-run"]);
    assert_eq!(plan[0]["forgotten"].as_array().expect("a list").len(), 2, "{plan}");
    let planned = plan[0]["objects"].as_array().expect("a list").len();
    assert!(planned > 0);
    expect(&machine.ask(&["prune", "--keep", "1", "--dry-run"]), 0, &["w: would delete", "recovery points"]);
    let target = world.path().join("target");
    expect(
        &machine.ask(&["restore", "w", "--to", path(&target), "--dry-run"]),
        0,
        &["would restore 1 files", "file (4.8 KiB)"],
    );
    let plan = machine.ask_json(&["restore", "w", "--to", path(&target), "--dry-run"]);
    assert_eq!(plan["would_restore"].as_array().expect("a list").len(), 1);
    assert_eq!(tree(world.path()), before);

    let pruned = machine.ask_json(&["prune", "w", "--keep", "1"]);
    assert_eq!(pruned[0]["objects"].as_array().expect("a list").len(), planned, "it does what was planned");
    assert!(tree(&machine.store).len() < before.len());
    expect(&machine.ask(&["verify", "w"]), 0, &["sound"]);
    assert_eq!(machine.ask_json(&["show", "w"])["recovery_points"].as_array().expect("a list").len(), 1);
    expect(&machine.ask(&["prune", "--keep", "0"]), 125, &["the newest recovery point is never deleted"]);
}

#[test]
fn restoring_gives_the_files_back_and_twice_is_once() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    let target = world.path().join("target");
    let restored = machine.ask_json(&["restore", "w", "--to", path(&target)]);
    assert_eq!((&restored["files"], &restored["already_there"]), (&3.into(), &0.into()));
    assert_eq!(tree(&target), tree(&machine.work()));
    let again = machine.ask_json(&["restore", "w", "--to", path(&target)]);
    assert_eq!((&again["files"], &again["already_there"]), (&0.into(), &3.into()));
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "evacuated", "given back");
    world.machine("two").run(&[], "[ -e a.txt ]").expect_code(0);
}

#[test]
fn restoring_into_a_directory_with_other_files_is_refused_and_touches_nothing() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    let target = world.path().join("target");
    for (name, content) in [("a.txt", "newer"), ("mine.txt", "mine")] {
        fs::create_dir_all(&target).expect("created");
        fs::write(target.join(name), content).expect("written");
        let before = tree(&target);
        expect(
            &machine.ask(&["restore", "w", "--to", path(&target)]),
            88,
            &[name, "not those of the recovery point"],
        );
        assert_eq!(tree(&target), before);
        fs::remove_dir_all(&target).expect("removed");
    }
    let file = world.path().join("file");
    fs::write(&file, "a file").expect("written");
    expect(&machine.ask(&["restore", "w", "--to", path(&file)]), 88, &[]);
    assert_eq!(fs::read(&file).expect("read"), b"a file");
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "evacuated", "a refused restore gives the work back");
}

#[test]
fn only_what_matches_is_restored() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    let target = world.path().join("target");
    expect(&machine.ask(&["restore", "w", "--to", path(&target), "--only", "**/b.*"]), 0, &["1 files"]);
    assert!(target.join("folder/b.txt").exists());
    assert!(!target.join("a.txt").exists());
    assert!(!target.join("folder/c.bin").exists());
    expect(&machine.ask(&["restore", "w", "--to", path(&target), "--only", "["]), 125, &["glob"]);
}

/// A machine whose live agent holds work with a recovery point.
fn with_held_work(world: &World) -> (Machine, harness::Running) {
    let machine = with_evacuated_work(world);
    let run = machine.run(&[], "echo x > ready; exec sleep 1000");
    eventually("it runs", || machine.work().join("ready").exists());
    (machine, run)
}

#[test]
fn work_that_a_live_agent_holds_is_not_restored_but_may_be_copied() {
    let world = World::new();
    let (machine, mut run) = with_held_work(&world);
    let target = world.path().join("target");
    let before = machine.ask_json(&["show", "w"])["head"].clone();
    expect(&machine.ask(&["restore", "w", "--to", path(&target)]), 87, &["is held", "--no-claim"]);
    assert!(!target.exists());
    expect(&machine.ask(&["restore", "w", "--to", path(&target), "--no-claim"]), 0, &["3 files"]);
    assert!(target.join("a.txt").exists());
    assert_eq!(machine.ask_json(&["show", "w"])["head"], before, "the owner keeps it");
    run.signal(Signal::TERM);
    run.expect_code(85);
}

#[test]
fn restoring_finished_work_by_hand_leaves_it_finished() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    machine.run(&[], "exit 0").expect_code(0);
    // Where a reader's mark was, an empty folder is left.
    let stored = || {
        let mut tree = tree(&machine.store);
        tree.retain(|path, _| !path.ends_with("readers"));
        tree
    };
    let before = stored();
    let target = world.path().join("target");
    expect(&machine.ask(&["restore", "w", "--to", path(&target)]), 0, &["3 files"]);
    assert_eq!(stored(), before);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "done");
}

/// The files below `dir` whose path contains `part`.
fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let all = tree(dir).into_keys().map(|path| dir.join(path));
    all.filter(|path| path.is_file() && path.to_string_lossy().contains(part)).collect()
}

/// Flips a bit in the middle of the first object below `part` of the store.
fn damage(machine: &Machine, part: &str) {
    let found = files(&machine.store, part);
    let object = found.first().expect("an object");
    let mut bytes = fs::read(object).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(object, bytes).expect("written");
}

#[test]
fn damaged_data_is_not_restored_and_work_is_not_begun_without_its_files() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    damage(&machine, "/data/");
    let other = world.machine("other");
    let mut run = other.run(&[], "echo x > ran");
    run.expect_code(88);
    assert!(run.log().contains("is damaged"), "{}", run.log());
    assert!(files(&other.work(), "").is_empty(), "no file that may be wrong is left");
}

#[test]
fn damaged_data_is_not_restored_by_hand_either() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    damage(&machine, "/data/");
    let target = world.path().join("target");
    expect(&machine.ask(&["restore", "w", "--to", path(&target)]), 88, &["because:", "is damaged"]);
    assert!(files(world.path(), "target").is_empty(), "nothing that may be wrong is left");
}

#[test]
fn damaged_data_is_found_and_named_by_verify() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    damage(&machine, "/data/");
    let verified = machine.ask(&["verify", "w", "--json"]);
    expect(&verified, 88, &[]);
    let value: serde_json::Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    assert!(value["damaged"][0].as_str().expect("text").contains("data/"), "{value}");
}

#[test]
fn a_damaged_manifest_is_found_by_verify() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    damage(&machine, "/manifests/");
    expect(&machine.ask(&["verify", "w"]), 88, &["is damaged"]);
}

#[test]
fn a_damaged_manifest_is_not_restored() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    damage(&machine, "/manifests/");
    let target = world.path().join("target");
    expect(&machine.ask(&["restore", "w", "--to", path(&target), "--no-claim"]), 88, &["is damaged"]);
    assert!(files(world.path(), "target").is_empty());
}

#[test]
fn a_damaged_manifest_does_not_hide_what_else_is_known() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    damage(&machine, "/manifests/");
    expect(&machine.ask(&["list"]), 0, &["w ", "evacuated"]);
    expect(&machine.ask(&["show", "w"]), 0, &["evacuated", "UNREADABLE", "final logs"]);
}

#[test]
fn what_was_stored_beside_the_files_and_is_gone_is_named() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    fs::remove_dir_all(machine.store.join("w/extras")).expect("removed");
    expect(
        &machine.ask(&["show", "w"]),
        0,
        &["evacuated", "UNREADABLE: final logs: ", "is not in the store"],
    );
    let shown = machine.ask_json(&["show", "w"]);
    assert_eq!(shown["unreadable_extras"].as_array().map(Vec::len), Some(1), "{shown}");
}

#[test]
fn completion_scripts_are_printed_for_each_shell() {
    let world = World::new();
    let machine = world.machine("one");
    for shell in ["bash", "zsh", "fish"] {
        let output = machine.lifeboat(&["completions", shell]).output().expect("started");
        expect(&output, 0, &["lifeboat", "restore", "mock-imds", "doctor"]);
        assert!(output.stderr.is_empty());
    }
    expect(&machine.lifeboat(&["completions", "cmd"]).output().expect("started"), 125, &["bash"]);
}

#[test]
fn quiet_says_nothing_where_nothing_went_wrong_and_verbose_says_more() {
    let world = World::new();
    let machine = world.machine("one");
    let say =
        |options: &[&str]| stderr(&machine.run_command("w", options, &["true"]).output().expect("started"));
    assert_eq!(say(&["--quiet"]), "");
    assert!(say(&[]).contains("the work is done"));
    assert!(!say(&[]).contains("DEBUG"));
    let verbose = say(&["-v"]);
    assert!(verbose.contains("DEBUG") && verbose.contains("store=file:///"), "{verbose}");
    let failed = machine.run_command("w", &["-q"], &["no-such-command"]).output().expect("started");
    expect(&failed, 127, &["there is no command"]);
}

#[test]
fn the_log_is_plain_text_or_json_lines_where_there_is_no_terminal() {
    let world = World::new();
    let machine = world.machine("one");
    let plain = machine.run_command("w", &["-v"], &["/bin/sh", "-c", "exit 1"]).output().expect("started");
    assert!(!plain.stderr.contains(&0x1b), "no escape sequences: {}", stderr(&plain));
    let json = machine.run_command("w", &["--json"], &["/bin/sh", "-c", "exit 1"]).output().expect("started");
    let lines: Vec<serde_json::Value> = stderr(&json)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let last = lines.last().expect("a line");
    assert_eq!(last["code"], 1);
    assert_eq!(last["summary"]["verdict"], "complete");
    assert!(lines.iter().any(|line| line["level"] == "WARN"));
}

#[test]
fn on_a_terminal_a_bar_shows_the_progress_and_is_cleared_at_the_end() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let world = World::new();
    let machine = with_evacuated_work(&world);
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("named");
    let theirs = fs::OpenOptions::new().read(true).write(true).open(name.to_str().expect("UTF-8"));
    let store = path(&machine.store).to_owned();
    let status = machine
        .lifeboat(&["verify", "w", "--store", &store])
        .stdout(Stdio::null())
        .stderr(theirs.expect("opened"))
        .status()
        .expect("started");
    assert_eq!(status.code(), Some(0));
    let mut shown = Vec::new();
    // Linux answers EIO once nobody holds the other end any more.
    let _ = fs::File::from(ours).read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("verifying") && shown.contains("39.0"), "{shown:?}");
    assert!(!shown.contains("0 B/0 B"), "nothing is shown before there is something to do: {shown:?}");
    assert!(shown.ends_with("\r\u{1b}[2K"), "{shown:?}");
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let world = World::new();
    let machine = with_evacuated_work(&world);
    let store = path(&machine.store).to_owned();
    for args in [
        &["list", "--store", &store][..],
        &["show", "w", "--files", "--store", &store],
        &["verify", "w", "--json", "--store", &store],
        &["completions", "bash"],
        &["--help"],
        &["doctor", "--store", &store],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = machine.lifeboat(args).stdout(writer).stderr(Stdio::piped()).output().expect("started");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
}

#[test]
fn the_running_agent_tells_how_it_stands() {
    let world = World::new();
    let machine = world.spot_machine("one");
    expect(&machine.ask(&["status", "--name", "w"]), 125, &["no agent is running"]);
    let mut run = machine.run(&[], "echo x > ready; exec sleep 1000");
    eventually("it runs", || machine.work().join("ready").exists());
    let status = machine.ask_json(&["status", "--name", "w"]);
    assert_eq!((&status["workload"], &status["instance"]), (&"w".into(), &"i-one".into()));
    assert_eq!(status["phase"], "running");
    assert_eq!(status["metadata"]["reachable"], true);
    expect(&machine.ask(&["status", "--name", "w"]), 0, &["phase", "running", "reachable", "yes"]);
    run.signal(Signal::TERM);
    run.expect_code(85);
}

#[test]
fn a_second_run_of_the_same_work_on_this_machine_is_refused_at_once() {
    let world = World::new();
    let machine = world.machine("one");
    let mut first = machine.run(&[], "echo x > ready; exec sleep 1000");
    eventually("it runs", || machine.work().join("ready").exists());
    let mut second = machine.run(&[], "echo x > twice");
    second.expect_code(87);
    assert!(second.log().contains("another lifeboat (process "), "{}", second.log());
    assert!(!machine.work().join("twice").exists());
    first.signal(Signal::TERM);
    first.expect_code(85);
}

#[test]
fn evacuating_a_name_that_never_ran_here_saves_nothing() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("private", "not to be stored under a misspelt name");
    let before = tree(world.path());
    expect(
        &machine.ask(&["evacuate", "--name", "typo"]),
        125,
        &["`typo` has never run on this machine", "--work-dir"],
    );
    assert_eq!(tree(world.path()), before);
}

#[test]
fn bash_accepts_its_completion_script() {
    let world = World::new();
    let script = world.machine("one").lifeboat(&["completions", "bash"]).output().expect("started").stdout;
    let file = world.path().join("completions.bash");
    fs::write(&file, script).expect("written");
    match Command::new("bash").arg("-n").arg(&file).output() {
        Ok(checked) => assert!(checked.status.success(), "{}", stderr(&checked)),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "no bash on this machine"),
    }
}

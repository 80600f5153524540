//! `lifeboat demo`: its result is checked, its failure is one, and nothing of it is left.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::{Machine, Running, World, eventually};
use rustix::process::Signal;

/// `lifeboat demo ARGS` with a temporary directory of its own, which must be empty afterwards.
fn demo(machine: &Machine, args: &[&str]) -> (Command, PathBuf) {
    let temp = machine.dir.join("temp");
    fs::create_dir_all(&temp).expect("created");
    let mut command = machine.lifeboat(&[&["demo"], args].concat());
    command.env("TMPDIR", &temp);
    (command, temp)
}

/// A folder of text files.
fn texts(world: &World, count: usize) -> String {
    let folder = world.path().join("texts");
    fs::create_dir_all(folder.join("deeper")).expect("created");
    for number in 0..count {
        let text = format!("file {number} holds the word w{number}\n").repeat(50);
        let place = if number % 2 == 0 { "" } else { "deeper/" };
        fs::write(folder.join(format!("{place}{number}.txt")), text).expect("written");
    }
    folder.to_str().expect("UTF-8").to_owned()
}

fn found(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// No file below `temp`, and no process that was told of it.
fn nothing_is_left(temp: &Path) {
    let left: Vec<_> = fs::read_dir(temp).expect("readable").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let wanted = temp.to_str().expect("UTF-8");
    for entry in fs::read_dir("/proc").expect("readable").flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        assert!(!line.contains(wanted), "{} is left: {line}", entry.path().display());
    }
}

#[test]
fn the_demo_ends_with_identical_results_and_leaves_nothing() {
    let world = World::new();
    let (mut command, temp) = demo(&world.machine("one"), &["--json"]);
    let output = command.output().expect("started");
    let found = found(&output);
    assert_eq!(output.status.code(), Some(0), "{found}");
    assert_eq!(found["identical"], true);
    assert_eq!(found["processed_twice"], serde_json::json!([]));
    assert_eq!(found["evacuation"]["verdict"], "complete");
    let (done, files) = (found["done_before"].as_u64(), found["files"].as_u64());
    assert!(done > Some(0) && done < files, "{found}");
    nothing_is_left(&temp);
}

#[test]
fn without_restoring_the_demo_fails() {
    let world = World::new();
    let input = texts(&world, 12);
    let (mut command, temp) = demo(&world.machine("one"), &["--no-restore", "--input", &input]);
    let output = command.output().expect("started");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILED, as it must without restoring"), "{text}");
    nothing_is_left(&temp);
}

#[test]
fn a_hundred_files_and_ten_workers_are_interrupted_without_loss() {
    let world = World::new();
    let input = texts(&world, 100);
    let args = ["--files", "100", "--workers", "10", "--input", &input, "--json"];
    let (mut command, temp) = demo(&world.machine("one"), &args);
    let output = command.output().expect("started");
    let found = found(&output);
    assert_eq!(output.status.code(), Some(0), "{found}");
    assert_eq!((&found["files"], &found["identical"]), (&100.into(), &true.into()));
    // Each file has its own number, and a word of its own with it; the rest is four words.
    assert_eq!(found["words"], 4 + 100 + 100, "it is these files that were indexed");
    nothing_is_left(&temp);
}

#[test]
fn a_handful_of_files_with_more_workers_than_files_still_has_a_middle() {
    let world = World::new();
    let input = texts(&world, 3);
    let (mut command, temp) = demo(&world.machine("one"), &["--workers", "16", "--input", &input]);
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("snapshot"), "the table of stages: {text}");
    assert!(text.contains("Nothing was lost and nothing was done twice."), "{text}");
    nothing_is_left(&temp);
}

#[test]
fn too_few_files_are_refused_with_what_is_needed() {
    let world = World::new();
    for (count, said) in [(0, "found 0 text files"), (2, "found 2 text files")] {
        let input = texts(&world, count);
        let (mut command, temp) = demo(&world.machine("one"), &["--input", &input]);
        let output = command.output().expect("started");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(text.contains(said) && text.contains("--input DIR"), "{text}");
        nothing_is_left(&temp);
    }
    let (mut command, temp) = demo(&world.machine("one"), &["--input", "/no/such/folder"]);
    let output = command.output().expect("started");
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /no/such/folder"));
    nothing_is_left(&temp);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let world = World::new();
    let input = texts(&world, 30);
    for signal in [Signal::INT, Signal::TERM] {
        let (mut command, temp) = demo(&world.machine("one"), &["--input", &input]);
        let mut running = Running::start(&mut command);
        running.wait_for("`lifeboat run` starts the worker");
        eventually("the worker works", || {
            let folder = fs::read_dir(&temp).expect("readable").flatten().next().expect("a folder").path();
            fs::metadata(folder.join("ledger.txt")).is_ok_and(|ledger| ledger.len() > 0)
        });
        running.signal(signal);
        running.expect_code(130);
        nothing_is_left(&temp);
    }
}

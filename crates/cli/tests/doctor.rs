//! `lifeboat doctor`: each finding says what is wrong and what to do, and the exit code says whether all is well.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use harness::{Machine, World, eventually, tree};
use rustix::process::Signal;

/// The metadata service gets 5 s, the store 10 s; the rest is a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// What one check found.
struct Finding {
    verdict: String,
    what: String,
    remedy: Option<String>,
}

/// The findings by check, and the exit code.
fn findings(output: &Output) -> (BTreeMap<String, Finding>, i32) {
    let said = String::from_utf8_lossy(&output.stderr);
    let list: Vec<serde_json::Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let found = list.iter().map(|finding| {
        let remedy = finding["remedy"].as_str().map(str::to_owned);
        let verdict = text(&finding["verdict"]);
        assert!(
            remedy.is_some() || !matches!(verdict.as_str(), "warn" | "fail"),
            "whatever is wrong has a remedy: {finding}"
        );
        (text(&finding["check"]), Finding { verdict, what: text(&finding["what"]), remedy })
    });
    (found.collect(), output.status.code().expect("an exit code"))
}

fn doctor(machine: &Machine, args: &[&str]) -> (BTreeMap<String, Finding>, i32) {
    let begun = Instant::now();
    let output = machine.ask(&[&["doctor", "--json"], args].concat());
    assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
    findings(&output)
}

fn expect(found: &BTreeMap<String, Finding>, check: &str, verdict: &str, text: &str) {
    let finding = found.get(check).unwrap_or_else(|| panic!("`{check}` was not looked at"));
    let said = format!("{} → {}", finding.what, finding.remedy.as_deref().unwrap_or("-"));
    assert_eq!(finding.verdict, verdict, "{check}: {said}");
    assert!(said.contains(text), "{check}: {said}");
}

#[test]
fn on_a_healthy_spot_machine_every_finding_is_ok_and_the_exit_code_0() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let (found, code) = doctor(&machine, &["--name", "w"]);
    for check in [
        "metadata token",
        "interruption notice",
        "instance identity",
        "clock difference",
        "work directory",
        "state directory",
        "store",
        "other agent",
    ] {
        expect(&found, check, "ok", "");
    }
    for check in ["space for the work", "space for the store", "open files"] {
        assert!(found.contains_key(check), "{check}");
    }
    expect(&found, "instance identity", "ok", "i-one");
    assert_eq!(code, 0);

    let text = machine.ask(&["doctor", "--name", "w"]);
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(text.contains("ok    store: file:///"), "{text}");
}

#[test]
fn doctor_leaves_nothing_in_the_work_directory_and_no_agent() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.write("file", "content");
    let before = tree(&machine.work());
    doctor(&machine, &[]);
    assert_eq!(tree(&machine.work()), before);
    let agents = machine.agent("doctor");
    assert!(!agents.exists(), "nobody's state directory is left");
    assert_eq!(machine.ask_json(&["list"]), serde_json::json!([]), "no workload appears in the store");
}

#[test]
fn metadata_that_is_switched_off_is_a_warning() {
    let world = World::new();
    let machine = world.machine("one");
    let (found, code) = doctor(&machine, &[]);
    expect(&found, "metadata endpoint", "warn", "AWS_EC2_METADATA_DISABLED");
    expect(&found, "metadata token", "skipped", "");
    expect(&found, "store", "ok", "");
    assert_eq!(code, 0);

    machine.configure("[metadata]\nenabled = false\n");
    let config = machine.dir.join("lifeboat.toml");
    let (found, code) = doctor(&machine, &["--config", config.to_str().expect("UTF-8")]);
    expect(&found, "metadata", "warn", "metadata.enabled");
    assert_eq!(code, 0);
}

#[test]
fn a_metadata_service_that_nobody_serves_is_a_failure() {
    let world = World::new();
    let machine = world.machine("one");
    // A port that was free a moment ago, and on which nobody listens.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("known").port();
    machine.configure(&format!("[metadata]\nendpoint = \"http://127.0.0.1:{port}\"\n"));
    let config = machine.dir.join("lifeboat.toml");
    let (found, code) = doctor(&machine, &["--config", config.to_str().expect("UTF-8")]);
    expect(&found, "metadata token", "fail", &format!("127.0.0.1:{port}"));
    expect(&found, "clock difference", "skipped", "");
    assert_eq!(code, 125);
}

/// The verdicts where the mock misbehaves like `fault`.
fn with_fault(fault: &str) -> (BTreeMap<String, Finding>, i32) {
    let world = World::new();
    let machine = world.spot_machine("one");
    let control = &machine.imds.as_ref().expect("has one").control;
    control.faults(vec![fault.parse().expect("a fault")]);
    doctor(&machine, &[])
}

#[test]
fn a_token_that_never_arrives_is_explained_by_the_hop_limit() {
    let (found, code) = with_fault("hang@token");
    expect(&found, "metadata token", "fail", "hop limit");
    expect(&found, "interruption notice", "skipped", "");
    expect(&found, "store", "ok", "");
    assert_eq!(code, 125);
}

#[test]
fn a_service_that_is_disabled_for_the_instance_is_named_so() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.imds.as_ref().expect("has one").control.disable(true);
    let (found, code) = doctor(&machine, &[]);
    expect(&found, "metadata token", "fail", "403");
    assert_eq!(code, 125);
}

#[test]
fn requests_that_are_refused_in_spite_of_a_token_are_a_failure() {
    let (found, code) = with_fault("401@metadata");
    expect(&found, "metadata token", "ok", "");
    expect(&found, "interruption notice", "fail", "401");
    assert_eq!(code, 125);
}

#[test]
fn a_throttled_moment_is_no_finding_and_a_throttled_service_is_one() {
    let (found, _) = with_fault("503@token:1");
    expect(&found, "metadata token", "ok", "");
    let (found, code) = with_fault("503@token");
    expect(&found, "metadata token", "fail", "503");
    assert_eq!(code, 125);
}

#[test]
fn a_clock_that_is_off_by_minutes_is_a_warning_and_beyond_what_aws_accepts_a_failure() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let control = &machine.imds.as_ref().expect("has one").control;
    control.skew_ms(120_000);
    let (found, code) = doctor(&machine, &[]);
    expect(&found, "clock difference", "warn", "synchronise the clock");
    assert_eq!(code, 0);
    control.skew_ms(-600_000);
    let (found, code) = doctor(&machine, &[]);
    expect(&found, "clock difference", "fail", "synchronise the clock");
    assert_eq!(code, 125);
}

#[test]
fn a_store_that_cannot_be_used_is_a_failure_and_hides_nothing() {
    let world = World::new();
    let machine = world.spot_machine("one");
    fs::write(&machine.store, "a file in the store's place").expect("written");
    let (found, code) = doctor(&machine, &[]);
    expect(&found, "store", "fail", "check the URL");
    expect(&found, "metadata token", "ok", "");
    expect(&found, "open files", "ok", "");
    assert_eq!(code, 125);

    machine.configure("store = \"gopher://x/y\"\n");
    let config = machine.dir.join("lifeboat.toml");
    let output = machine
        .lifeboat(&["doctor", "--json", "--config", config.to_str().expect("UTF-8")])
        .output()
        .expect("started");
    let (found, code) = findings(&output);
    expect(&found, "store", "fail", "gopher");
    expect(&found, "metadata token", "ok", "");
    assert_eq!(code, 125);
}

#[test]
fn a_work_directory_that_is_missing_is_a_warning_and_one_that_is_a_file_a_failure() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let missing = machine.dir.join("missing");
    let (found, code) = doctor(&machine, &["--work-dir", missing.to_str().expect("UTF-8")]);
    expect(&found, "work directory", "warn", "creates it");
    assert!(!missing.exists(), "a check creates nothing");
    assert_eq!(code, 0);
    machine.write("file", "x");
    let (found, code) = doctor(&machine, &["--work-dir", "file"]);
    expect(&found, "work directory", "fail", "is no directory");
    assert_eq!(code, 125);
}

#[test]
fn a_state_directory_that_cannot_be_used_is_a_failure() {
    let world = World::new();
    let machine = world.spot_machine("one");
    fs::write(machine.dir.join("state"), "a file").expect("written");
    let (found, code) = doctor(&machine, &[]);
    expect(&found, "state directory", "fail", "XDG_STATE_HOME");
    assert_eq!(code, 125);
}

#[test]
fn an_agent_that_runs_is_found_with_its_process_id() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut run = machine.run(&[], "echo x > ready; exec sleep 1000");
    eventually("it runs", || machine.work().join("ready").exists());
    let (found, code) = doctor(&machine, &["--name", "w"]);
    expect(&found, "other agent", "warn", &format!("process {}", run.pid().as_raw_nonzero()));
    assert_eq!(code, 0);
    run.signal(Signal::TERM);
    run.expect_code(85);
}

#[test]
fn an_announced_interruption_is_seen() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let notice = lifeboat_imds::mock::NoticePlan::now(lifeboat_imds::wire::Action::Terminate);
    machine.imds.as_ref().expect("has one").control.notice(notice);
    let (found, _) = doctor(&machine, &[]);
    expect(&found, "interruption notice", "warn", "lifeboat evacuate");
}

#[test]
fn files_are_judged_wherever_the_doctor_runs_and_nothing_else_is_looked_at() {
    let world = World::new();
    let machine = world.machine("one");
    let template = machine.dir.join("template.json");
    let data = r#"{ "InstanceMarketOptions": { "MarketType": "spot", "SpotOptions": { "MaxPrice": "0.02" } },
        "MetadataOptions": { "HttpPutResponseHopLimit": 2 } }"#;
    fs::write(&template, data).expect("written");
    let definition = machine.dir.join("task.json");
    fs::write(&definition, r#"{ "family": "t", "containerDefinitions": [{ "name": "c" }] }"#)
        .expect("written");
    let (template, definition) = (template.to_string_lossy(), definition.to_string_lossy());
    let (found, code) = doctor(&machine, &["--from", &template, &definition]);
    expect(&found, "maximum price", "warn", "$0.02");
    expect(&found, "interruption behaviour", "ok", "terminate");
    expect(&found, "metadata hop limit", "ok", "2");
    expect(&found, "stopTimeout", "warn", "of the 120 s");
    assert!(!found.contains_key("store") && !found.contains_key("metadata endpoint"));
    assert_eq!(code, 0);

    // The configuration says what is counted on.
    machine.configure("[evacuation]\ngrace = \"100s\"\n");
    let config = machine.dir.join("lifeboat.toml");
    let config = config.to_string_lossy();
    let (found, code) = doctor(&machine, &["--config", &config, "--from", &definition]);
    expect(&found, "stopTimeout", "fail", "killed before the 100 s");
    assert_eq!(code, 125);

    let nonsense = machine.dir.join("nonsense.json");
    fs::write(&nonsense, "<html>").expect("written");
    for (file, text) in
        [("missing.json", "No such file"), (nonsense.to_str().expect("UTF-8"), "it is no JSON")]
    {
        let output = machine.ask(&["doctor", "--from", file]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains("cannot use") && said.contains(file) && said.contains(text), "{said}");
        assert!(output.stdout.is_empty());
    }
}

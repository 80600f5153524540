//! `lifeboat agent`: the real binary, with daemons that the tests start themselves, with directories alone, and with
//! units. systemd does not run where these tests do: `systemctl` is a stand-in, see `harness/systemd.rs`.

mod harness;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use harness::systemd::Unit;
use harness::{LIMIT, Machine, Running, World, eventually, task_metadata};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::Signal;
use serde_json::Value;

/// Works until it is told to stop, and says so in its directory, which is the current one.
const WORKER: &str = "trap 'echo stopped > last; exit 0' TERM
echo half > partial; echo begun > begun; while :; do sleep 0.05; done";

/// The same, deaf to what it is told.
const DEAF: &str = "trap '' TERM; echo half > partial; echo begun > begun; while :; do sleep 0.05; done";

/// A process of the test's own, with a PID file beside the work directory.
struct Daemon(Child);

impl Daemon {
    fn start(machine: &Machine, script: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).current_dir(machine.work()).stdin(Stdio::null()).process_group(0);
        let daemon = Self(command.spawn().expect("started"));
        fs::write(machine.dir.join("worker.pid"), format!("{}\n", daemon.0.id())).expect("written");
        eventually("the daemon works", || machine.work().join("begun").exists());
        daemon
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait(); // the same
    }
}

/// `lifeboat agent` of workload `w`, which is ready when it says "protecting".
fn command(machine: &Machine, options: &[&str]) -> Command {
    let config = machine.dir.join("lifeboat.toml");
    if !config.exists() {
        machine.configure("lease = \"3s\"\n[metadata]\ninterval = \"500ms\"\n");
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (store, config, work) = (text(machine.store.clone()), text(config), text(machine.work()));
    let mut args = vec!["agent", "--name", "w", "--store", &store, "--config", &config, "--work-dir", &work];
    args.extend(options);
    let mut command = machine.lifeboat(&args);
    command.env_remove("INVOCATION_ID").env_remove("NOTIFY_SOCKET");
    command
}

fn protect(machine: &Machine, options: &[&str]) -> Running {
    let mut agent = Running::start(&mut command(machine, options));
    agent.wait_for("protecting");
    agent
}

fn unit_command(machine: &Machine, unit: &Unit) -> Command {
    let mut command = command(machine, &["--unit", "worker"]);
    command.env("PATH", unit.path());
    command
}

fn protect_unit(machine: &Machine, unit: &Unit) -> Running {
    let mut agent = Running::start(&mut unit_command(machine, unit));
    agent.wait_for("protecting");
    agent
}

fn interrupt(machine: &Machine) {
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
}

fn stage(summary: &Value, name: &str) -> (String, String) {
    let lines = summary["stages"].as_array().expect("a list");
    let line = lines.iter().find(|line| line["stage"] == name).expect("every stage is told of");
    let text = |key: &str| line[key].as_str().expect("text").to_owned();
    (text("outcome"), text("detail"))
}

#[test]
fn a_daemon_is_stopped_and_saved_at_the_notice_and_another_machine_has_its_files() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut daemon = Daemon::start(&machine, WORKER);
    let pid_file = machine.dir.join("worker.pid").to_string_lossy().into_owned();
    let mut agent = protect(&machine, &["--pid-file", &pid_file]);
    assert!(daemon.runs(), "nothing is done before the notice");
    interrupt(&machine);
    agent.expect_code(85);
    eventually("the daemon has ended", || !daemon.runs());
    assert_eq!(stage(&machine.summary(), "drain").0, "done");
    let other = world.spot_machine("two");
    let mut agent = protect(&other, &[]);
    assert_eq!(other.read("last"), "stopped\n", "what it wrote last was saved, too");
    assert_eq!(other.read("partial"), "half\n");
    agent.signal(Signal::INT);
    agent.expect_code(0);
}

#[test]
fn a_daemon_that_does_not_obey_is_killed_when_its_time_is_over() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.configure("[metadata]\ninterval = \"500ms\"\n[evacuation]\ndrain = { maximum = \"1s\" }\n");
    let mut daemon = Daemon::start(&machine, DEAF);
    let pid_file = machine.dir.join("worker.pid").to_string_lossy().into_owned();
    let mut agent = protect(&machine, &["--pid-file", &pid_file]);
    interrupt(&machine);
    agent.expect_code(85);
    eventually("the daemon has ended", || !daemon.runs());
    assert_eq!(stage(&machine.summary(), "drain"), ("timed_out".to_owned(), "killed".to_owned()));
}

#[test]
fn a_pid_file_that_stands_for_another_process_by_now_harms_nobody() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let mut daemon = Daemon::start(&machine, WORKER);
    let path = machine.dir.join("worker.pid");
    // As if it had been left by a process that ended before this one was given its id.
    let of_old = SystemTime::now() - Duration::from_secs(60 * 60);
    fs::File::options().write(true).open(&path).expect("opened").set_modified(of_old).expect("set");
    let mut agent = protect(&machine, &["--pid-file", &path.to_string_lossy()]);
    interrupt(&machine);
    agent.expect_code(85);
    assert!(daemon.runs(), "it is not the one that is protected");
    let (outcome, detail) = stage(&machine.summary(), "drain");
    assert!(
        outcome == "failed" && detail.contains("was started after it was written"),
        "{outcome}: {detail}"
    );
    assert_eq!(stage(&machine.summary(), "snapshot").0, "done");
}

#[test]
fn a_directory_alone_is_saved_while_its_files_change_and_restored_elsewhere() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.write("data/a", "one");
    let mut agent = protect(&machine, &[]);
    machine.write("data/b", "two");
    interrupt(&machine);
    agent.expect_code(85);
    assert_eq!(stage(&machine.summary(), "drain").0, "not_wanted");
    let other = world.spot_machine("two");
    let agent = protect(&other, &[]);
    assert_eq!((other.read("data/a"), other.read("data/b")), ("one".to_owned(), "two".to_owned()));
    // The same workload has one agent.
    let second = command(&other, &[]).output().expect("started");
    assert_eq!(second.status.code(), Some(87), "{}", String::from_utf8_lossy(&second.stderr));
    drop(agent);
}

#[test]
fn a_unit_is_stopped_without_blocking_saved_and_started_again_where_the_machine_stays() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let unit = Unit::install(&machine, WORKER);
    unit.start(&machine);
    let mut agent = protect_unit(&machine, &unit);
    let ask = machine.ask_json(&["evacuate", "--name", "w"]);
    assert_eq!(ask["verdict"], "complete");
    agent.expect_code(85);
    assert!(!unit.runs());
    assert!(unit.calls().contains(&"stop --no-block -- worker.service".to_owned()), "{:?}", unit.calls());
    let (outcome, detail) = stage(&machine.summary(), "drain");
    assert_eq!((outcome.as_str(), detail.as_str()), ("done", "worker.service is inactive"));
    assert_eq!(machine.read("last"), "stopped\n");
    // Its supervisor starts the agent again: the work is still here, and what the agent stopped goes on.
    let agent = protect_unit(&machine, &unit);
    assert!(unit.calls().contains(&"start --no-block -- worker.service".to_owned()), "{:?}", unit.calls());
    eventually("the unit runs again", || unit.runs());
    drop(agent);
}

#[test]
fn a_unit_that_does_not_obey_is_killed_and_one_that_cannot_be_stopped_is_named() {
    for (refuses, outcome, said) in [(false, "timed_out", "killed"), (true, "failed", "Access denied")] {
        let world = World::new();
        let machine = world.spot_machine("one");
        machine.configure("[metadata]\ninterval = \"500ms\"\n[evacuation]\ndrain = { maximum = \"20s\" }\n");
        let unit = Unit::install(&machine, DEAF);
        unit.start(&machine);
        let mut agent = protect_unit(&machine, &unit);
        if refuses {
            fs::write(unit.dir.join("refuses"), "").expect("written");
        }
        interrupt(&machine);
        agent.expect_code(85);
        let (found, detail) = stage(&machine.summary(), "drain");
        assert!(found == outcome && detail.contains(said), "{found}: {detail}\n{}", agent.log());
        assert_eq!(stage(&machine.summary(), "snapshot").0, "done");
        assert_eq!(unit.runs(), refuses);
        let _ = fs::remove_file(unit.dir.join("refuses")); // for the end of the unit
    }
}

#[test]
fn an_agent_that_is_asked_to_end_leaves_the_unit_alone_but_at_the_shutdown_of_the_machine() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let unit = Unit::install(&machine, WORKER);
    unit.start(&machine);
    let socket = machine.dir.join("notify");
    let heard = UnixDatagram::bind(&socket).expect("bound");
    heard.set_read_timeout(Some(LIMIT)).expect("set");
    let begin = || {
        let mut command = unit_command(&machine, &unit);
        command.env("INVOCATION_ID", "0123").env("NOTIFY_SOCKET", &socket);
        let mut agent = Running::start(&mut command);
        agent.wait_for("protecting");
        agent
    };
    let mut agent = begin();
    let mut told = String::new();
    let mut buffer = [0; 1000];
    while !told.contains("READY=1") {
        let length = heard.recv(&mut buffer).expect("systemd is told in time");
        told += &String::from_utf8_lossy(&buffer[..length]);
    }
    agent.signal(Signal::TERM);
    agent.expect_code(0);
    assert!(unit.runs(), "it goes on");
    assert!(agent.log().contains("unprotected until this agent is back"), "{}", agent.log());
    // It comes back, and goes on with what it had.
    let mut agent = begin();
    fs::write(unit.dir.join("system"), "stopping").expect("written");
    agent.signal(Signal::TERM);
    agent.expect_code(85);
    assert!(!unit.runs());
    assert_eq!(machine.summary()["interruption"]["sources"], serde_json::json!(["sigterm"]));
}

#[test]
fn a_notice_that_comes_while_no_agent_runs_is_obeyed_by_the_next_one() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let unit = Unit::install(&machine, WORKER);
    unit.start(&machine);
    let mut agent = protect_unit(&machine, &unit);
    agent.kill_agent();
    machine.write("after", "the crash");
    interrupt(&machine);
    let mut agent = Running::start(&mut unit_command(&machine, &unit));
    agent.expect_code(85);
    assert!(!unit.runs(), "{}", agent.log());
    let other = world.spot_machine("two");
    let agent = protect(&other, &[]);
    assert_eq!(other.read("after"), "the crash");
    drop(agent);
}

#[test]
fn an_agent_killed_in_the_middle_of_its_evacuation_brings_it_to_its_end() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let unit = Unit::install(&machine, DEAF);
    unit.start(&machine);
    machine.configure("[metadata]\ninterval = \"500ms\"\n[evacuation]\ndrain = { maximum = \"20s\" }\n");
    let mut agent = protect_unit(&machine, &unit);
    interrupt(&machine);
    agent.wait_for("stage=drain");
    agent.kill_agent();
    let mut agent = Running::start(&mut unit_command(&machine, &unit));
    agent.expect_code(85);
    assert!(!unit.runs(), "{}", agent.log());
    assert_eq!(stage(&machine.summary(), "snapshot").0, "done");
}

#[test]
fn work_that_another_machine_took_over_is_ended_where_it_was_protected_before() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let unit = Unit::install(&machine, WORKER);
    unit.start(&machine);
    let mut agent = protect_unit(&machine, &unit);
    // So that there is something to take over.
    machine.write("data", "of the first");
    agent.kill_agent();
    let other = world.spot_machine("two");
    let holder = protect(&other, &[]);
    let mut agent = Running::start(&mut unit_command(&machine, &unit));
    agent.wait_for("another machine took the work over");
    eventually("the unit has ended", || !unit.runs());
    drop(holder);
}

#[test]
fn what_runs_already_when_the_agent_begins_is_evacuated_though_the_notice_was_there_before() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let unit = Unit::install(&machine, WORKER);
    unit.start(&machine);
    interrupt(&machine);
    let mut agent = Running::start(&mut unit_command(&machine, &unit));
    agent.expect_code(85);
    assert!(!unit.runs(), "{}", agent.log());
    assert_eq!(stage(&machine.summary(), "snapshot").0, "done");
    assert_eq!(machine.read("last"), "stopped\n");
}

#[test]
fn files_in_use_are_not_restored_over_and_what_does_not_exist_is_not_protected() {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.write("data", "of the first");
    let mut agent = protect(&machine, &[]);
    interrupt(&machine);
    agent.expect_code(85);
    let other = world.spot_machine("two");
    let unit = Unit::install(&other, WORKER);
    unit.start(&other);
    let mut agent = Running::start(&mut unit_command(&other, &unit));
    agent.expect_code(88);
    assert!(agent.log().contains("runs there already"), "{}", agent.log());
    assert!(unit.runs() && !other.work().join("data").exists());
    // A unit that nobody knows, and a directory that is not there.
    let mut command = command(&other, &["--unit", "missing.service"]);
    let output = command.env("PATH", unit.path()).output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(125) && said.contains("there is no unit missing.service"), "{said}");
    other.configure("name = \"w\"\n[protect]\nunit = \"missing\"\n");
    let config = other.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let mut doctor = other.lifeboat(&["doctor", "--config", &config]);
    let output = doctor.env("PATH", unit.path()).output().expect("started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("FAIL  protected of the unit missing.service: there is no unit"), "{said}");
    let gone = other.dir.join("no-such").to_string_lossy().into_owned();
    let output = other.lifeboat(&["agent", "--name", "w", "--work-dir", &gone]).output().expect("started");
    assert_eq!(output.status.code(), Some(125), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn in_a_container_sigterm_is_the_notice_and_the_task_is_known_by_its_id() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("data", "of the task");
    let mut command = command(&machine, &[]);
    command
        .env("ECS_CONTAINER_METADATA_URI_V4", task_metadata())
        .env("AWS_EXECUTION_ENV", "AWS_ECS_FARGATE")
        // Where metadata are not switched off they are not looked for on Fargate.
        .env_remove("AWS_EC2_METADATA_DISABLED");
    let mut agent = Running::start(&mut command);
    agent.wait_for("protecting");
    assert!(agent.log().contains("the default of `stopTimeout` in the task definition"), "{}", agent.log());
    let status = machine.ask_json(&["status", "--name", "w"]);
    assert_eq!(
        (&status["instance"], &status["task"]["memory_mib"]),
        (&"0123456789abcdef".into(), &1024.into())
    );
    assert_eq!(status["metadata"]["reachable"], Value::Null, "nobody is asked");
    agent.signal(Signal::TERM);
    agent.expect_code(85);
    let summary = machine.summary();
    assert_eq!((&summary["instance"], &summary["verdict"]), (&"0123456789abcdef".into(), &"complete".into()));
    assert_eq!(summary["interruption"]["sources"], serde_json::json!(["sigterm"]));
}

#[test]
fn in_a_pod_it_is_said_where_the_time_after_sigterm_is_set() {
    let world = World::new();
    let machine = world.machine("one");
    let mut agent = Running::start(command(&machine, &[]).env("KUBERNETES_SERVICE_HOST", "10.0.0.1"));
    agent.wait_for("terminationGracePeriodSeconds");
    agent.wait_for("protecting");
    agent.signal(Signal::TERM);
    agent.expect_code(85);
}

#[test]
fn systemd_has_nothing_to_say_against_the_unit_file() {
    let temp = tempfile::tempdir().expect("temporary directory");
    let unit = include_str!("../../../deploy/lifeboat-agent.service");
    assert!(unit.contains("/usr/local/bin/lifeboat agent"));
    let unit = unit.replace("/usr/local/bin/lifeboat", env!("CARGO_BIN_EXE_lifeboat"));
    let path = temp.path().join("lifeboat-agent.service");
    fs::write(&path, unit).expect("written");
    // Where there is no systemd there is nobody to ask.
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("lifeboat-agent")).collect();
    assert!(output.status.success() && of_ours.is_empty(), "{said}");
}

#[test]
fn evacuate_without_an_agent_stops_the_unit_that_the_configuration_names() {
    let world = World::new();
    let machine = world.machine("one");
    let unit = Unit::install(&machine, WORKER);
    unit.start(&machine);
    machine.configure(&format!(
        "name = \"w\"\nwork_dir = {:?}\nstore = {:?}\n[protect]\nunit = \"worker\"\n",
        machine.work(),
        machine.store
    ));
    let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let mut command = machine.lifeboat(&["evacuate", "--config", &config]);
    let output = command.env("PATH", unit.path()).output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!unit.runs());
    assert_eq!(stage(&machine.summary(), "drain").1, "worker.service is inactive");
    assert_eq!(machine.read("last"), "stopped\n");
}

#[test]
fn a_command_of_ones_own_and_a_unit_do_not_go_together() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure("[protect]\nunit = \"worker\"\n");
    let mut run = Running::start(&mut machine.run_command("w", &[], &["true"]));
    run.expect_code(125);
    assert!(run.log().contains("is protected by `lifeboat agent`"), "{}", run.log());
}

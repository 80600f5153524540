//! The workload's processes under the real binary: exit codes, signals, what is left behind, what it is told.

mod harness;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{LIMIT, Machine, Running, World, descendants, eventually, is_alive};
use rustix::process::{Pid, Signal, kill_process};

/// Short stages, so that what must run into its budget does so quickly.
const QUICK: &str = "
lease = \"3s\"
[command]
linger = \"300ms\"
[metadata]
interval = \"500ms\"
[evacuation.drain]
maximum = \"700ms\"
";

/// Waits until the workload has written `file` with a whole line, and returns it.
fn written(machine: &Machine, file: &str) -> String {
    let path = machine.work().join(file);
    eventually(file, || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    machine.read(file).trim().to_owned()
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().expect("a process id")).expect("positive")
}

fn outcome_of(machine: &Machine, stage: &str) -> String {
    let summary = machine.summary();
    let stages = summary["stages"].as_array().expect("a list").clone();
    let line = stages.iter().find(|line| line["stage"] == stage).expect("it is listed");
    line["outcome"].as_str().expect("text").to_owned()
}

#[test]
fn the_exit_code_of_the_command_is_passed_through() {
    let world = World::new();
    for code in [0, 3, 255] {
        let machine = world.machine(&format!("m{code}"));
        machine
            .run_named(&format!("w{code}"), &[], &["/bin/sh", "-c", &format!("exit {code}")])
            .expect_code(code);
    }
}

#[test]
fn a_command_that_a_signal_ended_gives_128_and_the_signal() {
    let world = World::new();
    let machine = world.machine("one");
    machine.run(&[], "kill -KILL $$").expect_code(137);
    machine.run(&[], "kill -TERM $$").expect_code(143);
}

#[test]
fn a_command_that_does_not_exist_gives_127_and_leaves_the_work_free() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine.run_named("w", &[], &["no-such-command-anywhere"]);
    run.expect_code(127);
    assert!(run.log().contains("there is no command `no-such-command-anywhere`"), "{}", run.log());
    let mut run = machine.run_named("w", &[], &["./no-such-file"]);
    run.expect_code(127);
    assert!(
        run.log().contains("work/./no-such-file"),
        "the place that was looked at is named: {}",
        run.log()
    );
    let mut run = world.machine("two").run(&[], "exit 0");
    run.expect_code(0);
    assert!(!run.log().contains("holds the work"), "{}", run.log());
}

#[test]
fn a_command_that_cannot_be_executed_gives_126() {
    let world = World::new();
    let machine = world.machine("one");
    machine.write("data", "text");
    machine.write("script", "#!/no/such/interpreter\n");
    fs::set_permissions(machine.work().join("script"), fs::Permissions::from_mode(0o755)).expect("set");
    for command in ["./data", "/tmp", "./script"] {
        let mut run = machine.run_named("w", &[], &[command]);
        run.expect_code(126);
        assert!(run.log().contains(&format!("cannot execute `{command}`")), "{}", run.log());
    }
    machine.write("good", "#!/bin/sh\nexit 4\n");
    fs::set_permissions(machine.work().join("good"), fs::Permissions::from_mode(0o755)).expect("set");
    machine.run_named("w", &[], &["./good"]).expect_code(4);
}

#[test]
fn a_command_that_ends_at_once_with_0_is_done() {
    let world = World::new();
    let machine = world.machine("one");
    machine.run_named("w", &[], &["true"]).expect_code(0);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "done");
}

#[test]
fn work_that_fails_by_itself_is_saved_given_back_and_its_code_passed_through() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine.run(&[], "echo half > result; exit 9");
    run.expect_code(9);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "evacuated");
    assert!(machine.work().join("result").exists(), "nothing is deleted here");
    let second = world.machine("two");
    second.run(&[], "[ \"$(cat result)\" = half ] && [ $LIFEBOAT_RESTORED = yes ]").expect_code(0);
}

#[test]
fn a_command_that_ignores_the_stop_signal_is_killed_within_its_budget_and_the_evacuation_is_complete() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(QUICK);
    let mut run = machine.run(&[], "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done");
    let leader = written(&machine, "pid");
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert!(!is_alive(&leader));
    assert_eq!(machine.summary()["verdict"], "complete");
    assert_eq!(outcome_of(&machine, "drain"), "timed_out");
    assert!(machine.summary()["took_ms"].as_u64().expect("a number") < 30_000, "its grace");
    assert!(machine.ask_json(&["show", "w", "--files"])["files"].to_string().contains("pid"));
}

/// Starts four kinds of children that try to get away, then waits for all of them to be there.
const RUNAWAYS: &str = "
    sh -c 'echo $$ > child; exec sleep 1000' &
    (setsid sh -c 'trap \"\" TERM INT; echo $$ > session; while :; do sleep 0.05; done' &)
    setsid sh -c 'sh -c \"echo \\$\\$ > double; exec sleep 1000\" & exit 0' &
    (env -i setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > bare; while :; do sleep 0.05; done' &)
    until [ -s child ] && [ -s session ] && [ -s double ] && [ -s bare ]; do sleep 0.02; done";

const RUNAWAY_FILES: [&str; 4] = ["child", "session", "double", "bare"];

fn nothing_is_left(machine: &Machine) {
    for file in RUNAWAY_FILES {
        assert!(!is_alive(&machine.read(file)), "{file} is left running");
    }
}

#[test]
fn nothing_that_the_command_started_is_left_after_an_evacuation() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(QUICK);
    let mut run = machine.run(&[], &format!("{RUNAWAYS}; echo ready > ready; sleep 1000"));
    written(&machine, "ready");
    run.signal(Signal::TERM);
    run.expect_code(85);
    nothing_is_left(&machine);
    assert_eq!(machine.summary()["verdict"], "complete");
}

#[test]
fn nothing_that_the_command_started_is_left_after_its_own_end() {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(QUICK);
    machine.run(&[], &format!("{RUNAWAYS}; exit 0")).expect_code(0);
    nothing_is_left(&machine);
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "done");
}

#[test]
fn nothing_that_the_command_started_is_left_after_a_second_interrupt() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine.run(
        &[],
        &format!("trap 'echo int > int' INT; {RUNAWAYS}; echo ready > ready; while :; do sleep 0.05; done"),
    );
    written(&machine, "ready");
    run.signal(Signal::INT);
    written(&machine, "int");
    run.signal(Signal::INT);
    run.expect_code(130);
    nothing_is_left(&machine);
    assert!(run.log().contains("ended by a second interrupt"), "{}", run.log());
}

#[test]
fn a_daemon_in_a_session_of_its_own_is_asked_to_stop_too() {
    let daemon = "(setsid sh -c 'trap \"echo asked > asked; exit 0\" TERM; echo $$ > daemon; while :; do sleep 0.05; done' &)
        until [ -s daemon ]; do sleep 0.02; done";
    let world = World::new();
    let machine = world.machine("one");
    machine.run(&[], &format!("{daemon}; exit 0")).expect_code(0);
    assert_eq!(machine.read("asked").trim(), "asked", "after the command's own end");

    let machine = world.machine("two");
    let mut run = machine.run_named(
        "v",
        &[],
        &["/bin/sh", "-c", &format!("{daemon}; echo x > ready; exec sleep 1000")],
    );
    written(&machine, "ready");
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert_eq!(machine.read("asked").trim(), "asked", "at an evacuation");
}

#[test]
fn an_interrupt_is_passed_on_and_the_command_may_end_on_it() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine
        .run(&[], "trap 'echo saved > saved; exit 6' INT; echo x > ready; while :; do sleep 0.05; done");
    written(&machine, "ready");
    run.signal(Signal::INT);
    run.expect_code(6);
    assert_eq!(machine.read("saved").trim(), "saved");
    assert_eq!(machine.ask_json(&["list"])[0]["state"], "evacuated", "it failed: saved and given back");
}

#[test]
fn other_signals_are_passed_on() {
    let world = World::new();
    let machine = world.machine("one");
    let names = ["HUP", "USR1", "USR2", "QUIT", "WINCH"];
    let traps: String = names.iter().map(|name| format!("trap 'echo got > {name}' {name}; ")).collect();
    let mut run = machine
        .run(&[], &format!("ulimit -c 0; {traps} echo x > ready; until [ -e end ]; do sleep 0.05; done"));
    written(&machine, "ready");
    for (name, signal) in
        names.iter().zip([Signal::HUP, Signal::USR1, Signal::USR2, Signal::QUIT, Signal::WINCH])
    {
        run.signal(signal);
        written(&machine, name);
    }
    machine.write("end", "");
    run.expect_code(0);
}

#[test]
fn under_nohup_a_hangup_reaches_neither_lifeboat_nor_the_command() {
    let world = World::new();
    let machine = world.machine("one");
    let inner = machine.run_command(
        "w",
        &[],
        &["/bin/sh", "-c", "kill -HUP $$; echo x > ready; until [ -e end ]; do sleep 0.05; done"],
    );
    let mut outer = Command::new("/bin/sh");
    outer.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    outer.current_dir(machine.work());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    let mut run = Running::start(&mut outer);
    written(&machine, "ready");
    run.signal(Signal::HUP);
    machine.write("end", "");
    run.expect_code(0);
}

#[test]
fn the_stop_signal_is_configurable() {
    let script = "trap 'echo $0 > got; exit 0' USR1 INT; echo x > ready; while :; do sleep 0.05; done";
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine.run(&["--stop-signal", "INT"], script);
    written(&machine, "ready");
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert!(machine.work().join("got").exists());

    let machine = world.machine("two");
    machine.configure("[command]\nstop_signal = \"SIGUSR1\"\n");
    let mut run = machine.run_named("v", &[], &["/bin/sh", "-c", script]);
    written(&machine, "ready");
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert!(machine.work().join("got").exists());
}

#[test]
fn a_stopped_command_is_woken_so_that_it_can_obey() {
    let world = World::new();
    let machine = world.machine("one");
    let mut run = machine
        .run(&[], "trap 'echo obeyed > obeyed; exit 0' TERM; echo $$ > pid; while :; do sleep 0.05; done");
    let leader = written(&machine, "pid");
    kill_process(pid(&leader), Signal::STOP).expect("it runs");
    eventually("it is stopped", || {
        let stat = fs::read_to_string(format!("/proc/{leader}/stat")).expect("it exists");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    });
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert_eq!(machine.read("obeyed").trim(), "obeyed");
    assert_eq!(outcome_of(&machine, "drain"), "done");
}

/// The beginning of a command that makes its argument process 1 of a new process namespace; `None` where this
/// user may not have one.
fn namespace() -> Option<Vec<&'static str>> {
    let as_root = vec!["unshare", "--pid", "--fork", "--mount-proc"];
    let as_user = vec!["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    [as_root, as_user].into_iter().find(|command| {
        Command::new(command[0])
            .args(&command[1..])
            .arg("true")
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "whoever reads the test's output shall see that it could not be done"
)]
fn as_process_1_it_reaps_zombies_obeys_sigterm_and_leaves_nothing() {
    let Some(namespace) = namespace() else {
        println!("not tested: this kernel lets this user have no process namespace");
        return;
    };
    let world = World::new();
    let machine = world.machine("one");
    let script = "
        for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 0' &); done
        tries=0
        while grep -qs '^State:.Z' /proc/[0-9]*/status; do
            tries=$((tries+1)); [ $tries -lt 500 ] || exit 9
            sleep 0.02
        done
        readlink /proc/1/exe > init
        sleep 1000";
    let inner = machine.run_command("w", &[], &["/bin/sh", "-c", script]);
    let mut outer = Command::new(namespace[0]);
    outer.args(&namespace[1..]).arg(inner.get_program()).args(inner.get_args()).current_dir(machine.work());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    let mut run = Running::start(&mut outer);
    assert!(written(&machine, "init").ends_with("lifeboat"), "lifeboat is process 1");
    let inside = descendants(run.pid());
    kill_process(inside[0], Signal::TERM).expect("it runs");
    run.expect_code(85);
    assert!(inside.iter().all(|pid| !is_alive(&pid.as_raw_nonzero().to_string())));
}

#[test]
fn the_command_is_told_where_it_stands() {
    let world = World::new();
    let first = world.spot_machine("one");
    let script = "
        env | grep ^LIFEBOAT_ | sort > environment
        echo '{\"step\": 7}' > state.json
        trap 'cp \"$LIFEBOAT_SIGNAL_FILE\" seen.signal; exit 0' TERM
        echo x > ready
        while :; do sleep 0.05; done";
    let mut run = first.run(&[], script);
    written(&first, "ready");
    let work = first.work().canonicalize().expect("exists");
    let environment = first.read("environment");
    for line in [
        "LIFEBOAT_WORKLOAD=w".to_owned(),
        "LIFEBOAT_INSTANCE=i-one".to_owned(),
        format!("LIFEBOAT_WORK_DIR={}", work.display()),
        format!("LIFEBOAT_STATE_FILE={}/state.json", work.display()),
        format!("LIFEBOAT_SIGNAL_FILE={}/shutdown.signal", first.agent("w").display()),
        "LIFEBOAT_RESTORED=no".to_owned(),
    ] {
        assert!(environment.lines().any(|found| found == line), "{line} is not in\n{environment}");
    }
    assert!(!environment.contains("LIFEBOAT_SAVED_STATE"), "{environment}");
    run.signal(Signal::TERM);
    run.expect_code(85);
    let signal: serde_json::Value = serde_json::from_str(&first.read("seen.signal")).expect("JSON");
    assert_eq!(signal["action"], "terminate");
    assert_eq!(signal["instance"], "i-one");
    assert_eq!(signal["announced_by"][0], "sigterm");
    assert!(signal["deadline"].as_str().expect("text").ends_with('Z'), "{signal}");

    let second = world.spot_machine("two");
    second.run(&[], "echo $LIFEBOAT_RESTORED > restored; cat $LIFEBOAT_SAVED_STATE > saved").expect_code(0);
    assert_eq!(second.read("restored").trim(), "yes");
    let saved: serde_json::Value = serde_json::from_str(&second.read("saved")).expect("JSON");
    assert_eq!(saved["step"], 7);
    assert_eq!(saved["interruption"]["action"], "terminate");
}

#[test]
fn the_signal_file_may_lie_where_the_configuration_says_and_a_stale_one_is_removed() {
    let world = World::new();
    let machine = world.machine("one");
    let file = machine.dir.join("stop here");
    machine.configure(&format!("signal_file = {:?}\n", file.to_str().expect("UTF-8")));
    fs::write(&file, "stale").expect("written");
    let mut run = machine.run(&[], "[ -e \"$LIFEBOAT_SIGNAL_FILE\" ] && exit 8; echo x > ready; until [ -e \"$LIFEBOAT_SIGNAL_FILE\" ]; do sleep 0.05; done; exit 0");
    written(&machine, "ready");
    run.signal(Signal::TERM);
    run.expect_code(85);
    assert!(fs::read_to_string(&file).expect("written").contains("terminate"));
}

#[test]
fn standard_input_reaches_the_command() {
    let world = World::new();
    let machine = world.machine("one");
    let mut command = machine.run_command("w", &[], &["/bin/sh", "-c", "cat > got"]);
    command.stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("started");
    child.stdin.take().expect("piped").write_all(b"one\ntwo\n").expect("read");
    assert!(child.wait().expect("our child").success());
    assert_eq!(machine.read("got"), "one\ntwo\n");
}

#[test]
fn standard_output_belongs_to_the_command_alone() {
    let world = World::new();
    let machine = world.machine("one");
    for options in [&["-v"][..], &["--json"], &["--quiet"]] {
        let output = machine.run_command("w", options, &["/bin/sh", "-c", "printf 'a\\0b'; exit 5"]).output();
        let output = output.expect("started");
        assert_eq!(output.status.code(), Some(5));
        assert_eq!(output.stdout, b"a\0b", "{options:?}");
    }
}

/// The agent is killed, its workload lives on: the next run stops that first and goes on with the same files.
fn survivor_is_stopped_first(start: &str) {
    let world = World::new();
    let machine = world.machine("one");
    machine.configure(QUICK);
    let script = "echo $$ > pid; trap 'echo stopped >> story; exit 0' TERM; echo begun >> story; while :; do sleep 0.05; done";
    machine.write("script", script);
    let mut run = machine.run(&[], start);
    let survivor = written(&machine, "pid");
    written(&machine, "story");
    // Said once the process is noted: until then only its environment tells whose it is.
    run.wait_for("workload started");
    run.kill_agent();
    assert!(is_alive(&survivor), "the workload outlives the agent");
    let mut run = machine.run(&[], "echo $LIFEBOAT_RESTORED >> story");
    run.expect_code(0);
    assert!(!is_alive(&survivor));
    assert_eq!(machine.read("story"), "begun\nstopped\nno\n", "{}", run.log());
}

#[test]
fn what_a_killed_agent_left_running_is_stopped_first_and_its_files_are_kept() {
    survivor_is_stopped_first("exec sh ./script");
}

#[test]
fn a_command_that_cleared_its_environment_is_found_after_the_agent_was_killed() {
    survivor_is_stopped_first("exec env -i sh ./script");
}

#[test]
fn a_child_that_left_its_session_and_cleared_its_environment_is_found_below_its_parent() {
    survivor_is_stopped_first("trap 'wait; exit 0' TERM; env -i setsid sh ./script & wait; wait");
}

#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let world = World::new();
    for (name, option) in [("plain", "-v"), ("json", "--json")] {
        let machine = world.machine(name);
        let mut command =
            machine.run_command(name, &[option], &["/bin/sh", "-c", "echo x > ready; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
        written(&machine, "ready");
        drop(child.stderr.take());
        let agent = Pid::from_raw(i32::try_from(child.id()).expect("small")).expect("positive");
        kill_process(agent, Signal::TERM).expect("it runs");
        assert_eq!(child.wait().expect("our child").code(), Some(85), "{option}");
    }
}

#[test]
fn a_terminal_that_is_closed_stops_nothing() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let world = World::new();
    let machine = world.machine("one");
    machine.write("input", vec![7u8; 3 << 20]);
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("named");
    let theirs =
        fs::OpenOptions::new().read(true).write(true).open(name.to_str().expect("UTF-8")).expect("opened");
    let mut command =
        machine.run_command("w", &[], &["/bin/sh", "-c", "cat; echo x > ready; exec sleep 1000"]);
    command.stdin(theirs.try_clone().expect("cloned")).stdout(Stdio::null()).stderr(theirs);
    let mut child = command.spawn().expect("started");
    drop(command); // it holds the other end open
    let mut terminal = fs::File::from(ours);
    let mut begin = [0; 64];
    let _ = terminal.read(&mut begin).expect("it logs to the terminal");
    // `cat` ended: a terminal is not passed on as standard input.
    written(&machine, "ready");
    drop(terminal);
    let agent = Pid::from_raw(i32::try_from(child.id()).expect("small")).expect("positive");
    kill_process(agent, Signal::TERM).expect("it runs");
    let mut code = None;
    eventually("it ends", || {
        code = child.try_wait().expect("our child");
        code.is_some()
    });
    assert_eq!(code.and_then(|status| status.code()), Some(85));
    assert_eq!(machine.summary()["verdict"], "complete");
    assert!(Duration::from_millis(machine.summary()["took_ms"].as_u64().expect("a number")) < LIMIT);
}

//! What Prometheus reads from an agent: the real binary, its port, and the whole way from a notice to the numbers.

mod harness;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use harness::{Machine, Running, World, eventually};
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use rustix::process::Signal;

/// One `GET`; the head and the body.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    (head.to_owned(), body.to_owned())
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn configure(machine: &Machine, address: &str) {
    let text = "lease = \"3s\"\nprecopy = \"1s\"\n[metadata]\ninterval = \"500ms\"\n[metrics]\nprometheus = ";
    machine.configure(&format!("{text}\"{address}\"\n"));
}

/// Where it says that it serves.
fn address_of(run: &mut Running) -> String {
    let line = run.wait_for("serving metrics");
    let address = line.split("address=").nth(1).expect("it says where").split_whitespace().next();
    address.expect("an address").to_owned()
}

fn end(mut run: Running) {
    run.signal(Signal::TERM);
    run.expect_code(85);
}

#[test]
fn an_agent_tells_prometheus_what_it_saved_and_how_long_the_evacuation_took() {
    let world = World::new();
    let machine = world.spot_machine("one");
    configure(&machine, "127.0.0.1:0");
    machine.write("file", "content");
    let mut run = machine.run(&[], "exec sleep 1000");
    let address = address_of(&mut run);
    let text = || get(&address, "/metrics").1;
    let (head, body) = get(&address, "/metrics");
    assert!(head.contains("200 OK") && head.contains("application/openmetrics-text"), "{head}");
    assert_eq!(
        value(&body, "lifeboat_agent_notices_total{workload=\"w\",source=\"instance_action\"}"),
        Some(0.0)
    );
    assert!(get(&address, "/").0.contains("404"));

    eventually("a round is counted, and its bytes", || {
        let text = text();
        value(&text, "lifeboat_agent_rounds_total{workload=\"w\",outcome=\"committed\"}") >= Some(1.0)
            && value(&text, "lifeboat_agent_saved_bytes_total{workload=\"w\"}") > Some(0.0)
    });
    // The only kind of evacuation that the agent outlives.
    let notice = NoticePlan::now(Action::Hibernate);
    machine.imds.as_ref().expect("has one").control.notice(notice);
    eventually("the evacuation is counted", || {
        value(&text(), "lifeboat_agent_evacuation_seconds_count{workload=\"w\",verdict=\"complete\"}")
            == Some(1.0)
    });
    let text = text();
    let notices = value(&text, "lifeboat_agent_notices_total{workload=\"w\",source=\"instance_action\"}");
    assert_eq!(notices, Some(1.0), "{text}");
    let stage = "{workload=\"w\",stage=\"snapshot\"}";
    assert_eq!(value(&text, &format!("lifeboat_agent_stage_seconds_count{stage}")), Some(1.0), "{text}");
    assert!(text.ends_with("# EOF\n"));
    machine.imds.as_ref().expect("has one").control.withdraw_notice();
    end(run);
}

#[test]
fn an_agent_that_protects_what_others_start_tells_prometheus_the_same() {
    let world = World::new();
    let machine = world.spot_machine("one");
    configure(&machine, "127.0.0.1:0");
    machine.write("file", "content");
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let (store, work) = (text(machine.store.clone()), text(machine.work()));
    let config = text(machine.dir.join("lifeboat.toml"));
    let args = ["agent", "--name", "w", "--store", &store, "--config", &config, "--work-dir", &work];
    let mut agent =
        Running::start(machine.lifeboat(&args).env_remove("INVOCATION_ID").env_remove("NOTIFY_SOCKET"));
    let address = address_of(&mut agent);
    agent.wait_for("protecting");
    eventually("a round is counted", || {
        let text = get(&address, "/metrics").1;
        value(&text, "lifeboat_agent_rounds_total{workload=\"w\",outcome=\"committed\"}") >= Some(1.0)
    });
    let control = &machine.imds.as_ref().expect("has one").control;
    control.notice(NoticePlan::now(Action::Hibernate));
    let counted = "lifeboat_agent_evacuation_seconds_count{workload=\"w\",verdict=\"complete\"}";
    eventually("the evacuation is counted", || value(&get(&address, "/metrics").1, counted) == Some(1.0));
    let text = get(&address, "/metrics").1;
    let drained = "lifeboat_agent_stage_ends_total{workload=\"w\",stage=\"drain\",outcome=\"not_wanted\"}";
    assert_eq!(value(&text, drained), Some(1.0), "{text}");
    control.withdraw_notice();
    end(agent);
}

#[test]
fn a_crowd_that_says_nothing_takes_none_of_the_descriptors_that_the_evacuation_needs() {
    const CROWD: usize = 300;
    let world = World::new();
    let machine = world.spot_machine("one");
    configure(&machine, "127.0.0.1:0");
    let mut run = machine.run(&[], "exec sleep 1000");
    let address = address_of(&mut run);
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|_| {
            let stream = TcpStream::connect(&address).expect("it listens");
            stream.set_nonblocking(true).expect("set");
            stream
        })
        .collect();
    let is_open = |stream: &&TcpStream| matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    eventually("most are sent away", || crowd.iter().filter(is_open).count() < 50);
    drop(crowd);
    eventually("others are served", || {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        asked.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.contains("# EOF")
    });
    end(run);
}

#[test]
fn a_port_that_is_taken_is_told_and_the_work_is_protected_all_the_same() {
    let world = World::new();
    let machine = world.spot_machine("one");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    configure(&machine, &taken.local_addr().expect("bound").to_string());
    let mut run = machine.run(&[], "echo x > ready; exec sleep 1000");
    run.wait_for("metrics are not served");
    eventually("it runs", || machine.work().join("ready").exists());
    end(run);
}

#[test]
fn an_address_that_other_machines_reach_is_refused_unless_it_is_asked_for() {
    let world = World::new();
    let machine = world.machine("one");
    let config = machine.dir.join("lifeboat.toml").to_string_lossy().into_owned();
    let check = || machine.lifeboat(&["config", "check", &config]).output().expect("started");
    configure(&machine, "0.0.0.0:9464");
    let output = check();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("prometheus_public"), "{said}");
    machine.configure("[metrics]\nprometheus = \"0.0.0.0:9464\"\nprometheus_public = true\n");
    assert!(check().status.success());
}

//! `lifeboat demo fleet`: a lab and a controller, the real ones, on this machine and with no account. Spot loses most of
//! its room; the controller runs On-Demand in its place, and goes back once Spot has room again.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use lifeboat_core::time::Timestamp;
use lifeboat_sim::lab::{self, LabScenario, Pair, Settings, Stamps};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::DIFFERENT;
use crate::output;

/// Tasks that are wanted, and for how many Spot has room while it is short.
const TARGET: u64 = 20;
const SHORT: u64 = 4;

/// Each wait needs seconds; a busy machine more.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Between two looks at the lab.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A controller that is told to end has so long.
const END_MAX: Duration = Duration::from_secs(10);

/// How long Spot stays short, in the world's milliseconds.
const SHORTAGE_MS: i64 = 600_000;

#[derive(Args, Debug)]
pub(crate) struct FleetDemoArgs {
    /// World seconds for each second.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=120))]
    speed: u32,
    /// How the controller decides.
    #[arg(long, default_value = "shortfall", value_parser = ["shortfall", "switch"])]
    policy: String,
    /// Start no controller: the demo must then fail.
    #[arg(long)]
    no_controller: bool,
}

/// What happened.
#[derive(Debug, Serialize)]
struct Found {
    /// On-Demand ran what Spot had lost.
    took_over: bool,
    /// Spot runs everything again, and On-Demand nothing.
    came_back: bool,
    target: u64,
    /// The fewest tasks that served at any moment.
    lowest_ready: u64,
    /// From the first notice until On-Demand was asked for, in the world's seconds.
    reaction_s: Option<f64>,
    metrics: Vec<Value>,
    rows: Vec<Row>,
    seconds: f32,
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    at_ms: i64,
    what: String,
    spot_ready: u64,
    on_demand_ready: u64,
}

impl Found {
    /// The controller's own actions never leave less than half; a notice is two minutes, a start less.
    const fn is_good(&self) -> bool {
        self.took_over && self.came_back && self.lowest_ready * 2 >= self.target
    }
}

/// Runs it until it is over, or until the process is told to end.
pub(crate) async fn demo(args: &FleetDemoArgs, json: bool) -> anyhow::Result<u8> {
    let folder = tempfile::Builder::new().prefix("lifeboat-fleet-").tempdir()?;
    let listener = lab::listen(([127, 0, 0, 1], 0).into()).await?;
    let addr = listener.local_addr().context("cannot tell the lab's address")?.to_string();
    let settings = Settings { scenario: scenario(), speed: args.speed, stamps: Stamps::World };
    let queue = format!("http://{addr}/{}/{}", settings.scenario.account, settings.scenario.queue);
    let say = |text: &str| {
        if !json {
            output::note(text);
        }
    };
    say(&format!("a lab on http://{addr} (watch it there), {} times as fast as real time", args.speed));
    let found = tokio::select! {
        served = lab::serve(listener, settings, std::future::pending()) => {
            served?;
            bail!("the lab ended")
        }
        found = Box::pin(play(args, (&addr, &queue), folder.path(), &say)) => found?,
    };
    if json {
        output::either(true, &found, String::new)?;
    } else {
        output::result(&table(&found))?;
    }
    Ok(if found.is_good() { 0 } else { DIFFERENT })
}

fn scenario() -> LabScenario {
    LabScenario {
        services: vec![Pair { name: "web".to_owned(), tasks: 20 }],
        spot_capacity: Some(40),
        ..LabScenario::default()
    }
}

async fn play(
    args: &FleetDemoArgs,
    (addr, queue): (&str, &str),
    folder: &Path,
    say: &dyn Fn(&str),
) -> anyhow::Result<Found> {
    let begun = Instant::now();
    let time = ask(addr, "GET", "time", &Value::Null).await?;
    let origin = number(&time["stamp_ms"]) - number(&time["world_ms"]);
    let config = folder.join("fleet.toml");
    std::fs::write(&config, configuration(args, addr, queue, origin))?;
    let controller = if args.no_controller { None } else { Some(controller(&config)?) };
    if controller.is_some() {
        wait(addr, "the controller looks at its services", |state| {
            !state["calls"]["ecs:DescribeTasks"].is_null()
        })
        .await?;
    }
    say(&format!("web runs {TARGET} tasks on Spot; Spot is about to lose all room but for {SHORT} of them"));
    let begin = number(&ask(addr, "POST", "capacity", &json!({ "spot": SHORT })).await?["time"]["world_ms"]);
    let covered = wait(addr, "On-Demand runs what Spot has lost", |state| {
        let web = &state["services"][0];
        let (spot, other) = (number(&web["spot"]["ready"]), number(&web["on_demand"]["ready"]));
        number(&web["spot"]["warned"]) == 0 && spot <= 4 && spot + other >= 20
    });
    let took_over = if controller.is_some() { covered.await.is_ok() } else { false };
    say("Spot has room again");
    wait(addr, "ten minutes of the world's time pass", |state| {
        number(&state["time"]["world_ms"]) >= begin + SHORTAGE_MS
    })
    .await?;
    ask(addr, "POST", "capacity", &json!({ "spot": 40 })).await?;
    let back = wait(addr, "Spot runs everything again", |state| {
        let web = &state["services"][0];
        let count = |side: &str, what: &str| number(&web[side][what]);
        count("spot", "ready") == 20 && count("on_demand", "ready") == 0 && count("on_demand", "desired") == 0
    });
    let came_back = if took_over { back.await.is_ok() } else { false };
    let found = look_back(addr, (took_over, came_back), begin, begun).await?;
    if let Some(child) = controller {
        end(child).await?;
    }
    Ok(found)
}

fn configuration(args: &FleetDemoArgs, addr: &str, queue: &str, origin: i64) -> String {
    let origin = lifeboat_controller::clock::rfc3339(Timestamp(origin));
    format!(
        "region = \"us-east-1\"\nendpoint = \"http://{addr}\"\nclusters = [\"lab\"]\n\
         [policy]\nname = \"{}\"\n[[service]]\nname = \"web\"\ntarget = {TARGET}\n[queue]\nurl = \"{queue}\"\n\
         [store]\nsqlite = \"fleet.db\"\n[alerts]\ntopic = \"arn:aws:sns:us-east-1:123456789012:lifeboat-alerts\"\n\
         [metrics]\nnamespace = \"Lifeboat\"\n[prices]\non_demand_task_hour = 0.268\nspot_task_hour = 0.118\n\
         [clock]\nscale = {}\norigin = \"{origin}\"\n",
        args.policy, args.speed
    )
}

fn controller(config: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let folder = config.parent().context("the configuration is in a folder")?;
    let log = std::fs::File::create(folder.join("controller.log"))?;
    let child = Command::new(program)
        .args(["controller", "--config"])
        .arg(config)
        .current_dir(folder)
        .env("AWS_ACCESS_KEY_ID", "lab")
        .env("AWS_SECRET_ACCESS_KEY", "lab")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", folder)
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("LIFEBOAT_SLACK_WEBHOOK")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn();
    child.context("cannot start the controller")
}

async fn end(mut child: Child) -> anyhow::Result<()> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        kill_process(pid, Signal::TERM).context("cannot end the controller")?;
    }
    if tokio::time::timeout(END_MAX, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(())
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Waits until the lab's state is so.
async fn wait(addr: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let until = Instant::now() + WAIT_MAX;
    loop {
        if is_so(&ask(addr, "GET", "state", &Value::Null).await?) {
            return Ok(());
        }
        if Instant::now() >= until {
            bail!("within {} s it did not come about that {what}", WAIT_MAX.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// One request of the lab's control plane, which closes the connection after its answer.
async fn ask(addr: &str, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        let head = format!(
            "{method} /lab/{path} HTTP/1.0\r\nHost: {addr}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(WAIT_MAX, exchange).await.context("the lab does not answer")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("the lab's answer has no head")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("the lab refused {path}: {body}");
    }
    Ok(serde_json::from_str(body)?)
}

/// Everything that happened from `begin` on, from the lab's records.
async fn look_back(
    addr: &str,
    (took_over, came_back): (bool, bool),
    begin: i64,
    begun: Instant,
) -> anyhow::Result<Found> {
    let line = ask(addr, "GET", "timeline?service=web", &Value::Null).await?;
    let samples: Vec<[i64; 8]> = serde_json::from_value(line["samples"].clone())?;
    let mut events = Vec::new();
    let mut since = 0;
    loop {
        let page = ask(addr, "GET", &format!("events?since={since}"), &Value::Null).await?;
        let Some(list) = page["events"].as_array().filter(|list| !list.is_empty()) else { break };
        since = number(&list[list.len() - 1]["number"]);
        events.extend(list.iter().filter(|event| number(&event["at_ms"]) >= begin).cloned());
    }
    let metrics = ask(addr, "GET", "metrics", &Value::Null).await?;
    let metrics = metrics["metrics"].as_array().cloned().unwrap_or_default();
    let lowest = samples.iter().map(|sample| sample[1] + sample[2] + sample[4]).min().unwrap_or(0);
    let first = |text: &str, kind: &str| {
        let is = |event: &&Value| {
            event["kind"] == kind && event["text"].as_str().is_some_and(|found| found.starts_with(text))
        };
        events.iter().find(is).map(|event| number(&event["at_ms"]))
    };
    let notice = first("interruption notice", "event");
    let ordered = first("web-standard is to run", "desired");
    #[expect(clippy::cast_precision_loss, reason = "minutes in milliseconds")]
    let reaction_s = notice.zip(ordered).map(|(notice, ordered)| (ordered - notice) as f64 / 1000.0);
    Ok(Found {
        took_over,
        came_back,
        target: TARGET,
        lowest_ready: u64::try_from(lowest).unwrap_or(0),
        reaction_s,
        metrics: kinds(&metrics),
        rows: rows(&events, &samples),
        seconds: begun.elapsed().as_secs_f32(),
    })
}

/// Each metric once: namespace, name and the names of its dimensions.
fn kinds(metrics: &[Value]) -> Vec<Value> {
    let mut kinds: Vec<Value> = Vec::new();
    for metric in metrics {
        let kind = json!({
            "namespace": metric["namespace"], "name": metric["name"], "dimensions": metric["dimensions"],
        });
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// What is worth a line; equal things that follow each other share one.
fn rows(events: &[Value], samples: &[[i64; 8]]) -> Vec<Row> {
    let mut rows: Vec<(i64, String, u32)> = Vec::new();
    for event in events {
        let text = event["text"].as_str().unwrap_or_default();
        let service = event["service"].as_str().unwrap_or_default();
        let what = match (event["kind"].as_str().unwrap_or_default(), text) {
            ("event", "interruption notice") => "interruption notice".to_owned(),
            ("event", "SERVICE_TASK_PLACEMENT_FAILURE") => format!("{service}: no capacity"),
            ("event", _) => continue,
            (kind, text) => format!("{kind}: {text}"),
        };
        match rows.last_mut() {
            Some((_, last, count)) if *last == what => *count += 1,
            _ => rows.push((number(&event["at_ms"]), what, 1)),
        }
    }
    let at = |ms: i64| samples.iter().rev().find(|sample| sample[0] <= ms).copied().unwrap_or([0; 8]);
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    rows.into_iter()
        .map(|(at_ms, what, times)| {
            let sample = at(at_ms);
            Row {
                at_ms,
                what: if times > 1 { format!("{what} × {times}") } else { what },
                spot_ready: count(sample[1] + sample[2]),
                on_demand_ready: count(sample[4]),
            }
        })
        .collect()
}

fn table(found: &Found) -> String {
    let mut text = String::from("    time  Spot  On-Demand  what happened\n");
    for row in &found.rows {
        let seconds = row.at_ms / 1000;
        let _ = writeln!(
            text,
            "{:>5}:{:02} {:>5} {:>10}  {}",
            seconds / 60,
            seconds % 60,
            row.spot_ready,
            row.on_demand_ready,
            row.what
        ); // a String takes everything
    }
    let answer = |is: bool| if is { "yes" } else { "NO" };
    let reaction = found.reaction_s.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.0} s"));
    let _ = write!(
        text,
        "\nOn-Demand took over: {}. Asked for after the first notice: {reaction}. Back on Spot: {}.\n\
         Fewest tasks serving: {} of {}. All of it took {:.0} s.\n",
        answer(found.took_over),
        answer(found.came_back),
        found.lowest_ready,
        found.target,
        found.seconds
    );
    text
}

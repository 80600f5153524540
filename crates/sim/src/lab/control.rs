//! The control plane: what the world looks like, and what shall happen to it. JSON over HTTP below `/lab/`; the
//! endpoints are listed in the module's documentation.

use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::time::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::clock::SPEED_MAX;
use super::events;
use super::failures::Failure;
use super::names::service_of;
use super::record::Call;
use super::scenario::FaultShares;
use super::state::Lab;
use super::wire::later;

/// The longest step that the world is moved on at once: it is computed before the answer comes.
const ADVANCE_MAX_MS: u64 = 7 * 24 * 3_600_000;

/// Lines that one answer holds.
const PAGE_MAX: usize = 2_000;

/// Why a request of the control plane is refused, with its status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) u16, pub(crate) String);

type Done = Result<Value, Refused>;

fn wrong(text: impl Into<String>) -> Refused {
    Refused(400, text.into())
}

/// Answers one request. `query` is what stands behind the question mark.
pub(crate) fn handle(lab: &mut Lab, method: &str, path: &str, query: &str, body: &[u8]) -> Done {
    match (method, path) {
        ("GET", "state") => Ok(state(lab)),
        ("GET", "time") => Ok(time(lab)),
        ("GET", "calls") => Ok(calls(lab, query)),
        ("GET", "queues") => Ok(queues(lab)),
        ("GET", "counts") => Ok(counts(lab)),
        ("GET", "messages") => messages(lab, query),
        ("GET", "events") => Ok(lines(lab, since(query))),
        ("GET", "timeline") => timeline(lab, query),
        ("GET", "metrics") => Ok(json!({ "metrics": lab.records.metrics })),
        ("GET", "alerts") => Ok(json!({ "alerts": lab.records.alerts })),
        ("GET", "commands") => Ok(json!({ "commands": lab.records.commands })),
        ("POST", "advance") => advance(lab, body),
        ("POST", "speed") => speed(lab, body),
        ("POST", "interrupt") => interrupt(lab, body),
        ("POST", "capacity") => capacity(lab, body),
        ("POST", "quota") => quota(lab, body),
        ("POST", "faults") => faults(lab, body),
        ("POST", "fail") => fail(lab, body),
        ("POST", "mend") => {
            lab.failures.clear();
            Ok(json!({}))
        }
        ("POST", "send") => send(lab, body),
        ("POST", "instance") => instance(lab, body),
        ("POST", "desired") => desired(lab, body),
        ("POST", "service") => service(lab, body),
        (
            _,
            "state" | "time" | "calls" | "counts" | "queues" | "messages" | "events" | "timeline" | "metrics"
            | "alerts" | "commands",
        ) => Err(Refused(405, format!("/lab/{path} answers GET"))),
        _ => Err(Refused(404, format!("there is no {method} /lab/{path}"))),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    let body = if body.is_empty() { b"{}".as_slice() } else { body };
    serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn since(query: &str) -> u64 {
    parameter(query, "since").and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn time(lab: &Lab) -> Value {
    json!({
        "world_ms": lab.now().0,
        "speed": lab.clock.speed(),
        "stamps": lab.clock.stamps(),
        "stamp_ms": lab.clock.stamp(lab.now()),
        "wall_ms": lab.wall,
    })
}

fn state(lab: &Lab) -> Value {
    let zones = lab.live.zones().into_iter();
    json!({
        "time": time(lab),
        "region": lab.names.region,
        "account": lab.names.account,
        "cluster": lab.names.cluster,
        "queue": lab.queue_name,
        "queues": queues(lab),
        "zones": zones.map(|(name, room, used)| json!({ "name": name, "room": room, "used": used })).collect::<Vec<_>>(),
        "services": (0..lab.pairs.len()).map(|pair| pair_state(lab, pair)).collect::<Vec<_>>(),
        "calls": counts(lab),
        "failures": lab.failures.len(),
        "metrics": lab.records.metrics.len(),
        "alerts": lab.records.alerts.len(),
        "commands": lab.records.commands.len(),
    })
}

/// How many calls of each operation had each outcome. Cheap, as the next.
fn counts(lab: &Lab) -> Value {
    let mut counts: Map<String, Value> = Map::new();
    for ((operation, outcome), count) in &lab.records.counts {
        let entry = counts.entry(operation.clone()).or_insert_with(|| json!({}));
        entry[outcome] = json!(count);
    }
    Value::Object(counts)
}

/// How full each queue is, and what has passed it. Far cheaper than the whole state of a large fleet.
fn queues(lab: &Lab) -> Value {
    let each = lab.queues.iter().map(|(name, queue)| {
        let depth = queue.depth();
        let value = json!({
            "visible": depth.visible, "in_flight": depth.in_flight,
            "sent": queue.sent, "deleted": queue.deleted,
        });
        (name.clone(), value)
    });
    Value::Object(each.collect())
}

/// What was sent to a queue, the events' own by default, and when it was deleted.
fn messages(lab: &Lab, query: &str) -> Done {
    let name = parameter(query, "queue").unwrap_or_else(|| lab.queue_name.clone());
    let queue = lab.queues.get(&name).ok_or_else(|| wrong(format!("no queue {name}")))?;
    let each = queue.passed(since(query)).take(PAGE_MAX).map(|passed| {
        json!({
            "number": passed.number, "id": *passed.id, "sent_ms": passed.sent_ms, "deleted_ms": passed.deleted_ms,
            "body": *passed.body,
        })
    });
    Ok(json!({ "messages": each.collect::<Vec<_>>() }))
}

fn pair_state(lab: &Lab, pair: usize) -> Value {
    let figures = lab.live.figures(pair);
    let service = |capacity| &lab.services[Lab::index_of(pair, capacity)];
    let (spot, standard) = (service(Capacity::Spot), service(Capacity::OnDemand));
    json!({
        "name": lab.pairs[pair],
        "target": lab.live.target(pair),
        "spot": {
            "service": spot.name, "desired": figures.spot_desired, "ready": figures.spot_ready,
            "starting": figures.spot_starting, "warned": figures.spot_warned, "deleted": spot.is_inactive,
        },
        "on_demand": {
            "service": standard.name, "desired": figures.on_demand_desired, "ready": figures.on_demand_ready,
            "starting": figures.on_demand_starting, "deleted": standard.is_inactive,
        },
    })
}

fn calls(lab: &Lab, query: &str) -> Value {
    let (since, operation) = (since(query), parameter(query, "operation"));
    let is_asked = |call: &&Call| operation.as_ref().is_none_or(|operation| call.operation == *operation);
    let later = lab.records.calls.iter().filter(|call| call.number > since);
    let calls = later.filter(is_asked).take(PAGE_MAX);
    json!({ "calls": calls.collect::<Vec<_>>() })
}

fn lines(lab: &Lab, since: u64) -> Value {
    let lines = lab.records.lines.iter().filter(|line| line.number > since).take(PAGE_MAX);
    json!({ "events": lines.collect::<Vec<_>>() })
}

/// What the page draws of one pair: where it stood when.
fn timeline(lab: &Lab, query: &str) -> Done {
    let pair = match parameter(query, "service") {
        None => 0,
        Some(name) => pair_of(lab, &name)?,
    };
    let from = parameter(query, "from_ms").and_then(|ms| ms.parse().ok()).unwrap_or(i64::MIN);
    let samples = lab.records.samples[pair].iter().filter(|sample| sample.at.0 >= from).map(|sample| {
        let figures = sample.figures;
        json!([
            sample.at.0,
            figures.spot_ready,
            figures.spot_warned,
            figures.spot_starting,
            figures.on_demand_ready,
            figures.on_demand_starting,
            figures.spot_desired,
            figures.on_demand_desired,
        ])
    });
    Ok(json!({
        "service": lab.pairs[pair],
        "target": lab.live.target(pair),
        "columns": ["at_ms", "spot_ready", "spot_warned", "spot_starting", "on_demand_ready", "on_demand_starting",
            "spot_desired", "on_demand_desired"],
        "samples": samples.collect::<Vec<_>>(),
    }))
}

fn pair_of(lab: &Lab, name: &str) -> Result<usize, Refused> {
    lab.pair(name).ok_or_else(|| wrong(format!("no pair {name}; there are {}", lab.pairs.join(", "))))
}

/// A time in exactly one of two units.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Advance {
    seconds: u64,
    ms: u64,
}

fn advance(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: Advance = read(body)?;
    let ms = asked.seconds.saturating_mul(1000).saturating_add(asked.ms);
    if ms == 0 || ms > ADVANCE_MAX_MS {
        return Err(wrong("seconds and ms together must be above 0 and at most a week"));
    }
    lab.advance(ms);
    Ok(time(lab))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Speed {
    speed: u32,
}

fn speed(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: Speed = read(body)?;
    if asked.speed > SPEED_MAX {
        return Err(wrong(format!("speed must be 0 (stand still) to {SPEED_MAX}")));
    }
    let wall = lab.wall;
    lab.clock.set_speed(wall, asked.speed);
    Ok(time(lab))
}

const fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Interrupt {
    tasks: u32,
    service: Option<String>,
    #[serde(default = "yes")]
    announced: bool,
}

fn interrupt(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: Interrupt = read(body)?;
    let pair = asked.service.map(|name| pair_of(lab, &name)).transpose()?;
    let taken = lab.interrupt(pair, asked.tasks, asked.announced);
    Ok(json!({ "interrupted": taken }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpotCapacity {
    spot: u32,
    for_seconds: Option<u64>,
}

fn capacity(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: SpotCapacity = read(body)?;
    let until: Option<Timestamp> =
        asked.for_seconds.map(|seconds| later(lab.now(), seconds.saturating_mul(1000)));
    lab.set_spot_capacity(asked.spot, until);
    Ok(state(lab))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quota {
    on_demand: Option<u32>,
}

fn quota(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: Quota = read(body)?;
    lab.live.set_on_demand_quota(asked.on_demand.unwrap_or(u32::MAX));
    Ok(json!({}))
}

fn faults(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: FaultShares = read(body)?;
    asked.check().map_err(|error| wrong(error.to_string()))?;
    lab.set_faults(&asked);
    Ok(json!({}))
}

fn fail(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: Failure = read(body)?;
    let wall = lab.wall;
    if lab.failures.add(asked, wall) {
        Ok(json!({}))
    } else {
        Err(wrong("there are 100 orders to fail already"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    body: Option<Value>,
    /// Several at once.
    #[serde(default)]
    bodies: Vec<Value>,
    #[serde(default = "one")]
    copies: u32,
}

const fn one() -> u32 {
    1
}

fn send(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: Send = read(body)?;
    for body in asked.body.iter().chain(&asked.bodies) {
        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        for _ in 0..asked.copies.min(10_000) {
            if !lab.send_raw(text.clone()) {
                return Err(Refused(507, "the queue is full".to_owned()));
            }
        }
    }
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfInstance {
    kind: String,
    instances: Vec<String>,
}

fn instance(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: OfInstance = read(body)?;
    let (at, id) = (lab.now(), lab.live.draw());
    let stamp = lab.clock.stamp(at);
    let event = events::of_instance(lab, &asked.kind, &asked.instances, stamp, id).ok_or_else(|| {
        wrong(
            "kind must be interruption, rebalance, shutting-down, stopping, stopped, terminated, lifecycle or health, \
             and instances must name one or more",
        )
    })?;
    let arrivals = lab.live.arrivals();
    lab.send(at, "instance event", None, (event, arrivals));
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Desired {
    service: String,
    count: u32,
}

fn desired(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: Desired = read(body)?;
    let index = lab.by_name.get(&asked.service).copied();
    let index = index.ok_or_else(|| wrong(format!("no service {}", asked.service)))?;
    lab.set_desired(index, asked.count.min(5_000));
    Ok(state(lab))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceChange {
    /// The pair.
    name: String,
    deleted: Option<bool>,
    deploying: Option<bool>,
    /// What its gaps are measured against from now on.
    target: Option<u32>,
}

fn service(lab: &mut Lab, body: &[u8]) -> Done {
    let asked: ServiceChange = read(body)?;
    let pair = match lab.pair(&asked.name) {
        Some(pair) => pair,
        None if asked.deleted == Some(false) => lab.add_pair(&asked.name).map_err(wrong)?,
        None => return Err(wrong(format!("no pair {}; \"deleted\": false makes one", asked.name))),
    };
    if let Some(target) = asked.target {
        lab.live.set_target(pair, target.min(5_000));
    }
    for capacity in [Capacity::Spot, Capacity::OnDemand] {
        let index = Lab::index_of(pair, capacity);
        if let Some(deleted) = asked.deleted {
            lab.services[index].is_inactive = deleted;
            if deleted {
                lab.set_desired(index, 0);
            }
        }
        if let Some(deploying) = asked.deploying {
            lab.services[index].deploys = deploying;
        }
    }
    debug_assert_eq!(
        lab.services[Lab::index_of(pair, Capacity::Spot)].name,
        service_of(&asked.name, Capacity::Spot)
    );
    Ok(state(lab))
}

//! HTTP around the lab: one listener on loopback for AWS's protocols, the control plane and the page.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::clock::{SPEED_MAX, Stamps};
use super::control::{self, Refused};
use super::failures::Failure;
use super::scenario::LabScenario;
use super::state::Lab;
use super::wire::protocol::{self, Answer, Head};
use super::wire::{self, Fault, Reply};
use crate::scenario::ScenarioError;

/// The largest request: an SQS batch of 1 MiB in JSON, with room for its escapes.
const BODY_MAX: usize = 4 << 20;

/// A call that is to hang is answered after this by closing the connection: no client waits longer.
const HANG_MAX: Duration = Duration::from_secs(600);

/// The world is looked at that often at most and at least while nobody asks.
const TICK_MIN_MS: u64 = 5;
const TICK_MAX_MS: u64 = 1_000;

/// Why a lab cannot be served.
#[derive(Debug, Error)]
pub enum LabError {
    /// The scenario is wrong.
    #[error("the lab's scenario cannot be played")]
    Scenario(#[from] ScenarioError),
    /// The address is not of this machine alone.
    #[error("a lab serves on loopback only, not on {addr}")]
    NotLoopback {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The speed lies outside its range.
    #[error("a lab's speed is 0 (moved on by hand) to {SPEED_MAX}, not {found}")]
    Speed {
        /// What was asked for.
        found: u32,
    },
    /// The server broke down.
    #[error("the lab's server failed")]
    Serve(#[source] std::io::Error),
}

/// How a lab runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it plays.
    pub scenario: LabScenario,
    /// World seconds for each of the wall's; 0 stands still until it is moved on.
    pub speed: u32,
    /// What the time stamps on the wire say.
    pub stamps: Stamps,
}

struct Shared {
    lab: Mutex<Lab>,
    /// Messages may have become visible.
    arrived: Notify,
    /// The clock was changed.
    changed: Notify,
}

/// Milliseconds since 1970.
fn wall_now() -> i64 {
    lifeboat_wall::wall_now().0
}

impl Shared {
    /// The lab as it is now.
    fn lab(&self) -> MutexGuard<'_, Lab> {
        // Whoever panicked has left a lab that is still consistent enough to be looked at.
        let mut lab = self.lab.lock().unwrap_or_else(PoisonError::into_inner);
        lab.catch_up(wall_now());
        lab
    }

    fn with<T>(&self, act: impl FnOnce(&mut Lab) -> T) -> T {
        let mut lab = self.lab();
        let done = act(&mut lab);
        let has_messages = lab.queues.values().any(|queue| queue.depth().visible > 0);
        drop(lab);
        if has_messages {
            self.arrived.notify_waiters();
        }
        done
    }
}

/// Listens on an address of loopback; port 0 takes a free one.
///
/// # Errors
///
/// The address is not of loopback, or is taken.
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, LabError> {
    if !addr.ip().is_loopback() {
        return Err(LabError::NotLoopback { addr });
    }
    TcpListener::bind(addr).await.map_err(|source| LabError::Listen { addr, source })
}

/// Serves a lab until `stop`.
///
/// # Errors
///
/// The settings cannot be, or the server breaks down.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), LabError> {
    if settings.speed > SPEED_MAX {
        return Err(LabError::Speed { found: settings.speed });
    }
    let addr = listener.local_addr().map_err(LabError::Serve)?;
    if !addr.ip().is_loopback() {
        return Err(LabError::NotLoopback { addr });
    }
    let lab = Lab::new(&settings.scenario, wall_now(), settings.speed, settings.stamps)?;
    let shared = Arc::new(Shared { lab: Mutex::new(lab), arrived: Notify::new(), changed: Notify::new() });
    let router = Router::new().route("/", get(page).post(aws)).fallback(any).with_state(Arc::clone(&shared));
    // Long polls and hanging calls end with the process; nobody waits for them.
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served.map_err(LabError::Serve),
        () = drive(&shared) => Ok(()),
        () = stop => Ok(()),
    }
}

/// Moves the world on while nobody asks, so that whoever waits for a message gets it.
async fn drive(shared: &Shared) {
    loop {
        let wait = shared.with(|lab| lab.wake_after()).unwrap_or(TICK_MAX_MS);
        let wait = Duration::from_millis(wait.clamp(TICK_MIN_MS, TICK_MAX_MS));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.changed.notified() => {}
        }
    }
}

async fn page() -> Html<&'static str> {
    Html(include_str!("page.html"))
}

async fn any(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    if !is_loopback(request.headers()) {
        return (StatusCode::FORBIDDEN, "lifeboat lab answers loopback names only\n").into_response();
    }
    match request.uri().path().strip_prefix("/lab/").map(str::to_owned) {
        Some(path) => control(&shared, &path, request).await,
        None => aws(State(shared), request).await,
    }
}

/// A page of somewhere else whose name was made to point here is refused.
fn is_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = if host.ends_with(']') { host } else { name };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn control(shared: &Shared, path: &str, request: Request) -> Response {
    let method = request.method().as_str().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let Ok(body) = to_bytes(request.into_body(), BODY_MAX).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n").into_response();
    };
    let done = shared.with(|lab| control::handle(lab, &method, path, &query, &body));
    shared.changed.notify_one();
    let (status, value) = match done {
        Ok(value) => (200, value),
        Err(Refused(status, text)) => (status, json!({ "error": text })),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, format!("{value}\n")).into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn aws(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !is_loopback(&parts.headers) {
        return (StatusCode::FORBIDDEN, "lifeboat lab answers loopback names only\n").into_response();
    }
    let content_type = text(&parts.headers, "content-type").unwrap_or_default();
    let Ok(body) = to_bytes(body, BODY_MAX).await else {
        return response(protocol::refuse(
            &Fault::new("RequestEntityTooLarge", "the body is too large"),
            content_type,
        ));
    };
    let head = Head {
        path: parts.uri.path(),
        target: text(&parts.headers, "x-amz-target"),
        content_type,
        content_encoding: text(&parts.headers, "content-encoding"),
    };
    let request = match protocol::decode(head, &body) {
        Ok(request) => request,
        Err(fault) => return response(protocol::refuse(&fault, content_type)),
    };
    let host = text(&parts.headers, "host").unwrap_or("127.0.0.1").to_owned();
    answer(&shared, &request, &host).await
}

async fn answer(shared: &Shared, request: &protocol::Request, host: &str) -> Response {
    let operation = format!("{}:{}", request.api.name(), request.operation);
    let ordered = shared.with(|lab| {
        let wall = lab.wall;
        lab.failures.take(&operation, wall)
    });
    if let Some(failure) = ordered {
        // Without a response it was only delayed.
        if let Some(response) = fail(shared, request, (&operation, host), &failure).await {
            return response;
        }
    }
    let mut wait_until = None;
    loop {
        // Asked for before the look, so that nothing arrives in between unseen.
        let arrived = shared.arrived.notified();
        tokio::pin!(arrived);
        arrived.as_mut().enable();
        // A look that found nothing changes nothing: it must wake nobody, or those who wait keep each other awake.
        let step = attempt(&mut shared.lab(), request, &operation, host);
        let until = match step {
            Step::Done(answer) => {
                shared.with(|_| {});
                return response(answer);
            }
            Step::Wait(until) => *wait_until.get_or_insert(until),
        };
        let left = u64::try_from(until.saturating_sub(wall_now())).unwrap_or(0);
        tokio::select! {
            () = arrived => {}
            () = tokio::time::sleep(Duration::from_millis(left)) => {}
        }
        if wall_now() >= until {
            let done = shared.with(|lab| attempt(lab, &without_wait(request), &operation, host));
            if let Step::Done(answer) = done {
                return response(answer);
            }
        }
    }
}

fn without_wait(request: &protocol::Request) -> protocol::Request {
    let mut last = request.clone();
    last.input["WaitTimeSeconds"] = json!(0);
    last
}

/// Carries an ordered failure out; `None` where the call is only late.
async fn fail(
    shared: &Shared,
    request: &protocol::Request,
    (operation, host): (&str, &str),
    failure: &Failure,
) -> Option<Response> {
    if failure.takes_effect {
        let _ = shared.with(|lab| attempt(lab, request, operation, host)); // its answer is what gets lost
    }
    shared.with(|lab| note(lab, operation, &failure.error, &request.input));
    match failure.error.as_str() {
        "delay" => {
            tokio::time::sleep(Duration::from_millis(failure.delay_ms).min(HANG_MAX)).await;
            None
        }
        "hang" => {
            tokio::time::sleep(HANG_MAX).await;
            let fault = Fault::server();
            Some(response(protocol::encode(request, &Err(fault), "hung")))
        }
        code => {
            let is_server =
                code.starts_with("Server") || code.starts_with("Internal") || code.starts_with("ServiceUn");
            let status = failure.status.unwrap_or(if is_server { 500 } else { 400 });
            let message = if code.contains("Thrott") { "Rate exceeded" } else { "ordered of the lab" };
            let fault = Fault { code: code.to_owned(), message: message.to_owned(), status };
            Some(response(protocol::encode(request, &Err(fault), "ordered")))
        }
    }
}

enum Step {
    Done(Answer),
    /// Until then, by the wall.
    Wait(i64),
}

fn note(lab: &mut Lab, operation: &str, outcome: &str, input: &Value) {
    let (at, wall) = (lab.now(), lab.wall);
    lab.records.call(at, wall, (operation.to_owned(), outcome.to_owned(), wire::summary(input)));
}

fn attempt(lab: &mut Lab, request: &protocol::Request, operation: &str, host: &str) -> Step {
    let outcome = match outcome(lab, request, host) {
        Ok(Reply::Wait { until }) => return Step::Wait(until),
        Ok(Reply::Value(value)) => Ok(value),
        Err(fault) => Err(fault),
    };
    let is_empty = operation == "sqs:ReceiveMessage"
        && outcome.as_ref().is_ok_and(|value| value.get("Messages").is_none());
    if is_empty {
        lab.records.count(operation, "empty");
    } else {
        let name = outcome.as_ref().map_or_else(|fault| fault.code.clone(), |_| "ok".to_owned());
        note(lab, operation, &name, &request.input);
    }
    let id = super::names::uuid(lab.live.draw(), lab.live.draw());
    Step::Done(protocol::encode(request, &outcome, &id))
}

fn outcome(lab: &mut Lab, request: &protocol::Request, host: &str) -> Result<Reply, Fault> {
    if request.api != wire::Api::Ecs {
        return wire::call(lab, request.api, &request.operation, &request.input, host);
    }
    let (throttled, stale) = (lab.live.faults().throttled, lab.live.faults().stale);
    if lab.live.fails(throttled) {
        return Err(Fault::throttled());
    }
    let is_look = matches!(request.operation.as_str(), "DescribeServices" | "DescribeTasks");
    if stale == 0 || !is_look {
        return wire::call(lab, request.api, &request.operation, &request.input, host);
    }
    let key = format!("{} {}", request.operation, request.input);
    if lab.live.fails(stale)
        && let Some(old) = lab.old_look(&key)
    {
        return Ok(Reply::Value(old));
    }
    let reply = wire::call(lab, request.api, &request.operation, &request.input, host)?;
    if let Reply::Value(value) = &reply {
        lab.keep_look(key, value.clone());
    }
    Ok(reply)
}

fn response(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

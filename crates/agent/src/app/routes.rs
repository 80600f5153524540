//! The requests of the application interface, one function each. Their form: `lifeboat_worker::wire`; described in
//! docs/applications.md.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use lifeboat_snapshot::Deadline;
use lifeboat_snapshot::partial::Content;
use lifeboat_worker::wire::{
    End, Outcome, PARTIAL_BYTES_MAX, Progress, Receipt, Refusal, Registration, TASK_ID_BYTES_MAX,
    TEXT_BYTES_MAX, from_path,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::App;
use super::keep::KeepError;
use super::registry::Full;
use super::serve::{Body, Peer, full};
use crate::hands::chain;

/// A small request's body.
const SMALL_BYTES_MAX: usize = 16 << 10;

/// A request's body has arrived by then, or never does.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// What waits for the store or a queue ends by then; the client waits a little longer.
const STORE_WAIT: Duration = Duration::from_secs(20);

/// An event stream that says nothing says so this often: whoever listens knows that the agent lives.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

struct Refused(StatusCode, String);

type Answer = Result<Response<Body>, Refused>;

fn refused<T>(status: StatusCode, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(status, why.into()))
}

pub(super) async fn answer(app: Arc<App>, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let answered = route(app, peer, request).await;
    answered.unwrap_or_else(|Refused(status, error)| {
        let mut response = json(&Refusal { error });
        *response.status_mut() = status;
        response
    })
}

async fn route(app: Arc<App>, peer: Peer, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let method = request.method().clone();
    match (&method, parts.as_slice()) {
        (&Method::GET, ["v1"]) => Ok(json(&app.about())),
        (&Method::GET, ["v1", "events"]) => Ok(events(&app)),
        (&Method::POST, ["v1", "tasks"]) => register(&app, peer, read_json(request).await?),
        (&Method::POST, ["v1", "tasks", id, "progress"]) => {
            progress(&app, &id_of(id)?, read_json(request).await?)
        }
        (&Method::PUT, ["v1", "tasks", id, "partial"]) => checkpoint(&app, &id_of(id)?, request).await,
        (&Method::POST, ["v1", "tasks", id, "partial", "take"]) => take(&app, &id_of(id)?).await,
        (&Method::POST, ["v1", "tasks", id, "end"]) => {
            end(&app, &id_of(id)?, read_json(request).await?).await
        }
        (&Method::POST, ["v1", "receipts"]) => add_receipt(&app, read_json(request).await?),
        (&Method::POST, ["v1", "receipts", "drop"]) => {
            let receipt: Receipt = read_json(request).await?;
            app.registry().drop_receipt(&receipt);
            Ok(nothing(StatusCode::NO_CONTENT))
        }
        _ => refused(StatusCode::NOT_FOUND, format!("there is no {method} {path}")),
    }
}

fn id_of(text: &str) -> Result<String, Refused> {
    match from_path(text) {
        Some(id) if !id.is_empty() && id.len() <= TASK_ID_BYTES_MAX => Ok(id),
        Some(_) | None => {
            refused(StatusCode::BAD_REQUEST, format!("a task id has 1 to {TASK_ID_BYTES_MAX} bytes of UTF-8"))
        }
    }
}

async fn read(request: Request<Incoming>, bytes_max: usize) -> Result<Bytes, Refused> {
    // Before anything is read: whoever announces a gigabyte need not send it.
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok());
    if announced.and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > bytes_max as u64) {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {bytes_max} bytes"));
    }
    match tokio::time::timeout(BODY_WAIT, Limited::new(request.into_body(), bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            refused(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {bytes_max} bytes"))
        }
        Ok(Err(error)) => refused(StatusCode::BAD_REQUEST, error.to_string()),
        Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
    }
}

async fn read_json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refused> {
    let body = read(request, SMALL_BYTES_MAX).await?;
    serde_json::from_slice(&body).or_else(|error| refused(StatusCode::BAD_REQUEST, error.to_string()))
}

fn json(value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("texts and numbers are JSON");
    typed(text.into(), "application/json")
}

fn typed(bytes: Bytes, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn nothing(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn too_long(text: Option<&String>) -> bool {
    text.is_some_and(|text| text.len() > TEXT_BYTES_MAX)
}

fn check(receipt: &Receipt) -> Result<(), Refused> {
    if too_long(Some(&receipt.queue)) || too_long(Some(&receipt.receipt)) {
        return refused(StatusCode::BAD_REQUEST, format!("a text has at most {TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn taken_in<T>(result: Result<T, Full>) -> Result<T, Refused> {
    result.or_else(|full| match full {
        Full::Tasks => refused(StatusCode::TOO_MANY_REQUESTS, "too many tasks are registered"),
        Full::Receipts => refused(StatusCode::TOO_MANY_REQUESTS, "too many receipts are registered"),
        Full::Bytes => {
            refused(StatusCode::SERVICE_UNAVAILABLE, "too many partial results wait for the store")
        }
        Full::Taken => refused(StatusCode::CONFLICT, "another process on this machine works on it"),
    })
}

fn kept<T>(result: Result<T, KeepError>) -> Result<T, Refused> {
    result.or_else(|error| match error {
        KeepError::Lost(by) => refused(StatusCode::CONFLICT, format!("{by} has it")),
        KeepError::NotClaimed | KeepError::NoTime | KeepError::Store(_) => {
            refused(StatusCode::SERVICE_UNAVAILABLE, chain(&error))
        }
    })
}

fn unknown<T>() -> Result<T, Refused> {
    refused(StatusCode::NOT_FOUND, "there is no such task; register it first")
}

fn register(app: &App, peer: Peer, registration: Registration) -> Answer {
    if registration.id.is_empty() || registration.id.len() > TASK_ID_BYTES_MAX {
        return refused(StatusCode::BAD_REQUEST, format!("a task id has 1 to {TASK_ID_BYTES_MAX} bytes"));
    }
    if too_long(registration.path.as_ref()) {
        return refused(StatusCode::BAD_REQUEST, format!("a path has at most {TEXT_BYTES_MAX} bytes"));
    }
    registration.receipt.as_ref().map_or(Ok(()), check)?;
    if app.notice.borrow().as_ref().is_some_and(super::Announced::ends_work) {
        return refused(StatusCode::GONE, "the machine is about to go: no task is begun on it");
    }
    taken_in(app.registry().register(registration, peer.pid, lives))?;
    Ok(nothing(StatusCode::CREATED))
}

fn lives(pid: i32) -> bool {
    rustix::process::Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

fn progress(app: &App, id: &str, said: Progress) -> Answer {
    if !(0.0..=1.0).contains(&said.progress) {
        return refused(StatusCode::BAD_REQUEST, "progress goes from 0 to 1");
    }
    match app.registry().tasks.get_mut(id) {
        Some(task) => task.progress = Some(said.progress),
        None => return unknown(),
    }
    Ok(nothing(StatusCode::NO_CONTENT))
}

async fn checkpoint(app: &App, id: &str, request: Request<Incoming>) -> Answer {
    let (mut progress, mut waits) = (None, false);
    for pair in request.uri().query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("progress", text)) => match text.parse::<f64>() {
                Ok(value) if (0.0..=1.0).contains(&value) => progress = Some(value),
                Ok(_) | Err(_) => return refused(StatusCode::BAD_REQUEST, "progress goes from 0 to 1"),
            },
            Some(("wait", "stored")) => waits = true,
            Some(_) | None => {
                return refused(StatusCode::BAD_REQUEST, format!("`{pair}` makes no sense here"));
            }
        }
    }
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|text| text.to_str().ok())
        .is_some_and(|text| text.starts_with("application/json"));
    if !app.registry().tasks.contains_key(id) {
        return unknown();
    }
    let bytes = read(request, PARTIAL_BYTES_MAX).await?;
    if is_json && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        return refused(StatusCode::BAD_REQUEST, error.to_string());
    }
    let taken = app.registry().checkpoint(id, Content { bytes, is_json }, progress);
    let Some(taken) = taken else { return unknown() };
    taken_in(taken)?;
    if waits {
        kept(app.write(id, &Deadline::at(Instant::now() + STORE_WAIT)).await)?;
        return Ok(nothing(StatusCode::NO_CONTENT));
    }
    app.has_work.notify_one();
    Ok(nothing(StatusCode::ACCEPTED))
}

async fn take(app: &App, id: &str) -> Answer {
    let attempt = match app.registry().tasks.get(id) {
        Some(task) => task.attempt,
        None => return unknown(),
    };
    let found = match tokio::time::timeout(STORE_WAIT, app.claim_task(id, attempt)).await {
        Ok(found) => kept(found)?.1,
        Err(_) => return refused(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer"),
    };
    let Some((record, content)) = found else { return Ok(nothing(StatusCode::NO_CONTENT)) };
    let kind = if content.is_json { "application/json" } else { "application/octet-stream" };
    let mut response = typed(content.bytes, kind);
    let headers = response.headers_mut();
    if let Ok(instance) = HeaderValue::from_str(&record.instance) {
        headers.insert("lifeboat-instance", instance);
    }
    if let Some(progress) = record.progress
        && let Ok(text) = HeaderValue::from_str(&progress.to_string())
    {
        headers.insert("lifeboat-progress", text);
    }
    Ok(response)
}

async fn end(app: &Arc<App>, id: &str, said: End) -> Answer {
    if !app.registry().tasks.contains_key(id) {
        return unknown();
    }
    match said.outcome {
        Outcome::Done => {
            // Joined by its own end: a worker that does not wait for the answer changes nothing.
            let (app, id) = (Arc::clone(app), id.to_owned());
            let forgetting = tokio::spawn(async move { app.forget(&id).await });
            let _ = tokio::time::timeout(STORE_WAIT, forgetting).await; // what is left is told in the log
        }
        Outcome::Failed => {
            if let Err(error) = app.write(id, &Deadline::at(Instant::now() + STORE_WAIT)).await {
                tracing::warn!(
                    task = id,
                    error = chain(&error),
                    "the partial result of a failed task is not stored"
                );
            }
            let mut registry = app.registry();
            if registry.remove(id).is_some() {
                registry.ended.failed += 1;
            }
        }
        Outcome::Released => {
            let visibility = app.visibility_now();
            let handed = app.release(id, visibility, &Deadline::at(Instant::now() + STORE_WAIT)).await;
            if handed.failed > 0 {
                return refused(StatusCode::SERVICE_UNAVAILABLE, handed.text());
            }
        }
    }
    Ok(nothing(StatusCode::NO_CONTENT))
}

fn add_receipt(app: &App, receipt: Receipt) -> Answer {
    check(&receipt)?;
    taken_in(app.registry().add_receipt(receipt))?;
    Ok(nothing(StatusCode::CREATED))
}

/// Server-sent events: `notice` once the interruption is announced, and again when it changes.
fn events(app: &App) -> Response<Body> {
    let mut receiver = app.notice.subscribe();
    receiver.mark_changed();
    let body = StreamBody::new(stream::unfold(receiver, |mut receiver| async move {
        let text = match tokio::time::timeout(ALIVE_EVERY, receiver.changed()).await {
            Ok(Ok(())) => match receiver.borrow_and_update().as_ref() {
                Some(announced) => {
                    let text = serde_json::to_string(&announced.notice()).unwrap_or_default();
                    format!("event: notice\ndata: {text}\n\n")
                }
                None => ": no notice\n\n".to_owned(),
            },
            Ok(Err(_)) => return None,
            Err(_) => ": alive\n\n".to_owned(),
        };
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), receiver))
    }));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

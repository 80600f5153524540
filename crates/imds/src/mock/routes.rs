//! HTTP in front of the mock's state: what the service's paths and the control end point look like.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use serde::de::DeserializeOwned;

use crate::mock::control::Control;
use crate::mock::state::{Ask, Outcome, Reply};
use crate::wire::{ScheduledEvent, TOKEN_HEADER, TOKEN_TTL_HEADER};

/// What a proxy adds.
const FORWARDED_HEADER: &str = "x-forwarded-for";
/// A request that hangs is given up after this time: longer than any client waits, shorter than for ever.
const HANG_LONGEST: Duration = Duration::from_secs(60);
/// The control end point reads no longer body.
const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// The whole mock as one service.
pub(crate) fn router(control: Control) -> Router {
    let controls = Router::new()
        .route("/notice", put(put_notice).delete(delete_notice))
        .route("/rebalance", put(put_rebalance).delete(delete_rebalance))
        .route("/lifecycle", put(put_lifecycle).delete(delete_lifecycle))
        .route("/events", put(put_events))
        .route("/termination-time", put(put_termination_time))
        .route("/identity", put(put_identity))
        .route("/skew", put(put_skew))
        .route("/disabled", put(put_disabled))
        .route("/faults", put(put_faults))
        .route("/tokens", delete(delete_tokens))
        .route("/requests", get(get_requests).delete(delete_requests))
        .layer(DefaultBodyLimit::max(CONTROL_BYTES_MAX))
        .layer(middleware::from_fn(refuse_forwarded));
    Router::new().nest("/lifeboat-mock", controls).fallback(answer).with_state(control)
}

async fn answer(State(control): State<Control>, request: Request) -> Response {
    // axum would answer HEAD through GET, too; the service's other methods are not documented.
    if request.method() != Method::GET && request.method() != Method::PUT {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let headers = request.headers();
    let text = |value: &HeaderValue| -> Option<String> { value.to_str().ok().map(str::to_owned) };
    let tokens: Vec<String> =
        headers.get_all(TOKEN_HEADER).iter().map(|value| text(value).unwrap_or_default()).collect();
    let ttl = headers.get(TOKEN_TTL_HEADER).and_then(text);
    let ask = Ask {
        is_put: request.method() == Method::PUT,
        path: request.uri().path(),
        tokens: tokens.iter().map(String::as_str).collect(),
        ttl: ttl.as_deref(),
        is_forwarded: headers.contains_key(FORWARDED_HEADER),
    };
    match control.answer(&ask) {
        Outcome::Reply(reply) => respond(reply),
        Outcome::Hang => {
            tokio::time::sleep(HANG_LONGEST).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
    }
}

fn respond(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, reply.body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Ok(date) = HeaderValue::from_str(&reply.date) {
        headers.insert(header::DATE, date);
    }
    if let Some(ttl) = reply.ttl_seconds {
        headers.insert(TOKEN_TTL_HEADER, HeaderValue::from(ttl));
    }
    if reply.closes {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn refuse_forwarded(headers: HeaderMap, request: Request, next: Next) -> Response {
    if headers.contains_key(FORWARDED_HEADER) {
        return (StatusCode::FORBIDDEN, "a request with X-Forwarded-For does not control this mock\n")
            .into_response();
    }
    next.run(request).await
}

/// Reads JSON whatever the content type says, so that a plain `curl -T` works.
fn control_with<T: DeserializeOwned>(body: &Bytes, change: impl FnOnce(T)) -> Response {
    match serde_json::from_slice(body) {
        Ok(value) => {
            change(value);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

async fn put_notice(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |plan| control.notice(plan))
}

async fn delete_notice(State(control): State<Control>) -> StatusCode {
    control.withdraw_notice();
    StatusCode::NO_CONTENT
}

async fn put_rebalance(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |plan| control.rebalance(Some(plan)))
}

async fn delete_rebalance(State(control): State<Control>) -> StatusCode {
    control.rebalance(None);
    StatusCode::NO_CONTENT
}

async fn put_lifecycle(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |plan| control.target_lifecycle_state(Some(plan)))
}

async fn delete_lifecycle(State(control): State<Control>) -> StatusCode {
    control.target_lifecycle_state(None);
    StatusCode::NO_CONTENT
}

async fn put_events(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |events: Vec<ScheduledEvent>| control.scheduled_events(events))
}

async fn put_termination_time(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |plan| control.termination_time(plan))
}

async fn put_identity(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |identity| control.identity(identity))
}

async fn put_skew(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |skew_ms| control.skew_ms(skew_ms))
}

async fn put_disabled(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |is_disabled| control.disable(is_disabled))
}

async fn put_faults(State(control): State<Control>, body: Bytes) -> Response {
    control_with(&body, |faults| control.faults(faults))
}

async fn delete_tokens(State(control): State<Control>) -> StatusCode {
    control.revoke_tokens();
    StatusCode::NO_CONTENT
}

async fn get_requests(State(control): State<Control>) -> Response {
    let body = serde_json::json!(control.requests()).to_string() + "\n";
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn delete_requests(State(control): State<Control>) -> StatusCode {
    control.reset_requests();
    StatusCode::NO_CONTENT
}

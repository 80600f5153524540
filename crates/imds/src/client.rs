//! An IMDSv2 client: tokens, one kept-alive connection, bounded answers. It never speaks IMDSv1.
//!
//! It is owned by one user and asks one thing at a time, so it needs no lock and no background task. Any of
//! its futures may be dropped: the connection it was using is then closed, and the next call opens another.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use lifeboat_core::backoff::Backoff;
use lifeboat_core::clock::ClockSample;
use lifeboat_core::time::Millis;
use tokio::time::Instant;

use crate::clock::WallClock;
use crate::connection::{Body, Connection, Connector, Reply};
use crate::endpoint::Endpoint;
use crate::error::GetError;
use crate::wire::{
    INSTANCE_ACTION_PATH, InstanceAction, METADATA_PREFIX, ParseError, REBALANCE_PATH, Rebalance,
    SCHEDULED_EVENTS_PATH, ScheduledEvent, TARGET_LIFECYCLE_STATE_PATH, TERMINATION_TIME_PATH, TOKEN_HEADER,
    TOKEN_PATH, TOKEN_TTL_HEADER, TOKEN_TTL_SECONDS_MAX, TargetLifecycleState, TerminationTime, bounded,
};

/// Each exchange, its connection included, ends within this time. The service answers within milliseconds;
/// a longer wait would eat into the two minutes.
pub const REQUEST_LIMIT: Millis = Millis::from_secs(1);

/// A token is renewed this long before it ends, or a tenth of its life before if that is less: room for more
/// than a hundred failed tries.
const RENEWAL_MARGIN: Duration = Duration::from_secs(120);

/// After a failed renewal the old token serves on for this long before the next try, so that a service
/// without tokens does not slow each request down.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// A caller's deadline is never later than this: longer than anybody waits, and within every clock's range.
const WITHIN_MAX: Millis = Millis::from_secs(86_400);

/// Waits between tries of [`Client::get_until`].
const RETRY_FIRST: Millis = Millis(100);
/// The longest of them.
const RETRY_LONGEST: Millis = Millis(1_000);

/// A client of one metadata service.
pub struct Client {
    endpoint: Endpoint,
    connector: Connector,
    wall: WallClock,
    seed: u64,
    token: Option<Token>,
    open: Option<Connection>,
}

/// What the service said, and what its `Date` tells of its clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was read; `None` for 404.
    pub value: Option<T>,
    /// The clocks around the answer; `None` without a readable `Date`.
    pub clock: Option<ClockSample>,
}

impl<T> Answer<T> {
    /// The same answer with its value read by `read`.
    fn read<U>(self, path: &str, read: impl Fn(T) -> Result<U, ParseError>) -> Result<Answer<U>, GetError> {
        let value = self.value.map(read).transpose().map_err(|error| corrupt(path, error.to_string()))?;
        Ok(Answer { value, clock: self.clock })
    }
}

struct Token {
    value: HeaderValue,
    renew_at: Instant,
    ends_at: Instant,
}

/// What is asked, so that it can be sent again.
struct Ask {
    method: Method,
    uri: Uri,
    host: HeaderValue,
    header: (HeaderName, HeaderValue),
}

impl Ask {
    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        request.headers_mut().insert(self.header.0.clone(), self.header.1.clone());
        request
    }
}

impl Client {
    /// A client of the service at `endpoint` over TCP. Nothing is sent yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, wall: WallClock) -> Self {
        let connector = Connector::tcp(&endpoint);
        Self::over(connector, endpoint, wall)
    }

    /// A client whose connections are opened by `connector`; `endpoint` names the service in requests and errors.
    #[must_use]
    pub fn over(connector: Connector, endpoint: Endpoint, wall: WallClock) -> Self {
        Self { endpoint, connector, wall, seed: 0, token: None, open: None }
    }

    /// The same client with its retries spread by `seed`: an instance id's hash, for example.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Where the service is.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Reads `path` below `/latest/meta-data/`: its text, or `None` for 404. A refused token (401) is replaced
    /// once, and the request repeated with the fresh one alone. Takes at most four times [`REQUEST_LIMIT`].
    ///
    /// # Errors
    ///
    /// Any [`GetError`]. 503 is not repeated here but left to a caller that waits in between: the poller, or
    /// [`Client::get_until`].
    pub async fn get(&mut self, path: &str) -> Result<Answer<String>, GetError> {
        let mut reply = self.get_with_token(path).await?;
        if reply.status == StatusCode::UNAUTHORIZED {
            self.token = None;
            reply = self.get_with_token(path).await?;
        }
        let status = reply.status;
        match status {
            StatusCode::OK => {
                let text = text_of(path, reply.body)?;
                Ok(Answer { value: Some(text), clock: reply.clock })
            }
            StatusCode::NOT_FOUND => Ok(Answer { value: None, clock: reply.clock }),
            StatusCode::UNAUTHORIZED => {
                self.token = None;
                Err(GetError::Unauthorized { path: path.to_owned() })
            }
            _ => Err(refusal(path, status)),
        }
    }

    /// Reads `path` like [`Client::get`], and again after a wait as long as the error may pass, until `deadline`.
    ///
    /// # Errors
    ///
    /// The last [`GetError`]; [`GetError::TimedOut`] where the deadline cut a try short.
    pub async fn get_until(&mut self, path: &str, deadline: Instant) -> Result<Answer<String>, GetError> {
        let backoff = Backoff { first: RETRY_FIRST, longest: RETRY_LONGEST, seed: self.seed };
        let begun = Instant::now();
        let mut attempt = 0;
        loop {
            let Ok(result) = tokio::time::timeout_at(deadline, self.get(path)).await else {
                let limit = Millis::from(begun.elapsed());
                return Err(GetError::TimedOut { path: path.to_owned(), limit });
            };
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let next = Instant::now() + backoff.wait(attempt).to_duration();
            if !error.is_transient() || next >= deadline {
                return Err(error);
            }
            tokio::time::sleep_until(next).await;
            attempt += 1;
        }
    }

    /// Reads the interruption notice.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`GetError::Corrupt`] where the text is no JSON object.
    pub async fn instance_action(&mut self) -> Result<Answer<InstanceAction>, GetError> {
        let answer = self.get(INSTANCE_ACTION_PATH).await?;
        answer.read(INSTANCE_ACTION_PATH, |text| InstanceAction::parse(&text))
    }

    /// Reads the termination time, whatever text it is.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn termination_time(&mut self) -> Result<Answer<TerminationTime>, GetError> {
        let answer = self.get(TERMINATION_TIME_PATH).await?;
        answer.read(TERMINATION_TIME_PATH, |text| Ok(TerminationTime::parse(&text)))
    }

    /// Reads the rebalance recommendation.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`GetError::Corrupt`] where the text is no JSON object.
    pub async fn rebalance(&mut self) -> Result<Answer<Rebalance>, GetError> {
        let answer = self.get(REBALANCE_PATH).await?;
        answer.read(REBALANCE_PATH, |text| Rebalance::parse(&text))
    }

    /// Reads where the Auto Scaling group wants this instance to be.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn target_lifecycle_state(&mut self) -> Result<Answer<TargetLifecycleState>, GetError> {
        let answer = self.get(TARGET_LIFECYCLE_STATE_PATH).await?;
        answer.read(TARGET_LIFECYCLE_STATE_PATH, |text| Ok(TargetLifecycleState::parse(&text)))
    }

    /// Reads the scheduled maintenance events.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`GetError::Corrupt`] where the text is no JSON list.
    pub async fn scheduled_events(&mut self) -> Result<Answer<Vec<ScheduledEvent>>, GetError> {
        let answer = self.get(SCHEDULED_EVENTS_PATH).await?;
        answer.read(SCHEDULED_EVENTS_PATH, |text| ScheduledEvent::parse_list(&text))
    }

    /// Makes sure that a token is held; asks for one otherwise.
    ///
    /// # Errors
    ///
    /// Any [`GetError`] that a token request can meet.
    pub async fn ensure_token(&mut self) -> Result<(), GetError> {
        self.token().await.map(|_| ())
    }

    async fn get_with_token(&mut self, path: &str) -> Result<Reply, GetError> {
        let token = self.token().await?;
        let uri = format!("{}{METADATA_PREFIX}{path}", self.endpoint.base());
        let uri = uri.parse().map_err(|_| corrupt(path, "no path that can be asked for".to_owned()))?;
        let ask = self.ask(Method::GET, uri, (HeaderName::from_static(TOKEN_HEADER), token));
        self.exchange(path, &ask).await
    }

    /// The token to use now: the one at hand, or a fresh one where it is about to end.
    async fn token(&mut self) -> Result<HeaderValue, GetError> {
        let now = Instant::now();
        if let Some(token) = self.token.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.value.clone());
        }
        let result = self.fetch_token().await;
        match (result, &mut self.token) {
            (Ok(token), held) => {
                let value = token.value.clone();
                *held = Some(token);
                Ok(value)
            }
            (Err(_), Some(old)) if Instant::now() < old.ends_at => {
                // The renewal failed, but the old token still serves; its end will bring the error up.
                old.renew_at = Instant::now() + RENEWAL_PAUSE;
                Ok(old.value.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fetch_token(&mut self) -> Result<Token, GetError> {
        let uri = format!("{}{TOKEN_PATH}", self.endpoint.base());
        let ttl = HeaderValue::from(TOKEN_TTL_SECONDS_MAX);
        let uri = uri.parse().expect("a constant after a base that was checked when it was read");
        let ask = self.ask(Method::PUT, uri, (HeaderName::from_static(TOKEN_TTL_HEADER), ttl));
        let asked_at = Instant::now();
        let reply = self.exchange(TOKEN_PATH, &ask).await.map_err(|error| match error {
            GetError::TimedOut { limit, .. } => {
                GetError::TokenTimedOut { endpoint: self.endpoint.to_string(), limit }
            }
            other => other,
        })?;
        match reply.status {
            StatusCode::OK => read_token(reply, asked_at),
            StatusCode::FORBIDDEN => Err(GetError::Denied { path: TOKEN_PATH.to_owned() }),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Err(refusal(TOKEN_PATH, reply.status))
            }
            status => Err(GetError::TokenRefused { status: status.as_u16() }),
        }
    }

    fn ask(&self, method: Method, uri: Uri, header: (HeaderName, HeaderValue)) -> Ask {
        Ask {
            method,
            uri,
            host: HeaderValue::try_from(self.endpoint.authority()).expect("checked when it was read"),
            header,
        }
    }

    /// One exchange within [`REQUEST_LIMIT`]: on the open connection, and if that turns out to be broken, once
    /// more on a fresh one.
    async fn exchange(&mut self, path: &str, ask: &Ask) -> Result<Reply, GetError> {
        let is_connected = AtomicBool::new(self.open.is_some());
        let exchange = self.exchange_without_limit(path, ask, &is_connected);
        let limited = tokio::time::timeout(REQUEST_LIMIT.to_duration(), exchange).await;
        limited.unwrap_or_else(|_| {
            Err(if is_connected.load(Ordering::Relaxed) {
                GetError::TimedOut { path: path.to_owned(), limit: REQUEST_LIMIT }
            } else {
                let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
                GetError::Unreachable { endpoint: self.endpoint.to_string(), source }
            })
        })
    }

    async fn exchange_without_limit(
        &mut self,
        path: &str,
        ask: &Ask,
        is_connected: &AtomicBool,
    ) -> Result<Reply, GetError> {
        // Taken out, so that a cancelled exchange takes its half-used connection with it.
        if let Some(mut connection) = self.open.take()
            && let Ok(reply) = connection.exchange(ask.request(), &self.wall).await
        {
            return Ok(self.keep(connection, reply));
        }
        is_connected.store(false, Ordering::Relaxed);
        let broken = |source| GetError::Broken { path: path.to_owned(), source };
        let stream = self
            .connector
            .connect()
            .await
            .map_err(|source| GetError::Unreachable { endpoint: self.endpoint.to_string(), source })?;
        is_connected.store(true, Ordering::Relaxed);
        let mut connection = Connection::over(stream).await.map_err(broken)?;
        let reply = connection.exchange(ask.request(), &self.wall).await.map_err(broken)?;
        Ok(self.keep(connection, reply))
    }

    fn keep(&mut self, connection: Connection, reply: Reply) -> Reply {
        if connection.is_reusable(&reply) {
            self.open = Some(connection);
        }
        reply
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret.
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .field("has_token", &self.token.is_some())
            .field("is_connected", &self.open.is_some())
            .finish_non_exhaustive()
    }
}

/// So that the owner of the machine can tell who asks.
const AGENT: &str = concat!("lifeboat/", env!("CARGO_PKG_VERSION"));

/// The instant `within` from now.
pub(crate) fn deadline_in(within: Millis) -> Instant {
    Instant::now() + within.min(WITHIN_MAX).to_duration()
}

fn read_token(reply: Reply, asked_at: Instant) -> Result<Token, GetError> {
    let granted = reply.headers.get(TOKEN_TTL_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let ttl_seconds = granted.unwrap_or(TOKEN_TTL_SECONDS_MAX).clamp(1, TOKEN_TTL_SECONDS_MAX);
    let text = text_of(TOKEN_PATH, reply.body)?;
    let mut value = HeaderValue::from_str(text.trim())
        .map_err(|_| corrupt(TOKEN_PATH, "the token cannot be a header's value".to_owned()))?;
    if value.is_empty() {
        return Err(corrupt(TOKEN_PATH, "the token is empty".to_owned()));
    }
    value.set_sensitive(true);
    // The service counts from when it answered; counting from when it was asked is never too long. A machine
    // that slept has a stale token in spite of this clock, which does not run then: the 401 replaces it.
    let ttl = Duration::from_secs(ttl_seconds);
    let ends_at = asked_at + ttl;
    Ok(Token { value, renew_at: ends_at - RENEWAL_MARGIN.min(ttl / 10), ends_at })
}

fn text_of(path: &str, body: Body) -> Result<String, GetError> {
    match body {
        Body::TooLong => {
            Err(corrupt(path, format!("longer than {} bytes", crate::connection::BODY_BYTES_MAX)))
        }
        Body::Whole(bytes) => {
            String::from_utf8(bytes).map_err(|error| corrupt(path, format!("no UTF-8 text: {error}")))
        }
    }
}

fn corrupt(path: &str, why: String) -> GetError {
    GetError::Corrupt { path: path.to_owned(), why: bounded(&why) }
}

fn refusal(path: &str, status: StatusCode) -> GetError {
    let path = path.to_owned();
    match status {
        StatusCode::FORBIDDEN => GetError::Denied { path },
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            GetError::Throttled { path, status: status.as_u16() }
        }
        _ => GetError::Unexpected { path, status: status.as_u16() },
    }
}

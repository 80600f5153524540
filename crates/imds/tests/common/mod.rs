//! What the tests of this crate share: a mock in memory under tokio's paused clock, and plain HTTP to it.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lifeboat_core::time::Timestamp;
use lifeboat_imds::mock::{MemoryMock, Script};
use lifeboat_imds::{Client, Connector, Endpoint, WallClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// 2017-09-18T08:20:00.250Z: what the wall clock reads when a test begins.
pub(crate) const START: Timestamp = Timestamp(1_505_722_800_250);

pub(crate) fn wall() -> WallClock {
    WallClock::following_tokio(START)
}

pub(crate) fn mock(script: Script) -> MemoryMock {
    MemoryMock::start(script, wall())
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::parse("http://127.0.0.1:1338").expect("valid")
}

pub(crate) fn client_over<F, S>(open: impl Fn() -> F + Send + Sync + 'static) -> Client
where
    F: Future<Output = std::io::Result<S>> + Send + 'static,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    Client::over(Connector::new(open), endpoint(), wall())
}

/// A client of `mock`, and how many connections it has opened.
pub(crate) fn counting_client(mock: &Arc<MemoryMock>) -> (Client, Arc<AtomicU32>) {
    let opened = Arc::new(AtomicU32::new(0));
    let (mock, counter) = (Arc::clone(mock), Arc::clone(&opened));
    let client = client_over(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        let mock = Arc::clone(&mock);
        async move { mock.connect().await }
    });
    (client, opened)
}

/// An answer, read by hand: the client under test must not vouch for the mock, nor the mock for the client.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Plain {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends one request, as `ask(&mock, "GET /path", &["Name: value"], "body")`.
pub(crate) async fn ask(mock: &MemoryMock, line: &str, headers: &[&str], body: &str) -> Plain {
    ask_over(mock.connect().await.expect("the mock runs"), line, headers, body).await
}

pub(crate) async fn ask_over<S>(mut stream: S, line: &str, headers: &[&str], body: &str) -> Plain
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut text = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.expect("the mock reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the mock answers");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Plain { status, head: head.to_owned(), body: body.to_owned() }
}

/// Asks for a token of `ttl` seconds.
pub(crate) async fn token(mock: &MemoryMock, ttl: u32) -> String {
    let header = format!("X-aws-ec2-metadata-token-ttl-seconds: {ttl}");
    let answer = ask(mock, "PUT /latest/api/token", &[&header], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    format!("X-aws-ec2-metadata-token: {}", answer.body)
}

/// Reads a metadata path with a fresh token.
pub(crate) async fn read(mock: &MemoryMock, path: &str) -> (u16, String) {
    let token = token(mock, 60).await;
    let answer = ask(mock, &format!("GET /latest/meta-data/{path}"), &[&token], "").await;
    (answer.status, answer.body)
}

//! One HTTP/1.1 connection to the metadata service and one exchange on it. Who may ask what, tokens and
//! retries are the client's.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, DATE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lifeboat_core::clock::ClockSample;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::clock::WallClock;
use crate::endpoint::Endpoint;
use crate::wire;

/// The longest body that is read. The longest real one, a list of scheduled events, takes a few KiB.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// hyper's read buffer; 8 KiB is the least it allows, and headers of the service take a few hundred bytes.
const BUFFER_BYTES_MAX: usize = 16 * 1024;

/// A duplex byte stream to a server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Opening = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Opens streams to the service: over TCP, or, in tests, in memory.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn() -> Opening + Send + Sync>);

impl Connector {
    /// Over TCP to `endpoint`, directly: proxy variables do not apply, as a proxied request gets no token.
    #[must_use]
    pub fn tcp(endpoint: &Endpoint) -> Self {
        let host = endpoint.host().to_owned();
        let port = endpoint.port();
        Self::new(move || {
            let host = host.clone();
            async move {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
        })
    }

    /// By `open`, called for each new connection.
    pub fn new<F, S>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self(Arc::new(move || {
            let opening = open();
            Box::pin(async move { opening.await.map(|stream| Box::new(stream) as Box<dyn Stream>) })
        }))
    }

    pub(crate) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        (self.0)().await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Empty<Bytes>>;

/// An open connection. Nothing of it runs in the background: it is driven only while an exchange waits.
pub(crate) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    driver: Option<Pin<Box<Driver>>>,
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Body,
    pub(crate) clock: Option<ClockSample>,
}

/// A body within its bound, or the fact that it was not.
pub(crate) enum Body {
    Whole(Vec<u8>),
    TooLong,
}

impl Connection {
    /// Takes a fresh stream into use.
    pub(crate) async fn over(stream: Box<dyn Stream>) -> Result<Self, hyper::Error> {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Whether another exchange may be tried on it after `reply`.
    pub(crate) fn is_reusable(&self, reply: &Reply) -> bool {
        let closes = reply.headers.get(CONNECTION).is_some_and(|value| value.as_bytes() == b"close");
        let read_to_end = matches!(reply.body, Body::Whole(_));
        read_to_end && !closes && self.driver.is_some() && !self.sender.is_closed()
    }

    /// Sends `request` and reads the whole answer. If it is cancelled, the connection must be thrown away.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Empty<Bytes>>,
        wall: &WallClock,
    ) -> Result<Reply, hyper::Error> {
        let Self { sender, driver } = self;
        let answer = async {
            sender.ready().await?;
            let sent = wall.now();
            let response = sender.send_request(request).await?;
            let received = wall.now();
            let clock = date_of(&response).map(|date| ClockSample { sent, received, date });
            let (parts, body) = response.into_parts();
            let body = read_body(body).await?;
            Ok(Reply { status: parts.status, headers: parts.headers, body, clock })
        };
        tokio::pin!(answer);
        if let Some(running) = driver {
            tokio::select! {
                reply = &mut answer => return reply,
                // The connection ended; its result is the answer's, which has it or gets the error now.
                _ = running => {}
            }
            *driver = None;
        }
        answer.await
    }
}

fn date_of(response: &Response<Incoming>) -> Option<lifeboat_core::time::Timestamp> {
    response.headers().get(DATE)?.to_str().ok().and_then(wire::parse_http_date)
}

async fn read_body(mut body: Incoming) -> Result<Body, hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Ok(Body::TooLong);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Body::Whole(bytes))
}

//! An HTTP proxy in front of an S3 server, which answers, breaks, holds up and damages requests as a test wants.
//!
//! It also lets create-only puts through one by one: s3s-fs looks before it writes, and would let two through that
//! come at the same instant, which S3 does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lifeboat_snapshot::store::StoreUrl;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, watch};

use super::s3::S3Server;

/// What a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `500 InternalError`, and nothing happens.
    InternalError,
    /// `503 SlowDown`, and nothing happens.
    SlowDown,
    /// The connection is reset, and nothing happens.
    Reset,
    /// It happens, and the connection is reset before the answer.
    Lost,
    /// Half of the answer's body comes.
    Cut,
    /// One bit of an object is wrong in the answer.
    FlipDown,
    /// One bit of an object is wrong when it reaches the server.
    FlipUp,
}

/// A running proxy; its tasks end with the runtime.
pub(crate) struct HttpProxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: u16,
    seed: u64,
    kinds: Vec<Fault>,
    percent: u64,
    is_on: AtomicBool,
    requests: AtomicU64,
    met: AtomicU64,
    received: AtomicU64,
    waiting: AtomicU64,
    busy: AtomicU64,
    /// So many requests pass until all are held up.
    left: AtomicU64,
    is_held: watch::Sender<bool>,
    reached: Notify,
    conditional: Mutex<()>,
}

impl HttpProxy {
    /// One in `100 / percent` requests meets one of `kinds`, while that is switched on, as it is first.
    pub(crate) async fn start(to: u16, kinds: &[Fault], percent: u64, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Arc::new(Shared {
            to,
            seed,
            kinds: kinds.to_vec(),
            percent,
            is_on: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            met: AtomicU64::new(0),
            received: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            left: AtomicU64::new(u64::MAX),
            is_held: watch::Sender::new(false),
            reached: Notify::new(),
            conditional: Mutex::new(()),
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move { shared.serve(client).await });
            }
        });
        Self { port, shared }
    }

    /// The same bucket, through the proxy.
    pub(crate) fn store_url(&self, server: &S3Server, options: &str) -> StoreUrl {
        let StoreUrl::S3(mut url) = server.store_url(options) else { panic!("a bucket") };
        url.endpoint = Some(format!("http://127.0.0.1:{}", self.port));
        StoreUrl::S3(url)
    }

    pub(crate) fn switch(&self, is_on: bool) {
        self.shared.is_on.store(is_on, Ordering::SeqCst);
    }

    /// How many requests met a fault.
    pub(crate) fn met(&self) -> u64 {
        self.shared.met.load(Ordering::SeqCst)
    }

    /// Bytes of answers' bodies that came from the server so far.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// How many requests are under way now, held up or not.
    pub(crate) fn busy(&self) -> u64 {
        self.shared.busy.load(Ordering::SeqCst)
    }

    /// How many requests are held up now.
    pub(crate) fn waiting(&self) -> u64 {
        self.shared.waiting.load(Ordering::SeqCst)
    }

    /// Holds every request up after so many more, until [`Self::resume`].
    pub(crate) fn pause_after(&self, requests: u64) {
        self.shared.left.store(requests, Ordering::SeqCst);
    }

    /// Waits until a request is held up.
    pub(crate) async fn paused(&self) {
        tokio::time::timeout(Duration::from_secs(60), self.shared.reached.notified())
            .await
            .expect("enough requests come");
    }

    pub(crate) fn resume(&self) {
        self.shared.left.store(u64::MAX, Ordering::SeqCst);
        self.shared.is_held.send_replace(false);
    }
}

/// A request or an answer, whole.
struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Shared {
    /// One request a connection: every answer of the server closes it.
    async fn serve(&self, mut client: TcpStream) {
        let Some(mut request) = read_request(&mut client).await else { return };
        let _busy = Busy::new(&self.busy);
        if request.head.starts_with(b"GET ") {
            tokio::select! {
                () = self.hold_up() => {}
                // Whoever asked was broken off meanwhile: these bytes are nobody's.
                () = gone(&client) => return,
            }
        } else {
            self.hold_up().await;
        }
        let fault = self.draw();
        match fault {
            Some(Fault::InternalError) => {
                return answer(client, "500 Internal Server Error", "InternalError").await;
            }
            Some(Fault::SlowDown) => return answer(client, "503 Slow Down", "SlowDown").await,
            Some(Fault::Reset) => return reset(client),
            Some(Fault::FlipUp) => flip(&mut request.body),
            Some(Fault::Lost | Fault::Cut | Fault::FlipDown) | None => {}
        }
        let is_conditional = text(&request.head).contains("\r\nif-none-match:");
        let turn = if is_conditional { Some(self.conditional.lock().await) } else { None };
        let answered = self.forward(&request).await;
        drop(turn);
        let Some(mut answered) = answered else { return reset(client) };
        match fault {
            Some(Fault::Lost) => return reset(client),
            Some(Fault::Cut) => answered.body.truncate(answered.body.len() / 2),
            // A list of names has no checksum but TLS: what is damaged here is the content of objects.
            Some(Fault::FlipDown) if !answered.body.starts_with(b"<?xml") => flip(&mut answered.body),
            _ => {}
        }
        let _ = client.write_all(&[answered.head, answered.body].concat()).await; // it may have gone
    }

    async fn hold_up(&self) {
        let passes = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                Some(if left == u64::MAX { left } else { left.saturating_sub(1) })
            })
            .expect("always some");
        if passes == 0 {
            self.is_held.send_replace(true);
            self.reached.notify_one();
        }
        let mut held = self.is_held.subscribe();
        let _waiting = Busy::new(&self.waiting);
        let _ = held.wait_for(|is_held| !is_held).await; // the test is over
    }

    fn draw(&self) -> Option<Fault> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        if !self.is_on.load(Ordering::SeqCst) || self.kinds.is_empty() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(&number.to_le_bytes());
        let drawn = u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight"));
        if drawn % 100 >= self.percent {
            return None;
        }
        self.met.fetch_add(1, Ordering::SeqCst);
        let which = usize::try_from(drawn >> 32).expect("64 bit") % self.kinds.len();
        Some(self.kinds[which])
    }

    /// Passes it on; `None` when the server is not there or breaks off.
    async fn forward(&self, request: &Message) -> Option<Message> {
        let mut server = TcpStream::connect(("127.0.0.1", self.to)).await.ok()?;
        let end = request.head.len() - 2; // before the empty line
        let head = [&request.head[..end], b"Connection: close\r\n\r\n"].concat();
        server.write_all(&head).await.ok()?;
        server.write_all(&request.body).await.ok()?;
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.ok()?;
        let body = all.split_off(head_length(&all)?);
        self.received.fetch_add(u64::try_from(body.len()).expect("64 bit"), Ordering::SeqCst);
        Some(Message { head: all, body })
    }
}

/// Returns when the other side has closed the connection.
async fn gone(client: &TcpStream) {
    // Nothing follows a request before its answer.
    while let Ok(1..) = client.peek(&mut [0]).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Counts something for as long as it lives.
struct Busy<'a>(&'a AtomicU64);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Reads a whole request; all that carry a body tell its length.
async fn read_request(client: &mut TcpStream) -> Option<Message> {
    let mut head = Vec::new();
    let length = loop {
        if let Some(length) = head_length(&head) {
            break length;
        }
        if client.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = head.split_off(length);
    let lines = text(&head);
    let wanted = lines
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
        .unwrap_or(0);
    while body.len() < wanted {
        if client.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Message { head, body })
}

/// Up to and with the empty line.
fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn text(head: &[u8]) -> String {
    String::from_utf8_lossy(head).to_ascii_lowercase()
}

fn flip(body: &mut [u8]) {
    let middle = body.len() / 2;
    if let Some(byte) = body.get_mut(middle) {
        *byte ^= 4;
    }
}

async fn answer(mut client: TcpStream, status: &str, code: &str) {
    let body = format!("<Error><Code>{code}</Code><Message>as the test wants</Message></Error>");
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = client.write_all(format!("{head}{body}").as_bytes()).await; // it may have gone
}

fn reset(client: TcpStream) {
    let _ = client.set_zero_linger(); // then it is closed, which ends the request as well
}

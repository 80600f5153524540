//! A server that speaks AWS's three protocols and answers as a test says: recorded shapes, errors, silence, or what
//! moto says. It keeps every request, so that a test can tell what was called.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing of ours is larger; a message of 256 KiB grows by its encoding.
const BODY_BYTES_MAX: usize = 4 << 20;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// As it signs itself: `sqs`, `autoscaling`.
    pub service: String,
    /// Such as `ReceiveMessage`.
    pub operation: String,
    /// JSON, a form, or CBOR, as it came.
    pub body: Vec<u8>,
    /// When it came.
    pub at: Instant,
    protocol: Protocol,
    head: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Json,
    Query,
    Cbor,
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Success. The body in the protocol's own form: JSON, or what stands inside `<…Result>`; nothing for CBOR.
    Ok(String),
    /// An error as AWS writes it in the request's protocol.
    Error {
        /// HTTP status.
        status: u16,
        /// Such as `ThrottlingException`.
        code: &'static str,
        /// In words.
        message: &'static str,
    },
    /// Bytes that nobody expects.
    Garbage,
    /// Nothing, until the client gives up.
    Hang,
    /// The connection is closed without an answer.
    Close,
    /// What the server behind says.
    Forward,
    /// A whole HTTP answer.
    Raw(Vec<u8>),
}

impl Reply {
    /// The body as JSON, where there is one.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        match self {
            Self::Ok(body) => serde_json::from_str(body).ok(),
            Self::Raw(answer) => {
                let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
                serde_json::from_slice(&answer[end..]).ok()
            }
            Self::Error { .. } | Self::Garbage | Self::Hang | Self::Close | Self::Forward => None,
        }
    }
}

impl Request {
    /// The body as text; what is no text is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, if it is JSON or CBOR.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        match self.protocol {
            Protocol::Json => serde_json::from_slice(&self.body).ok(),
            Protocol::Cbor => super::cbor::decode(&self.body),
            Protocol::Query => None,
        }
    }
}

type Respond = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; it ends with this value.
pub struct Wire {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    is_over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("port", &self.port).finish_non_exhaustive()
    }
}

/// What every connection knows.
#[derive(Clone)]
struct Shared {
    requests: Arc<Mutex<Vec<Request>>>,
    is_over: Arc<AtomicBool>,
    respond: Arc<Respond>,
    behind: Option<String>,
}

impl Wire {
    /// Starts a server that answers by `respond`. `behind` is where [`Reply::Forward`] goes: `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start(behind: Option<&str>, respond: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let shared = Shared {
            requests: Arc::default(),
            is_over: Arc::default(),
            respond: Arc::new(respond),
            behind: behind.map(|url| url.trim_start_matches("http://").to_owned()),
        };
        let (requests, is_over) = (Arc::clone(&shared.requests), Arc::clone(&shared.is_over));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.is_over.load(Ordering::Relaxed) {
                    break;
                }
                let shared = shared.clone();
                // Ends with its connection, at the latest with the process.
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, requests, is_over, accepting: Some(accepting) }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything that was asked so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What of it was this call.
    #[must_use]
    pub fn requests_of(&self, operation: &str) -> Vec<Request> {
        let mut all = self.requests();
        all.retain(|request| request.operation == operation);
        all
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes it up
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join(); // it only accepts
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let Ok(mut out) = stream.try_clone() else { return };
        let _ = out.set_nodelay(true); // only faster
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            let answer = match (self.respond)(&request) {
                Reply::Close => return,
                Reply::Hang => {
                    self.hang(&mut reader);
                    return;
                }
                Reply::Garbage => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<\xff{]>".to_vec(),
                Reply::Forward => match self.behind.as_deref().and_then(|to| forward(to, &request)) {
                    Some(answer) => answer,
                    None => return,
                },
                Reply::Raw(answer) => answer,
                Reply::Ok(body) => success(&request, &body),
                Reply::Error { status, code, message } => error(&request, status, code, message),
            };
            if out.write_all(&answer).is_err() {
                return;
            }
        }
    }

    /// Says nothing until the client goes away or the server ends.
    fn hang(&self, reader: &mut BufReader<TcpStream>) {
        let _ = reader.get_ref().set_read_timeout(Some(Duration::from_millis(100))); // then it is looked at once
        let mut byte = [0];
        while !self.is_over.load(Ordering::Relaxed) {
            match reader.read(&mut byte) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => return,
            }
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        head += &line;
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    if length > BODY_BYTES_MAX {
        return None;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = head.split_whitespace().nth(1).unwrap_or_default();
    let (protocol, operation) = if let Some(target) = header("x-amz-target") {
        (Protocol::Json, target.rsplit('.').next().unwrap_or_default().to_owned())
    } else if let Some((_, operation)) = path.split_once("/operation/") {
        (Protocol::Cbor, operation.to_owned())
    } else {
        let form = String::from_utf8_lossy(&body).into_owned();
        let action = form.split('&').find_map(|pair| pair.strip_prefix("Action="));
        (Protocol::Query, action.unwrap_or_default().to_owned())
    };
    // Credential=KEY/DATE/REGION/SERVICE/aws4_request
    let signed = header("authorization").unwrap_or_default();
    let service = signed.split('/').nth(3).unwrap_or_default().to_owned();
    Some(Request { service, operation, body, at: Instant::now(), protocol, head })
}

fn respond(status: u16, content: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content}\r\ncontent-length: {}\r\n{more}\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn success(request: &Request, body: &str) -> Vec<u8> {
    let name = &request.operation;
    match request.protocol {
        Protocol::Json => {
            let body = if body.is_empty() { "{}" } else { body };
            respond(200, "application/x-amz-json-1.0", "", body.as_bytes())
        }
        Protocol::Query => {
            let body = format!(
                "<{name}Response><{name}Result>{body}</{name}Result><ResponseMetadata>\
                 <RequestId>test</RequestId></ResponseMetadata></{name}Response>"
            );
            respond(200, "text/xml", "", body.as_bytes())
        }
        // An empty map.
        Protocol::Cbor => respond(200, "application/cbor", "smithy-protocol: rpc-v2-cbor\r\n", &[0xa0]),
    }
}

fn error(request: &Request, status: u16, code: &str, message: &str) -> Vec<u8> {
    match request.protocol {
        Protocol::Json => {
            let body = serde_json::json!({ "__type": format!("com.amazonaws#{code}"), "message": message });
            let more = format!("x-amzn-errortype: {code}\r\n");
            respond(status, "application/x-amz-json-1.0", &more, body.to_string().as_bytes())
        }
        Protocol::Query => {
            let mut body = String::new();
            let _ = write!(
                body,
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>test</RequestId></ErrorResponse>"
            ); // a string takes everything
            respond(status, "text/xml", "", body.as_bytes())
        }
        Protocol::Cbor => {
            let mut body = vec![0xa2];
            for text in ["__type", &format!("com.amazonaws#{code}"), "message", message] {
                let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
                body.push(0x79); // text with a length of two bytes
                body.extend_from_slice(&length.to_be_bytes());
                body.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
            }
            respond(status, "application/cbor", "smithy-protocol: rpc-v2-cbor\r\n", &body)
        }
    }
}

/// Asks the server behind, over a connection of its own, and passes its answer on with a length.
pub(super) fn forward(to: &str, request: &Request) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(to).ok()?;
    let mut lines = request.head.lines();
    let first = lines.next()?.replace("HTTP/1.1", "HTTP/1.0");
    let mut head = first + "\r\n";
    for line in lines {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !["connection", "content-length"].contains(&name.as_str()) {
            head += line;
            head += "\r\n";
        }
    }
    head += &format!("Content-Length: {}\r\n", request.body.len());
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).ok()?;
    stream.write_all(&request.body).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let (head, body) = answer.split_at(end);
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines.next()?.split_whitespace().nth(1)?.to_owned();
    let mut out = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
    let dropped = ["content-length", "connection", "transfer-encoding"];
    for line in lines.filter(|line| !line.trim().is_empty()) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !dropped.contains(&name.as_str()) {
            out += line;
            out += "\r\n";
        }
    }
    let mut out = (out + "\r\n").into_bytes();
    out.extend_from_slice(body);
    Some(out)
}

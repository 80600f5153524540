//! A front before moto that lets calls of DynamoDB through one by one, and passes everything else on to another server.
//!
//! DynamoDB checks the conditions of a transaction and writes it as one step. moto 5.2 looks first and writes later,
//! without a lock, so that two transactions that come at the same instant both pass. With this front before it, none
//! do: what is tested of a store under contention is then what DynamoDB promises.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Moto;

/// Python on a busy machine; a long poll of 20 s.
const PATIENCE: Duration = Duration::from_secs(120);

/// Source: DynamoDB quotas, a request is at most 16 MB; read 2026-11.
const REQUEST_MAX: usize = 16 << 20;

/// Transactions that are remembered.
const TRANSACTIONS_MAX: usize = 10_000;

/// A transaction that was carried out.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// When its answer came, in milliseconds since 1970; whoever asked did not know it before.
    pub wall_ms: i64,
    /// `TransactItems`, as they were sent.
    pub items: Vec<serde_json::Value>,
}

/// A running front. Its threads end with the process.
#[derive(Debug)]
pub struct Front {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    moto: SocketAddr,
    other: Option<SocketAddr>,
    one_by_one: Mutex<()>,
    transactions: Mutex<Vec<Transaction>>,
}

/// One request: its head without the last empty line, and its body.
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Front {
    /// Starts one before `moto`. Calls of anything but DynamoDB go to `other`, or to moto as well.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start(moto: &Moto, other: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            moto: moto.addr(),
            other,
            one_by_one: Mutex::new(()),
            transactions: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that breaks off is its own affair.
                std::thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Self { addr, shared }
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every transaction that was carried out, in their order.
    #[must_use]
    pub fn transactions(&self) -> Vec<Transaction> {
        self.shared.transactions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        let Some(request) = read(&mut client)? else { return Ok(()) };
        let target = header(&request.head, "x-amz-target").unwrap_or_default();
        let answer = if target.starts_with("DynamoDB_") {
            let _one = self.one_by_one.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = pass_on(self.moto, &request)?;
            if target.ends_with(".TransactWriteItems") && answer.starts_with(b"HTTP/1.1 200") {
                self.remember(&request.body);
            }
            answer
        } else {
            pass_on(self.other.unwrap_or(self.moto), &request)?
        };
        client.write_all(&answer)
    }

    fn remember(&self, body: &[u8]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        let mut body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let items = body["TransactItems"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let mut transactions = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(transactions.len() < TRANSACTIONS_MAX, "no test makes so many");
        transactions.push(Transaction { wall_ms, items });
    }
}

/// `None` where the client has gone without asking anything.
fn read(client: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        let count = client.read(&mut buffer)?;
        if count == 0 || bytes.len() > REQUEST_MAX {
            return Ok(None);
        }
        bytes.extend_from_slice(&buffer[..count]);
    };
    let mut body = bytes.split_off(head_end + 4);
    bytes.truncate(head_end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if length > REQUEST_MAX {
        return Ok(None);
    }
    let received = body.len().min(length);
    body.resize(length, 0);
    client.read_exact(&mut body[received..])?;
    Ok(Some(Request { head, body }))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// One exchange on a connection of its own, which the answer tells the client to do as well.
fn pass_on(to: SocketAddr, request: &Request) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(to)?;
    server.set_read_timeout(Some(PATIENCE))?;
    server.write_all(closing(&request.head).as_bytes())?;
    server.write_all(&request.body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let Some(head_end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Err(io::Error::other("no answer"));
    };
    let body = answer.split_off(head_end + 4);
    let mut told = closing(&String::from_utf8_lossy(&answer[..head_end])).into_bytes();
    told.extend(body);
    Ok(told)
}

/// The same head, with `Connection: close`, and its empty line.
fn closing(head: &str) -> String {
    let is_kept = |line: &&str| !line.to_ascii_lowercase().starts_with("connection:");
    let kept: Vec<&str> = head.split("\r\n").filter(is_kept).collect();
    format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"))
}

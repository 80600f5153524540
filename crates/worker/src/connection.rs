//! HTTP/1.1 over a Unix socket, as little of it as the agent's answers need. Every read and write has a time-out.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::wire::PARTIAL_BYTES_MAX;

/// The agent answers within milliseconds; what waits for the store takes longer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// A line of an answer's head.
const LINE_BYTES_MAX: u64 = 8 << 10;

/// Lines of an answer's head.
const HEADERS_MAX: usize = 64;

/// An answer's body: a partial result, or a small JSON.
const BODY_BYTES_MAX: usize = PARTIAL_BYTES_MAX + (64 << 10);

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) path: &'a str,
    pub(crate) content_type: &'static str,
    pub(crate) body: &'a [u8],
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A connection that is used again.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<UnixStream>,
    is_fresh: bool,
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        Ok(Self { reader: BufReader::new(stream), is_fresh: true })
    }

    /// Whether nothing was exchanged yet: a connection that was idle may have been closed by the agent.
    pub(crate) const fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    pub(crate) fn exchange(&mut self, request: &Request<'_>) -> io::Result<Answer> {
        let mut bytes = format!(
            "{} {} HTTP/1.1\r\nhost: lifeboat\r\ncontent-type: {}\r\ncontent-length: {}\r\n\r\n",
            request.method,
            request.path,
            request.content_type,
            request.body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(request.body);
        self.reader.get_mut().write_all(&bytes)?;
        let answer = read_answer(&mut self.reader)?;
        self.is_fresh = false;
        Ok(answer)
    }

    /// Asks for the event stream. What is read from the result afterwards are its lines, until it ends. HTTP/1.0:
    /// the body then comes as it is, without chunks.
    pub(crate) fn events(socket: &Path, silence_max: Duration) -> io::Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        stream.set_read_timeout(Some(silence_max))?;
        stream.write_all(b"GET /v1/events HTTP/1.0\r\nhost: lifeboat\r\n\r\n")?;
        let mut reader = BufReader::new(stream);
        let (status, _) = read_head(&mut reader)?;
        if status == 200 { Ok(reader) } else { Err(invalid("no event stream")) }
    }
}

fn read_answer(reader: &mut BufReader<UnixStream>) -> io::Result<Answer> {
    let (status, headers) = read_head(reader)?;
    let mut answer = Answer { status, headers, body: Vec::new() };
    let length: usize = match answer.header("content-length") {
        Some(text) => text.parse().map_err(|_| invalid("a length that is no number"))?,
        None if status == 204 => 0,
        None => return Err(invalid("an answer without its length")),
    };
    if length > BODY_BYTES_MAX {
        return Err(invalid("an answer that is too large"));
    }
    answer.body = vec![0; length];
    reader.read_exact(&mut answer.body)?;
    Ok(answer)
}

type Head = (u16, Vec<(String, String)>);

fn read_head(reader: &mut BufReader<UnixStream>) -> io::Result<Head> {
    let first = line(reader)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid("no status line"))?;
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        if headers.len() >= HEADERS_MAX {
            return Err(invalid("too many headers"));
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// One line without its end.
pub(crate) fn line(reader: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    let read = reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !line.ends_with('\n') {
        return Err(invalid("a line that is too long"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the agent's answer makes no sense: {what}"))
}

//! Between an agent and the mock metadata service: passes everything on, and remembers when the agent first asked for a
//! notice, and when it was told of one.
//!
//! How long an agent takes has two parts: until its next poll, which is chance, and from the answer to the signal,
//! which is its own work. Only here the two can be told apart.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;

use super::process::wall_now;

/// What only a notice's answer contains.
const TELLING: &[u8] = b"\"action\"";

/// What only a request for a notice contains.
const ASKING: &[u8] = b"/spot/instance-action";

/// Larger than any answer.
const BUFFER: usize = 16 * 1024;

/// When something was seen first, if it was.
type Seen = Arc<Mutex<Option<Duration>>>;

/// Listens until it goes out of scope.
#[derive(Debug)]
pub(crate) struct Tap {
    address: SocketAddr,
    asked: Seen,
    told: Seen,
    is_over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens on a free port and passes on to `upstream`, as `127.0.0.1:4711`.
    ///
    /// # Errors
    /// When no port can be had.
    pub(crate) fn start(upstream: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port can be had on loopback")?;
        let address = listener.local_addr()?;
        let (asked, told, is_over) = (Seen::default(), Seen::default(), Arc::new(AtomicBool::new(false)));
        let upstream = upstream.to_owned();
        let listening = thread::spawn({
            let (seen, is_over) = ((Arc::clone(&asked), Arc::clone(&told)), Arc::clone(&is_over));
            move || {
                for agent in listener.incoming() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // A connection that fails is the agent's to try again.
                    let _ = agent.and_then(|agent| join(&agent, &TcpStream::connect(&upstream)?, &seen));
                }
            }
        });
        Ok(Self { address, asked, told, is_over, listening: Some(listening) })
    }

    /// For `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// When a notice was asked for first, by the wall clock.
    pub(crate) fn asked(&self) -> Option<Duration> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the answer that tells of a notice was passed on first, by the wall clock.
    pub(crate) fn told(&self) -> Option<Duration> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address); // wakes the listener, which then ends
        if let Some(listening) = self.listening.take() {
            let _ = listening.join(); // it has nothing to say
        }
    }
}

/// Passes on in both directions until one side closes.
fn join(agent: &TcpStream, service: &TcpStream, (asked, told): &(Seen, Seen)) -> io::Result<()> {
    // Small messages must not wait for each other: the time is what is measured.
    agent.set_nodelay(true)?;
    service.set_nodelay(true)?;
    let (from, to) = (agent.try_clone()?, service.try_clone()?);
    let look = first(ASKING, asked);
    thread::spawn(move || pass_on(from, to, look));
    let (from, to) = (service.try_clone()?, agent.try_clone()?);
    let look = first(TELLING, told);
    thread::spawn(move || pass_on(from, to, look));
    Ok(())
}

/// Remembers when `mark` was passed on first.
fn first(mark: &'static [u8], seen: &Seen) -> impl Fn(&[u8]) + use<> {
    let seen = Arc::clone(seen);
    move |bytes| {
        if bytes.windows(mark.len()).any(|part| part == mark) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(wall_now);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&[u8])) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length) = from.read(&mut buffer)
        && length > 0
    {
        look(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both); // the other side may have closed it
    let _ = to.shutdown(Shutdown::Both); // as above
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that answers every connection with `answer`, asked with `question`.
    fn through_a_tap(question: &'static str, answer: &'static str) -> (String, Tap) {
        let service = TcpListener::bind("127.0.0.1:0").expect("a port");
        let tap = Tap::start(&service.local_addr().expect("bound").to_string()).expect("a port");
        let serving = thread::spawn(move || {
            let (mut stream, _) = service.accept().expect("the tap connects");
            let mut asked = vec![0; question.len()];
            stream.read_exact(&mut asked).expect("passed on");
            stream.write_all(answer.as_bytes()).expect("open");
            asked
        });
        let mut agent = TcpStream::connect(tap.endpoint().trim_start_matches("http://")).expect("listening");
        agent.write_all(question.as_bytes()).expect("open");
        let mut got = String::new();
        agent.read_to_string(&mut got).expect("passed on");
        assert_eq!(serving.join().expect("served"), question.as_bytes());
        (got, tap)
    }

    #[test]
    fn a_tap_passes_on_and_remembers_the_first_question_and_the_notice_alone() {
        let before = wall_now();
        let (got, tap) =
            through_a_tap("GET /latest/meta-data/spot/instance-action", "{\"action\":\"terminate\"}");
        assert_eq!(got, "{\"action\":\"terminate\"}");
        for seen in [tap.asked(), tap.told()] {
            assert!(seen.is_some_and(|seen| seen >= before && seen <= wall_now()));
        }
        let (got, tap) = through_a_tap("GET", "404");
        assert_eq!((got.as_str(), tap.asked(), tap.told()), ("404", None, None));
    }
}

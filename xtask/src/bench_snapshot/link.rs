//! Makes loopback a link: each way takes its time, and all connections together share a rate each way.
//!
//! A new connection costs its round trip before the first byte. No packet is lost, and there is no slow start: a real
//! link is no faster than this one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is carried at once: half a millisecond of a gigabit.
const PIECE: usize = 64 * 1024;

/// So many pieces of one connection are under way: at 64 KiB more than rate × delay.
const PIECES_UNDER_WAY: usize = 128;

/// A running proxy; its threads end with the connections and with the program.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) port: u16,
}

/// When the line is free again, at so many bytes a second.
#[derive(Debug)]
struct Line {
    free_at: Mutex<Instant>,
    rate: u64,
}

impl Line {
    fn new(rate: u64) -> Arc<Self> {
        Arc::new(Self { free_at: Mutex::new(Instant::now()), rate })
    }

    /// Waits until `bytes` are through.
    fn pass(&self, bytes: usize) {
        let nanos = u128::try_from(bytes).unwrap_or(0) * 1_000_000_000 / u128::from(self.rate);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = (*free_at).max(Instant::now()) + time;
            *free_at
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

impl Link {
    /// In front of `to`: `delay` each way, `rate` bytes a second each way.
    pub(super) fn start(to: u16, delay: Duration, rate: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let (up, down) = (Line::new(rate), Line::new(rate));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (Ok(from), Ok(back)) = (client.try_clone(), server.try_clone()) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true)); // slower without, not wrong
                let open = Instant::now() + delay * 2;
                carry(from, server, Arc::clone(&up), (open, delay));
                carry(back, client, Arc::clone(&down), (open, delay));
            }
        });
        Ok(Self { port })
    }
}

/// Carries one direction of a connection that is `open` from then on.
fn carry(mut from: TcpStream, mut to: TcpStream, line: Arc<Line>, (open, delay): (Instant, Duration)) {
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(PIECES_UNDER_WAY);
    std::thread::spawn(move || {
        std::thread::sleep(open.saturating_duration_since(Instant::now()));
        loop {
            let mut piece = vec![0; PIECE];
            let Ok(count @ 1..) = from.read(&mut piece) else { break };
            piece.truncate(count);
            line.pass(count);
            if sender.send((Instant::now() + delay, piece)).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (at, piece) in receiver {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both); // it may be closed already
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_delays_and_bounds_the_rate() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = server.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let (mut client, _) = server.accept().expect("a client");
            let mut bytes = [0; 100_000];
            client.read_exact(&mut bytes).expect("sent");
            client.write_all(b"done").expect("open");
        });
        let link = Link::start(port, Duration::from_millis(15), 1_000_000).expect("a port");
        let begun = Instant::now();
        let mut client = TcpStream::connect(("127.0.0.1", link.port)).expect("listening");
        client.write_all(&[7; 100_000]).expect("open");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).expect("an answer");
        // Two round trips, and 100 ms for the bytes.
        assert!(begun.elapsed() >= Duration::from_millis(155), "{:?}", begun.elapsed());
    }
}

//! Makes loopback a link: each way takes its time, and both directions of all connections share a rate each.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running proxy; its threads end with the program.
pub(crate) struct Link {
    pub(crate) port: u16,
}

/// When the line is free again, at so many bytes a second.
struct Line {
    free_at: Mutex<Instant>,
    rate: u64,
}

impl Line {
    /// Waits until `bytes` are through.
    fn pass(&self, bytes: usize) {
        let nanos = u128::try_from(bytes).unwrap_or(0) * 1_000_000_000 / u128::from(self.rate);
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            *free_at = (*free_at).max(Instant::now()) + time;
            *free_at
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

impl Link {
    /// In front of `to`: `delay` each way, `rate` bytes a second each way.
    pub(crate) fn start(to: u16, delay: Duration, rate: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let line = || Arc::new(Line { free_at: Mutex::new(Instant::now()), rate });
        let (up, down) = (line(), line());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (Ok(from), Ok(back)) = (client.try_clone(), server.try_clone()) else { continue };
                carry(from, server, Arc::clone(&up), delay);
                carry(back, client, Arc::clone(&down), delay);
            }
        });
        Ok(Self { port })
    }
}

/// Carries one direction.
fn carry(mut from: TcpStream, mut to: TcpStream, line: Arc<Line>, delay: Duration) {
    // What is under way: at 64 KiB a piece more than rate × delay.
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(256);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; 64 * 1024];
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

//! Serving the mock: over TCP on loopback, or in memory.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::client::Client;
use crate::clock::WallClock;
use crate::connection::Connector;
use crate::endpoint::Endpoint;
use crate::mock::control::Control;
use crate::mock::routes::router;
use crate::mock::script::Script;

/// More connections than this wait: a rehearsal has a handful.
const CONNECTIONS_MAX: usize = 256;
/// After a failed accept (out of file descriptors, most likely) the next waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What one side of an in-memory connection may be ahead of the other.
const MEMORY_BUFFER_BYTES: usize = 64 * 1024;
/// In-memory connections that wait to be accepted.
const MEMORY_BACKLOG: usize = 16;

/// The mock cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not a loopback address: a mock that others can reach would announce interruptions to them.
    #[error("the mock serves loopback addresses only, not {addr}")]
    NotLoopback {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The listener does not tell its address.
    #[error("the listener has no address")]
    Listener(#[source] io::Error),
}

/// A mock that serves TCP until it is dropped or stopped.
#[derive(Debug)]
pub struct Mock {
    /// Where it listens.
    pub addr: SocketAddr,
    control: Control,
    task: JoinHandle<()>,
}

impl Mock {
    /// Listens on `addr` (port 0 for any) and plays `script` from now on.
    ///
    /// # Errors
    ///
    /// [`ServeError::NotLoopback`], [`ServeError::Bind`].
    pub async fn start(addr: SocketAddr, script: Script) -> Result<Self, ServeError> {
        Self::start_with_clock(addr, script, WallClock::system()).await
    }

    /// The same with another wall clock.
    ///
    /// # Errors
    ///
    /// As [`Mock::start`].
    pub async fn start_with_clock(
        addr: SocketAddr,
        script: Script,
        wall: WallClock,
    ) -> Result<Self, ServeError> {
        let listener = listen(addr).await?;
        let addr = listener.local_addr().map_err(ServeError::Listener)?;
        let control = Control::new(script, wall);
        let task = tokio::spawn(accept(listener, router(control.clone())));
        Ok(Self { addr, control, task })
    }

    /// Changes the mock while it runs.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Where a client finds it.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::at(self.addr)
    }

    /// Stops it and waits until it has.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await; // cancelled, as just asked for
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A mock without a network: connections are pipes in memory, so that it runs under tokio's paused clock,
/// which would run ahead of a socket.
#[derive(Debug)]
pub struct MemoryMock {
    control: Control,
    wall: WallClock,
    incoming: mpsc::Sender<DuplexStream>,
    task: JoinHandle<()>,
}

impl MemoryMock {
    /// Plays `script` from now on, by the clock `wall`.
    #[must_use]
    pub fn start(script: Script, wall: WallClock) -> Self {
        let control = Control::new(script, wall.clone());
        let service = router(control.clone());
        let (incoming, mut connections) = mpsc::channel(MEMORY_BACKLOG);
        let task = tokio::spawn(async move {
            let mut running = JoinSet::new();
            while let Some(stream) = connections.recv().await {
                while running.try_join_next().is_some() {}
                running.spawn(serve_connection(stream, service.clone()));
            }
        });
        Self { control, wall, incoming, task }
    }

    /// Changes the mock while it runs.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Opens one connection to it.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` once the mock is gone.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        connect_to(&self.incoming).await
    }

    /// Opens connections to it.
    #[must_use]
    pub fn connector(&self) -> Connector {
        let incoming = self.incoming.clone();
        Connector::new(move || {
            let incoming = incoming.clone();
            async move { connect_to(&incoming).await }
        })
    }

    /// A client of it, with the same wall clock.
    #[must_use]
    pub fn client(&self) -> Client {
        let endpoint = Endpoint::at(SocketAddr::from(([127, 0, 0, 1], 1338)));
        Client::over(self.connector(), endpoint, self.wall.clone())
    }
}

impl Drop for MemoryMock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect_to(incoming: &mpsc::Sender<DuplexStream>) -> io::Result<DuplexStream> {
    let (near, far) = tokio::io::duplex(MEMORY_BUFFER_BYTES);
    let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
    incoming.send(far).await.map_err(refused)?;
    Ok(near)
}

/// Serves the mock on `listener` until `shutdown` is ready; open connections are closed then.
///
/// # Errors
///
/// [`ServeError::NotLoopback`] where the listener is bound to anything but loopback.
pub async fn serve(
    listener: TcpListener,
    script: Script,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let addr = listener.local_addr().map_err(ServeError::Listener)?;
    refuse_others(addr)?;
    let service = router(Control::new(script, WallClock::system()));
    tokio::select! {
        () = accept(listener, service) => {}
        () = shutdown => {}
    }
    Ok(())
}

/// Binds to a loopback address, for [`serve`].
///
/// # Errors
///
/// [`ServeError::NotLoopback`], [`ServeError::Bind`].
pub async fn listen(addr: SocketAddr) -> Result<TcpListener, ServeError> {
    refuse_others(addr)?;
    TcpListener::bind(addr).await.map_err(|source| ServeError::Bind { addr, source })
}

fn refuse_others(addr: SocketAddr) -> Result<(), ServeError> {
    if addr.ip().to_canonical().is_loopback() { Ok(()) } else { Err(ServeError::NotLoopback { addr }) }
}

/// Accepts for ever. When dropped, it takes its connections with it.
async fn accept(listener: TcpListener, service: Router) {
    let mut running = JoinSet::new();
    loop {
        if running.len() >= CONNECTIONS_MAX {
            running.join_next().await;
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    running.spawn(serve_connection(stream, service.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await, // transient: the next may succeed
            },
            Some(_) = running.join_next() => {}
        }
    }
}

async fn serve_connection<S>(stream: S, service: Router)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = TowerToHyperService::new(service);
    // A connection that breaks is the client's to notice.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

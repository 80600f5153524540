//! The socket of the application interface: who may speak, how much, for how long.
//!
//! Everything is bounded, so that a worker that hangs, sends nonsense or dies in the middle of a request costs one
//! connection for a while, and nobody else anything.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::App;
use super::routes;

/// Connections at once; more are closed at once. An application needs one a thread, and one for the notice.
const CONNECTIONS_MAX: usize = 256;

/// From the connection, or the answer before, to the end of a request's head. An idle connection is closed then.
const HEAD_WAIT: Duration = Duration::from_secs(30);

/// A request's head. Source: the longest task id, 512 bytes, is three times as long when it is encoded.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Header fields of a request.
const HEADERS_MAX: usize = 32;

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// The serving end. Dropping it ends every connection and removes the socket.
#[derive(Debug)]
pub(crate) struct AppServer {
    _tasks: JoinSet<()>,
    path: PathBuf,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Its process; 0 where the kernel does not tell.
    pub(super) pid: i32,
}

impl AppServer {
    /// Listens on `path` for `app`, and keeps its partial results stored. The caller holds the agent's lock, so a
    /// socket that is there belongs to a dead agent and is replaced.
    pub(crate) fn start(app: &Arc<App>, path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(app)));
        tasks.spawn(Arc::clone(app).keep_writing());
        tasks.spawn(Arc::clone(app).keep_spooling());
        Ok(Self { _tasks: tasks, path: path.to_owned() })
    }
}

impl Drop for AppServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // ours; a left one is replaced by the next agent
    }
}

async fn accept(listener: UnixListener, app: Arc<App>) {
    /// The kernel has no descriptor left, or the like: it passes.
    const AGAIN: Duration = Duration::from_millis(100);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Some(peer) = peer(&stream) else { continue };
                    match Arc::clone(&connections).try_acquire_owned() {
                        Ok(permit) => {
                            let app = Arc::clone(&app);
                            open.spawn(async move {
                                serve(stream, peer, app).await;
                                drop(permit);
                            });
                        }
                        Err(_) => tracing::warn!("the application has too many connections open: one is refused"),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of the application");
                    tokio::time::sleep(AGAIN).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// The peer, if it is of this user: the socket's mode says so already, where nobody has changed it.
fn peer(stream: &UnixStream) -> Option<Peer> {
    let credentials = match stream.peer_cred() {
        Ok(credentials) => credentials,
        Err(error) => {
            tracing::warn!(%error, "cannot tell who connects to the application's socket: refused");
            return None;
        }
    };
    let own = rustix::process::geteuid().as_raw();
    if credentials.uid() == own {
        Some(Peer { pid: credentials.pid().unwrap_or(0) })
    } else {
        tracing::warn!(uid = credentials.uid(), "another user connects to the application's socket: refused");
        None
    }
}

async fn serve(stream: UnixStream, peer: Peer, app: Arc<App>) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(routes::answer(app, peer, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the application ended"); // its own affair
    }
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).boxed()
}

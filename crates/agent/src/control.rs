//! The socket on which a running agent answers: `GET /v1/status`, `POST /v1/evacuate`. HTTP with JSON, so
//! that any language and `curl --unix-socket` can speak it. Private to the user by the mode of its directory.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::summary::Summary;
use crate::watch::Seen;

/// Requests that wait for the agent's turn. More callers than this at once are refused, not queued.
const QUEUE: usize = 32;

/// An answer larger than this is not an agent's.
const ANSWER_MAX: usize = 4 << 20;

/// How the agent stands.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The workload's name.
    pub workload: String,
    /// This machine's name in the store.
    pub instance: String,
    /// The agent's process.
    pub pid: u32,
    /// `running`, `evacuating`, …
    pub phase: String,
    /// The claim under which it works.
    pub claim: u64,
    /// The ECS task in which it runs, and what that may use.
    pub task: Option<lifeboat_imds::task::Task>,
    /// What the metadata service shows.
    pub metadata: Seen,
}

/// What somebody asks of the running agent.
#[derive(Debug)]
pub enum Request {
    /// How do you stand?
    Status(oneshot::Sender<Status>),
    /// Evacuate now; answered when it is over.
    Evacuate(oneshot::Sender<Summary>),
}

/// The serving end. Dropping it removes the socket.
#[derive(Debug)]
pub struct Server {
    task: tokio::task::JoinHandle<()>,
    path: std::path::PathBuf,
    stop: Option<oneshot::Sender<()>>,
}

/// Why a request to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent listens there.
    #[error("no agent is running for this workload on this machine")]
    NoAgent,
    /// The agent has nothing to evacuate yet: it waits for the work, or restores it.
    #[error("the agent has not begun the work yet")]
    NotBegun,
    /// It did not answer as an agent does.
    #[error("the agent did not answer: {0}")]
    Failed(String),
}

impl Server {
    /// Listens on `path` and hands requests to `requests`. The caller holds the agent's lock, so a socket
    /// that is there belongs to a dead agent and is replaced.
    ///
    /// # Errors
    /// Whatever binding says.
    pub fn start(path: &Path) -> io::Result<(Self, mpsc::Receiver<Request>)> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let (sender, requests) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel::<()>();
        let router = axum::Router::new()
            .route("/v1/status", get(status))
            .route("/v1/evacuate", post(evacuate))
            .with_state(sender);
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(async move {
                let _ = stopped.await; // dropped or sent: either way it is time
            });
            if let Err(error) = served.await {
                tracing::warn!(%error, "the control socket failed");
            }
        });
        Ok((Self { task, path: path.to_owned(), stop: Some(stop) }, requests))
    }

    /// Lets answers that are under way arrive, for a moment, and closes the socket.
    pub async fn close(mut self) {
        drop(self.stop.take());
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.task).await; // a caller that hangs is left
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path); // ours; a left one is replaced by the next agent
    }
}

async fn status(State(requests): State<mpsc::Sender<Request>>) -> Result<Json<Status>, StatusCode> {
    let (reply, answer) = oneshot::channel();
    requests.try_send(Request::Status(reply)).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

async fn evacuate(State(requests): State<mpsc::Sender<Request>>) -> Result<Json<Summary>, StatusCode> {
    let (reply, answer) = oneshot::channel();
    requests.try_send(Request::Evacuate(reply)).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.await.map(Json).map_err(|_| StatusCode::CONFLICT)
}

/// Asks the agent behind `socket`, and waits at most `within` for the JSON that it answers.
///
/// # Errors
/// [`AskError::NoAgent`] where nobody listens, [`AskError::Failed`] for everything else.
pub async fn ask(
    socket: &Path,
    method: &'static str,
    path: &str,
    within: Duration,
) -> Result<serde_json::Value, AskError> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(AskError::NoAgent);
        }
        Err(error) => return Err(AskError::Failed(error.to_string())),
    };
    let failed = |error: &dyn std::fmt::Display| AskError::Failed(error.to_string());
    let exchange = async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        let driver = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "lifeboat")
            .body(http_body_util::Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX);
        let bytes = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
        driver.abort();
        if status == StatusCode::CONFLICT {
            return Err(AskError::NotBegun);
        }
        if !status.is_success() {
            return Err(failed(&format!("it said {status}")));
        }
        serde_json::from_slice(&bytes).map_err(|error| failed(&error))
    };
    tokio::time::timeout(within, exchange).await.unwrap_or_else(|_| Err(failed(&"it took too long")))
}

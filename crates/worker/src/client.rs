//! The client of the agent's application interface.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{Answer, Connection, Request, line};
use crate::shutdown::Shutdown;
use crate::wire::{About, End, Notice, Outcome, Progress, Receipt, Refusal, Registration, in_path};
use crate::wire::{PARTIAL_BYTES_MAX, SOCKET_VARIABLE};

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// The event stream says something every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Between two attempts to listen again: an agent that died does not come back under the same program.
const LISTEN_AGAIN: Duration = Duration::from_millis(500);

/// Why a request to the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine is about to go: no task is begun on it.
    #[error("the machine is being interrupted: {0}")]
    Interrupted(String),
    /// Another worker has this task.
    #[error("another worker has this task: {0}")]
    Taken(String),
    /// The agent refuses the request; repeating it changes nothing.
    #[error("the agent refused ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The agent cannot do it now: the store does not answer, or a bound is reached.
    #[error("the agent cannot do this now: {0}")]
    Unavailable(String),
    /// No agent answers at the socket.
    #[error("cannot speak with the agent at {path}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is to be stored, or was, is no JSON of the wanted form.
    #[error("this is not the JSON that is wanted")]
    Json(#[from] serde_json::Error),
    /// A thread or a signal handler cannot be had.
    #[error("the system refused")]
    System(#[source] io::Error),
}

/// The connection with the agent. Cheap to clone; made once a program.
#[derive(Clone, Debug)]
pub struct Worker {
    agent: Option<Arc<Agent>>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Agent {
    socket: PathBuf,
    idle: Mutex<Option<Connection>>,
}

/// A task about to be started.
#[derive(Clone, Debug)]
pub struct Start {
    worker: Worker,
    registration: Registration,
}

/// A task that is being worked on. Dropped without [`Task::done`] or [`Task::failed`] it is given back: its partial
/// result is stored, then its message is visible to others.
#[derive(Debug)]
pub struct Task {
    worker: Worker,
    id: String,
    is_ended: bool,
}

/// A partial result that another worker left, or this one before.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// The machine on which it was stored.
    pub instance: String,
    /// From 0 to 1, where it was told.
    pub progress: Option<f64>,
    /// What was stored.
    pub data: Vec<u8>,
}

impl Partial {
    /// Reads it as JSON.
    ///
    /// # Errors
    /// [`Error::Json`]
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(serde_json::from_slice(&self.data)?)
    }
}

impl Worker {
    /// Connects with the agent that `lifeboat run` names in the environment. From here on SIGTERM does not end the
    /// program: it requests the shutdown, as the notice does. Without `lifeboat run` this says so on standard
    /// error, and everything else does nothing.
    ///
    /// # Errors
    /// [`Error::Socket`] when the socket is named and nobody answers there; [`Error::System`].
    pub fn connect() -> Result<Self, Error> {
        let shutdown = Shutdown::default();
        catch_sigterm(&shutdown).map_err(Error::System)?;
        match std::env::var_os(SOCKET_VARIABLE) {
            Some(socket) => Self::connect_to(Path::new(&socket), shutdown),
            None => {
                let note = format!(
                    "lifeboat-worker: {SOCKET_VARIABLE} is not set: this program does not run under `lifeboat run`, \
                     nothing is protected and partial results are not kept\n"
                );
                let _ = io::stderr().write_all(note.as_bytes()); // nobody reads it
                Ok(Self { agent: None, shutdown })
            }
        }
    }

    /// Connects with the agent behind `socket`; the notice requests `shutdown`.
    ///
    /// # Errors
    /// [`Error::Socket`] when nobody answers there; [`Error::System`].
    pub fn connect_to(socket: &Path, shutdown: Shutdown) -> Result<Self, Error> {
        let agent = Arc::new(Agent { socket: socket.to_owned(), idle: Mutex::new(None) });
        let about: About = agent.ask("GET", "/v1", &())?;
        if let Some(notice) = about.notice {
            shutdown.announce(notice);
        }
        let (listening, heard) = (Arc::downgrade(&agent), shutdown.clone());
        std::thread::Builder::new()
            .name("lifeboat-events".into())
            .spawn(move || listen(&listening, &heard))
            .map_err(Error::System)?;
        Ok(Self { agent: Some(agent), shutdown })
    }

    /// Whether `lifeboat run` is around this program.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.agent.is_some()
    }

    /// Tells when to stop.
    #[must_use]
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// How the agent stands; `None` without one.
    ///
    /// # Errors
    /// [`Error`]
    pub fn about(&self) -> Result<Option<About>, Error> {
        self.agent.as_ref().map(|agent| agent.ask("GET", "/v1", &())).transpose()
    }

    /// A task called `id`.
    #[must_use]
    pub fn task(&self, id: impl Into<String>) -> Start {
        let registration = Registration { id: id.into(), ..Registration::default() };
        Start { worker: self.clone(), registration }
    }
}

impl Start {
    /// What it works on, for people.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.registration.path = Some(path.into());
        self
    }

    /// The message that asked for it, and how often the queue has given it out.
    #[must_use]
    pub fn message(mut self, receipt: Receipt, attempt: u32) -> Self {
        self.registration.receipt = Some(receipt);
        self.registration.attempt = Some(attempt);
        self
    }

    /// Registers it.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the machine is about to go, [`Error::Taken`] when another process on this
    /// machine has it; [`Error`].
    pub fn start(self) -> Result<Task, Error> {
        let Self { worker, registration } = self;
        if let Some(agent) = &worker.agent {
            agent.tell("POST", "/v1/tasks", &registration)?;
        }
        Ok(Task { id: registration.id, worker, is_ended: false })
    }
}

impl Task {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The newest partial result of this task, from whatever machine. Only one worker gets it.
    ///
    /// # Errors
    /// [`Error::Taken`] while the worker that got it may still be working; [`Error`].
    pub fn take_partial(&self) -> Result<Option<Partial>, Error> {
        let Some(agent) = &self.worker.agent else { return Ok(None) };
        let path = format!("/v1/tasks/{}/partial/take", in_path(&self.id));
        let answer = agent.send("POST", &path, JSON, b"")?;
        if answer.status == 204 {
            return Ok(None);
        }
        let progress = answer.header("lifeboat-progress").and_then(|text| text.parse().ok());
        let instance = answer.header("lifeboat-instance").unwrap_or_default().to_owned();
        Ok(Some(Partial { instance, progress, data: answer.body }))
    }

    /// Says how far it is, from 0 to 1.
    ///
    /// # Errors
    /// [`Error`]
    pub fn progress(&self, progress: f64) -> Result<(), Error> {
        match &self.worker.agent {
            Some(agent) => agent.tell("POST", &self.path("progress"), &Progress { progress }),
            None => Ok(()),
        }
    }

    /// Hands a partial result to the agent, which stores it soon: what is handed in faster is stored less often, the
    /// newest always. At the notice the newest is stored before the message is given back.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the store is so slow that too much waits; [`Error`].
    pub fn checkpoint(&self, data: &[u8], progress: f64) -> Result<(), Error> {
        self.put(BYTES, data, &format!("?progress={progress}"))
    }

    /// As [`Task::checkpoint`], as JSON.
    ///
    /// # Errors
    /// As [`Task::checkpoint`].
    pub fn checkpoint_json<T: Serialize>(&self, value: &T, progress: f64) -> Result<(), Error> {
        self.put(JSON, &serde_json::to_vec(value)?, &format!("?progress={progress}"))
    }

    /// As [`Task::checkpoint_json`], and waits until it is stored.
    ///
    /// # Errors
    /// [`Error::Taken`] when another worker has the task by now; [`Error`].
    pub fn store_json<T: Serialize>(&self, value: &T, progress: f64) -> Result<(), Error> {
        self.put(JSON, &serde_json::to_vec(value)?, &format!("?progress={progress}&wait=stored"))
    }

    fn put(&self, content_type: &'static str, data: &[u8], query: &str) -> Result<(), Error> {
        let Some(agent) = &self.worker.agent else { return Ok(()) };
        if data.len() > PARTIAL_BYTES_MAX {
            let message = format!("{} bytes are more than {PARTIAL_BYTES_MAX}", data.len());
            return Err(Error::Refused { status: 413, message });
        }
        agent.send("PUT", &format!("{}{query}", self.path("partial")), content_type, data).map(drop)
    }

    /// It is done, and its result is safe: what is stored of it is deleted.
    ///
    /// # Errors
    /// [`Error`]
    pub fn done(mut self) -> Result<(), Error> {
        self.end(Outcome::Done)
    }

    /// It cannot be done. What is stored of it stays; its message comes back when its time-out is over.
    ///
    /// # Errors
    /// [`Error`]
    pub fn failed(mut self) -> Result<(), Error> {
        self.end(Outcome::Failed)
    }

    /// Gives it back now, and says whether that worked; dropping it does the same and cannot say.
    ///
    /// # Errors
    /// [`Error`]
    pub fn give_back(mut self) -> Result<(), Error> {
        self.end(Outcome::Released)
    }

    fn end(&mut self, outcome: Outcome) -> Result<(), Error> {
        self.is_ended = true;
        let Some(agent) = &self.worker.agent else { return Ok(()) };
        match agent.tell("POST", &self.path("end"), &End { outcome }) {
            Err(Error::Refused { status: 404, .. }) => Ok(()), // ended already
            other => other,
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/tasks/{}/{what}", in_path(&self.id))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.is_ended {
            let _ = self.end(Outcome::Released); // the agent does it at the notice, or the message's time-out
        }
    }
}

impl Agent {
    fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let answer = self.send(method, path, JSON, &serde_json::to_vec(body)?)?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    fn tell(&self, method: &'static str, path: &str, body: &impl Serialize) -> Result<(), Error> {
        self.send(method, path, JSON, &serde_json::to_vec(body)?).map(drop)
    }

    /// One request. Every request may be repeated without harm, so one that met a closed connection is.
    fn send(
        &self,
        method: &'static str,
        path: &str,
        content_type: &'static str,
        body: &[u8],
    ) -> Result<Answer, Error> {
        let request = Request { method, path, content_type, body };
        let failed = |source| Error::Socket { path: self.socket.clone(), source };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(&self.socket).map_err(failed)?,
        };
        let answer = match connection.exchange(&request) {
            Err(error) if !connection.is_fresh() && error.kind() != io::ErrorKind::WouldBlock => {
                connection = Connection::open(&self.socket).map_err(failed)?;
                connection.exchange(&request)
            }
            other => other,
        }
        .map_err(failed)?;
        if answer.header("connection") != Some("close") {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        }
        judge(answer)
    }
}

fn judge(answer: Answer) -> Result<Answer, Error> {
    let message = || match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) => refusal.error,
        Err(_) => String::from_utf8_lossy(&answer.body).into_owned(),
    };
    match answer.status {
        200..=299 => Ok(answer),
        409 => Err(Error::Taken(message())),
        410 => Err(Error::Interrupted(message())),
        429 | 500..=599 => Err(Error::Unavailable(message())),
        status => Err(Error::Refused { status, message: message() }),
    }
}

/// Follows the event stream until the worker is dropped.
fn listen(agent: &Weak<Agent>, shutdown: &Shutdown) {
    while let Some(socket) = agent.upgrade().map(|agent| agent.socket.clone()) {
        if let Ok(mut events) = Connection::events(&socket, SILENCE_MAX) {
            while let Ok(line) = line(&mut events) {
                if let Some(data) = line.strip_prefix("data:")
                    && let Ok(notice) = serde_json::from_str::<Notice>(data.trim())
                {
                    shutdown.announce(notice);
                }
                if agent.strong_count() == 0 {
                    return;
                }
            }
        }
        std::thread::sleep(LISTEN_AGAIN);
    }
}

/// SIGTERM requests `shutdown`, and no longer ends the program.
fn catch_sigterm(shutdown: &Shutdown) -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    let shutdown = shutdown.clone();
    std::thread::Builder::new().name("lifeboat-sigterm".into()).spawn(move || {
        for _ in signals.forever() {
            shutdown.request();
        }
    })?;
    Ok(())
}

//! Runs a command that is no part of the workload to its end, within a limit.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::apart::Apart;
use crate::process::RUN_ID_VARIABLE;

/// So much of what a failing command said last is repeated.
const SAID_BYTES_MAX: usize = 500;

/// What a command had said arrives within this time of its end, unless it left something running that may go on.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A killed process is gone after this, or hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Why a command did not do its part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ErrandError {
    #[error("`{program}` cannot be started: {source}")]
    NotStarted { program: String, source: std::io::Error },
    #[error("`{program}` failed with {status}{said}")]
    Failed { program: String, status: ExitStatus, said: String },
    #[error("`{program}` did not end within {limit_ms} ms and was killed")]
    TimedOut { program: String, limit_ms: u128 },
    #[error("`{program}` cannot be waited for: {source}")]
    Unwaited { program: String, source: std::io::Error },
}

/// Runs `command` without input. After `limit` it is killed with its process group, and so it is when this is dropped.
/// What it leaves running in that group is killed when it ends.
///
/// # Errors
/// [`ErrandError`]
pub(crate) async fn run(mut command: Command, limit: Duration) -> Result<(), ErrandError> {
    command.stdout(Stdio::null());
    go(command, limit).await.map(drop)
}

/// The same, and returns the end of what it said on standard output.
///
/// # Errors
/// [`ErrandError`]
pub(crate) async fn ask(mut command: Command, limit: Duration) -> Result<String, ErrandError> {
    command.stdout(Stdio::piped());
    go(command, limit).await
}

async fn go(mut command: Command, limit: Duration) -> Result<String, ErrandError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command
        // It is no part of the workload, also where that runs below another one.
        .env_remove(RUN_ID_VARIABLE)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = match Apart::start(&mut command) {
        Ok(child) => child,
        Err(source) => return Err(ErrandError::NotStarted { program, source }),
    };
    let (stdout, stderr) = child.streams();
    let said = tokio::spawn(last_words(stdout));
    let complained = tokio::spawn(last_words(stderr));
    let (quiet_out, quiet_err) = (said.abort_handle(), complained.abort_handle());
    let ended = match timeout(limit, child.wait()).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(source)) => Err(ErrandError::Unwaited { program: program.clone(), source }),
        Err(_elapsed) => {
            child.kill();
            // Gone at once, unless it hangs in the kernel.
            let _ = timeout(KILL_WAIT, child.wait()).await;
            Err(ErrandError::TimedOut { program: program.clone(), limit_ms: limit.as_millis() })
        }
    };
    let words = async |listening| match timeout(LAST_WORDS, listening).await {
        Ok(Ok(said)) => said,
        Ok(Err::<String, tokio::task::JoinError>(_)) | Err(_) => String::new(),
    };
    let result = match ended {
        Ok(status) if status.success() => Ok(words(said).await),
        Ok(status) => {
            let complaint: String = words(complained).await;
            let complaint = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
            let said = if complaint.is_empty() { complaint } else { format!(": {complaint}") };
            Err(ErrandError::Failed { program, status, said })
        }
        Err(error) => Err(error),
    };
    quiet_out.abort();
    quiet_err.abort();
    result
}

/// The end of what is said.
async fn last_words(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut piece, mut last) = ([0; 4096], VecDeque::new());
    // Ends with the stream; what is kept is bounded.
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        last.extend(&piece[..length]);
        last.drain(..last.len().saturating_sub(SAID_BYTES_MAX));
    }
    let bytes: Vec<u8> = last.into();
    String::from_utf8_lossy(&bytes).into_owned()
}

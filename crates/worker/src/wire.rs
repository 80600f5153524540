//! The form of the application interface: what is sent to the agent and what it answers. Shared by both sides.

use serde::{Deserialize, Serialize};

/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "LIFEBOAT_SOCKET";

/// The longest task id, in bytes of UTF-8.
pub const TASK_ID_BYTES_MAX: usize = 512;

/// The longest path, note, queue URL or receipt, in bytes. Source: an SQS receipt handle has at most 1,024
/// characters (Amazon SQS developer guide, "Queue and message identifiers", read November 2026).
pub const TEXT_BYTES_MAX: usize = 2_048;

/// The largest partial result.
pub const PARTIAL_BYTES_MAX: usize = 1 << 20;

/// So many tasks may be registered at once.
pub const TASKS_MAX: usize = 100_000;

/// So many receipts may be registered at once beside those of tasks. Source: at most 120,000 messages of one
/// standard queue are in flight (Amazon SQS developer guide, "Message quotas", read November 2026).
pub const RECEIPTS_MAX: usize = 120_000;

/// A message in flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The URL of its queue: `https://sqs…`, `file:///abs/path` of a directory queue.
    pub queue: String,
    /// What the queue gave when the message was received.
    pub receipt: String,
}

/// `POST /v1/tasks`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// What the application calls the task: any text of 1 to [`TASK_ID_BYTES_MAX`] bytes.
    pub id: String,
    /// What it works on, for people: a path, a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The message that asked for it; handed back with the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
    /// How often the queue has given the message out. A greater one is proof that whoever had it before lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// `POST /v1/tasks/{id}/progress`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// From 0 to 1.
    pub progress: f64,
}

/// `POST /v1/tasks/{id}/end`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How it ended.
    pub outcome: Outcome,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its result is safe: its partial results are deleted.
    Done,
    /// It cannot be done here. Its partial result stays, its message comes back when its time-out is over.
    Failed,
    /// Given back: its partial result is stored, then its message is visible again.
    Released,
}

/// What was announced. The answer's `notice`, and the event `notice`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// `terminate`, `stop` or `hibernate`.
    pub action: String,
    /// When this machine ends, Unix time in ms by its own clock.
    pub deadline_unix_ms: u64,
    /// How much was left when this was sent, ms.
    pub left_ms: u64,
}

/// `GET /v1`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The workload's name.
    pub workload: String,
    /// The application whose workers share tasks.
    pub application: String,
    /// This machine's name in the store.
    pub instance: String,
    /// What was announced, once it was. No task is accepted from then on.
    pub notice: Option<Notice>,
    /// The tasks.
    pub tasks: Counts,
}

/// How many tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Registered and not ended.
    pub active: u64,
    /// Ended as done since the run began.
    pub done: u64,
    /// Ended as failed since the run began.
    pub failed: u64,
    /// Given back since the run began.
    pub released: u64,
    /// Receipts that are registered, those of tasks included.
    pub receipts: u64,
}

/// Every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was wrong, for people.
    pub error: String,
}

/// `id` as it stands in a request's path.
#[must_use]
pub fn in_path(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The reverse of [`in_path`]; `None` where it is no UTF-8 or badly encoded.
#[must_use]
pub fn from_path(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_survives_the_path() {
        for id in ["a", "../../etc/passwd", "a b/ä?#%\u{0}\n", "💥", "."] {
            let path = in_path(id);
            assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#".contains(&byte)), "{path}");
            assert_eq!(from_path(&path).as_deref(), Some(id));
        }
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(from_path(bad), None, "{bad}");
        }
    }
}

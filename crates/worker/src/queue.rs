//! What a consumer asks of a queue. Its semantics are those of Amazon SQS.

use std::time::Duration;

/// A message that was received and is in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Stays the same however often it is received.
    pub id: String,
    /// This delivery of it.
    pub receipt: String,
    /// How often it has been given out, this time included.
    pub receive_count: u32,
    /// What it says.
    pub body: Vec<u8>,
}

/// Why an operation on a queue failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The receipt is out of date: the message was given to somebody else, or is deleted.
    #[error("the receipt is out of date")]
    Stale,
    /// Anything else.
    #[error("the queue failed: {0}")]
    Failed(String),
}

impl From<std::io::Error> for QueueError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A queue of messages with visibility time-outs.
pub trait Queue: Send + Sync {
    /// Its URL, as the agent knows it.
    fn url(&self) -> String;

    /// How long a message that is received stays invisible.
    fn visibility(&self) -> Duration;

    /// Receives one message, waiting at most `wait` for it.
    ///
    /// # Errors
    /// [`QueueError`]
    fn receive(&self, wait: Duration) -> Result<Option<Message>, QueueError>;

    /// Keeps the message behind `receipt` invisible for `visibility` from now; zero gives it to whoever receives next.
    ///
    /// # Errors
    /// [`QueueError::Stale`], [`QueueError::Failed`].
    fn change_visibility(&self, receipt: &str, visibility: Duration) -> Result<(), QueueError>;

    /// Deletes the message behind `receipt`. One that is gone already is no error where the queue cannot tell.
    ///
    /// # Errors
    /// [`QueueError::Stale`], [`QueueError::Failed`].
    fn delete(&self, receipt: &str) -> Result<(), QueueError>;

    /// Whether no message is waiting and none is in flight, as far as the queue knows.
    ///
    /// # Errors
    /// [`QueueError`]
    fn is_empty(&self) -> Result<bool, QueueError>;
}

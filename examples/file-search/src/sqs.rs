//! An SQS queue as `lifeboat-worker` wants it. The calls, their retries and the meaning of their errors are
//! `lifeboat-aws`'s; here they are only awaited.

use std::time::Duration;

use anyhow::Context;
use lifeboat_aws::sqs::{Outgoing, Receive, Sqs};
use lifeboat_aws::{Aws, AwsError, Kind, Options};
use lifeboat_worker::{Message, Queue, QueueError};
use tokio::runtime::Handle;

/// The shortest long poll that SQS knows. A longer one would cost less while the queue is empty, and a worker that is
/// interrupted would be longer in coming to an end: it must not go while a message may be on its way to it.
const POLL: Duration = Duration::from_secs(1);

/// A call may take so many times as long as one try of it.
const TRIES: u32 = 4;

/// Messages that are sent between two looks at what failed.
const SENT_TOGETHER: usize = 1_000;

/// So many calls carry them at most, one after the other.
const CALLS_TOGETHER: u32 = 100;

/// A queue.
#[derive(Debug)]
pub(crate) struct SqsQueue {
    sqs: Sqs,
    url: String,
    visibility: Duration,
    within: Duration,
    runtime: Handle,
}

impl SqsQueue {
    /// `patience`: for one try of a request. Region, credentials and end point are found as the AWS SDKs find them.
    pub(crate) fn new(url: &str, visibility: Duration, patience: Duration, runtime: Handle) -> Self {
        let aws = Aws::new(Options { read_timeout: Some(patience), ..Options::default() });
        Self { sqs: aws.sqs(), url: url.to_owned(), visibility, within: patience * TRIES, runtime }
    }

    /// Sends messages.
    pub(crate) fn send(&self, bodies: Vec<String>) -> anyhow::Result<()> {
        let messages: Vec<Outgoing> =
            bodies.into_iter().map(|body| Outgoing { body, ..Outgoing::default() }).collect();
        for some in messages.chunks(SENT_TOGETHER) {
            let sent = self.runtime.block_on(self.sqs.send(&self.url, some, self.within * CALLS_TOGETHER));
            let failed = sent.iter().filter(|result| result.is_err()).count();
            if let Some(error) = sent.into_iter().find_map(Result::err) {
                return Err(error)
                    .with_context(|| format!("{failed} messages and all after them are not sent"));
            }
        }
        Ok(())
    }
}

impl Queue for SqsQueue {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn visibility(&self) -> Duration {
        self.visibility
    }

    fn receive(&self, wait: Duration) -> Result<Option<Message>, QueueError> {
        let how = Receive { max: 1, wait: wait.max(POLL), visibility: Some(self.visibility) };
        let received =
            self.runtime.block_on(self.sqs.receive(&self.url, how, self.within)).map_err(failed)?;
        Ok(received.into_iter().next().map(|message| Message {
            id: message.id,
            receipt: message.receipt,
            receive_count: message.received,
            body: message.body.into_bytes(),
        }))
    }

    fn change_visibility(&self, receipt: &str, visibility: Duration) -> Result<(), QueueError> {
        let entries = [(receipt.to_owned(), visibility)];
        let changed = self.runtime.block_on(self.sqs.change_visibility(&self.url, &entries, self.within));
        changed.into_iter().collect::<Result<(), _>>().map_err(failed)
    }

    fn delete(&self, receipt: &str) -> Result<(), QueueError> {
        let receipts = [receipt.to_owned()];
        let deleted = self.runtime.block_on(self.sqs.delete(&self.url, &receipts, self.within));
        deleted.into_iter().collect::<Result<(), _>>().map_err(failed)
    }

    /// SQS counts about right, and late: empty is what looks empty twice.
    fn is_empty(&self) -> Result<bool, QueueError> {
        for _ in 0..2 {
            let found = self.runtime.block_on(self.sqs.attributes(&self.url, self.within)).map_err(failed)?;
            let counts = [found.waiting, found.in_flight, found.delayed];
            if counts.iter().flatten().any(|count| *count > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn failed(error: AwsError) -> QueueError {
    match error.kind {
        Kind::StaleReceipt => QueueError::Stale,
        _ => QueueError::Failed(error.to_string()),
    }
}

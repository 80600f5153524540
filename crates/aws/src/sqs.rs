//! SQS: receiving, sending, deleting, and how long messages stay invisible.
//!
//! Batches of any length are cut into calls of ten, some of which run side by side; each entry has its own result, in
//! the order in which the entries were given.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use aws_sdk_sqs::config::Builder as ConfigBuilder;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    Message as SdkMessage, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::client::{call, pause};
use crate::{Aws, AwsError, Kind, Operation};

/// Source: SQS API reference, batch actions (read 2023): ten entries a call.
pub const BATCH: usize = 10;

/// Source: SQS API reference, `ReceiveMessage` (read 2023): a long poll waits at most 20 s.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// Source: SQS API reference, `ChangeMessageVisibility` (read 2023): 0 to 43,200 s.
pub const VISIBILITY_MAX: Duration = Duration::from_secs(43_200);

/// Source: SQS developer guide, "Message quotas" (read 2023): 256 KiB a message, and a batch of them.
pub const MESSAGE_BYTES_MAX: usize = 262_144;

/// Batch calls under way at once: 500 receipts are 50 calls, and a hand-back has seconds.
const PARALLEL: usize = 8;

/// Rounds of one hand-back; with their pauses they last longer than any budget.
const ROUNDS_MAX: u32 = 64;

/// SQS, as one account sees it.
#[derive(Clone, Debug)]
pub struct Sqs(Aws);

/// A message as it was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The same at every delivery.
    pub id: String,
    /// Of this delivery alone.
    pub receipt: String,
    /// What was sent.
    pub body: String,
    /// How often it was received, this time included.
    pub received: u32,
    /// When it was sent, in ms since 1970.
    pub sent_ms: Option<u64>,
    /// Its group, in a FIFO queue.
    pub group: Option<String>,
}

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receive {
    /// At most so many messages, 1 to 10.
    pub max: usize,
    /// How long to wait for the first one, up to [`WAIT_MAX`].
    pub wait: Duration,
    /// How long they are invisible to others; `None`: what the queue says.
    pub visibility: Option<Duration>,
}

/// A message to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// What it says.
    pub body: String,
    /// Its group and its deduplication id, which a FIFO queue wants.
    pub fifo: Option<(String, String)>,
    /// Nobody sees it before; up to 15 min.
    pub delay: Duration,
}

/// What a queue says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Waiting, about.
    pub waiting: Option<u64>,
    /// Received and neither deleted nor visible again, about.
    pub in_flight: Option<u64>,
    /// Sent with a delay that is not over, about.
    pub delayed: Option<u64>,
    /// How long a received message is invisible, where the receiver does not say.
    pub visibility: Option<Duration>,
    /// The dead-letter queue's ARN, and after how many deliveries a message goes there.
    pub dead_letters: Option<String>,
    /// The queue's ARN.
    pub arn: Option<String>,
}

impl Aws {
    /// SQS.
    #[must_use]
    pub fn sqs(&self) -> Sqs {
        Sqs(self.clone())
    }
}

impl Sqs {
    /// The URL of the queue called `name`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none; [`AwsError`].
    pub async fn queue_url(&self, name: &str, within: Duration) -> Result<String, AwsError> {
        let operation = Operation::GetQueueUrl;
        let answer = async { self.0.sqs_client().await.get_queue_url().queue_name(name).send().await };
        let answer = call(operation, name, within, answer).await?;
        answer.queue_url.ok_or_else(|| AwsError::new(operation, name, Kind::NotFound))
    }

    /// Waits for messages. None is no error. `within` is added to `how.wait`.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn receive(
        &self,
        queue: &str,
        how: Receive,
        within: Duration,
    ) -> Result<Vec<Message>, AwsError> {
        let wait = how.wait.min(WAIT_MAX);
        let answer = async {
            let request = self.0.sqs_client().await.receive_message();
            request
                .queue_url(queue)
                .max_number_of_messages(i32::try_from(how.max.clamp(1, BATCH)).unwrap_or(1))
                .wait_time_seconds(seconds(wait))
                .set_visibility_timeout(how.visibility.map(visibility))
                .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
                .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
                .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId)
                .customize()
                .config_override(ConfigBuilder::new().timeout_config(self.0.patient(wait)))
                .send()
                .await
        };
        let answer = call(Operation::ReceiveMessage, queue, within + wait, answer).await?;
        Ok(answer.messages.unwrap_or_default().into_iter().map(received).collect())
    }

    /// Deletes messages by receipt. SQS deletes by an old receipt, too, as long as the message was not received again.
    pub async fn delete(
        &self,
        queue: &str,
        receipts: &[String],
        within: Duration,
    ) -> Vec<Result<(), AwsError>> {
        let until = Instant::now() + within;
        let call = |chunk| -> BatchCall<'_> {
            Box::pin(async move { self.delete_some(queue, chunk, left(until)).await })
        };
        side_by_side(receipts.chunks(BATCH).map(call).collect()).await
    }

    async fn delete_some(
        &self,
        queue: &str,
        receipts: &[String],
        within: Duration,
    ) -> Vec<Result<(), AwsError>> {
        let operation = Operation::DeleteMessageBatch;
        let entry = |(index, receipt): (usize, &String)| {
            DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt).build()
        };
        let entries = receipts.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>();
        let entries = entries.expect("id and receipt are set");
        let answer = async {
            let request = self.0.sqs_client().await.delete_message_batch();
            request.queue_url(queue).set_entries(Some(entries)).send().await
        };
        let answer = call(operation, queue, within, answer).await.map(|answer| answer.failed);
        each((operation, queue), receipts.len(), answer)
    }

    /// Sets for how long from now messages stay invisible: zero gives them to another worker at once.
    pub async fn change_visibility(
        &self,
        queue: &str,
        entries: &[(String, Duration)],
        within: Duration,
    ) -> Vec<Result<(), AwsError>> {
        let until = Instant::now() + within;
        let call = |chunk| -> BatchCall<'_> {
            Box::pin(async move { self.change_some(queue, chunk, left(until)).await })
        };
        side_by_side(entries.chunks(BATCH).map(call).collect()).await
    }

    /// As [`Self::change_visibility`] for one time, asking again for those entries whose failure may pass, until
    /// `within` is over.
    pub async fn give_back(
        &self,
        queue: &str,
        receipts: &[String],
        visibility: Duration,
        within: Duration,
    ) -> Vec<Result<(), AwsError>> {
        let until = Instant::now() + within;
        let mut results = vec![Ok(()); receipts.len()];
        let mut open: Vec<usize> = (0..receipts.len()).collect();
        for attempt in 0..ROUNDS_MAX {
            let entries: Vec<_> = open.iter().map(|index| (receipts[*index].clone(), visibility)).collect();
            let left = until.saturating_duration_since(Instant::now());
            for (index, result) in open.iter().zip(self.change_visibility(queue, &entries, left).await) {
                let earlier = std::mem::replace(&mut results[*index], Ok(())).err();
                results[*index] = result.map_err(|error| error.after(earlier));
            }
            open.retain(|index| results[*index].as_ref().is_err_and(AwsError::is_temporary));
            let pause = pause(attempt);
            if open.is_empty() || Instant::now() + pause >= until {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        results
    }

    async fn change_some(
        &self,
        queue: &str,
        entries: &[(String, Duration)],
        within: Duration,
    ) -> Vec<Result<(), AwsError>> {
        let operation = Operation::ChangeMessageVisibilityBatch;
        let entry = |(index, (receipt, time)): (usize, &(String, Duration))| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(receipt)
                .visibility_timeout(visibility(*time))
                .build()
        };
        let requests = entries.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>();
        let requests = requests.expect("id and receipt are set");
        let answer = async {
            let request = self.0.sqs_client().await.change_message_visibility_batch();
            request.queue_url(queue).set_entries(Some(requests)).send().await
        };
        let answer = call(operation, queue, within, answer).await.map(|answer| answer.failed);
        each((operation, queue), entries.len(), answer)
    }

    /// Sends messages; to a dead-letter queue, too. One that is too large is refused here.
    pub async fn send(
        &self,
        queue: &str,
        messages: &[Outgoing],
        within: Duration,
    ) -> Vec<Result<(), AwsError>> {
        let operation = Operation::SendMessageBatch;
        let until = Instant::now() + within;
        let mut results = vec![Ok(()); messages.len()];
        let mut chunk: Vec<usize> = Vec::new();
        let mut chunk_bytes = 0;
        let mut chunks = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let bytes = message.body.len();
            if bytes > MESSAGE_BYTES_MAX {
                let kind = Kind::TooLarge { bytes, limit: MESSAGE_BYTES_MAX };
                results[index] = Err(AwsError::new(operation, queue, kind));
                continue;
            }
            if chunk.len() == BATCH || chunk_bytes + bytes > MESSAGE_BYTES_MAX {
                chunks.push(std::mem::take(&mut chunk));
                chunk_bytes = 0;
            }
            chunk.push(index);
            chunk_bytes += bytes;
        }
        chunks.push(chunk);
        // One after the other: a FIFO queue keeps the order in which they come.
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            let sent = self.send_some(queue, messages, chunk, left).await;
            for (index, result) in chunk.iter().zip(sent) {
                results[*index] = result;
            }
        }
        results
    }

    async fn send_some(
        &self,
        queue: &str,
        messages: &[Outgoing],
        chunk: &[usize],
        within: Duration,
    ) -> Vec<Result<(), AwsError>> {
        let operation = Operation::SendMessageBatch;
        let entry = |(position, index): (usize, &usize)| {
            let message = &messages[*index];
            let (group, once) = message.fifo.clone().unzip();
            SendMessageBatchRequestEntry::builder()
                .id(position.to_string())
                .message_body(&message.body)
                .set_delay_seconds((!message.delay.is_zero()).then(|| seconds(message.delay)))
                .set_message_group_id(group)
                .set_message_deduplication_id(once)
                .build()
        };
        let entries = chunk.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>();
        let entries = entries.expect("id and body are set");
        let answer = async {
            let request = self.0.sqs_client().await.send_message_batch();
            request.queue_url(queue).set_entries(Some(entries)).send().await
        };
        let answer = call(operation, queue, within, answer).await.map(|answer| answer.failed);
        each((operation, queue), chunk.len(), answer)
    }

    /// What the queue says of itself.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn attributes(&self, queue: &str, within: Duration) -> Result<Attributes, AwsError> {
        let answer = async {
            let request = self.0.sqs_client().await.get_queue_attributes();
            request.queue_url(queue).attribute_names(QueueAttributeName::All).send().await
        };
        let answer = call(Operation::GetQueueAttributes, queue, within, answer).await?;
        let all = answer.attributes.unwrap_or_default();
        let text = |name| all.get(&name).cloned();
        let number = |name| text(name).and_then(|text| text.parse::<u64>().ok());
        Ok(Attributes {
            waiting: number(QueueAttributeName::ApproximateNumberOfMessages),
            in_flight: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
            delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
            visibility: number(QueueAttributeName::VisibilityTimeout).map(Duration::from_secs),
            dead_letters: text(QueueAttributeName::RedrivePolicy),
            arn: text(QueueAttributeName::QueueArn),
        })
    }
}

fn received(message: SdkMessage) -> Message {
    let system = message.attributes.unwrap_or_default();
    let number = |name| system.get(&name).and_then(|text: &String| text.parse::<u64>().ok());
    let count = number(MessageSystemAttributeName::ApproximateReceiveCount);
    Message {
        id: message.message_id.unwrap_or_default(),
        receipt: message.receipt_handle.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        received: count.and_then(|count| u32::try_from(count).ok()).unwrap_or(1),
        sent_ms: number(MessageSystemAttributeName::SentTimestamp),
        group: system.get(&MessageSystemAttributeName::MessageGroupId).cloned(),
    }
}

/// One batch call that is to be made. Boxed by type: a generic closure here would keep the callers from being `Send`.
type BatchCall<'a> = Pin<Box<dyn Future<Output = Vec<Result<(), AwsError>>> + Send + 'a>>;

/// Runs some of the calls side by side; the results are in the order of the calls.
async fn side_by_side(calls: Vec<BatchCall<'_>>) -> Vec<Result<(), AwsError>> {
    futures_util::stream::iter(calls).buffered(PARALLEL).concat().await
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// The results of one call's entries: all failed alike, or those failed that the answer names.
fn each(
    (operation, queue): (Operation, &str),
    count: usize,
    answer: Result<Vec<BatchResultErrorEntry>, AwsError>,
) -> Vec<Result<(), AwsError>> {
    let failed = match answer {
        Ok(failed) => failed,
        Err(error) => return vec![Err(error); count],
    };
    let named: BTreeMap<&str, &BatchResultErrorEntry> =
        failed.iter().map(|entry| (entry.id.as_str(), entry)).collect();
    let result = |index: usize| match named.get(index.to_string().as_str()) {
        None => Ok(()),
        Some(entry) => {
            let status = if entry.sender_fault { 400 } else { 500 };
            let message = entry.message.as_deref().unwrap_or_default();
            Err(AwsError::answered((operation, queue), &entry.code, message, status))
        }
    };
    (0..count).map(result).collect()
}

fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

/// Rounded up, or a message would be visible before its time.
fn visibility(time: Duration) -> i32 {
    let time = time.min(VISIBILITY_MAX);
    seconds(time) + i32::from(time.subsec_nanos() > 0)
}

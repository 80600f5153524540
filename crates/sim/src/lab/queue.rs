//! SQS: messages that are hidden while they are worked on, come again, and end among the dead letters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How many messages a queue keeps: what is sent beyond that is refused.
/// Source: SQS has no such limit; 120,000 may be in flight. A laptop needs a bound.
const MESSAGES_MAX: usize = 1_000_000;

/// Source: SQS developer guide, quotas: at most 120,000 messages in flight; read 2026-11.
const IN_FLIGHT_MAX: usize = 120_000;

/// Messages that are remembered after they have gone, for those who look at what became of them.
const PASSED_MAX: usize = 10_000;

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) id: Arc<str>,
    pub(crate) body: Arc<str>,
    pub(crate) sent_at: i64,
    pub(crate) first_received_at: i64,
    pub(crate) received: u32,
    hidden_until: Option<i64>,
}

/// What is remembered of a message, its times on the clock of the queue's clients.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// Rises by one with each message that is sent.
    pub(crate) number: u64,
    pub(crate) id: Arc<str>,
    pub(crate) sent_ms: i64,
    /// When its receiver deleted it; none while it waits or is worked on.
    pub(crate) deleted_ms: Option<i64>,
    pub(crate) body: Arc<str>,
}

/// A queue whose times are those of its clients' clock, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    messages: BTreeMap<u64, Message>,
    visible: VecDeque<u64>,
    hidden: BTreeSet<(i64, u64)>,
    /// The last messages that were sent; their numbers follow each other up to `next`.
    passed: VecDeque<Passed>,
    next: u64,
    /// After so many receives a message goes to the queue of that name.
    pub(crate) dead_letters: Option<(String, u32)>,
    pub(crate) visibility_s: u32,
    /// Messages that were deleted, in all.
    pub(crate) deleted: u64,
    /// Messages that were sent, in all.
    pub(crate) sent: u64,
}

/// Why a receipt is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiptError {
    /// It is no receipt of this queue.
    Invalid,
    /// The message is not in flight any more.
    NotInFlight,
}

/// Messages in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Depth {
    pub(crate) visible: usize,
    pub(crate) in_flight: usize,
}

impl Queue {
    pub(crate) fn new(visibility_s: u32, dead_letters: Option<(String, u32)>) -> Self {
        Self { visibility_s, dead_letters, ..Self::default() }
    }

    /// Puts a message in; false where the queue is full.
    pub(crate) fn send(&mut self, id: String, body: String, now: i64) -> bool {
        if self.messages.len() >= MESSAGES_MAX {
            return false;
        }
        self.next += 1;
        self.sent += 1;
        let (id, body): (Arc<str>, Arc<str>) = (id.into(), body.into());
        if self.passed.len() >= PASSED_MAX {
            self.passed.pop_front();
        }
        let (number, id_kept, body_kept) = (self.next, Arc::clone(&id), Arc::clone(&body));
        self.passed.push_back(Passed {
            number,
            id: id_kept,
            sent_ms: now,
            deleted_ms: None,
            body: body_kept,
        });
        let message =
            Message { id, body, sent_at: now, first_received_at: now, received: 0, hidden_until: None };
        self.messages.insert(self.next, message);
        self.visible.push_back(self.next);
        true
    }

    /// Up to `most` visible messages, hidden from now on for `visibility_ms`, each with its receipt; and those that
    /// were received too often, for the dead letters.
    pub(crate) fn receive(
        &mut self,
        now: i64,
        most: usize,
        visibility_ms: i64,
    ) -> (Vec<(String, Message)>, Vec<Message>) {
        self.show(now);
        let limit = self.dead_letters.as_ref().map_or(u32::MAX, |(_, limit)| *limit);
        let (mut received, mut dead) = (Vec::new(), Vec::new());
        while received.len() < most && self.hidden.len() < IN_FLIGHT_MAX {
            let Some(number) = self.visible.pop_front() else { break };
            let Some(message) = self.messages.get_mut(&number) else { continue };
            if message.hidden_until.is_some() {
                continue;
            }
            if message.received >= limit {
                dead.extend(self.messages.remove(&number));
                continue;
            }
            message.received += 1;
            if message.received == 1 {
                message.first_received_at = now;
            }
            let until = now.saturating_add(visibility_ms);
            message.hidden_until = Some(until);
            self.hidden.insert((until, number));
            received.push((format!("{number}-{}", message.received), message.clone()));
        }
        (received, dead)
    }

    /// Deletes a message. A receipt that a later one has replaced deletes nothing, and that is no error.
    pub(crate) fn delete(&mut self, receipt: &str, now: i64) -> Result<(), ReceiptError> {
        let (number, received) = self.parse(receipt)?;
        if self.messages.get(&number).is_some_and(|message| message.received == received) {
            let message = self.messages.remove(&number);
            if let Some(until) = message.and_then(|message| message.hidden_until) {
                self.hidden.remove(&(until, number));
            }
            self.deleted += 1;
            let first = self.next + 1 - self.passed.len() as u64;
            let index = number.checked_sub(first).and_then(|index| usize::try_from(index).ok());
            if let Some(passed) = index.and_then(|index| self.passed.get_mut(index)) {
                passed.deleted_ms = Some(now);
            }
        }
        Ok(())
    }

    /// What is remembered of messages after that number.
    pub(crate) fn passed(&self, since: u64) -> impl Iterator<Item = &Passed> {
        self.passed.iter().filter(move |passed| passed.number > since)
    }

    /// Hides a message for another time from now on, or shows it at once.
    pub(crate) fn change(&mut self, receipt: &str, now: i64, visibility_ms: i64) -> Result<(), ReceiptError> {
        self.show(now);
        let (number, received) = self.parse(receipt)?;
        let message = self.messages.get_mut(&number).ok_or(ReceiptError::NotInFlight)?;
        let until = message.hidden_until.ok_or(ReceiptError::NotInFlight)?;
        if message.received != received {
            return Err(ReceiptError::NotInFlight);
        }
        self.hidden.remove(&(until, number));
        let until = now.saturating_add(visibility_ms);
        message.hidden_until = Some(until);
        self.hidden.insert((until, number));
        self.show(now);
        Ok(())
    }

    pub(crate) fn purge(&mut self) {
        self.messages.clear();
        self.visible.clear();
        self.hidden.clear();
    }

    pub(crate) fn depth(&self) -> Depth {
        Depth { visible: self.messages.len() - self.hidden.len(), in_flight: self.hidden.len() }
    }

    /// When the next hidden message is shown again.
    pub(crate) fn next_at(&self) -> Option<i64> {
        self.hidden.first().map(|(until, _)| *until)
    }

    fn show(&mut self, now: i64) {
        while let Some((until, number)) = self.hidden.first().copied().filter(|(until, _)| *until <= now) {
            self.hidden.remove(&(until, number));
            if let Some(message) = self.messages.get_mut(&number) {
                message.hidden_until = None;
                self.visible.push_back(number);
            }
        }
    }

    fn parse(&self, receipt: &str) -> Result<(u64, u32), ReceiptError> {
        let (number, received) = receipt.split_once('-').ok_or(ReceiptError::Invalid)?;
        let number: u64 = number.parse().map_err(|_| ReceiptError::Invalid)?;
        let received = received.parse().map_err(|_| ReceiptError::Invalid)?;
        if number == 0 || number > self.next {
            return Err(ReceiptError::Invalid);
        }
        Ok((number, received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(limit: u32) -> Queue {
        let mut queue = Queue::new(30, Some(("dead".to_owned(), limit)));
        assert!(queue.send("a".to_owned(), "body".to_owned(), 0));
        queue
    }

    #[test]
    fn a_message_comes_again_until_it_is_deleted() {
        let mut queue = queue(10);
        let (first, _) = queue.receive(0, 10, 1_000);
        assert_eq!(first.len(), 1);
        assert_eq!(queue.receive(999, 10, 1_000).0.len(), 0, "hidden");
        let (second, _) = queue.receive(1_000, 10, 1_000);
        assert_eq!(second[0].1.received, 2);
        queue.delete(&first[0].0, 1_001).expect("an old receipt is no error");
        assert_eq!(queue.depth(), Depth { visible: 0, in_flight: 1 }, "and deletes nothing");
        assert_eq!(queue.passed(0).next().expect("remembered").deleted_ms, None);
        queue.delete(&second[0].0, 1_002).expect("the receipt is good");
        assert_eq!(queue.passed(0).next().expect("remembered").deleted_ms, Some(1_002));
        assert_eq!(queue.passed(1).count(), 0);
        assert_eq!(queue.depth(), Depth::default());
        assert_eq!(queue.delete("nonsense", 1_003), Err(ReceiptError::Invalid));
    }

    #[test]
    fn handing_a_message_back_shows_it_at_once_and_once() {
        let mut queue = queue(10);
        let (first, _) = queue.receive(0, 10, 1_000);
        queue.change(&first[0].0, 5, 0).expect("it is in flight");
        assert_eq!(queue.change(&first[0].0, 5, 0), Err(ReceiptError::NotInFlight));
        assert_eq!(queue.receive(5, 10, 1_000).0.len(), 1);
        assert_eq!(queue.receive(5, 10, 1_000).0.len(), 0);
    }

    #[test]
    fn what_was_received_too_often_is_a_dead_letter() {
        let mut queue = queue(2);
        assert_eq!(queue.receive(0, 10, 0).0.len(), 1);
        assert_eq!(queue.receive(0, 10, 0).0.len(), 1);
        let (received, dead) = queue.receive(0, 10, 0);
        assert!(received.is_empty());
        assert_eq!(&*dead[0].body, "body");
    }
}

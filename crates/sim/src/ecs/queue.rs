//! EventBridge and SQS: events that come late, twice or never, and messages that come again until they are
//! acknowledged.

use std::collections::BTreeMap;

use lifeboat_core::failover::event::Event;
use lifeboat_core::time::{Millis, Timestamp};

/// How long a received message stays hidden. Longer than a commit takes, shorter than a notice.
pub(super) const VISIBILITY: Millis = Millis::from_secs(30);

/// Source: SQS ReceiveMessage, at most ten messages a call; read 2026-11.
const RECEIVE_MAX: usize = 10;

#[derive(Clone, Copy, Debug)]
struct Message {
    id: u64,
    visible_at: Timestamp,
    receipt: u64,
    event: Event,
}

/// The messages of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    messages: Vec<Message>,
    receipts: BTreeMap<u64, Vec<u64>>,
    next: u64,
}

impl Queue {
    pub(super) fn send(&mut self, visible_at: Timestamp, event: Event) {
        self.next += 1;
        self.messages.push(Message { id: self.next, visible_at, receipt: 0, event });
    }

    /// Receives what is visible and hides it for a while.
    pub(super) fn receive(&mut self, now: Timestamp) -> Option<(u64, Vec<Event>)> {
        let receipt = self.next + 1;
        let mut events = Vec::new();
        let mut ids = Vec::new();
        for message in self.messages.iter_mut().filter(|message| message.visible_at <= now).take(RECEIVE_MAX)
        {
            message.visible_at = now + VISIBILITY;
            message.receipt = receipt;
            events.push(message.event);
            ids.push(message.id);
        }
        if events.is_empty() {
            return None;
        }
        self.next += 1;
        self.receipts.insert(receipt, ids);
        Some((receipt, events))
    }

    /// Deletes the messages of a receipt; those that were received again since stay. Returns their events.
    pub(super) fn acknowledge(&mut self, receipt: u64) -> Vec<Event> {
        let ids = self.receipts.remove(&receipt).unwrap_or_default();
        let mut deleted = Vec::new();
        self.messages.retain(|message| {
            let is_done = message.receipt == receipt && ids.contains(&message.id);
            if is_done {
                deleted.push(message.event);
            }
            !is_done
        });
        deleted
    }

    /// When the next message is visible.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.messages.iter().map(|message| message.visible_at).min()
    }

    /// Receipts of messages that were received again are of no use to anybody.
    pub(super) fn prune(&mut self) {
        let live: Vec<u64> = self.messages.iter().map(|message| message.receipt).collect();
        self.receipts.retain(|receipt, _| live.contains(receipt));
    }
}

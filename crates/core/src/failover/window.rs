//! What happened to Spot within the last minutes, each fact once however often AWS tells it.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::view::WindowCounts;
use crate::time::{Millis, Timestamp};

/// Facts that a window keeps, and so the greatest threshold that can be reached: 50 events a second on one service
/// must not make the stored state grow. The oldest that tells of a ready task is dropped first.
pub const FACTS_MAX: usize = 64;

/// A fact about one Spot task or one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A launch was refused for want of capacity.
    Refused,
    /// A task was interrupted, or warned that it will be.
    Interrupted,
    /// A task became ready.
    Ready,
}

/// One remembered fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it happened, by AWS's clock where the event says so.
    pub at: Timestamp,
    /// What happened.
    pub fact: Fact,
    /// Tells facts apart: the same key and fact is the same fact told twice.
    pub key: u64,
}

/// The sliding window. It is stored with the state, so that a crash forgets nothing that was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    entries: Vec<Entry>,
}

impl Window {
    /// Remembers `entry` unless it is known or older than `span`. True where it was remembered.
    pub fn note(&mut self, now: Timestamp, span: Millis, entry: Entry) -> bool {
        if now.since(entry.at) > span {
            return false;
        }
        if self.entries.iter().any(|known| known.key == entry.key && known.fact == entry.fact) {
            return false;
        }
        self.prune(now, span);
        if self.entries.len() >= FACTS_MAX {
            // Nothing trips on tasks that became ready, and a large service has many of them: they go first.
            let ready = self.entries.iter().position(|known| known.fact == Fact::Ready);
            self.entries.remove(ready.unwrap_or(0));
        }
        self.entries.push(entry);
        true
    }

    /// Forgets what is older than `span`.
    pub fn prune(&mut self, now: Timestamp, span: Millis) {
        self.entries.retain(|entry| now.since(entry.at) <= span);
    }

    /// Facts from after `latest` happened `now`: the clock that they were noted by was wrong.
    pub(super) fn heal(&mut self, now: Timestamp, latest: Timestamp) {
        for entry in self.entries.iter_mut().filter(|entry| entry.at > latest) {
            entry.at = now;
        }
    }

    /// How often each fact happened within `span` before `now`, and after `from`.
    #[must_use]
    pub fn counts(&self, now: Timestamp, span: Millis, from: Timestamp) -> WindowCounts {
        let mut counts = WindowCounts::default();
        for entry in self.entries.iter().filter(|entry| entry.at > from && now.since(entry.at) <= span) {
            match entry.fact {
                Fact::Refused => counts.capacity_errors += 1,
                Fact::Interrupted => counts.interruptions += 1,
                Fact::Ready => counts.successes += 1,
            }
        }
        counts
    }

    /// What it remembers, oldest first, with the keys.
    pub fn facts(&self) -> impl Iterator<Item = (Fact, u64)> {
        self.entries.iter().map(|entry| (entry.fact, entry.key))
    }

    /// When something last went wrong, as far as the window reaches.
    #[must_use]
    pub fn last_error(&self) -> Option<Timestamp> {
        let bad = |entry: &&Entry| match entry.fact {
            Fact::Refused | Fact::Interrupted => true,
            Fact::Ready => false,
        };
        self.entries.iter().filter(bad).map(|entry| entry.at).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Millis = Millis::from_secs(300);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn interrupted(seconds: i64, key: u64) -> Entry {
        Entry { at: at(seconds), fact: Fact::Interrupted, key }
    }

    #[test]
    fn a_fact_told_twice_counts_once() {
        let mut window = Window::default();
        assert!(window.note(at(10), SPAN, interrupted(10, 7)));
        assert!(!window.note(at(11), SPAN, interrupted(10, 7)));
        assert_eq!(window.counts(at(12), SPAN, at(-1)).interruptions, 1);
    }

    #[test]
    fn facts_leave_at_the_end_of_the_window_and_late_ones_never_enter() {
        let mut window = Window::default();
        assert!(window.note(at(0), SPAN, interrupted(0, 1)));
        assert_eq!(window.counts(at(300), SPAN, at(-1)).errors(), 1);
        assert_eq!(window.counts(at(301), SPAN, at(-1)).errors(), 0);
        assert!(!window.note(at(700), SPAN, interrupted(399, 2)));
        assert!(window.note(at(700), SPAN, interrupted(700, 3)));
        assert_eq!(window.facts().count(), 1, "what has left is not kept");
    }

    #[test]
    fn each_kind_of_fact_is_counted_apart() {
        let mut window = Window::default();
        for (key, fact) in
            [Fact::Ready, Fact::Refused, Fact::Ready, Fact::Interrupted, Fact::Ready, Fact::Refused]
                .into_iter()
                .enumerate()
        {
            assert!(window.note(at(1), SPAN, Entry { at: at(1), fact, key: key as u64 }));
        }
        let counts = window.counts(at(2), SPAN, at(0));
        assert_eq!((counts.capacity_errors, counts.interruptions, counts.successes), (2, 1, 3));
        assert_eq!(counts.errors(), 3);
    }

    #[test]
    fn only_what_lies_beyond_the_latest_moment_is_mended() {
        let mut window = Window::default();
        for (second, key) in [(9, 1), (10, 2), (11, 3)] {
            assert!(window.note(at(20), SPAN, interrupted(second, key)));
        }
        window.heal(at(5), at(10));
        let times: Vec<Timestamp> = window.entries.iter().map(|entry| entry.at).collect();
        assert_eq!(times, [at(9), at(10), at(5)]);
    }

    #[test]
    fn tasks_that_become_ready_push_no_error_out() {
        let mut window = Window::default();
        assert!(window.note(at(0), SPAN, interrupted(0, 1)));
        for key in 100..100 + 2 * FACTS_MAX as u64 {
            assert!(window.note(at(1), SPAN, Entry { at: at(1), fact: Fact::Ready, key }));
        }
        assert!(window.note(at(2), SPAN, interrupted(2, 2)));
        let counts = window.counts(at(3), SPAN, at(-1));
        assert_eq!(counts.interruptions, 2, "a large service that starts hides what it loses");
        assert_eq!((counts.successes, window.entries.len()), (62, FACTS_MAX));
    }

    #[test]
    fn fifty_events_a_second_keep_the_state_small_and_the_newest_facts() {
        let mut window = Window::default();
        for key in 0..15_000 {
            let second = i64::try_from(key / 50).expect("300 s fit");
            window.note(at(second), SPAN, interrupted(second, key));
        }
        assert_eq!(window.entries.len(), FACTS_MAX);
        assert_eq!(window.last_error(), Some(at(299)));
    }
}

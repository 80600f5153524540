//! What was asked and what happened, kept for the control plane and the page. Every list has a bound; the oldest go.

use std::collections::{BTreeMap, VecDeque};

use lifeboat_core::time::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::ecs::ServiceFigures;

/// Calls and events that are kept: enough for an hour of a small fleet, some megabytes at most.
const LINES_MAX: usize = 20_000;

/// Changes of a pair's figures that are kept.
const SAMPLES_MAX: usize = 5_000;

/// Metrics, alerts and commands that are kept, each.
const PUBLISHED_MAX: usize = 5_000;

/// A call that was answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) number: u64,
    /// World time in milliseconds.
    pub(crate) at_ms: i64,
    /// Milliseconds since 1970, by the wall.
    pub(crate) wall_ms: i64,
    /// Such as `ecs:UpdateService`.
    pub(crate) operation: String,
    /// `ok`, or the error's name.
    pub(crate) outcome: String,
    /// What it asked for, in short.
    pub(crate) summary: String,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) number: u64,
    /// World time in milliseconds.
    pub(crate) at_ms: i64,
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    pub(crate) text: String,
    /// When the copies of an event reach the queue, in world time; empty where it is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) arrivals_ms: Option<Vec<i64>>,
}

/// Where a pair stood from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) figures: ServiceFigures,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) calls: VecDeque<Call>,
    pub(crate) lines: VecDeque<Line>,
    pub(crate) samples: Vec<VecDeque<Sample>>,
    /// How many calls of each operation had each outcome.
    pub(crate) counts: BTreeMap<(String, String), u64>,
    pub(crate) metrics: VecDeque<Value>,
    pub(crate) alerts: VecDeque<Value>,
    pub(crate) commands: VecDeque<Value>,
    number: u64,
}

impl Records {
    pub(crate) fn new(pairs: usize) -> Self {
        Self {
            calls: VecDeque::new(),
            lines: VecDeque::new(),
            samples: vec![VecDeque::new(); pairs],
            counts: BTreeMap::new(),
            metrics: VecDeque::new(),
            alerts: VecDeque::new(),
            commands: VecDeque::new(),
            number: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(crate) fn call(
        &mut self,
        at: Timestamp,
        wall_ms: i64,
        (operation, outcome, summary): (String, String, String),
    ) {
        self.count(&operation, &outcome);
        let number = self.number();
        push(&mut self.calls, Call { number, at_ms: at.0, wall_ms, operation, outcome, summary }, LINES_MAX);
    }

    /// Counts a call that is not worth a line.
    pub(crate) fn count(&mut self, operation: &str, outcome: &str) {
        *self.counts.entry((operation.to_owned(), outcome.to_owned())).or_default() += 1;
    }

    pub(crate) fn event(
        &mut self,
        at: Timestamp,
        what: &'static str,
        service: Option<String>,
        arrivals: &[Timestamp],
    ) {
        let number = self.number();
        let arrivals_ms = Some(arrivals.iter().map(|at| at.0).collect());
        let line = Line { number, at_ms: at.0, kind: "event", service, text: what.to_owned(), arrivals_ms };
        push(&mut self.lines, line, LINES_MAX);
    }

    pub(crate) fn note(&mut self, at: Timestamp, kind: &'static str, text: String) {
        let number = self.number();
        let line = Line { number, at_ms: at.0, kind, service: None, text, arrivals_ms: None };
        push(&mut self.lines, line, LINES_MAX);
    }

    pub(crate) fn sample(&mut self, pair: usize, at: Timestamp, figures: ServiceFigures) {
        let samples = &mut self.samples[pair];
        if samples.back().is_some_and(|last| last.figures == figures) {
            return;
        }
        push(samples, Sample { at, figures }, SAMPLES_MAX);
    }

    pub(crate) fn metric(&mut self, metric: Value) {
        push(&mut self.metrics, metric, PUBLISHED_MAX);
    }

    pub(crate) fn alert(&mut self, alert: Value) {
        push(&mut self.alerts, alert, PUBLISHED_MAX);
    }

    pub(crate) fn command(&mut self, command: Value) {
        push(&mut self.commands, command, PUBLISHED_MAX);
    }
}

fn push<T>(list: &mut VecDeque<T>, item: T, most: usize) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(item);
}

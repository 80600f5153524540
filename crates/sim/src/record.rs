//! What a run leaves behind for people: its turns with their reasons, and a time line to draw.

use lifeboat_core::failover::phase::Phase;
use lifeboat_core::failover::reason::Reason;
use lifeboat_core::failover::split::Split;
use lifeboat_core::failover::zones::Launch;
use lifeboat_core::time::Timestamp;

/// One decision that changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When.
    pub at: Timestamp,
    /// Which service.
    pub service: usize,
    /// The phase after it.
    pub phase: Phase,
    /// The split after it.
    pub split: Split,
    /// Why.
    pub reason: Reason,
    /// What was asked for in which zone, where zones are chosen.
    pub launches: Vec<Launch>,
}

/// From `at` until the next point: how many tasks of each kind served, and how many were wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Since when.
    pub at: Timestamp,
    /// Spot tasks that serve.
    pub spot: u32,
    /// On-Demand tasks that serve.
    pub on_demand: u32,
    /// Tasks wanted.
    pub target: u32,
}

/// Turns and time line of one run, in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Decisions that changed something.
    pub turns: Vec<Turn>,
    /// The time line; a point stands until the next.
    pub line: Vec<Point>,
    /// When the run ended.
    pub end: Timestamp,
}

impl Record {
    /// Adds a point unless nothing changed.
    pub fn line(&mut self, at: Timestamp, spot: u32, on_demand: u32, target: u32) {
        let same = self
            .line
            .last()
            .is_some_and(|last| (last.spot, last.on_demand, last.target) == (spot, on_demand, target));
        if same {
            return;
        }
        if self.line.last().is_some_and(|last| last.at == at) {
            self.line.pop();
        }
        self.line.push(Point { at, spot, on_demand, target });
    }

    /// Ends the record.
    pub const fn end(&mut self, at: Timestamp) {
        self.end = at;
    }
}

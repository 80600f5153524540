//! What an evacuation did, for people and for programs.

use std::fmt::Write as _;

use lifeboat_core::evacuation::stage::{Outcome, STAGES, Stage, StageState};
use lifeboat_core::evacuation::{Progress, Verdict};
use lifeboat_core::notice::{Cause, Interruption, Source};
use lifeboat_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339;
use crate::hands::Site;
use crate::record::Record;

/// The summary of one evacuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The workload's name.
    pub workload: String,
    /// This machine's name in the store.
    pub instance: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was announced.
    pub interruption: Interruption,
    /// The announced end by the local clock, RFC 3339.
    pub deadline: String,
    /// From the first notice to the end of the last stage, ms.
    pub took_ms: u64,
    /// What was left of the time when the last stage ended, ms.
    pub remaining_ms: u64,
    /// Every stage.
    pub stages: Vec<StageLine>,
    /// The committed snapshot, if there is one.
    pub snapshot: Option<Snapshot>,
    /// Who was to be told of it and was not, and why.
    #[serde(default)]
    pub not_told: Vec<String>,
}

/// One stage in the summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageLine {
    /// Which.
    pub stage: Stage,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it ran, ms.
    pub took_ms: u64,
    /// What it did or why not, in a few words.
    pub detail: String,
}

/// A committed snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The number of its recovery point in the journal.
    pub generation: u64,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many paths are not in it and would have been saved if they could.
    pub lost_count: u64,
    /// The first of those, each with its reason.
    pub lost: Vec<String>,
    /// How many sockets, pipes, devices and vanished files were passed over: there is nothing in them to save.
    pub passed_over: u64,
}

/// Why something was evacuated, in a few words: what was announced and by whom, and the cause where it is told.
pub(crate) fn occasion(interruption: &Interruption) -> String {
    match interruption.sources.as_slice() {
        [Source::Failure] => return "the workload failed".to_owned(),
        [Source::Operator] => return "asked for by lifeboat evacuate".to_owned(),
        _ => {}
    }
    let sources: Vec<String> = interruption.sources.iter().map(ToString::to_string).collect();
    let cause = match interruption.cause {
        Cause::NotTold => String::new(),
        cause @ (Cause::Price | Cause::Capacity | Cause::Constraint) => format!("; cause {cause}"),
    };
    format!("{} announced by {}{cause}", interruption.action, sources.join(", "))
}

impl Summary {
    /// The summary of the evacuation that `record` says is over; `None` where none is.
    #[must_use]
    pub fn of(record: &Record, site: &Site) -> Option<Self> {
        let Progress::Finished { interruption, stages, at, verdict } = &record.progress else {
            return None;
        };
        let names = (site.workload.name().to_string(), site.instance.clone());
        let snapshot = record.saved.snapshot.clone();
        Some(Self::new(names, interruption, stages, (*at, *verdict), &record.details, snapshot))
    }

    /// Puts the summary together. `details` come by [`Stage::index`].
    #[must_use]
    pub fn new(
        (workload, instance): (String, String),
        interruption: &Interruption,
        stages: &[StageState; STAGES],
        (at, verdict): (Timestamp, Verdict),
        details: &[String; STAGES],
        snapshot: Option<Snapshot>,
    ) -> Self {
        let lines = Stage::ALL
            .into_iter()
            .filter_map(|stage| match stages[stage.index()] {
                StageState::Ended { outcome, took } => Some(StageLine {
                    stage,
                    outcome,
                    took_ms: took.0,
                    detail: details[stage.index()].clone(),
                }),
                StageState::Waiting | StageState::Running { .. } => None,
            })
            .collect();
        Self {
            workload,
            instance,
            verdict,
            interruption: interruption.clone(),
            deadline: rfc3339(interruption.deadline),
            took_ms: at.since(interruption.noticed).0,
            remaining_ms: interruption.deadline.since(at).0,
            stages: lines,
            snapshot,
            not_told: Vec::new(),
        }
    }

    /// A table for a terminal or a log.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let verdict = match self.verdict {
            Verdict::Complete => "complete",
            Verdict::Incomplete => "INCOMPLETE",
        };
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "evacuation of {} on {}: {verdict} ({})",
            self.workload,
            self.instance,
            occasion(&self.interruption),
        );
        let _ = writeln!(text, "  {:<18} {:>9}  {:<14} detail", "stage", "time", "outcome");
        for line in &self.stages {
            let stage = line.stage.to_string();
            let outcome = line.outcome.to_string();
            let took = Millis(line.took_ms).to_string();
            let row = format!("  {stage:<18} {took:>9}  {outcome:<14} {}", line.detail);
            let _ = writeln!(text, "{}", row.trim_end());
        }
        let _ = writeln!(
            text,
            "  {:<18} {:>9}  {} before the deadline",
            "total",
            Millis(self.took_ms).to_string(),
            Millis(self.remaining_ms),
        );
        for not_told in &self.not_told {
            let _ = writeln!(text, "  not told: {not_told}");
        }
        if let Some(snapshot) = &self.snapshot {
            for lost in &snapshot.lost {
                let _ = writeln!(text, "  not saved: {lost}");
            }
            let shown = u64::try_from(snapshot.lost.len()).unwrap_or(u64::MAX);
            if snapshot.lost_count > shown {
                let _ = writeln!(text, "  not saved: {} more", snapshot.lost_count - shown);
            }
        }
        text
    }
}

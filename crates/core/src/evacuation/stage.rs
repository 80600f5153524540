//! The stages of an evacuation: what each is, what it comes after, how it stands.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use crate::notice::Action;
use crate::time::{Millis, Timestamp};

/// A step of the evacuation, done by the agent's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Write the signal file.
    Notify,
    /// Take this machine out of the load balancers' groups, and hold back until the requests under way are answered; only
    /// where groups are configured.
    Deregister,
    /// Send the stop signal and wait until the workload has ended; abandoned = killed.
    Drain,
    /// Store what the work directory holds and commit its manifest.
    Snapshot,
    /// Store the state file with the interruption added.
    SaveState,
    /// Store the last log lines.
    FlushLogs,
    /// Give the work back, so that a replacement need not wait for the lease to end.
    HandBack,
    /// End the Auto Scaling group's waiting for this machine; only where a hook is configured.
    CompleteLifecycle,
    /// Delete from the work directory what is proven to be stored; only where asked for.
    CleanUp,
}

/// How many stages there are.
pub const STAGES: usize = 9;

impl Stage {
    /// All stages, in the order in which a terminate runs them.
    pub const ALL: [Self; STAGES] = [
        Self::Notify,
        Self::Deregister,
        Self::Drain,
        Self::Snapshot,
        Self::SaveState,
        Self::FlushLogs,
        Self::HandBack,
        Self::CompleteLifecycle,
        Self::CleanUp,
    ];

    /// The stage's place in arrays of length [`STAGES`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Stages of one level run side by side; a level starts when the one before it has ended.
    ///
    /// At `terminate` and `stop` no request may meet a workload that has ended, and the workload ends before the rest,
    /// so that its last writes are saved. `hibernate` begins at once and the workload is not stopped: the small state
    /// goes first, the files after it.
    #[must_use]
    pub const fn level(self, action: Action) -> u8 {
        match (self, action) {
            (Self::Notify, _) => 0,
            (Self::Deregister, _) => 1,
            (Self::Drain, _) | (Self::SaveState | Self::FlushLogs, Action::Hibernate) => 2,
            (Self::Snapshot | Self::SaveState | Self::FlushLogs, _) => 3,
            (Self::HandBack, _) => 4,
            (Self::CompleteLifecycle, _) => 5,
            (Self::CleanUp, _) => 6,
        }
    }

    /// When time is short, the smallest is served first: cheap and valuable before costly and optional.
    #[must_use]
    pub const fn worth(self) -> u8 {
        match self {
            Self::Notify => 0,
            Self::SaveState => 1,
            Self::Snapshot => 2,
            Self::HandBack => 3,
            Self::FlushLogs => 4,
            Self::Drain => 5,
            Self::Deregister => 6,
            Self::CompleteLifecycle => 7,
            Self::CleanUp => 8,
        }
    }

    /// Whether the evacuation is incomplete when this stage did not do its work: something of the user's
    /// is not stored, or nobody was told that it may be taken up.
    #[must_use]
    pub const fn counts(self) -> bool {
        match self {
            Self::Snapshot | Self::SaveState | Self::FlushLogs | Self::HandBack => true,
            // An instance whose hook is not completed waits until the hook's time is over, and holds nothing back.
            // Requests that fail are sent again by whoever sent them; they are no work of this machine's.
            Self::Notify | Self::Deregister | Self::Drain | Self::CompleteLifecycle | Self::CleanUp => false,
        }
    }
}

/// How a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum StageState {
    /// Not its turn yet.
    Waiting,
    /// Started and not ended.
    Running {
        /// When it was started.
        since: Timestamp,
        /// When it is abandoned.
        until: Timestamp,
    },
    /// Over, for good.
    Ended {
        /// How.
        outcome: Outcome,
        /// How long it ran.
        took: Millis,
    },
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything it was to do.
    Done,
    /// A part of it; the summary names the rest.
    Partly,
    /// Nothing useful; the log names the cause.
    Failed,
    /// There was nothing to do.
    Nothing,
    /// Its time was over.
    TimedOut,
    /// Not started: the action or the configuration does not ask for it.
    NotWanted,
    /// Not started: no time was left for it.
    NoTime,
    /// Not started: what it builds on was not achieved.
    NeedUnmet,
}

impl Outcome {
    /// Whether what the stage is for was achieved, or was not asked for.
    #[must_use]
    pub const fn is_good(self) -> bool {
        match self {
            Self::Done | Self::Nothing | Self::NotWanted => true,
            Self::Partly | Self::Failed | Self::TimedOut | Self::NoTime | Self::NeedUnmet => false,
        }
    }
}

/// What the agent's hand reports of a stage that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Everything it was to do.
    Done,
    /// A part of it.
    Partly,
    /// Nothing useful.
    Failed,
    /// There was nothing to do.
    Nothing,
}

impl From<Report> for Outcome {
    fn from(report: Report) -> Self {
        match report {
            Report::Done => Self::Done,
            Report::Partly => Self::Partly,
            Report::Failed => Self::Failed,
            Report::Nothing => Self::Nothing,
        }
    }
}

/// What is asked of an evacuation: the budgets, and which optional stages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One budget a stage, by [`Stage::index`].
    pub budgets: [Budget; STAGES],
    /// Kept free at the end of the time that is left; at most a tenth of it is really kept.
    pub reserve: Millis,
    /// Delete from the work directory what is proven to be stored.
    pub clean_up: bool,
    /// Take this machine out of the load balancers' groups before the workload is stopped.
    pub deregister: bool,
    /// Tell the Auto Scaling group that this machine may go.
    pub complete_lifecycle: bool,
    /// At `stop`, save the files although EBS keeps them. Without it the work stays with this machine.
    pub snapshot_on_stop: bool,
    /// There is a workload process that must end first; without one (a bare `lifeboat evacuate`) nothing drains.
    pub has_workload: bool,
}

impl Plan {
    /// Whether `stage` belongs to an evacuation for `action`.
    #[must_use]
    pub const fn wants(&self, stage: Stage, action: Action) -> bool {
        let leaves_machine = match action {
            Action::Terminate => true,
            Action::Stop => self.snapshot_on_stop,
            Action::Hibernate => false,
        };
        match stage {
            Stage::Notify | Stage::SaveState | Stage::FlushLogs => true,
            // What is hibernated comes back under the same address.
            Stage::Deregister => self.deregister && !matches!(action, Action::Hibernate),
            Stage::Drain => self.has_workload && !matches!(action, Action::Hibernate),
            Stage::Snapshot => leaves_machine || matches!(action, Action::Hibernate),
            Stage::HandBack => leaves_machine,
            // An instance that is stopped is none that the group ends.
            Stage::CompleteLifecycle => self.complete_lifecycle && matches!(action, Action::Terminate),
            Stage::CleanUp => self.clean_up && leaves_machine,
        }
    }

    /// The budget of `stage`.
    #[must_use]
    pub const fn budget(&self, stage: Stage) -> Budget {
        self.budgets[stage.index()]
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notify => "notify",
            Self::Deregister => "deregister",
            Self::Drain => "drain",
            Self::Snapshot => "snapshot",
            Self::SaveState => "save_state",
            Self::FlushLogs => "flush_logs",
            Self::HandBack => "hand_back",
            Self::CompleteLifecycle => "complete_lifecycle",
            Self::CleanUp => "clean_up",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Partly => "partly done",
            Self::Failed => "failed",
            Self::Nothing => "nothing to do",
            Self::TimedOut => "out of time",
            Self::NotWanted => "not asked for",
            Self::NoTime => "skipped: no time left",
            Self::NeedUnmet => "skipped: the snapshot is missing",
        })
    }
}

//! Why a turn did what it did: the value that the log and the summary show.

use core::fmt;

use super::stage::{Outcome, Stage};
use crate::notice::{Action, Source};
use crate::time::Millis;

/// The reason of one turn of the evacuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A notice began an evacuation.
    Began {
        /// Who announced it.
        source: Source,
        /// What will happen.
        action: Action,
        /// How long until the machine may be gone.
        left: Millis,
    },
    /// A further notice of the interruption that is being handled; nothing changed but the list of sources.
    Merged {
        /// Who announced it.
        source: Source,
    },
    /// A further notice shortened the time that is left.
    Tightened {
        /// Who announced it.
        source: Source,
        /// How long until the machine may be gone.
        left: Millis,
    },
    /// A further notice announced something worse than what was prepared for.
    Escalated {
        /// Who announced it.
        source: Source,
        /// What will happen now.
        action: Action,
    },
    /// This interruption was evacuated before.
    AlreadyHandled {
        /// Who announced it again.
        source: Source,
    },
    /// A stage ended by itself.
    StageEnded {
        /// Which.
        stage: Stage,
        /// How.
        outcome: Outcome,
    },
    /// A report of a stage that does not run (any more): it was abandoned, or reported twice.
    ReportIgnored {
        /// Which.
        stage: Stage,
    },
    /// At least one stage ran out of its time.
    StageTimedOut {
        /// The first of them.
        stage: Stage,
    },
    /// The agent restarted in the middle and goes on.
    Resumed,
    /// The machine is still there after the interruption; a new notice would be a new one.
    Survived,
    /// Nothing was due.
    NothingDue,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Began { source, action, left } => write!(f, "{source} announced {action} in {left}"),
            Self::Merged { source } => write!(f, "{source} announced the same interruption"),
            Self::Tightened { source, left } => write!(f, "{source} left only {left}"),
            Self::Escalated { source, action } => write!(f, "{source} announced {action} instead"),
            Self::AlreadyHandled { source } => {
                write!(f, "{source} announced an interruption that was evacuated before")
            }
            Self::StageEnded { stage, outcome } => write!(f, "{stage}: {outcome}"),
            Self::ReportIgnored { stage } => write!(f, "late report of {stage} ignored"),
            Self::StageTimedOut { stage } => write!(f, "{stage} ran out of time"),
            Self::Resumed => f.write_str("the agent restarted and goes on"),
            Self::Survived => f.write_str("the machine outlived the interruption"),
            Self::NothingDue => f.write_str("nothing was due"),
        }
    }
}

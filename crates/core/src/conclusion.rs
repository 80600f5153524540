//! What becomes of the work when its process has ended, and which exit code says so.

use core::fmt;

use crate::evacuation::Verdict;

/// Lifeboat's own exit codes. Every other code of `lifeboat run` is the workload's.
pub mod exit_code {
    /// The evacuation is complete: everything is stored and may be taken up elsewhere. Not zero, so that a
    /// supervisor that restarts failed jobs starts the work again, which then resumes.
    pub const EVACUATED: u8 = 85;
    /// The evacuation ended, and something could not be saved; the summary names it.
    pub const INCOMPLETE: u8 = 86;
    /// Another machine or another agent owns the work.
    pub const NOT_OURS: u8 = 87;
    /// Restoring was refused or failed: the directory holds something else, or the stored data is damaged.
    pub const NOT_RESTORED: u8 = 88;
    /// Lifeboat itself could not do what was asked: configuration, store, permissions.
    pub const FAILED: u8 = 125;
    /// The command exists and cannot be executed. Source: POSIX, "Command search and execution" (126, 127).
    pub const CANNOT_EXECUTE: u8 = 126;
    /// There is no such command.
    pub const NOT_FOUND: u8 = 127;
    /// Added to the number of the signal that ended the workload, as shells do.
    pub const SIGNAL_BASE: u8 = 128;
}

/// How the workload's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With an exit code.
    Code(u8),
    /// By a signal.
    Signal(u8),
}

/// Why the workload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    ByItself,
    /// The evacuation stopped it, with this result.
    Evacuated(Verdict),
    /// The store gave the work to another claimant; it was killed.
    LostClaim,
}

/// What is to be done with the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Mark it done: it will never be restored.
    MarkDone,
    /// Save it and give it back: it failed by itself and may be tried again from where it stands.
    SaveAndRelease,
    /// Nothing: the evacuation took care of it, or it belongs to somebody else.
    Leave,
}

/// What follows from how the workload ended. Work that ends with 0 in the middle of an evacuation is not taken
/// for finished: a worker that obeys the stop signal ends with 0 too. Started once more it finds that nothing
/// is left to do; the opposite mistake would lose work.
#[must_use]
pub const fn conclude(exit: Exit, ending: Ending) -> (Conclusion, u8) {
    match (ending, exit) {
        (Ending::ByItself, Exit::Code(0)) => (Conclusion::MarkDone, 0),
        (Ending::ByItself, Exit::Code(code)) => (Conclusion::SaveAndRelease, code),
        (Ending::ByItself, Exit::Signal(signal)) => {
            (Conclusion::SaveAndRelease, exit_code::SIGNAL_BASE.saturating_add(signal))
        }
        (Ending::Evacuated(Verdict::Complete), _) => (Conclusion::Leave, exit_code::EVACUATED),
        (Ending::Evacuated(Verdict::Incomplete), _) => (Conclusion::Leave, exit_code::INCOMPLETE),
        (Ending::LostClaim, _) => (Conclusion::Leave, exit_code::NOT_OURS),
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_and_exit_has_its_conclusion() {
        let exits = [Exit::Code(0), Exit::Code(3), Exit::Signal(9)];
        let table = |ending| exits.map(|exit| conclude(exit, ending));
        assert_eq!(
            table(Ending::ByItself),
            [(Conclusion::MarkDone, 0), (Conclusion::SaveAndRelease, 3), (Conclusion::SaveAndRelease, 137)]
        );
        assert_eq!(table(Ending::Evacuated(Verdict::Complete)), [(Conclusion::Leave, 85); 3]);
        assert_eq!(table(Ending::Evacuated(Verdict::Incomplete)), [(Conclusion::Leave, 86); 3]);
        assert_eq!(table(Ending::LostClaim), [(Conclusion::Leave, 87); 3]);
    }
}

//! The evacuation: from the first notice to the moment when everything worth saving is stored, or the time
//! is over. A pure machine: inputs in, effects out. The agent's driver carries the effects out and feeds
//! what came of them back.
//!
//! The contract with the driver:
//! * it executes the effects of a turn in their order, before it hands in the next input;
//! * it hands in [`Input::Tick`] no later than [`Turn::wake_at`];
//! * it keeps the last [`Effect::Record`] as well as it can and starts from it after a crash, with
//!   [`Input::Resumed`] as the first input. A record that cannot be written never holds anything up.
//!
//! * [`stage`]: what the stages are; [`budget`]: how the time is cut; [`reason`]: what a turn says for itself.

pub mod budget;
pub mod priority;
pub mod reason;
pub mod stage;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use self::reason::Reason;
use self::stage::{Outcome, Plan, Report, STAGES, Stage, StageState};
use crate::notice::{Action, Interruption, Key, Notice};
use crate::time::{Millis, Timestamp};

/// What the machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// An interruption notice, from whatever source.
    Notice(Notice),
    /// A started stage ended by itself. A snapshot reports done, or partly done, only after its manifest is
    /// committed and verified.
    Ended(Stage, Report),
    /// Time has passed.
    Tick,
    /// The agent restarted and loaded its record.
    Resumed,
    /// The interruption is over and the machine is still there.
    Survived,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Keep [`Evacuation::progress`] as the record, best effort.
    Record,
    /// Start a stage; it must have ended by `until`.
    Start {
        /// Which.
        stage: Stage,
        /// When it will be abandoned.
        until: Timestamp,
    },
    /// A running stage has less time than it was told.
    Tighten {
        /// Which.
        stage: Stage,
        /// When it will be abandoned now.
        until: Timestamp,
    },
    /// Stop a running stage at once; its report no longer counts. Abandoning the drain kills the workload.
    Abandon(Stage),
    /// The evacuation is over.
    Finish(Verdict),
}

/// How an evacuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All that was to be saved is stored, and the work can be taken up.
    Complete,
    /// Something is missing; it is still on this machine's disk while the machine lasts.
    Incomplete,
}

/// The outcome of one step of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// To be carried out in this order.
    pub effects: Vec<Effect>,
    /// When the machine wants to be called again without any other input.
    pub wake_at: Option<Timestamp>,
    /// Why.
    pub reason: Reason,
}

/// Where the evacuation stands: all that a restarted agent needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Progress {
    /// No interruption is being handled.
    Idle {
        /// The last one that was.
        handled: Option<Key>,
    },
    /// In the middle.
    Evacuating {
        /// What is being handled.
        interruption: Interruption,
        /// By [`Stage::index`].
        stages: [StageState; STAGES],
    },
    /// Over; the machine may go.
    Finished {
        /// What was handled.
        interruption: Interruption,
        /// By [`Stage::index`]; all ended.
        stages: [StageState; STAGES],
        /// When the last stage ended, local clock.
        at: Timestamp,
        /// How it ended.
        verdict: Verdict,
    },
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evacuation {
    plan: Plan,
    progress: Progress,
}

impl Evacuation {
    /// A machine that handles nothing yet.
    #[must_use]
    pub const fn new(plan: Plan) -> Self {
        Self { plan, progress: Progress::Idle { handled: None } }
    }

    /// A machine that goes on from a record. The first input must be [`Input::Resumed`].
    #[must_use]
    pub const fn from_record(plan: Plan, progress: Progress) -> Self {
        Self { plan, progress }
    }

    /// Where it stands.
    #[must_use]
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether `stage` belongs to an evacuation for `action`.
    #[must_use]
    pub const fn wants(&self, stage: Stage, action: Action) -> bool {
        self.plan.wants(stage, action)
    }

    /// The interruption that was handled last, or is being handled, if it has an identity.
    #[must_use]
    pub fn handled(&self) -> Option<Key> {
        match &self.progress {
            Progress::Idle { handled } => *handled,
            Progress::Evacuating { interruption, .. } | Progress::Finished { interruption, .. } => {
                interruption.key
            }
        }
    }

    /// Takes one input at the instant `now` (local clock, never going back).
    pub fn step(&mut self, now: Timestamp, input: Input) -> Turn {
        let before = self.progress.clone();
        let mut effects = Vec::new();
        let reason = match (&mut self.progress, input) {
            (Progress::Idle { handled }, Input::Notice(notice)) => {
                if notice.key.is_some() && notice.key == *handled {
                    Reason::AlreadyHandled { source: notice.source }
                } else {
                    self.begin(notice, now)
                }
            }
            (Progress::Idle { .. }, Input::Ended(stage, _)) => Reason::ReportIgnored { stage },
            (Progress::Idle { .. }, Input::Tick) => Reason::NothingDue,
            (Progress::Idle { .. }, Input::Survived) => Reason::Survived,
            (Progress::Evacuating { interruption, stages }, Input::Notice(notice)) => {
                merge(&self.plan, interruption, stages, notice, now, &mut effects)
            }
            (Progress::Evacuating { stages, .. }, Input::Ended(stage, report)) => {
                end_stage(stages, stage, report, now)
            }
            (Progress::Evacuating { .. }, Input::Tick) => Reason::NothingDue, // see `advance`
            (Progress::Evacuating { stages, .. }, Input::Resumed) => {
                restart_running(stages, now, &mut effects);
                Reason::Resumed
            }
            // Whoever says so cannot know: what was begun is brought to its end first.
            (Progress::Evacuating { .. }, Input::Survived) => Reason::NothingDue,
            (Progress::Finished { interruption, .. }, Input::Notice(notice)) => {
                if is_another(interruption, &notice) {
                    self.begin(notice, now)
                } else {
                    Reason::AlreadyHandled { source: notice.source }
                }
            }
            (Progress::Finished { .. }, Input::Ended(stage, _)) => Reason::ReportIgnored { stage },
            (Progress::Finished { .. }, Input::Tick) => Reason::NothingDue,
            (Progress::Idle { .. } | Progress::Finished { .. }, Input::Resumed) => Reason::Resumed,
            (Progress::Finished { interruption, .. }, Input::Survived) => {
                self.progress = Progress::Idle { handled: interruption.key };
                Reason::Survived
            }
        };
        let timed_out = self.advance(now, &mut effects);
        if self.progress != before {
            // The record comes first: a crash right after a start must know of it.
            effects.insert(0, Effect::Record);
        }
        let reason = match (reason, timed_out) {
            (Reason::NothingDue, Some(stage)) => Reason::StageTimedOut { stage },
            (reason, _) => reason,
        };
        Turn { effects, wake_at: self.wake_at(), reason }
    }

    fn begin(&mut self, notice: Notice, now: Timestamp) -> Reason {
        self.progress = Progress::Evacuating {
            interruption: Interruption::begin(notice, now),
            stages: [StageState::Waiting; STAGES],
        };
        Reason::Began { source: notice.source, action: notice.action, left: notice.deadline.since(now) }
    }

    /// Ends what is out of time, starts what is due, finishes when all has ended.
    /// Returns the first stage that ran out of time.
    fn advance(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Option<Stage> {
        let Progress::Evacuating { interruption, stages } = &mut self.progress else {
            return None;
        };
        let end = end_of_work(&self.plan, interruption);
        let timed_out = abandon_overdue(stages, now, end, effects);
        while let Some(level) = next_level(stages, interruption.action) {
            start_level(&self.plan, interruption.action, stages, level, now, end, effects);
        }
        if stages.iter().all(|state| matches!(state, StageState::Ended { .. })) {
            let verdict = verdict(stages);
            self.progress =
                Progress::Finished { interruption: interruption.clone(), stages: *stages, at: now, verdict };
            effects.push(Effect::Finish(verdict));
        }
        timed_out
    }

    fn wake_at(&self) -> Option<Timestamp> {
        match &self.progress {
            Progress::Evacuating { stages, .. } => stages
                .iter()
                .filter_map(|state| match state {
                    StageState::Running { until, .. } => Some(*until),
                    StageState::Waiting | StageState::Ended { .. } => None,
                })
                .min(),
            Progress::Idle { .. } | Progress::Finished { .. } => None,
        }
    }
}

/// Whether `notice` cannot be the interruption that was handled: it announces something worse (a terminate
/// after a hibernation that the machine outlived), or another instant.
fn is_another(handled: &Interruption, notice: &Notice) -> bool {
    let other_instant = handled.key.is_some() && notice.key.is_some() && handled.key != notice.key;
    notice.action > handled.action || other_instant
}

/// When the last stage must have ended: the deadline less the reserve, of which at most a tenth of the
/// whole time is kept, so that a short notice is not all reserve.
fn end_of_work(plan: &Plan, interruption: &Interruption) -> Timestamp {
    let whole = interruption.deadline.since(interruption.noticed);
    interruption.deadline.before(plan.reserve.min(Millis(whole.0 / 10)))
}

/// Takes a further notice into the running evacuation.
fn merge(
    plan: &Plan,
    interruption: &mut Interruption,
    stages: &mut [StageState; STAGES],
    notice: Notice,
    now: Timestamp,
    effects: &mut Vec<Effect>,
) -> Reason {
    let (action, deadline) = (interruption.action, interruption.deadline);
    interruption.merge(notice);
    let reason = if interruption.action > action && wanted(plan, action) != wanted(plan, interruption.action)
    {
        begin_again(stages, effects);
        Reason::Escalated { source: notice.source, action: interruption.action }
    } else if interruption.deadline < deadline {
        Reason::Tightened { source: notice.source, left: interruption.deadline.since(now) }
    } else {
        return Reason::Merged { source: notice.source };
    };
    tighten(plan, interruption, stages, now, effects);
    reason
}

fn wanted(plan: &Plan, action: Action) -> [bool; STAGES] {
    Stage::ALL.map(|stage| plan.wants(stage, action))
}

/// What was prepared for does not do for what comes: all but the signal file is done once more, in the
/// order of the new action.
fn begin_again(stages: &mut [StageState; STAGES], effects: &mut Vec<Effect>) {
    for stage in Stage::ALL {
        let state = &mut stages[stage.index()];
        if stage == Stage::Notify {
            continue;
        }
        if matches!(state, StageState::Running { .. }) {
            effects.push(Effect::Abandon(stage));
        }
        *state = StageState::Waiting;
    }
}

/// Gives every running stage what is left for it now, never more than it had.
fn tighten(
    plan: &Plan,
    interruption: &Interruption,
    stages: &mut [StageState; STAGES],
    now: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let end = end_of_work(plan, interruption);
    for stage in Stage::ALL {
        let share = share_of(plan, interruption.action, stages, stage, end.since(now));
        if let StageState::Running { until, .. } = &mut stages[stage.index()] {
            let sooner = (now + share).min(end).min(*until);
            if sooner < *until {
                *until = sooner;
                effects.push(Effect::Tighten { stage, until: sooner });
            }
        }
    }
}

fn end_stage(stages: &mut [StageState; STAGES], stage: Stage, report: Report, now: Timestamp) -> Reason {
    let state = &mut stages[stage.index()];
    match *state {
        StageState::Running { since, .. } => {
            let outcome = Outcome::from(report);
            *state = StageState::Ended { outcome, took: now.since(since) };
            Reason::StageEnded { stage, outcome }
        }
        StageState::Waiting | StageState::Ended { .. } => Reason::ReportIgnored { stage },
    }
}

/// After a crash: what was running is started once more, with the time it still has.
fn restart_running(stages: &mut [StageState; STAGES], now: Timestamp, effects: &mut Vec<Effect>) {
    for stage in Stage::ALL {
        if let StageState::Running { until, .. } = stages[stage.index()]
            && until > now
        {
            effects.push(Effect::Start { stage, until });
        }
    }
}

fn abandon_overdue(
    stages: &mut [StageState; STAGES],
    now: Timestamp,
    end: Timestamp,
    effects: &mut Vec<Effect>,
) -> Option<Stage> {
    let mut first = None;
    for stage in Stage::ALL {
        let state = &mut stages[stage.index()];
        if let StageState::Running { since, until } = *state
            && (until <= now || end <= now)
        {
            *state = StageState::Ended { outcome: Outcome::TimedOut, took: now.since(since) };
            effects.push(Effect::Abandon(stage));
            first = first.or(Some(stage));
        }
    }
    first
}

/// The level that may start: the first with a waiting stage, if every stage of the levels before it has ended.
fn next_level(stages: &[StageState; STAGES], action: Action) -> Option<u8> {
    let level_where = |matches: fn(&StageState) -> bool| {
        Stage::ALL
            .into_iter()
            .filter(|stage| matches(&stages[stage.index()]))
            .map(|stage| stage.level(action))
            .min()
    };
    let waiting = level_where(|state| matches!(state, StageState::Waiting))?;
    let running = level_where(|state| matches!(state, StageState::Running { .. }));
    (running.is_none_or(|running| running >= waiting)).then_some(waiting)
}

/// Starts or skips every waiting stage of `level`. Afterwards none of it waits.
fn start_level(
    plan: &Plan,
    action: Action,
    stages: &mut [StageState; STAGES],
    level: u8,
    now: Timestamp,
    end: Timestamp,
    effects: &mut Vec<Effect>,
) {
    let left = end.since(now);
    // Shares first: starting one stage must not change what its neighbours get.
    let shares = Stage::ALL.map(|stage| share_of(plan, action, stages, stage, left));
    for stage in Stage::ALL {
        if stage.level(action) != level || stages[stage.index()] != StageState::Waiting {
            continue;
        }
        let share = shares[stage.index()];
        let skipped = if !plan.wants(stage, action) {
            Some(Outcome::NotWanted)
        } else if !need_met(stages, stage) {
            Some(Outcome::NeedUnmet)
        } else if share == Millis::ZERO {
            Some(Outcome::NoTime)
        } else {
            None
        };
        stages[stage.index()] = match skipped {
            None => {
                let until = (now + share).min(end);
                effects.push(Effect::Start { stage, until });
                StageState::Running { since: now, until }
            }
            Some(outcome) => {
                if stage == Stage::Drain && outcome == Outcome::NoTime {
                    // No time to ask: what still writes would tear what is saved next.
                    effects.push(Effect::Abandon(stage));
                }
                StageState::Ended { outcome, took: Millis::ZERO }
            }
        };
    }
}

/// Handing back and cleaning up need a committed snapshot; cleaning up also that the work was handed back.
fn need_met(stages: &[StageState; STAGES], stage: Stage) -> bool {
    let outcome = |stage: Stage| match stages[stage.index()] {
        StageState::Ended { outcome, .. } => Some(outcome),
        StageState::Waiting | StageState::Running { .. } => None,
    };
    let committed =
        matches!(outcome(Stage::Snapshot), Some(Outcome::Done | Outcome::Partly | Outcome::Nothing));
    match stage {
        Stage::Notify
        | Stage::Deregister
        | Stage::Drain
        | Stage::Snapshot
        | Stage::SaveState
        | Stage::FlushLogs
        | Stage::CompleteLifecycle => true,
        Stage::HandBack => committed,
        Stage::CleanUp => committed && outcome(Stage::HandBack) == Some(Outcome::Done),
    }
}

/// The time that `stage` gets of what is left, given all that has not ended yet.
fn share_of(
    plan: &Plan,
    action: Action,
    stages: &[StageState; STAGES],
    stage: Stage,
    left: Millis,
) -> Millis {
    /// Levels are numbered from 0 to 6.
    const LEVELS: usize = 7;
    let nothing = budget::Budget { minimum: Millis::ZERO, wanted: Millis::ZERO, maximum: Millis::ZERO };
    let mut steps = [(nothing, u8::MAX); LEVELS];
    for other in Stage::ALL {
        let open = !matches!(stages[other.index()], StageState::Ended { .. });
        if open && plan.wants(other, action) {
            let step = &mut steps[usize::from(other.level(action))];
            *step = (step.0.beside(plan.budget(other)), step.1.min(other.worth()));
        }
    }
    let mut shares = [Millis::ZERO; LEVELS];
    budget::allot(left, &steps, &mut shares);
    let own = plan.budget(stage);
    let share = shares[usize::from(stage.level(action))].min(own.maximum);
    if share < own.minimum { Millis::ZERO } else { share }
}

fn verdict(stages: &[StageState; STAGES]) -> Verdict {
    let missing = Stage::ALL.into_iter().any(|stage| match stages[stage.index()] {
        StageState::Ended { outcome, .. } => stage.counts() && !outcome.is_good(),
        StageState::Waiting | StageState::Running { .. } => true,
    });
    if missing { Verdict::Incomplete } else { Verdict::Complete }
}

#[cfg(test)]
mod tests;

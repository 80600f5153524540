//! What was announced, by whom, and until when. Every source speaks of the same few interruptions, so each
//! sighting is first assessed: is it new, known, merged into one that runs, or long over?

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::clock::ClockDifference;
use crate::time::{Millis, Timestamp};

/// What EC2 will do to the instance. Ordered by how much is lost: the later, the more.
///
/// Source: EC2 user guide, "Spot Instance interruption behavior" (read 2023): hibernation begins at once,
/// stop and terminate two minutes after the notice; stop keeps EBS volumes and loses memory and instance store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Memory goes to the root volume; processes continue when the instance comes back.
    Hibernate,
    /// EBS volumes stay; memory and instance store are lost.
    Stop,
    /// Everything on the machine is lost.
    Terminate,
}

/// Why EC2 interrupts. The metadata service does not say; the Spot request's status code does.
///
/// Source: EC2 user guide, "Reasons for interruption": price, capacity, constraints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The Spot price rose above the request's maximum price.
    Price,
    /// EC2 needs the capacity back.
    Capacity,
    /// A launch group or zone constraint of the request can no longer be met.
    Constraint,
    /// The source of the notice does not name a cause.
    #[default]
    NotTold,
}

/// Who announced the interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Instance metadata, `spot/instance-action`.
    InstanceAction,
    /// Instance metadata, `spot/termination-time` (older; knows only terminate).
    TerminationTime,
    /// Instance metadata, `autoscaling/target-lifecycle-state` = `Terminated`: the group scales in, or replaces
    /// this instance.
    LifecycleState,
    /// SIGTERM to the agent, as container platforms send it.
    Sigterm,
    /// `lifeboat evacuate`, by hand or from a remote command.
    Operator,
    /// The workload failed by itself: what it left is saved, so that it can be tried again.
    Failure,
}

/// The identity of one interruption across all sources and restarts: the instant at which AWS says it will
/// act, by AWS's clock. A notice that names no instant (SIGTERM, an operator) has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Timestamp);

/// An interruption notice, ready to act on: times are by the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who announced it.
    pub source: Source,
    /// What will happen.
    pub action: Action,
    /// Which interruption it is, where the source tells.
    pub key: Option<Key>,
    /// When the machine may be gone, by the local clock.
    pub deadline: Timestamp,
}

/// An interruption that is being handled or was: the merged content of all its notices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// What will happen; the worst that any source said.
    pub action: Action,
    /// Why, where a source tells.
    pub cause: Cause,
    /// Every source that announced it, in order of arrival, each once.
    pub sources: Vec<Source>,
    /// Its identity, as soon as a source gives one.
    pub key: Option<Key>,
    /// When the first notice was seen, local clock.
    pub noticed: Timestamp,
    /// When the machine may be gone, local clock; the earliest that any source said.
    pub deadline: Timestamp,
}

/// Times that the assessment of a sighting depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long to go on working when the announced instant has passed, or none was named, and the
    /// machine is still there; it may vanish at any moment.
    pub late: Millis,
    /// An announced instant that passed longer ago than this is an interruption that did not happen.
    pub stale: Millis,
}

/// What a sighting in the metadata means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It calls for an evacuation, or is to be merged into the one that runs.
    Act(Notice),
    /// This interruption was evacuated before; the machine is still expected to go at the notice's deadline.
    Handled(Notice),
    /// The announced instant passed `ago` and the machine is still here: EC2 failed to act on it.
    /// Source: EC2 user guide, "Spot request status": `fulfilled` again after a failed termination.
    Stale {
        /// For how long the instant has been over.
        ago: Millis,
    },
}

/// Assesses a sighting. `announced` is the instant by AWS's clock, `None` where the text named none (then
/// nothing is known but that it will be soon). `handled` is the last interruption that was evacuated.
#[must_use]
pub fn assess(
    source: Source,
    action: Action,
    announced: Option<Timestamp>,
    clock: &ClockDifference,
    handled: Option<Key>,
    patience: Patience,
    now: Timestamp,
) -> Verdict {
    let key = announced.map(Key);
    let late_deadline = now + patience.late;
    let deadline = match (action, announced.map(|instant| clock.to_local(instant))) {
        (_, None) => late_deadline,
        (_, Some(instant)) if now.since(instant) > patience.stale => {
            return Verdict::Stale { ago: now.since(instant) };
        }
        // Hibernation starts at once, whatever instant is written beside it.
        (Action::Hibernate, Some(_)) => late_deadline,
        (Action::Stop | Action::Terminate, Some(instant)) if instant <= now => late_deadline,
        (Action::Stop | Action::Terminate, Some(instant)) => instant,
    };
    let notice = Notice { source, action, key, deadline };
    if key.is_some() && key == handled { Verdict::Handled(notice) } else { Verdict::Act(notice) }
}

impl Interruption {
    /// The interruption that `notice` begins.
    #[must_use]
    pub fn begin(notice: Notice, now: Timestamp) -> Self {
        Self {
            action: notice.action,
            cause: Cause::NotTold,
            sources: alloc::vec![notice.source],
            key: notice.key,
            noticed: now,
            deadline: notice.deadline,
        }
    }

    /// Takes in a further notice: the worst action, the earliest deadline, the first key.
    pub fn merge(&mut self, notice: Notice) {
        self.action = self.action.max(notice.action);
        self.deadline = self.deadline.min(notice.deadline);
        self.key = self.key.or(notice.key);
        if !self.sources.contains(&notice.source) {
            self.sources.push(notice.source);
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hibernate => "hibernate",
            Self::Stop => "stop",
            Self::Terminate => "terminate",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Price => "price",
            Self::Capacity => "capacity",
            Self::Constraint => "constraint",
            Self::NotTold => "not told",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InstanceAction => "instance-action",
            Self::TerminationTime => "termination-time",
            Self::LifecycleState => "target-lifecycle-state",
            Self::Sigterm => "SIGTERM",
            Self::Operator => "lifeboat evacuate",
            Self::Failure => "the workload's failure",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { late: Millis(10_000), stale: Millis(60_000) };
    const NOW: Timestamp = Timestamp(1_000_000);

    fn assess_at(action: Action, announced: Option<i64>, handled: Option<i64>) -> Verdict {
        assess(
            Source::InstanceAction,
            action,
            announced.map(Timestamp),
            &ClockDifference::default(),
            handled.map(|at| Key(Timestamp(at))),
            PATIENCE,
            NOW,
        )
    }

    fn deadline(verdict: Verdict) -> i64 {
        match verdict {
            Verdict::Act(notice) | Verdict::Handled(notice) => notice.deadline.0,
            Verdict::Stale { ago } => panic!("stale by {ago}"),
        }
    }

    #[test]
    fn every_kind_of_announced_time_has_its_deadline() {
        assert_eq!(deadline(assess_at(Action::Terminate, Some(1_120_000), None)), 1_120_000);
        assert_eq!(deadline(assess_at(Action::Stop, Some(1_120_000), None)), 1_120_000);
        assert_eq!(
            deadline(assess_at(Action::Hibernate, Some(1_120_000), None)),
            1_010_000,
            "begins at once"
        );
        assert_eq!(deadline(assess_at(Action::Terminate, None, None)), 1_010_000, "no instant named");
        assert_eq!(deadline(assess_at(Action::Terminate, Some(999_999), None)), 1_010_000, "just over");
        assert_eq!(
            assess_at(Action::Terminate, Some(900_000), None),
            Verdict::Stale { ago: Millis(100_000) },
            "survived"
        );
    }

    #[test]
    fn the_same_announced_instant_is_the_same_interruption_whenever_it_is_seen() {
        assert!(matches!(
            assess_at(Action::Terminate, Some(1_120_000), Some(1_120_000)),
            Verdict::Handled(_)
        ));
        assert!(matches!(assess_at(Action::Terminate, Some(1_120_001), Some(1_120_000)), Verdict::Act(_)));
        assert!(matches!(assess_at(Action::Terminate, None, None), Verdict::Act(_)));
    }

    #[test]
    fn merging_takes_the_worst_action_and_the_earliest_deadline() {
        let first = Notice {
            source: Source::Sigterm,
            action: Action::Stop,
            key: None,
            deadline: Timestamp(1_030_000),
        };
        let mut interruption = Interruption::begin(first, NOW);
        let later = Notice {
            source: Source::InstanceAction,
            action: Action::Terminate,
            key: Some(Key(Timestamp(5))),
            deadline: Timestamp(1_120_000),
        };
        interruption.merge(later);
        interruption.merge(later);
        assert_eq!(interruption.action, Action::Terminate);
        assert_eq!(interruption.deadline, Timestamp(1_030_000));
        assert_eq!(interruption.key, Some(Key(Timestamp(5))));
        assert_eq!(interruption.sources, [Source::Sigterm, Source::InstanceAction]);
    }
}

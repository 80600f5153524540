//! From what the metadata service shows to notices: keeps the clock difference, asks core what a sighting means.

use lifeboat_core::clock::ClockDifference;
use lifeboat_core::notice::{Action, Key, Notice, Patience, Source, Verdict, assess};
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_imds::poller::{Sighting, Watched};
use lifeboat_imds::wire;
use serde::Serialize;

use crate::clock::rfc3339;

/// What the metadata service has shown so far.
#[derive(Debug)]
pub struct Watch {
    patience: Patience,
    /// What the Auto Scaling group's wish to end this instance leaves.
    lifecycle_grace: Millis,
    clock: ClockDifference,
    seen: Seen,
    /// Which of the two paths announce an interruption that has not become stale.
    announced_by: Vec<Watched>,
}

/// The part of it that `status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Whether the service answers; `None` before the first answer.
    pub reachable: Option<bool>,
    /// When a rebalance recommendation was made.
    pub rebalance: Option<String>,
    /// The Auto Scaling group's wish.
    pub target_lifecycle_state: Option<String>,
    /// Scheduled maintenance, one line an event.
    pub scheduled_events: Vec<String>,
}

/// What a sighting calls for.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing but what was logged.
    Nothing,
    /// A rebalance recommendation: the time to copy what has changed.
    CopyNow,
    /// An evacuation.
    Evacuate(Notice),
    /// The machine is expected to go at this notice's deadline, and its work was evacuated before.
    Expect(Notice),
    /// What was announced no longer is: the machine stays.
    Withdrawn,
}

impl Watch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(patience: Patience, lifecycle_grace: Millis) -> Self {
        let (clock, seen) = (ClockDifference::default(), Seen::default());
        Self { patience, lifecycle_grace, clock, seen, announced_by: Vec::new() }
    }

    /// What was seen.
    #[must_use]
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The local clock was set or the machine slept: what was learnt about it no longer holds.
    pub fn forget_clock(&mut self) {
        self.clock.reset();
    }

    /// Takes one sighting in. `handled` is the last interruption that was evacuated.
    pub fn take(&mut self, sighting: Sighting, handled: Option<Key>, now: Timestamp) -> Call {
        match sighting {
            Sighting::InstanceAction(notice) => {
                let action = action(&notice.action);
                if notice.time.is_none() {
                    tracing::warn!(text = notice.time_text, "the interruption notice names no readable time");
                }
                let call = self.judge(Source::InstanceAction, action, notice.time, handled, now);
                self.announced(Watched::InstanceAction, call)
            }
            Sighting::TerminationTime(notice) => match notice.time {
                Some(time) => {
                    let source = Source::TerminationTime;
                    let call = self.judge(source, Action::Terminate, Some(time), handled, now);
                    self.announced(Watched::TerminationTime, call)
                }
                None => {
                    // Source: EC2 user guide, "spot/termination-time": a value that is not a time means that
                    // the instance is not marked for termination.
                    tracing::info!(
                        text = notice.text,
                        "termination-time is not a time: no termination is announced"
                    );
                    Call::Nothing
                }
            },
            Sighting::Rebalance(notice) => {
                tracing::warn!(
                    noticed = notice.notice_time_text,
                    "rebalance recommendation: the risk of an interruption has grown"
                );
                self.seen.rebalance = Some(notice.notice_time_text);
                Call::CopyNow
            }
            Sighting::TargetLifecycleState(state) => {
                let text = state.to_text();
                tracing::info!(state = text, "target lifecycle state");
                self.seen.target_lifecycle_state = Some(text);
                match state {
                    // A scale-in, or a rebalance that replaces this instance: it names no instant.
                    wire::TargetLifecycleState::Terminated => {
                        let call = Call::Evacuate(Notice {
                            source: Source::LifecycleState,
                            action: Action::Terminate,
                            key: None,
                            deadline: now + self.lifecycle_grace,
                        });
                        self.announced(Watched::TargetLifecycleState, call)
                    }
                    wire::TargetLifecycleState::Detached
                    | wire::TargetLifecycleState::InService
                    | wire::TargetLifecycleState::Standby
                    | wire::TargetLifecycleState::Warmed(_)
                    | wire::TargetLifecycleState::Other(_) => self.no_longer(Watched::TargetLifecycleState),
                }
            }
            Sighting::ScheduledEvents(events) => {
                self.seen.scheduled_events = events
                    .iter()
                    .map(|event| {
                        let from = event.not_before.map_or_else(|| "?".to_owned(), rfc3339);
                        format!("{} {} from {from}: {}", event.event_id, event.code, event.description)
                    })
                    .collect();
                for event in &self.seen.scheduled_events {
                    tracing::warn!(event, "scheduled event");
                }
                Call::Nothing
            }
            Sighting::Gone(watched) => self.gone(watched),
            Sighting::ClockSample(sample) => {
                self.clock.observe(sample);
                Call::Nothing
            }
            Sighting::Unreachable { why, remedy, .. } => {
                if self.seen.reachable == Some(true) {
                    tracing::warn!(why, remedy, "the metadata service no longer answers");
                } else {
                    tracing::info!(
                        why,
                        remedy,
                        "no metadata service: only SIGTERM and `lifeboat evacuate` announce an interruption"
                    );
                }
                self.seen.reachable = Some(false);
                Call::Nothing
            }
            Sighting::Reachable => {
                tracing::info!("watching the metadata service");
                self.seen.reachable = Some(true);
                Call::Nothing
            }
            Sighting::Unreadable { watched, why } => {
                tracing::warn!(?watched, why, "the metadata service answers what nobody documents");
                Call::Nothing
            }
        }
    }

    fn judge(
        &self,
        source: Source,
        action: Action,
        announced: Option<Timestamp>,
        handled: Option<Key>,
        now: Timestamp,
    ) -> Call {
        let apart = self.clock.certain_difference();
        if apart > Millis::from_secs(1) {
            tracing::warn!(difference = %apart, "this machine's clock is off; the deadline is corrected for it");
        }
        match assess(source, action, announced, &self.clock, handled, self.patience, now) {
            Verdict::Act(notice) => Call::Evacuate(notice),
            Verdict::Handled(notice) => Call::Expect(notice),
            Verdict::Stale { ago } => {
                tracing::warn!(%source, %ago, "an announced interruption did not happen; work goes on");
                Call::Nothing
            }
        }
    }

    /// Notes which path announces something; an interruption that did not happen is announced by none.
    fn announced(&mut self, by: Watched, call: Call) -> Call {
        self.announced_by.retain(|other| *other != by);
        if call != Call::Nothing {
            self.announced_by.push(by);
        }
        call
    }

    fn gone(&mut self, watched: Watched) -> Call {
        tracing::info!(?watched, "no longer announced");
        match watched {
            Watched::InstanceAction | Watched::TerminationTime => {}
            Watched::Rebalance => self.seen.rebalance = None,
            Watched::TargetLifecycleState => self.seen.target_lifecycle_state = None,
            Watched::ScheduledEvents => self.seen.scheduled_events.clear(),
        }
        self.no_longer(watched)
    }

    fn no_longer(&mut self, watched: Watched) -> Call {
        let was_announced = !self.announced_by.is_empty();
        self.announced_by.retain(|by| *by != watched);
        if was_announced && self.announced_by.is_empty() { Call::Withdrawn } else { Call::Nothing }
    }
}

/// An action that nobody documents is prepared for as the worst one.
fn action(action: &wire::Action) -> Action {
    match action {
        wire::Action::Terminate => Action::Terminate,
        wire::Action::Stop => Action::Stop,
        wire::Action::Hibernate => Action::Hibernate,
        wire::Action::Other(name) => {
            tracing::warn!(name, "unknown interruption action; preparing for terminate");
            Action::Terminate
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_core::clock::ClockSample;

    fn watch() -> Watch {
        Watch::new(Patience { late: Millis(10_000), stale: Millis(60_000) }, Millis(90_000))
    }

    fn notice(text: &str) -> Sighting {
        Sighting::InstanceAction(wire::InstanceAction::parse(text).expect("parses"))
    }

    const NOW: Timestamp = Timestamp(1_505_722_800_000); // 2017-09-18T08:20:00Z

    #[test]
    fn a_documented_notice_becomes_an_evacuation_with_the_clock_difference_removed() {
        let mut watch = watch();
        let sample = ClockSample { sent: NOW, received: NOW + Millis(2), date: Timestamp(NOW.0 + 30_000) };
        watch.take(Sighting::ClockSample(sample), None, NOW);
        let call = watch.take(notice(r#"{"action":"stop","time":"2017-09-18T08:22:00Z"}"#), None, NOW);
        let Call::Evacuate(notice) = call else { panic!("{call:?}") };
        assert_eq!(notice.action, Action::Stop);
        let left = notice.deadline.since(NOW).0;
        assert!((88_000..=90_000).contains(&left), "{left}");
    }

    #[test]
    fn odd_notices_are_judged_as_documented() {
        let mut watch = watch();
        let call = watch.take(notice(r#"{"action":"explode","time":"2017-09-18T08:22:00Z"}"#), None, NOW);
        assert!(matches!(call, Call::Evacuate(Notice { action: Action::Terminate, .. })), "{call:?}");
        for text in ["", "soon", "n/a"] {
            let sighting = Sighting::TerminationTime(wire::TerminationTime::parse(text));
            assert_eq!(watch.take(sighting, None, NOW), Call::Nothing, "{text:?}");
        }
        let past = Sighting::TerminationTime(wire::TerminationTime::parse("2017-09-18T07:00:00Z"));
        assert_eq!(watch.take(past, None, NOW), Call::Nothing, "EC2 failed to terminate an hour ago");
        let key = Key(Timestamp(NOW.0 + 120_000));
        let again = watch.take(notice(r#"{"action":"stop","time":"2017-09-18T08:22:00Z"}"#), Some(key), NOW);
        assert!(matches!(again, Call::Expect(_)), "{again:?}");
    }

    #[test]
    fn an_instance_that_its_group_ends_is_evacuated_with_a_deadline_of_its_own() {
        let mut watch = watch();
        let state = |state| Sighting::TargetLifecycleState(state);
        let in_service = wire::TargetLifecycleState::InService;
        assert_eq!(watch.take(state(in_service.clone()), None, NOW), Call::Nothing);
        let call = watch.take(state(wire::TargetLifecycleState::Terminated), None, NOW);
        let Call::Evacuate(notice) = call else { panic!("{call:?}") };
        assert_eq!((notice.source, notice.action), (Source::LifecycleState, Action::Terminate));
        assert_eq!((notice.deadline, notice.key), (NOW + Millis(90_000), None));
        assert_eq!(watch.take(state(in_service), None, NOW), Call::Withdrawn);
        assert_eq!(watch.seen().target_lifecycle_state.as_deref(), Some("InService"));
    }

    #[test]
    fn a_notice_is_withdrawn_when_no_path_announces_it_any_more() {
        let mut watch = watch();
        assert_eq!(watch.take(Sighting::Gone(Watched::TerminationTime), None, NOW), Call::Nothing);
        watch.take(notice(r#"{"action":"terminate","time":"2017-09-18T08:22:00Z"}"#), None, NOW);
        let older = wire::TerminationTime::parse("2017-09-18T08:22:00Z");
        watch.take(Sighting::TerminationTime(older), None, NOW);
        assert_eq!(watch.take(Sighting::Gone(Watched::InstanceAction), None, NOW), Call::Nothing);
        assert_eq!(watch.take(Sighting::Gone(Watched::Rebalance), None, NOW), Call::Nothing);
        assert_eq!(watch.take(Sighting::Gone(Watched::TerminationTime), None, NOW), Call::Withdrawn);
    }
}

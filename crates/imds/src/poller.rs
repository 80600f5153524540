//! One poller for every path that announces something.
//!
//! Each round asks for the interruption notice and for one of the other paths in turn, so that the service,
//! which throttles per instance, sees two requests a round. Failures make the rounds slower and never end
//! them: whatever happens, the only ways to stop the poller are to drop it or the receiver of its sightings.
//!
//! It tells what changed, path by path; it forgets nothing and decides nothing. Whether two sightings are the
//! same interruption is for `lifeboat-core` to say.

use lifeboat_core::backoff::{Backoff, jitter};
use lifeboat_core::clock::ClockSample;
use lifeboat_core::time::Millis;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{Answer, Client};
use crate::error::{GetError, GetErrorKind};
use crate::wire::{InstanceAction, Rebalance, ScheduledEvent, TargetLifecycleState, TerminationTime};

/// How often is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the beginning of one round to that of the next, before jitter of a tenth to either side; [`INTERVAL_MIN`] to
    /// [`INTERVAL_MAX`].
    pub interval: Millis,
    /// Spreads pollers that started together: an instance id's hash, for example.
    pub seed: u64,
}

/// AWS recommends 5 s; its own agents poll every 1 to 2 s. Two seconds cost at most 1.7 % of the two minutes.
/// Source: facts of `aws-node-termination-handler` (2 s) and the ECS agent (1 s), read 2026-11.
pub const DEFAULT_INTERVAL: Millis = Millis::from_secs(2);

/// Never slower than this, whatever was asked for: half of the two minutes are left then.
pub const INTERVAL_MAX: Millis = Millis::from_secs(60);

/// Never faster than this, whatever was asked for: the service throttles per instance.
pub const INTERVAL_MIN: Millis = Millis(100);

impl Default for Pace {
    fn default() -> Self {
        Self { interval: DEFAULT_INTERVAL, seed: 0 }
    }
}

/// The first wait after a failed round, before jitter. Shorter than a round: a single failure must not delay
/// the sight of a notice.
const FAILURE_FIRST: Millis = Millis(500);
/// The longest wait where the service was ever reached: a notice leaves two minutes.
const FAILURE_LONGEST: Millis = Millis::from_secs(5);
/// The longest wait where it never was: most likely this is no EC2 instance.
const FAILURE_LONGEST_NEVER_REACHED: Millis = Millis::from_secs(60);
/// One failure is repeated at once and not worth telling; the second in a row is.
const FAILURES_BEFORE_UNREACHABLE: u32 = 2;

/// What one path or the service itself was seen to do. Sent when it changes, except [`Sighting::ClockSample`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// An interruption notice is there, or it is another one than before.
    InstanceAction(InstanceAction),
    /// The older notice is there, with whatever text, or with another one than before.
    TerminationTime(TerminationTime),
    /// A rebalance recommendation is there, or another one than before.
    Rebalance(Rebalance),
    /// The Auto Scaling group wants this instance in that state.
    TargetLifecycleState(TargetLifecycleState),
    /// The scheduled events; never empty, see [`Sighting::Gone`].
    ScheduledEvents(Vec<ScheduledEvent>),
    /// What this path said before is no longer there (404, or an empty list).
    Gone(Watched),
    /// The clocks around an answer: once a round. Dropped where the receiver is behind.
    ClockSample(ClockSample),
    /// The service cannot be asked; sent at the second failure in a row, and again when the reason changes.
    Unreachable {
        /// The reason, to compare.
        kind: GetErrorKind,
        /// The reason, to read: what failed, with its causes.
        why: String,
        /// What a person can do about it.
        remedy: &'static str,
    },
    /// The service answers: the first time, and again after [`Sighting::Unreachable`].
    Reachable,
    /// The service answers, but not what this path is documented to hold, or with an undocumented status. Sent
    /// when it begins; what the path said before stays as it was.
    Unreadable {
        /// The path.
        watched: Watched,
        /// What is wrong with the answer.
        why: String,
    },
}

/// A path that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Watched {
    /// `spot/instance-action`: in every round.
    InstanceAction,
    /// `events/recommendations/rebalance`: every fourth round, as all that follow.
    Rebalance,
    /// `spot/termination-time`.
    TerminationTime,
    /// `autoscaling/target-lifecycle-state`.
    TargetLifecycleState,
    /// `events/maintenance/scheduled`.
    ScheduledEvents,
}

/// The paths that take turns beside the notice.
const IN_TURN: [Watched; 4] =
    [Watched::Rebalance, Watched::TerminationTime, Watched::TargetLifecycleState, Watched::ScheduledEvents];

/// Polls until the receiver of `sightings` is dropped, and tells it what changes.
///
/// Dropping the future stops it at once. The receiver may be slow: the poller then waits for it, holding one
/// sighting.
pub async fn poll(client: Client, pace: Pace, sightings: mpsc::Sender<Sighting>) {
    let mut poller = Poller::new(client, pace, sightings.clone());
    tokio::select! {
        () = sightings.closed() => {}
        _ = poller.run() => {}
    }
}

/// The receiver is gone: nobody wants to know.
struct Closed;

struct Poller {
    client: Client,
    pace: Pace,
    sightings: mpsc::Sender<Sighting>,
    round: u32,
    turn: usize,
    failures: u32,
    was_ever_reached: bool,
    /// Why the service was last told to be unreachable, until it answers.
    told_unreachable: Option<GetErrorKind>,
    told_reachable: bool,
    instance_action: Seen<InstanceAction>,
    termination_time: Seen<TerminationTime>,
    rebalance: Seen<Rebalance>,
    target_lifecycle_state: Seen<TargetLifecycleState>,
    scheduled_events: Seen<Vec<ScheduledEvent>>,
}

/// What a path said last.
struct Seen<T> {
    value: Option<T>,
    is_unreadable: bool,
}

impl<T> Seen<T> {
    const NOTHING: Self = Self { value: None, is_unreadable: false };
}

impl Poller {
    const fn new(client: Client, pace: Pace, sightings: mpsc::Sender<Sighting>) -> Self {
        Self {
            client,
            pace,
            sightings,
            round: 0,
            turn: 0,
            failures: 0,
            was_ever_reached: false,
            told_unreachable: None,
            told_reachable: false,
            instance_action: Seen::NOTHING,
            termination_time: Seen::NOTHING,
            rebalance: Seen::NOTHING,
            target_lifecycle_state: Seen::NOTHING,
            scheduled_events: Seen::NOTHING,
        }
    }

    async fn run(&mut self) -> Closed {
        loop {
            let begun = Instant::now();
            let result = self.ask_round().await;
            let told = match &result {
                Ok(()) => self.note_success().await,
                Err(RoundError::Closed) => return Closed,
                Err(RoundError::Get(error)) => self.note_failure(error).await,
            };
            if told.is_err() {
                return Closed;
            }
            let wait = self.wait();
            self.round = self.round.wrapping_add(1);
            let next = match result {
                Ok(()) => begun + wait.to_duration(),
                // A failure may have taken long; waiting from its end keeps the pauses.
                Err(_) => Instant::now() + wait.to_duration(),
            };
            tokio::time::sleep_until(next).await;
        }
    }

    async fn ask_round(&mut self) -> Result<(), RoundError> {
        self.ask(Watched::InstanceAction).await?;
        let watched = IN_TURN[self.turn];
        // The turn passes on even where it fails: one bad path must not keep the others from being asked.
        self.turn = (self.turn + 1) % IN_TURN.len();
        self.ask(watched).await
    }

    async fn ask(&mut self, watched: Watched) -> Result<(), RoundError> {
        let Self { client, sightings, .. } = self;
        let (clock, sighting) = match watched {
            Watched::InstanceAction => {
                let result = client.instance_action().await;
                self.instance_action.update(result, watched, Sighting::InstanceAction)?
            }
            Watched::TerminationTime => {
                let result = client.termination_time().await;
                self.termination_time.update(result, watched, Sighting::TerminationTime)?
            }
            Watched::Rebalance => {
                let result = client.rebalance().await;
                self.rebalance.update(result, watched, Sighting::Rebalance)?
            }
            Watched::TargetLifecycleState => {
                let result = client.target_lifecycle_state().await;
                self.target_lifecycle_state.update(result, watched, Sighting::TargetLifecycleState)?
            }
            Watched::ScheduledEvents => {
                let result = client.scheduled_events().await.map(|answer| Answer {
                    value: answer.value.filter(|events| !events.is_empty()),
                    clock: answer.clock,
                });
                self.scheduled_events.update(result, watched, Sighting::ScheduledEvents)?
            }
        };
        if let (Some(sample), Watched::InstanceAction) = (clock, watched) {
            // Full means that the receiver is behind: a later sample serves as well.
            let _ = sightings.try_send(Sighting::ClockSample(sample));
        }
        match sighting {
            Some(sighting) => sightings.send(sighting).await.map_err(|_| RoundError::Closed),
            None => Ok(()),
        }
    }

    async fn note_success(&mut self) -> Result<(), Closed> {
        self.failures = 0;
        self.was_ever_reached = true;
        if self.told_unreachable.take().is_some() || !self.told_reachable {
            self.told_reachable = true;
            return self.tell(Sighting::Reachable).await;
        }
        Ok(())
    }

    async fn note_failure(&mut self, error: &GetError) -> Result<(), Closed> {
        self.failures = self.failures.saturating_add(1);
        let kind = error.kind();
        if self.failures < FAILURES_BEFORE_UNREACHABLE || self.told_unreachable == Some(kind) {
            return Ok(());
        }
        self.told_unreachable = Some(kind);
        self.tell(Sighting::Unreachable { kind, why: error.chain(), remedy: error.remedy() }).await
    }

    async fn tell(&mut self, sighting: Sighting) -> Result<(), Closed> {
        self.sightings.send(sighting).await.map_err(|_| Closed)
    }

    const fn failure_longest(&self) -> Millis {
        if self.was_ever_reached { FAILURE_LONGEST } else { FAILURE_LONGEST_NEVER_REACHED }
    }

    fn wait(&self) -> Millis {
        match self.failures.checked_sub(1) {
            None => jitter(self.pace.interval.clamp(INTERVAL_MIN, INTERVAL_MAX), self.pace.seed, self.round),
            Some(attempt) => {
                let longest = self.failure_longest();
                Backoff { first: FAILURE_FIRST, longest, seed: self.pace.seed }.wait(attempt)
            }
        }
    }
}

enum RoundError {
    Closed,
    Get(GetError),
}

impl<T: Clone + PartialEq> Seen<T> {
    /// Takes an answer into account: the clocks around it, and what there is to tell.
    fn update(
        &mut self,
        result: Result<Answer<T>, GetError>,
        watched: Watched,
        sighting: impl Fn(T) -> Sighting,
    ) -> Result<(Option<ClockSample>, Option<Sighting>), RoundError> {
        let answer = match result {
            Ok(answer) => answer,
            Err(error @ (GetError::Corrupt { .. } | GetError::Unexpected { .. })) => {
                // The service works; this answer does not. What the path said before stays as it was.
                let begins = !std::mem::replace(&mut self.is_unreadable, true);
                let why = error.chain();
                return Ok((None, begins.then_some(Sighting::Unreadable { watched, why })));
            }
            Err(error) => return Err(RoundError::Get(error)),
        };
        self.is_unreadable = false;
        if answer.value == self.value {
            return Ok((answer.clock, None));
        }
        self.value.clone_from(&answer.value);
        Ok((answer.clock, Some(answer.value.map_or(Sighting::Gone(watched), sighting))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, WallClock};

    #[tokio::test]
    async fn the_poller_can_be_spawned_on_any_runtime() {
        fn is_send(_: &impl Send) {}
        let endpoint = Endpoint::parse("http://127.0.0.1:1").expect("valid");
        let (sender, _receiver) = mpsc::channel(1);
        is_send(&poll(Client::new(endpoint, WallClock::system()), Pace::default(), sender));
    }
}

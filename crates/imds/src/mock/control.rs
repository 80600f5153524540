//! Changing the mock while it runs: from Rust through [`Control`], over HTTP below `/lifeboat-mock/`.
//!
//! | request | body |
//! |---|---|
//! | `PUT /lifeboat-mock/notice` | a [`NoticePlan`], as `{"action":"stop","after_ms":0,"length_ms":120000}` |
//! | `DELETE /lifeboat-mock/notice` | withdraws it: the instance survived |
//! | `PUT`, `DELETE /lifeboat-mock/rebalance` | a [`RebalancePlan`], as `{"after_ms":0}` |
//! | `PUT`, `DELETE /lifeboat-mock/lifecycle` | a [`StatePlan`], as `{"state":"Terminated"}` |
//! | `PUT /lifeboat-mock/events` | a list as AWS writes it |
//! | `PUT /lifeboat-mock/termination-time` | `"follows"`, `"stays"`, `"absent"` or `{"text":"…"}` |
//! | `PUT /lifeboat-mock/identity` | an [`Identity`]; what is left out does not exist (404) |
//! | `PUT /lifeboat-mock/skew` | milliseconds, as `-30000` |
//! | `PUT /lifeboat-mock/disabled` | `true` or `false` |
//! | `PUT /lifeboat-mock/faults` | a list of [`Fault`]s as text, as `["503:20%","hang@token:3"]` |
//! | `DELETE /lifeboat-mock/tokens` | makes every token unknown |
//! | `GET`, `DELETE /lifeboat-mock/requests` | the [`Requests`] so far; resets them |
//!
//! All are refused (403) with `X-Forwarded-For`: the mock belongs to whoever sits at this machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::clock::WallClock;
use crate::identity::Identity;
use crate::mock::fault::Fault;
use crate::mock::script::{NoticePlan, RebalancePlan, Script, StatePlan, TerminationTimePlan};
use crate::mock::state::{Ask, Outcome, Requests, State};
use crate::wire::{EVENTS_MAX, ScheduledEvent};

/// Faults beyond this many are dropped; each is looked at for each request.
pub const FAULTS_MAX: usize = 32;

/// A handle on a running mock. Clones change the same mock.
#[derive(Clone, Debug)]
pub struct Control {
    state: Arc<Mutex<State>>,
}

impl Control {
    pub(crate) fn new(mut script: Script, wall: WallClock) -> Self {
        script.faults.truncate(FAULTS_MAX);
        script.scheduled_events.truncate(EVENTS_MAX);
        Self { state: Arc::new(Mutex::new(State::new(script, wall, Instant::now()))) }
    }

    /// Announces an interruption, in place of any that was planned or announced before.
    pub fn notice(&self, plan: NoticePlan) {
        self.state().set_notice(Instant::now(), Some(plan));
    }

    /// Withdraws the notice: the instance survived.
    pub fn withdraw_notice(&self) {
        self.state().withdraw_notice(Instant::now());
    }

    /// Recommends a rebalance, or no longer.
    pub fn rebalance(&self, plan: Option<RebalancePlan>) {
        self.state().set_rebalance(Instant::now(), plan);
    }

    /// Sets the target lifecycle state; `None` takes the instance out of its group.
    pub fn target_lifecycle_state(&self, plan: Option<StatePlan>) {
        self.state().set_lifecycle(Instant::now(), plan);
    }

    /// Sets the scheduled events; at most [`EVENTS_MAX`].
    pub fn scheduled_events(&self, mut events: Vec<ScheduledEvent>) {
        events.truncate(EVENTS_MAX);
        self.state().script_mut().scheduled_events = events;
    }

    /// Sets what the older notice path holds.
    pub fn termination_time(&self, plan: TerminationTimePlan) {
        self.state().script_mut().termination_time = plan;
    }

    /// Becomes another instance.
    pub fn identity(&self, identity: Identity) {
        self.state().script_mut().identity = identity;
    }

    /// Puts the mock's clock ahead of this machine's by so many milliseconds. Announced times stay.
    pub fn skew_ms(&self, skew_ms: i64) {
        self.state().set_skew(Instant::now(), skew_ms);
    }

    /// Answers everything with 403 from now on (`true`), or no longer.
    pub fn disable(&self, is_disabled: bool) {
        self.state().script_mut().is_disabled = is_disabled;
    }

    /// Misbehaves like this from now on; at most [`FAULTS_MAX`].
    pub fn faults(&self, mut faults: Vec<Fault>) {
        faults.truncate(FAULTS_MAX);
        self.state().script_mut().faults = faults;
    }

    /// Makes every token unknown.
    pub fn revoke_tokens(&self) {
        self.state().revoke_tokens();
    }

    /// How often was asked for what, so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.state().requests().clone()
    }

    /// Begins to count anew.
    pub fn reset_requests(&self) {
        self.state().reset_requests();
    }

    pub(crate) fn answer(&self, ask: &Ask<'_>) -> Outcome {
        self.state().answer(Instant::now(), ask)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half-changed, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What the mock plays: which instance it is, what it announces and when.

use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::mock::fault::Fault;
use crate::wire::{Action, ScheduledEvent, TOKEN_TTL_SECONDS_MAX};

/// Two minutes between the notice and its time.
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html> (read 2023-06).
pub const NOTICE_LENGTH: Millis = Millis::from_secs(120);

/// All that the mock is told when it starts. Delays count from the start, or from when a plan is set later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Which instance it plays.
    pub identity: Identity,
    /// Whether a request needs a token.
    pub tokens: TokenUse,
    /// No token lives longer than this many seconds, whatever was asked for; 1 to 21600.
    pub token_ttl_seconds_max: u64,
    /// Whether everything is answered with 403, as where the service is disabled.
    pub is_disabled: bool,
    /// The interruption notice.
    pub notice: Option<NoticePlan>,
    /// What the older notice path holds.
    pub termination_time: TerminationTimePlan,
    /// The rebalance recommendation.
    pub rebalance: Option<RebalancePlan>,
    /// The target lifecycle state; `None` where the instance is in no Auto Scaling group.
    pub target_lifecycle_state: Option<StatePlan>,
    /// The scheduled maintenance events.
    pub scheduled_events: Vec<ScheduledEvent>,
    /// By how many milliseconds the mock's clock is ahead of this machine's.
    pub skew_ms: i64,
    /// How it misbehaves.
    pub faults: Vec<Fault>,
    /// Decides which requests of a share are hit.
    pub seed: u64,
}

/// Whether a request needs a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenUse {
    /// 401 without one (`HttpTokens: required`).
    #[default]
    Required,
    /// Also answered without one, as IMDSv1 (`HttpTokens: optional`).
    Optional,
}

/// An interruption notice to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "NoticeText", into = "NoticeText")]
pub struct NoticePlan {
    /// When the notice appears.
    pub after: Millis,
    /// What it announces.
    pub action: Action,
    /// From its appearance to its time. Fixed when it appears: the announced time never moves.
    pub length: Millis,
    /// Announces this text in place of a time; it may be no time at all.
    pub time_text: Option<String>,
    /// Vanishes this long after its appearance: the instance survived.
    pub withdrawn_after: Option<Millis>,
}

/// A [`NoticePlan`] as JSON: everything may be left out, and the length then follows from the action.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoticeText {
    #[serde(rename = "after_ms", default)]
    after: Millis,
    action: Option<Action>,
    #[serde(rename = "length_ms")]
    length: Option<Millis>,
    time_text: Option<String>,
    #[serde(rename = "withdrawn_after_ms")]
    withdrawn_after: Option<Millis>,
}

impl From<NoticeText> for NoticePlan {
    fn from(text: NoticeText) -> Self {
        let plan = Self::now(text.action.unwrap_or(Action::Terminate));
        Self {
            after: text.after,
            length: text.length.unwrap_or(plan.length),
            time_text: text.time_text,
            withdrawn_after: text.withdrawn_after,
            action: plan.action,
        }
    }
}

impl From<NoticePlan> for NoticeText {
    fn from(plan: NoticePlan) -> Self {
        Self {
            after: plan.after,
            action: Some(plan.action),
            length: Some(plan.length),
            time_text: plan.time_text,
            withdrawn_after: plan.withdrawn_after,
        }
    }
}

/// What the older notice path holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminationTimePlan {
    /// The notice's time while there is a notice and it says `terminate`.
    #[default]
    Follows,
    /// Like `Follows`, and it stays when the notice is withdrawn, as where EC2 failed to terminate.
    Stays,
    /// 404.
    Absent,
    /// This text, at all times.
    Text(String),
}

/// A rebalance recommendation to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebalancePlan {
    /// When it appears.
    #[serde(rename = "after_ms", default)]
    pub after: Millis,
    /// Gives this text as its time, in place of when it appears.
    #[serde(default)]
    pub time_text: Option<String>,
}

/// A target lifecycle state to come; `InService` until then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePlan {
    /// When it is wanted.
    #[serde(rename = "after_ms", default)]
    pub after: Millis,
    /// The state, as AWS writes it.
    pub state: String,
}

impl NoticePlan {
    /// A notice of `action`, at once, for two minutes; `hibernate` begins at once and leaves no time.
    #[must_use]
    pub const fn now(action: Action) -> Self {
        let length = match action {
            Action::Hibernate => Millis::ZERO,
            Action::Terminate | Action::Stop | Action::Other(_) => NOTICE_LENGTH,
        };
        Self { after: Millis::ZERO, action, length, time_text: None, withdrawn_after: None }
    }

    /// The same notice after `delay`.
    #[must_use]
    pub fn after(self, delay: Millis) -> Self {
        Self { after: delay, ..self }
    }
}

impl Default for Script {
    /// A healthy Spot instance that nothing is announced for.
    fn default() -> Self {
        Self {
            identity: Identity {
                instance_id: Some("i-0mock0000000000001".to_owned()),
                life_cycle: Some("spot".to_owned()),
                instance_type: Some("c5.large".to_owned()),
                availability_zone: Some("us-east-1a".to_owned()),
                region: Some("us-east-1".to_owned()),
            },
            tokens: TokenUse::Required,
            token_ttl_seconds_max: TOKEN_TTL_SECONDS_MAX,
            is_disabled: false,
            notice: None,
            termination_time: TerminationTimePlan::Follows,
            rebalance: None,
            target_lifecycle_state: None,
            scheduled_events: Vec::new(),
            skew_ms: 0,
            faults: Vec::new(),
            seed: 0,
        }
    }
}

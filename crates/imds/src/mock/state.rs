//! The mock's state and every decision it takes, as plain functions of the request and the time. It sits
//! behind one lock (see `routes`), which is never held across an await.

use std::collections::{BTreeMap, VecDeque};

use lifeboat_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::WallClock;
use crate::identity::{
    AVAILABILITY_ZONE_PATH, INSTANCE_ID_PATH, INSTANCE_TYPE_PATH, LIFE_CYCLE_PATH, REGION_PATH,
};
use crate::mock::fault::{Extent, FaultKind, FaultTarget};
use crate::mock::script::{NoticePlan, RebalancePlan, Script, StatePlan, TerminationTimePlan, TokenUse};
use crate::wire::{
    Action, INSTANCE_ACTION_PATH, InstanceAction, METADATA_PREFIX, REBALANCE_PATH, Rebalance,
    SCHEDULED_EVENTS_PATH, ScheduledEvent, TARGET_LIFECYCLE_STATE_PATH, TERMINATION_TIME_PATH, TOKEN_PATH,
    TOKEN_TTL_SECONDS_MAX, format_http_date, format_time,
};

/// Tokens beyond this many push the oldest out, which is then unknown (401), as after a restart.
const TOKENS_MAX: usize = 1024;
/// Paths beyond this many are counted together.
const COUNTED_PATHS_MAX: usize = 64;
/// The name under which they are.
const OTHER_PATHS: &str = "other";

/// A request as far as it matters here.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) is_put: bool,
    pub(crate) path: &'a str,
    pub(crate) tokens: Vec<&'a str>,
    pub(crate) ttl: Option<&'a str>,
    pub(crate) is_forwarded: bool,
}

/// What to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reply(Reply),
    Hang,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) ttl_seconds: Option<u64>,
    pub(crate) date: String,
    pub(crate) closes: bool,
}

/// How often was asked for what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// By method and path, as `PUT /latest/api/token`; 64 at most, the rest under `other`.
    pub by_path: BTreeMap<String, u64>,
    /// All, without those of the control end point.
    pub total: u64,
    /// Metadata requests without a token.
    pub without_token: u64,
    /// Requests with more than one token.
    pub with_several_tokens: u64,
}

impl Requests {
    /// How often `key` (as `PUT /latest/api/token`) was asked for.
    #[must_use]
    pub fn of(&self, key: &str) -> u64 {
        self.by_path.get(key).copied().unwrap_or(0)
    }

    fn count(&mut self, key: String) {
        self.total += 1;
        let is_full = self.by_path.len() >= COUNTED_PATHS_MAX;
        let key = if is_full && !self.by_path.contains_key(&key) { OTHER_PATHS.to_owned() } else { key };
        *self.by_path.entry(key).or_insert(0) += 1;
    }
}

/// A plan, and when it was set.
#[derive(Debug)]
struct Planned<P> {
    plan: P,
    begins_at: Instant,
    /// The text of its time, fixed when it begins.
    time_text: Option<String>,
}

#[derive(Debug)]
pub(crate) struct State {
    script: Script,
    wall: WallClock,
    notice: Option<Planned<NoticePlan>>,
    rebalance: Option<Planned<RebalancePlan>>,
    lifecycle: Option<Planned<StatePlan>>,
    tokens: VecDeque<(String, Instant)>,
    tokens_granted: u64,
    /// Numbers the requests that a share was drawn for.
    draws: u64,
    requests: Requests,
}

impl State {
    pub(crate) fn new(script: Script, wall: WallClock, now: Instant) -> Self {
        let mut state = Self {
            notice: None,
            rebalance: None,
            lifecycle: None,
            wall,
            tokens: VecDeque::new(),
            tokens_granted: 0,
            draws: 0,
            requests: Requests::default(),
            script,
        };
        state.notice = state.script.notice.take().map(|plan| planned(now, plan.after, plan));
        state.rebalance = state.script.rebalance.take().map(|plan| planned(now, plan.after, plan));
        state.lifecycle =
            state.script.target_lifecycle_state.take().map(|plan| planned(now, plan.after, plan));
        state
    }

    pub(crate) fn set_notice(&mut self, now: Instant, plan: Option<NoticePlan>) {
        self.notice = plan.map(|plan| planned(now, plan.after, plan));
        self.announce(now);
    }

    pub(crate) fn withdraw_notice(&mut self, now: Instant) {
        self.announce(now);
        if let Some(notice) = &mut self.notice {
            notice.plan.withdrawn_after = Some(Millis::from(now.saturating_duration_since(notice.begins_at)));
        }
    }

    pub(crate) fn set_rebalance(&mut self, now: Instant, plan: Option<RebalancePlan>) {
        self.rebalance = plan.map(|plan| planned(now, plan.after, plan));
        self.announce(now);
    }

    pub(crate) fn set_lifecycle(&mut self, now: Instant, plan: Option<StatePlan>) {
        self.lifecycle = plan.map(|plan| planned(now, plan.after, plan));
    }

    pub(crate) fn set_skew(&mut self, now: Instant, skew_ms: i64) {
        self.announce(now); // what has begun keeps the time that it was announced with
        self.script.skew_ms = skew_ms;
    }

    /// The parts of the script that take effect at once.
    pub(crate) const fn script_mut(&mut self) -> &mut Script {
        &mut self.script
    }

    pub(crate) fn revoke_tokens(&mut self) {
        self.tokens.clear();
    }

    pub(crate) const fn requests(&self) -> &Requests {
        &self.requests
    }

    pub(crate) fn reset_requests(&mut self) {
        self.requests = Requests::default();
    }

    /// Decides what the answer is.
    pub(crate) fn answer(&mut self, now: Instant, ask: &Ask<'_>) -> Outcome {
        self.announce(now);
        self.note(ask);
        let mut reply =
            Reply { status: 200, body: String::new(), ttl_seconds: None, date: String::new(), closes: false };
        let mut skew_ms = 0;
        let mut dies_early = None;
        let mut instead = None;
        for kind in self.faults_for(ask) {
            match kind {
                FaultKind::Close => reply.closes = true,
                FaultKind::Skew(ms) => skew_ms = ms,
                FaultKind::ShortToken(span) => dies_early = Some(span),
                FaultKind::Hang => return Outcome::Hang,
                FaultKind::Unauthorized => instead = Some((401, String::new())),
                FaultKind::Denied => instead = Some((403, String::new())),
                FaultKind::Throttled => instead = Some((503, String::new())),
                FaultKind::Unexpected => instead = Some((500, String::new())),
                FaultKind::Garbage => instead = Some((200, "\u{1}<garbage/>".to_owned())),
                FaultKind::Huge => instead = Some((200, "x".repeat(HUGE_BYTES))),
            }
        }
        (reply.status, reply.body) = match instead {
            Some(answer) => answer,
            None if self.script.is_disabled => (403, String::new()),
            None if ask.path == TOKEN_PATH && ask.is_put => {
                let (status, body, ttl) = self.grant(now, ask, dies_early);
                reply.ttl_seconds = ttl;
                (status, body)
            }
            None => self.metadata(now, ask),
        };
        reply.date = format_http_date(Timestamp(self.server_wall().0.saturating_add(skew_ms)));
        Outcome::Reply(reply)
    }

    fn note(&mut self, ask: &Ask<'_>) {
        let method = if ask.is_put { "PUT" } else { "GET" };
        self.requests.count(format!("{method} {}", ask.path));
        if ask.tokens.len() > 1 {
            self.requests.with_several_tokens += 1;
        }
        if ask.tokens.is_empty() && !ask.is_put {
            self.requests.without_token += 1;
        }
    }

    /// The faults that hit this request, used up by one.
    fn faults_for(&mut self, ask: &Ask<'_>) -> Vec<FaultKind> {
        let target = if ask.path == TOKEN_PATH { FaultTarget::Token } else { FaultTarget::Metadata };
        let (seed, draws) = (self.script.seed, &mut self.draws);
        let mut hits = Vec::new();
        for fault in &mut self.script.faults {
            let is_meant = fault.on == FaultTarget::Any || fault.on == target;
            let is_hit = is_meant
                && match &mut fault.extent {
                    Extent::Always => true,
                    Extent::Next(0) => false,
                    Extent::Next(count) => {
                        *count -= 1;
                        true
                    }
                    Extent::Percent(percent) => {
                        *draws += 1;
                        draw(seed, *draws) % 100 < u64::from(*percent)
                    }
                };
            if is_hit {
                hits.push(fault.kind.clone());
            }
        }
        self.script.faults.retain(|fault| fault.extent != Extent::Next(0));
        hits
    }

    fn grant(
        &mut self,
        now: Instant,
        ask: &Ask<'_>,
        dies_early: Option<Millis>,
    ) -> (u16, String, Option<u64>) {
        if ask.is_forwarded {
            return (403, "a request with X-Forwarded-For gets no token".to_owned(), None);
        }
        let asked = ask.ttl.and_then(|ttl| ttl.trim().parse().ok());
        let Some(asked) = asked.filter(|ttl| (1..=TOKEN_TTL_SECONDS_MAX).contains(ttl)) else {
            return (400, "the TTL header must be 1 to 21600 seconds".to_owned(), None);
        };
        let ttl = asked.min(self.script.token_ttl_seconds_max.max(1));
        let life = dies_early.unwrap_or_else(|| Millis::from_secs(ttl));
        self.tokens_granted += 1;
        let token = format!(
            "AQAEmock{:016x}{:016x}==",
            draw(self.script.seed, self.tokens_granted ^ TOKEN_STREAM),
            self.tokens_granted
        );
        self.tokens.retain(|(_, ends_at)| *ends_at > now);
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.pop_front();
        }
        self.tokens.push_back((token.clone(), later(now, life)));
        (200, token, Some(ttl))
    }

    fn metadata(&self, now: Instant, ask: &Ask<'_>) -> (u16, String) {
        let is_welcome = match ask.tokens.as_slice() {
            [] => self.script.tokens == TokenUse::Optional,
            [token] => self.tokens.iter().any(|(known, ends_at)| known == token && *ends_at > now),
            [..] => false,
        };
        if !is_welcome {
            return (401, "401 - Unauthorized".to_owned());
        }
        if ask.is_put || ask.path == TOKEN_PATH {
            return (405, "405 - Method Not Allowed".to_owned());
        }
        let Some(path) = ask.path.strip_prefix(METADATA_PREFIX) else {
            return (404, NOT_FOUND.to_owned());
        };
        match self.value(now, path.trim_end_matches('/')) {
            Some(text) => (200, text),
            None => (404, NOT_FOUND.to_owned()),
        }
    }

    fn value(&self, now: Instant, path: &str) -> Option<String> {
        let identity = &self.script.identity;
        match path {
            "" => Some(self.listing(now)),
            INSTANCE_ID_PATH => identity.instance_id.clone(),
            LIFE_CYCLE_PATH => identity.life_cycle.clone(),
            INSTANCE_TYPE_PATH => identity.instance_type.clone(),
            AVAILABILITY_ZONE_PATH => identity.availability_zone.clone(),
            REGION_PATH => identity.region.clone(),
            INSTANCE_ACTION_PATH => self.notice_shown(now).map(|notice| {
                let action = notice.plan.action.clone();
                let time_text = notice.time_text.clone().unwrap_or_default();
                InstanceAction { action, time: None, time_text }.to_text()
            }),
            TERMINATION_TIME_PATH => self.termination_time(now),
            REBALANCE_PATH => self.rebalance.as_ref().and_then(|rebalance| {
                let notice_time_text = rebalance.time_text.clone()?;
                Some(Rebalance { notice_time: None, notice_time_text }.to_text())
            }),
            TARGET_LIFECYCLE_STATE_PATH => self.lifecycle.as_ref().map(|lifecycle| {
                let has_begun = lifecycle.begins_at <= now;
                if has_begun { lifecycle.plan.state.clone() } else { "InService".to_owned() }
            }),
            SCHEDULED_EVENTS_PATH => Some(ScheduledEvent::list_to_text(&self.script.scheduled_events)),
            _ => None,
        }
    }

    /// The paths that have a value now, one a line.
    fn listing(&self, now: Instant) -> String {
        let all = [
            TARGET_LIFECYCLE_STATE_PATH,
            SCHEDULED_EVENTS_PATH,
            REBALANCE_PATH,
            INSTANCE_ID_PATH,
            LIFE_CYCLE_PATH,
            INSTANCE_TYPE_PATH,
            AVAILABILITY_ZONE_PATH,
            REGION_PATH,
            INSTANCE_ACTION_PATH,
            TERMINATION_TIME_PATH,
        ];
        let shown: Vec<_> = all.into_iter().filter(|path| self.value(now, path).is_some()).collect();
        shown.join("\n")
    }

    fn notice_shown(&self, now: Instant) -> Option<&Planned<NoticePlan>> {
        self.notice.as_ref().filter(|notice| {
            let ends = notice.plan.withdrawn_after.map(|span| later(notice.begins_at, span));
            notice.begins_at <= now && ends.is_none_or(|ends_at| now < ends_at)
        })
    }

    fn termination_time(&self, now: Instant) -> Option<String> {
        let notice = match &self.script.termination_time {
            TerminationTimePlan::Absent => None,
            TerminationTimePlan::Text(text) => return Some(text.clone()),
            TerminationTimePlan::Follows => self.notice_shown(now),
            TerminationTimePlan::Stays => self.notice.as_ref(),
        };
        notice.filter(|notice| notice.plan.action == Action::Terminate)?.time_text.clone()
    }

    /// Fixes the time of whatever has begun by now. It is computed from the beginning, not from now, so that it
    /// does not depend on when somebody looks; from then on it never moves.
    fn announce(&mut self, now: Instant) {
        let server_wall = self.server_wall();
        let wall_at =
            |instant: Instant| server_wall.before(Millis::from(now.saturating_duration_since(instant)));
        if let Some(notice) = self.notice.as_mut().filter(|notice| notice.is_due(now)) {
            let ends = wall_at(notice.begins_at) + notice.plan.length;
            notice.time_text = Some(notice.plan.time_text.clone().unwrap_or_else(|| format_time(ends)));
        }
        if let Some(rebalance) = self.rebalance.as_mut().filter(|rebalance| rebalance.is_due(now)) {
            let begun = wall_at(rebalance.begins_at);
            rebalance.time_text =
                Some(rebalance.plan.time_text.clone().unwrap_or_else(|| format_time(begun)));
        }
    }

    fn server_wall(&self) -> Timestamp {
        Timestamp(self.wall.now().0.saturating_add(self.script.skew_ms))
    }
}

impl<P> Planned<P> {
    fn is_due(&self, now: Instant) -> bool {
        self.begins_at <= now && self.time_text.is_none()
    }
}

/// More than any reader should take.
const HUGE_BYTES: usize = 4 * crate::connection::BODY_BYTES_MAX;
const NOT_FOUND: &str = "404 - Not Found";
/// Tells the draws for tokens from those for faults.
const TOKEN_STREAM: u64 = 1 << 63;

/// A delay beyond this is as good as never, and still an instant that the clock can hold.
const DELAY_MAX: Millis = Millis::from_secs(10 * 365 * 86_400);

fn later(now: Instant, after: Millis) -> Instant {
    now + after.min(DELAY_MAX).to_duration()
}

fn planned<P>(now: Instant, after: Millis, plan: P) -> Planned<P> {
    Planned { plan, begins_at: later(now, after), time_text: None }
}

/// The `number`-th draw of `seed`.
/// Source: SplitMix64 (Steele, Lea, Flood 2014).
const fn draw(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

//! The command line of `lifeboat mock-imds`: our own flags, and those of amazon-ec2-metadata-mock's `spot`
//! command, so that its users can switch. What of theirs cannot be kept is refused, never ignored.
//!
//! Source: <https://github.com/aws/amazon-ec2-metadata-mock>, `pkg/cmd/root/root.go` and
//! `pkg/cmd/spot/spot.go` (read 2026-11-21).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::{ArgAction, Args};
use lifeboat_core::time::{Millis, Timestamp};

use crate::mock::control::FAULTS_MAX;
use crate::mock::fault::Fault;
use crate::mock::script::{
    NOTICE_LENGTH, NoticePlan, RebalancePlan, Script, StatePlan, TerminationTimePlan, TokenUse,
};
use crate::wire::{Action, EVENTS_MAX, ScheduledEvent, TOKEN_TTL_SECONDS_MAX, parse_time};

/// The port of amazon-ec2-metadata-mock.
pub const DEFAULT_PORT: u16 = 1338;

/// Serve instance metadata on this machine, for rehearsals and tests.
///
/// Point programs at it with AWS_EC2_METADATA_SERVICE_ENDPOINT. Without further flags a `terminate` notice of
/// two minutes appears at once. The flags of amazon-ec2-metadata-mock's `spot` command are accepted.
#[derive(Clone, Debug, Default, Args)]
pub struct MockArgs {
    /// `spot`, as amazon-ec2-metadata-mock has it: also recommends a rebalance at once, and needs no tokens
    /// unless --imdsv2 is given
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,

    /// The loopback address to listen on
    #[arg(short = 'n', long, value_name = "HOST", default_value = "127.0.0.1")]
    pub hostname: String,
    /// The port to listen on; 0 for any that is free
    #[arg(short, long, default_value_t = DEFAULT_PORT)]
    pub port: u16,

    /// When the notice appears, as 10s [default: at once]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub after: Option<Millis>,
    /// terminate, stop or hibernate
    #[arg(short, long, visible_alias = "instance-action", default_value = "terminate")]
    pub action: String,
    /// From the notice to its time [default: 120s; hibernate: 0s]
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub notice: Option<Millis>,
    /// Announce this time (RFC 3339), whenever the notice appears
    #[arg(short, long, visible_alias = "termination-time", value_name = "TIME", conflicts_with = "notice")]
    pub time: Option<String>,
    /// The notice vanishes this long after it appeared: the instance survives
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub withdraw_after: Option<Millis>,
    /// No notice until one is asked for: PUT /lifeboat-mock/notice
    #[arg(long, conflicts_with_all = ["after", "notice", "time", "withdraw_after", "mock_delay_sec", "mock_trigger_time"])]
    pub no_notice: bool,
    /// What the older path spot/termination-time holds: follows, stays (when the notice is withdrawn), absent,
    /// or any text
    #[arg(long, value_name = "TEXT", default_value = "follows")]
    pub termination_time_text: String,

    /// When a rebalance is recommended, as 5s
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub rebalance_after: Option<Millis>,
    /// The time (RFC 3339) that the rebalance recommendation gives
    #[arg(short, long, value_name = "TIME")]
    pub rebalance_rec_time: Option<String>,
    /// The target lifecycle state of the Auto Scaling group, as Terminated
    #[arg(long, value_name = "STATE")]
    pub target_lifecycle_state: Option<String>,
    /// When that state is wanted; InService until then
    #[arg(long, value_name = "SPAN", value_parser = parse_span, requires = "target_lifecycle_state")]
    pub target_lifecycle_after: Option<Millis>,
    /// A scheduled event and when it begins, as system-reboot:10m; may be given several times
    #[arg(long, value_name = "CODE[:SPAN]", action = ArgAction::Append)]
    pub scheduled_event: Vec<String>,

    /// How it misbehaves: 401, 403, 500, 503, hang, garbage, huge, close, skew=SPAN or short-token=SPAN; then @token
    /// or @metadata for these requests alone; then :COUNT or :PERCENT%; may be given several times
    #[arg(long, value_name = "FAULT", action = ArgAction::Append)]
    pub fault: Vec<Fault>,
    /// The clock is ahead by this much, as 30s or -30s
    #[arg(long, value_name = "SPAN", value_parser = parse_signed_span, allow_hyphen_values = true)]
    pub skew: Option<i64>,
    /// No token lives longer than this, whatever was asked for
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub token_ttl_max: Option<Millis>,
    /// Require a token (the default without `spot`)
    #[arg(short = 'I', long, conflicts_with = "imdsv1")]
    pub imdsv2: bool,
    /// Answer requests without a token, too
    #[arg(long)]
    pub imdsv1: bool,
    /// Answer everything with 403, as where the service is disabled
    #[arg(long)]
    pub disabled: bool,
    /// Decides which requests a fault's share hits
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// The instance's id
    #[arg(long, value_name = "ID")]
    pub instance_id: Option<String>,
    /// The instance's type
    #[arg(long, value_name = "TYPE")]
    pub instance_type: Option<String>,
    /// The availability zone
    #[arg(long, visible_alias = "availability-zone", value_name = "ZONE")]
    pub az: Option<String>,
    /// The region [default: the zone's]
    #[arg(long)]
    pub region: Option<String>,
    /// spot, on-demand or scheduled
    #[arg(long, value_name = "LIFE_CYCLE")]
    pub life_cycle: Option<String>,

    /// As --after, in seconds
    #[arg(short = 'd', long, value_name = "SECONDS", conflicts_with = "after")]
    pub mock_delay_sec: Option<u32>,
    /// When the notice appears, as a time (RFC 3339); comes before --mock-delay-sec
    #[arg(long, value_name = "TIME", conflicts_with = "after")]
    pub mock_trigger_time: Option<String>,
    /// As --rebalance-after, in seconds
    #[arg(long, value_name = "SECONDS", conflicts_with = "rebalance_after")]
    pub rebalance_delay_sec: Option<u32>,
    /// When a rebalance is recommended, as a time (RFC 3339); comes before --rebalance-delay-sec
    #[arg(long, value_name = "TIME", conflicts_with = "rebalance_after")]
    pub rebalance_trigger_time: Option<String>,
    /// How many addresses see the notice; loopback is one, so any number from 1 up is the same
    #[arg(short = 'x', long, value_name = "COUNT")]
    pub mock_ip_count: Option<u32>,

    /// Refused: see `unsupported`
    #[arg(short, long, hide = true)]
    pub config_file: Option<String>,
    /// Refused: see `unsupported`
    #[arg(short, long, hide = true)]
    pub save_config_to_file: bool,
    /// Refused: see `unsupported`
    #[arg(long, hide = true)]
    pub watch_config_file: bool,
    /// Refused: see `unsupported`
    #[arg(long, hide = true)]
    pub asg_termination_delay_sec: Option<String>,
    /// Refused: see `unsupported`
    #[arg(long, hide = true)]
    pub asg_termination_trigger_time: Option<String>,
}

/// Where to listen and what to play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A loopback address.
    pub addr: SocketAddr,
    /// What to play.
    pub script: Script,
}

/// A command line that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// A flag or command of amazon-ec2-metadata-mock that is not supported.
    #[error("{flag} is not supported: {instead}")]
    Unsupported {
        /// What was given.
        flag: String,
        /// What to do in its place.
        instead: &'static str,
    },
    /// A value that makes no sense.
    #[error("{flag} {value:?}: {why}")]
    Invalid {
        /// Which flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl MockArgs {
    /// What the flags ask for, when they are followed at `now`.
    ///
    /// # Errors
    ///
    /// [`ArgsError`], with what to do in its place.
    pub fn into_settings(self, now: Timestamp) -> Result<Settings, ArgsError> {
        self.refuse_unsupported()?;
        let addr = SocketAddr::new(parse_host(&self.hostname)?, self.port);
        let defaults = Script::default();
        let mut identity = defaults.identity.clone();
        if let Some(zone) = &self.az {
            identity.region = Some(match &self.region {
                Some(region) => region.clone(),
                None => region_of(zone)?,
            });
        }
        identity.region = self.region.clone().or(identity.region);
        identity.availability_zone = self.az.clone().or(identity.availability_zone);
        identity.instance_id = self.instance_id.clone().or(identity.instance_id);
        identity.instance_type = self.instance_type.clone().or(identity.instance_type);
        identity.life_cycle = self.life_cycle.clone().or(identity.life_cycle);
        let script = Script {
            identity,
            tokens: self.token_use(),
            token_ttl_seconds_max: self.token_ttl_seconds_max()?,
            is_disabled: self.disabled,
            notice: self.notice_plan(now)?,
            termination_time: match self.termination_time_text.as_str() {
                "follows" => TerminationTimePlan::Follows,
                "stays" => TerminationTimePlan::Stays,
                "absent" => TerminationTimePlan::Absent,
                text => TerminationTimePlan::Text(text.to_owned()),
            },
            rebalance: self.rebalance_plan(now)?,
            target_lifecycle_state: self
                .target_lifecycle_state
                .clone()
                .map(|state| StatePlan { after: self.target_lifecycle_after.unwrap_or_default(), state }),
            scheduled_events: self.events(now)?,
            skew_ms: self.skew.unwrap_or_default(),
            faults: self.fault,
            seed: self.seed,
        };
        Ok(Settings { addr, script })
    }

    fn is_aemm(&self) -> bool {
        self.command.is_some()
    }

    fn refuse_unsupported(&self) -> Result<(), ArgsError> {
        let config = "give flags, or change the mock while it runs (PUT /lifeboat-mock/…)";
        let asg = "give --target-lifecycle-state Terminated with --target-lifecycle-after";
        let given = [
            (self.config_file.is_some(), "--config-file", config),
            (self.save_config_to_file, "--save-config-to-file", config),
            (self.watch_config_file, "--watch-config-file", config),
            (self.asg_termination_delay_sec.is_some(), "--asg-termination-delay-sec", asg),
            (self.asg_termination_trigger_time.is_some(), "--asg-termination-trigger-time", asg),
        ];
        for (is_given, flag, instead) in given {
            if is_given {
                return Err(ArgsError::Unsupported { flag: flag.to_owned(), instead });
            }
        }
        let instead = match self.command.as_deref() {
            None | Some("spot" | "spotitn") => None,
            Some("events" | "scheduledevents" | "se") => Some("give --no-notice --scheduled-event CODE"),
            Some("asglifecycle" | "autoscaling") => Some("give --no-notice --target-lifecycle-state STATE"),
            Some(_) => Some("the one command is `spot`; without it, all is served"),
        };
        if let (Some(flag), Some(instead)) = (self.command.clone(), instead) {
            return Err(ArgsError::Unsupported { flag, instead });
        }
        if self.mock_ip_count == Some(0) {
            let why = "nobody would see the notice; give --no-notice";
            return Err(ArgsError::Invalid { flag: "--mock-ip-count", value: "0".to_owned(), why });
        }
        if self.fault.len() > FAULTS_MAX {
            let value = self.fault.len().to_string();
            return Err(ArgsError::Invalid { flag: "--fault", value, why: "too many: 32 at most" });
        }
        Ok(())
    }

    fn token_use(&self) -> TokenUse {
        let is_optional = self.imdsv1 || (self.is_aemm() && !self.imdsv2);
        if is_optional { TokenUse::Optional } else { TokenUse::Required }
    }

    fn token_ttl_seconds_max(&self) -> Result<u64, ArgsError> {
        match self.token_ttl_max {
            None => Ok(TOKEN_TTL_SECONDS_MAX),
            Some(span) if span.0 % 1000 == 0 && (1..=TOKEN_TTL_SECONDS_MAX).contains(&(span.0 / 1000)) => {
                Ok(span.0 / 1000)
            }
            Some(span) => Err(ArgsError::Invalid {
                flag: "--token-ttl-max",
                value: format_span(span),
                why: "a token lives 1 to 21600 whole seconds",
            }),
        }
    }

    fn notice_plan(&self, now: Timestamp) -> Result<Option<NoticePlan>, ArgsError> {
        if self.no_notice {
            return Ok(None);
        }
        let action = match Action::parse(&self.action) {
            Action::Other(_) => {
                let why = "one of terminate, stop, hibernate";
                return Err(ArgsError::Invalid { flag: "--action", value: self.action.clone(), why });
            }
            action => action,
        };
        let time_text = self.time.clone().map(|text| checked_time("--time", text)).transpose()?;
        let trigger = delay_until("--mock-trigger-time", self.mock_trigger_time.as_deref(), now)?;
        let by_seconds = self.mock_delay_sec.map(|seconds| Millis::from_secs(seconds.into()));
        let plan = NoticePlan::now(action);
        Ok(Some(NoticePlan {
            after: self.after.or(trigger).or(by_seconds).unwrap_or_default(),
            length: self.notice.unwrap_or(plan.length),
            time_text,
            withdrawn_after: self.withdraw_after,
            action: plan.action,
        }))
    }

    fn rebalance_plan(&self, now: Timestamp) -> Result<Option<RebalancePlan>, ArgsError> {
        let flag = "--rebalance-rec-time";
        let time_text = self.rebalance_rec_time.clone().map(|text| checked_time(flag, text)).transpose()?;
        let trigger = delay_until("--rebalance-trigger-time", self.rebalance_trigger_time.as_deref(), now)?;
        let by_seconds = self.rebalance_delay_sec.map(|seconds| Millis::from_secs(seconds.into()));
        let after = self.rebalance_after.or(trigger).or(by_seconds);
        let is_wanted = after.is_some() || time_text.is_some() || self.is_aemm();
        Ok(is_wanted.then(|| RebalancePlan { after: after.unwrap_or_default(), time_text }))
    }

    fn events(&self, now: Timestamp) -> Result<Vec<ScheduledEvent>, ArgsError> {
        let flag = "--scheduled-event";
        if self.scheduled_event.len() > EVENTS_MAX {
            let value = self.scheduled_event.len().to_string();
            return Err(ArgsError::Invalid { flag, value, why: "too many: 64 at most" });
        }
        let event = |(number, text): (usize, &String)| {
            let (code, delay) = match text.split_once(':') {
                None => (text.as_str(), NOTICE_LENGTH),
                Some((code, span)) => (
                    code,
                    parse_span(span).map_err(|_| ArgsError::Invalid {
                        flag,
                        value: text.clone(),
                        why: "after : comes a span, as 10m",
                    })?,
                ),
            };
            Ok(ScheduledEvent {
                code: code.to_owned(),
                description: format!("mock of {code}"),
                event_id: format!("instance-event-{number:017x}"),
                not_before: Some(now + delay),
                not_after: None,
                not_before_deadline: None,
                state: "active".to_owned(),
            })
        };
        self.scheduled_event.iter().enumerate().map(event).collect()
    }
}

fn parse_host(host: &str) -> Result<IpAddr, ArgsError> {
    let invalid = |why| ArgsError::Invalid { flag: "--hostname", value: host.to_owned(), why };
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let ip: IpAddr = bare.parse().map_err(|_| invalid("localhost or a loopback address"))?;
    if ip.to_canonical().is_loopback() {
        Ok(ip)
    } else {
        Err(invalid("the mock serves loopback only, or it would announce interruptions to others"))
    }
}

/// The region of an ordinary zone: `us-east-1a` lies in `us-east-1`.
fn region_of(zone: &str) -> Result<String, ArgsError> {
    let region = zone.strip_suffix(|c: char| c.is_ascii_lowercase());
    let region = region.filter(|region| region.ends_with(|c: char| c.is_ascii_digit()));
    region.map(str::to_owned).ok_or_else(|| ArgsError::Invalid {
        flag: "--az",
        value: zone.to_owned(),
        why: "its region cannot be told from its name; give --region, too",
    })
}

fn checked_time(flag: &'static str, text: String) -> Result<String, ArgsError> {
    if parse_time(&text).is_some() {
        return Ok(text);
    }
    Err(ArgsError::Invalid { flag, value: text, why: "no time like 2020-01-07T01:03:47Z" })
}

/// The delay from `now` to the time that `text` gives; none at all where it has passed.
fn delay_until(flag: &'static str, text: Option<&str>, now: Timestamp) -> Result<Option<Millis>, ArgsError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let why = "no time like 2020-01-07T01:03:47Z";
    let time = parse_time(text).ok_or_else(|| ArgsError::Invalid { flag, value: text.to_owned(), why })?;
    Ok(Some(time.since(now)))
}

/// A text that is no span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a span of time is a whole number and a unit: ms, s, m, h or d, as 10s")]
pub struct SpanError;

/// Reads a span of time, as `500ms`, `10s`, `2m`, `1h` or `7d`.
///
/// # Errors
///
/// [`SpanError`] without a unit, or beyond the range.
pub fn parse_span(text: &str) -> Result<Millis, SpanError> {
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError)?;
    let (number, unit) = text.split_at(split);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(SpanError),
    };
    let number: u64 = number.parse().map_err(|_| SpanError)?;
    number.checked_mul(unit_ms).map(Millis).ok_or(SpanError)
}

/// Reads a span of time with or without a sign, as milliseconds.
///
/// # Errors
///
/// [`SpanError`] as for [`parse_span`].
pub fn parse_signed_span(text: &str) -> Result<i64, SpanError> {
    let (is_negative, span) = match text.strip_prefix('-') {
        Some(span) => (true, span),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let ms = i64::try_from(parse_span(span)?.0).map_err(|_| SpanError)?;
    Ok(if is_negative { -ms } else { ms })
}

/// As [`parse_span`] reads it.
#[must_use]
pub fn format_span(span: Millis) -> String {
    if span.0.is_multiple_of(1000) { format!("{}s", span.0 / 1000) } else { format!("{}ms", span.0) }
}

//! What is on the wire, shared by client and mock: tolerant when read, strict when written.
//!
//! Times become Unix milliseconds here and nowhere else. A time that cannot be read is kept as text and never
//! makes a notice unreadable: that there is a notice matters more than when it is due.

use jiff::civil;
use jiff::fmt::{rfc2822, strtime};
use lifeboat_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Where tokens are granted, to `PUT`.
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>
/// (read 2023-06), as for the headers and the range of the TTL.
pub const TOKEN_PATH: &str = "/latest/api/token";
/// Before every metadata path below.
pub const METADATA_PREFIX: &str = "/latest/meta-data/";
/// Carries the token on each `GET`.
pub const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
/// Asks for a token's life in seconds, and tells it in the answer.
pub const TOKEN_TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// A token lives at most six hours.
pub const TOKEN_TTL_SECONDS_MAX: u64 = 21_600;

/// The interruption notice.
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html>
/// (read 2023-06), as for the termination time.
pub const INSTANCE_ACTION_PATH: &str = "spot/instance-action";
/// The older notice: text, for `terminate` only.
pub const TERMINATION_TIME_PATH: &str = "spot/termination-time";
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html> (read 2023-06).
pub const REBALANCE_PATH: &str = "events/recommendations/rebalance";
/// Source: <https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html>
/// (read 2023-06).
pub const TARGET_LIFECYCLE_STATE_PATH: &str = "autoscaling/target-lifecycle-state";
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/viewing_scheduled_events.html> (read 2023-06).
pub const SCHEDULED_EVENTS_PATH: &str = "events/maintenance/scheduled";

/// Texts from the service are cut to this length (bytes): a notice must not be a way to fill memory or logs.
pub const TEXT_BYTES_MAX: usize = 256;
/// Scheduled events beyond this many are dropped. EC2 plans a handful per instance.
pub const EVENTS_MAX: usize = 64;

/// What EC2 is going to do with the instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Memory, instance store and usually EBS are lost.
    Terminate,
    /// EBS stays; memory and instance store are lost.
    Stop,
    /// Memory goes to the root volume, at once.
    Hibernate,
    /// A name that is not documented; empty where the notice gave none.
    Other(String),
}

/// The interruption notice of [`INSTANCE_ACTION_PATH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceAction {
    /// What is going to happen.
    pub action: Action,
    /// When, by the service's clock; `None` where the text is no time.
    pub time: Option<Timestamp>,
    /// The time as the service wrote it; empty where it gave none.
    pub time_text: String,
}

/// The text of [`TERMINATION_TIME_PATH`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TerminationTime {
    /// The text as the service wrote it, trimmed.
    pub text: String,
    /// The time it states, possibly in the past; `None` where it states none.
    pub time: Option<Timestamp>,
}

/// The rebalance recommendation of [`REBALANCE_PATH`]: a higher risk of interruption, without a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebalance {
    /// When the recommendation was made, by the service's clock; `None` where the text is no time.
    pub notice_time: Option<Timestamp>,
    /// The time as the service wrote it; empty where it gave none.
    pub notice_time_text: String,
}

/// Where the Auto Scaling group wants this instance to be ([`TARGET_LIFECYCLE_STATE_PATH`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetLifecycleState {
    /// Leaves the group and goes on.
    Detached,
    /// Serves.
    InService,
    /// Pauses.
    Standby,
    /// Is going to be terminated by the group.
    Terminated,
    /// A state of a warm pool: what follows `Warmed:`.
    Warmed(String),
    /// A name that is not documented.
    Other(String),
}

/// A maintenance event of [`SCHEDULED_EVENTS_PATH`]. Times by the service's clock; `None` where absent or odd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EventText", into = "EventText")]
pub struct ScheduledEvent {
    /// What is planned, as `instance-stop` or `system-reboot`.
    pub code: String,
    /// For people.
    pub description: String,
    /// Names the event.
    pub event_id: String,
    /// Not earlier than this.
    pub not_before: Option<Timestamp>,
    /// Over by this.
    pub not_after: Option<Timestamp>,
    /// Begun by this.
    pub not_before_deadline: Option<Timestamp>,
    /// `active`, `completed` or `canceled`.
    pub state: String,
}

/// A text that is not what its path is documented to hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub(crate) String);

impl Action {
    /// The action of that name; case does not matter.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        match name.trim() {
            name if name.eq_ignore_ascii_case("terminate") => Self::Terminate,
            name if name.eq_ignore_ascii_case("stop") => Self::Stop,
            name if name.eq_ignore_ascii_case("hibernate") => Self::Hibernate,
            name => Self::Other(bounded(name)),
        }
    }

    /// The name as AWS writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Terminate => "terminate",
            Self::Stop => "stop",
            Self::Hibernate => "hibernate",
            Self::Other(name) => name,
        }
    }
}

impl Serialize for Action {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::parse(&name))
    }
}

impl InstanceAction {
    /// Reads the JSON object. Any object counts as a notice, whatever is odd or missing inside.
    ///
    /// # Errors
    ///
    /// [`ParseError`] where the text is not a JSON object.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let object = parse_object(text)?;
        // Versions 1.0 to 1.4 of amazon-ec2-metadata-mock wrote `instance-action`.
        let action = string_of(&object, "action").or_else(|| string_of(&object, "instance-action"));
        let time_text = string_of(&object, "time").unwrap_or_default();
        Ok(Self {
            action: Action::parse(&action.unwrap_or_default()),
            time: parse_time(&time_text),
            time_text,
        })
    }

    /// A notice of `action` at `time`, which is rounded down to whole seconds as on the wire.
    #[must_use]
    pub fn at(action: Action, time: Timestamp) -> Self {
        let time_text = format_time(time);
        Self { action, time: parse_time(&time_text), time_text }
    }

    /// The JSON object as AWS writes it.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::json!({ "action": self.action.as_str(), "time": self.time_text }).to_string()
    }
}

impl TerminationTime {
    /// Reads the text; every text is accepted.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = bounded(text.trim());
        Self { time: parse_time(&text), text }
    }
}

impl Rebalance {
    /// Reads the JSON object. Any object counts as a recommendation.
    ///
    /// # Errors
    ///
    /// [`ParseError`] where the text is not a JSON object.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let notice_time_text = string_of(&parse_object(text)?, "noticeTime").unwrap_or_default();
        Ok(Self { notice_time: parse_time(&notice_time_text), notice_time_text })
    }

    /// A recommendation made at `notice_time`, which is rounded down to whole seconds as on the wire.
    #[must_use]
    pub fn at(notice_time: Timestamp) -> Self {
        let notice_time_text = format_time(notice_time);
        Self { notice_time: parse_time(&notice_time_text), notice_time_text }
    }

    /// The JSON object as AWS writes it.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::json!({ "noticeTime": self.notice_time_text }).to_string()
    }
}

impl TargetLifecycleState {
    /// Reads the name; every text is accepted. States are compared exactly.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.trim() {
            "Detached" => Self::Detached,
            "InService" => Self::InService,
            "Standby" => Self::Standby,
            "Terminated" => Self::Terminated,
            name => match name.strip_prefix("Warmed:") {
                Some(rest) => Self::Warmed(bounded(rest)),
                None => Self::Other(bounded(name)),
            },
        }
    }

    /// The name as AWS writes it.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Detached => "Detached".to_owned(),
            Self::InService => "InService".to_owned(),
            Self::Standby => "Standby".to_owned(),
            Self::Terminated => "Terminated".to_owned(),
            Self::Warmed(rest) => format!("Warmed:{rest}"),
            Self::Other(name) => name.clone(),
        }
    }
}

impl ScheduledEvent {
    /// Reads the JSON list; at most [`EVENTS_MAX`] events are taken, elements that are no objects are skipped.
    ///
    /// # Errors
    ///
    /// [`ParseError`] where the text is not a JSON list.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, ParseError> {
        let list: Vec<serde_json::Value> =
            serde_json::from_str(text).map_err(|error| ParseError(format!("no JSON list: {error}")))?;
        let events = list.iter().filter_map(serde_json::Value::as_object);
        Ok(events.take(EVENTS_MAX).map(Self::from_object).collect())
    }

    /// The JSON list as AWS writes it.
    #[must_use]
    pub fn list_to_text(events: &[Self]) -> String {
        serde_json::json!(events).to_string()
    }

    fn from_object(object: &Object) -> Self {
        let text = |key| string_of(object, key).unwrap_or_default();
        EventText {
            code: text("Code"),
            description: text("Description"),
            event_id: text("EventId"),
            not_before: text("NotBefore"),
            not_after: text("NotAfter"),
            not_before_deadline: text("NotBeforeDeadline"),
            state: text("State"),
        }
        .into()
    }
}

/// A scheduled event with its times as text.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct EventText {
    not_before: String,
    code: String,
    description: String,
    event_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    not_after: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    not_before_deadline: String,
    state: String,
}

impl From<EventText> for ScheduledEvent {
    fn from(text: EventText) -> Self {
        Self {
            code: text.code,
            description: text.description,
            event_id: text.event_id,
            not_before: parse_time(&text.not_before),
            not_after: parse_time(&text.not_after),
            not_before_deadline: parse_time(&text.not_before_deadline),
            state: text.state,
        }
    }
}

impl From<ScheduledEvent> for EventText {
    fn from(event: ScheduledEvent) -> Self {
        let text = |time: Option<Timestamp>| time.map(format_event_time).unwrap_or_default();
        Self {
            not_before: text(event.not_before),
            code: event.code,
            description: event.description,
            event_id: event.event_id,
            not_after: text(event.not_after),
            not_before_deadline: text(event.not_before_deadline),
            state: event.state,
        }
    }
}

/// A time as the service writes it: RFC 3339, or `21 Jan 2019 09:00:43 GMT`. Without an offset it is UTC.
#[must_use]
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.len() < "2017-09-18T08:22Z".len() || text.len() > TEXT_BYTES_MAX {
        return None;
    }
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Some(Timestamp(instant.as_millisecond()));
    }
    let civil = text
        .parse::<civil::DateTime>()
        .or_else(|_| civil::DateTime::strptime(EVENT_TIME_FORMAT, text))
        .ok()?;
    let instant = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp(instant.as_millisecond()))
}

/// Whole seconds in RFC 3339, as `2017-09-18T08:22:00Z`.
#[must_use]
pub fn format_time(time: Timestamp) -> String {
    format_with("%Y-%m-%dT%H:%M:%SZ", time)
}

/// As `21 Jan 2019 09:00:43 GMT`.
#[must_use]
pub fn format_event_time(time: Timestamp) -> String {
    format_with(EVENT_TIME_FORMAT, time)
}

/// The value of an HTTP `Date` header, as `Sun, 06 Nov 1994 08:49:37 GMT`.
#[must_use]
pub fn format_http_date(time: Timestamp) -> String {
    format_with("%a, %d %b %Y %H:%M:%S GMT", time)
}

/// Reads the value of an HTTP `Date` header.
#[must_use]
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let instant = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp(instant.as_millisecond()))
}

const EVENT_TIME_FORMAT: &str = "%d %b %Y %H:%M:%S GMT";

fn format_with(format: &str, time: Timestamp) -> String {
    let seconds = time.0.div_euclid(1000);
    let limits = (jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
    let instant = jiff::Timestamp::from_second(seconds.clamp(limits.0, limits.1))
        .expect("clamped to the range that is representable");
    let utc = instant.to_zoned(jiff::tz::TimeZone::UTC);
    strtime::format(format, &utc).expect("the formats here name only fields that every instant has")
}

type Object = serde_json::Map<String, serde_json::Value>;

fn parse_object(text: &str) -> Result<Object, ParseError> {
    serde_json::from_str(text).map_err(|error| ParseError(format!("no JSON object: {error}")))
}

/// The string under `key`, bounded; another JSON value is shown as it was written, so that it is not lost.
fn string_of(object: &Object, key: &str) -> Option<String> {
    match object.get(key)? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(bounded(text.trim())),
        other => Some(bounded(&other.to_string())),
    }
}

/// `text`, cut to [`TEXT_BYTES_MAX`] at a character's end.
pub(crate) fn bounded(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2017-09-18T08:22:00Z
    const DOCUMENTED: Timestamp = Timestamp(1_505_722_920_000);

    #[test]
    fn the_documented_notice_is_read_and_written() {
        let text = r#"{"action":"terminate","time":"2017-09-18T08:22:00Z"}"#;
        let notice = InstanceAction::parse(text).expect("valid");
        assert_eq!((&notice.action, notice.time), (&Action::Terminate, Some(DOCUMENTED)));
        assert_eq!(notice.to_text(), text);
        assert_eq!(InstanceAction::at(Action::Terminate, Timestamp(DOCUMENTED.0 + 999)), notice);
    }

    #[test]
    fn an_odd_notice_is_still_a_notice() {
        let read = |text| InstanceAction::parse(text).expect("a notice");
        assert_eq!(read(r#"{"action":"evaporate","time":"soon"}"#).action, Action::Other("evaporate".into()));
        assert_eq!(read(r#"{"action":"stop","time":"soon"}"#).time, None);
        assert_eq!(read(r#"{"action":"stop","time":"soon"}"#).time_text, "soon");
        assert_eq!(read(r#"{"action":"stop","time":17}"#).time_text, "17");
        assert_eq!(
            read(r#"{"action":"STOP"}"#),
            InstanceAction { action: Action::Stop, time: None, time_text: String::new() }
        );
        assert_eq!(read(r#"{"instance-action":"hibernate","extra":[1]}"#).action, Action::Hibernate);
        assert_eq!(read("{}").action, Action::Other(String::new()));
        for no_notice in ["", "terminate", "[]", "<html>", "null", "{\"action\":"] {
            assert!(InstanceAction::parse(no_notice).is_err(), "{no_notice}");
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let long = "ä".repeat(10_000);
        assert_eq!(TerminationTime::parse(&long).text.len(), TEXT_BYTES_MAX);
        let notice = InstanceAction::parse(&format!(r#"{{"action":"{long}"}}"#)).expect("a notice");
        assert!(notice.action.as_str().len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn termination_time_may_hold_anything() {
        assert_eq!(TerminationTime::parse(" 2017-09-18T08:22:00Z\n").time, Some(DOCUMENTED));
        for text in ["", "null", "not-a-time", "2017-09-18", "99999-01-01T00:00:00Z", "2017-13-45T00:00:00Z"]
        {
            let odd = TerminationTime::parse(text);
            assert_eq!((odd.text.as_str(), odd.time), (text, None));
        }
    }

    #[test]
    fn times_come_in_several_forms() {
        for text in [
            "2017-09-18T08:22:00Z",
            "2017-09-18T08:22:00.000Z",
            "2017-09-18T10:22:00+02:00",
            "2017-09-18T08:22:00",
            "2017-09-18 08:22:00",
            "18 Sep 2017 08:22:00 GMT",
        ] {
            assert_eq!(parse_time(text), Some(DOCUMENTED), "{text}");
        }
        assert_eq!(format_time(DOCUMENTED), "2017-09-18T08:22:00Z");
        assert_eq!(format_event_time(DOCUMENTED), "18 Sep 2017 08:22:00 GMT");
        assert_eq!(format_time(Timestamp(-1)), "1969-12-31T23:59:59Z");
        assert!(format_time(Timestamp(i64::MAX)) > format_time(DOCUMENTED));
        assert!(format_time(Timestamp(i64::MIN)).starts_with("-9999"));
    }

    #[test]
    fn http_dates_are_read_and_written() {
        let date = Timestamp(784_111_777_000);
        assert_eq!(format_http_date(date), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(date));
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn the_documented_scheduled_event_is_read_and_written() {
        let text = r#"[{
            "NotBefore" : "21 Jan 2019 09:00:43 GMT",
            "Code" : "system-reboot",
            "Description" : "scheduled reboot",
            "EventId" : "instance-event-0d59937288b749b32",
            "NotAfter" : "21 Jan 2019 09:17:23 GMT",
            "State" : "active"
        }]"#;
        let events = ScheduledEvent::parse_list(text).expect("valid");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].not_before, Some(Timestamp(1_548_061_243_000)));
        assert_eq!((events[0].not_before_deadline, events[0].state.as_str()), (None, "active"));
        let written = ScheduledEvent::list_to_text(&events);
        assert!(written.contains(r#""NotBefore":"21 Jan 2019 09:00:43 GMT""#), "{written}");
        assert!(!written.contains("NotBeforeDeadline"), "{written}");
        assert_eq!(ScheduledEvent::parse_list(&written), Ok(events));
        assert_eq!(ScheduledEvent::parse_list("[]"), Ok(Vec::new()));
    }

    #[test]
    fn odd_scheduled_events_are_kept_and_counted() {
        let events = ScheduledEvent::parse_list(r#"[{"Code":"new-kind","NotBefore":"whenever"}, 7]"#);
        let events = events.expect("a list");
        assert_eq!((events.len(), events[0].not_before), (1, None));
        let many = format!("[{}]", vec!["{}"; EVENTS_MAX + 5].join(","));
        assert_eq!(ScheduledEvent::parse_list(&many).map(|list| list.len()), Ok(EVENTS_MAX));
        assert!(ScheduledEvent::parse_list("{}").is_err());
    }

    #[test]
    fn lifecycle_states_are_compared_exactly() {
        for name in
            ["Detached", "InService", "Standby", "Terminated", "Warmed:Stopped", "Novel", "terminated"]
        {
            let state = TargetLifecycleState::parse(name);
            assert_eq!(state.to_text(), name);
            assert_eq!(state == TargetLifecycleState::Terminated, name == "Terminated");
        }
    }
}

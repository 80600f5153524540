//! How the mock misbehaves: one text form for the command line and the control end point,
//! `KIND[=VALUE][@token|@metadata][:COUNT|:PERCENT%]`.

use std::fmt;
use std::str::FromStr;

use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};

use crate::mock::args::{format_span, parse_signed_span, parse_span};

/// A misbehaviour, for which requests, how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// To which requests.
    pub on: FaultTarget,
    /// To how many of them.
    pub extent: Extent,
}

/// A misbehaviour. `Close`, `Skew` and `ShortToken` change a proper answer; the others take its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `401`.
    Unauthorized,
    /// `403`.
    Denied,
    /// `503`.
    Throttled,
    /// `500`, which the service is not documented to send.
    Unexpected,
    /// `hang`: no answer.
    Hang,
    /// `garbage`: 200 with a body that makes no sense.
    Garbage,
    /// `huge`: 200 with a body beyond every bound.
    Huge,
    /// `close`: the connection is closed after the answer.
    Close,
    /// `skew=±SPAN`: the `Date` is off by this many milliseconds more.
    Skew(i64),
    /// `short-token=SPAN`: the token dies after this time, although the answer promises what was asked for.
    ShortToken(Millis),
}

/// Which requests a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// All but those of the control end point.
    Any,
    /// Requests for a token.
    Token,
    /// Requests for metadata.
    Metadata,
}

/// How many requests a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Each.
    Always,
    /// The next so many.
    Next(u32),
    /// So many of a hundred, chosen by the script's seed.
    Percent(u8),
}

/// A text that names no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no fault ({why}); write KIND[@token|@metadata][:COUNT|:PERCENT%] with one of 401, 403, 500, 503, hang, garbage, huge, close, skew=±SPAN, short-token=SPAN"
)]
pub struct ParseFaultError {
    text: String,
    why: &'static str,
}

impl Fault {
    /// `kind` for each request.
    #[must_use]
    pub const fn always(kind: FaultKind) -> Self {
        Self { kind, on: FaultTarget::Any, extent: Extent::Always }
    }

    /// `kind` for the next `count` requests.
    #[must_use]
    pub const fn next(kind: FaultKind, count: u32) -> Self {
        Self { kind, on: FaultTarget::Any, extent: Extent::Next(count) }
    }

    /// The same fault for the requests of `on` alone.
    #[must_use]
    pub fn on(self, on: FaultTarget) -> Self {
        Self { on, ..self }
    }
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let wrong = |why| ParseFaultError { text: text.to_owned(), why };
        let (rest, extent) = match text.rsplit_once(':') {
            None => (text, Extent::Always),
            Some((rest, extent)) => (rest, parse_extent(extent).map_err(wrong)?),
        };
        let (kind, on) = match rest.split_once('@') {
            None => (rest, FaultTarget::Any),
            Some((kind, "token")) => (kind, FaultTarget::Token),
            Some((kind, "metadata")) => (kind, FaultTarget::Metadata),
            Some(_) => return Err(wrong("after @ comes token or metadata")),
        };
        let kind = match kind.split_once('=') {
            None => match kind {
                "401" => FaultKind::Unauthorized,
                "403" => FaultKind::Denied,
                "503" => FaultKind::Throttled,
                "500" => FaultKind::Unexpected,
                "hang" => FaultKind::Hang,
                "garbage" => FaultKind::Garbage,
                "huge" => FaultKind::Huge,
                "close" => FaultKind::Close,
                "skew" | "short-token" => return Err(wrong("it needs a value, as in skew=30s")),
                _ => return Err(wrong("unknown kind")),
            },
            Some(("skew", span)) => {
                FaultKind::Skew(parse_signed_span(span).map_err(|_| wrong("no span of time after ="))?)
            }
            Some(("short-token", span)) => {
                FaultKind::ShortToken(parse_span(span).map_err(|_| wrong("no span of time after ="))?)
            }
            Some(_) => return Err(wrong("only skew and short-token take a value")),
        };
        Ok(Self { kind, on, extent })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FaultKind::Unauthorized => f.write_str("401")?,
            FaultKind::Denied => f.write_str("403")?,
            FaultKind::Throttled => f.write_str("503")?,
            FaultKind::Unexpected => f.write_str("500")?,
            FaultKind::Hang => f.write_str("hang")?,
            FaultKind::Garbage => f.write_str("garbage")?,
            FaultKind::Huge => f.write_str("huge")?,
            FaultKind::Close => f.write_str("close")?,
            FaultKind::Skew(ms) => {
                let sign = if *ms < 0 { "-" } else { "" };
                write!(f, "skew={sign}{}", format_span(Millis(ms.unsigned_abs())))?;
            }
            FaultKind::ShortToken(span) => write!(f, "short-token={}", format_span(*span))?,
        }
        match self.on {
            FaultTarget::Any => {}
            FaultTarget::Token => f.write_str("@token")?,
            FaultTarget::Metadata => f.write_str("@metadata")?,
        }
        match self.extent {
            Extent::Always => Ok(()),
            Extent::Next(count) => write!(f, ":{count}"),
            Extent::Percent(percent) => write!(f, ":{percent}%"),
        }
    }
}

impl TryFrom<String> for Fault {
    type Error = ParseFaultError;

    fn try_from(text: String) -> Result<Self, ParseFaultError> {
        text.parse()
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.to_string()
    }
}

fn parse_extent(text: &str) -> Result<Extent, &'static str> {
    match text.strip_suffix('%') {
        Some(percent) => match percent.parse() {
            Ok(percent @ 0..=100) => Ok(Extent::Percent(percent)),
            Ok(_) | Err(_) => Err("the share is not 0% to 100%"),
        },
        None => text.parse().map(Extent::Next).map_err(|_| "after : comes a count or a share"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_written_as_it_is_read() {
        for text in [
            "401",
            "403:3",
            "503:20%",
            "hang@token:1",
            "garbage@metadata",
            "huge",
            "close:50%",
            "skew=-30s:5",
            "skew=1500ms",
            "short-token=2s@token:100%",
        ] {
            assert_eq!(text.parse::<Fault>().map(|fault| fault.to_string()).as_deref(), Ok(text));
        }
        for text in
            ["", "402", "hang:", "hang:101%", "hang:-1", "hang@all", "skew", "skew=30", "401=2s", "hang:1:2"]
        {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}

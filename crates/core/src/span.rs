//! Spans of time as people write them: a whole number with its unit.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::time::Millis;

/// Units with their length in milliseconds, the longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A span of time that is written with its unit: `500ms`, `30s`, `10m`, `2h`, `90d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Millis);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration: \"500ms\", \"30s\", \"10m\", \"2h\" or \"90d\"");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(|ms| Self(Millis(ms))).ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    /// In the longest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.0;
        let whole = UNITS.iter().find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor));
        let (name, factor) = whole.unwrap_or(&("s", 1_000));
        write!(f, "{}{name}", ms / factor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn spans_are_written_as_they_are_read() {
        for text in ["500ms", "30s", "10m", "2h", "90d", "0s", "90s"] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.to_string(), text);
        }
        assert_eq!("1500ms".parse(), Ok(Span(Millis(1_500))));
        for text in ["", "5", "s", "-1s", "1.5s", "1 s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}

//! How durations and rates are written: with their units, `"30s"`, `"32MiB/s"`.

use std::num::NonZeroU64;

use lifeboat_core::time::Millis;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration as written in the file, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Millis);

/// Bytes a second as written in the file: `"32MiB/s"`, `"500kB/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub NonZeroU64);

/// What was written, or else the default.
pub(super) fn or(value: Option<Span>, default: Millis) -> Millis {
    value.map_or(default, |span| span.0)
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span: jiff::SignedDuration =
            text.parse().map_err(|_| format!("`{text}` is no duration; write for example \"30s\""))?;
        let millis = u64::try_from(span.as_millis())
            .map_err(|_| format!("`{text}` is negative; a duration is not"))?;
        Ok(Self(Millis(millis)))
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 7] = [
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
            ("GB", 1_000_000_000),
            ("MB", 1_000_000),
            ("kB", 1_000),
            ("B", 1),
        ];
        let problem = || format!("`{text}` is no rate; write for example \"32MiB/s\"");
        let size = text.trim().strip_suffix("/s").ok_or_else(problem)?.trim();
        let (unit, factor) = UNITS.iter().find(|(unit, _)| size.ends_with(unit)).ok_or_else(problem)?;
        let number: u64 = size.strip_suffix(unit).and_then(|n| n.trim().parse().ok()).ok_or_else(problem)?;
        number.checked_mul(*factor).and_then(NonZeroU64::new).map(Self).ok_or_else(problem)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}B/s", self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Span;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration in quotes with its unit, \"30s\" for example")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_str(Written)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}ms", self.0.0))
    }
}

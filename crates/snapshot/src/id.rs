//! Values that tell things apart: nonces and BLAKE3 digests, as lower-case hexadecimal text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// 128 random bits: two nonces that were drawn apart are never equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce([u8; 16]);

/// The BLAKE3 hash of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A text that is not the hexadecimal form that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {digits} lower-case hexadecimal digits")]
pub struct ParseHexError {
    /// How many digits the text should have.
    pub digits: usize,
}

impl Nonce {
    /// Draws a new one from the kernel.
    ///
    /// # Panics
    /// When the kernel has no random numbers to give, which only a seccomp filter can cause: without them two
    /// claimants could not be told apart, so nothing may go on.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        assert_eq!(filled, Ok(bytes.len()), "getrandom fills a short buffer at once");
        Self(bytes)
    }

    /// The nonce made of these bytes; for tests and for identities that are derived from something else.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A number that depends on the nonce alone; seeds the jitter of waits.
    #[must_use]
    pub fn seed(&self) -> u64 {
        let (first, _) = self.0.split_at(8);
        first.iter().fold(0, |seed, byte| (seed << 8) | u64::from(*byte))
    }
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl Digest {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

/// Gives a fixed-size byte string its hexadecimal text form, in `Display`, `FromStr` and serde.
macro_rules! hex_text {
    ($name:ident, $length:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseHexError;

            fn from_str(text: &str) -> Result<Self, ParseHexError> {
                parse_hex(text).map(Self).ok_or(ParseHexError { digits: 2 * $length })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

hex_text!(Nonce, 16);
hex_text!(Digest, 32);

/// The bytes that `text` spells in lower-case hexadecimal, if there are exactly `N`.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (hex_value(pair[0])? << 4) | hex_value(pair[1])?;
    }
    Some(bytes)
}

/// The value of one digit. Upper case is refused, so that a value has one spelling.
const fn hex_value(digit: u8) -> Option<u8> {
    if digit.is_ascii_digit() {
        Some(digit - b'0')
    } else if digit >= b'a' && digit <= b'f' {
        Some(digit - b'a' + 10)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_come_back_and_others_are_refused() {
        let nonce = Nonce::random();
        assert_eq!(nonce.to_string().parse(), Ok(nonce));
        let digest = Digest::of(b"lifeboat");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for wrong in ["", "0", "zz", &"A".repeat(32), &"0".repeat(33), "é", &"0".repeat(64)] {
            assert_eq!(wrong.parse::<Nonce>(), Err(ParseHexError { digits: 32 }), "{wrong}");
        }
    }
}

//! Names of AWS as numbers: the keys of tasks and events in core. The same name gives the same key on every machine
//! and in every version, because keys are stored.

/// The key of an ARN or an event's id: FNV-1a over 64 bits, its bits mixed.
///
/// Source: Fowler, Noll, Vo, "The FNV Non-Cryptographic Hash Algorithm" (offset basis and prime of 64 bits); the
/// finaliser is SplitMix64's (Steele, Lea, Flood 2014).
#[must_use]
pub fn key(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_for_ever() {
        assert_eq!(key(""), 17_665_956_581_633_026_203);
        assert_eq!(
            key("arn:aws:ecs:eu-west-1:123456789012:task/prod/0f9de17a6465404e8b1b2356dc13c2f8"),
            8_341_844_607_982_510_037
        );
    }
}

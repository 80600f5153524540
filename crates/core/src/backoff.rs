//! How long to wait before the next try. The jitter is a hash of the caller's seed and the attempt, not a
//! random number, so the same inputs always give the same wait.

use crate::time::Millis;

/// Waits that double from `first` up to `longest`, each spread over its upper half by jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure, before jitter.
    pub first: Millis,
    /// No wait is longer than this.
    pub longest: Millis,
    /// Tells callers that started at the same moment apart: an instance id's hash, for example.
    pub seed: u64,
}

impl Backoff {
    /// The wait after the `attempt`-th failure in a row (0 is the first): between half of
    /// `first · 2^attempt` (bounded by `longest`) and the whole of it.
    #[must_use]
    pub fn wait(&self, attempt: u32) -> Millis {
        // 2^32 times any first wait is beyond every bound used here; the shift must only not overflow.
        let doubled = self.first.0.saturating_mul(1 << attempt.min(32));
        let whole = doubled.min(self.longest.0);
        let half = whole / 2;
        Millis(whole - spread(self.seed, attempt, half))
    }
}

/// `wait` moved by at most a tenth to either side, so that pollers that started together drift apart.
#[must_use]
pub fn jitter(wait: Millis, seed: u64, round: u32) -> Millis {
    let tenth = wait.0 / 10;
    Millis((wait.0 - tenth).saturating_add(spread(seed, round, tenth.saturating_mul(2))))
}

/// A number in `0..=bound` that depends on nothing but its arguments.
fn spread(seed: u64, round: u32, bound: u64) -> u64 {
    if bound == 0 {
        return 0;
    }
    mix(seed ^ u64::from(round).wrapping_mul(0x9e37_79b9_7f4a_7c15)) % bound.saturating_add(1)
}

/// Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { first: Millis(100), longest: Millis(5_000), seed: 7 };

    #[test]
    fn waits_grow_and_stay_within_half_and_whole() {
        for attempt in 0..40 {
            let whole = (100u64 << attempt.min(20)).min(5_000);
            let wait = BACKOFF.wait(attempt).0;
            assert!((whole / 2..=whole).contains(&wait), "attempt {attempt}: {wait} outside {whole}");
        }
    }

    #[test]
    fn seeds_tell_callers_apart() {
        let waits: alloc::collections::BTreeSet<u64> =
            (0..64).map(|seed| Backoff { seed, ..BACKOFF }.wait(6).0).collect();
        assert!(waits.len() > 48, "64 callers share {} waits", waits.len());
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for round in 0..1000 {
            let wait = jitter(Millis(2_000), 42, round).0;
            assert!((1_800..=2_200).contains(&wait), "{wait}");
            let longest = jitter(Millis(u64::MAX), 42, round).0;
            assert!(longest >= u64::MAX - u64::MAX / 10, "the longest wait does not wrap: {longest}");
        }
    }
}

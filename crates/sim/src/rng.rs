//! Random numbers from a seed: integers only, so that every machine draws the same ones.

/// A stream of numbers. Each purpose has its own, so that one more draw here moves nothing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream for `purpose` of the world with this seed.
    #[must_use]
    pub const fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Self { state: seed ^ purpose.wrapping_mul(0xd134_2543_de82_ef95) };
        // Neighbouring seeds start far apart only after a first round of mixing.
        let _ = rng.next();
        rng
    }

    /// The next 64 bits. Source: SplitMix64 (Steele, Lea, Flood 2014).
    pub const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where `bound` is 0. The bias is below 2⁻³² for every bound used here.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// A number in `low..=high`.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("an index is below a length")
    }

    /// True in `per_mille` of a thousand draws.
    pub const fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < per_mille as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_purpose_draw_the_same_numbers_everywhere() {
        let mut rng = Rng::new(1, 2);
        let drawn: Vec<u64> = (0..3).map(|_| rng.below(1_000_000)).collect();
        assert_eq!(drawn, [13_707, 891_920, 820_514], "a change here changes every recorded seed");
    }

    #[test]
    fn neighbouring_seeds_and_purposes_draw_different_numbers() {
        let first = |seed, purpose| Rng::new(seed, purpose).next();
        assert_ne!(first(1, 1), first(2, 1));
        assert_ne!(first(1, 1), first(1, 2));
    }
}

//! How long a task takes from placement to RUNNING.

use lifeboat_core::time::Millis;

use crate::rng::Rng;

/// Quantiles in milliseconds at 0, 50, 95, 99 and 100 %; straight lines in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartTimes {
    quantiles: [u64; 5],
}

/// The ranks of the quantiles, in ten-thousandths.
const RANKS: [u64; 5] = [0, 5_000, 9_500, 9_900, 10_000];

impl StartTimes {
    /// Source B, three months of Fargate: P50 1.5 min, P95 2.0, P99 2.3. Assumed: 70 s at least, 150 s at most.
    pub const MEASURED: Self = Self { quantiles: [70_000, 90_000, 120_000, 138_000, 150_000] };

    /// Every start takes this long.
    #[must_use]
    pub const fn fixed(start: Millis) -> Self {
        Self { quantiles: [start.0; 5] }
    }

    /// The measured times stretched so that P95 is `p95`.
    #[must_use]
    pub fn stretched(p95: Millis) -> Self {
        let base = Self::MEASURED.quantiles;
        Self { quantiles: base.map(|ms| ms.saturating_mul(p95.0) / base[2]) }
    }

    /// One start.
    pub fn draw(&self, rng: &mut Rng) -> Millis {
        let rank = rng.below(10_000);
        let above = RANKS.iter().position(|bound| *bound > rank).unwrap_or(4).max(1);
        let (low, high) = (self.quantiles[above - 1], self.quantiles[above]);
        let (from, to) = (RANKS[above - 1], RANKS[above]);
        Millis(low + (high - low) * (rank - from) / (to - from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_starts_have_the_quantiles_they_are_drawn_from() {
        let mut rng = Rng::new(1, 1);
        let mut drawn: Vec<u64> = (0..20_000).map(|_| StartTimes::MEASURED.draw(&mut rng).0).collect();
        drawn.sort_unstable();
        for (rank, ms) in [(10_000, 90_000), (19_000, 120_000), (19_800, 138_000)] {
            assert!(drawn[rank].abs_diff(ms) < 2_000, "{} at {rank}, expected {ms}", drawn[rank]);
        }
    }
}

//! Means, percentiles, and random numbers that are the same in every run.

/// The arithmetic mean; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
    if count == 0 { 0.0 } else { values.iter().sum::<f64>() / f64::from(count) }
}

/// The smallest value that at least `percent` of all values do not exceed; 0 of nothing.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Half of the values are below it.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The smallest; 0 of nothing.
pub(crate) fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::min).unwrap_or_default()
}

/// The greatest; 0 of nothing.
pub(crate) fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::max).unwrap_or_default()
}

/// SplitMix64: a stream for each seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to and without 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        // 32 bits are finer than any clock here.
        let bits = u32::try_from(self.next() >> 32).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 50), percentile(&values, 99), percentile(&values, 100)),
            (50.0, 99.0, 100.0)
        );
        assert_eq!((median(&[3.0]), median(&[]), mean(&[])), (3.0, 0.0, 0.0));
        assert_eq!((smallest(&values), greatest(&values), mean(&values)), (1.0, 100.0, 50.5));
    }

    #[test]
    fn random_numbers_repeat_and_spread() {
        let stream = |seed| {
            let mut random = Random::new(seed);
            (0..1_000).map(|_| random.fraction()).collect::<Vec<f64>>()
        };
        assert_eq!(stream(1), stream(1));
        assert_ne!(stream(1), stream(2));
        assert!((mean(&stream(1)) - 0.5).abs() < 0.05);
        assert!(stream(3).iter().all(|value| (0.0..1.0).contains(value)));
    }
}

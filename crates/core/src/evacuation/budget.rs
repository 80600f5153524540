//! How the time that is really left is cut into budgets.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// What a stage can use: with less than `minimum` it is not worth starting, with `wanted` it normally ends,
/// more than `maximum` it never gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// With less than this the stage is skipped (draining: cut short).
    pub minimum: Millis,
    /// What it normally needs.
    pub wanted: Millis,
    /// The most it may take.
    pub maximum: Millis,
}

impl Budget {
    /// The smallest budget that contains both: what stages side by side need together.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self {
            minimum: self.minimum.max(other.minimum),
            wanted: self.wanted.max(other.wanted),
            maximum: self.maximum.max(other.maximum),
        }
    }

    /// Whether minimum ≤ wanted ≤ maximum.
    #[must_use]
    pub fn is_ordered(self) -> bool {
        self.minimum <= self.wanted && self.wanted <= self.maximum
    }
}

/// Cuts `left` into shares for steps that follow each other, in their order. `worth` ranks the steps: when
/// not even every minimum fits, the smallest rank is served first. Of what exceeds the minima each gets in
/// proportion to what it still wants, and of what exceeds that in proportion to its maximum.
/// The shares never add up to more than `left`, and none exceeds its maximum.
///
/// # Panics
/// When `steps` and `shares` differ in length.
pub fn allot(left: Millis, steps: &[(Budget, u8)], shares: &mut [Millis]) {
    assert_eq!(steps.len(), shares.len(), "one share a step");
    shares.fill(Millis::ZERO);
    let minima: Millis = steps.iter().map(|(budget, _)| budget.minimum).sum();
    if minima > left {
        return allot_by_worth(left, steps, shares);
    }
    for ((budget, _), share) in steps.iter().zip(shares.iter_mut()) {
        *share = budget.minimum;
    }
    raise(left.saturating_sub(minima), steps, shares, |budget| budget.wanted);
    let given: Millis = shares.iter().copied().sum();
    raise(left.saturating_sub(given), steps, shares, |budget| budget.maximum);
}

/// The most valuable steps get their minimum, as long as there is time.
fn allot_by_worth(mut left: Millis, steps: &[(Budget, u8)], shares: &mut [Millis]) {
    for rank in 0..=u8::MAX {
        for ((budget, worth), share) in steps.iter().zip(shares.iter_mut()) {
            if *worth == rank && budget.minimum <= left {
                *share = budget.minimum;
                left = left.saturating_sub(budget.minimum);
            }
        }
    }
}

/// Shares `spare` out in proportion to how far each step is from its `goal`.
fn raise(spare: Millis, steps: &[(Budget, u8)], shares: &mut [Millis], goal: impl Fn(&Budget) -> Millis) {
    let missing: u128 = steps
        .iter()
        .zip(shares.iter())
        .map(|((budget, _), share)| u128::from(goal(budget).saturating_sub(*share).0))
        .sum();
    if missing == 0 {
        return;
    }
    let given = missing.min(u128::from(spare.0));
    for ((budget, _), share) in steps.iter().zip(shares.iter_mut()) {
        let gap = u128::from(goal(budget).saturating_sub(*share).0);
        let extra = gap.checked_mul(given).map_or(0, |product| product / missing);
        *share = *share + Millis(u64::try_from(extra).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn budget(minimum: u64, wanted: u64, maximum: u64) -> Budget {
        Budget { minimum: Millis(minimum), wanted: Millis(wanted), maximum: Millis(maximum) }
    }

    fn shares(left: u64, steps: &[(Budget, u8)]) -> Vec<u64> {
        let mut shares = alloc::vec![Millis::ZERO; steps.len()];
        allot(Millis(left), steps, &mut shares);
        shares.into_iter().map(|share| share.0).collect()
    }

    #[test]
    fn plenty_scarcity_and_need() {
        let steps = [(budget(1, 20, 40), 3), (budget(5, 60, 1_000), 1), (budget(1, 5, 10), 2)];
        assert_eq!(shares(10_000, &steps), [40, 1_000, 10], "every maximum");
        assert_eq!(shares(85, &steps), [20, 60, 5], "exactly what is wanted");
        assert_eq!(shares(7, &steps), [1, 5, 1], "exactly the minima");
        assert_eq!(shares(6, &steps), [0, 5, 1], "the least valuable goes without");
        assert_eq!(shares(5, &steps), [0, 5, 0]);
        assert_eq!(shares(3, &steps), [1, 0, 1], "what fits, by worth");
        assert_eq!(shares(0, &steps), [0, 0, 0]);
    }

    proptest! {
        #[test]
        fn never_more_than_there_is_nor_than_the_maximum(
            left in 0u64..200_000,
            steps in prop::collection::vec((0u64..50_000, 0u64..50_000, 0u64..u64::MAX / 4, 0u8..9), 0..9),
        ) {
            let steps: Vec<(Budget, u8)> = steps
                .into_iter()
                .map(|(a, b, c, worth)| (budget(a, a + b, (a + b).saturating_add(c)), worth))
                .collect();
            let shares = shares(left, &steps);
            prop_assert!(shares.iter().map(|s| u128::from(*s)).sum::<u128>() <= u128::from(left));
            for (share, (budget, _)) in shares.iter().zip(&steps) {
                prop_assert!(*share <= budget.maximum.0);
                prop_assert!(*share == 0 || *share >= budget.minimum.0);
            }
        }
    }
}

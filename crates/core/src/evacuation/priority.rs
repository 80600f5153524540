//! Which file goes first when not all may fit: the most value a byte.

use core::cmp::Ordering;

/// Orders two files by priority / (size + 1), the greater first, exactly: by cross-multiplication in
/// integers. Equal ratios compare equal, so a stable sort keeps the caller's order.
///
/// Source: the score of source A's evacuation queue; it is also the greedy order that is optimal for a
/// fractional knapsack (Dantzig 1957).
#[must_use]
pub fn compare((priority_a, size_a): (u32, u64), (priority_b, size_b): (u32, u64)) -> Ordering {
    let score_a = u128::from(priority_a) * (u128::from(size_b) + 1);
    let score_b = u128::from(priority_b) * (u128::from(size_a) + 1);
    score_b.cmp(&score_a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_important_first() {
        assert_eq!(compare((1, 10), (1, 1_000)), Ordering::Less);
        assert_eq!(compare((1_000, 10_000), (1, 1_000)), Ordering::Less);
        assert_eq!(compare((0, 0), (1, u64::MAX)), Ordering::Greater, "no priority comes last");
        assert_eq!(compare((7, 6), (7, 6)), Ordering::Equal);
        assert_eq!(compare((u32::MAX, u64::MAX), (u32::MAX, u64::MAX)), Ordering::Equal, "no overflow");
    }
}

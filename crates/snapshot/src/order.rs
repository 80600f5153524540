//! Which files are saved first when the time may not be enough for all.

use std::cmp::Ordering;

/// Compares two files by `priority / (size + 1)`, highest first: small and important before large and unimportant.
///
/// Exact in integers: the fractions are compared by cross-multiplication, which cannot overflow 128 bits.
pub(crate) fn by_value(a: (u32, u64), b: (u32, u64)) -> Ordering {
    let scaled = |priority: u32, other_size: u64| u128::from(priority) * (u128::from(other_size) + 1);
    scaled(b.0, a.1).cmp(&scaled(a.0, b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_important_come_first() {
        let mut files = [(1, 0), (100, 1_000_000), (100, 99), (5, 9), (u32::MAX, u64::MAX), (0, 0)];
        files.sort_by(|a, b| by_value(*a, *b));
        assert_eq!(files, [(1, 0), (100, 99), (5, 9), (100, 1_000_000), (u32::MAX, u64::MAX), (0, 0)]);
    }

    #[test]
    fn equal_fractions_are_equal() {
        assert_eq!(by_value((1, 9), (2, 19)), Ordering::Equal);
    }
}

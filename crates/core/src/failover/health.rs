//! The health score that dashboards and alarms show. Nothing is decided on it.

use super::view::{Counts, WindowCounts};

/// `100 − 10·errors − 5·pending + 2·successes`, kept within 0…100, over the sliding window (source B).
#[must_use]
pub const fn score(window: WindowCounts, spot: Counts) -> u8 {
    let lost = 10 * window.errors() as i64 + 5 * spot.starting as i64;
    let score = 100 - lost + 2 * window.successes as i64;
    if score < 0 {
        0
    } else if score > 100 {
        100
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0…100 by the arms above"
        )]
        {
            score as u8
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_follows_source_b_and_stays_within_its_range() {
        let of = |capacity_errors, interruptions, successes, starting| {
            score(
                WindowCounts { capacity_errors, interruptions, successes },
                Counts { starting, ..Counts::default() },
            )
        };
        assert_eq!(of(0, 0, 0, 0), 100);
        assert_eq!(of(2, 1, 0, 0), 70);
        assert_eq!(of(2, 1, 5, 2), 70);
        assert_eq!(of(0, 0, 50, 0), 100);
        assert_eq!(of(9, 9, 0, 9), 0);
    }
}

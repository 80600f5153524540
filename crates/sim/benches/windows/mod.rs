//! Paired windows: the same 24 hours for every policy, each begun anew, and who was cheaper.

use std::collections::BTreeMap;

use lifeboat_core::failover::state::Rules;
use lifeboat_core::failover::zones::{Memory, Placement};
use lifeboat_core::time::Millis;
use lifeboat_sim::tally::Tally;
use lifeboat_sim::trace::Trace;
use lifeboat_sim::{policies, zones};

use crate::{RATIO, run};

/// How much less available a policy may be and still count as equally available.
const TOLERANCE: f64 = 0.0005;

/// Seconds between requests to a zone, for shortfall against itself: what luck alone decides. With 29 s, a round takes
/// 39 s with its answer, and five of them are the 195 s at which aws3 was recorded.
pub(crate) const RETRIES: [u64; 4] = [29, 31, 33, 35];

/// What shortfall with another retry is called.
pub(crate) fn itself(retry: u64) -> String {
    format!("shortfall, asking every {retry} s")
}

/// How windows ended for shortfall against one other policy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    /// At least as cheap.
    pub(crate) won: u32,
    /// Dearer.
    pub(crate) lost: u32,
    /// The other was less available.
    pub(crate) unequal: u32,
    /// The greatest loss, in points of the cost of all On-Demand.
    worst: f64,
}

/// All traces together.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    counts: BTreeMap<String, Count>,
}

impl Pool {
    /// Adds what one trace came to, and gives it back.
    pub(crate) fn add(&mut self, name: &str, count: Count) -> Count {
        let sum = self.counts.entry(name.to_owned()).or_default();
        sum.won += count.won;
        sum.lost += count.lost;
        sum.unequal += count.unequal;
        sum.worst = sum.worst.max(count.worst);
        count
    }

    #[expect(clippy::print_stdout, reason = "a command line's output")]
    pub(crate) fn print(&self) {
        println!(
            "\n## all paired 24 h windows: won, lost, not as available, share won, greatest loss in points"
        );
        for (name, Count { won, lost, unequal, worst }) in &self.counts {
            let share = f64::from(*won) / f64::from((won + lost).max(1)) * 100.0;
            println!("{name:32} {won:>4} {lost:>4} {unequal:>4} {share:>6.1} % {worst:>7.3}");
        }
    }
}

/// The days of one trace.
pub(crate) struct Windows {
    target: u32,
    days: Vec<Trace>,
    ours: Vec<(f64, f64)>,
}

impl Windows {
    pub(crate) fn new(trace: &Trace, target: u32) -> Self {
        let ticks = usize::try_from(86_400_000 / trace.gap.0).unwrap_or(1);
        let days: Vec<Trace> = (0..trace.ticks() / ticks)
            .filter_map(|day| trace.cut(day * ticks, (day + 1) * ticks).ok())
            .collect();
        let mut windows = Self { target, days, ours: Vec::new() };
        windows.ours = windows.figures(|day| run(day, "shortfall", target, 1));
        windows
    }

    /// Cost as a share of all On-Demand, and time ready, of each day.
    fn figures(&self, run: impl Fn(&Trace) -> Tally) -> Vec<(f64, f64)> {
        let one = |day| {
            let tally = run(day);
            (tally.cost(RATIO) / tally.wanted_ms as f64, tally.whole.0 as f64 / tally.span.0 as f64)
        };
        self.days.iter().map(one).collect()
    }

    /// Against another policy.
    pub(crate) fn against(&self, name: &str) -> Count {
        self.count(&self.figures(|day| run(day, name, self.target, 1)))
    }

    /// Against shortfall with another retry.
    pub(crate) fn against_itself(&self, retry: u64) -> Count {
        let retry = Millis::from_secs(retry);
        let memory = Memory { canary_first: retry, canary_longest: retry, full: retry };
        let rules = Rules::new(policies::parse("shortfall").expect("it is known").policy);
        let run = |day: &Trace| {
            zones::run(day, &zones::Config::new(self.target, rules, Placement::Memory(memory), 1)).0
        };
        self.count(&self.figures(run))
    }

    fn count(&self, theirs: &[(f64, f64)]) -> Count {
        let mut count = Count::default();
        for ((cost, ready), (our_cost, our_ready)) in theirs.iter().zip(&self.ours) {
            if ready + TOLERANCE < *our_ready {
                count.unequal += 1;
            } else if our_cost <= cost {
                count.won += 1;
            } else {
                count.lost += 1;
                count.worst = count.worst.max((our_cost - cost) * 100.0);
            }
        }
        count
    }
}

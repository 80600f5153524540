//! One condition at a time away from the usual ones: how far shortfall's numbers carry.

use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::Millis;
use lifeboat_sim::tally::Prices;
use lifeboat_sim::trace::Trace;
use lifeboat_sim::{bound, policies, zones};

#[derive(Clone, Copy)]
struct Condition {
    label: &'static str,
    target: u32,
    ratio: u32,
    start_s: u64,
    notice_s: u64,
    announced: u32,
}

/// Prints shortfall, and SpotHedge with one spare made to heed notices, under every condition.
#[expect(clippy::print_stdout, reason = "a command line's output")]
pub(crate) fn print(trace: &Trace, target: u32) {
    let usual =
        Condition { label: "as above", target, ratio: 300, start_s: 120, notice_s: 120, announced: 1000 };
    let mut conditions = vec![usual];
    conditions.extend([3, 4, 10, 16, 32].map(|target| Condition { label: "N", target, ..usual }));
    conditions.extend([330, 440].map(|ratio| Condition { label: "price ratio", ratio, ..usual }));
    conditions.extend([30, 60, 183, 300].map(|start_s| Condition { label: "start", start_s, ..usual }));
    conditions.extend([0, 30].map(|notice_s| Condition { label: "notice", notice_s, ..usual }));
    conditions.extend([990, 900, 500, 0].map(|announced| Condition {
        label: "announced",
        announced,
        ..usual
    }));
    println!(
        "sweep: condition, N, ratio, start s, notice s, announced; cost, x bound, ready of shortfall; of SpotHedge 1 heeding notices"
    );
    for condition in conditions {
        let rows = ["shortfall", "spothedge-notices:1"].map(|name| row(trace, &condition, name));
        let Condition { label, target, ratio, start_s, notice_s, announced } = condition;
        println!(
            "{label:12} {target:>3} {ratio:>4} {start_s:>4} {notice_s:>4} {announced:>5}  {}   {}",
            rows[0], rows[1]
        );
    }
}

fn row(trace: &Trace, condition: &Condition, name: &str) -> String {
    let named = policies::parse(name).expect("both names are known");
    let mut config = zones::Config::new(condition.target, Rules::new(named.policy), named.placement, 1);
    let start = Millis::from_secs(condition.start_s);
    config.on_demand_start = start;
    config.spot_start = start.saturating_sub(config.answer);
    config.notice = Millis::from_secs(condition.notice_s);
    config.announced = condition.announced;
    let prices = Prices::Ratio(condition.ratio);
    let figures =
        zones::run(trace, &config).0.figures(name, 1, prices, bound::cost(trace, condition.target, prices));
    format!(
        "{:>6.2} {:>6.3} {:>8.3}",
        figures.cost_vs_on_demand * 100.0,
        figures.cost_vs_bound,
        figures.ready_fraction * 100.0
    )
}

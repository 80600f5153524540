//! What looking less often costs where no event arrives at all: the reason for the default of `Rules::look_every`.

use lifeboat_core::failover::policy::{Policy, Shortfall};
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::Millis;
use lifeboat_sim::ecs::{Config, run};
use lifeboat_sim::model::Model;
use lifeboat_sim::tally::Prices;

/// Ready task-time that is missing, in parts of 1e9 of what is wanted, over four weeks of source B's world.
fn missing(look_every: Millis) -> f64 {
    let model = Model { days: 28, ..Model::default() };
    let shares = (1..=3).map(|seed| {
        let trace = model.trace("source b", seed).expect("a model");
        let rules = Rules { look_every, ..Rules::new(Policy::Shortfall(Shortfall::default())) };
        let mut config = Config::new(model.tasks, rules, seed);
        config.faults.lost = 1_000;
        let figures = run(&trace, &config).tally.figures("looks", seed, Prices::Ratio(440), 1.0);
        (1.0 - figures.capacity_weighted) * 1e9
    });
    shares.sum::<f64>() / 3.0
}

#[test]
fn looking_every_half_minute_keeps_more_ready_than_every_minute_where_all_events_are_lost() {
    let [half, whole] = [30, 60].map(|seconds| missing(Millis::from_secs(seconds)));
    assert!(half * 1.5 < whole, "{half} and {whole}");
}

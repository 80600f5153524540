//! What is read, what is refused and by which key.

use lifeboat_core::failover::policy::{Policy, Shortfall};

use super::*;

fn settings(text: &str) -> Result<Settings, String> {
    let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
    config.settings().map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_default() {
    let settings = settings("").expect("valid");
    assert_eq!(settings.clusters, ["default"]);
    assert_eq!(settings.terms.rules, Rules::new(Policy::Shortfall(Shortfall::default())));
    assert_eq!(settings.terms.target, Target::FollowSpot);
}

#[test]
fn services_are_listed_with_terms_of_their_own() {
    let text = r#"
        clusters = ["prod"]
        [policy]
        name = "switch"
        stable = "5m"
        [[service]]
        name = "orders"
        target = 10
        policy = { spares = 2 }
    "#;
    let settings = settings(text).expect("valid");
    let [orders] = settings.services.as_slice() else { panic!("one") };
    assert_eq!((orders.spot.as_str(), orders.on_demand.as_str()), ("orders-spot", "orders-standard"));
    assert_eq!(orders.terms.target, Target::Fixed(10));
    assert_eq!(orders.terms.rules.policy, Policy::Shortfall(Shortfall { spares: 2 }));
    let Policy::Switch(switch) = settings.terms.rules.policy else { panic!("switch") };
    assert_eq!(switch.stable, Millis::from_secs(300));
}

#[test]
fn what_makes_no_sense_is_named_with_its_key() {
    for (text, said) in [
        ("cluster = 'x'", "unknown field"),
        ("[policy]\nprobes = 1", "policy.probes"),
        ("[policy]\nname = 'switch'\nprobes = 0", "policy.probes"),
        ("[policy]\nname = 'switch'\nfloor_percent = 0", "policy.floor_percent"),
        ("[policy]\nname = 'switch'\ninterruptions = 65", "policy.interruptions"),
        ("[policy]\nname = 'switch'\ncapacity_errors = 4294967295", "policy.capacity_errors"),
        ("[policy]\nshift_max = '0s'", "policy.shift_max"),
        ("[policy]\nwindow = '5'", "no duration"),
        ("[policy]\nlook_every = '5s'", "policy.look_every"),
        ("[policy]\nlook_every = '3m'", "policy.look_every"),
        ("[services]\nspot = 'x'", "services.spot"),
        ("[services]\nby = 'listed'", "services.by"),
        ("[store]\nsqlite = 'a'\ndynamodb = 'b'", "store"),
        ("[metrics]\nprometheus = '0.0.0.0:9465'", "metrics.prometheus"),
        ("[queue]\nurl = 'q'\nvisibility = '1s'", "queue.visibility"),
        ("[clock]\nscale = 0\norigin = '2026-03-02T09:15:04Z'", "clock.scale"),
        ("[clock]\nscale = 2\norigin = 'now'", "clock.origin"),
        ("clusters = ['a', 'b']\n[[service]]\nname = 'x'", "needs a `cluster`"),
        ("[prices]\non_demand_task_hour = 0.1\nspot_task_hour = 0.2", "prices"),
    ] {
        let error = settings(text).expect_err(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

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
        ("[policy]\nwindow = '5'", "no duration"),
        ("[policy]\nlook_every = '5s'", "policy.look_every"),
        ("[policy]\nlook_every = '3m'", "policy.look_every"),
        ("[services]\nspot = 'x'", "services.spot"),
        ("[services]\nby = 'listed'", "services.by"),
        ("[store]\nsqlite = 'a'\ndynamodb = 'b'", "store"),
        ("[metrics]\nprometheus = '0.0.0.0:9465'", "metrics.prometheus"),
        ("[queue]\nurl = 'q'\nvisibility = '1s'", "queue.visibility"),
        ("[queue]\nurl = 'arn:aws:sqs:eu-west-1:1:q'", "queue.url"),
        ("[queue]\nurl = 'https://q'\ndead_letters = 'https://q'", "queue.dead_letters"),
        ("clusters = ['a', 'arn:aws:ecs:eu-west-1:1:cluster/a']", "clusters"),
        ("clusters = ['']", "clusters"),
        ("endpoint = 'localhost'", "endpoint"),
        ("[[service]]\nname = 'a'\nspot = 'x'\non_demand = 'x'", "cannot be both"),
        ("[[service]]\nname = 'a'\ntarget = 4000000000", "target must be at most"),
        ("[policy]\nspares = 4000000000", "policy.spares"),
        ("[policy]\nshift_max = '0s'", "policy.shift_max"),
        ("[policy]\nwindow = '0s'", "policy.window"),
        ("[services]\nevery = '0s'", "services.every"),
        ("[metrics]\nevery = '0s'", "metrics.every"),
        ("[store]\nhistory = '0s'", "store.history"),
        ("[machines]\ncommand = ' '", "machines.command"),
        ("[clock]\nscale = 0\norigin = '2026-03-02T09:15:04Z'", "clock.scale"),
        ("[clock]\nscale = 2\norigin = 'now'", "clock.origin"),
        ("clusters = ['a', 'b']\n[[service]]\nname = 'x'", "needs a `cluster`"),
        ("[prices]\non_demand_task_hour = 0.1\nspot_task_hour = 0.2", "prices"),
    ] {
        let error = settings(text).expect_err(text);
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn a_cluster_may_be_given_by_its_arn_and_is_named_as_events_name_it() {
    let arn = "arn:aws:ecs:eu-west-1:123456789012:cluster/prod";
    let text = format!("clusters = ['{arn}']\n[[service]]\nname = 'x'\ncluster = '{arn}'");
    let settings = settings(&text).expect("valid");
    assert_eq!(settings.clusters, ["prod"]);
    assert_eq!(settings.services[0].cluster, "prod");
}

#[test]
fn what_does_not_end_is_no_configuration() {
    let error = Config::read(Path::new("/dev/zero")).expect_err("too large");
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
}

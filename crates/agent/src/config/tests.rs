//! What is refused, and by which name; what is the default.

use std::num::NonZeroU64;

use lifeboat_core::evacuation::stage::Stage;
use lifeboat_core::time::Millis;
use lifeboat_snapshot::save::Pace;

use super::*;

fn parse(text: &str) -> Result<Settings, String> {
    let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
    config.settings().map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_the_default() {
    let settings = parse("").expect("valid");
    assert_eq!(settings.interval, Millis(2_000));
    assert_eq!(settings.grace, Millis(30_000));
    assert!(!settings.plan.clean_up, "nothing of the user's is deleted by default");
}

#[test]
fn unknown_keys_are_errors_that_name_the_key() {
    for text in ["clean_upp = true", "[evacuation]\ngrase = \"5s\"", "[command]\nx = 1"] {
        let error = parse(text).expect_err("refused");
        assert!(error.contains("unknown field"), "{error}");
    }
}

#[test]
fn senseless_values_are_named() {
    for (text, key) in [
        ("[metadata]\ninterval = \"10ms\"", "metadata.interval"),
        ("[metadata]\ninterval = \"5m\"", "metadata.interval"),
        ("lease = \"1s\"", "lease"),
        ("lease = \"61m\"", "lease"),
        ("instance_id = \"\"", "instance_id"),
        ("instance_id = \"a\\nb\"", "instance_id"),
        ("[queue]\nurl = \"nonsense\"", "queue.url"),
        ("[queue]\nurl = \"file://relative\"", "queue.url"),
        ("[aws]\nendpoint = \"localhost:4566\"", "aws.endpoint"),
        ("[alerts]\nwebhook_env = \"https://hooks\"", "alerts.webhook_env"),
        ("[alerts.critical]\nwebhook_env = \"\"", "alerts.critical.webhook_env"),
        ("[metrics]\nprometheus = \"localhost:9464\"", "127.0.0.1:9464"),
        ("keep = 0", "keep"),
        ("state_file = \"../x\"", "state_file"),
        ("state_file = \"/x\"", "state_file"),
        ("signal_file = \"x\"", "signal_file"),
        ("exclude = [\"a[\"]", "exclude"),
        ("[evacuation]\ngrace = \"0s\"", "evacuation.grace"),
        ("[evacuation]\nstale = \"1999ms\"", "evacuation.stale"),
        ("[evacuation]\nstale = \"0s\"", "at least 2s"),
        ("application = \"a/b\"", "application"),
        ("[queue]\nreceipts_file = \"../x\"", "queue.receipts_file"),
        ("[queue]\non_interrupt = { extend = \"13h\" }", "queue.on_interrupt"),
        ("[queue]\non_interrupt = \"drop\"", "on_interrupt"),
        ("[evacuation.drain]\nminimum = \"9s\"\nmaximum = \"3s\"", "evacuation.drain"),
        ("[evacuation]\ngrace = \"5 parsecs\"", "duration"),
        ("[evacuation]\ngrace = \"-5s\"", "negative"),
        ("[evacuation]\ngrace = 5", "with its unit"),
        ("[command]\nstop_signal = \"SIGKILL\"", "SIGKILL"),
        ("[protect]\nunit = \"a b\"", "protect.unit"),
        ("[protect]\nunit = \"-x\"", "protect.unit"),
        ("[protect]\npid_file = \"x.pid\"", "protect.pid_file"),
        ("[protect]\nunit = \"x\"\npid_file = \"/x.pid\"", "one of them"),
        ("[protect]\npid_file = \"/x.pid\"\nstart = true", "protect.start"),
        ("[protect]\non_sigterm = \"die\"", "on_sigterm"),
        ("[load_balancer]\ntarget_groups = [\"web\"]", "load_balancer.target_groups"),
        ("[load_balancer]\ntarget = \"i-1\"", "load_balancer.target"),
        ("[log_agent]\nunit = \"a b\"", "log_agent.unit"),
        ("[log_agent]\ncommand = []", "log_agent.command"),
        ("[log_agent]\nunit = \"x\"\ncommand = [\"x\"]", "one of them"),
        ("precopy = \"10ms\"", "precopy"),
        ("precopy_rate = \"0MiB/s\"", "no rate"),
        ("precopy_rate = \"32MiB\"", "32MiB/s"),
        ("precopy_rate = \"1B/s\"", "precopy_rate"),
        ("precopy_concurrency = 9", "precopy_concurrency"),
        ("precopy_concurrency = 0", "precopy_concurrency"),
        ("[before_snapshot]\ncommand = []", "before_snapshot.command"),
        ("[after_snapshot]\ncommand = [\"x\"]\ntimeout = \"0s\"", "after_snapshot.timeout"),
        ("[after_snapshot]\ncommand = [\"x\"]\ntimeout = \"11m\"", "after_snapshot.timeout"),
        ("[after_snapshot]\ntimeout = \"1s\"", "command"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn the_pace_of_copying_is_configurable() {
    let pace = |text| parse(text).expect("valid").pace;
    assert_eq!(pace(""), Pace::BACKGROUND);
    let chosen = pace("precopy_rate = \"2MB/s\"\nprecopy_concurrency = 5");
    assert_eq!((chosen.concurrency, chosen.bytes_per_second), (5, NonZeroU64::new(2_000_000)));
    assert!(chosen.is_nice);
    for (text, bytes) in [("32MiB/s", 32 << 20), ("1 GiB/s", 1 << 30), ("70kB/s", 70_000), ("9B/s", 9)] {
        let rate: Rate = text.parse().expect(text);
        assert_eq!(rate.0.get(), bytes, "{text}");
    }
}

#[test]
fn one_chosen_budget_moves_the_defaults_along() {
    let settings = parse("[evacuation.drain]\nmaximum = \"3s\"").expect("valid");
    let drain = settings.plan.budget(Stage::Drain);
    assert_eq!((drain.wanted, drain.maximum), (Millis(3_000), Millis(3_000)));
    let settings = parse("[evacuation.drain]\nwanted = \"90s\"").expect("valid");
    assert_eq!(settings.plan.budget(Stage::Drain).maximum, Millis(90_000));
}

#[test]
fn a_unit_is_named_as_systemctl_names_it() {
    let unit = |name: &str| parse(&format!("[protect]\nunit = {name:?}")).expect("valid").protect.what;
    for (written, meant) in [
        ("worker", "worker.service"),
        ("worker.service", "worker.service"),
        ("worker@1.2", "worker@1.2.service"),
        ("system-worker.slice", "system-worker.slice"),
    ] {
        assert_eq!(unit(written), Protected::Unit(meant.to_owned()));
    }
    assert_eq!(parse("").expect("valid").protect.what, Protected::Directories);
}

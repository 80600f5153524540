//! What `lifeboat simulate` prints, writes and refuses.

use lifeboat_core::time::Millis;
use lifeboat_sim::model::Model;
use lifeboat_sim::scenario::{Run, Scenario, Span};
use lifeboat_sim::{html, report, simulate};

/// Two zones that fail in turn for an hour and a half.
const TRACE: &str = "t_s,zone,available\n";

fn csv_trace() -> String {
    let mut text = TRACE.to_owned();
    for minute in 0..90_u32 {
        let first = if (20..40).contains(&minute) { 0 } else { 4 };
        let second = if (35..60).contains(&minute) { 1 } else { 4 };
        text.push_str(&format!("{0},a,{first}\n{0},b,{second}\n", minute * 60));
    }
    text
}

fn scenario(dir: &tempfile::TempDir) -> Scenario {
    let path = dir.path().join("trace.csv");
    std::fs::write(&path, csv_trace()).expect("the test may write");
    let policies = ["shortfall", "switch", "all-on-demand"].map(|name| Run::of(name.to_owned())).to_vec();
    Scenario { trace: Some(path), policies, seeds: 2, ..Scenario::default() }
}

#[test]
fn json_has_the_documented_fields_for_every_policy_and_seed() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let results = simulate::run(&scenario(&dir), false).expect("a good scenario");
    let json: serde_json::Value =
        serde_json::from_str(&report::json(&results).expect("it is JSON")).expect("it is JSON");
    let rows = json.as_array().expect("an array");
    assert_eq!(rows.len(), 6);
    for row in rows {
        for field in [
            "policy",
            "cost_vs_on_demand",
            "cost_vs_bound",
            "ready_fraction",
            "capacity_weighted",
            "outages_per_week",
            "worst_outage_s",
            "requests_per_day",
            "mode_changes",
            "seed",
        ] {
            assert!(!row[field].is_null(), "{field} is missing in {row}");
        }
        assert!(row["cost_vs_bound"].as_f64() >= Some(1.0), "cheaper than the bound: {row}");
    }
    assert_eq!(rows[0]["ready_fraction"], 1.0, "shortfall misses nothing that is announced");
}

#[test]
fn nothing_that_is_always_ready_is_cheaper_than_the_bound() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    for notice in [0, 30, 120, 600] {
        for announced in [0.0, 0.5, 1.0] {
            let mut scenario = scenario(&dir);
            scenario.notice = Span(Millis::from_secs(notice));
            scenario.announced = announced;
            scenario
                .policies
                .extend(["spothedge-notices:1", "fixed-base:1"].map(|name| Run::of(name.to_owned())));
            for run in simulate::run(&scenario, false).expect("a good scenario").results {
                let figures = run.figures;
                assert!(
                    figures.ready_fraction < 1.0 || figures.cost_vs_bound >= 1.0,
                    "notice {notice}: {figures:?}"
                );
                let is_unwarned = notice == 0 || announced == 0.0;
                let is_spot = figures.policy != "all-on-demand";
                assert!(
                    !(is_unwarned && is_spot && figures.ready_fraction == 1.0),
                    "nobody died: {figures:?}"
                );
            }
        }
    }
}

#[test]
fn the_same_scenario_gives_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let run = || {
        let results = simulate::run(&scenario(&dir), true).expect("a good scenario");
        (report::csv(&results), report::explain(&results), html::page(&results))
    };
    assert_eq!(run(), run());
}

#[test]
fn explain_gives_every_turn_its_reason() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let results = simulate::run(&scenario(&dir), true).expect("a good scenario");
    let text = report::explain(&results);
    assert!(text.contains("of 4 spot tasks stay ready"), "{text}");
    assert!(text.contains("asks for"), "{text}");
}

#[test]
fn the_report_is_one_page_that_needs_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let page = html::page(&simulate::run(&scenario(&dir), true).expect("a good scenario"));
    assert_eq!(page.matches("<svg").count(), 3);
    for outside in ["http:", "https:", "<script", "src=", "@import"] {
        assert!(!page.contains(outside), "the page asks for {outside}");
    }
}

#[test]
fn bad_scenarios_say_what_to_change() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let good = scenario(&dir);
    let chain = |scenario: Scenario| {
        let error = simulate::run(&scenario, false).expect_err("the scenario is bad");
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        text
    };
    let one = |policy: &str| vec![Run::of(policy.to_owned())];
    assert_eq!(chain(Scenario { replicas: 0, ..good.clone() }), "replicas must be 1 to 5000, it is 0");
    assert_eq!(chain(Scenario { announced: 1.5, ..good.clone() }), "announced must be 0 to 1, it is 1.5");
    assert_eq!(
        chain(Scenario { spot_price_ratio: f64::NAN, ..good.clone() }),
        "spot_price_ratio must be 0.001 to 1, it is NaN"
    );
    let neither = chain(Scenario { trace: None, ..good.clone() });
    assert!(neither.starts_with("a scenario needs either a trace (--trace,"), "{neither}");
    assert!(
        chain(Scenario { policies: one("x"), ..good.clone() })
            .starts_with("a policy is not known: no policy \"x\"")
    );
    assert_eq!(
        chain(Scenario { zones: vec!["c".to_owned()], ..good.clone() }),
        "the trace cannot be used: no zone c in the trace; it has a, b"
    );
    let missing = chain(Scenario { trace: Some("nowhere.csv".into()), ..good.clone() });
    assert!(missing.starts_with("the trace cannot be used: cannot read trace nowhere.csv: "), "{missing}");
    assert!(chain(Scenario { on_demand_price: Some(3.0), ..good }).contains("no prices"));
}

/// Each of these once hung, panicked, or gave figures that were none.
#[test]
fn numbers_beyond_all_reason_are_refused_at_once() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let good = scenario(&dir);
    let refused = |scenario: Scenario| scenario.check().expect_err("the scenario is bad").to_string();
    let far = Span(Millis(u64::MAX));
    let error = refused(Scenario { seed: u64::MAX, ..good.clone() });
    assert_eq!(error, "seed must be so small that all seeds have 64 bits, it is 18446744073709551615");
    for (name, scenario) in [
        ("notice", Scenario { notice: far, ..good.clone() }),
        ("stop_timeout", Scenario { stop_timeout: far, ..good.clone() }),
        ("spot_start", Scenario { spot_start: Some(far), ..good.clone() }),
        ("on_demand_start", Scenario { on_demand_start: Some(far), ..good.clone() }),
    ] {
        let error = refused(scenario);
        assert!(error.starts_with(&format!("{name} must be at most 1d")), "{error}");
    }
    let ratio = refused(Scenario { spot_price_ratio: 0.0004, ..good.clone() });
    assert_eq!(ratio, "spot_price_ratio must be 0.001 to 1, it is 0.0004", "it would count as nothing");
    let price = refused(Scenario { on_demand_price: Some(1e-9), ..good.clone() });
    assert_eq!(price, "on_demand_price must be a price in dollars an hour, it is 0.000000001");
    for name in ["shortfall:4294967295", "spothedge:5001", "fixed-base:5001"] {
        let policies = vec![Run::of(name.to_owned())];
        let error = refused(Scenario { policies, ..good.clone() });
        assert_eq!(error, format!("a policy's number of tasks must be at most 5000, it is {name}"));
    }
    let modelled = |model: Model| refused(Scenario { trace: None, model: Some(model), ..good.clone() });
    let most = u32::MAX;
    for (name, model) in [
        ("days", Model { days: most, ..Model::default() }),
        ("days", Model { days: 0, ..Model::default() }),
        ("zones", Model { zones: most, ..Model::default() }),
        ("tasks", Model { tasks: most, ..Model::default() }),
        ("shortages_per_10_weeks", Model { shortages_per_10_weeks: most, ..Model::default() }),
        ("shortage_minutes_min", Model { shortage_minutes_min: 91, ..Model::default() }),
        ("shortage_minutes_max", Model { shortage_minutes_max: most, ..Model::default() }),
        ("interruptions_per_10_days", Model { interruptions_per_10_days: most, ..Model::default() }),
    ] {
        let error = modelled(model);
        assert!(error.starts_with(&format!("model.{name} must be ")), "{error}");
    }
}

/// The table has one line per name: two runs of one name were both shown with the mean of both.
#[test]
fn runs_that_could_not_be_told_apart_are_refused() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let mut scenario = scenario(&dir);
    let twice = Run { stop_timeout: Some(Span(Millis::from_secs(30))), ..Run::of("switch".to_owned()) };
    scenario.policies.push(twice.clone());
    let error = scenario.check().expect_err("switch stands twice").to_string();
    assert_eq!(error, "two policies are called \"switch\": leave one out, or give it a label");
    scenario.policies.pop();
    scenario.policies.push(Run { label: Some("switch, 30 s".to_owned()), ..twice });
    let results = simulate::run(&scenario, false).expect("a good scenario");
    assert_eq!(report::means(&results).len(), 4);
}

/// `--trace <(zcat trace.gz)`: it was read once per policy and seed, and empty from the second time on.
#[cfg(target_os = "linux")]
#[test]
fn a_trace_may_come_from_a_pipe() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let text = r#"{"gap_seconds":60,"zones":[{"zone":"a","data":[4,4,2,2,4,4]}]}"#;
    writer.write_all(text.as_bytes()).expect("it fits into the pipe");
    drop(writer);
    let trace = Some(format!("/proc/self/fd/{}", reader.as_raw_fd()).into());
    let scenario = Scenario { trace, seeds: 3, ..Scenario::default() };
    let results = simulate::run(&scenario, false).expect("a good trace");
    assert_eq!(results.results.len(), 3 * scenario.policies.len());
}

#[test]
fn the_report_does_not_draw_a_cost_that_it_does_not_know() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let path = dir.path().join("priced.json");
    let text = r#"{"gap_seconds":600,"zones":[{"zone":"a","data":[4,4,0,4],"prices":[0.5,0.6,0.5,0.5]}]}"#;
    std::fs::write(&path, text).expect("the test may write");
    let recorded = Scenario { trace: Some(path), on_demand_price: Some(2.0), ..Scenario::default() };
    let page = |scenario: &Scenario| html::page(&simulate::run(scenario, true).expect("a good scenario"));
    assert!(page(&recorded).contains("Spot at the recorded prices, On-Demand at $2 an hour"));
    assert!(!page(&recorded).contains("cost so far"));
    let assumed = page(&Scenario { on_demand_price: None, announced: 0.999, ..recorded });
    assert!(assumed.contains("99.9 % of the reclaims announced"), "not 100 %");
    assert!(assumed.contains("Spot at 30 % of the On-Demand price") && assumed.contains("cost so far"));
}

#[test]
fn scenario_files_refuse_unknown_keys_and_durations_without_unit() {
    let read = |text: &str| toml::from_str::<Scenario>(text).expect_err("the file is bad").to_string();
    assert!(read("replica = 3").contains("unknown field `replica`"));
    assert!(read("notice = \"120\"").contains("\"120\" is no duration: \"500ms\""));
    for policies in ["[3]", "[{ policy = \"switch\", stop = \"3s\" }]"] {
        assert!(
            read(&format!("policies = {policies}"))
                .contains("a policy is its name, or a table with `policy`")
        );
    }
    assert!(read("world = \"moon\"").contains("unknown variant `moon`"));
}

//! `lifeboat demo fleet`: over to On-Demand and back, and the metrics that the alarms watch.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn demo(args: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(["demo", "fleet", "--json"]).args(args).stdin(Stdio::null());
    let done = command.output().expect("it starts");
    let found = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&done.stderr)));
    (done.status.code(), found)
}

#[test]
fn a_fleet_fails_over_and_back_and_publishes_what_the_alarms_see() {
    // Slower than on a laptop, so that a busy machine keeps up with the world.
    let (code, found) = demo(&["--speed", "30"]);
    assert_eq!(
        (code, &found["took_over"], &found["came_back"]),
        (Some(0), &true.into(), &true.into()),
        "{found}"
    );
    let published = found["metrics"].as_array().expect("metrics");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/source-b.toml");
    let rendered = Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(["render", "cloudformation", "--config"])
        .arg(config)
        .output()
        .expect("it starts");
    let template: Value = serde_json::from_slice(&rendered.stdout).expect("a template");
    let alarms = template["Resources"].as_object().expect("resources").values();
    let alarms: Vec<&Value> = alarms
        .filter(|resource| resource["Type"] == "AWS::CloudWatch::Alarm")
        .map(|resource| &resource["Properties"])
        .filter(|properties| properties["Namespace"] == "Lifeboat")
        .collect();
    assert!(!alarms.is_empty());
    for alarm in alarms {
        let sees = published.iter().any(|metric| {
            metric["namespace"] == alarm["Namespace"]
                && metric["name"] == alarm["MetricName"]
                && metric["dimensions"].as_array().map(Vec::len)
                    == alarm["Dimensions"].as_array().map(Vec::len)
                && metric["dimensions"][0]["Name"] == alarm["Dimensions"][0]["Name"]
                && metric["dimensions"][0]["Value"] == "web"
        });
        assert!(sees, "nobody publishes what this alarm watches: {alarm}\npublished: {published:?}");
    }
}

#[test]
fn without_a_controller_the_demo_fails() {
    let (code, found) = demo(&["--speed", "120", "--no-controller"]);
    assert_eq!((code, &found["took_over"]), (Some(1), &false.into()), "{found}");
}

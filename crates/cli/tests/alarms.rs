//! Each alarm that `lifeboat render cloudformation` writes, evaluated as CloudWatch does over what the real programs
//! publish. Neither moto nor the lab evaluates alarms, so that this test does: an alarm that names another namespace,
//! metric or dimension sees nothing here either.

mod harness;
mod lab;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use harness::{World, eventually};
use lab::Lab;
use lifeboat_imds::mock::NoticePlan;
use lifeboat_imds::wire::Action;
use serde_json::Value;

const NAMESPACE: &str = "Lifeboat/Fleet";

/// A value that was published.
struct Point {
    at_ms: i64,
    namespace: String,
    metric: String,
    dimensions: BTreeMap<String, String>,
    value: f64,
}

/// What an alarm sees.
#[derive(Debug)]
struct Seen {
    points: usize,
    fires: bool,
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn published(lab: &Lab) -> Vec<Point> {
    let metrics = lab.get("metrics");
    let pairs = |list: &Value| {
        let list = list.as_array().expect("a list").iter();
        list.map(|pair| (text(&pair["Name"]), text(&pair["Value"]))).collect()
    };
    let point = |metric: &Value| Point {
        at_ms: metric["at_ms"].as_i64().expect("ms"),
        namespace: text(&metric["namespace"]),
        metric: text(&metric["name"]),
        dimensions: pairs(&metric["dimensions"]),
        value: metric["value"].as_f64().expect("a number"),
    };
    metrics["metrics"].as_array().expect("a list").iter().map(point).collect()
}

/// The alarms of Lifeboat's own namespace in the template for such a fleet, by id.
fn alarms() -> BTreeMap<String, Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fleet.toml");
    let config =
        format!("clusters = ['lab']\n[metrics]\nnamespace = '{NAMESPACE}'\n[[service]]\nname = 'web'\n");
    fs::write(&file, config).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(["render", "cloudformation", "--workload", "w", "--config"]).arg(&file).stdin(Stdio::null());
    let done = command.output().expect("it starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let template: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let resources = template["Resources"].as_object().expect("resources").clone();
    let alarms = resources.into_iter().filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm");
    let own = alarms.map(|(id, alarm)| (id, alarm["Properties"].clone()));
    own.filter(|(_, properties)| properties["Namespace"] != "AWS/SQS").collect()
}

/// What an alarm asks of which values.
struct Question {
    namespace: String,
    metric: String,
    /// With their values, where they are named.
    dimensions: Vec<(String, Option<String>)>,
    statistic: String,
    period_ms: i64,
}

impl Question {
    fn of(alarm: &Value) -> Self {
        let query = &alarm["Metrics"][0];
        let ms = |period: &Value| period.as_i64().expect("seconds") * 1_000;
        let Some(expression) = query["Expression"].as_str() else {
            let named = alarm["Dimensions"].as_array().expect("a list").iter();
            return Self {
                namespace: text(&alarm["Namespace"]),
                metric: text(&alarm["MetricName"]),
                dimensions: named.map(|pair| (text(&pair["Name"]), Some(text(&pair["Value"])))).collect(),
                statistic: text(&alarm["Statistic"]),
                period_ms: ms(&alarm["Period"]),
            };
        };
        let is_between = |c: char| " (),\"".contains(c);
        let words: Vec<&str> = expression.split(is_between).filter(|word| !word.is_empty()).collect();
        let ["SELECT", function, metric, "FROM", "SCHEMA", namespace, dimension] = words.as_slice() else {
            panic!("{expression}")
        };
        Self {
            namespace: (*namespace).to_owned(),
            metric: (*metric).to_owned(),
            dimensions: vec![((*dimension).to_owned(), None)],
            statistic: if *function == "MIN" { "Minimum" } else { "Maximum" }.to_owned(),
            period_ms: ms(&query["Period"]),
        }
    }

    /// Dimensions are part of a metric's identity: no more and no fewer.
    fn is_about(&self, point: &Point) -> bool {
        let has = |(name, value): &(String, Option<String>)| {
            point.dimensions.get(name).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        point.namespace == self.namespace
            && point.metric == self.metric
            && point.dimensions.len() == self.dimensions.len()
            && self.dimensions.iter().all(has)
    }

    fn value(&self, values: &[f64]) -> f64 {
        match self.statistic.as_str() {
            "Minimum" => values.iter().copied().fold(f64::INFINITY, f64::min),
            "Maximum" => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            "Sum" => values.iter().sum(),
            other => panic!("{other}"),
        }
    }
}

/// The statistic of each period, and whether as many in a row as it says compare as it says. Nothing was published for
/// a period: not breaching, as the template says.
/// Source: CloudWatch user guide, "Using Amazon CloudWatch alarms", "Query components and syntax"; read 2026-11.
fn evaluate(alarm: &Value, points: &[Point], threshold: f64) -> Seen {
    assert_eq!(alarm["TreatMissingData"], "notBreaching");
    let question = Question::of(alarm);
    let mut periods: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for point in points.iter().filter(|point| question.is_about(point)) {
        periods.entry(point.at_ms / question.period_ms).or_default().push(point.value);
    }
    let is_breaching = |number: i64| {
        let Some(values) = periods.get(&number) else { return false };
        match text(&alarm["ComparisonOperator"]).as_str() {
            "LessThanThreshold" => question.value(values) < threshold,
            "GreaterThanThreshold" => question.value(values) > threshold,
            "GreaterThanOrEqualToThreshold" => question.value(values) >= threshold,
            other => panic!("{other}"),
        }
    };
    let needed = alarm["EvaluationPeriods"].as_i64().expect("a number");
    let fires = periods.keys().any(|first| (*first..first + needed).all(is_breaching));
    Seen { points: periods.values().map(Vec::len).sum(), fires }
}

fn seen(alarm: &Value, lab: &Lab) -> Seen {
    evaluate(alarm, &published(lab), alarm["Threshold"].as_f64().expect("a number"))
}

#[test]
fn every_alarm_of_the_template_sees_what_the_programs_publish_and_fires_on_it() {
    let alarms = alarms();
    let ids: Vec<&str> = alarms.keys().map(String::as_str).collect();
    assert_eq!(
        ids,
        ["Interruptedw0", "LowHealthAnywhere", "LowHealthweb0", "ManyFailoversAnywhere", "ManyFailoversweb0"]
    );
    let lab = Lab::start(20, "");
    lab.config("[policy]\nname = 'switch'");
    let _controller = lab.controller(&[]);
    lab.until("each of the fleet's is published", |lab| {
        alarms.iter().filter(|(id, _)| *id != "Interruptedw0").all(|(_, alarm)| seen(alarm, lab).points > 0)
    });
    for (id, alarm) in &alarms {
        assert!(!seen(alarm, &lab).fires, "{id}: all is well");
    }
    // Ten interruptions within the window: a score of 0 until they have left it, which touches two periods.
    lab.post("capacity", serde_json::json!({ "spot": 0, "for_seconds": 900 }));
    for id in ["LowHealthweb0", "LowHealthAnywhere"] {
        lab.until(id, |lab| seen(&alarms[id], lab).fires);
    }
    for id in ["ManyFailoversweb0", "ManyFailoversAnywhere"] {
        lab.until("the failover is counted", |lab| evaluate(&alarms[id], &published(lab), 0.0).fires);
        assert!(!seen(&alarms[id], &lab).fires, "{id}: one is not more than five");
    }
    agent_publishes(&lab);
    lab.until("the instance's interruption", |lab| seen(&alarms["Interruptedw0"], lab).fires);
}

/// A machine whose agent is told of its interruption and publishes to the same place.
fn agent_publishes(lab: &Lab) {
    let world = World::new();
    let machine = world.spot_machine("one");
    machine.configure(&format!(
        "lease = \"3s\"\n[metadata]\ninterval = \"500ms\"\n[metrics]\nnamespace = \"{NAMESPACE}\"\n"
    ));
    let script = "touch begun; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let mut command = machine.run_command("w", &[], &["/bin/sh", "-c", script]);
    for (name, value) in lifeboat_aws::testing::environment(&lab.url()) {
        if name != "AWS_EC2_METADATA_DISABLED" {
            command.env(name, value); // its metadata service is the mock
        }
    }
    let mut run = harness::Running::start(&mut command);
    eventually("the workload runs", || machine.work().join("begun").exists());
    machine.imds.as_ref().expect("has one").control.notice(NoticePlan::now(Action::Terminate));
    run.expect_code(85);
}

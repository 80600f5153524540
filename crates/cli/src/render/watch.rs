//! Alarms and dashboards over what the programs publish. Dimensions are part of a metric's identity: an alarm that names
//! others sees another, empty metric and never fires.

use serde_json::{Map, Value, json};

use super::{Plan, sub};

/// The dimension of the controller's metrics, and of the agent's.
pub(super) const SERVICE: &str = "Service";
pub(super) const WORKLOAD: &str = "Workload";

/// What the controller publishes of each service, and the agent of each workload: an alarm on anything else never fires.
#[cfg(test)]
pub(super) const SERVICE_METRICS: [&str; 7] = [
    "SpotHealthScore",
    "FailoverActive",
    "ErrorCount5min",
    "FailoverCount",
    "SpotReady",
    "OnDemandReady",
    "CostSavingsToday",
];
#[cfg(test)]
pub(super) const WORKLOAD_METRICS: [&str; 4] =
    ["SpotInterruption", "SpotInterruptionHandled", "DataEvacuationSuccess", "DataEvacuationFailure"];

/// Source: CloudWatch user guide: a dashboard's widget shows up to 500 metrics; read 2026-11.
const SHOWN_MAX: usize = 100;

/// A CloudFormation id from a name: letters and digits, with a number behind so that no two are equal.
fn id(start: &str, name: &str, number: usize) -> String {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).take(80).collect();
    format!("{start}{plain}{number}")
}

struct Alarm<'a> {
    about: &'a str,
    metric: &'a str,
    statistic: &'a str,
    comparison: &'a str,
    threshold: f64,
    period_s: u32,
    periods: u32,
    topic: &'a str,
}

impl Alarm<'_> {
    fn properties(&self) -> Value {
        json!({
            "AlarmDescription": self.about,
            "ComparisonOperator": self.comparison,
            "Threshold": self.threshold,
            "EvaluationPeriods": self.periods,
            // A controller that is replaced misses a minute; one that is gone is seen by the alarm on the queue's age.
            "TreatMissingData": "notBreaching",
            "AlarmActions": [{ "Ref": self.topic }],
            "OKActions": [{ "Ref": self.topic }],
        })
    }

    /// Over one metric with one dimension.
    fn of(&self, namespace: &str, dimension: (&str, Value)) -> Value {
        let mut properties = self.properties();
        properties["Namespace"] = json!(namespace);
        properties["MetricName"] = json!(self.metric);
        properties["Dimensions"] = json!([{ "Name": dimension.0, "Value": dimension.1 }]);
        properties["Statistic"] = json!(self.statistic);
        properties["Period"] = json!(self.period_s);
        json!({ "Type": "AWS::CloudWatch::Alarm", "Properties": properties })
    }

    /// Over every service at once, whatever they are called: the worst of them.
    /// Source: CloudWatch user guide, "Query components and syntax": SCHEMA names exactly the metric's dimensions.
    fn of_all(&self, namespace: &str, dimension: &str) -> Value {
        let mut properties = self.properties();
        let function = if self.statistic == "Minimum" { "MIN" } else { "MAX" };
        let query = format!("SELECT {function}({}) FROM SCHEMA(\"{namespace}\", {dimension})", self.metric);
        properties["Metrics"] =
            json!([{ "Id": "worst", "Expression": query, "Period": self.period_s, "ReturnData": true }]);
        json!({ "Type": "AWS::CloudWatch::Alarm", "Properties": properties })
    }
}

pub(super) fn add(plan: &Plan, resources: &mut Map<String, Value>) {
    let low = Alarm {
        about: "Lifeboat: Spot is in bad health for ten minutes",
        metric: "SpotHealthScore",
        statistic: "Minimum",
        comparison: "LessThanThreshold",
        threshold: 30.0,
        period_s: 300,
        periods: 2,
        topic: "Alerts",
    };
    let often = Alarm {
        about: "Lifeboat: more than five failovers today",
        metric: "FailoverCount",
        statistic: "Maximum",
        comparison: "GreaterThanThreshold",
        threshold: 5.0,
        period_s: 300,
        periods: 1,
        topic: "Warnings",
    };
    for (start, alarm) in [("LowHealth", &low), ("ManyFailovers", &often)] {
        resources.insert(format!("{start}Anywhere"), alarm.of_all(&plan.namespace, SERVICE));
        for (number, service) in plan.services.iter().enumerate() {
            let value = alarm.of(&plan.namespace, (SERVICE, json!(service)));
            resources.insert(id(start, service, number), value);
        }
    }
    for (number, workload) in plan.workloads.iter().enumerate() {
        let interrupted = Alarm {
            about: "Lifeboat: an instance of this workload will be interrupted",
            metric: "SpotInterruption",
            statistic: "Sum",
            comparison: "GreaterThanOrEqualToThreshold",
            threshold: 1.0,
            period_s: 60,
            periods: 1,
            topic: "Alerts",
        };
        let value = interrupted.of(&plan.namespace, (WORKLOAD, json!(workload)));
        resources.insert(id("Interrupted", workload, number), value);
    }
    queue_alarms(resources);
    resources.insert("FleetDashboard".to_owned(), dashboard("lifeboat-fleet", fleet_widgets(plan)));
    if !plan.workloads.is_empty() {
        resources
            .insert("InstanceDashboard".to_owned(), dashboard("lifeboat-instances", instance_widgets(plan)));
    }
}

/// Nobody reads the queue, or nobody understands what is in it.
fn queue_alarms(resources: &mut Map<String, Value>) {
    let old = Alarm {
        about: "Lifeboat: events wait for two minutes: no controller reads them",
        metric: "ApproximateAgeOfOldestMessage",
        statistic: "Maximum",
        comparison: "GreaterThanThreshold",
        threshold: 120.0,
        period_s: 60,
        periods: 3,
        topic: "Alerts",
    };
    let dead = Alarm {
        about: "Lifeboat: events that could not be read are among the dead letters",
        metric: "ApproximateNumberOfMessagesVisible",
        statistic: "Maximum",
        comparison: "GreaterThanThreshold",
        threshold: 0.0,
        period_s: 300,
        periods: 1,
        topic: "Warnings",
    };
    for (id, alarm, queue) in [("EventsWait", old, "Events"), ("EventsDie", dead, "DeadLetters")] {
        let name = json!({ "Fn::GetAtt": [queue, "QueueName"] });
        resources.insert(id.to_owned(), alarm.of("AWS/SQS", ("QueueName", name)));
    }
}

fn dashboard(name: &str, widgets: Vec<Value>) -> Value {
    let body = json!({ "widgets": widgets }).to_string();
    json!({ "Type": "AWS::CloudWatch::Dashboard", "Properties": { "DashboardName": name, "DashboardBody": sub(&body) } })
}

fn widget((x, y): (u32, u32), title: &str, metrics: Value, extra: Value) -> Value {
    let mut properties = json!({
        "title": title, "metrics": metrics, "region": "${AWS::Region}", "view": "timeSeries", "stacked": false,
    });
    if let (Some(properties), Value::Object(extra)) = (properties.as_object_mut(), extra) {
        properties.extend(extra);
    }
    json!({ "type": "metric", "x": x, "y": y, "width": 12, "height": 6, "properties": properties })
}

/// The metric of every service: those known by name, else whatever is found under the dimension.
fn metrics(plan: &Plan, metric: &str, statistic: &str) -> Value {
    if plan.services.is_empty() {
        let search =
            format!("SEARCH('{{\"{}\",{SERVICE}}} MetricName=\"{metric}\"', '{statistic}')", plan.namespace);
        return json!([[{ "expression": search }]]);
    }
    let line = |service: &String| json!([plan.namespace, metric, SERVICE, service, { "stat": statistic }]);
    plan.services.iter().take(SHOWN_MAX).map(line).collect()
}

fn fleet_widgets(plan: &Plan) -> Vec<Value> {
    let lines = json!({
        "yAxis": { "left": { "min": 0, "max": 100 } },
        "annotations": { "horizontal": [
            { "label": "alarm", "value": 30, "color": "#d62728" },
            { "label": "watch", "value": 60, "color": "#ff7f0e" },
        ] },
    });
    vec![
        widget((0, 0), "Spot health score", metrics(plan, "SpotHealthScore", "Minimum"), lines),
        widget((12, 0), "Failover active", metrics(plan, "FailoverActive", "Maximum"), json!({})),
        widget((0, 6), "Errors within 5 min", metrics(plan, "ErrorCount5min", "Maximum"), json!({})),
        widget((12, 6), "Failovers today", metrics(plan, "FailoverCount", "Maximum"), json!({})),
        widget((0, 12), "Saved today, in dollars", metrics(plan, "CostSavingsToday", "Maximum"), json!({})),
        widget((12, 12), "Ready on Spot", metrics(plan, "SpotReady", "Minimum"), json!({})),
    ]
}

fn instance_widgets(plan: &Plan) -> Vec<Value> {
    let of = |names: &[&str]| -> Value {
        let each = |name: &&str| {
            let name = (*name).to_owned();
            plan.workloads.iter().take(SHOWN_MAX).map(move |workload| {
                json!([plan.namespace, name, WORKLOAD, workload, { "stat": "Sum", "period": 60 }])
            })
        };
        names.iter().flat_map(each).collect()
    };
    vec![
        widget((0, 0), "Interruptions", of(&["SpotInterruption", "SpotInterruptionHandled"]), json!({})),
        widget((12, 0), "Evacuations", of(&["DataEvacuationSuccess", "DataEvacuationFailure"]), json!({})),
    ]
}

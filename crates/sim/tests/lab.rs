//! The lab over HTTP, asked as the SDKs ask: raw requests in their wire formats, the world moved on by hand.

#![cfg(feature = "lab")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lifeboat_sim::lab::{LabScenario, Pair, Settings, Stamps, listen, serve};
use serde_json::{Value, json};

/// No answer takes so long, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lab {
    addr: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Lab {
    fn start(scenario: &str, speed: u32) -> Self {
        let scenario: LabScenario = toml::from_str(scenario).expect("a good scenario");
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let settings = Settings { scenario, speed, stamps: Stamps::World };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = listen("127.0.0.1:0".parse().expect("an address")).await.expect("it listens");
                tell.send(listener.local_addr().expect("an address")).expect("the test waits");
                let stopped = async move {
                    let _ = stopped.await; // dropped: stop as well
                };
                serve(listener, settings, stopped).await.expect("it serves");
            });
        });
        let addr = told.recv_timeout(PATIENCE).expect("the lab starts");
        Self { addr, stop: Some(stop), thread: Some(thread) }
    }

    fn http(&self, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.addr).expect("the lab listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let head = format!(
            "{head}Host: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.addr,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        stream.write_all(body).expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let body = answer[split + 4..].to_vec();
        let head = String::from_utf8(answer[..split].to_vec()).expect("text");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, head.to_lowercase(), body)
    }

    /// A call in the JSON protocols: the answer and its status.
    fn call(&self, target: &str, input: &Value) -> (u16, Value) {
        let kind = if target.starts_with("AmazonSQS") { "1.0" } else { "1.1" };
        let head = format!(
            "POST / HTTP/1.1\r\nContent-Type: application/x-amz-json-{kind}\r\nX-Amz-Target: {target}\r\n"
        );
        let (status, _, body) = self.http(&head, input.to_string().as_bytes());
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    fn ecs(&self, operation: &str, input: &Value) -> Value {
        let (status, value) = self.call(&format!("AmazonEC2ContainerServiceV20141113.{operation}"), input);
        assert_eq!(status, 200, "{operation}: {value}");
        value
    }

    fn sqs(&self, operation: &str, mut input: Value) -> Value {
        input["QueueUrl"] = json!(format!("http://{}/123456789012/lifeboat-events", self.addr));
        let (status, value) = self.call(&format!("AmazonSQS.{operation}"), &input);
        assert_eq!(status, 200, "{operation}: {value}");
        value
    }

    fn control(&self, path: &str, body: &Value) -> Value {
        let (status, _, body) =
            self.http(&format!("POST /lab/{path} HTTP/1.1\r\n"), body.to_string().as_bytes());
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    fn look(&self, path: &str) -> Value {
        let (status, _, body) = self.http(&format!("GET /lab/{path} HTTP/1.1\r\n"), b"");
        assert_eq!(status, 200, "{path}");
        serde_json::from_slice(&body).expect("JSON")
    }

    fn service(&self, name: &str) -> Value {
        let shown = self.ecs("DescribeServices", &json!({ "cluster": "lab", "services": [name] }));
        shown["services"][0].clone()
    }

    fn tasks(&self, service: &str, status: &str) -> Vec<Value> {
        let asked = json!({ "cluster": "lab", "serviceName": service, "desiredStatus": status });
        self.ecs("ListTasks", &asked)["taskArns"].as_array().expect("a list").clone()
    }

    /// Receives until the queue is empty, deletes all of it, and returns the bodies.
    fn drain(&self) -> Vec<Value> {
        let mut bodies = Vec::new();
        loop {
            let received = self.sqs("ReceiveMessage", json!({ "MaxNumberOfMessages": 10 }));
            let Some(messages) = received["Messages"].as_array() else { return bodies };
            for message in messages {
                bodies.push(serde_json::from_str(message["Body"].as_str().expect("text")).expect("JSON"));
                self.sqs("DeleteMessage", json!({ "ReceiptHandle": message["ReceiptHandle"] }));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // the test fails by itself
        }
    }
}

const WEB: &str = "services = [{ name = \"web\", tasks = 20 }]\n";

#[test]
fn a_service_starts_tasks_and_stops_them_as_it_is_told() {
    let lab = Lab::start(WEB, 0);
    assert_eq!(lab.service("web-spot")["runningCount"], 20);
    let updated =
        lab.ecs("UpdateService", &json!({ "cluster": "lab", "service": "web-standard", "desiredCount": 3 }));
    assert_eq!(
        (&updated["service"]["desiredCount"], &updated["service"]["runningCount"]),
        (&json!(3), &json!(0))
    );
    lab.control("advance", &json!({ "seconds": 30 }));
    assert_eq!(lab.service("web-standard")["pendingCount"], 3, "a start takes more than 30 s");
    let tasks = lab.tasks("web-standard", "RUNNING");
    let shown = lab.ecs("DescribeTasks", &json!({ "cluster": "lab", "tasks": tasks }));
    for task in shown["tasks"].as_array().expect("a list") {
        assert_eq!(task["lastStatus"], "PENDING");
        assert_eq!(task["capacityProviderName"], "FARGATE");
        assert_eq!(task["group"], "service:web-standard");
    }
    lab.control("advance", &json!({ "seconds": 150 }));
    assert_eq!(lab.service("web-standard")["runningCount"], 3);
    lab.ecs("UpdateService", &json!({ "cluster": "lab", "service": "web-spot", "desiredCount": 0 }));
    assert!(lab.tasks("web-spot", "RUNNING").is_empty());
    let stopped = lab.tasks("web-spot", "STOPPED");
    assert_eq!(stopped.len(), 20, "stopped tasks are shown for an hour");
    let shown = lab.ecs("DescribeTasks", &json!({ "cluster": "lab", "tasks": [stopped[0]] }));
    assert_eq!(shown["tasks"][0]["stopCode"], "ServiceSchedulerInitiated");
    lab.control("advance", &json!({ "seconds": 3_700 }));
    lab.control("interrupt", &json!({ "tasks": 0 }));
    lab.ecs("UpdateService", &json!({ "cluster": "lab", "service": "web-standard", "desiredCount": 2 }));
    assert!(lab.tasks("web-spot", "STOPPED").is_empty(), "and not for longer");
}

#[test]
fn an_interruption_is_told_twice_and_the_task_is_listed_as_stopping_in_between() {
    let lab = Lab::start(WEB, 0);
    let done = lab.control("interrupt", &json!({ "tasks": 2, "service": "web" }));
    assert_eq!(done["interrupted"], 2);
    lab.control("advance", &json!({ "seconds": 10 }));
    let warned: Vec<Value> = lab.drain().into_iter().filter(is_warning).collect();
    assert_eq!(warned.len(), 2);
    let event = &warned[0];
    assert_eq!(
        (&event["source"], &event["detail-type"]),
        (&json!("aws.ecs"), &json!("ECS Task State Change"))
    );
    assert_eq!(event["detail"]["stopCode"], "SpotInterruption");
    assert_eq!(event["detail"]["stoppedReason"], "Your Spot Task was interrupted.");
    assert_eq!(event["detail"]["capacityProviderName"], "FARGATE_SPOT");
    assert_eq!(event["detail"]["group"], "service:web-spot");
    assert_eq!(lab.tasks("web-spot", "STOPPED").len(), 2, "their desired status is STOPPED already");
    lab.control("advance", &json!({ "seconds": 130 }));
    let mut versions = Vec::new();
    for later in lab.drain() {
        if later["detail"]["taskArn"] == event["detail"]["taskArn"] {
            assert_eq!(later["detail"]["lastStatus"], "STOPPED");
            versions.push(later["detail"]["version"].as_u64().expect("a number"));
        }
    }
    assert_eq!(versions, [event["detail"]["version"].as_u64().expect("a number") + 1]);
}

fn is_warning(event: &Value) -> bool {
    event["detail"]["desiredStatus"] == "STOPPED" && event["detail"]["lastStatus"] == "RUNNING"
}

#[test]
fn without_capacity_placement_fails_loudly_or_sits_in_pending() {
    let lab = Lab::start(&format!("{WEB}silent = 0.0\n"), 0);
    lab.control("capacity", &json!({ "spot": 5 }));
    lab.control("advance", &json!({ "seconds": 150 }));
    let refused: Vec<Value> = lab
        .drain()
        .into_iter()
        .filter(|event| event["detail"]["eventName"] == "SERVICE_TASK_PLACEMENT_FAILURE")
        .collect();
    assert!(!refused.is_empty());
    let detail = &refused[0]["detail"];
    assert_eq!((&detail["reason"], &detail["eventType"]), (&json!("RESOURCE:FARGATE"), &json!("ERROR")));
    let provider = detail["capacityProviderArns"][0].as_str().expect("an ARN");
    assert!(provider.ends_with("capacity-provider/FARGATE_SPOT"), "{provider}");
    let resource = refused[0]["resources"][0].as_str().expect("an ARN");
    assert!(resource.ends_with(":service/lab/web-spot"), "{resource}");
    assert_eq!(lab.service("web-spot")["runningCount"], 5);

    let quiet = Lab::start(&format!("{WEB}silent = 1.0\n"), 0);
    quiet.control("capacity", &json!({ "spot": 5 }));
    quiet.control("advance", &json!({ "seconds": 300 }));
    let stuck = quiet.service("web-spot")["pendingCount"].as_u64().expect("a number");
    assert!(stuck > 0, "tasks sit in PENDING");
}

#[test]
fn lists_are_paged_and_calls_have_their_limits() {
    let lab = Lab::start("services = [{ name = \"web\", tasks = 250 }, { name = \"api\", tasks = 1 }]", 0);
    let mut seen = std::collections::BTreeSet::new();
    let mut token = Value::Null;
    for expected in [100, 100, 50] {
        let mut asked = json!({ "cluster": "lab", "serviceName": "web-spot" });
        if !token.is_null() {
            asked["nextToken"] = token;
        }
        let page = lab.ecs("ListTasks", &asked);
        let arns = page["taskArns"].as_array().expect("a list");
        assert_eq!(arns.len(), expected);
        seen.extend(arns.iter().map(|arn| arn.as_str().expect("text").to_owned()));
        token = page["nextToken"].clone();
    }
    assert!(token.is_null());
    assert_eq!(seen.len(), 250, "no task twice");
    let page = lab.ecs("ListServices", &json!({ "cluster": "lab", "maxResults": 3 }));
    let rest = lab
        .ecs("ListServices", &json!({ "cluster": "lab", "maxResults": 3, "nextToken": page["nextToken"] }));
    assert_eq!(rest["serviceArns"].as_array().map(Vec::len), Some(1));

    let many: Vec<String> = (0..101).map(|number| format!("{number}")).collect();
    let refused = |operation: &str, input: &Value| {
        let (status, value) = lab.call(&format!("AmazonEC2ContainerServiceV20141113.{operation}"), input);
        assert_eq!(status, 400, "{value}");
        value["__type"].as_str().expect("a name").to_owned()
    };
    assert_eq!(
        refused("DescribeTasks", &json!({ "cluster": "lab", "tasks": many })),
        "InvalidParameterException"
    );
    let eleven = json!({ "cluster": "lab", "services": many[..11] });
    assert_eq!(refused("DescribeServices", &eleven), "InvalidParameterException");
    let gone = json!({ "cluster": "lab", "service": "gone", "desiredCount": 1 });
    assert_eq!(refused("UpdateService", &gone), "ServiceNotFoundException");
    assert_eq!(refused("ListTasks", &json!({ "cluster": "other" })), "ClusterNotFoundException");
    let more = json!({ "cluster": "lab", "service": "web-spot", "forceNewDeployment": true });
    assert_eq!(refused("UpdateService", &more), "InvalidParameterException", "never ignored in silence");
    assert_eq!(refused("RunTask", &json!({})), "UnknownOperationException");
}

#[test]
fn messages_come_again_until_they_are_deleted_and_end_as_dead_letters() {
    let lab = Lab::start(&format!("{WEB}receives_max = 2\n"), 0);
    lab.control("send", &json!({ "body": { "a": 1 } }));
    let first = lab.sqs("ReceiveMessage", json!({ "VisibilityTimeout": 30, "AttributeNames": ["All"] }));
    let message = &first["Messages"][0];
    assert_eq!(message["Body"], "{\"a\":1}");
    assert_eq!(message["MD5OfBody"], "bb6cb5c68df4652941caf652a366f2d8");
    assert_eq!(message["Attributes"]["ApproximateReceiveCount"], "1");
    assert!(lab.sqs("ReceiveMessage", json!({})).get("Messages").is_none(), "hidden");
    lab.control("advance", &json!({ "seconds": 31 }));
    let second = lab.sqs("ReceiveMessage", json!({ "VisibilityTimeout": 30 }));
    lab.sqs("DeleteMessage", json!({ "ReceiptHandle": message["ReceiptHandle"] }));
    let receipt = &second["Messages"][0]["ReceiptHandle"];
    let entries = json!({ "Entries": [
        { "Id": "1", "ReceiptHandle": receipt, "VisibilityTimeout": 0 },
        { "Id": "2", "ReceiptHandle": "nonsense", "VisibilityTimeout": 0 },
    ] });
    let changed = lab.sqs("ChangeMessageVisibilityBatch", entries);
    assert_eq!(changed["Successful"][0]["Id"], "1");
    assert_eq!(changed["Failed"][0]["Code"], "ReceiptHandleIsInvalid");
    assert!(lab.sqs("ReceiveMessage", json!({})).get("Messages").is_none(), "received twice: enough");
    let state = lab.look("state");
    assert_eq!(state["queues"]["lifeboat-events-dead"]["visible"], 1);
    assert_eq!(state["queues"]["lifeboat-events"]["visible"], 0);
    assert_eq!(lab.look("queues"), state["queues"]);
    assert_eq!(lab.look("counts")["sqs:DeleteMessage"]["ok"], 1);
}

#[test]
fn what_was_sent_is_told_with_when_it_was_deleted() {
    let lab = Lab::start(WEB, 0);
    lab.control("send", &json!({ "bodies": ["one", { "two": 2 }] }));
    let received = lab.sqs("ReceiveMessage", json!({ "MaxNumberOfMessages": 10 }));
    lab.sqs("DeleteMessage", json!({ "ReceiptHandle": received["Messages"][0]["ReceiptHandle"] }));
    let told = lab.look("messages");
    let messages = told["messages"].as_array().expect("a list");
    let bodies: Vec<&str> = messages.iter().filter_map(|message| message["body"].as_str()).collect();
    assert_eq!(bodies, ["one", "{\"two\":2}"]);
    assert!(messages[0]["deleted_ms"].as_i64() >= messages[0]["sent_ms"].as_i64());
    assert!(messages[0]["deleted_ms"].is_number() && messages[1]["deleted_ms"].is_null(), "{messages:?}");
    assert_eq!(lab.look("messages?since=1")["messages"].as_array().map(Vec::len), Some(1));
    let calls = lab.look("calls?operation=sqs:DeleteMessage");
    assert_eq!(calls["calls"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_long_poll_returns_as_soon_as_something_arrives() {
    let lab = Lab::start(WEB, 0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| lab.sqs("ReceiveMessage", json!({ "WaitTimeSeconds": 20 })));
        // The poll has arrived once it is counted nowhere and the message is not there yet; sending is right at any time.
        lab.control("send", &json!({ "body": "hello" }));
        let received = polling.join().expect("it answers");
        assert_eq!(received["Messages"][0]["Body"], "hello");
    });
    assert!(began.elapsed() < PATIENCE);
    let empty = lab.sqs("ReceiveMessage", json!({ "WaitTimeSeconds": 1 }));
    assert!(empty.get("Messages").is_none());
    assert!(began.elapsed() >= Duration::from_secs(1), "it waited");
}

#[test]
fn what_shall_fail_fails_and_what_takes_effect_all_the_same_does() {
    let lab = Lab::start(WEB, 0);
    let update = |count: u32| {
        let input = json!({ "cluster": "lab", "service": "web-spot", "desiredCount": count });
        lab.call("AmazonEC2ContainerServiceV20141113.UpdateService", &input)
    };
    lab.control(
        "fail",
        &json!({ "operation": "ecs:UpdateService", "error": "ThrottlingException", "count": 1 }),
    );
    assert_eq!(update(7).1["__type"], "ThrottlingException");
    assert_eq!(lab.service("web-spot")["desiredCount"], 20);
    lab.control(
        "fail",
        &json!({ "operation": "ecs:*", "error": "ServerException", "count": 1, "takes_effect": true }),
    );
    assert_eq!(update(8).0, 500);
    assert_eq!(lab.service("web-spot")["desiredCount"], 8);
    assert_eq!(update(9).0, 200);
    lab.control("faults", &json!({ "throttled": 1.0, "until": "60s" }));
    assert_eq!(update(10).1["__type"], "ThrottlingException");
    lab.control("advance", &json!({ "seconds": 61 }));
    assert_eq!(update(10).0, 200);
    let outcomes = &lab.look("state")["calls"]["ecs:UpdateService"];
    assert_eq!(outcomes, &json!({ "ThrottlingException": 2, "ServerException": 1, "ok": 3 }));
}

#[test]
fn lost_doubled_and_late_events_are_what_the_scenario_says() {
    let lost = Lab::start(&format!("{WEB}faults = {{ lost = 1.0 }}\n"), 0);
    lost.control("interrupt", &json!({ "tasks": 3 }));
    lost.control("advance", &json!({ "seconds": 60 }));
    assert!(lost.drain().is_empty());
    let shown = lost.look("events")["events"].as_array().expect("a list").clone();
    let notices = shown.iter().filter(|event| event["text"] == "interruption notice");
    assert_eq!(
        notices.filter(|event| event["arrivals_ms"] == json!([])).count(),
        3,
        "the page shows them all the same"
    );

    let doubled = Lab::start(&format!("{WEB}faults = {{ doubled = 1.0 }}\n"), 0);
    doubled.control("interrupt", &json!({ "tasks": 3 }));
    doubled.control("advance", &json!({ "seconds": 60 }));
    assert_eq!(doubled.drain().iter().filter(|event| is_warning(event)).count(), 6);

    let late = Lab::start(&format!("{WEB}faults = {{ late = 1.0 }}\n"), 0);
    late.control("interrupt", &json!({ "tasks": 3 }));
    late.control("advance", &json!({ "seconds": 4 }));
    assert!(late.drain().is_empty());
    late.control("advance", &json!({ "seconds": 700 }));
    assert_eq!(late.drain().iter().filter(|event| is_warning(event)).count(), 3);
}

#[test]
fn an_order_whose_answer_is_lost_lands_later() {
    let lab = Lab::start(&format!("{WEB}faults = {{ landed_late = 1.0 }}\n"), 0);
    let input = json!({ "cluster": "lab", "service": "web-spot", "desiredCount": 4 });
    let (status, _) = lab.call("AmazonEC2ContainerServiceV20141113.UpdateService", &input);
    assert_eq!(status, 500);
    assert_eq!(lab.service("web-spot")["desiredCount"], 20);
    lab.control("advance", &json!({ "seconds": 31 }));
    assert_eq!(lab.service("web-spot")["desiredCount"], 4);
}

#[test]
fn metrics_alerts_and_commands_are_kept_as_they_were_sent() {
    let lab = Lab::start(WEB, 0);
    let form = |body: &str| {
        let head = "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n";
        let (status, _, answer) = lab.http(head, body.as_bytes());
        (status, String::from_utf8(answer).expect("text"))
    };
    let (status, answer) = form(
        "Action=Publish&Version=2010-03-31&TopicArn=arn%3Aaws%3Asns%3Aus-east-1%3A123456789012%3Aalerts&Message=a+%26+b&Subject=s",
    );
    assert_eq!(status, 200);
    assert!(answer.contains("<PublishResult><MessageId>"), "{answer}");
    assert_eq!(lab.look("alerts")["alerts"][0]["message"], "a & b");
    let command = json!({ "DocumentName": "AWS-RunShellScript", "InstanceIds": ["i-1"], "Parameters": { "commands": ["lifeboat evacuate"] } });
    let (status, answer) = lab.call("AmazonSSM.SendCommand", &command);
    assert_eq!((status, &answer["Command"]["Status"]), (200, &json!("Pending")));
    let metrics = json!({ "Namespace": "Lifeboat", "MetricData": [
        { "MetricName": "FailoverActive", "Value": 1.0, "Dimensions": [{ "Name": "ServiceName", "Value": "web" }] },
    ] });
    assert_eq!(lab.call("GraniteServiceVersion20100801.PutMetricData", &metrics).0, 200);
    let kept = &lab.look("metrics")["metrics"][0];
    assert_eq!(
        (&kept["namespace"], &kept["name"], &kept["value"]),
        (&json!("Lifeboat"), &json!("FailoverActive"), &json!(1.0))
    );
    assert_eq!(kept["dimensions"], json!([{ "Name": "ServiceName", "Value": "web" }]));
}

#[test]
fn an_instance_event_has_its_service_shape() {
    let lab = Lab::start(WEB, 0);
    for kind in ["interruption", "rebalance", "stopping", "lifecycle", "health"] {
        lab.control("instance", &json!({ "kind": kind, "instances": ["i-1", "i-2"] }));
    }
    lab.control("advance", &json!({ "seconds": 5 }));
    let events = lab.drain();
    let of =
        |kind: &str| events.iter().find(|event| event["detail-type"] == kind).expect(kind)["detail"].clone();
    let warning = of("EC2 Spot Instance Interruption Warning");
    assert_eq!(warning, json!({ "instance-id": "i-1", "instance-action": "terminate" }));
    assert_eq!(of("EC2 Instance State-change Notification")["state"], "stopping");
    assert_eq!(of("AWS Health Event")["affectedEntities"].as_array().map(Vec::len), Some(2));
    assert_eq!(of("EC2 Instance-terminate Lifecycle Action")["EC2InstanceId"], "i-1");
}

#[test]
fn a_pair_can_be_deleted_and_made_while_it_runs() {
    let lab = Lab::start(WEB, 0);
    lab.control("service", &json!({ "name": "api", "deleted": false, "target": 2 }));
    lab.ecs("UpdateService", &json!({ "cluster": "lab", "service": "api-spot", "desiredCount": 2 }));
    lab.control("service", &json!({ "name": "web", "deleted": true }));
    lab.control("advance", &json!({ "seconds": 200 }));
    assert_eq!(lab.service("api-spot")["runningCount"], 2);
    assert_eq!(lab.service("web-spot")["status"], "INACTIVE");
    let input = json!({ "cluster": "lab", "service": "web-spot", "desiredCount": 4 });
    let (_, refused) = lab.call("AmazonEC2ContainerServiceV20141113.UpdateService", &input);
    assert_eq!(refused["__type"], "ServiceNotActiveException");
    let listed = lab.ecs("ListServices", &json!({ "cluster": "lab" }));
    assert_eq!(listed["serviceArns"].as_array().map(Vec::len), Some(2));
    lab.control("service", &json!({ "name": "api", "deploying": true }));
    assert_eq!(lab.service("api-spot")["deployments"][0]["rolloutState"], "IN_PROGRESS");
}

#[test]
fn steps_of_a_scenario_happen_at_their_times() {
    let steps = "[[steps]]\nat = \"1m\"\nspot_capacity = 5\n[[steps]]\nat = \"10m\"\nspot_capacity = 60\n";
    let lab = Lab::start(&format!("{WEB}silent = 0.0\n{steps}"), 0);
    lab.control("advance", &json!({ "seconds": 59 }));
    assert_eq!(lab.service("web-spot")["runningCount"], 20);
    lab.control("advance", &json!({ "seconds": 180 }));
    assert_eq!(lab.service("web-spot")["runningCount"], 5);
    lab.control("advance", &json!({ "seconds": 3_000 }));
    assert_eq!(lab.service("web-spot")["runningCount"], 20);
}

#[test]
fn at_a_speed_the_world_moves_by_itself() {
    let lab = Lab::start(WEB, 600);
    lab.ecs("UpdateService", &json!({ "cluster": "lab", "service": "web-standard", "desiredCount": 1 }));
    let deadline = Instant::now() + PATIENCE;
    while lab.service("web-standard")["runningCount"] != 1 {
        assert!(Instant::now() < deadline, "a start takes 2.5 min at most, a quarter of a second here");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_listens_and_answers_on_loopback_only() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let refused =
        runtime.block_on(listen("0.0.0.0:0".parse().expect("an address"))).expect_err("not loopback");
    assert_eq!(refused.to_string(), "a lab serves on loopback only, not on 0.0.0.0:0");
    let lab = Lab::start(WEB, 0);
    let mut stream = TcpStream::connect(lab.addr).expect("the lab listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream
        .write_all(b"GET /lab/state HTTP/1.1\r\nHost: elsewhere.example:80\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let pair = Pair { name: "x".to_owned(), tasks: 1 };
    assert_eq!("x=1".parse::<Pair>(), Ok(pair));
}

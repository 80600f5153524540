//! The same calls to the lab and to moto, an independent stand-in: the answers must have the same shape. Where moto is
//! known to be wrong or poorer, the difference is listed with its reason.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use lifeboat_aws::testing::Moto;
use lifeboat_sim::lab::{LabScenario, Pair, Settings, Stamps, listen, serve};
use serde_json::{Value, json};

/// Python on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// `None` where nobody answers.
fn http(addr: SocketAddr, head: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let text =
        format!("{head}Host: {addr}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

fn signed(service: &str) -> String {
    let scope = format!("AKTEST/20260101/us-east-1/{service}/aws4_request");
    format!("Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none\r\n")
}

fn call(addr: SocketAddr, service: &str, target: &str, input: &Value) -> (u16, Value) {
    let kind = if service == "sqs" { "1.0" } else { "1.1" };
    let head = format!(
        "POST / HTTP/1.0\r\n{}Content-Type: application/x-amz-json-{kind}\r\nX-Amz-Target: {target}\r\n",
        signed(service)
    );
    let (status, body) = http(addr, &head, &input.to_string()).expect("it answers");
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{target}: {body}")))
}

fn ecs(addr: SocketAddr, operation: &str, input: &Value) -> (u16, Value) {
    call(addr, "ecs", &format!("AmazonEC2ContainerServiceV20141113.{operation}"), input)
}

fn sqs(addr: SocketAddr, operation: &str, input: &Value) -> (u16, Value) {
    call(addr, "sqs", &format!("AmazonSQS.{operation}"), input)
}

/// Every path in a value with the type that stands there; the elements of a list count as one.
fn shape(value: &Value) -> BTreeMap<String, &'static str> {
    fn walk(value: &Value, path: &str, shape: &mut BTreeMap<String, &'static str>) {
        let kind = match value {
            Value::Null => return,
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "text",
            Value::Array(list) => {
                list.iter().for_each(|inner| walk(inner, &format!("{path}[]"), shape));
                "list"
            }
            Value::Object(map) => {
                map.iter().for_each(|(key, inner)| walk(inner, &format!("{path}.{key}"), shape));
                "map"
            }
        };
        shape.insert(path.to_owned(), kind);
    }
    let mut found = BTreeMap::new();
    walk(value, "", &mut found);
    found
}

/// What both have must have one type; what only moto has must be listed, with a reason, in `poorer`.
fn compare(what: &str, lab: &Value, moto: &Value, poorer: &[&str]) {
    let (ours, theirs) = (shape(lab), shape(moto));
    let mut wrong = Vec::new();
    for (path, kind) in &theirs {
        match ours.get(path) {
            Some(our) if our == kind => {}
            Some(our) => wrong.push(format!("{path} is {our} in the lab and {kind} in moto")),
            None if poorer.iter().any(|known| path.starts_with(known)) => {}
            None => wrong.push(format!("{path} ({kind}) is missing in the lab")),
        }
    }
    assert!(wrong.is_empty(), "{what}: {wrong:#?}\nlab: {lab}\nmoto: {moto}");
    let shared = theirs.keys().filter(|path| ours.contains_key(*path)).count();
    assert!(shared * 2 >= theirs.len(), "{what}: only {shared} of {} are compared", theirs.len());
}

fn lab() -> SocketAddr {
    let services = vec![Pair { name: "web".to_owned(), tasks: 2 }];
    let scenario = LabScenario { services, ..LabScenario::default() };
    let (tell, told) = mpsc::channel();
    // It ends with the test's process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = listen("127.0.0.1:0".parse().expect("an address")).await.expect("it listens");
            tell.send(listener.local_addr().expect("an address")).expect("the test waits");
            let settings = Settings { scenario, speed: 0, stamps: Stamps::World };
            serve(listener, settings, std::future::pending()).await.expect("it serves");
        });
    });
    told.recv_timeout(PATIENCE).expect("the lab starts")
}

/// A cluster with one service, as the lab has it.
fn furnish(moto: SocketAddr) {
    let done = |(status, answer): (u16, Value)| assert_eq!(status, 200, "{answer}");
    done(ecs(moto, "CreateCluster", &json!({ "clusterName": "lab" })));
    let container = json!({ "name": "app", "image": "lab", "essential": true });
    done(ecs(
        moto,
        "RegisterTaskDefinition",
        &json!({
            "family": "web-spot", "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "4096",
            "memory": "16384", "containerDefinitions": [container],
        }),
    ));
    done(ecs(
        moto,
        "CreateService",
        &json!({
            "cluster": "lab", "serviceName": "web-spot", "taskDefinition": "web-spot", "desiredCount": 2,
            "capacityProviderStrategy": [{ "capacityProvider": "FARGATE_SPOT", "weight": 1, "base": 0 }],
        }),
    ));
    done(sqs(moto, "CreateQueue", &json!({ "QueueName": "lifeboat-events-dead" })));
    let redrive = json!({
        "deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:lifeboat-events-dead", "maxReceiveCount": 5,
    });
    done(sqs(
        moto,
        "CreateQueue",
        &json!({ "QueueName": "lifeboat-events", "Attributes": { "RedrivePolicy": redrive.to_string() } }),
    ));
}

#[test]
fn ecs_answers_have_motos_shape() {
    let Some(moto) = Moto::start() else { return };
    let lab = lab();
    furnish(moto.addr());
    let both = |operation: &str, input: &Value, poorer: &[&str]| {
        let (ours, theirs) = (ecs(lab, operation, input), ecs(moto.addr(), operation, input));
        assert_eq!(ours.0, theirs.0, "{operation}: {} {}", ours.1, theirs.1);
        compare(operation, &ours.1, &theirs.1, poorer);
    };
    let service = json!({ "cluster": "lab", "services": ["web-spot"], "include": ["TAGS"] });
    // A service with a capacity provider has no launch type of its own, and task sets are of other controllers: moto
    // shows both.
    let poorer = [".services[].launchType", ".services[].deployments[].launchType", ".services[].taskSets"];
    both("DescribeServices", &service, &poorer);
    both("DescribeServices", &json!({ "cluster": "lab", "services": ["gone"] }), &[]);
    both("ListServices", &json!({ "cluster": "lab" }), &[]);
    both("ListTasks", &json!({ "cluster": "lab" }), &[]);
    // AWS shows settings only where they are asked for.
    both("DescribeClusters", &json!({ "clusters": ["lab"] }), &[".clusters[].settings[]"]);
    let update = json!({ "cluster": "lab", "service": "web-spot", "desiredCount": 3 });
    let poorer =
        [".service.tags", ".service.launchType", ".service.deployments[].launchType", ".service.taskSets"];
    both("UpdateService", &update, &poorer);
    let gone = json!({ "cluster": "lab", "service": "gone", "desiredCount": 3 });
    both("UpdateService", &gone, &[".Message"]);
    let (ours, theirs) = (ecs(lab, "UpdateService", &gone).1, ecs(moto.addr(), "UpdateService", &gone).1);
    assert_eq!(ours["__type"], theirs["__type"]);
    let elsewhere = json!({ "cluster": "other", "services": ["web-spot"] });
    let (ours, theirs) =
        (ecs(lab, "DescribeServices", &elsewhere), ecs(moto.addr(), "DescribeServices", &elsewhere));
    assert_eq!((ours.0, &ours.1["__type"]), (theirs.0, &theirs.1["__type"]));
}

#[test]
fn queue_answers_have_motos_shape() {
    let Some(moto) = Moto::start() else { return };
    let lab = lab();
    furnish(moto.addr());
    let url = |addr: SocketAddr| {
        let (status, answer) = sqs(addr, "GetQueueUrl", &json!({ "QueueName": "lifeboat-events" }));
        assert_eq!(status, 200, "{answer}");
        answer["QueueUrl"].clone()
    };
    let (our_url, their_url) = (url(lab), url(moto.addr()));
    let both = |operation: &str, mut input: Value, poorer: &[&str]| {
        input["QueueUrl"] = our_url.clone();
        let ours = sqs(lab, operation, &input);
        input["QueueUrl"] = their_url.clone();
        let theirs = sqs(moto.addr(), operation, &input);
        assert_eq!(ours.0, theirs.0, "{operation}: {} {}", ours.1, theirs.1);
        compare(operation, &ours.1, &theirs.1, poorer);
        (ours.1, theirs.1)
    };
    both("SendMessage", json!({ "MessageBody": "one" }), &[]);
    both("SendMessageBatch", json!({ "Entries": [{ "Id": "a", "MessageBody": "two" }] }), &[]);
    let receive = json!({ "MaxNumberOfMessages": 10, "AttributeNames": ["All"], "VisibilityTimeout": 60 });
    let (ours, theirs) = both("ReceiveMessage", receive, &[]);
    let bodies = |answer: &Value| -> Vec<Value> {
        answer["Messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|message| message["Body"].clone())
            .collect()
    };
    assert_eq!(bodies(&ours), bodies(&theirs));
    assert_eq!(ours["Messages"][0]["MD5OfBody"], theirs["Messages"][0]["MD5OfBody"]);
    both("ReceiveMessage", json!({}), &[]);
    // moto's own moments of creation and change; policies that the lab has none of.
    let poorer = [
        ".Attributes.CreatedTimestamp",
        ".Attributes.LastModifiedTimestamp",
        ".Attributes.Policy",
        ".Attributes.Sqs",
    ];
    both("GetQueueAttributes", json!({ "AttributeNames": ["All"] }), &poorer);
    let settle = |addr: SocketAddr, url: &Value, received: &Value| {
        let receipt = |index: usize| received["Messages"][index]["ReceiptHandle"].clone();
        let hide = json!({ "QueueUrl": url, "ReceiptHandle": receipt(0), "VisibilityTimeout": 30 });
        let entries = json!([{ "Id": "1", "ReceiptHandle": receipt(0), "VisibilityTimeout": 30 }]);
        let hide_all = json!({ "QueueUrl": url, "Entries": entries });
        let delete = json!({ "QueueUrl": url, "ReceiptHandle": receipt(1) });
        let delete_all = json!({ "QueueUrl": url, "Entries": [{ "Id": "1", "ReceiptHandle": receipt(0) }] });
        // Of the first and the third some stand-ins answer nothing at all, as AWS does.
        let hidden = sqs_status(addr, "ChangeMessageVisibility", &hide);
        let all_hidden = sqs(addr, "ChangeMessageVisibilityBatch", &hide_all);
        let deleted = sqs_status(addr, "DeleteMessage", &delete);
        let all_deleted = sqs(addr, "DeleteMessageBatch", &delete_all);
        (hidden, all_hidden, deleted, all_deleted)
    };
    let (ours, theirs) = (settle(lab, &our_url, &ours), settle(moto.addr(), &their_url, &theirs));
    assert_eq!((ours.0, ours.2), (theirs.0, theirs.2));
    compare("ChangeMessageVisibilityBatch", &ours.1.1, &theirs.1.1, &[]);
    compare("DeleteMessageBatch", &ours.3.1, &theirs.3.1, &[]);
    let nowhere = json!({ "QueueName": "nowhere" });
    let (ours, theirs) = (sqs(lab, "GetQueueUrl", &nowhere), sqs(moto.addr(), "GetQueueUrl", &nowhere));
    assert_eq!((ours.0, &ours.1["__type"]), (theirs.0, &theirs.1["__type"]));
}

fn sqs_status(addr: SocketAddr, operation: &str, input: &Value) -> u16 {
    let head = format!(
        "POST / HTTP/1.0\r\n{}Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: AmazonSQS.{operation}\r\n",
        signed("sqs")
    );
    http(addr, &head, &input.to_string()).expect("it answers").0
}

#[test]
fn published_alerts_and_commands_are_answered_in_motos_shape() {
    let Some(moto) = Moto::start() else { return };
    let lab = lab();
    let form = |addr: SocketAddr, service: &str, body: &str| {
        let head = format!(
            "POST / HTTP/1.0\r\n{}Content-Type: application/x-www-form-urlencoded\r\n",
            signed(service)
        );
        http(addr, &head, body).expect("it answers")
    };
    let (_, made) = form(moto.addr(), "sns", "Action=CreateTopic&Version=2010-03-31&Name=alerts");
    assert!(made.contains("arn:aws:sns:us-east-1:123456789012:alerts"), "{made}");
    let publish =
        "Action=Publish&Version=2010-03-31&TopicArn=arn:aws:sns:us-east-1:123456789012:alerts&Message=m";
    let (ours, theirs) = (form(lab, "sns", publish), form(moto.addr(), "sns", publish));
    assert_eq!(ours.0, theirs.0);
    assert_eq!(elements(&ours.1), elements(&theirs.1));
    let metrics = "Action=PutMetricData&Version=2010-08-01&Namespace=Lifeboat&MetricData.member.1.MetricName=a\
                   &MetricData.member.1.Value=1";
    let (ours, theirs) = (form(lab, "monitoring", metrics), form(moto.addr(), "monitoring", metrics));
    assert_eq!((ours.0, elements(&ours.1)), (theirs.0, elements(&theirs.1)));
    let command = json!({
        "DocumentName": "AWS-RunShellScript", "InstanceIds": ["i-1"], "Parameters": { "commands": ["lifeboat evacuate"] },
    });
    let ours = call(lab, "ssm", "AmazonSSM.SendCommand", &command);
    let theirs = call(moto.addr(), "ssm", "AmazonSSM.SendCommand", &command);
    assert_eq!((ours.0, theirs.0), (200, 200), "{} {}", ours.1, theirs.1);
    // moto writes these two times as text, which the SDK does not read; AWS writes numbers.
    let mut theirs = theirs.1;
    for key in ["RequestedDateTime", "ExpiresAfter"] {
        theirs["Command"][key] = json!(0);
    }
    // moto names an event for a notification that nobody asked for.
    compare("SendCommand", &ours.1, &theirs, &[".Command.NotificationConfig.NotificationEvents[]"]);
}

/// The names of an XML text's elements, in order.
fn elements(xml: &str) -> Vec<String> {
    let tags = xml.split('<').skip(1).filter(|tag| !tag.starts_with(['/', '?', '!']));
    tags.filter_map(|tag| tag.split([' ', '>', '/', '\n']).next()).map(str::to_owned).collect()
}

//! A running moto server: SQS, DynamoDB, SNS, ECS and more, in memory. Where it is wrong, [`super::Wire`] answers.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the tests are written for; `xtask/src/ci/steps.rs` installs it.
const VERSION: &str = "5.2.5";

/// Python reads a lot before it listens; on a busy machine that takes its time.
const START_MAX: Duration = Duration::from_secs(120);

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct Moto {
    child: Child,
    port: u16,
}

/// Where the server is; `None` where it is not installed, which `LIFEBOAT_TEST_AWS=1` (as set by CI) makes a failure.
fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let home = cache.join(format!("lifeboat/tools/moto-{VERSION}"));
    let is_there = home.join("installed").is_file();
    let told = format!("{} is missing: cargo xtask ci --step aws-server", home.display());
    assert!(is_there || std::env::var_os("LIFEBOAT_TEST_AWS").is_none(), "{told}");
    if !is_there {
        // Past the test runner's capture on purpose would be noise; `--nocapture` shows it.
        let _ = writeln!(std::io::stderr(), "skipped: {told}"); // nobody else to tell
    }
    is_there.then(|| home.join("bin/moto_server"))
}

impl Moto {
    /// Starts one with nothing in it, or says that there is none to start.
    ///
    /// # Panics
    /// When it is installed and does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = program()?;
        for _ in 0..5 {
            if let Some(moto) = Self::launch(&program) {
                return Some(moto);
            }
        }
        panic!("moto does not start");
    }

    /// `None` when somebody else took the port in the meantime.
    fn launch(program: &PathBuf) -> Option<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0)).ok()?.local_addr().ok()?.port();
        let child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            // It must neither look for credentials nor find a metadata service.
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto can be started");
        let mut moto = Self { child, port };
        let until = Instant::now() + START_MAX;
        while !moto.answers() {
            if matches!(moto.child.try_wait(), Ok(Some(_))) {
                return None;
            }
            assert!(Instant::now() < until, "moto does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(moto)
    }

    /// Whether it is moto that answers: somebody else may have taken the port.
    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /moto-api/data.json HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut text = String::new();
            stream.take(64).read_to_string(&mut text)?;
            Ok(text)
        };
        ask().is_ok_and(|text| text.contains(" 200 "))
    }

    /// Makes one call of AWS's JSON protocols, unsigned: to set things up and to look at what came of it.
    ///
    /// # Panics
    /// When moto refuses it.
    #[must_use]
    pub fn json(&self, service: &str, target: &str, body: &serde_json::Value) -> serde_json::Value {
        let answer = self.post_json(service, target, body);
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{target}: {answer}"))
    }

    /// Makes one call of AWS's query protocol, unsigned. `form` is `Action=…&Version=…&…`; the answer is XML.
    ///
    /// # Panics
    /// When moto refuses it.
    #[must_use]
    pub fn query(&self, service: &str, form: &str) -> String {
        self.post(service, "Content-Type: application/x-www-form-urlencoded\r\n", form)
    }

    fn post(&self, service: &str, head: &str, body: &str) -> String {
        let scope = format!("AKTEST/20260101/{}/{service}/aws4_request", super::REGION);
        let signed = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none");
        let text = format!(
            "POST / HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nAuthorization: {signed}\r\n{head}Content-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("moto listens");
        stream.write_all(text.as_bytes()).expect("moto reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("moto answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.contains(" 200 "), "{service}: {head}\n{body}");
        body.to_owned()
    }

    /// Creates a queue and returns its URL. `attributes` as SQS names them.
    ///
    /// # Panics
    /// When moto refuses it.
    #[must_use]
    pub fn create_queue(&self, name: &str, attributes: &serde_json::Value) -> String {
        let body = serde_json::json!({ "QueueName": name, "Attributes": attributes });
        let answer = self.json("sqs", "AmazonSQS.CreateQueue", &body);
        answer["QueueUrl"].as_str().expect("a URL").to_owned()
    }

    /// Creates a table whose keys are texts.
    ///
    /// # Panics
    /// When moto refuses it.
    pub fn create_table(&self, name: &str, partition: &str, sort: Option<&str>) {
        let keys = [(Some(partition), "HASH"), (sort, "RANGE")];
        let keys = keys.iter().filter_map(|(name, kind)| Some((((*name)?), *kind)));
        let defined: Vec<_> = keys
            .clone()
            .map(|(name, _)| serde_json::json!({ "AttributeName": name, "AttributeType": "S" }))
            .collect();
        let schema: Vec<_> =
            keys.map(|(name, kind)| serde_json::json!({ "AttributeName": name, "KeyType": kind })).collect();
        let body = serde_json::json!({
            "TableName": name, "AttributeDefinitions": defined, "KeySchema": schema, "BillingMode": "PAY_PER_REQUEST",
        });
        let _ = self.json("dynamodb", "DynamoDB_20120810.CreateTable", &body); // it is there at once
    }

    /// Creates a topic with a queue behind it; returns the topic's ARN and the queue's URL.
    ///
    /// # Panics
    /// When moto refuses it.
    #[must_use]
    pub fn create_topic(&self, name: &str) -> (String, String) {
        let answer = self.query("sns", &format!("Action=CreateTopic&Version=2010-03-31&Name={name}"));
        let topic = between(&answer, "<TopicArn>", "</TopicArn>");
        let queue = self.create_queue(&format!("{name}-heard"), &serde_json::json!({}));
        let arn = topic.replace(":sns:", ":sqs:") + "-heard";
        let form = format!(
            "Action=Subscribe&Version=2010-03-31&TopicArn={topic}&Protocol=sqs&Endpoint={arn}\
             &Attributes.entry.1.key=RawMessageDelivery&Attributes.entry.1.value=true"
        );
        let _ = self.query("sns", &form); // refused would panic
        (topic, queue)
    }

    /// Bodies of the messages that wait in a queue; they are received and deleted.
    ///
    /// # Panics
    /// When moto refuses it.
    #[must_use]
    pub fn drain_queue(&self, queue: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            let body = serde_json::json!({ "QueueUrl": queue, "MaxNumberOfMessages": 10 });
            let answer = self.json("sqs", "AmazonSQS.ReceiveMessage", &body);
            let Some(messages) = answer["Messages"].as_array().filter(|list| !list.is_empty()) else {
                return bodies;
            };
            for message in messages {
                bodies.extend(message["Body"].as_str().map(str::to_owned));
                let body =
                    serde_json::json!({ "QueueUrl": queue, "ReceiptHandle": message["ReceiptHandle"] });
                let _ = self.post_json("sqs", "AmazonSQS.DeleteMessage", &body); // an empty answer
            }
        }
    }

    /// Makes a message visible that is in flight; one that is gone by now is no error.
    pub(super) fn make_visible(&self, queue: &str, receipt: &str) {
        let body = serde_json::json!({
            "QueueUrl": queue, "Entries": [{ "Id": "0", "ReceiptHandle": receipt, "VisibilityTimeout": 0 }],
        });
        let _ = self.json("sqs", "AmazonSQS.ChangeMessageVisibilityBatch", &body); // gone: nothing to do
    }

    fn post_json(&self, service: &str, target: &str, body: &serde_json::Value) -> String {
        let head = format!("Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: {target}\r\n");
        self.post(service, &head, &body.to_string())
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait(); // it was killed
    }
}

/// What stands between two marks of a text; empty where they are missing.
fn between(text: &str, open: &str, close: &str) -> String {
    let rest = text.split_once(open).map_or("", |(_, rest)| rest);
    rest.split_once(close).map_or("", |(found, _)| found).to_owned()
}

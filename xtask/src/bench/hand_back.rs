//! How long an agent needs to hand 500 messages back to SQS: against moto, whose own share is measured by the same
//! requests sent from a bare loop, and against a server that answers at once, which leaves the agent's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::Bench;
use super::process::{LOOK_AGAIN, Running, wait_for};
use super::worker::Client;

/// Receipts of one hand-back.
pub(crate) const RECEIPTS: usize = 500;

/// What SQS takes in one call.
const BATCH: usize = 10;

/// Calls that the bare loop makes at once: as many as the agent.
const PARALLEL: usize = 8;

/// Python on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);

/// What came out, a number for each round, ms.
#[derive(Debug, Default)]
pub(crate) struct HandBacks {
    /// The agent's stage that hands back, against moto.
    pub(crate) agent: Vec<f64>,
    /// The same calls by a loop that does nothing else.
    pub(crate) bare: Vec<f64>,
    /// The agent's stage against a server that answers at once.
    pub(crate) at_once: Vec<f64>,
}

/// Measures `rounds` times; `None` where moto is not installed.
///
/// # Errors
/// When a message is not handed back, or anything else does not do what it should.
pub(crate) fn measure(bench: &Bench, rounds: usize) -> anyhow::Result<Option<HandBacks>> {
    let Some(program) = crate::ci::moto_program() else { return Ok(None) };
    let moto = Moto::start(&program, &bench.scratch)?;
    let queue = moto.queue()?;
    let fast = answer_at_once()?;
    let mut found = HandBacks::default();
    for round in 0..rounds {
        let receipts = moto.receive(&queue)?;
        found.agent.push(evacuate(bench, &format!("moto-{round}"), moto.port, &queue, &receipts)?);
        ensure!(moto.in_flight(&queue)? == 0, "messages are still in flight");
        let receipts = moto.receive(&queue)?;
        found.bare.push(moto.hand_back(&queue, &receipts)?);
        ensure!(moto.in_flight(&queue)? == 0, "messages are still in flight");
        let nowhere = format!("http://127.0.0.1:{fast}/123456789012/q");
        found.at_once.push(evacuate(bench, &format!("fast-{round}"), fast, &nowhere, &receipts)?);
    }
    Ok(Some(found))
}

/// One agent that holds the receipts and is told to go; how long its stage took that hands back, ms.
fn evacuate(bench: &Bench, name: &str, port: u16, queue: &str, receipts: &[String]) -> anyhow::Result<f64> {
    let dir = bench.scratch.join(name);
    let (work, state) = (dir.join("work"), dir.join("state"));
    std::fs::create_dir_all(&work)?;
    let mut command = Command::new(&bench.lifeboat);
    command
        .args(["--quiet", "run", "--name", "bench", "--grace", "60s", "--store"])
        .arg(dir.join("store"))
        .arg("--work-dir")
        .arg(&work)
        .args(["--", "sleep", "100000"])
        .env("XDG_STATE_HOME", &state)
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "bench")
        .env("AWS_SECRET_ACCESS_KEY", "bench")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    let mut agent = Running::start(&mut command, &dir.join("agent.log"))?;
    let home = state.join("lifeboat/agents/bench");
    wait_for(&home.join("app.sock"), &mut agent, Duration::from_secs(60))?;
    let mut client = Client::connect(&home.join("app.sock"))?;
    for receipt in receipts {
        let body = json!({ "queue": queue, "receipt": receipt }).to_string();
        client.ask("POST", "/v1/receipts", body.as_bytes(), 201)?;
    }
    agent.terminate();
    let status = agent.ended(Duration::from_secs(120))?;
    ensure!(status.code() == Some(85), "the agent ended with {status}: {}", agent.said());
    let summary: Value = serde_json::from_slice(&std::fs::read(home.join("last_evacuation.json"))?)?;
    let stages = summary["stages"].as_array().context("a summary without stages")?;
    let stage = stages.iter().find(|stage| stage["stage"] == "save_state").context("no such stage")?;
    let detail = stage["detail"].as_str().unwrap_or_default();
    let wanted = format!("{} messages given back", receipts.len());
    ensure!(detail.contains(&wanted), "{detail}, not {wanted}");
    let took = stage["took_ms"].as_u64().context("a stage without its time")?;
    Ok(f64::from(u32::try_from(took)?))
}

/// A server that takes every batch at once.
fn answer_at_once() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    // Both end with the process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || while answer_one(&stream).is_some() {});
        }
    });
    Ok(port)
}

fn answer_one(stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.trim().parse().ok()?;
            }
            None if line.trim_end().is_empty() => break,
            Some(_) | None => {}
        }
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?;
    let body = r#"{"Successful":[],"Failed":[]}"#;
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    stream.write_all((head + body).as_bytes()).ok()
}

struct Moto {
    _process: Running,
    port: u16,
}

impl Moto {
    fn start(program: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]).stdout(Stdio::null());
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        let mut process = Running::start(&mut command, &scratch.join("moto.log"))?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            process.check_running()?;
            if begun.elapsed() > START_MAX {
                bail!("moto does not listen: {}", process.said());
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(Self { _process: process, port })
    }

    fn ask(&self, operation: &str, body: &Value) -> anyhow::Result<Value> {
        let body = body.to_string();
        let text = format!(
            "POST / HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/x-amz-json-1.0\r\n\
             X-Amz-Target: AmazonSQS.{operation}\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=bench/20260101/eu-west-1/sqs/aws4_request, \
             SignedHeaders=host, Signature=none\r\n\r\n{body}",
            self.port,
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.contains(" 200 "), "{operation}: {answer}");
        serde_json::from_str(body).with_context(|| format!("{operation}: {body}"))
    }

    /// A queue with as many messages as are handed back.
    fn queue(&self) -> anyhow::Result<String> {
        let attributes = json!({ "VisibilityTimeout": "43200" });
        let made = self.ask("CreateQueue", &json!({ "QueueName": "bench", "Attributes": attributes }))?;
        let queue = made["QueueUrl"].as_str().context("a queue without URL")?.to_owned();
        for _ in 0..RECEIPTS / BATCH {
            let entry = |n: usize| json!({ "Id": n.to_string(), "MessageBody": "{\"file\":\"a\"}" });
            let entries: Vec<Value> = (0..BATCH).map(entry).collect();
            self.ask("SendMessageBatch", &json!({ "QueueUrl": queue, "Entries": entries }))?;
        }
        Ok(queue)
    }

    /// Receives every message.
    fn receive(&self, queue: &str) -> anyhow::Result<Vec<String>> {
        let mut receipts = Vec::new();
        while receipts.len() < RECEIPTS {
            let asked = json!({ "QueueUrl": queue, "MaxNumberOfMessages": BATCH });
            let answer = self.ask("ReceiveMessage", &asked)?;
            let messages = answer["Messages"].as_array().context("messages are missing")?;
            receipts.extend(
                messages.iter().filter_map(|message| message["ReceiptHandle"].as_str().map(str::to_owned)),
            );
        }
        Ok(receipts)
    }

    fn in_flight(&self, queue: &str) -> anyhow::Result<u64> {
        let asked = json!({ "QueueUrl": queue, "AttributeNames": ["All"] });
        let answer = self.ask("GetQueueAttributes", &asked)?;
        let count = answer["Attributes"]["ApproximateNumberOfMessagesNotVisible"].as_str();
        Ok(count.context("a queue that does not count")?.parse()?)
    }

    /// Makes every message visible, as the agent does: in tens, some of them at once. How long that took, ms.
    fn hand_back(&self, queue: &str, receipts: &[String]) -> anyhow::Result<f64> {
        let batches: Vec<Value> = receipts
            .chunks(BATCH)
            .map(|chunk| {
                let entry = |(n, receipt): (usize, &String)| {
                    json!({ "Id": n.to_string(), "ReceiptHandle": receipt, "VisibilityTimeout": 0 })
                };
                let entries: Vec<Value> = chunk.iter().enumerate().map(entry).collect();
                json!({ "QueueUrl": queue, "Entries": entries })
            })
            .collect();
        let begun = Instant::now();
        thread::scope(|scope| {
            let lanes: Vec<_> = (0..PARALLEL)
                .map(|lane| {
                    let mine = batches.iter().skip(lane).step_by(PARALLEL);
                    scope.spawn(move || -> anyhow::Result<()> {
                        for batch in mine {
                            self.ask("ChangeMessageVisibilityBatch", batch)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            for lane in lanes {
                match lane.join() {
                    Ok(done) => done?,
                    Err(_) => bail!("a lane panicked"),
                }
            }
            Ok(())
        })?;
        Ok(begun.elapsed().as_secs_f64() * 1_000.0)
    }
}

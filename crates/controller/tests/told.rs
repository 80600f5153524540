//! What leaves the controller for people and their tools: a Slack webhook, and Prometheus on loopback.

mod common;

use common::{LIMIT, Rig, settings, until};
use lifeboat_controller::alert::Slack;
use lifeboat_controller::fleet::Mode;
use lifeboat_controller::port::{Alerts, CallError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers requests one after the other with these lines, and returns what was asked.
async fn answering(listener: TcpListener, answers: Vec<&'static str>) -> Vec<String> {
    let mut asked = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.expect("somebody connects");
        let mut text = String::new();
        let mut buffer = [0_u8; 4_096];
        while !text.ends_with('}') {
            let count = stream.read(&mut buffer).await.expect("readable");
            text += &String::from_utf8_lossy(&buffer[..count]);
        }
        asked.push(text);
        let head = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
    }
    asked
}

#[tokio::test]
async fn slack_gets_the_alert_and_its_answers_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/services/SECRET", listener.local_addr().expect("bound"));
    let answers = vec!["200 OK", "429 Too Many Requests", "503 Service Unavailable", "403 Forbidden"];
    let server = tokio::spawn(answering(listener, answers));
    let slack = Slack::new(&url).expect("a URL");
    assert!(!format!("{slack:?}").contains("SECRET"));
    assert_eq!(slack.send("orders fails over", "reason: \"x\"").await, Ok(()));
    assert!(matches!(slack.send("a", "b").await, Err(CallError::Throttled(_))));
    assert!(matches!(slack.send("a", "b").await, Err(CallError::Unavailable(_))));
    assert!(matches!(slack.send("a", "b").await, Err(CallError::Refused(_))));
    let asked = tokio::time::timeout(LIMIT, server).await.expect("it ends").expect("no panic");
    assert!(asked[0].starts_with("POST /services/SECRET"), "{}", asked[0]);
    let body: serde_json::Value =
        serde_json::from_str(asked[0].split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    assert_eq!(body["text"], "*orders fails over*\nreason: \"x\"");
    let gone = slack.send("a", "b").await.expect_err("nobody listens");
    assert!(!gone.to_string().contains("SECRET"), "{gone}");
    assert!(Slack::new("ftp://x").is_err());
}

async fn metrics(address: std::net::SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

#[tokio::test]
async fn prometheus_sees_services_and_totals() {
    let rig = Rig::new();
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    // A port that is free now; that somebody takes it in between would fail loudly.
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("free");
    let running = rig.spawn(settings(20, ""), Mode { prometheus: Some(address), ..Mode::default() });
    until("the shortfall is covered", || rig.ecs.desired("orders-standard") == 4).await;
    let end = std::time::Instant::now() + LIMIT;
    loop {
        let text = metrics(address).await.unwrap_or_default();
        let wanted = [
            "lifeboat_failover_active{service=\"orders\"} 1",
            "lifeboat_spot_ready{service=\"orders\"} 6",
            "lifeboat_on_demand_ready{service=\"orders\"} 4",
            "lifeboat_orders_total ",
            "# TYPE lifeboat_spot_health_score gauge",
        ];
        if wanted.iter().all(|line| text.contains(line)) {
            break;
        }
        assert!(std::time::Instant::now() < end, "{text}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    running.stop().await;
}

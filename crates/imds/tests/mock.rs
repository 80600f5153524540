//! The mock does what the metadata service is documented to do, plays its script, and obeys its control end
//! point.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use common::{ask, ask_over, mock, read, token};
use lifeboat_core::time::Millis;
use lifeboat_imds::WallClock;
use lifeboat_imds::mock::{
    Fault, FaultKind, Mock, NoticePlan, RebalancePlan, Script, ServeError, StatePlan, TerminationTimePlan,
    TokenUse, serve,
};
use lifeboat_imds::wire::Action;
use tokio::time::{advance, sleep};

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

#[tokio::test(start_paused = true)]
async fn a_token_needs_a_ttl_of_1_to_21600_seconds() {
    let mock = mock(Script::default());
    for (ttl, status) in [("1", 200), ("21600", 200), ("0", 400), ("21601", 400), ("x", 400), ("-1", 400)] {
        let answer = ask(&mock, "PUT /latest/api/token", &[&format!("{TTL}: {ttl}")], "").await;
        assert_eq!(answer.status, status, "{ttl}");
        if status == 200 {
            assert_eq!(answer.header(TTL), Some(ttl));
        }
    }
    assert_eq!(ask(&mock, "PUT /latest/api/token", &[], "").await.status, 400);
    assert_eq!(ask(&mock, "POST /latest/api/token", &[&format!("{TTL}: 60")], "").await.status, 405);
}

#[tokio::test(start_paused = true)]
async fn a_token_request_with_x_forwarded_for_is_refused() {
    let mock = mock(Script::default());
    let headers = [&format!("{TTL}: 60") as &str, "X-Forwarded-For: 10.0.0.1"];
    assert_eq!(ask(&mock, "PUT /latest/api/token", &headers, "").await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn a_missing_unknown_or_expired_token_is_401() {
    let mock = mock(Script::default());
    let line = "GET /latest/meta-data/instance-id";
    assert_eq!(ask(&mock, line, &[], "").await.status, 401);
    assert_eq!(ask(&mock, line, &["X-aws-ec2-metadata-token: AQAEmade-up"], "").await.status, 401);
    let token = token(&mock, 2).await;
    assert_eq!(ask(&mock, line, &[&token], "").await.status, 200);
    assert_eq!(ask(&mock, line, &[&token, &token], "").await.status, 401, "two tokens");
    advance(Duration::from_secs(2)).await;
    assert_eq!(ask(&mock, line, &[&token], "").await.status, 401);
    let requests = mock.control().requests();
    assert_eq!((requests.without_token, requests.with_several_tokens), (1, 1));
    assert_eq!(requests.of("GET /latest/meta-data/instance-id"), 5);
}

#[tokio::test(start_paused = true)]
async fn revoked_tokens_are_unknown_and_ttls_can_be_cut() {
    let mock = mock(Script { token_ttl_seconds_max: 5, ..Script::default() });
    let answer = ask(&mock, "PUT /latest/api/token", &[&format!("{TTL}: 21600")], "").await;
    assert_eq!(answer.header(TTL), Some("5"));
    let token = token(&mock, 60).await;
    let line = "GET /latest/meta-data/instance-id";
    assert_eq!(ask(&mock, line, &[&token], "").await.status, 200);
    mock.control().revoke_tokens();
    assert_eq!(ask(&mock, line, &[&token], "").await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn with_optional_tokens_a_bad_one_is_still_401() {
    let mock = mock(Script { tokens: TokenUse::Optional, ..Script::default() });
    let line = "GET /latest/meta-data/instance-id";
    assert_eq!(ask(&mock, line, &[], "").await.status, 200);
    assert_eq!(ask(&mock, line, &["X-aws-ec2-metadata-token: made-up"], "").await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_service_answers_403() {
    let mock = mock(Script { is_disabled: true, ..Script::default() });
    assert_eq!(ask(&mock, "PUT /latest/api/token", &[&format!("{TTL}: 60")], "").await.status, 403);
    assert_eq!(ask(&mock, "GET /latest/meta-data/instance-id", &[], "").await.status, 403);
    mock.control().disable(false);
    assert_eq!(read(&mock, "instance-id").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_healthy_instance_tells_who_it_is_and_announces_nothing() {
    let mock = mock(Script::default());
    for (path, text) in [
        ("instance-id", "i-0mock0000000000001"),
        ("instance-life-cycle", "spot"),
        ("instance-type", "c5.large"),
        ("placement/availability-zone", "us-east-1a"),
        ("placement/region", "us-east-1"),
        ("events/maintenance/scheduled", "[]"),
    ] {
        assert_eq!(read(&mock, path).await, (200, text.to_owned()));
    }
    for path in [
        "spot/instance-action",
        "spot/termination-time",
        "events/recommendations/rebalance",
        "autoscaling/target-lifecycle-state",
        "no/such/path",
    ] {
        assert_eq!(read(&mock, path).await.0, 404, "{path}");
    }
    let (_, listing) = read(&mock, "").await;
    assert!(listing.contains("instance-id") && !listing.contains("instance-action"), "{listing}");
}

#[tokio::test(start_paused = true)]
async fn the_date_follows_the_clock_and_its_skew() {
    let mock = mock(Script { skew_ms: 30_000, ..Script::default() });
    let date = |answer: common::Plain| answer.header("date").unwrap().to_owned();
    assert_eq!(date(ask(&mock, "GET /", &[], "").await), "Mon, 18 Sep 2017 08:20:30 GMT");
    mock.control().skew_ms(-60_000);
    assert_eq!(date(ask(&mock, "GET /", &[], "").await), "Mon, 18 Sep 2017 08:19:00 GMT");
}

#[tokio::test(start_paused = true)]
async fn amazon_ec2_metadata_mock_the_announced_time_does_not_move_with_each_request() {
    let plan = NoticePlan::now(Action::Terminate).after(Millis::from_secs(10));
    let mock = mock(Script { notice: Some(plan), ..Script::default() });
    assert_eq!(read(&mock, "spot/instance-action").await.0, 404);
    sleep(Duration::from_millis(9_999)).await;
    assert_eq!(read(&mock, "spot/instance-action").await.0, 404);
    // Nobody looks when the notice begins; its time counts from its beginning nevertheless.
    sleep(Duration::from_secs(7)).await;
    let expected = r#"{"action":"terminate","time":"2017-09-18T08:22:10Z"}"#;
    for _ in 0..50 {
        assert_eq!(read(&mock, "spot/instance-action").await, (200, expected.to_owned()));
        assert_eq!(read(&mock, "spot/termination-time").await.1, "2017-09-18T08:22:10Z");
        sleep(Duration::from_secs(7)).await;
    }
    mock.control().skew_ms(99_000);
    assert_eq!(read(&mock, "spot/instance-action").await.1, expected);
}

#[tokio::test(start_paused = true)]
async fn only_terminate_has_a_termination_time_and_hibernate_begins_at_once() {
    let mock = mock(Script::default());
    for (action, time) in [(Action::Stop, "08:22:00"), (Action::Hibernate, "08:20:00")] {
        mock.control().notice(NoticePlan::now(action.clone()));
        let (_, text) = read(&mock, "spot/instance-action").await;
        assert!(text.contains(action.as_str()) && text.contains(time), "{text}");
        assert_eq!(read(&mock, "spot/termination-time").await.0, 404);
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_notice_is_404_and_the_termination_time_may_stay() {
    let withdrawn_after = Some(Millis::from_secs(150));
    let notice = NoticePlan { withdrawn_after, ..NoticePlan::now(Action::Terminate) };
    let mock = mock(Script {
        notice: Some(notice),
        termination_time: TerminationTimePlan::Stays,
        ..Script::default()
    });
    assert_eq!(read(&mock, "spot/instance-action").await.0, 200);
    sleep(Duration::from_secs(150)).await;
    assert_eq!(read(&mock, "spot/instance-action").await.0, 404);
    assert_eq!(read(&mock, "spot/termination-time").await, (200, "2017-09-18T08:22:00Z".to_owned()));
    for (plan, expected) in [
        (TerminationTimePlan::Follows, (404, "404 - Not Found")),
        (TerminationTimePlan::Absent, (404, "404 - Not Found")),
        (TerminationTimePlan::Text("soon".to_owned()), (200, "soon")),
    ] {
        mock.control().termination_time(plan);
        assert_eq!(read(&mock, "spot/termination-time").await, (expected.0, expected.1.to_owned()));
    }
    mock.control().notice(NoticePlan::now(Action::Stop));
    mock.control().withdraw_notice();
    assert_eq!(read(&mock, "spot/instance-action").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn rebalance_and_lifecycle_state_come_when_planned() {
    let mock = mock(Script {
        rebalance: Some(RebalancePlan { after: Millis::from_secs(5), time_text: None }),
        target_lifecycle_state: Some(StatePlan {
            after: Millis::from_secs(5),
            state: "Terminated".to_owned(),
        }),
        ..Script::default()
    });
    let state = "autoscaling/target-lifecycle-state";
    let rebalance = "events/recommendations/rebalance";
    assert_eq!(read(&mock, rebalance).await.0, 404);
    assert_eq!(read(&mock, state).await.1, "InService");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(read(&mock, rebalance).await.1, r#"{"noticeTime":"2017-09-18T08:20:05Z"}"#);
    assert_eq!(read(&mock, state).await.1, "Terminated");
}

#[tokio::test(start_paused = true)]
async fn the_control_end_point_changes_everything_while_it_runs() {
    let mock = mock(Script::default());
    let put = async |path: &str, body: &str| {
        let line = format!("PUT /lifeboat-mock/{path}");
        let answer = ask(&mock, &line, &[], body).await;
        assert_eq!(answer.status, 204, "{path}: {answer:?}");
    };
    let delete = async |path: &str| {
        assert_eq!(ask(&mock, &format!("DELETE /lifeboat-mock/{path}"), &[], "").await.status, 204);
    };
    put("notice", r#"{"action":"stop","length_ms":30000}"#).await;
    let expected = r#"{"action":"stop","time":"2017-09-18T08:20:30Z"}"#;
    assert_eq!(read(&mock, "spot/instance-action").await.1, expected);
    put("notice", r#"{"time_text":"someday"}"#).await;
    assert_eq!(read(&mock, "spot/instance-action").await.1, r#"{"action":"terminate","time":"someday"}"#);
    put("notice", r#"{"action":"hibernate"}"#).await;
    assert!(read(&mock, "spot/instance-action").await.1.contains("08:20:00Z"), "hibernation starts at once");
    delete("notice").await;
    assert_eq!(read(&mock, "spot/instance-action").await.0, 404);
    put("rebalance", "{}").await;
    assert_eq!(read(&mock, "events/recommendations/rebalance").await.0, 200);
    delete("rebalance").await;
    assert_eq!(read(&mock, "events/recommendations/rebalance").await.0, 404);
    put("lifecycle", r#"{"state":"Standby"}"#).await;
    assert_eq!(read(&mock, "autoscaling/target-lifecycle-state").await.1, "Standby");
    delete("lifecycle").await;
    put("events", r#"[{"Code":"system-reboot","NotBefore":"21 Jan 2019 09:00:43 GMT"}]"#).await;
    assert!(read(&mock, "events/maintenance/scheduled").await.1.contains("21 Jan 2019 09:00:43 GMT"));
    put("termination-time", r#"{"text":"never"}"#).await;
    assert_eq!(read(&mock, "spot/termination-time").await.1, "never");
    put("identity", r#"{"instance_id":"i-2"}"#).await;
    assert_eq!(read(&mock, "instance-id").await.1, "i-2");
    assert_eq!(read(&mock, "instance-type").await.0, 404);
    put("skew", "-1000").await;
    put("faults", r#"["503:1"]"#).await;
    assert_eq!(ask(&mock, "GET /latest/meta-data/instance-id", &[], "").await.status, 503);
    put("disabled", "true").await;
    assert_eq!(ask(&mock, "GET /latest/meta-data/instance-id", &[], "").await.status, 403);
    delete("tokens").await;
    let counted = ask(&mock, "GET /lifeboat-mock/requests", &[], "").await.body;
    assert!(counted.contains(r#""GET /latest/meta-data/spot/instance-action":4"#), "{counted}");
    delete("requests").await;
    assert_eq!(mock.control().requests().total, 0);
    for (path, body) in [("notice", "{"), ("notice", r#"{"nonsense":1}"#), ("faults", r#"["402"]"#)] {
        let answer = ask(&mock, &format!("PUT /lifeboat-mock/{path}"), &[], body).await;
        assert_eq!(answer.status, 400, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_control_end_point_refuses_forwarded_requests() {
    let mock = mock(Script::default());
    let forwarded = ["X-Forwarded-For: 10.0.0.1"];
    assert_eq!(ask(&mock, "PUT /lifeboat-mock/notice", &forwarded, "{}").await.status, 403);
    assert_eq!(ask(&mock, "GET /lifeboat-mock/requests", &forwarded, "").await.status, 403);
    assert_eq!(read(&mock, "spot/instance-action").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn a_share_of_requests_fails_by_the_seed() {
    let statuses = async |seed| {
        let faults = vec!["503@metadata:30%".parse().unwrap()];
        let mock = mock(Script { faults, seed, ..Script::default() });
        let mut statuses = Vec::new();
        for _ in 0..300 {
            statuses.push(ask(&mock, "GET /latest/meta-data/instance-id", &[], "").await.status);
        }
        statuses
    };
    let first = statuses(1).await;
    assert_eq!(first, statuses(1).await, "the same seed, the same faults");
    assert_ne!(first, statuses(2).await);
    let hits = first.iter().filter(|status| **status == 503).count();
    assert!((60..120).contains(&hits), "{hits} of 300");
}

#[tokio::test(start_paused = true)]
async fn faults_hit_the_next_requests_of_their_target_only() {
    let mock = mock(Script::default());
    mock.control().faults(vec!["403@token:1".parse().unwrap(), Fault::next(FaultKind::Garbage, 2)]);
    assert_eq!(ask(&mock, "GET /x", &[], "").await.body, "\u{1}<garbage/>");
    // Both apply to the token request; the later one decides.
    assert_eq!(ask(&mock, "PUT /latest/api/token", &[], "").await.status, 200);
    assert_eq!(ask(&mock, "PUT /latest/api/token", &[], "").await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn extreme_values_are_played_without_a_panic() {
    let mock = mock(Script { skew_ms: i64::MAX, ..Script::default() });
    let most = Some(Millis(u64::MAX));
    let plan = NoticePlan::now(Action::Terminate);
    mock.control().notice(NoticePlan { length: Millis(u64::MAX), withdrawn_after: most, ..plan.clone() });
    mock.control().faults(vec![Fault::always(FaultKind::ShortToken(Millis(u64::MAX)))]);
    assert!(read(&mock, "spot/instance-action").await.1.contains("9999-12-30"));
    mock.control().notice(plan.after(Millis(u64::MAX)));
    mock.control().skew_ms(i64::MIN);
    assert_eq!(read(&mock, "spot/instance-action").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn request_counts_are_bounded() {
    let mock = mock(Script::default());
    for number in 0..500 {
        ask(&mock, &format!("GET /{number}"), &[], "").await;
    }
    let requests = mock.control().requests();
    assert_eq!((requests.total, requests.by_path.len()), (500, 65));
    assert_eq!(requests.of("other"), 436);
}

#[tokio::test]
async fn the_mock_refuses_to_serve_anything_but_loopback() {
    for addr in ["0.0.0.0:0", "[::]:0", "169.254.169.254:80", "10.0.0.1:0", "[::ffff:10.0.0.1]:0"] {
        let result = Mock::start(addr.parse().unwrap(), Script::default()).await;
        assert!(matches!(result, Err(ServeError::NotLoopback { .. })), "{addr}");
    }
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let result = serve(listener, Script::default(), std::future::ready(())).await;
    assert!(matches!(result, Err(ServeError::NotLoopback { .. })));
}

#[tokio::test]
async fn the_mock_serves_tcp_and_stops() {
    let start = || Mock::start("127.0.0.1:0".parse().unwrap(), Script::default());
    let mock = start().await.unwrap();
    let addr = mock.addr;
    let connect = move || tokio::net::TcpStream::connect(addr);
    let answers = (0..32).map(move |_| async move {
        let header = format!("{TTL}: 60");
        ask_over(connect().await.unwrap(), "PUT /latest/api/token", &[&header], "").await.body
    });
    let mut running = tokio::task::JoinSet::new();
    answers.for_each(|answer| {
        running.spawn(answer);
    });
    let tokens: std::collections::BTreeSet<_> = running.join_all().await.into_iter().collect();
    assert_eq!(tokens.len(), 32, "32 callers at once, 32 tokens");
    assert!(matches!(
        Mock::start_with_clock(addr, Script::default(), WallClock::system()).await,
        Err(ServeError::Bind { .. })
    ));
    mock.stop().await;
    assert!(connect().await.is_err());
}

#[tokio::test]
async fn serve_ends_with_its_shutdown_and_closes_connections() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(listener, Script::default(), async {
        let _ = stopped.await;
    }));
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    assert_eq!(ask_over(stream, "GET /latest/meta-data/", &[], "").await.status, 401);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}

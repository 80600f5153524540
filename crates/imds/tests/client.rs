//! The client against every fault, and the mistakes of other clients that it must not repeat.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{client_over, counting_client, mock, wall};
use lifeboat_core::clock::ClockDifference;
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_imds::identity::identity;
use lifeboat_imds::mock::{Fault, FaultKind, FaultTarget, MemoryMock, Mock, NoticePlan, Script, TokenUse};
use lifeboat_imds::wire::Action;
use lifeboat_imds::{Client, Endpoint, GetErrorKind, WallClock};
use tokio::io::copy_bidirectional;
use tokio::time::{Instant, advance};

const ID: &str = "instance-id";

async fn failure(client: &mut Client) -> GetErrorKind {
    let error = client.get(ID).await.expect_err("a fault");
    assert!(!error.chain().is_empty() && !error.remedy().is_empty());
    error.kind()
}

fn faulty(faults: &[&str]) -> MemoryMock {
    mock(Script { faults: faults.iter().map(|text| text.parse().unwrap()).collect(), ..Script::default() })
}

fn token_requests(mock: &MemoryMock) -> u64 {
    mock.control().requests().of("PUT /latest/api/token")
}

#[tokio::test(start_paused = true)]
async fn one_connection_and_one_token_serve_many_requests() {
    let mock = Arc::new(mock(Script::default()));
    let (mut client, opened) = counting_client(&mock);
    for _ in 0..100 {
        let answer = client.get(ID).await.unwrap();
        assert_eq!(answer.value.as_deref(), Some("i-0mock0000000000001"));
        assert_eq!(client.instance_action().await.unwrap().value, None);
    }
    assert_eq!((opened.load(Ordering::Relaxed), token_requests(&mock)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_ends() {
    let mock = Arc::new(mock(Script { token_ttl_seconds_max: 100, ..Script::default() }));
    let (mut client, _) = counting_client(&mock);
    client.get(ID).await.unwrap();
    advance(Duration::from_secs(89)).await;
    client.get(ID).await.unwrap();
    assert_eq!(token_requests(&mock), 1);
    advance(Duration::from_secs(2)).await;
    client.get(ID).await.unwrap();
    assert_eq!(token_requests(&mock), 2);
    assert_eq!(mock.control().requests().of("GET /latest/meta-data/instance-id"), 3, "no 401 on the way");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_uses_the_old_token_until_its_end() {
    let mock = mock(Script { token_ttl_seconds_max: 100, ..Script::default() });
    let mut client = mock.client();
    client.get(ID).await.unwrap();
    mock.control().faults(vec!["503@token".parse().unwrap()]);
    advance(Duration::from_secs(91)).await;
    for _ in 0..5 {
        client.get(ID).await.unwrap();
    }
    assert_eq!(token_requests(&mock), 2, "one failed renewal, then a pause");
    advance(Duration::from_secs(9)).await;
    assert_eq!(failure(&mut client).await, GetErrorKind::Throttled);
}

#[tokio::test(start_paused = true)]
async fn nth_the_retry_after_401_sends_the_fresh_token_alone() {
    let mock = mock(Script::default());
    let mut client = mock.client();
    client.get(ID).await.unwrap();
    mock.control().revoke_tokens();
    mock.control().reset_requests();
    assert!(client.get(ID).await.unwrap().value.is_some());
    let requests = mock.control().requests();
    assert_eq!(requests.with_several_tokens, 0);
    assert_eq!(requests.of("PUT /latest/api/token"), 1);
    assert_eq!(requests.of("GET /latest/meta-data/instance-id"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_refuses_fresh_tokens_is_asked_twice_and_no_more() {
    let mock = faulty(&["401@metadata"]);
    assert_eq!(failure(&mut mock.client()).await, GetErrorKind::Unauthorized);
    assert_eq!((mock.control().requests().total, token_requests(&mock)), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn tokens_that_die_early_are_replaced() {
    let mock = faulty(&["short-token=1s"]);
    let mut client = mock.client();
    for _ in 0..10 {
        client.get(ID).await.unwrap();
        advance(Duration::from_secs(2)).await;
    }
    assert_eq!(token_requests(&mock), 10);
}

#[tokio::test(start_paused = true)]
async fn nth_a_token_failure_never_falls_back_to_imdsv1() {
    for (fault, kind) in [
        ("403@token", GetErrorKind::Denied),
        ("503@token", GetErrorKind::Throttled),
        ("401@token", GetErrorKind::TokenRefused),
        ("hang@token", GetErrorKind::TokenTimedOut),
        ("garbage@token", GetErrorKind::Corrupt),
        ("huge@token", GetErrorKind::Corrupt),
    ] {
        let faults = vec![fault.parse().unwrap()];
        let mock = mock(Script { tokens: TokenUse::Optional, faults, ..Script::default() });
        assert_eq!(failure(&mut mock.client()).await, kind, "{fault}");
        let requests = mock.control().requests();
        assert_eq!((requests.without_token, requests.total), (0, 1), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_request_without_answer_names_the_hop_limit_within_a_second() {
    let mock = faulty(&["hang@token"]);
    let begun = Instant::now();
    let error = mock.client().get(ID).await.expect_err("a fault");
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    assert!(error.remedy().contains("--http-put-response-hop-limit 2"), "{}", error.remedy());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_ends_after_a_second_and_the_next_one_works() {
    let mock = Arc::new(faulty(&["hang@metadata:1"]));
    let (mut client, opened) = counting_client(&mock);
    let begun = Instant::now();
    assert_eq!(failure(&mut client).await, GetErrorKind::TimedOut);
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    client.get(ID).await.unwrap();
    assert_eq!(opened.load(Ordering::Relaxed), 2, "the hanging connection is not used again");
}

#[tokio::test(start_paused = true)]
async fn a_disabled_service_is_denied_and_explained() {
    let mock = faulty(&[]);
    let mut client = mock.client();
    client.get(ID).await.unwrap();
    mock.control().disable(true);
    assert_eq!(failure(&mut client).await, GetErrorKind::Denied);
    assert!(client.get(ID).await.expect_err("disabled").remedy().contains("--http-endpoint enabled"));
}

#[tokio::test(start_paused = true)]
async fn nth_a_503_is_retried_with_a_growing_wait() {
    let mock = faulty(&["503@metadata:3"]);
    let mut client = mock.client();
    assert_eq!(failure(&mut client).await, GetErrorKind::Throttled);
    let begun = Instant::now();
    let answer = client.get_until(ID, begun + Duration::from_secs(5)).await.unwrap();
    assert!(answer.value.is_some());
    let waited = begun.elapsed();
    assert!(Duration::from_millis(150) <= waited && waited <= Duration::from_millis(300), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn garbage_and_huge_bodies_are_corrupt_and_bounded() {
    for fault in ["garbage@metadata", "huge@metadata"] {
        let mock = faulty(&[fault]);
        let error = mock.client().instance_action().await.expect_err("no notice");
        assert_eq!(error.kind(), GetErrorKind::Corrupt, "{fault}");
        assert!(error.chain().len() < 1_000, "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_each_connection_is_served_by_new_ones() {
    let mock = Arc::new(faulty(&["close"]));
    let (mut client, opened) = counting_client(&mock);
    for _ in 0..10 {
        client.get(ID).await.unwrap();
    }
    assert_eq!((opened.load(Ordering::Relaxed), token_requests(&mock)), (11, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_cut_is_opened_again() {
    let mock = Arc::new(mock(Script::default()));
    let (cut, cutter) = tokio::sync::watch::channel(());
    let mut client = {
        let mock = Arc::clone(&mock);
        client_over(move || {
            let (mock, mut cutter) = (Arc::clone(&mock), cutter.clone());
            cutter.mark_unchanged();
            async move {
                let (near, mut middle) = tokio::io::duplex(64 * 1024);
                let mut far = mock.connect().await?;
                tokio::spawn(async move {
                    tokio::select! {
                        _ = copy_bidirectional(&mut middle, &mut far) => {}
                        _ = cutter.changed() => {}
                    }
                });
                Ok(near)
            }
        })
    };
    for _ in 0..5 {
        client.get(ID).await.unwrap();
        cut.send(()).unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(token_requests(&mock), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_at_once_is_broken_not_retried_for_ever() {
    let mut client = client_over(|| async { Ok(tokio::io::duplex(1024).0) });
    assert_eq!(failure(&mut client).await, GetErrorKind::Broken);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_cannot_be_opened_is_unreachable_within_a_second() {
    let mut client = client_over(|| async {
        std::future::pending::<()>().await;
        Ok(tokio::io::duplex(1024).0)
    });
    let begun = Instant::now();
    assert_eq!(failure(&mut client).await, GetErrorKind::Unreachable);
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_leaves_nothing_behind() {
    let mock = Arc::new(faulty(&["hang@metadata:1"]));
    let (mut client, _) = counting_client(&mock);
    let cut = tokio::time::timeout(Duration::from_millis(10), client.get(ID)).await;
    assert!(cut.is_err());
    assert_eq!(client.get("instance-type").await.unwrap().value.as_deref(), Some("c5.large"));
}

#[tokio::test(start_paused = true)]
async fn every_answer_tells_the_service_s_clock() {
    for skew_ms in [0, 45_000, -3_600_000] {
        let mock = mock(Script { skew_ms, ..Script::default() });
        let mut client = mock.client();
        let mut difference = ClockDifference::default();
        for _ in 0..20 {
            let answer = client.instance_action().await.unwrap();
            assert_eq!(answer.value, None, "a 404 has a date, too");
            difference.observe(answer.clock.unwrap());
            advance(Duration::from_millis(2_137)).await;
        }
        let (low, high) = difference.bounds().unwrap();
        assert!(low <= skew_ms && skew_ms <= high && high - low < 200, "{low} {skew_ms} {high}");
    }
}

#[tokio::test(start_paused = true)]
async fn nth_the_notice_carries_its_own_time_not_a_fixed_120_s() {
    let notice = NoticePlan { length: Millis::from_secs(37), ..NoticePlan::now(Action::Stop) };
    let mock = mock(Script { notice: Some(notice), ..Script::default() });
    let notice = mock.client().instance_action().await.unwrap().value.unwrap();
    let expected = Timestamp(common::START.0 / 1000 * 1000 + 37_000);
    assert_eq!((notice.action, notice.time), (Action::Stop, Some(expected)));
}

#[tokio::test(start_paused = true)]
async fn the_identity_is_complete_through_faults() {
    let faults = vec![Fault::next(FaultKind::Throttled, 2), Fault::next(FaultKind::Hang, 1)];
    let mock = mock(Script { faults, ..Script::default() });
    let found = identity(&mut mock.client(), Millis::from_secs(10)).await.unwrap();
    assert_eq!(found, Script::default().identity);
    assert!(found.is_spot());
}

#[tokio::test(start_paused = true)]
async fn the_identity_ends_at_its_deadline() {
    for fault in ["hang", "503", "hang@metadata", "401"] {
        let mock = faulty(&[fault]);
        let begun = Instant::now();
        identity(&mut mock.client(), Millis(2_500)).await.expect_err("a fault");
        assert!(begun.elapsed() <= Duration::from_millis(2_500), "{fault}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn odd_paths_and_spans_are_errors_or_answers_but_no_panic() {
    let mock = mock(Script::default());
    let mut client = mock.client();
    assert_eq!(client.get("a path").await.expect_err("a space").kind(), GetErrorKind::Corrupt);
    assert_eq!(client.get("no/such/path").await.unwrap().value, None);
    assert!(identity(&mut client, Millis(u64::MAX)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_the_service_does_not_know_is_none() {
    let mock = mock(Script::default());
    mock.control().identity(lifeboat_imds::identity::Identity::default());
    let found = identity(&mut mock.client(), Millis::from_secs(1)).await.unwrap();
    assert_eq!(found, lifeboat_imds::identity::Identity::default());
}

#[tokio::test(start_paused = true)]
async fn the_token_is_not_in_the_debug_output() {
    let mock = mock(Script::default());
    let mut client = mock.client();
    client.get(ID).await.unwrap();
    let shown = format!("{client:?}");
    assert!(!shown.contains("AQAE") && shown.contains("has_token: true"), "{shown}");
}

#[tokio::test]
async fn the_client_speaks_tcp_under_a_base_path_and_over_ipv6() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(mock) = Mock::start(addr.parse().unwrap(), Script::default()).await else {
            assert!(addr.starts_with('['), "IPv4 loopback is always there");
            continue; // a machine without IPv6
        };
        let mut client = Client::new(mock.endpoint(), WallClock::system());
        assert!(client.get(ID).await.unwrap().value.is_some());
        let mut based = Client::new(Endpoint::parse(&format!("{}/base", mock.endpoint())).unwrap(), wall());
        assert_eq!(based.get(ID).await.expect_err("not the mock's path").kind(), GetErrorKind::TokenRefused);
        assert_eq!(mock.control().requests().of("PUT /base/latest/api/token"), 1);
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable_and_says_what_to_do() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::new(Endpoint::at(addr), wall()).get(ID).await.expect_err("nobody listens");
    assert_eq!(error.kind(), GetErrorKind::Unreachable);
    assert!(error.chain().contains("refused"), "{}", error.chain());
    assert!(error.remedy().contains("AWS_EC2_METADATA_DISABLED"));
}

#[tokio::test(start_paused = true)]
async fn faults_can_aim_at_tokens_alone() {
    let mock = mock(Script::default());
    mock.control().faults(vec![Fault::next(FaultKind::Throttled, 1).on(FaultTarget::Token)]);
    let mut client = mock.client();
    assert_eq!(failure(&mut client).await, GetErrorKind::Throttled);
    client.get(ID).await.unwrap();
}

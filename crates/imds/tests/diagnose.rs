//! `diagnose` names what is wrong and how to mend it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{mock, wall};
use lifeboat_core::time::Millis;
use lifeboat_imds::WallClock;
use lifeboat_imds::diagnose::{Finding, Step, Verdict, diagnose, diagnose_client};
use lifeboat_imds::identity::Identity;
use lifeboat_imds::mock::{Mock, NoticePlan, Script};
use lifeboat_imds::wire::Action;

const WITHIN: Millis = Millis::from_secs(10);

async fn findings(script: Script) -> Vec<Finding> {
    let mock = mock(script);
    diagnose_client(&mut mock.client(), WITHIN).await
}

fn verdicts(findings: &[Finding]) -> Vec<(Step, Verdict)> {
    for finding in findings {
        let needs_remedy = matches!(finding.verdict, Verdict::Warn | Verdict::Fail);
        assert_eq!(finding.remedy.is_some(), needs_remedy, "{finding:?}");
        assert!(!finding.what.is_empty(), "{finding:?}");
    }
    findings.iter().map(|finding| (finding.step, finding.verdict)).collect()
}

fn faulty(fault: &str) -> Script {
    Script { faults: vec![fault.parse().unwrap()], ..Script::default() }
}

#[tokio::test(start_paused = true)]
async fn a_healthy_service_has_no_findings() {
    let found = findings(Script::default()).await;
    let all_ok = [Step::Token, Step::Notice, Step::Identity, Step::Clock].map(|step| (step, Verdict::Ok));
    assert_eq!(verdicts(&found), all_ok);
    assert!(found[2].what.contains("i-0mock0000000000001"));
}

#[tokio::test(start_paused = true)]
async fn without_a_token_the_rest_is_skipped_and_the_reason_named() {
    for (script, words) in [
        (faulty("hang@token"), "hop-limit"),
        (Script { is_disabled: true, ..Script::default() }, "--http-endpoint enabled"),
        (faulty("401@token"), "proxy"),
        (faulty("503@token"), "poll"),
    ] {
        let found = findings(script).await;
        let skipped = [Step::Notice, Step::Identity, Step::Clock].map(|step| (step, Verdict::Skipped));
        let verdicts = verdicts(&found);
        assert_eq!((verdicts[0], &verdicts[1..]), ((Step::Token, Verdict::Fail), &skipped[..]));
        assert!(found[0].remedy.as_ref().unwrap().contains(words), "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_bad_moment_is_no_finding() {
    let found = findings(faulty("503:2")).await;
    assert!(found.iter().all(|finding| finding.verdict == Verdict::Ok), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pending_notice_and_an_ordinary_instance_are_warnings() {
    let found = findings(Script {
        notice: Some(NoticePlan::now(Action::Terminate)),
        identity: Identity { life_cycle: Some("on-demand".to_owned()), ..Script::default().identity },
        ..Script::default()
    })
    .await;
    let verdicts = verdicts(&found);
    assert_eq!(verdicts[1..3], [(Step::Notice, Verdict::Warn), (Step::Identity, Verdict::Warn)]);
    assert!(found[1].what.contains("terminate") && found[1].what.contains("2017-09-18T08:22:00Z"));
    assert!(found[2].what.contains("on-demand"));
}

#[tokio::test(start_paused = true)]
async fn clocks_apart_are_a_warning_then_a_failure() {
    for (skew_ms, verdict) in [
        (900, Verdict::Ok),
        (30_000, Verdict::Warn),
        (-30_000, Verdict::Warn),
        (600_000, Verdict::Fail),
        (-600_000, Verdict::Fail),
    ] {
        let found = findings(Script { skew_ms, ..Script::default() }).await;
        assert_eq!(verdicts(&found)[3], (Step::Clock, verdict), "{skew_ms}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_notice_end_point_fails_while_the_rest_is_looked_at() {
    let found = findings(faulty("garbage@metadata:1")).await;
    let expected = [Verdict::Ok, Verdict::Fail, Verdict::Ok, Verdict::Ok];
    assert_eq!(verdicts(&found).iter().map(|(_, verdict)| *verdict).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_environment_decides_first() {
    let of = async |name: &'static str, value: String| {
        let lookup = move |asked: &str| (asked == name).then(|| value.clone());
        diagnose(lookup, wall(), WITHIN).await
    };
    let found = of("AWS_EC2_METADATA_DISABLED", "true".to_owned()).await;
    assert_eq!(verdicts(&found)[..2], [(Step::Endpoint, Verdict::Warn), (Step::Token, Verdict::Skipped)]);
    let found = of("AWS_EC2_METADATA_SERVICE_ENDPOINT", "https://127.0.0.1".to_owned()).await;
    assert_eq!(verdicts(&found)[0], (Step::Endpoint, Verdict::Fail));
    assert_eq!(found.len(), 5);

    let mock = Mock::start("127.0.0.1:0".parse().unwrap(), Script::default()).await.unwrap();
    let address = mock.endpoint().to_string();
    let lookup = |name: &str| (name == "AWS_EC2_METADATA_SERVICE_ENDPOINT").then(|| address.clone());
    let found = diagnose(lookup, WallClock::system(), WITHIN).await;
    assert!(found.iter().all(|finding| finding.verdict == Verdict::Ok), "{found:?}");
    assert_eq!(found.len(), 5);
}

#[tokio::test]
async fn findings_are_data() {
    let found = diagnose(|_| Some("true".to_owned()), wall(), WITHIN).await;
    let json = serde_json::to_string(&found[1]).unwrap();
    let expected = r#"{"step":"token","verdict":"skipped","what":"not looked at: metadata is switched off","remedy":null}"#;
    assert_eq!(json, expected);
}

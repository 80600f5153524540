//! The command line of the mock: our flags, and those of amazon-ec2-metadata-mock's `spot`.

#![expect(clippy::unwrap_used, reason = "tests")]

use clap::{CommandFactory, Parser};
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_imds::mock::args::{ArgsError, MockArgs, Settings};
use lifeboat_imds::mock::{NoticePlan, RebalancePlan, Script, StatePlan, TerminationTimePlan, TokenUse};
use lifeboat_imds::wire::Action;

/// 2017-09-18T08:20:00Z
const NOW: Timestamp = Timestamp(1_505_722_800_000);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: MockArgs,
}

fn settings(line: &str) -> Result<Settings, ArgsError> {
    let words = std::iter::once("mock-imds").chain(line.split_whitespace());
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).args.into_settings(NOW)
}

fn script(line: &str) -> Script {
    settings(line).unwrap_or_else(|error| panic!("{line}: {error}")).script
}

fn notice(line: &str) -> NoticePlan {
    script(line).notice.unwrap()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn without_flags_a_terminate_notice_comes_at_once_on_the_usual_port() {
    let found = settings("").unwrap();
    assert_eq!(found.addr, "127.0.0.1:1338".parse().unwrap());
    let notice = Some(NoticePlan::now(Action::Terminate));
    assert_eq!(found.script, Script { notice, ..Script::default() });
}

#[test]
fn our_flags_are_followed() {
    let plan = notice("--after 10s --action stop --notice 30s --withdraw-after 2m");
    assert_eq!(
        plan,
        NoticePlan {
            after: Millis::from_secs(10),
            action: Action::Stop,
            length: Millis::from_secs(30),
            time_text: None,
            withdrawn_after: Some(Millis::from_secs(120)),
        }
    );
    assert_eq!(notice("--action hibernate").length, Millis::ZERO);
    assert_eq!(script("--no-notice").notice, None);
    let found = script(
        "--rebalance-after 5s --target-lifecycle-state Terminated --target-lifecycle-after 1m --skew -30s \
         --token-ttl-max 1m --imdsv1 --disabled --seed 9 --fault 503:20% --fault hang@token:3 --no-notice \
         --termination-time-text stays --scheduled-event system-reboot:10m --scheduled-event instance-stop",
    );
    assert_eq!(found.rebalance, Some(RebalancePlan { after: Millis::from_secs(5), time_text: None }));
    let state = StatePlan { after: Millis::from_secs(60), state: "Terminated".to_owned() };
    assert_eq!(found.target_lifecycle_state, Some(state));
    assert_eq!((found.skew_ms, found.token_ttl_seconds_max, found.seed), (-30_000, 60, 9));
    assert_eq!((found.tokens, found.is_disabled), (TokenUse::Optional, true));
    assert_eq!(found.faults.iter().map(ToString::to_string).collect::<Vec<_>>(), ["503:20%", "hang@token:3"]);
    assert_eq!(found.termination_time, TerminationTimePlan::Stays);
    assert_eq!(found.scheduled_events[0].not_before, Some(Timestamp(NOW.0 + 600_000)));
    assert_ne!(found.scheduled_events[0].event_id, found.scheduled_events[1].event_id);
    let text = script("--termination-time-text soon").termination_time;
    assert_eq!(text, TerminationTimePlan::Text("soon".to_owned()));
}

#[test]
fn the_instance_can_be_chosen_and_its_region_follows_the_zone() {
    let found = script("--instance-id i-9 --instance-type m7g.large --az eu-west-1b --life-cycle on-demand");
    let identity = found.identity;
    assert_eq!(identity.instance_id.as_deref(), Some("i-9"));
    assert_eq!(identity.instance_type.as_deref(), Some("m7g.large"));
    assert_eq!(identity.region.as_deref(), Some("eu-west-1"));
    assert_eq!(identity.life_cycle.as_deref(), Some("on-demand"));
    assert!(matches!(settings("--az moon"), Err(ArgsError::Invalid { flag: "--az", .. })));
    assert!(settings("--az us-west-2-lax-1a --region us-west-2").is_ok());
}

#[test]
fn the_spot_command_of_amazon_ec2_metadata_mock_means_the_same() {
    let plain = script("spot");
    assert_eq!(plain.notice, Some(NoticePlan::now(Action::Terminate)));
    assert_eq!(plain.rebalance, Some(RebalancePlan::default()), "it recommends a rebalance at once");
    assert_eq!(plain.tokens, TokenUse::Optional, "it needs no tokens without --imdsv2");
    assert_eq!(script("spot -I").tokens, TokenUse::Required);
    assert_eq!(script("-I").tokens, TokenUse::Required);
    assert_eq!(notice("spot -d 5 -a stop").after, Millis::from_secs(5));
    assert_eq!(notice("spot --mock-delay-sec 5 --action hibernate").action, Action::Hibernate);
    assert_eq!(notice("spot --instance-action stop").action, Action::Stop);
    let timed = notice("spot -t 2020-01-07T01:03:47Z");
    assert_eq!(timed.time_text.as_deref(), Some("2020-01-07T01:03:47Z"));
    assert_eq!(notice("spot --termination-time 2020-01-07T01:03:47Z"), timed);
    let rebalance = script("spot -r 2020-01-07T01:03:47Z --rebalance-delay-sec 7").rebalance.unwrap();
    assert_eq!(rebalance.after, Millis::from_secs(7));
    assert_eq!(rebalance.time_text.as_deref(), Some("2020-01-07T01:03:47Z"));
    let triggered = notice("spot --mock-trigger-time 2017-09-18T08:20:30Z -d 5");
    assert_eq!(triggered.after, Millis::from_secs(30), "it comes before the delay");
    assert_eq!(notice("spot --mock-trigger-time 2000-01-01T00:00:00Z").after, Millis::ZERO);
    let later = script("spot --rebalance-trigger-time 2017-09-18T08:21:00Z").rebalance.unwrap();
    assert_eq!(later.after, Millis::from_secs(60));
    assert_eq!(settings("spot -n localhost -p 1400 -x 3").unwrap().addr, "127.0.0.1:1400".parse().unwrap());
    assert_eq!(settings("spot --hostname [::1] --port 0").unwrap().addr, "[::1]:0".parse().unwrap());
}

#[test]
fn what_cannot_be_kept_of_it_is_refused_and_not_ignored() {
    for (line, flag) in [
        ("spot -c aemm.json", "--config-file"),
        ("spot -s", "--save-config-to-file"),
        ("spot --watch-config-file", "--watch-config-file"),
        ("spot --asg-termination-delay-sec 3", "--asg-termination-delay-sec"),
        ("spot --asg-termination-trigger-time x", "--asg-termination-trigger-time"),
        ("events", "events"),
        ("asglifecycle", "asglifecycle"),
        ("nonsense", "nonsense"),
    ] {
        let error = settings(line).expect_err(line);
        assert!(error.to_string().starts_with(&format!("{flag} is not supported: ")), "{error}");
    }
    for line in [
        "spot -n 0.0.0.0",
        "-n 10.0.0.1",
        "-n example.org",
        "spot -x 0",
        "-a evaporate",
        "-t soon",
        "-r soon",
        "--mock-trigger-time soon",
        "--rebalance-trigger-time soon",
        "--token-ttl-max 7h",
        "--token-ttl-max 1500ms",
        "--scheduled-event reboot:soon",
    ] {
        assert!(matches!(settings(line), Err(ArgsError::Invalid { .. })), "{line}");
    }
    for line in [
        "--after 10",
        "--after -1s",
        "--fault 402",
        "--no-notice --after 1s",
        "--after 1s -d 1",
        "-I --imdsv1",
        "--notice 1s --time 2020-01-07T01:03:47Z",
        "-p 70000",
        "--novel",
    ] {
        let words = std::iter::once("mock-imds").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}

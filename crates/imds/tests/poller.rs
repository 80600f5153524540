//! The poller: what it tells, how often it asks, how it backs off; and the mistakes of other pollers.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{client_over, counting_client, mock};
use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_imds::mock::{MemoryMock, NoticePlan, RebalancePlan, Script, StatePlan, TerminationTimePlan};
use lifeboat_imds::poller::{Watched, poll};
use lifeboat_imds::wire::{Action, InstanceAction, ScheduledEvent, TargetLifecycleState, TerminationTime};
use lifeboat_imds::{Client, GetErrorKind, Pace, Sighting};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// A running poller and all that it told, with the time since the start.
struct Watch {
    told: Arc<Mutex<Vec<(Duration, Sighting)>>>,
    poller: JoinHandle<()>,
}

impl Watch {
    fn start(client: Client, seed: u64) -> Self {
        let (sender, mut receiver) = mpsc::channel(16);
        let poller = tokio::spawn(poll(client, Pace { seed, ..Pace::default() }, sender));
        let told = Arc::new(Mutex::new(Vec::new()));
        let (log, begun) = (Arc::clone(&told), Instant::now());
        tokio::spawn(async move {
            while let Some(sighting) = receiver.recv().await {
                log.lock().unwrap().push((begun.elapsed(), sighting));
            }
        });
        Self { told, poller }
    }

    fn of(mock: &MemoryMock) -> Self {
        Self::start(mock.client(), 7)
    }

    /// All but the clock samples.
    fn changes(&self) -> Vec<Sighting> {
        let told = self.told.lock().unwrap();
        let changes = told.iter().filter(|(_, sighting)| !matches!(sighting, Sighting::ClockSample(_)));
        changes.map(|(_, sighting)| sighting.clone()).collect()
    }

    fn times(&self, is_wanted: impl Fn(&Sighting) -> bool) -> Vec<Duration> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|(_, sighting)| is_wanted(sighting)).map(|(at, _)| *at).collect()
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn is_notice(sighting: &Sighting) -> bool {
    matches!(sighting, Sighting::InstanceAction(_))
}

const NOTICE: &str = "GET /latest/meta-data/spot/instance-action";
const IN_TURN: [&str; 4] = [
    "GET /latest/meta-data/events/recommendations/rebalance",
    "GET /latest/meta-data/spot/termination-time",
    "GET /latest/meta-data/autoscaling/target-lifecycle-state",
    "GET /latest/meta-data/events/maintenance/scheduled",
];

#[tokio::test(start_paused = true)]
async fn each_round_asks_for_the_notice_and_for_one_other_path_in_turn() {
    let mock = mock(Script::default());
    let watch = Watch::of(&mock);
    sleep(seconds(1)).await;
    let first = mock.control().requests();
    assert_eq!((first.total, first.of(NOTICE), first.of(IN_TURN[0])), (3, 1, 1), "with the token");
    // 400 rounds take 800 s on average; jitter adds up to little.
    sleep(seconds(800)).await;
    let requests = mock.control().requests();
    let rounds = requests.of(NOTICE);
    assert!((396..=404).contains(&rounds), "{rounds} rounds in 801 s");
    for path in IN_TURN {
        let asked = requests.of(path);
        assert!(asked == rounds / 4 || asked == rounds.div_ceil(4), "{path}: {asked} of {rounds}");
    }
    assert_eq!(watch.changes(), [Sighting::Reachable]);
    let samples = watch.times(|sighting| matches!(sighting, Sighting::ClockSample(_)));
    assert_eq!(samples.len() as u64, rounds, "one a round");
}

#[tokio::test(start_paused = true)]
async fn rounds_are_spread_by_a_tenth_and_by_the_seed() {
    let mock = mock(Script::default());
    let watches = [1, 2].map(|seed| Watch::start(mock.client(), seed));
    sleep(seconds(200)).await;
    let times = watches.map(|watch| watch.times(|sighting| matches!(sighting, Sighting::ClockSample(_))));
    assert_ne!(times[0], times[1]);
    for pair in times[0].windows(2) {
        let pause = (pair[1] - pair[0]).as_millis();
        assert!((1_800..=2_201).contains(&pause), "{pause} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_notice_at_any_phase_is_seen_within_a_round_and_by_half_a_round_on_average() {
    let mut total = Duration::ZERO;
    for phase in 0..100u64 {
        let after = Millis(10_000 + phase * 37);
        let notice = NoticePlan::now(Action::Terminate).after(after);
        let mock = mock(Script { notice: Some(notice), ..Script::default() });
        let watch = Watch::start(mock.client(), phase);
        sleep(seconds(20)).await;
        let seen = watch.times(is_notice);
        let late = seen[0] - after.to_duration();
        assert!(seen.len() == 1 && late <= Duration::from_millis(2_200), "{late:?}");
        total += late;
    }
    assert!(total / 100 <= Duration::from_millis(1_100), "{:?} on average", total / 100);
}

#[tokio::test(start_paused = true)]
async fn nth_an_unchanged_notice_is_told_once_however_often_it_is_read() {
    let mock = mock(Script { notice: Some(NoticePlan::now(Action::Terminate)), ..Script::default() });
    let watch = Watch::of(&mock);
    sleep(seconds(1_000)).await;
    assert_eq!(watch.times(is_notice).len(), 1);
    assert_eq!(watch.changes().len(), 3, "notice, termination time, reachable: {:?}", watch.changes());
}

#[tokio::test(start_paused = true)]
async fn nth_a_notice_does_not_swallow_the_other_events() {
    let notice = NoticePlan::now(Action::Terminate);
    let event = ScheduledEvent {
        code: "system-reboot".to_owned(),
        description: String::new(),
        event_id: "instance-event-1".to_owned(),
        not_before: Some(Timestamp(1_505_722_920_000)),
        not_after: None,
        not_before_deadline: None,
        state: "active".to_owned(),
    };
    let mock = mock(Script {
        notice: Some(notice),
        rebalance: Some(RebalancePlan { after: Millis::from_secs(20), time_text: None }),
        target_lifecycle_state: Some(StatePlan {
            after: Millis::from_secs(30),
            state: "Terminated".to_owned(),
        }),
        scheduled_events: vec![event.clone()],
        ..Script::default()
    });
    let watch = Watch::of(&mock);
    sleep(seconds(60)).await;
    let changes = watch.changes();
    assert!(changes.iter().any(is_notice));
    for wanted in [
        Sighting::TargetLifecycleState(TargetLifecycleState::InService),
        Sighting::TargetLifecycleState(TargetLifecycleState::Terminated),
        Sighting::ScheduledEvents(vec![event]),
        Sighting::TerminationTime(TerminationTime::parse("2017-09-18T08:22:00Z")),
    ] {
        assert_eq!(changes.iter().filter(|told| **told == wanted).count(), 1, "{wanted:?} in {changes:?}");
    }
    assert!(changes.iter().any(|told| matches!(told, Sighting::Rebalance(_))));
}

#[tokio::test(start_paused = true)]
async fn a_second_notice_and_another_time_are_told() {
    let mock = mock(Script { notice: Some(NoticePlan::now(Action::Stop)), ..Script::default() });
    let watch = Watch::of(&mock);
    sleep(seconds(10)).await;
    mock.control().notice(NoticePlan::now(Action::Terminate));
    sleep(seconds(10)).await;
    let mut plan = NoticePlan::now(Action::Terminate);
    plan.time_text = Some("no time".to_owned());
    mock.control().notice(plan);
    sleep(seconds(10)).await;
    let changes = watch.changes();
    let notices: Vec<_> = changes.iter().filter(|told| is_notice(told)).collect();
    assert_eq!(notices.len(), 3);
    let odd = InstanceAction { action: Action::Terminate, time: None, time_text: "no time".to_owned() };
    assert_eq!(notices[2], &Sighting::InstanceAction(odd));
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_survives_is_told_as_gone() {
    let withdrawn_after = Some(Millis::from_secs(130));
    let notice = NoticePlan { withdrawn_after, ..NoticePlan::now(Action::Terminate) };
    let termination_time = TerminationTimePlan::Stays;
    let mock = mock(Script { notice: Some(notice), termination_time, ..Script::default() });
    let watch = Watch::of(&mock);
    sleep(seconds(200)).await;
    assert_eq!(watch.changes().last(), Some(&Sighting::Gone(Watched::InstanceAction)));
    mock.control().termination_time(TerminationTimePlan::Absent);
    sleep(seconds(10)).await;
    assert_eq!(watch.changes().last(), Some(&Sighting::Gone(Watched::TerminationTime)));
    mock.control().notice(NoticePlan::now(Action::Terminate));
    sleep(seconds(10)).await;
    assert!(watch.changes().last().is_some_and(is_notice), "a new notice after a survived one");
}

#[tokio::test(start_paused = true)]
async fn lifecycled_a_notice_in_either_path_alone_is_seen() {
    let mock = mock(Script {
        termination_time: TerminationTimePlan::Text("2017-09-18T08:22:00Z".to_owned()),
        ..Script::default()
    });
    let watch = Watch::of(&mock);
    sleep(seconds(10)).await;
    let expected = TerminationTime::parse("2017-09-18T08:22:00Z");
    assert_eq!(watch.changes(), [Sighting::Reachable, Sighting::TerminationTime(expected)]);
    mock.control().termination_time(TerminationTimePlan::Text("pending".to_owned()));
    sleep(seconds(10)).await;
    let odd = TerminationTime { text: "pending".to_owned(), time: None };
    assert_eq!(watch.changes().last(), Some(&Sighting::TerminationTime(odd)));
}

#[tokio::test(start_paused = true)]
async fn nth_equal_errors_never_end_the_poller() {
    for fault in ["503", "403", "401", "hang", "hang@token", "garbage", "huge"] {
        let mock = mock(Script::default());
        let watch = Watch::of(&mock);
        sleep(seconds(10)).await;
        mock.control().faults(vec![fault.parse().unwrap()]);
        mock.control().revoke_tokens();
        sleep(seconds(600)).await;
        assert!(!watch.poller.is_finished(), "{fault}");
        mock.control().faults(Vec::new());
        mock.control().notice(NoticePlan::now(Action::Terminate));
        let begun = Instant::now();
        sleep(seconds(10)).await;
        assert!(watch.changes().iter().any(is_notice), "{fault}: not seen {:?} later", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_reached_is_asked_at_least_every_five_seconds() {
    let mock = mock(Script::default());
    let watch = Watch::of(&mock);
    sleep(seconds(10)).await;
    mock.control().faults(vec!["503".parse().unwrap()]);
    sleep(seconds(60)).await; // the wait is at its longest now
    mock.control().reset_requests();
    sleep(seconds(1_000)).await;
    let asked = mock.control().requests().total;
    assert!((200..=400).contains(&asked), "{asked} in 1000 s: waits of 2.5 to 5 s");
    let told = watch.changes();
    assert!(
        matches!(
            told.as_slice(),
            [Sighting::Reachable, Sighting::Unreachable { kind: GetErrorKind::Throttled, .. }]
        ),
        "told once: {told:?}"
    );
    mock.control().faults(Vec::new());
    sleep(seconds(10)).await;
    assert_eq!(watch.changes().last(), Some(&Sighting::Reachable));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_was_never_reached_is_asked_once_a_minute() {
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&attempts);
    let client = client_over(move || {
        log.lock().unwrap().push(Instant::now());
        async { Err::<tokio::io::DuplexStream, _>(std::io::ErrorKind::ConnectionRefused.into()) }
    });
    let watch = Watch::start(client, 7);
    sleep(seconds(3_600)).await;
    let attempts = attempts.lock().unwrap();
    assert!((60..=140).contains(&attempts.len()), "{} attempts in an hour", attempts.len());
    let longest = attempts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= Duration::from_millis(60_001) && longest > seconds(30), "{longest:?}");
    let told = watch.changes();
    assert!(
        matches!(told.as_slice(), [Sighting::Unreachable { kind: GetErrorKind::Unreachable, .. }]),
        "told once: {told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn another_reason_is_told_the_same_is_not() {
    let mock = mock(Script::default());
    let watch = Watch::of(&mock);
    for fault in ["503", "403", "hang@metadata"] {
        mock.control().faults(vec![fault.parse().unwrap()]);
        sleep(seconds(60)).await;
    }
    let kinds: Vec<_> = watch
        .changes()
        .into_iter()
        .filter_map(|told| match told {
            Sighting::Unreachable { kind, .. } => Some(kind),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [GetErrorKind::Throttled, GetErrorKind::Denied, GetErrorKind::TimedOut]);
}

#[tokio::test(start_paused = true)]
async fn a_single_failure_is_repeated_soon_and_not_told() {
    let mock = mock(Script::default());
    let watch = Watch::of(&mock);
    for _ in 0..20 {
        sleep(seconds(10)).await;
        mock.control().faults(vec!["503@metadata:1".parse().unwrap()]);
    }
    sleep(seconds(10)).await;
    assert_eq!(watch.changes(), [Sighting::Reachable]);
    let samples = watch.times(|sighting| matches!(sighting, Sighting::ClockSample(_)));
    let longest = samples.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= Duration::from_millis(2_800), "a failure delays by half a second: {longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_seen_though_a_third_of_the_requests_fail() {
    for seed in 0..20 {
        let faults = vec!["503:20%".parse().unwrap(), "401:10%".parse().unwrap(), "hang:5%".parse().unwrap()];
        let notice = Some(NoticePlan::now(Action::Terminate).after(Millis::from_secs(30)));
        let mock = mock(Script { faults, notice, seed, ..Script::default() });
        let watch = Watch::start(mock.client(), seed);
        sleep(seconds(60)).await;
        let seen = watch.times(is_notice);
        assert_eq!(seen.len(), 1, "seed {seed}");
        assert!(seen[0] < seconds(50), "seed {seed}: {:?}", seen[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_path_is_told_once_and_hides_nothing() {
    let mock = mock(Script { notice: Some(NoticePlan::now(Action::Stop)), ..Script::default() });
    let watch = Watch::of(&mock);
    sleep(seconds(10)).await;
    mock.control().faults(vec!["garbage@metadata".parse().unwrap()]);
    sleep(seconds(60)).await;
    let unreadable = |watched| {
        let told = watch.changes().into_iter();
        told.filter(|told| matches!(told, Sighting::Unreadable { watched: path, .. } if *path == watched))
            .count()
    };
    assert_eq!(unreadable(Watched::InstanceAction), 1);
    assert_eq!(unreadable(Watched::Rebalance), 1);
    assert!(!watch.changes().contains(&Sighting::Gone(Watched::InstanceAction)), "garbage is no 404");
    mock.control().faults(Vec::new());
    mock.control().withdraw_notice();
    sleep(seconds(10)).await;
    assert!(watch.changes().contains(&Sighting::Gone(Watched::InstanceAction)));
}

#[tokio::test(start_paused = true)]
async fn a_path_that_always_fails_keeps_no_other_from_being_asked() {
    let mock = mock(Script { faults: vec!["500@metadata".parse().unwrap()], ..Script::default() });
    let watch = Watch::of(&mock);
    sleep(seconds(60)).await;
    let told = watch.changes();
    let failing: std::collections::BTreeSet<_> = told
        .iter()
        .filter_map(|told| match told {
            Sighting::Unreadable { watched, .. } => Some(*watched),
            _ => None,
        })
        .collect();
    assert_eq!((failing.len(), told.len()), (5, 6), "each path once, and reachable: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_extreme_pace_is_brought_into_bounds() {
    for (interval, rounds, span) in [(Millis::ZERO, 550..=700, 62), (Millis(u64::MAX), 10..=12, 620)] {
        let mock = mock(Script::default());
        let (sender, mut receiver) = mpsc::channel(16);
        let _poller = tokio::spawn(poll(mock.client(), Pace { interval, seed: 0 }, sender));
        let _reader = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
        sleep(seconds(span)).await;
        let asked = mock.control().requests().of(NOTICE);
        assert!(rounds.contains(&asked), "{asked} rounds in {span} s at {interval:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_receiver_ends_the_poller_at_once() {
    let mock = mock(Script::default());
    let (sender, receiver) = mpsc::channel(16);
    let poller = tokio::spawn(poll(mock.client(), Pace::default(), sender));
    sleep(seconds(1)).await;
    drop(receiver);
    let begun = Instant::now();
    poller.await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "in the middle of a wait");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_poller_ends_its_requests() {
    let mock = mock(Script::default());
    let watch = Watch::of(&mock);
    sleep(seconds(10)).await;
    watch.poller.abort();
    let before = mock.control().requests();
    sleep(seconds(100)).await;
    assert_eq!(mock.control().requests(), before);
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_loses_no_change() {
    let mock = mock(Script { notice: Some(NoticePlan::now(Action::Terminate)), ..Script::default() });
    let (sender, mut receiver) = mpsc::channel(1);
    let _poller = tokio::spawn(poll(mock.client(), Pace::default(), sender));
    sleep(seconds(100)).await; // the channel is full of a clock sample
    let mut told = Vec::new();
    for _ in 0..12 {
        told.push(receiver.recv().await.unwrap());
    }
    assert!(told.iter().any(is_notice), "{told:?}");
    assert!(told.contains(&Sighting::Reachable), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_seconds_take_one_token_and_one_connection() {
    let mock = Arc::new(mock(Script::default()));
    let (client, opened) = counting_client(&mock);
    let _watch = Watch::start(client, 7);
    sleep(seconds(1_000)).await;
    assert_eq!(mock.control().requests().of("PUT /latest/api/token"), 1);
    assert_eq!(opened.load(Ordering::Relaxed), 1);
}

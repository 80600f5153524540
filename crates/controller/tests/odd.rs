//! What the controller does while a part of its world is slow, silent or refuses: everything else goes on, and nothing
//! that could still be done is put off until it is too late.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{FakeTopic, LIMIT, Rig, settings, until, warned};
use lifeboat_controller::fleet::{self, FleetError, Mode, Ports};

const WARNING: &str = include_str!("../samples/ec2-spot-interruption-warning.json");

fn warning(instance: u32) -> String {
    WARNING.replace("i-1234567890abcdef0", &format!("i-{instance:017}"))
}

#[tokio::test]
async fn what_ssm_could_not_be_told_is_told_when_the_message_comes_again_within_the_notice() {
    let rig = Rig::new();
    // All tries of the first receive, and a second of visibility, where the ledger's patience is a minute.
    rig.commands.failures.store(4, Ordering::SeqCst);
    rig.queue.visible_ms.store(1_000, Ordering::SeqCst);
    let running = rig.start(5, "[machines]\n[queue]\nurl = 'http://q'\nvisibility = '5s'").await;
    rig.queue.send(warning(1));
    until("the command is sent", || !rig.commands.sent.lock().expect("unpoisoned").is_empty()).await;
    until("it is deleted", || rig.journal.count("delete m0") == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn the_instances_of_one_receive_are_told_with_one_command() {
    let rig = Rig::new();
    let running = rig.start(1, "[machines]").await;
    rig.queue.send_all((0..10).map(warning));
    until("all are deleted", || rig.journal.count("delete") == 10).await;
    let sent = rig.commands.sent.lock().expect("unpoisoned").clone();
    assert_eq!(sent.iter().map(|(instances, _)| instances.len()).collect::<Vec<_>>(), [10]);
    running.stop().await;
}

#[tokio::test]
async fn what_a_service_cannot_take_comes_again_while_its_window_lasts() {
    let rig = Rig::new();
    // A message is visible again after a second; the ledger's patience is a minute.
    rig.queue.visible_ms.store(1_000, Ordering::SeqCst);
    let running = rig.start(5, "[queue]\nurl = 'http://q'\nvisibility = '5s'\nreceivers = 1").await;
    rig.store.hangs.store(true, Ordering::SeqCst);
    for number in 0..70 {
        rig.queue.send(warned(number));
        until("it is received", || rig.queue.waiting.lock().expect("unpoisoned").is_empty()).await;
        tokio::time::sleep(Duration::from_millis(4)).await; // the next one is another receive
    }
    let is_again = |handle: u32| rig.journal.count(&format!("again m{handle}")) > 0;
    until("what is beyond comes again", || (64..70).any(is_again)).await;
    rig.store.hangs.store(false, Ordering::SeqCst);
    until("all are deleted", || {
        (0..70).all(|handle| rig.journal.all().contains(&format!("delete m{handle}")))
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_dead_letter_queue_that_is_slow_keeps_nobody_waiting() {
    let rig = Rig::new();
    rig.queue.slow_burial_ms.store(3_600_000, Ordering::SeqCst);
    let running = rig.start(1, "[queue]\nurl = 'http://q'\nreceivers = 1").await;
    // Two receives; each of these letters costs the five seconds that one call may take.
    let unreadable = (0..19).map(|number| format!("no event {number}"));
    rig.queue.send_all(unreadable.chain([warned(1)]));
    until("the event is dealt with", || rig.journal.count("delete m19") == 1).await;
    assert_eq!(rig.queue.buried.lock().expect("unpoisoned").len(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_topic_that_is_away_keeps_no_other_from_its_alerts() {
    let rig = Rig::new();
    let hung = FakeTopic::new();
    hung.hangs.store(true, Ordering::SeqCst);
    let ports = Ports { alerts: vec![hung, Arc::<FakeTopic>::clone(&rig.topic)], ..rig.ports() };
    let running = rig.spawn_with(settings(1, "[machines]"), Mode::default(), ports);
    for number in 0..20 {
        rig.queue.send(warning(number));
    }
    // One try of the topic that hangs takes ten seconds, six of them make one alert.
    until("twenty alerts are sent", || rig.topic.told.lock().expect("unpoisoned").len() >= 20).await;
    running.stop().await;
}

#[tokio::test]
async fn neither_a_list_that_hangs_nor_a_mute_store_keeps_the_controller_from_its_work_and_its_end() {
    let rig = Rig::new();
    let config = "[prices]\non_demand_task_hour = 0.268\nspot_task_hour = 0.118\n[metrics]\nevery = '10s'";
    let running = rig.start(20, config).await;
    rig.ecs.hangs.store(true, Ordering::SeqCst);
    rig.store.is_mute.store(true, Ordering::SeqCst);
    let published = rig.metrics.0.lock().expect("unpoisoned").len();
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    until("the shortfall is covered", || rig.ecs.desired("orders-standard") == 4).await;
    until("other metrics are published", || rig.metrics.0.lock().expect("unpoisoned").len() > published + 6)
        .await;
    running.stop().await; // within a minute, and a list that hangs is tried for forty seconds
    assert!(rig.ecs.hangs.load(Ordering::SeqCst));
}

#[tokio::test]
async fn orders_that_are_refused_are_given_ever_more_rarely_and_heeded_soon_when_they_are_not() {
    let rig = Rig::new();
    rig.ecs.refused.store(u32::MAX, Ordering::SeqCst);
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    let running = rig.start(100, "").await;
    // Ten minutes: one every two seconds were three hundred.
    until("it is refused", || rig.journal.count("refuse") >= 1).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let refused = rig.journal.count("refuse");
    assert!((2..150).contains(&refused), "{refused} orders in ten minutes");
    rig.ecs.refused.store(0, Ordering::SeqCst);
    until("the shortfall is covered", || rig.ecs.desired("orders-standard") == 4).await;
    running.stop().await;
}

#[tokio::test]
async fn a_dry_run_once_ends_when_it_has_decided() {
    let rig = Rig::new();
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    let ports = Ports { inbox: None, ..rig.ports() };
    let mode = Mode { is_dry_run: true, is_once: true, ..Mode::default() };
    let run = fleet::run(settings(1, ""), ports, mode, std::future::pending());
    tokio::time::timeout(LIMIT, run).await.expect("it ends").expect("no error");
    assert_eq!(rig.state().await.split.on_demand, 4);
    assert_eq!(rig.journal.count("order"), 0);
}

#[tokio::test]
async fn a_fleet_that_runs_on_demand_when_the_controller_first_sees_it_is_not_stopped() {
    let rig = Rig::new();
    rig.ecs.change("orders-spot", |service| (service.desired, service.ready) = (0, 0));
    rig.ecs.change("orders-standard", |service| (service.desired, service.ready) = (10, 10));
    let running = rig.start(50, "").await;
    until("Spot runs all of it", || {
        (rig.ecs.desired("orders-spot"), rig.ecs.desired("orders-standard")) == (10, 0)
    })
    .await;
    let all = rig.journal.all();
    let place = |order: &str| all.iter().position(|line| line.starts_with(order)).expect(order);
    assert!(place("order orders-spot 10") < place("order orders-standard"), "{all:?}");
    running.stop().await;
}

#[tokio::test]
async fn once_gives_up_in_time_where_nothing_answers() {
    let rig = Rig::new();
    rig.ecs.throttled.store(u32::MAX, Ordering::SeqCst);
    let ports = Ports { inbox: None, ..rig.ports() };
    let mode = Mode { is_once: true, ..Mode::default() };
    // Its ten minutes are 600 ms here.
    let run = fleet::run(settings(1_000, ""), ports, mode, std::future::pending());
    let error = tokio::time::timeout(LIMIT, run).await.expect("it ends").expect_err("nothing was listed");
    assert!(matches!(error, FleetError::Cluster { .. }), "{error}");
}

#[tokio::test]
async fn a_store_that_cannot_be_used_ends_the_controller_with_its_reason() {
    let rig = Rig::new();
    rig.store.is_unusable.store(true, Ordering::SeqCst);
    let run = fleet::run(settings(1, ""), rig.ports(), Mode::default(), std::future::pending());
    let error = tokio::time::timeout(LIMIT, run).await.expect("it ends").expect_err("no table");
    assert!(matches!(error, FleetError::Store(_)), "{error}");
}

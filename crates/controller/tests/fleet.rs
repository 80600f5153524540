//! What the controller does with its world, in one process: the order of things, and what happens when one is odd.
//! The real binary against an ECS that takes its time is tested in the program's own tests.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{LIMIT, Rig, settings, until, warned};
use lifeboat_controller::fleet::{FleetError, Mode};
use lifeboat_controller::store::{Commit, Committed, Store};
use lifeboat_core::failover::history;
use lifeboat_core::failover::instruction::Instruction;
use lifeboat_core::failover::observation::Capacity;
use lifeboat_core::failover::phase::Phase;
use lifeboat_core::time::{Millis, Timestamp};

#[tokio::test]
async fn the_events_of_one_receive_make_one_turn_and_are_deleted_after_the_commit_and_the_order() {
    let rig = Rig::new();
    let running = rig.start(1, "").await;
    until("it is at rest", || rig.journal.count("commit") >= 2).await;
    let before = rig.journal.count("commit");
    rig.queue.send_all((0..10).map(warned));
    until("all are deleted", || rig.journal.count("delete") == 10).await;
    let all = rig.journal.all();
    let commits: Vec<&String> = all.iter().filter(|line| line.starts_with("commit")).skip(before).collect();
    let received = rig.journal.position("receive").expect("received");
    let first_delete = rig.journal.position("delete").expect("deleted");
    let between = &all[received..first_delete];
    let count = |start: &str| between.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("commit"), 1, "ten events, one commit before they are deleted: {all:?} {commits:?}");
    assert!(between.contains(&"order orders-standard 10".to_owned()), "{all:?}");
    let state = rig.state().await;
    assert_eq!(state.window.facts().count(), 10);
    assert_eq!(state.split.on_demand, 10);
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_deleted_before_it_is_durable_and_messages_are_kept_hidden_meanwhile() {
    let rig = Rig::new();
    // Thirty seconds of this queue's visibility are one and a half of ours.
    let running = rig.start(20, "").await;
    rig.store.hangs.store(true, Ordering::SeqCst);
    rig.queue.send(warned(1));
    until("it is kept hidden", || rig.journal.count("extend m0 by 30 s") >= 2).await;
    assert_eq!(rig.journal.count("delete"), 0);
    assert_eq!(rig.journal.count("order"), 0, "no commit, no action");
    rig.store.hangs.store(false, Ordering::SeqCst);
    until("it is deleted", || rig.journal.count("delete m0") >= 1).await;
    let of = |start: &str| rig.journal.position(start).expect(start);
    assert!(of("commit orders 1") < of("delete m0"));
    running.stop().await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice() {
    let rig = Rig::new();
    let running = rig.start(20, "").await;
    rig.store.unknown.store(1, Ordering::SeqCst);
    rig.queue.send_all((0..3).map(warned));
    until("they are deleted", || rig.journal.count("delete") == 3).await;
    let state = rig.state().await;
    assert_eq!(state.window.facts().count(), 3, "each fact once");
    until("the order is given", || rig.ecs.desired("orders-standard") == 3 || rig.journal.count("order") > 0)
        .await;
    running.stop().await;
}

#[tokio::test]
async fn a_hot_service_gets_every_fact_once_at_fifty_events_a_second() {
    let rig = Rig::new();
    let running = rig.start(1, "[policy]\nname = 'switch'\ninterruptions = 64\n").await;
    // Sixty tasks, each told fifty times, in an order that mixes them: a minute's worth.
    for round in 0..50 {
        rig.queue.send_all((0..60).map(|task| warned(1_000 + (task * 7 + round) % 60)));
    }
    until("all are deleted", || rig.journal.count("delete") == 3_000).await;
    let state = rig.state().await;
    let counts = state.window.counts(Timestamp(i64::MAX / 2), Millis(u64::MAX), Timestamp(0));
    assert_eq!(counts.interruptions, 60);
    let (commits, receives) = (rig.journal.count("commit"), rig.journal.count("receive"));
    assert!(commits <= 61 + 5, "what tells nothing new is not stored: {commits} of {receives} receives");
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_buried_and_what_nobody_knows_is_dropped() {
    let rig = Rig::new();
    let running = rig.start(1, "").await;
    rig.queue.send("not an event");
    rig.queue.send(include_str!("../samples/unknown-event.json"));
    rig.queue.send(include_str!("../samples/autoscaling-test-notification.json"));
    // Of a cluster that is not managed.
    rig.queue.send(include_str!("../samples/ecs-task-interruption-sdk.json"));
    until("all are deleted", || rig.journal.count("delete") == 4).await;
    assert_eq!(*rig.queue.buried.lock().expect("unpoisoned"), ["not an event"]);
    assert_eq!(rig.state().await.window.facts().count(), 0, "none of it is news");
    running.stop().await;
}

#[tokio::test]
async fn a_command_that_became_too_old_while_its_generation_was_read_is_not_given() {
    let rig = Rig::new();
    // A command is valid for 30 s: 300 ms here, of which reading takes longer.
    let running = rig.start(100, "").await;
    rig.store.slow_ms.store(600, Ordering::SeqCst);
    rig.ecs.change("orders-spot", |service| service.ready = 4);
    until("the shortfall is decided", || rig.journal.count("commit") >= 2).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await; // several commands' worth, each refused
    assert_eq!(rig.journal.count("order"), 0);
    rig.store.slow_ms.store(0, Ordering::SeqCst);
    until("a new command is given", || rig.ecs.desired("orders-standard") >= 6).await;
    running.stop().await;
}

#[tokio::test]
async fn an_order_of_a_generation_that_somebody_replaced_is_not_given() {
    let rig = Rig::new();
    let running = rig.start(1, "").await;
    until("it is at rest", || rig.journal.count("commit") >= 2).await;
    rig.store.slow_ms.store(3_000, Ordering::SeqCst);
    rig.queue.send(warned(1));
    until("it is decided", || rig.journal.count("commit") >= 3).await;
    // While the generation is being read, a person says otherwise.
    let state = rig.state().await;
    let now = lifeboat_controller::clock::wall_now();
    let next = state.instructed(now, Instruction::Pause);
    let entry = history::entry(now, &state, &next);
    let commit =
        Commit { service: "orders".into(), expected: Some(state.generation), state: Box::new(next), entry };
    assert_eq!(rig.store.inner.commit(commit).await.expect("answered"), Committed::Stored);
    until("it is read", || rig.journal.count("read orders") >= 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await; // an order would follow at once
    assert_eq!(rig.journal.count("order"), 0, "{:?}", rig.journal.all());
    running.stop().await;
}

#[tokio::test]
async fn a_persons_shift_is_heeded_within_seconds_and_given_back() {
    let rig = Rig::new();
    let running = rig.start(50, "").await;
    let tell = async |instruction| loop {
        let state = rig.state().await;
        let next = state.instructed(lifeboat_controller::clock::wall_now(), instruction);
        let commit = Commit {
            service: "orders".into(),
            expected: Some(state.generation),
            state: Box::new(next),
            entry: None,
        };
        if rig.store.inner.commit(commit).await.expect("answered") == Committed::Stored {
            break;
        }
    };
    tell(Instruction::Shift { to: Capacity::OnDemand, until: None }).await;
    until("all of it runs On-Demand", || {
        (rig.ecs.desired("orders-spot"), rig.ecs.desired("orders-standard")) == (0, 10)
    })
    .await;
    tell(Instruction::Resume).await;
    until("all of it runs on Spot", || {
        (rig.ecs.desired("orders-spot"), rig.ecs.desired("orders-standard")) == (10, 0)
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn on_demand_that_cannot_start_leaves_spot_alone_and_tells_a_person_again_and_again() {
    let rig = Rig::new();
    rig.ecs.change("orders-standard", |service| service.is_stuck = true);
    let running =
        rig.start(200, "[policy]\nname = 'switch'\ncapacity_errors = 1\npending_max = '10s'\n").await;
    rig.ecs.change("orders-spot", |service| service.ready = 7);
    let told = |text: &str| {
        rig.topic.told.lock().expect("unpoisoned").iter().filter(|line| line.contains(text)).count()
    };
    until("a person is told twice", || told("On-Demand does not start") >= 2).await;
    assert_eq!(rig.ecs.desired("orders-spot"), 10, "Spot stays as it is");
    let facts = rig.store.inner.history(Some("orders"), 100).await.expect("answered");
    assert!(facts.iter().any(|fact| fact.entry.to == Phase::Degraded));
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_service_is_let_go_and_taken_up_again_with_its_state() {
    let rig = Rig::new();
    let running = rig.start(200, "").await;
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    until("the shortfall is covered", || rig.ecs.desired("orders-standard") == 4).await;
    rig.ecs.change("orders-spot", |service| service.is_gone = true);
    tokio::time::sleep(Duration::from_millis(1_500)).await; // five minutes
    let orders = rig.journal.count("order");
    rig.ecs.change("orders-spot", |service| service.ready = 2);
    tokio::time::sleep(Duration::from_millis(300)).await; // a minute
    assert_eq!(rig.journal.count("order"), orders, "nothing is done about half a pair");
    rig.ecs.change("orders-spot", |service| service.is_gone = false);
    until("it is managed again", || rig.ecs.desired("orders-standard") == 8).await;
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_lowered_while_a_deployment_is_in_progress() {
    let rig = Rig::new();
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    let running = rig.start(100, "").await;
    until("the shortfall is covered", || rig.ecs.desired("orders-standard") == 4).await;
    rig.ecs.change("orders-spot", |service| (service.is_deploying, service.ready) = (true, 10));
    tokio::time::sleep(Duration::from_millis(1_500)).await; // two and a half minutes
    assert_eq!(rig.ecs.desired("orders-standard"), 4);
    rig.ecs.change("orders-spot", |service| service.is_deploying = false);
    until("it steps back", || rig.ecs.desired("orders-standard") == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn throttled_calls_delay_and_never_break() {
    let rig = Rig::new();
    rig.ecs.throttled.store(5, Ordering::SeqCst);
    let running = rig.start(20, "").await;
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    rig.ecs.throttled.store(12, Ordering::SeqCst);
    until("the shortfall is covered", || rig.ecs.desired("orders-standard") == 4).await;
    running.stop().await;
}

#[tokio::test]
async fn alerts_are_tried_again_and_never_hold_anything_up() {
    let rig = Rig::new();
    rig.topic.failures.store(3, Ordering::SeqCst);
    let running = rig.start(20, "").await;
    rig.queue.send(warned(1));
    until("it is deleted", || rig.journal.count("delete") == 1).await;
    until("a person is told", || {
        rig.topic.told.lock().expect("unpoisoned").iter().any(|line| line.contains("fails over"))
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn metrics_have_their_names_and_the_one_dimension_that_alarms_use() {
    let rig = Rig::new();
    let config = "[prices]\non_demand_task_hour = 0.268\nspot_task_hour = 0.118\n[metrics]\nevery = '60s'";
    let running = rig.start(100, config).await;
    let names = ["SpotHealthScore", "FailoverActive", "ErrorCount5min", "CostSavingsToday", "FailoverCount"];
    until("each is published twice", || {
        let data = rig.metrics.0.lock().expect("unpoisoned");
        names.iter().all(|name| data.iter().filter(|datum| datum.metric == *name).count() >= 2)
    })
    .await;
    let data = rig.metrics.0.lock().expect("unpoisoned").clone();
    assert!(data.iter().all(|datum| datum.service == "orders"));
    let saved = data.iter().rfind(|datum| datum.metric == "CostSavingsToday").expect("published").value;
    assert!(saved > 0.0, "ten Spot tasks save money: {saved}");
    running.stop().await;
}

#[tokio::test]
async fn a_machine_that_will_be_interrupted_is_told_to_evacuate_once_and_a_person_too() {
    let rig = Rig::new();
    rig.commands.unmanaged.lock().expect("unpoisoned").push("i-0abcdef1234567890".to_owned());
    let running = rig.start(1, "[machines]").await;
    let warning = include_str!("../samples/ec2-spot-interruption-warning.json");
    rig.queue.send(warning);
    rig.queue.send(warning);
    rig.queue.send(warning.replace("i-1234567890abcdef0", "i-0abcdef1234567890"));
    rig.queue.send(include_str!("../samples/health-scheduled-change.json"));
    rig.queue.send(include_str!("../samples/ec2-state-shutting-down.json"));
    until("all are deleted", || rig.journal.count("delete") == 5).await;
    let sent = rig.commands.sent.lock().expect("unpoisoned").clone();
    assert_eq!(sent, [(vec!["i-1234567890abcdef0".to_owned()], "lifeboat evacuate".to_owned())]);
    until("people are told", || rig.topic.told.lock().expect("unpoisoned").len() >= 4).await;
    let told = rig.topic.told.lock().expect("unpoisoned").clone();
    for text in [
        "interruption warning for i-1234567890abcdef0",
        "i-0abcdef1234567890 cannot be told to evacuate",
        "scheduled maintenance for i-1234567890abcdef0, i-0abcdef1234567890",
    ] {
        assert!(told.iter().any(|line| line.contains(text)), "{text}: {told:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_dry_run_decides_and_records_and_acts_on_nothing() {
    let rig = Rig::new();
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    rig.queue.send(warned(1));
    let running = rig.spawn(settings(50, ""), Mode { is_dry_run: true, ..Mode::default() });
    until("it has decided", || rig.journal.count("commit") >= 2).await;
    assert_eq!(rig.state().await.split.on_demand, 4);
    assert_eq!(rig.journal.count("order") + rig.journal.count("receive"), 0);
    running.stop().await;
}

#[tokio::test]
async fn once_ends_when_everything_has_come_to_rest() {
    let rig = Rig::new();
    rig.ecs.change("orders-spot", |service| service.ready = 6);
    let ports = lifeboat_controller::fleet::Ports { inbox: None, ..rig.ports() };
    let mode = Mode { is_once: true, ..Mode::default() };
    let run = lifeboat_controller::fleet::run(settings(20, ""), ports, mode, std::future::pending());
    tokio::time::timeout(LIMIT, run).await.expect("it ends").expect("no error");
    assert_eq!(rig.ecs.desired("orders-standard"), 4);
}

#[tokio::test]
async fn two_controllers_agree_and_neither_forgets_an_event() {
    let rig = Rig::new();
    let (one, two) = (rig.start(20, "").await, rig.spawn(settings(20, ""), Mode::default()));
    for task in 0..8 {
        rig.queue.send(warned(task));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("all are deleted", || rig.journal.count("delete") == 8).await;
    assert_eq!(rig.state().await.window.facts().count(), 8);
    let facts = rig.store.inner.history(Some("orders"), 100).await.expect("answered");
    let mut entries: Vec<_> = facts.iter().map(|fact| fact.entry).collect();
    entries.reverse();
    assert!(entries.windows(2).all(|pair| pair[0].to == pair[1].from), "history is one line: {entries:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_cluster_that_cannot_be_listed_ends_the_controller_with_its_reason() {
    #[derive(Debug)]
    struct Denied;
    #[async_trait::async_trait]
    impl lifeboat_controller::port::Ecs for Denied {
        async fn services(&self, _: &str) -> Result<Vec<String>, lifeboat_controller::port::CallError> {
            Err(lifeboat_controller::port::CallError::Refused("ecs:ListServices".to_owned()))
        }
        async fn describe_services(
            &self,
            _: &str,
            _: &[String],
        ) -> Result<Vec<lifeboat_controller::port::ServiceView>, lifeboat_controller::port::CallError>
        {
            Ok(Vec::new())
        }
        async fn tasks(
            &self,
            _: &str,
            _: Option<&str>,
        ) -> Result<Vec<String>, lifeboat_controller::port::CallError> {
            Ok(Vec::new())
        }
        async fn describe_tasks(
            &self,
            _: &str,
            _: &[String],
        ) -> Result<Vec<lifeboat_controller::port::TaskView>, lifeboat_controller::port::CallError> {
            Ok(Vec::new())
        }
        async fn set_desired(
            &self,
            _: &str,
            _: &str,
            _: u32,
        ) -> Result<(), lifeboat_controller::port::CallError> {
            Ok(())
        }
    }
    let ports = lifeboat_controller::fleet::Ports { ecs: Arc::new(Denied), ..Rig::new().ports() };
    let run =
        lifeboat_controller::fleet::run(settings(1, ""), ports, Mode::default(), std::future::pending());
    let error = tokio::time::timeout(LIMIT, run).await.expect("it ends").expect_err("denied");
    assert!(matches!(error, FleetError::Cluster { ref cluster, .. } if cluster == "default"), "{error}");
}

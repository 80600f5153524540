//! What every store must do, run over each of them.

use std::sync::Arc;

use lifeboat_controller::store::{
    Commit, Committed, DynamoStore, MemoryStore, Meter, SqliteStore, Store, StoreError,
};
use lifeboat_core::failover::history::{self, Entry};
use lifeboat_core::failover::phase::Phase;
use lifeboat_core::failover::reason::Reason;
use lifeboat_core::failover::split::Split;
use lifeboat_core::failover::state::State;
use lifeboat_core::failover::window;
use lifeboat_core::time::{Millis, Timestamp};

const START: Timestamp = Timestamp(1_772_442_904_000);

fn first(service: &str) -> Commit {
    let state = Box::new(State::new(START, 10, Split { spot: 10, on_demand: 0 }));
    Commit { service: service.to_owned(), expected: None, state, entry: None }
}

/// The commit after `before`, `on_demand` tasks later.
fn then(service: &str, before: &State, on_demand: u32) -> Commit {
    let mut state = Box::new(before.clone());
    state.generation += 1;
    state.split.on_demand = on_demand;
    state.phase = Phase::ShiftingToOnDemand;
    state.reason = Reason::SpotShort { ready: 10 - on_demand, cover: 0, target: 10 };
    let at = START + Millis::from_secs(state.generation);
    let fact = window::Entry { at, fact: window::Fact::Interrupted, key: u64::MAX - u64::from(on_demand) };
    state.window.note(at, Millis::from_secs(300), fact);
    let entry = history::entry(at, before, &state);
    Commit { service: service.to_owned(), expected: Some(before.generation), state, entry }
}

async fn stored(store: &dyn Store, commit: Commit) -> State {
    let state = (*commit.state).clone();
    assert_eq!(store.commit(commit).await.expect("answered"), Committed::Stored);
    state
}

/// Everything that is promised of a store.
async fn conforms(store: Arc<dyn Store>) {
    let store = store.as_ref();
    assert_eq!(store.load("a").await.expect("answered"), None);
    assert_eq!(store.generation("a").await.expect("answered"), None);
    let a0 = stored(store, first("a")).await;
    assert_eq!(store.commit(first("a")).await.expect("answered"), Committed::Conflict, "only once");
    let a1 = stored(store, then("a", &a0, 1)).await;
    let late = store.commit(then("a", &a0, 2)).await.expect("answered");
    assert_eq!(late, Committed::Conflict, "the generation has moved");
    assert_eq!(store.load("a").await.expect("answered").as_deref(), Some(&a1), "byte for byte, keys too");
    assert_eq!(store.generation("a").await.expect("answered"), Some(1));
    let unborn = store.commit(then("b", &a0, 2)).await.expect("answered");
    assert_eq!(unborn, Committed::Conflict, "a state was expected where there is none");

    let b0 = stored(store, first("b")).await;
    stored(store, then("b", &b0, 5)).await;
    let a2 = stored(store, then("a", &a1, 3)).await;
    let facts = store.history(None, 10).await.expect("answered");
    let told: Vec<(&str, u64)> =
        facts.iter().map(|fact| (fact.service.as_str(), fact.entry.generation)).collect();
    assert_eq!(told[0], ("a", 2), "newest first");
    assert_eq!(told.len(), 3, "a conflict leaves no history, the first state none either: {told:?}");
    let of_a: Vec<Entry> =
        store.history(Some("a"), 10).await.expect("answered").into_iter().map(|fact| fact.entry).collect();
    assert_eq!(of_a.iter().map(|entry| entry.split.on_demand).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(store.history(Some("a"), 1).await.expect("answered").len(), 1);
    assert_eq!(store.history(Some("c"), 9).await.expect("answered"), []);

    // By a controller whose clock is ten minutes behind.
    let mut late = then("b", &store.load("b").await.expect("answered").expect("stored"), 6);
    late.entry = late.entry.map(|entry| Entry { at: entry.at.before(Millis::from_secs(600)), ..entry });
    stored(store, late).await;
    let of_b = store.history(Some("b"), 10).await.expect("answered");
    assert_eq!(of_b.iter().map(|fact| fact.entry.generation).collect::<Vec<_>>(), [2, 1]);

    let names = ["a", "b", "c"].map(str::to_owned);
    let known = store.generations(&names).await.expect("answered");
    assert_eq!(known.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 2), ("b".to_owned(), 2)]);
    let states = store.states().await.expect("answered");
    assert_eq!(states.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(*states["a"], a2);
    meters(store).await;
}

async fn meters(store: &dyn Store) {
    let meter = |saved_micros| Meter { day: 20_514, saved_micros, until: START + Millis(saved_micros) };
    assert_eq!(store.meter("a").await.expect("answered"), None);
    let set = |before, next| store.set_meter("a", before, next);
    assert_eq!(set(None, meter(5)).await.expect("answered"), Committed::Stored);
    assert_eq!(set(None, meter(6)).await.expect("answered"), Committed::Conflict);
    assert_eq!(set(Some(meter(5)), meter(9)).await.expect("answered"), Committed::Stored);
    assert_eq!(set(Some(meter(5)), meter(9)).await.expect("answered"), Committed::Conflict);
    assert_eq!(store.meter("a").await.expect("answered"), Some(meter(9)));
}

/// Of sixteen who commit at once onto the same generation, one wins, so many times.
async fn one_of_many_wins(store: Arc<dyn Store>, times: u64) {
    let mut state = stored(store.as_ref(), first("contended")).await;
    let mut rounds = 0;
    while state.generation < times {
        rounds += 1;
        assert!(rounds < 10 * times, "somebody must win now and then");
        let racers: Vec<_> = (0..16)
            .map(|_| {
                let (store, commit) = (
                    Arc::clone(&store),
                    then("contended", &state, 1 + u32::try_from(state.generation % 9).expect("small")),
                );
                tokio::spawn(async move { store.commit(commit).await.expect("answered") })
            })
            .collect();
        let mut won = 0;
        for racer in racers {
            won += usize::from(racer.await.expect("ends") == Committed::Stored);
        }
        assert!(won <= 1, "of those who expect one generation one stores the next");
        state = *store.load("contended").await.expect("answered").expect("stored");
    }
    let facts = store.history(Some("contended"), 100).await.expect("answered");
    let kept: Vec<u64> = facts.iter().rev().map(|fact| fact.entry.generation).collect();
    assert_eq!(kept, (1..=times).collect::<Vec<_>>(), "each winner's entry, and no loser's");
    let known = store.generations(&["contended".to_owned()]).await.expect("answered");
    assert_eq!(known["contended"], times, "what one query tells of all services is the same");
}

fn sqlite(dir: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(&dir.path().join("fleet.db")).expect("opened"))
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    conforms(Arc::new(MemoryStore::new())).await;
    one_of_many_wins(Arc::new(MemoryStore::new()), 40).await;
}

#[tokio::test]
async fn the_store_in_sqlite_conforms() {
    let dir = tempfile::tempdir().expect("temporary directory");
    conforms(sqlite(&dir)).await;
    one_of_many_wins(sqlite(&dir), 40).await;
}

#[tokio::test]
async fn the_store_in_dynamodb_conforms() {
    let Some(moto) = lifeboat_aws::testing::Moto::start() else { return };
    // By itself moto checks a transaction's conditions without a lock: two that come at once would both pass.
    let front = lifeboat_aws::testing::Front::start(&moto, None);
    let aws = lifeboat_aws::testing::aws_at(&front.url());
    moto.create_table("fleet", "pk", Some("sk"));
    let store = DynamoStore::new(aws.dynamodb(), "fleet", Millis::from_secs(86_400));
    let store = Arc::new(store.within(std::time::Duration::from_secs(60)));
    conforms(Arc::clone(&store) as Arc<dyn Store>).await;
    one_of_many_wins(store, 12).await;
    // The table's TTL deletes what has `expires`: history, and nothing else.
    let scan = moto.json("dynamodb", "DynamoDB_20120810.Scan", &serde_json::json!({ "TableName": "fleet" }));
    for item in scan["Items"].as_array().expect("items") {
        let sort = item["sk"]["S"].as_str().expect("a sort key");
        assert_eq!(item.get("expires").is_some(), sort.starts_with("history#"), "{item}");
    }
}

#[tokio::test]
async fn two_processes_may_share_a_sqlite_file_and_a_new_one_reads_what_was_stored() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (one, two) = (sqlite(&dir), sqlite(&dir));
    let a0 = stored(one.as_ref(), first("a")).await;
    assert_eq!(two.load("a").await.expect("answered").as_deref(), Some(&a0));
    let a1 = stored(two.as_ref(), then("a", &a0, 4)).await;
    let late = one.commit(then("a", &a0, 5)).await.expect("answered");
    assert_eq!(late, Committed::Conflict);
    drop((one, two));
    assert_eq!(sqlite(&dir).load("a").await.expect("answered").as_deref(), Some(&a1));
}

#[tokio::test]
async fn history_ends_at_its_retention_and_states_never() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for store in [sqlite(&dir), Arc::new(MemoryStore::new())] {
        let a0 = stored(store.as_ref(), first("a")).await;
        let a1 = stored(store.as_ref(), then("a", &a0, 1)).await;
        let a2 = stored(store.as_ref(), then("a", &a1, 2)).await;
        assert_eq!(store.prune(START + Millis(1_500)).await.expect("answered"), 1);
        assert_eq!(store.history(None, 9).await.expect("answered").len(), 1);
        assert_eq!(store.prune(START + Millis::from_secs(1_000_000)).await.expect("answered"), 1);
        assert_eq!(store.load("a").await.expect("answered").as_deref(), Some(&a2));
    }
}

#[tokio::test]
async fn what_cannot_be_used_says_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let missing = SqliteStore::open_existing(&dir.path().join("none.db")).expect_err("there is none");
    assert!(matches!(missing, StoreError::Unusable(_)), "{missing}");
    let text = dir.path().join("text.db");
    std::fs::write(&text, "this is no database, but long enough to be looked at as one".repeat(9))
        .expect("written");
    assert!(matches!(SqliteStore::open(&text), Err(StoreError::Unusable(_))));
}

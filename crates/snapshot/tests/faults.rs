//! Hundreds of worlds in which the store fails: whatever the journal names afterwards restores byte for byte.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::fault::FaultyStore;
use common::{Seen, claimant, memory_store, noise, temp, tree, workload, write};
use lifeboat_snapshot::manifest::LeftOutReason;
use lifeboat_snapshot::restore::{RestoreError, RestoreOptions};
use lifeboat_snapshot::save::{Pace, PriorityRule, SaveError, SaveOptions};
use lifeboat_snapshot::{Deadline, Wait, acquire, journal, read_manifest, restore, save};
use object_store::ObjectStore;
use tokio::time::Instant;

/// A small tree with a pack, an object of its own, and one in parts.
fn fill(top: &Path, seed: u64) {
    for number in 0..12 {
        write(top, format!("small/{number}"), noise(seed + number, 1000));
    }
    write(top, "empty", "");
    write(top, "large", noise(seed, (4 << 20) + 1));
    if seed.is_multiple_of(8) {
        write(top, "in parts", noise(seed, (16 << 20) + 5));
    }
}

/// Runs one world and returns how many recovery points it committed.
async fn world(seed: u64, one_in: u64) -> usize {
    let inner = memory_store().store;
    let faulty = FaultyStore::new(Arc::clone(&inner), seed, one_in);
    let store: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&faulty);
    let (saved_by, from) = (workload(&store), temp());
    fill(from.path(), seed);
    let expected = tree(from.path());
    let start = Instant::now();
    let limit = start + Duration::from_secs(110);
    let Ok(Ok(mut acquired)) =
        tokio::time::timeout_at(limit, acquire(&saved_by, &claimant(1), Wait::No)).await
    else {
        return 0;
    };
    let mut options = SaveOptions::new(from.path());
    options.deadline = Deadline::at(limit);
    let saved = save(&saved_by, &acquired.claim.id(), &options).await;
    assert!(start.elapsed() <= Duration::from_secs(111), "seed {seed}: {:?}", start.elapsed());
    let Ok(saved) = saved else { return 0 };
    let _ = acquired.claim.commit(saved.manifest).await; // The journal says below whether it is there.

    faulty.switch(false);
    let points = journal::recovery_points(&saved_by).await.expect("readable");
    for point in &points {
        let target = temp();
        faulty.switch(true);
        // Restoring meets the same faults, and may be done again: it goes on where it stopped.
        let options = RestoreOptions::new(target.path());
        for _ in 0..20 {
            match restore(&saved_by, &point.manifest, &options).await {
                Ok(_) => break,
                Err(RestoreError::Store(_) | RestoreError::Manifest(_)) => {}
                Err(error @ (RestoreError::Conflict { .. } | RestoreError::Target { .. })) => {
                    panic!("seed {seed}: {error:?}")
                }
            }
        }
        faulty.switch(false);
        restore(&saved_by, &point.manifest, &options).await.expect("restored");
        check(seed, &expected, target.path(), point.manifest.complete);
        let manifest = read_manifest(&saved_by, &point.manifest).await.expect("readable");
        assert!(manifest.left_out.iter().all(|left_out| {
            matches!(left_out.reason, LeftOutReason::StoreRefused | LeftOutReason::OutOfTime)
        }));
    }
    points.len()
}

/// What came back is what was there; what is missing was named.
fn check(seed: u64, expected: &std::collections::BTreeMap<Vec<u8>, Seen>, target: &Path, is_complete: bool) {
    let restored = tree(target);
    for (path, seen) in &restored {
        assert_eq!(Some(seen), expected.get(path), "seed {seed}: {}", String::from_utf8_lossy(path));
    }
    assert_eq!(restored.len() == expected.len(), is_complete, "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn every_point_that_a_journal_names_restores_byte_for_byte() {
    let mut committed = 0;
    for seed in 0..100 {
        committed += world(seed, 10).await;
    }
    assert!(committed > 90, "only {committed} of 100 worlds committed at one fault in ten");
}

#[tokio::test(start_paused = true)]
async fn in_worlds_where_half_of_all_requests_fail_nothing_lies_either() {
    for seed in 1000..1100 {
        world(seed, 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_no_more_than_the_deadline() {
    let faulty = FaultyStore::new(memory_store().store, 1, 1);
    faulty.switch(false);
    let store: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&faulty);
    let (workload, from) = (workload(&store), temp());
    fill(from.path(), 3);
    let claim = acquire(&workload, &claimant(1), Wait::No).await.expect("claimed").claim;
    faulty.switch(true);
    let start = Instant::now();
    let mut options = SaveOptions::new(from.path());
    options.deadline = Deadline::at(start + Duration::from_secs(20));
    let refused = save(&workload, &claim.id(), &options).await.expect_err("nothing can be stored");
    assert!(matches!(refused, SaveError::OutOfTime), "{refused:?}");
    assert_eq!(start.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn when_time_runs_out_the_valuable_is_stored_and_the_rest_is_named() {
    // A store that takes one second for every request.
    let slow = object_store::throttle::ThrottledStore::new(
        object_store::memory::InMemory::new(),
        object_store::throttle::ThrottleConfig {
            wait_put_per_call: Duration::from_secs(1),
            ..object_store::throttle::ThrottleConfig::default()
        },
    );
    let store: Arc<dyn ObjectStore> = Arc::new(slow);
    let (workload, from) = (workload(&store), temp());
    for number in 0..12 {
        write(from.path(), format!("large {number:02}"), noise(number, (4 << 20) + 1));
    }
    write(from.path(), "important", noise(1, 5 << 20));
    let claim = acquire(&workload, &claimant(1), Wait::No).await.expect("claimed").claim;
    let mut options = SaveOptions::new(from.path());
    options.pace = Pace { concurrency: 1, ..Pace::FULL };
    let glob = globset::Glob::new("important").expect("valid").compile_matcher();
    options.priorities = vec![PriorityRule { glob, priority: 10_000 }];
    options.deadline = Deadline::at(Instant::now() + Duration::from_secs(8));
    let saved = save(&workload, &claim.id(), &options).await.expect("a manifest of what is complete");
    assert!(!saved.manifest.complete);
    let manifest = read_manifest(&workload, &saved.manifest).await.expect("readable");
    assert!(manifest.entries.iter().any(|entry| entry.path.to_string() == "important"));
    assert!(saved.files >= 3, "{}", saved.files);
    assert_eq!(usize::try_from(saved.files).expect("few") + saved.left_out.len(), 13);
    assert!(saved.left_out.iter().all(|left_out| left_out.reason == LeftOutReason::OutOfTime));
}

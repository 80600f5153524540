//! One owner at a time: races, frozen holders, lost answers, restarts. Time is tokio's and paused.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::fault::FaultyStore;
use common::{claim, claimant, stores_in_paused_time, workload};
use lifeboat_snapshot::claim::{AcquireError, ClaimError};
use lifeboat_snapshot::extra::{self, Extra};
use lifeboat_snapshot::id::Digest;
use lifeboat_snapshot::journal::{self, Event, Release};
use lifeboat_snapshot::{Deadline, How, ManifestRef, Wait, Workload, acquire, open};
use object_store::{ObjectStoreExt, PutPayload};
use tokio::time::Instant;

/// A reference that can be committed: the journal does not read manifests.
fn manifest(number: u64) -> ManifestRef {
    ManifestRef {
        key: format!("manifests/{number}"),
        digest: Digest::of(&number.to_le_bytes()),
        size: number,
        files: 1,
        bytes: 1,
        left_out: 0,
        complete: true,
    }
}

fn soon(seconds: u64) -> Wait {
    Wait::Until(Instant::now() + Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn of_sixteen_claimants_exactly_one_owns_the_work() {
    for store in stores_in_paused_time() {
        for round in 0..8 {
            let workload =
                Workload::new(Arc::clone(&store.store), format!("w{round}").parse().expect("valid"));
            let racing = (0..16).map(|number| {
                let workload = workload.clone();
                tokio::spawn(async move { acquire(&workload, &claimant(number), Wait::No).await })
            });
            let mut owners = 0;
            for raced in racing.collect::<Vec<_>>() {
                match raced.await.expect("no panic") {
                    Ok(acquired) => {
                        assert_eq!(acquired.how, How::Fresh);
                        owners += 1;
                    }
                    Err(AcquireError::Held { .. }) => {}
                    Err(AcquireError::Store(error)) => panic!("{error}"),
                }
            }
            assert_eq!(owners, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_sixteen_that_wait_for_a_dead_holder_one_takes_over() {
    for store in stores_in_paused_time() {
        let workload = store.workload();
        let mut dead = claim(&workload, 99).await.claim;
        let point = dead.commit(manifest(7)).await.expect("still alive");
        let racing = (0..16).map(|number| {
            let workload = workload.clone();
            tokio::spawn(async move { acquire(&workload, &claimant(number), soon(45)).await })
        });
        let mut owners = Vec::new();
        for raced in racing.collect::<Vec<_>>() {
            owners.extend(raced.await.expect("no panic").ok());
        }
        assert_eq!(owners.len(), 1);
        assert!(matches!(&owners[0].how, How::TookOver { from } if from.instance == "i-99"));
        assert_eq!(owners[0].resume, Some(point));
        // The dead one was only frozen: whatever it tries now must fail, and change nothing.
        let head = journal::head(&workload).await.expect("readable");
        assert!(matches!(dead.commit(manifest(8)).await, Err(ClaimError::Fenced { .. })));
        assert!(matches!(dead.renew().await, Err(ClaimError::Fenced { .. })));
        assert!(matches!(dead.check().await, Err(ClaimError::Fenced { .. })));
        assert!(matches!(dead.release(Release::default()).await, Err(ClaimError::Fenced { .. })));
        assert!(matches!(dead.done(0).await, Err(ClaimError::Fenced { .. })));
        assert_eq!(journal::head(&workload).await.expect("readable"), head);
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_or_commits_is_never_taken_over() {
    for store in stores_in_paused_time() {
        let workload = store.workload();
        let mut holder = claim(&workload, 1).await.claim;
        let waiting = {
            let workload = workload.clone();
            tokio::spawn(async move { acquire(&workload, &claimant(2), soon(300)).await })
        };
        for round in 0..40 {
            tokio::time::sleep(holder.renew_interval()).await;
            if round % 2 == 0 {
                holder.renew().await.expect("the owner");
            } else {
                holder.commit(manifest(round)).await.expect("the owner");
            }
        }
        let refused = waiting.await.expect("no panic");
        assert!(matches!(refused, Err(AcquireError::Held { by, claim: 1 }) if by.instance == "i-1"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_goes_on_at_once_and_its_old_self_is_fenced() {
    for store in stores_in_paused_time() {
        let workload = store.workload();
        let mut before = claim(&workload, 1).await.claim;
        let point = before.commit(manifest(1)).await.expect("the owner");
        let start = Instant::now();
        let mut after = claim(&workload, 1).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!((after.how, after.resume), (How::Continued, Some(point)));
        assert!(matches!(before.commit(manifest(2)).await, Err(ClaimError::Fenced { .. })));
        after.claim.commit(manifest(2)).await.expect("the owner");
        // The same state directory on another machine is somebody else: an image was made of a running instance.
        let mut clone = claimant(1);
        clone.holder.instance = "i-clone".to_owned();
        assert!(matches!(acquire(&workload, &clone, Wait::No).await, Err(AcquireError::Held { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn released_work_is_taken_up_with_all_that_was_left_and_done_work_starts_anew() {
    for store in stores_in_paused_time() {
        let workload = store.workload();
        let mut first = claim(&workload, 1).await.claim;
        let point = first.commit(manifest(1)).await.expect("the owner");
        let state = extra::put(&workload, &first.id(), Extra::State, "{}".into(), &Deadline::none()).await;
        let release = Release { reason: "notice".to_owned(), state: state.ok(), ..Release::default() };
        first.release(release.clone()).await.expect("the owner");
        first.release(release.clone()).await.expect("twice is once");
        assert!(matches!(first.commit(manifest(9)).await, Err(ClaimError::Ended { claim: 1 })));

        let mut second = claim(&workload, 2).await;
        let How::Released(found) = second.how else { panic!("{:?}", second.how) };
        assert_eq!((&*found, second.resume), (&release, Some(point)));
        let stored = found.state.expect("was saved");
        assert_eq!(extra::get(&workload, &stored).await.expect("readable"), "{}");
        second.claim.done(3).await.expect("the owner");
        assert!(matches!(first.check().await, Err(ClaimError::Fenced { .. })));

        let third = claim(&workload, 3).await;
        assert_eq!((third.how, third.resume), (How::Fresh, None));
        let events: Vec<_> = journal::records(&workload).await.expect("readable").into_iter().collect();
        assert_eq!(events.len(), 6);
        assert!(matches!(events[4].event, Event::Done { exit_code: 3 }));
        assert_eq!(Workload::list(&store.store).await.expect("listed"), [workload.name().clone()]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_in_a_gap_that_pruning_left_is_no_history_and_fences_its_writer() {
    for store in stores_in_paused_time() {
        let workload = store.workload();
        let mut frozen = claim(&workload, 1).await.claim;
        let mut holder = acquire(&workload, &claimant(2), soon(60)).await.expect("taken over").claim;
        for number in 0..5 {
            holder.commit(manifest(number)).await.expect("the owner");
        }
        // As a prune leaves it: everything below record 4 is gone.
        for seq in 1..4 {
            let key = format!("work/journal/{seq:020}.json").into();
            store.store.delete(&key).await.expect("deletable");
        }
        let before = journal::records(&workload).await.expect("readable");
        let stray = frozen.commit(manifest(66)).await;
        assert!(matches!(stray, Err(ClaimError::Fenced { by, .. }) if by.instance == "i-2"));
        assert_eq!(journal::records(&workload).await.expect("readable"), before);
        holder.check().await.expect("still the owner");
        holder.commit(manifest(6)).await.expect("still the owner");
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_head_is_named_and_nothing_is_claimed() {
    for store in stores_in_paused_time() {
        let workload = store.workload();
        claim(&workload, 1).await;
        for garbage in ["", "{", "{\"format\":1}", "\u{0}"] {
            let key = "work/journal/00000000000000000002.json".into();
            store.store.put(&key, PutPayload::from(garbage.to_owned())).await.expect("writable");
            let refused = acquire(&workload, &claimant(1), Wait::No).await.expect_err("damaged");
            let AcquireError::Store(error) = refused else { panic!("{refused}") };
            assert!(error.to_string().contains("00002.json\" in the store is damaged"), "{error}");
        }
    }
}

/// Answers are lost, requests fail, listings break off: however often, each record is there once and in order.
#[tokio::test(start_paused = true)]
async fn lost_answers_neither_double_nor_lose_a_record() {
    for seed in 0..100 {
        let inner = open(&"memory://".parse().expect("valid")).expect("opens");
        let faulty = FaultyStore::new(inner, seed, 3);
        let store: Arc<dyn object_store::ObjectStore> = Arc::<FaultyStore>::clone(&faulty);
        let workload = workload(&store);
        let mut held = None;
        for _ in 0..50 {
            if let Ok(acquired) = acquire(&workload, &claimant(1), Wait::No).await {
                held = Some(acquired.claim);
                break;
            }
        }
        let mut held = held.expect("claimed in one of fifty tries");
        for number in 0..6 {
            let mut tries = 0;
            while let Err(error) = held.commit(manifest(number)).await {
                assert!(matches!(error, ClaimError::Store(_)), "seed {seed}: {error}");
                tries += 1;
                assert!(tries < 50, "seed {seed}: {error}");
            }
        }
        faulty.switch(false);
        let records = journal::records(&workload).await.expect("readable");
        let committed: Vec<_> = records
            .iter()
            .filter(|record| matches!(record.event, Event::Committed))
            .map(|record| record.point.as_ref().expect("has one").manifest.size)
            .collect();
        assert_eq!(committed, [0, 1, 2, 3, 4, 5], "seed {seed}");
        let numbers: Vec<_> = records.iter().map(|record| record.seq).collect();
        assert_eq!(numbers, (1..=records.last().expect("some").seq).collect::<Vec<_>>(), "seed {seed}");
    }
}

/// The holder's clock goes wrong by ten minutes either way: who may take over, and when, is the same.
#[tokio::test(start_paused = true)]
async fn clocks_that_differ_by_minutes_change_nothing_of_who_owns_the_work() {
    const TEN_MINUTES_MS: i64 = 600_000;
    for wrong_by in [-TEN_MINUTES_MS, TEN_MINUTES_MS] {
        for store in stores_in_paused_time() {
            let workload = store.workload();
            let mut dead = claim(&workload, 1).await.claim;
            let point = dead.commit(manifest(7)).await.expect("still alive");
            let head = journal::head(&workload).await.expect("readable").expect("one").record;
            let key = format!("work/journal/{:020}.json", head.seq).into();
            let mut record = serde_json::to_value(&head).expect("JSON");
            record["at_unix_ms"] = head.at_unix_ms.saturating_add_signed(wrong_by).into();
            let bytes = serde_json::to_vec(&record).expect("JSON");
            store.store.put(&key, PutPayload::from(bytes)).await.expect("writable");

            let begun = Instant::now();
            let held = acquire(&workload, &claimant(2), Wait::No).await.expect_err("it may be alive");
            assert!(matches!(held, AcquireError::Held { .. }), "{held:?}");
            let taken = acquire(&workload, &claimant(2), soon(120)).await.expect("the holder fell silent");
            let waited = begun.elapsed();
            assert!(waited >= Duration::from_secs(30) && waited < Duration::from_secs(60), "{waited:?}");
            assert_eq!(taken.resume.map(|resume| resume.manifest), Some(point.manifest));
        }
    }
}

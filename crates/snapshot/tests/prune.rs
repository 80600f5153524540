//! Pruning deletes what no kept recovery point needs, and nothing that one does.

mod common;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use common::{claim, save_and_commit, stores, stores_in_paused_time, temp, tree, write};
use futures_util::TryStreamExt;
use lifeboat_snapshot::extra::{self, Extra};
use lifeboat_snapshot::journal::{self, Release};
use lifeboat_snapshot::prune::{PruneError, PrunePlan};
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::{Claim, Deadline, Workload, prune, restore, save};
use object_store::ObjectStoreExt;

fn plan(keep: usize, holder: Option<&Claim>) -> PrunePlan {
    PrunePlan {
        keep: NonZeroUsize::new(keep).expect("not zero"),
        holder: holder.map(Claim::id),
        is_dry_run: false,
    }
}

async fn keys(workload: &Workload) -> BTreeSet<String> {
    let objects: Vec<_> = workload.store().list(None).try_collect().await.expect("listed");
    objects.into_iter().map(|object| object.location.to_string()).collect()
}

async fn restores(workload: &Workload) -> usize {
    let points = journal::recovery_points(workload).await.expect("readable");
    for point in &points {
        let target = temp();
        let options = RestoreOptions::new(target.path());
        let restored = restore(workload, &point.manifest, &options).await.expect("every kept point restores");
        assert_eq!(restored.files, point.manifest.files);
        assert!(!tree(target.path()).is_empty());
    }
    points.len()
}

#[tokio::test]
async fn the_newest_points_stay_whole_and_the_rest_goes() {
    for store in stores() {
        let workload = store.workload();
        let from = temp();
        for number in 1..=5 {
            write(from.path(), format!("file {number}"), number.to_string());
            let mut claim = claim(&workload, number).await.claim;
            save_and_commit(&workload, &mut claim, from.path()).await;
            claim.renew().await.expect("the owner");
            let state =
                extra::put(&workload, &claim.id(), Extra::State, "{}".into(), &Deadline::none()).await;
            let release = Release { state: state.ok(), ..Release::default() };
            claim.release(release).await.expect("the owner");
        }
        let before = keys(&workload).await;
        let dry = prune(&workload, &PrunePlan { is_dry_run: true, ..plan(2, None) }).await.expect("planned");
        assert_eq!(keys(&workload).await, before, "a dry run deletes nothing");
        let pruned = prune(&workload, &plan(2, None)).await.expect("pruned");
        assert_eq!(dry, pruned);
        assert_eq!((pruned.kept.len(), pruned.forgotten.len()), (2, 3));
        let deleted: BTreeSet<_> = pruned.objects.iter().map(|(key, _)| format!("work/{key}")).collect();
        assert_eq!(&keys(&workload).await | &deleted, before);
        assert_eq!(restores(&workload).await, 2);
        // Three claims of three records each, four heartbeats, three times manifest, state and pack.
        assert_eq!(pruned.objects.len(), 9 + 1 + 4 + 9);
        let again = prune(&workload, &plan(2, None)).await.expect("pruned");
        assert_eq!(again.objects, []);
        claim(&workload, 9).await.claim.check().await.expect("the journal goes on");
    }
}

#[tokio::test]
async fn what_a_living_holder_uploads_is_not_touched_by_others() {
    for store in stores() {
        let workload = store.workload();
        let from = temp();
        write(from.path(), "file", "1");
        let mut dead = claim(&workload, 1).await.claim;
        save_and_commit(&workload, &mut dead, from.path()).await;
        save(&workload, &dead.id(), &SaveOptions::new(from.path())).await.expect("saved, never committed");
        dead.release(Release::default()).await.expect("the owner");
        let mut holder = claim(&workload, 2).await.claim;
        write(from.path(), "file", "2");
        let uploaded = save(&workload, &holder.id(), &SaveOptions::new(from.path())).await.expect("saved");

        let pruned = prune(&workload, &plan(1, None)).await.expect("pruned");
        assert_eq!(pruned.objects.len(), 3, "the first record, and what nobody committed: {pruned:?}");
        holder.commit(uploaded.manifest).await.expect("nothing is missing");
        assert_eq!(restores(&workload).await, 2);

        write(from.path(), "file", "3");
        save_and_commit(&workload, &mut holder, from.path()).await;
        let by_other = prune(&workload, &plan(1, None)).await.expect("pruned");
        let by_holder = prune(&workload, &plan(1, Some(&holder))).await.expect("pruned");
        let is_of_holder = |key: &String| key.contains(&holder.id().nonce.to_string());
        assert!(!by_other.objects.iter().any(|(key, _)| is_of_holder(key)), "{by_other:?}");
        assert_eq!(by_holder.objects.len(), 2, "its first manifest and pack: {by_holder:?}");
        assert_eq!(restores(&workload).await, 1);
    }
}

#[tokio::test]
async fn nothing_is_deleted_while_a_kept_point_cannot_be_read() {
    for store in stores_in_paused_time() {
        let workload = store.workload();
        let from = temp();
        write(from.path(), "file", "1");
        for number in 1..=2 {
            let mut claim = claim(&workload, number).await.claim;
            save_and_commit(&workload, &mut claim, from.path()).await;
            claim.release(Release::default()).await.expect("the owner");
        }
        let newest = journal::recovery_points(&workload).await.expect("readable").pop().expect("two");
        let key = format!("work/{}", newest.manifest.key).into();
        store.store.put(&key, "damaged".into()).await.expect("writable");
        let before = keys(&workload).await;
        tokio::time::pause();
        let refused = prune(&workload, &plan(1, None)).await;
        assert!(matches!(refused, Err(PruneError::Kept { .. })), "{refused:?}");
        assert_eq!(keys(&workload).await, before);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_stray_record_of_a_fenced_writer_is_swept_up() {
    for store in stores() {
        let workload = store.workload();
        let from = temp();
        write(from.path(), "file", "1");
        for number in 1..=3 {
            let mut claim = claim(&workload, number).await.claim;
            save_and_commit(&workload, &mut claim, from.path()).await;
            claim.release(Release::default()).await.expect("the owner");
        }
        let first = "work/journal/00000000000000000001.json".into();
        let record = store.store.get(&first).await.expect("there").bytes().await.expect("readable");
        prune(&workload, &plan(1, None)).await.expect("pruned");
        let before = (keys(&workload).await, journal::records(&workload).await.expect("readable"));
        store.store.put(&first, record.into()).await.expect("writable");
        assert_eq!(journal::records(&workload).await.expect("readable"), before.1);
        let pruned = prune(&workload, &plan(1, None)).await.expect("pruned");
        assert_eq!(pruned.objects.len(), 1, "{pruned:?}");
        assert_eq!(keys(&workload).await, before.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_takes_long_and_moves_is_waited_for() {
    use object_store::throttle::{ThrottleConfig, ThrottledStore};
    let config = ThrottleConfig {
        wait_list_per_entry: std::time::Duration::from_millis(100),
        ..ThrottleConfig::default()
    };
    let store: std::sync::Arc<dyn object_store::ObjectStore> =
        std::sync::Arc::new(ThrottledStore::new(object_store::memory::InMemory::new(), config));
    let workload = common::workload(&store);
    let from = temp();
    write(from.path(), "file", "1");
    let mut claim = claim(&workload, 1).await.claim;
    save_and_commit(&workload, &mut claim, from.path()).await;
    // Half a minute, in pages of a tenth of a second.
    for number in 0..300 {
        let key = format!("work/data/{:020}-{}/{number}.bin", 0, "0".repeat(32)).into();
        store.put(&key, "left behind".into()).await.expect("writable");
    }
    let pruned = prune(&workload, &plan(1, None)).await.expect("pruned");
    assert_eq!(pruned.objects.len(), 301, "those and the record of the claim");
}

#[tokio::test]
async fn the_journal_is_read_while_others_write_and_prune() {
    let store = common::memory_store();
    let (workload, from) = (store.workload(), temp());
    write(from.path(), "file", "1");
    let mut claim = claim(&workload, 1).await.claim;
    let held = common::fault::FaultyStore::new(std::sync::Arc::clone(&store.store), 1, 1);
    held.switch(false);
    held.pause_after(0);
    let slow =
        common::workload(&(std::sync::Arc::clone(&held) as std::sync::Arc<dyn object_store::ObjectStore>));
    let reading = tokio::spawn(async move { (journal::head(&slow).await, journal::records(&slow).await) });
    // It has listed the journal, and does not get what it found there.
    held.paused().await;
    save_and_commit(&workload, &mut claim, from.path()).await;
    prune(&workload, &plan(1, None)).await.expect("pruned");
    held.resume();
    let (head, records) = reading.await.expect("no panic");
    assert_eq!(head.expect("readable").expect("there").record.seq, 2);
    assert_eq!(records.expect("readable").len(), 1);
}

//! Rounds store what changed and nothing else, lose nothing when they are broken off, and do not pile up.

mod common;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use common::fault::FaultyStore;
use common::{claim, claimant, memory_store, noise, stores, temp, tree, workload, write};
use futures_util::TryStreamExt;
use lifeboat_snapshot::prune::PrunePlan;
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::{Pace, SaveOptions, Saved};
use lifeboat_snapshot::{
    Claim, Deadline, NoProgress, ObjectStore, Rounds, UploadLog, Wait, Workload, acquire, journal, prune,
    restore, save, verify,
};

const KEEP: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

fn rounds(workload: &Workload, from: &Path) -> Rounds {
    // Nice threads would have to wait for the other tests.
    let pace = Pace { is_nice: false, ..Pace::BACKGROUND };
    Rounds::new(
        workload.clone(),
        SaveOptions { pace, ..SaveOptions::new(from) },
        UploadLog::in_memory(),
        KEEP,
    )
}

/// One round with its commit.
async fn round(rounds: &mut Rounds, claim: &mut Claim) -> Saved {
    let saved = rounds.round(&claim.id()).await.expect("saved");
    claim.commit(saved.manifest.clone()).await.expect("the owner");
    rounds.committed(&saved);
    saved
}

/// Restores the newest point and compares.
async fn restores_as(workload: &Workload, from: &Path) {
    let to = temp();
    let point = journal::recovery_points(workload).await.expect("readable").pop().expect("one");
    restore(workload, &point.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
    assert_eq!(tree(to.path()), tree(from));
}

async fn objects(store: &Arc<dyn ObjectStore>) -> (usize, u64) {
    let all: Vec<_> = store.list(None).try_collect().await.expect("listed");
    (all.len(), all.iter().map(|object| object.size).sum())
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    std::fs::File::options().append(true).open(path).expect("there").write_all(bytes).expect("writable");
}

#[tokio::test]
async fn a_round_costs_what_changed() {
    for store in stores() {
        let (workload, from) = (store.workload(), temp());
        for number in 0..400 {
            write(from.path(), format!("small/{number}"), noise(number, 2_000));
        }
        write(from.path(), "log", noise(1, 24 << 20));
        let mut claim = claim(&workload, 1).await.claim;
        let mut rounds = rounds(&workload, from.path());
        let first = round(&mut rounds, &mut claim).await;
        assert!(first.is_new && first.stored_bytes > 24 << 20);
        let before = objects(&store.store).await;
        let same = round(&mut rounds, &mut claim).await;
        assert_eq!((same.is_new, same.stored_bytes, objects(&store.store).await), (false, 0, before));

        append(&from.path().join("log"), &noise(2, 1 << 20));
        let appended = round(&mut rounds, &mut claim).await;
        assert!(appended.stored_bytes < 2 << 20, "{} bytes for one MiB", appended.stored_bytes);
        let page = std::fs::File::options().write(true).open(from.path().join("log")).expect("there");
        std::os::unix::fs::FileExt::write_all_at(&page, b"a page", 7 << 20).expect("writable");
        write(from.path(), "small/7", "changed");
        let touched = round(&mut rounds, &mut claim).await;
        assert!(touched.stored_bytes < 400_000, "{} bytes for a page", touched.stored_bytes);
        std::fs::rename(from.path().join("small"), from.path().join("renamed")).expect("movable");
        let moved = round(&mut rounds, &mut claim).await;
        assert!(moved.stored_bytes < 50_000, "{} bytes for a name", moved.stored_bytes);
        restores_as(&workload, from.path()).await;
        let point = claim.point().expect("committed").manifest.clone();
        assert_eq!(verify(&workload, &point, &NoProgress).await.expect("readable").damaged.len(), 0);
    }
}

#[tokio::test]
async fn after_a_restart_nothing_that_is_stored_is_stored_again() {
    let store = memory_store();
    let (workload, from) = (store.workload(), temp());
    for number in 0..300 {
        write(from.path(), format!("{number}"), noise(number, 3_000));
    }
    write(from.path(), "large", noise(1, 9 << 20));
    let mut claim = claim(&workload, 1).await.claim;
    let saved = round(&mut rounds(&workload, from.path()), &mut claim).await;
    let mut again = rounds(&workload, from.path());
    again.go_on_from(&saved.manifest).await.expect("readable");
    let same = round(&mut again, &mut claim).await;
    assert_eq!((same.is_new, same.stored_bytes), (false, 0));
    write(from.path(), "5", "five");
    let delta = round(&mut again, &mut claim).await;
    assert!(delta.stored_bytes < 2_000, "{}", delta.stored_bytes);
    let mut third = rounds(&workload, from.path());
    third.go_on_from(&delta.manifest).await.expect("a delta is read with its base");
    assert!(!round(&mut third, &mut claim).await.is_new);
    restores_as(&workload, from.path()).await;
}

#[tokio::test]
async fn what_a_killed_agent_had_uploaded_is_not_uploaded_again() {
    for store in stores() {
        let (workload, from, state) = (store.workload(), temp(), temp());
        write(from.path(), "large", noise(1, 30 << 20));
        write(from.path(), "small", noise(2, 50_000));
        let path = state.path().join("uploads");
        let options = |log: Arc<UploadLog>| SaveOptions { log: Some(log), ..SaveOptions::new(from.path()) };
        let killed = acquire(&workload, &claimant(1), Wait::No).await.expect("claimed").claim;
        // Everything is stored but the commit.
        save(&workload, &killed.id(), &options(UploadLog::at(&path))).await.expect("saved");
        drop(killed);
        let mut next = acquire(&workload, &claimant(1), Wait::No).await.expect("its own").claim;
        let saved = save(&workload, &next.id(), &options(UploadLog::at(&path))).await.expect("saved");
        assert!(saved.stored_bytes < 20_000, "{} bytes were sent again", saved.stored_bytes);
        let plan = PrunePlan { keep: KEEP, holder: None, is_dry_run: false };
        prune(&workload, &plan).await.expect("pruned by somebody else");
        next.commit(saved.manifest).await.expect("the owner");
        restores_as(&workload, from.path()).await;
    }
}

#[tokio::test]
async fn the_last_save_goes_on_where_a_round_was_broken_off() {
    let store = memory_store();
    let (workload, from) = (store.workload(), temp());
    write(from.path(), "large", noise(1, 40 << 20));
    let mut claim = claim(&workload, 1).await.claim;
    let mut rounds = rounds(&workload, from.path());
    // The pace lets 32 MiB a second through: the round is broken off somewhere within.
    let broken = tokio::time::timeout(std::time::Duration::from_millis(700), rounds.round(&claim.id())).await;
    assert!(broken.is_err(), "too quick for this test");
    let deadline = Deadline::at(tokio::time::Instant::now() + std::time::Duration::from_secs(60));
    let last = rounds.last(&claim.id(), deadline, Arc::new(NoProgress)).await.expect("saved");
    assert!(last.stored_bytes < 40 << 20, "{} bytes", last.stored_bytes);
    claim.commit(last.manifest.clone()).await.expect("the owner");
    rounds.committed(&last);
    restores_as(&workload, from.path()).await;
}

#[tokio::test]
async fn a_prune_spares_what_is_being_read() {
    let store = memory_store();
    let (workload, from) = (store.workload(), temp());
    let mut claim = claim(&workload, 1).await.claim;
    let mut rounds = rounds(&workload, from.path());
    write(from.path(), "file", noise(1, 9 << 20));
    let old = round(&mut rounds, &mut claim).await;
    let expected = tree(from.path());
    // The reader's every request is held up until its store is let go.
    let held = FaultyStore::new(Arc::clone(&store.store), 1, 1);
    let (to, slow) = (temp(), Arc::<FaultyStore>::clone(&held) as Arc<dyn ObjectStore>);
    held.switch(false);
    held.pause_after(1);
    let reading = {
        let (slow, to, manifest) = (self::workload(&slow), to.path().to_owned(), old.manifest.clone());
        tokio::spawn(async move { restore(&slow, &manifest, &RestoreOptions::new(to)).await })
    };
    held.paused().await;
    for number in 2..6 {
        write(from.path(), "file", noise(number, 9 << 20));
        round(&mut rounds, &mut claim).await;
    }
    let pruned = rounds.prune(&claim.id()).await.expect("pruned");
    assert_eq!(pruned.forgotten.len(), 3);
    held.resume();
    reading.await.expect("no panic").expect("what it reads is spared");
    assert_eq!(tree(to.path()), expected);
    let after = rounds.prune(&claim.id()).await.expect("pruned");
    assert!(after.bytes > 9 << 20, "the reader has gone: {after:?}");
    assert_eq!(rounds.prune(&claim.id()).await.expect("pruned").objects, []);
}

/// Reads through a line of its own that is held up after so many answers.
fn reader(store: &Arc<dyn ObjectStore>, answers: u64) -> (Arc<FaultyStore>, Workload) {
    let held = FaultyStore::new(Arc::clone(store), 1, 1);
    held.switch(false);
    held.pause_after(answers);
    let slow = Arc::<FaultyStore>::clone(&held) as Arc<dyn ObjectStore>;
    (held, workload(&slow))
}

#[tokio::test]
async fn what_a_prune_left_for_a_reader_is_left_by_the_next_one_too() {
    let store = memory_store();
    let (workload, from) = (store.workload(), temp());
    let mut claim = claim(&workload, 1).await.claim;
    let mut rounds = rounds(&workload, from.path());
    let mut saved = Vec::new();
    for number in 1..=4 {
        write(from.path(), "file", noise(number, 9 << 20));
        saved.push(round(&mut rounds, &mut claim).await);
    }
    let begin = |slow: Workload, saved: &Saved| {
        let (to, manifest) = (temp(), saved.manifest.clone());
        tokio::spawn(async move { restore(&slow, &manifest, &RestoreOptions::new(to.path())).await })
    };
    // One reads already when the prune begins, and is looked at when another one begins.
    let (first_line, slow) = reader(&store.store, 1);
    let first = begin(slow, &saved[0]);
    first_line.paused().await;
    let records = u64::try_from(journal::records(&workload).await.expect("readable").len()).expect("few");
    let (pruning_line, slow) = reader(&store.store, records + 2);
    let plan = PrunePlan { keep: KEEP, holder: Some(claim.id()), is_dry_run: false };
    let pruning = tokio::spawn(async move { prune(&slow, &plan).await });
    pruning_line.paused().await;
    let (second_line, slow) = reader(&store.store, 1);
    let second = begin(slow, &saved[1]);
    second_line.paused().await;
    pruning_line.resume();
    let pruned = pruning.await.expect("no panic").expect("pruned");
    assert!(pruned.objects.iter().any(|(key, _)| *key == saved[1].manifest.key), "{pruned:?}");
    assert!(!pruned.objects.iter().any(|(key, _)| key.starts_with("data/")), "none was deleted: {pruned:?}");
    let again = prune(&workload, &plan).await.expect("pruned");
    assert!(!again.objects.iter().any(|(key, _)| key.starts_with("data/")), "{again:?}");
    for (line, reading) in [(first_line, first), (second_line, second)] {
        line.resume();
        reading.await.expect("no panic").expect("what it reads is spared");
    }
    let after = prune(&workload, &plan).await.expect("pruned");
    assert!(after.bytes > 18 << 20, "both readers have gone: {after:?}");
}

#[tokio::test]
async fn a_prune_spares_what_is_being_verified() {
    let store = memory_store();
    let (workload, from) = (store.workload(), temp());
    let mut claim = claim(&workload, 1).await.claim;
    let mut rounds = rounds(&workload, from.path());
    write(from.path(), "file", noise(1, 9 << 20));
    let old = round(&mut rounds, &mut claim).await;
    let (line, slow) = reader(&store.store, 1);
    let manifest = old.manifest.clone();
    let verifying = tokio::spawn(async move { verify(&slow, &manifest, &NoProgress).await });
    line.paused().await;
    for number in 2..6 {
        write(from.path(), "file", noise(number, 9 << 20));
        round(&mut rounds, &mut claim).await;
    }
    rounds.prune(&claim.id()).await.expect("pruned");
    line.resume();
    let verified = verifying.await.expect("no panic").expect("readable");
    assert_eq!(verified.damaged.len(), 0, "{:?}", verified.damaged);
}

#[tokio::test]
async fn a_holder_that_does_not_know_of_its_last_commit_builds_on_nothing_that_others_prune() {
    let store = memory_store();
    let (workload, from) = (store.workload(), temp());
    let mut before = claim(&workload, 1).await.claim;
    write(from.path(), "file", "one");
    let first = round(&mut rounds(&workload, from.path()), &mut before).await;
    before.release(journal::Release::default()).await.expect("the owner");
    let mut claim = claim(&workload, 2).await.claim;
    let mut rounds = rounds(&workload, from.path());
    rounds.go_on_from(&first.manifest).await.expect("readable");
    write(from.path(), "file", "two");
    // This round is broken off when all is done but hearing of it.
    let saved = rounds.round(&claim.id()).await.expect("saved");
    claim.commit(saved.manifest).await.expect("the owner");
    let plan = PrunePlan { keep: NonZeroUsize::MIN, holder: None, is_dry_run: false };
    prune(&workload, &plan).await.expect("pruned by somebody else");
    write(from.path(), "file", "one");
    round(&mut rounds, &mut claim).await;
    restores_as(&workload, from.path()).await;
}

//! A day of rounds, faster: nothing grows. Alone in its process, whose memory and descriptors it counts.

mod common;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use common::{claim, memory_store, noise, temp, tree, write};
use futures_util::TryStreamExt;
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::{Pace, SaveOptions};
use lifeboat_snapshot::{Claim, ObjectStore, Rounds, UploadLog, journal, restore};

const KEEP: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

async fn objects(store: &Arc<dyn ObjectStore>) -> (usize, u64) {
    let all: Vec<_> = store.list(None).try_collect().await.expect("listed");
    (all.len(), all.iter().map(|object| object.size).sum())
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    std::fs::File::options().append(true).open(path).expect("there").write_all(bytes).expect("writable");
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    // Source: proc(5): the line `VmRSS:` in kB.
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// One round as the agent does it: what has not changed is not committed.
async fn round(rounds: &mut Rounds, claim: &mut Claim) {
    let saved = rounds.round(&claim.id()).await.expect("saved");
    if saved.is_new {
        claim.commit(saved.manifest.clone()).await.expect("the owner");
    }
    rounds.committed(&saved);
}

/// Descriptors of this process: they are not to grow.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("readable").count()
}

/// 30 s apart, 2,880 rounds are a day. In every tenth something changed.
#[tokio::test]
async fn a_day_of_rounds_leaves_no_more_than_pruning_promises() {
    const FILES: u64 = 100;
    /// Twenty kilobytes a round, or six buffers.
    const MEMORY_SLACK: u64 = 48 << 20;
    let store = memory_store();
    let (workload, from) = (store.workload(), temp());
    for number in 0..FILES {
        write(from.path(), format!("{number}"), noise(number, 20_000));
    }
    write(from.path(), "log", noise(1, 5 << 20));
    let mut claim = claim(&workload, 1).await.claim;
    let pace = Pace { is_nice: false, bytes_per_second: None, ..Pace::BACKGROUND };
    let options = SaveOptions { pace, ..SaveOptions::new(from.path()) };
    let mut rounds = Rounds::new(workload.clone(), options, UploadLog::in_memory(), KEEP);
    round(&mut rounds, &mut claim).await;
    let open = descriptors();
    let (mut most, mut early, mut late) = ((0, 0), 0, 0);
    for number in 0..2_880_u64 {
        if number % 10 == 0 {
            for file in 0..4 {
                let path = format!("{}", noise(number * 7 + file, 2)[0] as u64 * FILES / 256);
                write(from.path(), path, noise(number + file, 20_000));
            }
            append(&from.path().join("log"), &noise(number, 3_000));
        }
        round(&mut rounds, &mut claim).await;
        if rounds.is_prune_due() {
            rounds.prune(&claim.id()).await.expect("pruned");
            let (count, bytes) = objects(&store.store).await;
            most = (most.0.max(count), most.1.max(bytes));
            // The store itself lies in this process.
            let own = resident().saturating_sub(bytes);
            match number {
                0..200 => {} // caches and arenas fill up
                200..800 => early = early.max(own),
                800.. => late = late.max(own),
            }
        }
    }
    let to = temp();
    let point = journal::recovery_points(&workload).await.expect("readable").pop().expect("one");
    restore(&workload, &point.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
    assert_eq!(tree(to.path()), tree(from.path()));
    let live: u64 =
        tree(from.path()).values().map(|seen| u64::try_from(seen.content.len()).expect("small")).sum();
    assert!(most.0 < 400, "{} objects", most.0);
    assert!(most.1 < 3 * live + (64 << 20), "{} bytes for {live}", most.1);
    assert!(late <= early + MEMORY_SLACK, "{late} bytes in memory, {early} in the first hours");
    assert!(descriptors() <= open + 4, "{} descriptors, {open} before", descriptors());
}

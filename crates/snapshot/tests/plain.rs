//! The layout `plain`: one object a file, under its name, restored, verified and pruned as any other.

mod common;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use common::{TestStore, claim, noise, stores, temp, tree, write};
use futures_util::TryStreamExt;
use lifeboat_snapshot::prune::PrunePlan;
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::{
    Layout, NoProgress, ObjectStore, Rounds, UploadLog, Wait, acquire, journal, prune, restore, save, verify,
};
use object_store::ObjectStoreExt;

fn options(from: &Path) -> SaveOptions {
    let layout = Layout::Plain { instance: "i-0abc".to_owned(), key_bytes_max: 1000 };
    SaveOptions { layout, ..SaveOptions::new(from) }
}

async fn keys(store: &Arc<dyn ObjectStore>, folder: &str) -> BTreeSet<String> {
    let folder = format!("work/{folder}").into();
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.expect("listed");
    listed.into_iter().map(|object| object.location.to_string()).collect()
}

/// What lies behind the folder of the save.
fn names(keys: &BTreeSet<String>) -> BTreeSet<&str> {
    keys.iter().filter_map(|key| key.splitn(5, '/').nth(4)).collect()
}

/// Names that mean something to a shell, a URL, XML, a file system or a store.
const HOSTILE: [&[u8]; 20] = [
    b"a b",
    "h\u{f6}her \u{4f60}\u{597d}".as_bytes(),
    b"plus+and&eq=?x",
    b"100% sure",
    b"hash#1",
    b"back\\slash",
    b"new\nline",
    b"tab\there",
    b"\xff\xfe not UTF-8",
    b"<xml attr=\"1\">",
    b"'quotes' \"and\" `ticks`",
    b"...",
    b".hidden",
    b"trailing.",
    b" leading and trailing ",
    b"~tilde|pipe^caret",
    b"[brackets]{braces}*star",
    b"$(rm -rf nothing); echo",
    b"a:b;c,d@e!f",
    b"%2e%2e%2fescape",
];

fn fill(top: &Path) {
    for (name, number) in HOSTILE.iter().zip(0..) {
        write(top, [b"odd/".as_slice(), name].concat(), noise(number, 500));
    }
    write(top, "n".repeat(250), "a name that is long");
    write(top, format!("{}f", "deep folder with a name/".repeat(50)), "too deep for a key");
    write(top, "large", noise(77, (19 << 20) + 3));
    write(top, "sub/small", "small");
    write(top, "empty", "");
    std::os::unix::fs::symlink("../outside", top.join("link")).expect("linked");
    std::fs::hard_link(top.join("sub/small"), top.join("zz second name")).expect("linked");
}

#[tokio::test]
async fn each_file_is_an_object_under_its_name_and_all_come_back() {
    for store in stores() {
        let (workload, from) = (store.workload(), temp());
        fill(from.path());
        let mut claim = claim(&workload, 1).await.claim;
        let saved = save(&workload, &claim.id(), &options(from.path())).await.expect("saved");
        assert!(saved.manifest.complete, "{:?}", saved.left_out);
        claim.commit(saved.manifest.clone()).await.expect("the owner");
        let all = keys(&store.store, "interrupted").await;
        assert!(all.iter().all(|key| key.starts_with("work/interrupted/i-0abc/20") && key.len() <= 1024));
        let names = names(&all);
        for name in ["large", "sub/small", "odd/a b", "odd/h\u{f6}her \u{4f60}\u{597d}", "odd/plus+and&eq=?x"]
        {
            assert!(names.contains(name), "{name} in {names:?}");
        }
        // What is no key everywhere is saved all the same, and has no object of its own.
        for name in ["odd/100% sure", "odd/hash#1", "odd/new\nline"] {
            assert!(!names.contains(name), "{name}");
        }
        assert!(!keys(&store.store, "data").await.is_empty());
        let large = all.iter().find(|key| key.ends_with("/large")).expect("one object");
        let large =
            store.store.get(&object_store::path::Path::parse(large).expect("a key")).await.expect("there");
        assert_eq!(large.bytes().await.expect("readable"), noise(77, (19 << 20) + 3));

        let to = temp();
        restore(&workload, &saved.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
        assert_eq!(tree(to.path()), tree(from.path()));
        let verified = verify(&workload, &saved.manifest, &NoProgress).await.expect("readable");
        assert_eq!(verified.damaged.len(), 0);
    }
}

#[tokio::test]
async fn pruning_deletes_what_no_kept_point_needs_and_nothing_of_a_living_holders() {
    for store in stores() {
        let (workload, from) = (store.workload(), temp());
        write(from.path(), "kept h\u{f6}her", "the same in all");
        let mut first = claim(&workload, 1).await.claim;
        let keep = NonZeroUsize::new(2).expect("not zero");
        let mut rounds = Rounds::new(workload.clone(), options(from.path()), UploadLog::in_memory(), keep);
        for number in 0..5 {
            write(from.path(), "changing", format!("version {number}"));
            write(from.path(), format!("of {number}"), format!("{number}"));
            if number > 0 {
                std::fs::remove_file(from.path().join(format!("of {}", number - 1))).expect("removed");
            }
            let saved = rounds.round(&first.id()).await.expect("saved");
            first.commit(saved.manifest.clone()).await.expect("the owner");
            rounds.committed(&saved);
        }
        // Half a save of a holder that is about to commit it.
        let half = save(&workload, &first.id(), &options(from.path())).await.expect("saved");
        let before = keys(&store.store, "interrupted").await;
        let plan = PrunePlan { keep, holder: None, is_dry_run: false };
        prune(&workload, &plan).await.expect("pruned by somebody else");
        assert_eq!(keys(&store.store, "interrupted").await, before, "a living holder's objects stay");
        first.commit(half.manifest.clone()).await.expect("the owner");
        rounds.committed(&half);
        rounds.prune(&first.id()).await.expect("pruned");
        let after = keys(&store.store, "interrupted").await;
        assert!(after.len() < before.len(), "{after:?}");
        restores(&store, from.path()).await;

        // The next holder prunes what the one before it left.
        first.release(journal::Release::default()).await.expect("the owner");
        let second = acquire(&workload, &common::claimant(2), Wait::No).await.expect("given up").claim;
        save(&workload, &second.id(), &options(from.path())).await.expect("saved, and never committed");
        restores(&store, from.path()).await;
        let plan = PrunePlan { keep: NonZeroUsize::MIN, holder: Some(second.id()), is_dry_run: false };
        prune(&workload, &plan).await.expect("pruned");
        restores(&store, from.path()).await;
        let left = keys(&store.store, "interrupted").await;
        assert_eq!(names(&left), BTreeSet::from(["changing", "kept h\u{f6}her", "of 4"]));
    }
}

/// Every point that the journal names restores; the newest is what the directory holds.
async fn restores(store: &TestStore, from: &Path) {
    let workload = store.workload();
    let points = journal::recovery_points(&workload).await.expect("readable");
    for point in &points {
        let to = temp();
        restore(&workload, &point.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
        if point == points.last().expect("one") {
            assert_eq!(tree(to.path()), tree(from));
        }
    }
}

#[tokio::test]
async fn the_layout_may_be_changed_from_one_round_to_the_next() {
    let store = common::memory_store();
    let (workload, from) = (store.workload(), temp());
    write(from.path(), "one", noise(1, 9 << 20));
    write(from.path(), "two", "two");
    let mut claim = claim(&workload, 1).await.claim;
    let mut base = None;
    for layout in [Layout::Packed, options(from.path()).layout, Layout::Packed] {
        write(from.path(), "changes", format!("{layout:?}"));
        let options = SaveOptions { layout, base: base.take(), ..SaveOptions::new(from.path()) };
        let saved = save(&workload, &claim.id(), &options).await.expect("saved");
        claim.commit(saved.manifest.clone()).await.expect("the owner");
        assert!(saved.stored_bytes < 10 << 20);
        base = Some(Arc::clone(&saved.base));
        restores(&store, from.path()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_file_that_is_damaged_in_the_store_is_found() {
    let store = common::memory_store();
    let (workload, from) = (store.workload(), temp());
    write(from.path(), "large", noise(1, 9 << 20));
    let claim = claim(&workload, 1).await.claim;
    let saved = save(&workload, &claim.id(), &options(from.path())).await.expect("saved");
    let all = keys(&store.store, "interrupted").await;
    let key = object_store::path::Path::parse(all.first().expect("one")).expect("a key");
    let mut bytes = store.store.get(&key).await.expect("there").bytes().await.expect("there").to_vec();
    bytes[5 << 20] ^= 1;
    store.store.put(&key, bytes.into()).await.expect("writable");
    let verified = verify(&workload, &saved.manifest, &NoProgress).await.expect("readable");
    assert_eq!(verified.damaged.len(), 1);
    let to = temp();
    restore(&workload, &saved.manifest, &RestoreOptions::new(to.path())).await.expect_err("damaged");
    assert!(!to.path().join("large").exists());
}

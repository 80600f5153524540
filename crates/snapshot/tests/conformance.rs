//! What every kind of store must do for recovery points to be safe in it: the same suite for memory, a directory and a
//! bucket on a real S3 server.

mod common;

use common::{TestStore, claim, noise, stores, temp, tree, write};
use futures_util::TryStreamExt;
use lifeboat_snapshot::probe::probe;
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::{NoProgress, Workload, journal, restore, save, verify};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions, PutPayload};

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

#[tokio::test]
async fn every_store_creates_once_overwrites_reads_ranges_lists_copies_and_deletes() {
    for TestStore { store, .. } in &stores() {
        probe(store).await.expect("good enough for work");
        let at = |name: &str| Path::parse(format!("work/suite/{name}")).expect("a key");
        let one = at("one");
        store.put_opts(&one, PutPayload::from_static(b"first"), create()).await.expect("created");
        let again = store.put_opts(&one, PutPayload::from_static(b"second"), create()).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. } | Error::Precondition { .. })), "{again:?}");
        assert_eq!(store.get(&one).await.expect("there").bytes().await.expect("whole"), "first");
        store.put(&one, PutPayload::from_static(b"overwritten")).await.expect("overwritten");
        assert_eq!(store.get_range(&one, 4..9).await.expect("a range"), "writt");
        assert_eq!(store.get_range(&one, 0..11).await.expect("all of it"), "overwritten");
        store.copy(&one, &at("h\u{f6}her & weiter+")).await.expect("copied");
        for number in 0..12 {
            store.put(&at(&format!("many/{number:02}")), PutPayload::from_static(b"")).await.expect("put");
        }
        let listed: Vec<_> = store.list(Some(&at("many"))).try_collect().await.expect("listed");
        let mut names: Vec<String> = listed.iter().map(|object| object.location.to_string()).collect();
        names.sort();
        assert_eq!(names, (0..12).map(|n| format!("work/suite/many/{n:02}")).collect::<Vec<_>>());
        let all: Vec<_> = store.list(Some(&at(""))).try_collect().await.expect("listed");
        let odd = all.iter().find(|object| object.location == at("h\u{f6}her & weiter+")).expect("as it was");
        assert_eq!(odd.size, 11);
        for object in all {
            store.delete(&object.location).await.expect("deleted");
        }
        assert!(matches!(store.get(&one).await, Err(Error::NotFound { .. })));
        let left: Vec<_> = store.list(None).try_collect().await.expect("listed");
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn every_store_keeps_a_recovery_point_and_gives_it_back() {
    for store in stores() {
        let (workload, from, to) = (store.workload(), temp(), temp());
        for number in 0..50 {
            write(from.path(), format!("small/{number}"), noise(number, 4_000));
        }
        write(from.path(), "large", noise(99, (9 << 20) + 1));
        write(from.path(), "text", "compresses well, ".repeat(100_000));
        let mut claim = claim(&workload, 1).await.claim;
        let saved = save(&workload, &claim.id(), &SaveOptions::new(from.path())).await.expect("saved");
        claim.commit(saved.manifest.clone()).await.expect("the owner");
        let again = Workload::new(std::sync::Arc::clone(&store.store), workload.name().clone());
        let point = journal::recovery_points(&again).await.expect("readable").pop().expect("one");
        let verified = verify(&again, &point.manifest, &NoProgress).await.expect("readable");
        assert_eq!(verified.damaged.len(), 0);
        restore(&again, &point.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
        assert_eq!(tree(to.path()), tree(from.path()));
    }
}

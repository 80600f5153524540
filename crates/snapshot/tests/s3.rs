//! What only a bucket can get wrong: its options, its refusals, and which of its answers prove anything.

mod common;

use common::s3::S3Server;
use common::{claimant, temp, workload, write};
use lifeboat_snapshot::probe::probe;
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::store::{Keys, StoreError, StoreUrl};
use lifeboat_snapshot::{Wait, acquire, open, save};

fn refused_as(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text += &format!(": {current}");
        cause = current.source();
    }
    text
}

#[tokio::test]
async fn every_option_reaches_the_server() {
    let Some(server) = S3Server::start() else { return };
    let options =
        "&region=eu-west-1&path_style=true&storage_class=STANDARD&metadata.team=search&checksum=sha256";
    let store = open(&server.store_url(options)).expect("opens");
    probe(&store).await.expect("a good store");
    store_one(&store).await.expect("stored");
    let kept = std::fs::read_dir(server.directory.path()).expect("readable");
    let names: Vec<String> =
        kept.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let metadata =
        names.iter().find(|name| name.contains("metadata")).expect("the server keeps metadata beside");
    let text = std::fs::read_to_string(server.directory.path().join(metadata)).expect("readable");
    assert!(text.contains("team") && text.contains("search"), "{text}");
    assert!(server.directory.path().join("bucket/some/prefix/work/object").is_file());
}

/// What `claims.rs` shows for other stores in paused time, at its heart, against a server in real time.
#[tokio::test]
async fn claims_hold_in_a_bucket_too() {
    let Some(server) = S3Server::start() else { return };
    let store = open(&server.store_url("")).expect("opens");
    let work = workload(&store);
    // One after the other: this server looks before it writes, and lets two through that come at the same instant.
    let mut first = acquire(&work, &claimant(1), Wait::No).await.expect("nobody has it").claim;
    let held = acquire(&work, &claimant(2), Wait::No).await.expect_err("it is held");
    assert!(matches!(held, lifeboat_snapshot::claim::AcquireError::Held { claim: 1, .. }), "{held:?}");
    first.renew().await.expect("the owner");
    first.release(lifeboat_snapshot::journal::Release::default()).await.expect("the owner");
    let brief = lifeboat_snapshot::Claimant { lease: std::time::Duration::from_secs(1), ..claimant(20) };
    let mut second = acquire(&work, &brief, Wait::No).await.expect("it was given up").claim;
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let third = acquire(&work, &claimant(21), Wait::Until(until)).await.expect("the second fell silent");
    assert!(matches!(third.how, lifeboat_snapshot::claim::How::TookOver { .. }));
    let fenced = second.renew().await.expect_err("it was taken over");
    assert!(matches!(fenced, lifeboat_snapshot::claim::ClaimError::Fenced { .. }), "{fenced:?}");
}

async fn store_one(store: &std::sync::Arc<dyn object_store::ObjectStore>) -> object_store::Result<()> {
    use object_store::ObjectStoreExt;
    store.put(&"work/object".into(), "content".into()).await.map(drop)
}

#[tokio::test]
async fn what_a_bucket_refuses_for_good_is_told_at_once_and_clearly() {
    let Some(server) = S3Server::start() else { return };
    let StoreUrl::S3(right) = server.store_url("") else { panic!("a bucket") };
    let mut absent = right.clone();
    absent.bucket = "nothing-here".to_owned();
    let mut class = right.clone();
    class.storage_class = Some("STANDARD_IA".to_owned());
    let mut secret = right.clone();
    secret.keys = Some(Keys { id: "AKTEST".to_owned(), secret: "wrong".to_owned() });
    for (url, what) in [(absent, "NoSuchBucket"), (class, "InvalidStorageClass"), (secret, "does not allow")]
    {
        let started = std::time::Instant::now();
        let store = open(&StoreUrl::S3(url)).expect("opens");
        let work = workload(&store);
        let error = acquire(&work, &claimant(1), Wait::No).await.expect_err(what);
        let text = refused_as(&error);
        assert!(text.contains(what), "{what}: {text}");
        assert!(started.elapsed() < std::time::Duration::from_secs(3), "{what}");
    }
    // Nobody listens there any more.
    let mut gone = server;
    let url = gone.store_url("");
    gone.kill();
    let error = probe(&open(&url).expect("opens")).await.expect_err("nobody listens");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_compares_checksums_is_not_asked_for_the_bytes_again() {
    let Some(server) = S3Server::start() else { return };
    let proxy = common::proxy::Proxy::start(server.port, common::proxy::Plan::default()).await;
    let store = open(&proxy.store_url(&server, "")).expect("opens");
    let work = workload(&store);
    let claim = acquire(&work, &claimant(1), Wait::No).await.expect("claimed").claim;
    let from = temp();
    write(from.path(), "small", common::noise(1, 3 << 20));
    let before = proxy.received();
    save(&work, &claim.id(), &SaveOptions::new(from.path())).await.expect("saved");
    let received = proxy.received() - before;
    assert!(received < 1 << 20, "{received} bytes came back");
}

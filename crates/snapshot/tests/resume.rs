//! A restore that was broken off goes on where it was, also in the middle of a large file; ranges are read side by side.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::http_proxy::HttpProxy;
use common::s3::S3Server;
use common::{claim, noise, temp, tree, workload, write};
use lifeboat_snapshot::restore::{RestoreError, RestoreOptions};
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::{ManifestRef, Workload, open, restore, save};

const LARGE: u64 = 88 << 20;

/// A large file and some small ones, stored; and a line to the bucket that can be held up.
async fn world(from: &Path) -> Option<(S3Server, HttpProxy, Workload, ManifestRef)> {
    let server = S3Server::start()?;
    let proxy = HttpProxy::start(server.port, &[], 0, 1).await;
    let work = workload(&open(&proxy.store_url(&server, "")).expect("opens"));
    write(from, "large", noise(1, usize::try_from(LARGE).expect("64 bit")));
    for number in 0..200 {
        write(from, format!("small/{number}"), noise(number, 2_000));
    }
    let claim = claim(&work, 1).await.claim;
    let saved = save(&work, &claim.id(), &SaveOptions::new(from)).await.expect("saved");
    Some((server, proxy, work, saved.manifest))
}

/// Restores. What the one before was just writing when it was broken off may be in the way for a moment.
async fn goes_on(work: &Workload, manifest: &ManifestRef, to: &Path) {
    let mut tries = 0;
    while let Err(error) = restore(work, manifest, &RestoreOptions::new(to)).await {
        tries += 1;
        assert!(tries < 5 && matches!(error, RestoreError::Target { .. }), "{error:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The half of a large file in `target`: where, and how much of it is on disk.
fn half(target: &Path) -> Option<(PathBuf, u64)> {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let path = entries(target)
        .flat_map(|folder| entries(&folder.path()).collect::<Vec<_>>())
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "large"))?;
    let blocks = std::fs::metadata(&path).ok()?.blocks();
    Some((path, blocks * 512))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether more than one stretch of the large file is on disk.
fn has_some(target: &Path) -> bool {
    half(target).is_some_and(|(_, bytes)| bytes > 4 << 20)
}

/// Begins a restore, holds its requests up, and breaks it off once `is_far_enough`.
async fn break_off(
    proxy: &HttpProxy,
    work: &Workload,
    manifest: &ManifestRef,
    to: &Path,
    is_far_enough: impl Fn() -> bool,
) {
    // The mark, the manifest, the small files' objects, and some of the large file.
    proxy.pause_after(8);
    let restoring = {
        let (work, to, manifest) = (work.clone(), to.to_owned(), manifest.clone());
        tokio::spawn(async move { restore(&work, &manifest, &RestoreOptions::new(to)).await })
    };
    proxy.paused().await;
    until("the restore is far enough", is_far_enough).await;
    restoring.abort();
    assert!(restoring.await.expect_err("broken off").is_cancelled());
    until("nobody asks any more", || proxy.busy() == 0).await;
    proxy.resume();
}

#[tokio::test]
async fn a_restore_broken_off_within_a_large_file_fetches_only_the_rest_when_it_is_repeated() {
    let from = temp();
    let Some((_server, proxy, work, manifest)) = world(from.path()).await else { return };
    let to = temp();
    let is_under_way = || proxy.waiting() > 2 && has_some(to.path());
    break_off(&proxy, &work, &manifest, to.path(), is_under_way).await;
    assert!(!to.path().join("large").exists(), "a file with its own name is always whole");
    let before = proxy.received();
    goes_on(&work, &manifest, to.path()).await;
    assert_eq!(tree(to.path()), tree(from.path()));
    let again = proxy.received() - before;
    assert!(again < LARGE, "{again} bytes came again");
    let twice = restore(&work, &manifest, &RestoreOptions::new(to.path())).await.expect("nothing to do");
    assert_eq!((twice.files, twice.already_there), (0, 201));
}

#[tokio::test]
async fn a_half_restored_file_that_was_damaged_meanwhile_is_made_whole() {
    use std::os::unix::fs::FileExt;
    let from = temp();
    let Some((_server, proxy, work, manifest)) = world(from.path()).await else { return };
    let to = temp();
    break_off(&proxy, &work, &manifest, to.path(), || has_some(to.path())).await;
    let (half, _) = half(to.path()).expect("the half of a large file");
    let file = std::fs::File::options().write(true).open(half).expect("ours");
    for block in 0..LARGE >> 20 {
        file.write_all_at(b"damaged", block << 20).expect("writable");
    }
    goes_on(&work, &manifest, to.path()).await;
    assert_eq!(tree(to.path()), tree(from.path()));
}

#[tokio::test]
async fn what_somebody_put_into_a_half_restored_directory_stops_the_restore() {
    let from = temp();
    let Some((_server, proxy, work, manifest)) = world(from.path()).await else { return };
    let to = temp();
    break_off(&proxy, &work, &manifest, to.path(), || true).await;
    write(to.path(), "mine", "not yours");
    let error = restore(&work, &manifest, &RestoreOptions::new(to.path())).await.expect_err("a conflict");
    assert!(matches!(&error, RestoreError::Conflict { count: 1, .. }), "{error:?}");
    assert_eq!(std::fs::read(to.path().join("mine")).expect("kept"), b"not yours");
    assert!(!to.path().join("large").exists());
}

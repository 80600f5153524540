//! What is saved comes back byte for byte, whatever it is called and whatever it is.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use common::{claim, memory_store, noise, save_and_commit, stores, temp, tree, write};
use globset::{Glob, GlobSetBuilder};
use lifeboat_snapshot::manifest::LeftOutReason;
use lifeboat_snapshot::restore::{RestoreError, RestoreOptions};
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::{NoProgress, Workload, clean_up, read_manifest, restore, save, verify};
use proptest::prelude::*;

/// Saves `from`, restores into a new directory and compares the trees.
async fn round_trip(workload: &Workload, from: &Path) {
    let mut claim = claim(workload, 1).await.claim;
    let saved = save_and_commit(workload, &mut claim, from).await;
    let target = temp();
    let to = target.path().join("new");
    let restored = restore(workload, &saved.manifest, &RestoreOptions::new(&to)).await.expect("restored");
    assert_eq!((restored.files, restored.bytes), (saved.files, saved.bytes));
    assert_eq!(tree(&to), tree(from));
    let again = restore(workload, &saved.manifest, &RestoreOptions::new(&to)).await.expect("restored again");
    assert_eq!((again.files, again.already_there), (0, saved.files));
    assert_eq!(tree(&to), tree(from));
    let verified = verify(workload, &saved.manifest, &NoProgress).await.expect("verified");
    assert!(verified.damaged.is_empty());
}

#[tokio::test]
async fn every_kind_of_entry_comes_back() {
    for store in stores() {
        let from = temp();
        let top = from.path();
        write(top, "empty", "");
        write(top, "plain/a/b/c.txt", "text");
        write(top, b"new\nline and \xff\xfe bytes", "named oddly");
        write(top, vec![b'n'; 255], "a long name");
        write(top, "five MiB", noise(1, 5 << 20));
        write(top, "twenty MiB", noise(2, 20 << 20));
        write(top, "zeros in the middle", [noise(3, 70_000), vec![0; 9 << 20], noise(4, 10)].concat());
        std::fs::create_dir_all(top.join("empty folder/inner")).expect("creatable");
        symlink("/etc/passwd", top.join("link out")).expect("linkable");
        symlink("nowhere/../at all", top.join("broken link")).expect("linkable");
        symlink(OsStr::from_bytes(b"\xff"), top.join("odd link")).expect("linkable");
        symlink("plain", top.join("link to folder")).expect("linkable");
        std::fs::set_permissions(top.join("empty"), PermissionsExt::from_mode(0o4751)).expect("settable");
        std::fs::set_permissions(top.join("plain/a/b"), PermissionsExt::from_mode(0o500)).expect("settable");
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1, 234_567_891);
        let file = std::fs::File::open(top.join("plain/a/b/c.txt")).expect("readable");
        file.set_modified(old).expect("settable");
        round_trip(&store.workload(), top).await;
        std::fs::set_permissions(top.join("plain/a/b"), PermissionsExt::from_mode(0o700)).expect("settable");
    }
}

#[tokio::test]
async fn holes_come_back_as_holes() {
    let store = memory_store();
    let (from, to) = (temp(), temp());
    let file = std::fs::File::create(from.path().join("sparse")).expect("creatable");
    file.set_len(64 << 20).expect("settable");
    let mut claim = claim(&store.workload(), 1).await.claim;
    let saved = save_and_commit(&store.workload(), &mut claim, from.path()).await;
    restore(&store.workload(), &saved.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
    let metadata = to.path().join("sparse").metadata().expect("there");
    assert_eq!(metadata.len(), 64 << 20);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
}

#[tokio::test]
async fn paths_longer_than_a_system_call_takes_come_back() {
    let store = memory_store();
    let (from, to) = (temp(), temp());
    let name = "d".repeat(200);
    let depth = 30;
    // Longer than PATH_MAX: made and compared name by name, through `cd`-like steps of the shell's own making.
    let script =
        format!("for i in $(seq {depth}); do mkdir {name} && cd -P {name} || exit 1; done; echo deep > f");
    let run = |directory: &Path, script: &str| {
        let output = std::process::Command::new("sh").args(["-c", script]).current_dir(directory).output();
        output.expect("sh runs")
    };
    assert!(run(from.path(), &script).status.success());
    let mut claim = claim(&store.workload(), 1).await.claim;
    let saved = save_and_commit(&store.workload(), &mut claim, from.path()).await;
    assert_eq!((saved.files, saved.left_out.len()), (1, 0));
    restore(&store.workload(), &saved.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
    let read = format!("for i in $(seq {depth}); do cd -P {name} || exit 1; done; cat f");
    assert_eq!(run(to.path(), &read).stdout, b"deep\n");
}

#[tokio::test]
async fn sockets_pipes_and_what_is_excluded_stay_out() {
    let store = memory_store();
    let (from, outside) = (temp(), temp());
    let top = from.path();
    let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).expect("bindable");
    let made = std::process::Command::new("mkfifo").arg(top.join("pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    write(top, "keep", "1");
    write(top, "target/big", "2");
    write(top, "deep/cache.tmp", "3");
    write(top, "store/inside", "4");
    write(outside.path(), "secret", "5");
    symlink(outside.path(), top.join("way out")).expect("linkable");
    let mut options = SaveOptions::new(top);
    let mut globs = GlobSetBuilder::new();
    globs.add(Glob::new("target").expect("valid")).add(Glob::new("**/*.tmp").expect("valid"));
    options.exclude = globs.build().expect("valid");
    options.exclude_paths = vec![top.join("store")];
    let claim = claim(&store.workload(), 1).await.claim;
    let saved = save(&store.workload(), &claim.id(), &options).await.expect("saved");
    let reasons: Vec<_> = saved.left_out.iter().map(|left_out| left_out.reason).collect();
    assert_eq!(reasons, [LeftOutReason::Pipe, LeftOutReason::Socket]);
    assert!(saved.manifest.complete, "pipes and sockets hold no data");
    let manifest = read_manifest(&store.workload(), &saved.manifest).await.expect("readable");
    let paths: Vec<_> = manifest.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["deep", "keep", "way out"]);
}

#[tokio::test]
async fn a_hundred_thousand_files_in_one_folder_are_saved_and_come_back() {
    let store = memory_store();
    let from = temp();
    let folder = from.path().join("many");
    std::fs::create_dir(&folder).expect("creatable");
    for number in 0..100_000 {
        std::fs::write(folder.join(number.to_string()), number.to_string()).expect("creatable");
    }
    let claim = claim(&store.workload(), 1).await.claim;
    let saved = save(&store.workload(), &claim.id(), &SaveOptions::new(from.path())).await.expect("saved");
    assert_eq!((saved.files, saved.left_out.len()), (100_000, 0));
    let to = temp();
    let options = RestoreOptions::new(to.path());
    let restored = restore(&store.workload(), &saved.manifest, &options).await.expect("restored");
    assert_eq!(restored.files, 100_000);
    for number in 0..100_000 {
        let text = std::fs::read_to_string(to.path().join("many").join(number.to_string())).expect("there");
        assert_eq!(text, number.to_string());
    }
}

#[tokio::test]
async fn a_file_that_never_stands_still_is_named_and_the_rest_is_saved() {
    let store = memory_store();
    let from = temp();
    write(from.path(), "still", "1");
    let path = from.path().join("moving");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    std::fs::write(&path, noise(1, 4 << 20)).expect("writable");
    let (stopped, moving) = (Arc::clone(&stop), path.clone());
    let (moved, moves) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(moving).expect("writable");
        let mut count: u64 = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            count += 1;
            file.write_all_at(&count.to_le_bytes(), 0).expect("writable");
            if count == 1_000 {
                moved.send(()).expect("awaited");
            }
        }
    });
    moves.recv().expect("the writer writes");
    let claim = claim(&store.workload(), 1).await.claim;
    // A machine that is busy may not let the writer run while the file is read: then it stood still.
    let mut saved = None;
    for _ in 0..50 {
        let attempt = save(&store.workload(), &claim.id(), &SaveOptions::new(from.path())).await;
        let attempt = attempt.expect("one file never fails the whole");
        assert_eq!(attempt.files, if attempt.left_out.is_empty() { 2 } else { 1 });
        let was_seen = !attempt.left_out.is_empty();
        saved = Some(attempt);
        if was_seen {
            break;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().expect("the writer ends");
    let saved = saved.expect("at least one attempt");
    assert_eq!(saved.files, 1, "a file that is written to all the time was never noticed");
    assert_eq!(saved.left_out.len(), 1);
    assert_eq!(saved.left_out[0].reason, LeftOutReason::ChangedWhileRead);
    assert!(!saved.manifest.complete);
}

#[tokio::test]
async fn a_foreign_file_in_the_target_stops_the_restore_before_anything_is_written() {
    for store in stores() {
        let (from, to) = (temp(), temp());
        write(from.path(), "a", "saved");
        write(from.path(), "b/c", "saved");
        let mut claim = claim(&store.workload(), 1).await.claim;
        let saved = save_and_commit(&store.workload(), &mut claim, from.path()).await;
        for (path, content) in [("a", "newer"), ("x", "mine"), ("b", "a file where a folder comes")] {
            let to = to.path().join(path.len().to_string() + content);
            write(&to, path, content);
            let before = tree(&to);
            let error = restore(&store.workload(), &saved.manifest, &RestoreOptions::new(&to)).await;
            let Err(RestoreError::Conflict { count, paths, .. }) = error else { panic!("{error:?}") };
            assert_eq!((count, paths[0].to_string().as_str()), (1, path));
            assert_eq!(tree(&to), before);
        }
    }
}

#[tokio::test]
async fn files_of_superseded_points_give_way_and_others_do_not() {
    let store = memory_store();
    let (from, to) = (temp(), temp());
    let workload = store.workload();
    let mut claim = claim(&workload, 1).await.claim;
    write(from.path(), "same", "same");
    write(from.path(), "changed", "old");
    write(from.path(), "gone", "old");
    write(from.path(), "becomes a folder", "old");
    let first = save_and_commit(&workload, &mut claim, from.path()).await;
    restore(&workload, &first.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
    write(from.path(), "changed", "newer");
    std::fs::remove_file(from.path().join("gone")).expect("removable");
    std::fs::remove_file(from.path().join("becomes a folder")).expect("removable");
    write(from.path(), "becomes a folder/x", "new");
    let second = save_and_commit(&workload, &mut claim, from.path()).await;

    let mut options = RestoreOptions::new(to.path());
    let error = restore(&workload, &second.manifest, &options).await.expect_err("not matching");
    assert!(matches!(error, RestoreError::Conflict { count: 3, .. }), "{error}");
    options.superseded = vec![Arc::new(read_manifest(&workload, &first.manifest).await.expect("readable"))];
    let restored = restore(&workload, &second.manifest, &options).await.expect("restored");
    assert_eq!((restored.files, restored.already_there, restored.removed), (2, 1, 2));
    assert_eq!(tree(to.path()), tree(from.path()));
    write(to.path(), "changed", "edited by hand");
    let error = restore(&workload, &second.manifest, &options).await.expect_err("somebody's work");
    assert!(matches!(error, RestoreError::Conflict { count: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_link_in_the_target_is_never_written_through() {
    let store = memory_store();
    let (from, to, outside) = (temp(), temp(), temp());
    write(from.path(), "folder/file", "saved");
    let workload = store.workload();
    let mut claim = claim(&workload, 1).await.claim;
    let saved = save_and_commit(&workload, &mut claim, from.path()).await;
    symlink(outside.path(), to.path().join("folder")).expect("linkable");
    let error =
        restore(&workload, &saved.manifest, &RestoreOptions::new(to.path())).await.expect_err("a link");
    assert!(matches!(error, RestoreError::Conflict { .. }), "{error}");
    assert!(tree(outside.path()).is_empty());
}

#[tokio::test]
async fn only_what_matches_is_restored_and_the_rest_is_left_alone() {
    let store = memory_store();
    let (from, to) = (temp(), temp());
    write(from.path(), "a/one.txt", "1");
    write(from.path(), "a/two.bin", "2");
    write(from.path(), "b/three.txt", "3");
    write(to.path(), "mine", "m");
    let workload = store.workload();
    let mut claim = claim(&workload, 1).await.claim;
    let saved = save_and_commit(&workload, &mut claim, from.path()).await;
    let mut options = RestoreOptions::new(to.path());
    options.only =
        Some(GlobSetBuilder::new().add(Glob::new("a/*.txt").expect("valid")).build().expect("valid"));
    restore(&workload, &saved.manifest, &options).await.expect("restored");
    let names: Vec<_> = tree(to.path()).into_keys().collect();
    assert_eq!(names, [b"a".to_vec(), b"a/one.txt".to_vec(), b"mine".to_vec()]);
}

#[tokio::test]
async fn clean_up_deletes_what_is_stored_and_keeps_what_is_newer() {
    let store = memory_store();
    let from = temp();
    for (path, content) in
        [("same", "1"), ("grown", "1"), ("touched", "1"), ("swapped", "1"), ("sub/same", "1")]
    {
        write(from.path(), path, content);
    }
    symlink("same", from.path().join("link")).expect("linkable");
    symlink("same", from.path().join("relinked")).expect("linkable");
    let workload = store.workload();
    let mut claim = claim(&workload, 1).await.claim;
    let saved = save_and_commit(&workload, &mut claim, from.path()).await;
    let manifest = Arc::new(read_manifest(&workload, &saved.manifest).await.expect("readable"));
    write(from.path(), "grown", "12");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let touched = std::fs::File::options().write(true).open(from.path().join("touched")).expect("writable");
    touched.set_modified(later).expect("settable");
    // Same size and time, other content: only the hash tells.
    let time = from.path().join("swapped").metadata().expect("there").modified().expect("has one");
    write(from.path(), "swapped", "2");
    let swapped = std::fs::File::options().write(true).open(from.path().join("swapped")).expect("writable");
    swapped.set_modified(time).expect("settable");
    std::fs::remove_file(from.path().join("relinked")).expect("removable");
    symlink("elsewhere", from.path().join("relinked")).expect("linkable");
    write(from.path(), "new", "n");

    let report = clean_up(from.path(), &manifest).await.expect("cleaned");
    let kept: Vec<_> = report.kept.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(kept, ["grown", "relinked", "swapped", "touched"]);
    assert_eq!(report.deleted, 3);
    let left: Vec<_> =
        tree(from.path()).into_keys().map(|path| String::from_utf8(path).expect("text")).collect();
    assert_eq!(left, ["grown", "new", "relinked", "sub", "swapped", "touched"]);
}

/// A tree that proptest draws: paths of few names, so that files and folders collide and nest.
fn trees() -> impl Strategy<Value = Vec<(Vec<u8>, Content)>> {
    let name = prop_oneof![
        Just(b"a".to_vec()),
        Just(b"b".to_vec()),
        Just(b"\xc3\x28\n".to_vec()),
        Just(b" .x".to_vec()),
        Just(b"...".to_vec()),
    ];
    let path = prop::collection::vec(name, 1..5).prop_map(|names| names.join(&b'/'));
    let content = prop_oneof![
        (0..200_000usize, any::<u64>()).prop_map(|(length, seed)| Content::File(noise(seed, length))),
        (0..300_000usize).prop_map(|length| Content::File(vec![0; length])),
        Just(Content::Folder),
        prop::collection::vec(1..=255u8, 1..40).prop_map(Content::Link),
    ];
    prop::collection::vec((path, content), 0..24)
}

#[derive(Clone, Debug)]
enum Content {
    File(Vec<u8>),
    Folder,
    Link(Vec<u8>),
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back(entries in trees()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store = memory_store();
        let from = temp();
        for (path, content) in entries {
            let path = from.path().join(OsStr::from_bytes(&path));
            // What collides with an earlier entry is not made: any tree that exists is a good one.
            let parent = path.parent().expect("has one");
            if parent.is_symlink() || std::fs::create_dir_all(parent).is_err() || path.symlink_metadata().is_ok() {
                continue;
            }
            let _ = match content {
                Content::File(bytes) => std::fs::write(&path, bytes),
                Content::Folder => std::fs::create_dir(&path),
                Content::Link(target) => symlink(OsStr::from_bytes(&target), &path),
            };
        }
        runtime.block_on(round_trip(&store.workload(), from.path()));
    }
}

#[tokio::test]
async fn hard_links_come_back_as_one_file_with_several_names() {
    for store in stores() {
        let (from, to) = (temp(), temp());
        write(from.path(), "b/first", noise(1, 5 << 20));
        write(from.path(), "small", "s");
        std::fs::hard_link(from.path().join("b/first"), from.path().join("a second name")).expect("linkable");
        std::fs::hard_link(from.path().join("small"), from.path().join("b/small")).expect("linkable");
        let workload = store.workload();
        let mut claim = claim(&workload, 1).await.claim;
        let saved = save_and_commit(&workload, &mut claim, from.path()).await;
        assert!(saved.stored_bytes < 6 << 20, "stored once: {}", saved.stored_bytes);
        restore(&workload, &saved.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
        assert_eq!(tree(to.path()), tree(from.path()));
        let inode = |path: &str| to.path().join(path).metadata().expect("there").ino();
        assert_eq!(inode("b/first"), inode("a second name"));
        assert_eq!(inode("small"), inode("b/small"));
        // One name alone is a file like any other.
        let alone = temp();
        let mut options = RestoreOptions::new(alone.path());
        options.only =
            Some(GlobSetBuilder::new().add(Glob::new("b/first").expect("valid")).build().expect("valid"));
        restore(&workload, &saved.manifest, &options).await.expect("restored");
        assert_eq!(tree(alone.path())[b"b/first".as_slice()].content.len(), 5 << 20);
    }
}

#[tokio::test]
async fn a_log_that_grows_while_it_is_read_is_saved_as_of_one_instant() {
    use std::io::Write;
    let store = memory_store();
    let (from, to) = (temp(), temp());
    let path = from.path().join("log");
    std::fs::write(&path, noise(1, 6 << 20)).expect("writable");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, growing) = (Arc::clone(&stop), path.clone());
    let writer = std::thread::spawn(move || {
        let mut file = std::fs::File::options().append(true).open(growing).expect("writable");
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            file.write_all(b"one more line\n").expect("writable");
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    });
    let mut claim = claim(&store.workload(), 1).await.claim;
    let saved = save_and_commit(&store.workload(), &mut claim, from.path()).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().expect("the writer ends");
    assert!(saved.manifest.complete, "{:?}", saved.left_out);
    restore(&store.workload(), &saved.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
    let (whole, got) =
        (std::fs::read(&path).expect("there"), std::fs::read(to.path().join("log")).expect("there"));
    assert!(got.len() >= 6 << 20 && whole.starts_with(&got), "{} of {}", got.len(), whole.len());
}

#[tokio::test]
async fn what_somebody_changes_while_a_restore_fetches_is_not_replaced() {
    let store = memory_store();
    let (from, to) = (temp(), temp());
    let workload = store.workload();
    let mut claim = claim(&workload, 1).await.claim;
    write(from.path(), "file", "old");
    let first = save_and_commit(&workload, &mut claim, from.path()).await;
    restore(&workload, &first.manifest, &RestoreOptions::new(to.path())).await.expect("restored");
    write(from.path(), "file", "newer");
    let second = save_and_commit(&workload, &mut claim, from.path()).await;
    let mut options = RestoreOptions::new(to.path());
    options.superseded = vec![Arc::new(read_manifest(&workload, &first.manifest).await.expect("readable"))];
    let held = common::fault::FaultyStore::new(Arc::clone(&store.store), 1, 1);
    held.switch(false);
    held.pause_after(1);
    let slow = common::workload(&(Arc::clone(&held) as Arc<dyn object_store::ObjectStore>));
    let restoring = tokio::spawn(async move { restore(&slow, &second.manifest, &options).await });
    // It has compared the directory and asks for the data.
    held.paused().await;
    write(to.path(), "file", "edited meanwhile");
    held.resume();
    let error = restoring.await.expect("no panic").expect_err("somebody's work");
    assert!(matches!(error, RestoreError::Conflict { count: 1, .. }), "{error}");
    assert_eq!(std::fs::read(to.path().join("file")).expect("there"), b"edited meanwhile");
}

//! The fuzzer's seeds are what this build writes and reads. `LIFEBOAT_WRITE_SEEDS=1` writes them anew, which a new
//! version of the format needs.

mod common;
mod entries;

use std::num::NonZeroUsize;
use std::path::Path;

use common::{claim, memory_store, noise, temp, workload, write};
use futures_util::TryStreamExt;
use lifeboat_snapshot::manifest::decode;
use lifeboat_snapshot::save::SaveOptions;
use lifeboat_snapshot::{Rounds, UploadLog};
use object_store::ObjectStoreExt;

/// Everything that a manifest can say, small.
fn fill(top: &Path) {
    write(top, "folder/one", "one and one and one and one and one and one and one");
    write(top, "folder/two", noise(2, 300));
    write(top, "empty", "");
    // A delta is written where the whole is long.
    for number in 0..260 {
        write(top, format!("many/{number:03}"), "");
    }
    write(top, "text", "the same again and again, ".repeat(200));
    std::fs::write(top.join("hole"), vec![0; 9_000]).expect("written");
    std::fs::hard_link(top.join("text"), top.join("further name")).expect("linked");
    std::os::unix::fs::symlink("../out", top.join("link")).expect("linked");
    std::fs::create_dir(top.join("nothing in it")).expect("made");
    let odd = std::os::unix::ffi::OsStrExt::from_bytes(b"odd \xff".as_slice());
    std::fs::write(top.join::<&std::ffi::OsStr>(odd), "odd").expect("written");
}

#[tokio::test]
async fn the_fuzzers_seeds_are_what_this_build_writes() {
    let folder = entries::folder();
    if std::env::var_os("LIFEBOAT_WRITE_SEEDS").is_some() {
        write_seeds(&folder).await;
    }
    let seeds = |kind: &str| -> Vec<Vec<u8>> {
        let dir = std::fs::read_dir(folder.join("seeds").join(kind)).expect("readable");
        dir.flatten().map(|entry| std::fs::read(entry.path()).expect("readable")).collect()
    };
    for bytes in seeds("manifest") {
        decode(&bytes, &entries::name()).expect("an honest manifest");
    }
    let lines = seeds("lines");
    assert!(!lines.is_empty() && !seeds("delta").is_empty() && !seeds("object").is_empty());
    for bytes in lines {
        decode(&zstd::encode_all(bytes.as_slice(), 1).expect("compressible"), &entries::name())
            .expect("honest");
    }
}

async fn write_seeds(folder: &Path) {
    let (store, from) = (memory_store(), temp());
    let work = workload(&store.store);
    fill(from.path());
    let mut claim = claim(&work, 1).await.claim;
    let keep = NonZeroUsize::new(9).expect("not zero");
    let mut rounds = Rounds::new(work, SaveOptions::new(from.path()), UploadLog::in_memory(), keep);
    for number in 0..2 {
        let saved = rounds.round(&claim.id()).await.expect("saved");
        claim.commit(saved.manifest.clone()).await.expect("the owner");
        rounds.committed(&saved);
        if number == 0 {
            std::fs::remove_file(from.path().join("empty")).expect("removed");
            write(from.path(), "folder/two", noise(3, 200));
            write(from.path(), "new", "new");
        }
    }
    let _ = std::fs::remove_dir_all(folder.join("surroundings")); // there may be none yet
    let listed: Vec<_> = store.store.list(None).try_collect().await.expect("listed");
    for object in listed {
        let key = object.location.to_string();
        let key = key.strip_prefix("work/").expect("all of it is the work's");
        let bytes = store.store.get(&object.location).await.expect("there").bytes().await.expect("there");
        let (part, seed) = match key.split('/').next() {
            Some("manifests") => ("manifests", "manifest"),
            Some("data") => ("objects", "object"),
            Some("journal") => ("records", "record"),
            _ => continue,
        };
        let put = |dir: &str, name: &str, bytes: &[u8]| {
            let dir = folder.join(dir);
            std::fs::create_dir_all(&dir).expect("made");
            std::fs::write(dir.join(name), bytes).expect("written");
        };
        put(&format!("surroundings/{part}"), &key.replace('/', "+"), &bytes);
        let name = key.rsplit(['/', '-']).next().expect("has a last part");
        if seed == "manifest" {
            let text = entries::text(&bytes);
            if text.lines().next().is_some_and(|line| line.contains("\"base\"")) {
                put("seeds/delta", "delta", text.as_bytes());
                continue;
            }
            put("seeds/lines", "lines", text.as_bytes());
            put("seeds/manifest", "manifest", &bytes);
        } else {
            put(&format!("seeds/{seed}"), name, &bytes);
        }
    }
}

//! Where bytes from a store come in, as functions of such bytes: for the fuzzer (`fuzz/`) and for the short run of the
//! tests. Whatever comes in, the answer is a value that holds what the format promises, or an error.

#![allow(dead_code, reason = "each of its users uses its part")]

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use lifeboat_snapshot::id::{Digest, Nonce};
use lifeboat_snapshot::journal::{self, Holder};
use lifeboat_snapshot::manifest::{EntryKind, Manifest, ManifestRef, decode};
use lifeboat_snapshot::{
    Claimant, NoProgress, StoreUrl, Wait, Workload, WorkloadName, acquire, open, read_manifest, verify,
};
use object_store::{ObjectStoreExt, PutPayload};
use tokio::runtime::Runtime;

/// A whole recovery point, made by this program: what surrounds the bytes that come in.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Its manifest, whose place hostile ones take.
    pub(crate) manifest: (String, Vec<u8>),
    /// A delta of it.
    pub(crate) delta: (String, Vec<u8>),
    /// The data objects of both.
    pub(crate) objects: Vec<(String, Vec<u8>)>,
    /// The journal that leads to both.
    pub(crate) records: Vec<(String, Vec<u8>)>,
}

/// Where the seeds and the surroundings lie.
pub(crate) fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz"]
        .iter()
        .collect::<PathBuf>()
        .ancestors()
        .find_map(|above| {
            let folder = above.join("fuzz");
            folder.join("seeds").is_dir().then_some(folder)
        })
        .expect("the repository has a folder fuzz/seeds")
}

static SURROUNDINGS: LazyLock<Surroundings> = LazyLock::new(Surroundings::read);

/// Its clock stands still: what waits between two attempts costs nothing.
static RUNTIME: LazyLock<Mutex<Runtime>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    Mutex::new(runtime.expect("a runtime"))
});

fn run<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.lock().unwrap_or_else(PoisonError::into_inner).block_on(future)
}

impl Surroundings {
    fn read() -> Self {
        let folder = folder().join("surroundings");
        let all = |part: &str| -> Vec<(String, Vec<u8>)> {
            let mut found: Vec<_> = std::fs::read_dir(folder.join(part))
                .expect("readable")
                .flatten()
                .map(|entry| {
                    // Keys have no +, file names no /.
                    let key = entry.file_name().to_string_lossy().replace('+', "/");
                    (key, std::fs::read(entry.path()).expect("readable"))
                })
                .collect();
            found.sort();
            found
        };
        let mut manifests = all("manifests");
        let (delta, manifest) = (manifests.pop(), manifests.pop());
        let is_delta =
            |bytes: &[u8]| text(bytes).lines().next().is_some_and(|line| line.contains("\"base\""));
        let (delta, manifest) = (delta.expect("two"), manifest.expect("two"));
        let (manifest, delta) = if is_delta(&delta.1) { (manifest, delta) } else { (delta, manifest) };
        Self { manifest, delta, objects: all("objects"), records: all("records") }
    }

    /// A store with all of it, where `replaced` takes the place of one object.
    fn store(&self, replaced: Option<(&str, &[u8])>) -> Workload {
        let store = open(&StoreUrl::Memory).expect("memory opens");
        let workload = Workload::new(store, name());
        run(async {
            let all = self.objects.iter().chain(&self.records).chain([&self.manifest, &self.delta]);
            for (key, bytes) in all {
                let bytes = match replaced {
                    Some((replaced, bytes)) if replaced == key => bytes,
                    Some(_) | None => bytes,
                };
                let location = format!("work/{key}").into();
                workload.store().put(&location, PutPayload::from(bytes.to_vec())).await.expect("memory");
            }
        });
        workload
    }
}

pub(crate) fn name() -> WorkloadName {
    "work".parse().expect("a valid name")
}

/// What is in a compressed manifest.
pub(crate) fn text(compressed: &[u8]) -> String {
    String::from_utf8(zstd::decode_all(compressed).expect("honest")).expect("lines of JSON")
}

/// A reference that vouches for whatever `bytes` are: their writer was hostile, not the store.
fn reference(key: &str, bytes: &[u8]) -> ManifestRef {
    ManifestRef {
        key: key.to_owned(),
        digest: Digest::of(bytes),
        size: u64::try_from(bytes.len()).expect("64 bit"),
        files: 0,
        bytes: 0,
        left_out: 0,
        complete: true,
    }
}

/// A compressed manifest.
pub(crate) fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = decode(bytes, &name()) {
        assert_is_safe(&manifest);
    }
}

/// The lines of a manifest.
pub(crate) fn lines(bytes: &[u8]) {
    manifest(&zstd::encode_all(bytes, 1).expect("compressible"));
}

/// The lines of a delta, whose base is honest.
pub(crate) fn delta(bytes: &[u8]) {
    let compressed = zstd::encode_all(bytes, 1).expect("compressible");
    let key = SURROUNDINGS.delta.0.as_str();
    let workload = SURROUNDINGS.store(Some((key, &compressed)));
    if let Ok(manifest) = run(read_manifest(&workload, &reference(key, &compressed))) {
        assert_is_safe(&manifest);
    }
}

/// The base, as lines, of an honest delta: hashes tell.
pub(crate) fn base(bytes: &[u8]) {
    let compressed = zstd::encode_all(bytes, 1).expect("compressible");
    let workload = SURROUNDINGS.store(Some((&SURROUNDINGS.manifest.0, &compressed)));
    let (key, sound) = (&SURROUNDINGS.delta.0, &SURROUNDINGS.delta.1);
    let read = run(read_manifest(&workload, &reference(key, sound)));
    assert!(read.is_err() || compressed == SURROUNDINGS.manifest.1, "another base has passed");
}

/// A data object: one of small files, one compressed, one with blocks of a large file; all are tried.
pub(crate) fn object(bytes: &[u8]) {
    for (key, honest) in &SURROUNDINGS.objects {
        let workload = SURROUNDINGS.store(Some((key, bytes)));
        let (manifest, sound) = &SURROUNDINGS.manifest;
        let seen =
            run(verify(&workload, &reference(manifest, sound), &NoProgress)).expect("an honest manifest");
        let is_used = seen.manifest.objects.iter().any(|object| object.key == *key);
        // A compressed object of other bytes may hold the same content; a plain one may not, but may go on behind it.
        if is_used && !key.ends_with(".zst") && !bytes.starts_with(honest) {
            assert!(!seen.damaged.is_empty(), "{key}: other bytes have passed");
        }
    }
}

/// Whether the recovery point is whole with `bytes` in the place of its compressed object.
pub(crate) fn is_sound(bytes: &[u8]) -> bool {
    let mut compressed = SURROUNDINGS.objects.iter().filter(|(key, _)| key.ends_with(".zst"));
    let (key, _) = compressed.next().expect("one");
    let workload = SURROUNDINGS.store(Some((key, bytes)));
    let (manifest, sound) = &SURROUNDINGS.manifest;
    let seen = run(verify(&workload, &reference(manifest, sound), &NoProgress)).expect("an honest manifest");
    seen.damaged.is_empty()
}

/// The newest record of a journal.
pub(crate) fn record(bytes: &[u8]) {
    let (key, _) = SURROUNDINGS.records.last().expect("some");
    let workload = SURROUNDINGS.store(Some((key, bytes)));
    run(async {
        let _ = journal::head(&workload).await; // only that it answers
        let _ = journal::records(&workload).await;
        let _ = journal::recovery_points(&workload).await;
        let claimant = Claimant {
            agent: Nonce::from_bytes([1; 16]),
            holder: Holder { instance: "i-1".to_owned(), host: "host".to_owned(), pid: 1 },
            lease: std::time::Duration::from_secs(30),
        };
        let _ = acquire(&workload, &claimant, Wait::No).await;
    });
}

/// What every manifest that is accepted must be, said again and in another way than its reader does.
fn assert_is_safe(manifest: &Manifest) {
    let mut kinds = std::collections::BTreeMap::new();
    for entry in &manifest.entries {
        let path = entry.path.as_bytes();
        assert!(!path.is_empty() && !path.contains(&0) && path[0] != b'/');
        assert!(path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
        assert!(kinds.insert(path, &entry.kind).is_none(), "{} twice", entry.path);
        let mut covered = 0u64;
        for extent in entry.extents() {
            covered = covered.checked_add(extent.length).expect("no overflow");
            if let Some(object) = extent.object {
                let object = &manifest.objects[usize::try_from(object).expect("64 bit")];
                assert!(extent.offset.checked_add(extent.length).is_some_and(|end| end <= object.content()));
            }
        }
        if let EntryKind::File { size, .. } = entry.kind {
            assert_eq!(covered, size, "{}", entry.path);
        }
    }
    for path in kinds.keys() {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let above = kinds.get(&path[..at]);
            assert!(above.is_none_or(|kind| matches!(kind, EntryKind::Directory)), "below a file or link");
        }
    }
    assert!(
        manifest.objects.iter().all(|object| object.key.starts_with("data/") && !object.key.contains(".."))
    );
}

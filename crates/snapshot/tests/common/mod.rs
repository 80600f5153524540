//! What several test files share: stores, claimants, trees that can be compared.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_snapshot::id::Nonce;
use lifeboat_snapshot::journal::Holder;
use lifeboat_snapshot::save::{SaveOptions, Saved};
use lifeboat_snapshot::{Acquired, Claim, Claimant, StoreUrl, Wait, Workload, acquire, open, save};
use object_store::ObjectStore;

pub(crate) mod fault;
pub(crate) mod http_proxy;
pub(crate) mod proxy;
pub(crate) mod s3;

/// A store and what keeps it alive.
pub(crate) struct TestStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    _directory: Option<tempfile::TempDir>,
    _server: Option<s3::S3Server>,
}

/// A temporary directory in memory where there is one: bringing much to disk is what takes time in these tests.
pub(crate) fn temp() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

/// One store of each kind that this build supports: every claim is tested with all of them.
pub(crate) fn stores() -> Vec<TestStore> {
    let mut stores = stores_in_paused_time();
    stores.extend(s3_store());
    stores
}

/// Those that need no network, for tests whose clock stands still.
pub(crate) fn stores_in_paused_time() -> Vec<TestStore> {
    vec![memory_store(), directory_store()]
}

/// A bucket on a server of its own, where there is a server.
pub(crate) fn s3_store() -> Option<TestStore> {
    let server = s3::S3Server::start()?;
    let store = open(&server.store_url("")).expect("a bucket opens");
    Some(TestStore { store, _directory: None, _server: Some(server) })
}

pub(crate) fn memory_store() -> TestStore {
    TestStore { store: open(&StoreUrl::Memory).expect("memory opens"), _directory: None, _server: None }
}

pub(crate) fn directory_store() -> TestStore {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = StoreUrl::Directory(directory.path().join("store"));
    TestStore { store: open(&url).expect("a directory opens"), _directory: Some(directory), _server: None }
}

impl TestStore {
    pub(crate) fn workload(&self) -> Workload {
        workload(&self.store)
    }
}

pub(crate) fn workload(store: &Arc<dyn ObjectStore>) -> Workload {
    Workload::new(Arc::clone(store), "work".parse().expect("a valid name"))
}

/// A claimant with an identity of its own.
pub(crate) fn claimant(number: u8) -> Claimant {
    Claimant {
        agent: Nonce::from_bytes([number; 16]),
        holder: Holder { instance: format!("i-{number}"), host: "host".to_owned(), pid: u32::from(number) },
        lease: Duration::from_secs(30),
    }
}

pub(crate) async fn claim(workload: &Workload, number: u8) -> Acquired {
    acquire(workload, &claimant(number), Wait::No).await.expect("nobody holds it")
}

/// Saves `work_dir` and commits it.
pub(crate) async fn save_and_commit(workload: &Workload, claim: &mut Claim, work_dir: &Path) -> Saved {
    let saved = save(workload, &claim.id(), &SaveOptions::new(work_dir)).await.expect("saved");
    claim.commit(saved.manifest.clone()).await.expect("committed");
    saved
}

/// Everything about one file, directory or link that must come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: char,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: (i64, i64),
}

/// A tree by relative path, without following links. Times of the top directory are not compared.
pub(crate) fn tree(top: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut seen = BTreeMap::new();
    walk(top, top, &mut seen);
    seen
}

fn walk(top: &Path, folder: &Path, seen: &mut BTreeMap<Vec<u8>, Seen>) {
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let metadata = path.symlink_metadata().expect("there");
        let file_type = metadata.file_type();
        let (kind, content) = if file_type.is_dir() {
            walk(top, &path, seen);
            ('d', Vec::new())
        } else if file_type.is_symlink() {
            ('l', std::fs::read_link(&path).expect("a link").as_os_str().as_bytes().to_vec())
        } else if file_type.is_file() {
            ('f', std::fs::read(&path).expect("readable"))
        } else {
            ('?', Vec::new())
        };
        let relative = path.strip_prefix(top).expect("below").as_os_str().as_bytes().to_vec();
        let mode = if kind == 'l' { 0 } else { metadata.permissions().mode() & 0o7777 };
        let owner = (metadata.uid(), metadata.gid());
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        seen.insert(relative, Seen { kind, content, mode, owner, modified });
    }
}

/// Writes a file and all directories above it.
pub(crate) fn write(top: &Path, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) {
    let path = top.join(OsStr::from_bytes(path.as_ref()));
    std::fs::create_dir_all(path.parent().expect("has a parent")).expect("creatable");
    std::fs::write(path, content).expect("writable");
}

/// Bytes that do not compress and depend on `seed` alone.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

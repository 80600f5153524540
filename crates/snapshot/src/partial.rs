//! Partial results of an application's tasks: `partial/{instance}/{task}.json`, with larger data beside it, and who
//! may go on with a task: `task-claims/{task}/{number}.json`, numbered and create-only.
//!
//! They lie below the *application's* name, which several workloads of one store may share: a task that one machine
//! gave back is taken up by any other. Which partial result is the newest is decided by the number of the claim
//! under which it was written, never by a clock. A claim passes on when its holder cannot go on for sure: it said
//! so; the queue has given the message out once more since; or the workload under which it claimed the task is not
//! held by that claim any more.
//!
//! Ids of tasks and names of machines may be any text: what is not plainly safe in a key is replaced by its hash,
//! and the record inside holds it as it was.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

use crate::deadline::Deadline;
use crate::id::{Digest, Nonce};
use crate::journal::{self, Event};
use crate::store::{Retry, StoreError};
use crate::workload::{Workload, WorkloadName};

/// A record of a partial result or a claim is small, but for JSON that is kept inside.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// JSON up to this size is kept inside its record, which people then read at a glance.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// So many machines are asked at once for their partial result of a task.
const CONCURRENCY: usize = 16;

/// So many claims of others may be seen to appear while one is asked for; each means that somebody has the task.
const RACES_MAX: u32 = 8;

/// Names up to this length stay as they are: with its folder a key stays far below the 1,024 bytes of S3.
const PLAIN_BYTES_MAX: usize = 64;

/// Who asks for a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The workload under whose claim it works, in the same store.
    pub workload: WorkloadName,
    /// The number of that claim.
    pub claim: u64,
    /// The machine's name.
    pub instance: String,
    /// How often the queue had given the message out.
    pub attempt: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClaimRecord {
    task: String,
    #[serde(flatten)]
    holder: Holder,
    nonce: Nonce,
}

/// A task that is ours to go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskClaim {
    /// Greater is newer.
    pub number: u64,
}

/// Why a task could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Somebody has it, and may be working on it.
    #[error("{by} has it")]
    Held {
        /// The machine.
        by: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is kept of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its id, as the application gave it.
    pub task: String,
    /// What it works on, for people.
    pub path: Option<String>,
    /// From 0 to 1.
    pub progress: Option<f64>,
    /// The machine.
    pub instance: String,
    /// When, by that machine's clock, Unix time in ms; for people.
    pub at_unix_ms: u64,
    /// The claim under which it was written.
    pub claim: u64,
    /// Rises with each version under one claim.
    pub revision: u64,
    /// The partial result, where it is small JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// The partial result, otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
}

/// Bytes in an object of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Its key below the application's name.
    pub key: String,
    /// Its length.
    pub size: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Whether it is JSON.
    pub is_json: bool,
}

/// What is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub bytes: Bytes,
    /// Whether they are JSON; the caller has checked that.
    pub is_json: bool,
}

/// Claims `task` for `holder`, and brings its newest partial result from whatever machine. `application` is the
/// place in the store. A holder that has claimed it already gets the same again.
///
/// # Errors
/// [`TakeError`]
pub async fn take(
    application: &Workload,
    task: &str,
    holder: &Holder,
) -> Result<(TaskClaim, Option<(Record, Content)>), TakeError> {
    let claim = claim(application, task, holder).await?;
    // Whoever wrote one had claimed the task before.
    let found = if claim.number > 1 { records(application, task).await? } else { Vec::new() };
    let newest = found.into_iter().max_by_key(|(_, record)| (record.claim, record.revision));
    let Some((location, record)) = newest else { return Ok((claim, None)) };
    let content = content(application, &location, &record).await?;
    Ok((claim, Some((record, content))))
}

async fn claim(application: &Workload, task: &str, holder: &Holder) -> Result<TaskClaim, TakeError> {
    let record = ClaimRecord { task: task.to_owned(), holder: holder.clone(), nonce: Nonce::random() };
    let body = serde_json::to_vec_pretty(&record).expect("a record of texts and numbers is JSON");
    let mut found = None;
    for _ in 0..RACES_MAX {
        let newest = newest_claim(application, task).await?;
        if let Some((number, before, is_over)) = &newest {
            let is_own = (&before.holder.workload, before.holder.claim) == (&holder.workload, holder.claim);
            if before.nonce == record.nonce || (is_own && !is_over) {
                return Ok(TaskClaim { number: *number });
            }
            if !is_over && !passes_on(application, &before.holder, holder).await? {
                return Err(TakeError::Held { by: before.holder.instance.clone() });
            }
        }
        let number = newest.as_ref().map_or(1, |(number, ..)| number + 1);
        found = newest.map(|(_, before, _)| before.holder.instance);
        let location = application.locate(&claim_key(task, number));
        let created = Retry::small()
            .run("create", &location, || async {
                let options = PutOptions::from(PutMode::Create);
                match application.store().put_opts(&location, PutPayload::from(body.clone()), options).await {
                    Ok(_) => Ok(true),
                    // Perhaps by us, in an attempt whose answer was lost: the next look tells.
                    Err(
                        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. },
                    ) => Ok(false),
                    Err(error) => Err(error),
                }
            })
            .await?;
        if created {
            return Ok(TaskClaim { number });
        }
    }
    Err(TakeError::Held { by: found.unwrap_or_else(|| "others, one after the other,".to_owned()) })
}

/// Whether whoever claimed the task before cannot be working on it any more.
async fn passes_on(application: &Workload, before: &Holder, now: &Holder) -> Result<bool, StoreError> {
    if let (Some(before), Some(now)) = (before.attempt, now.attempt)
        && now > before
    {
        return Ok(true);
    }
    let theirs = Workload::new(std::sync::Arc::clone(application.store()), before.workload.clone());
    Ok(match journal::head(&theirs).await? {
        Some(head) => {
            let is_held = match head.record.event {
                Event::Claimed { .. } | Event::Committed => true,
                Event::Released(_) | Event::Done { .. } => false,
            };
            head.record.claim != before.claim || !is_held
        }
        None => true,
    })
}

/// The newest claim with its number, and whether its holder has given it up.
async fn newest_claim(
    application: &Workload,
    task: &str,
) -> Result<Option<(u64, ClaimRecord, bool)>, StoreError> {
    let numbers = claims(application, task).await?;
    let Some((number, is_over)) = numbers.last().copied() else { return Ok(None) };
    let location = application.locate(&claim_key(task, number));
    match read_json::<ClaimRecord>(application, &location).await {
        Ok(record) => Ok(Some((number, record, is_over))),
        // Deleted since: the task was done, and begins anew.
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The numbers of all claims of a task, rising, each with whether it was given up.
async fn claims(application: &Workload, task: &str) -> Result<Vec<(u64, bool)>, StoreError> {
    let folder = application.locate(&format!("task-claims/{}", key_of(task)));
    let listed: Vec<_> = Retry::small()
        .run("list", &folder, || async { application.store().list(Some(&folder)).try_collect().await })
        .await?;
    let mut numbers = std::collections::BTreeMap::new();
    for object in listed {
        let Some((number, kind)) = object.location.filename().and_then(|name| name.split_once('.')) else {
            continue;
        };
        if let Ok(number) = number.parse::<u64>() {
            *numbers.entry(number).or_insert(false) |= kind == "over";
        }
    }
    Ok(numbers.into_iter().collect())
}

/// Says that nobody goes on under `claim`: the next who asks gets the task.
///
/// # Errors
/// [`StoreError`]
pub async fn give_up(application: &Workload, task: &str, claim: &TaskClaim) -> Result<(), StoreError> {
    let location = application.locate(&format!("task-claims/{}/{:010}.over", key_of(task), claim.number));
    put_bytes(application, &location, Bytes::new(), &Deadline::none()).await
}

/// Keeps `content` as the newest partial result of `record.task` on `record.instance`, replacing the one before.
///
/// # Errors
/// [`StoreError`]; `TimedOut` when `deadline` comes first.
pub async fn put(
    application: &Workload,
    mut record: Record,
    content: &Content,
    deadline: &Deadline,
) -> Result<(), StoreError> {
    let name = format!("partial/{}/{}", key_of(&record.instance), key_of(&record.task));
    let location = application.locate(&format!("{name}.json"));
    let inline = if content.is_json && content.bytes.len() <= INLINE_BYTES_MAX {
        serde_json::from_slice(&content.bytes).ok()
    } else {
        None
    };
    let written = async {
        match inline {
            Some(value) => (record.json, record.data) = (Some(value), None),
            None => {
                let digest = Digest::of(&content.bytes);
                let key = format!("{name}.{}.data", &digest.to_string()[..16]);
                put_bytes(application, &application.locate(&key), content.bytes.clone(), deadline).await?;
                let size = u64::try_from(content.bytes.len()).unwrap_or(u64::MAX);
                record.data = Some(Data { key, size, digest, is_json: content.is_json });
                record.json = None;
            }
        }
        let body = serde_json::to_vec_pretty(&record).expect("a record of texts and numbers is JSON");
        let before = match &record.data {
            // What the version before had beside it is of no use any more.
            Some(_) => read_json::<Record>(application, &location).await.ok().and_then(|before| before.data),
            None => None,
        };
        put_bytes(application, &location, body.into(), deadline).await?;
        if let Some(before) = before.filter(|before| record.data.as_ref() != Some(before)) {
            delete(application, &application.locate(&before.key)).await?;
        }
        Ok(())
    };
    tokio::select! {
        biased;
        written = written => written,
        () = deadline.reached(|moment| moment) => {
            Err(StoreError::TimedOut { operation: "store", key: location.to_string(), waited_ms: 0 })
        }
    }
}

/// Deletes everything that is kept of a task: it is done. `was_shared`: others may have left partial results.
///
/// # Errors
/// [`StoreError`]; forgetting again goes on.
pub async fn forget(
    application: &Workload,
    task: &str,
    instance: &str,
    claim: &TaskClaim,
) -> Result<(), StoreError> {
    let own = application.locate(&format!("partial/{}/{}.json", key_of(instance), key_of(task)));
    let found = if claim.number > 1 {
        records(application, task).await?
    } else {
        match read_json::<Record>(application, &own).await {
            Ok(record) => vec![(own, record)],
            Err(StoreError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        }
    };
    for (location, record) in found {
        delete(application, &location).await?;
        if let Some(data) = record.data {
            delete(application, &application.locate(&data.key)).await?;
        }
    }
    // Last, and rising: while one is left, what others wrote is still found.
    for (number, is_over) in claims(application, task).await? {
        if is_over {
            delete(
                application,
                &application.locate(&format!("task-claims/{}/{number:010}.over", key_of(task))),
            )
            .await?;
        }
        delete(application, &application.locate(&claim_key(task, number))).await?;
    }
    Ok(())
}

/// What is kept of `task`, on every machine.
async fn records(application: &Workload, task: &str) -> Result<Vec<(Path, Record)>, StoreError> {
    let folder = application.locate("partial");
    let listed = Retry::small()
        .run("list", &folder, || application.store().list_with_delimiter(Some(&folder)))
        .await?;
    let name = format!("{}.json", key_of(task));
    stream::iter(listed.common_prefixes.into_iter().map(|machine| machine.join(name.as_str())))
        .map(|location| async move {
            match read_json::<Record>(application, &location).await {
                Ok(record) if record.task == task => Ok(Some((location, record))),
                Ok(_) => Ok(None),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|found| async { Ok(found) })
        .try_collect()
        .await
}

async fn content(application: &Workload, location: &Path, record: &Record) -> Result<Content, StoreError> {
    let Some(data) = &record.data else {
        let bytes = record.json.as_ref().map(serde_json::to_vec).transpose();
        let bytes = bytes.map_err(|error| StoreError::corrupt(location, error.to_string()))?;
        return Ok(Content { bytes: bytes.unwrap_or_default().into(), is_json: true });
    };
    let location = application.locate(&data.key);
    if !data.key.starts_with("partial/") || data.size > RECORD_BYTES_MAX {
        return Err(StoreError::corrupt(&location, "this is no partial result"));
    }
    let bytes = read_bytes(application, &location).await?;
    if Digest::of(&bytes) == data.digest {
        Ok(Content { bytes, is_json: data.is_json })
    } else {
        Err(StoreError::corrupt(&location, "its hash is another"))
    }
}

async fn put_bytes(
    application: &Workload,
    location: &Path,
    bytes: Bytes,
    deadline: &Deadline,
) -> Result<(), StoreError> {
    let payload = PutPayload::from(bytes);
    Retry::small_until(deadline)
        .run("store", location, || application.store().put(location, payload.clone()))
        .await
        .map(drop)
}

async fn read_bytes(application: &Workload, location: &Path) -> Result<Bytes, StoreError> {
    Retry::small()
        .run_checked("read", location, || async {
            let failed = |source| StoreError::new("read", location, source);
            let got = application.store().get(location).await.map_err(failed)?;
            if got.meta.size > RECORD_BYTES_MAX {
                return Err(StoreError::corrupt(location, format!("{} bytes are too many", got.meta.size)));
            }
            got.bytes().await.map_err(failed)
        })
        .await
}

async fn read_json<T: serde::de::DeserializeOwned>(
    application: &Workload,
    location: &Path,
) -> Result<T, StoreError> {
    let bytes = read_bytes(application, location).await?;
    serde_json::from_slice(&bytes).map_err(|error| StoreError::corrupt(location, error.to_string()))
}

async fn delete(application: &Workload, location: &Path) -> Result<(), StoreError> {
    match Retry::small().run("delete", location, || application.store().delete(location)).await {
        Err(StoreError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn claim_key(task: &str, number: u64) -> String {
    format!("task-claims/{}/{number:010}.json", key_of(task))
}

/// A name that is safe in a key and a file name. What is not plainly so becomes its hash, behind an underscore, with
/// which no plain name begins.
fn key_of(name: &str) -> String {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() <= PLAIN_BYTES_MAX && name.bytes().all(is_safe) {
        name.to_owned()
    } else {
        format!("_{}", &Digest::of(name.as_bytes()).to_string()[..32])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::ObjectStore;

    use super::*;
    use crate::claim::{Acquired, Claimant, Wait, acquire};

    fn place() -> (Arc<dyn ObjectStore>, Workload) {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let application = Workload::new(Arc::clone(&store), "app".parse().expect("valid"));
        (store, application)
    }

    async fn machine(store: &Arc<dyn ObjectStore>, name: &str) -> (crate::Claim, Holder) {
        let workload = Workload::new(Arc::clone(store), name.parse().expect("valid"));
        let claimant = Claimant {
            agent: Nonce::random(),
            holder: journal::Holder { instance: format!("i-{name}"), host: "h".into(), pid: 1 },
            lease: std::time::Duration::from_secs(1),
        };
        let Acquired { claim, .. } = acquire(&workload, &claimant, Wait::No).await.expect("free");
        let holder = Holder {
            workload: workload.name().clone(),
            claim: claim.id().seq,
            instance: format!("i-{name}"),
            attempt: None,
        };
        (claim, holder)
    }

    fn record(task: &str, holder: &Holder, claim: &TaskClaim, revision: u64) -> Record {
        Record {
            task: task.into(),
            path: None,
            progress: Some(0.5),
            instance: holder.instance.clone(),
            at_unix_ms: 0,
            claim: claim.number,
            revision,
            json: None,
            data: None,
        }
    }

    async fn keep(place: &Workload, task: &str, holder: &Holder, claim: &TaskClaim, n: u64) {
        let content = Content { bytes: n.to_string().into(), is_json: true };
        put(place, record(task, holder, claim, n), &content, &Deadline::none()).await.expect("stored");
    }

    #[tokio::test]
    async fn one_of_many_gets_a_task_and_with_it_the_newest_partial_result() {
        let (store, place) = place();
        let (mut claim, first) = machine(&store, "one").await;
        let (task_claim, found) = take(&place, "t", &first).await.expect("free");
        assert_eq!(found, None);
        for n in 1..=3 {
            keep(&place, "t", &first, &task_claim, n).await;
        }
        let mut others = Vec::new();
        for n in 0..8 {
            others.push(machine(&store, &format!("other-{n}")).await);
        }
        for (_, holder) in &others {
            assert!(matches!(take(&place, "t", holder).await, Err(TakeError::Held { by }) if by == "i-one"));
        }
        claim.release(journal::Release::default()).await.expect("released");
        let asked = others.iter().map(|(_, holder)| take(&place, "t", holder));
        let got: Vec<_> = futures_util::future::join_all(asked).await.into_iter().flatten().collect();
        let [(second, Some((record, content)))] = got.as_slice() else { panic!("{got:?}") };
        assert_eq!((second.number, record.instance.as_str(), &content.bytes[..]), (2, "i-one", &b"3"[..]));
    }

    #[tokio::test]
    async fn what_was_written_under_an_older_claim_never_counts_as_the_newest() {
        let (store, place) = place();
        let (_a, one) = machine(&store, "one").await;
        let (_b, two) = machine(&store, "two").await;
        let (_c, three) = machine(&store, "three").await;
        let with = |holder: &Holder, attempt| Holder { attempt: Some(attempt), ..holder.clone() };
        let (old, _) = take(&place, "t", &with(&one, 1)).await.expect("free");
        // The queue gave the message out again: whoever had it lost it, and may be frozen only.
        let (new, _) = take(&place, "t", &with(&two, 2)).await.expect("passes on");
        assert!(matches!(take(&place, "t", &with(&three, 2)).await, Err(TakeError::Held { .. })));
        keep(&place, "t", &two, &new, 1).await;
        keep(&place, "t", &one, &old, 99).await;
        let (last, found) = take(&place, "t", &with(&three, 3)).await.expect("passes on");
        assert_eq!(&found.expect("there is one").1.bytes[..], b"1");
        forget(&place, "t", &three.instance, &last).await.expect("forgotten");
        let left: Vec<_> = store.list(Some(&Path::from("app"))).try_collect().await.expect("listed");
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_task_that_is_given_up_goes_to_the_next_who_asks() {
        let (store, place) = place();
        let (_a, one) = machine(&store, "one").await;
        let (_b, two) = machine(&store, "two").await;
        let (claim, _) = take(&place, "t", &one).await.expect("free");
        let (again, _) = take(&place, "t", &one).await.expect("still ours");
        assert_eq!(again, claim);
        give_up(&place, "t", &claim).await.expect("given up");
        assert_eq!(take(&place, "t", &two).await.expect("free").0.number, 2);
    }

    #[tokio::test]
    async fn hostile_names_stay_below_the_application_and_come_back_as_they_were() {
        let (store, place) = place();
        let (_a, one) = machine(&store, "one").await;
        let long = "x".repeat(512);
        for (n, id) in
            ["../../other/journal/1", "a/b", "", ".", "_0", "💥\u{0}", &long].into_iter().enumerate()
        {
            let holder = Holder { instance: "../i".into(), ..one.clone() };
            let (claim, _) = take(&place, id, &holder).await.expect("free");
            let bytes = Content { bytes: format!("bytes of {n}").into(), is_json: false };
            put(&place, record(id, &holder, &claim, 1), &bytes, &Deadline::none()).await.expect("stored");
            put(&place, record(id, &holder, &claim, 2), &bytes, &Deadline::none()).await.expect("again");
            give_up(&place, id, &claim).await.expect("given up");
            let (_, found) = take(&place, id, &holder).await.expect("free");
            let (record, content) = found.expect("kept");
            assert_eq!((record.task.as_str(), content), (id, bytes));
        }
        let all: Vec<_> = store.list(None).try_collect().await.expect("listed");
        let outside = all.iter().filter(|o| !o.location.as_ref().starts_with("app/")).count();
        assert!(all.iter().all(|object| object.location.as_ref().len() < 200));
        let its_own = all.iter().filter(|o| o.location.as_ref().starts_with("one/")).count();
        assert_eq!(outside, its_own, "beside the machine's own journal: {all:?}");
    }
}

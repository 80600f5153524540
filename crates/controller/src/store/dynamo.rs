//! One DynamoDB table: the store of several controllers.
//!
//! | `pk` | `sk` | what |
//! |---|---|---|
//! | `service#NAME` | `state` | `generation`, `state` |
//! | `service#NAME` | `history#AT#GENERATION` | `entry`; `expires` for the table's TTL |
//! | `service#NAME` | `meter` | `day`, `saved`, `until` |
//! | `fleet` | `NAME` | `generation`, so that one query tells of all services |
//!
//! State, fleet row and history are one transaction, conditional on the state's generation. Only history expires: a TTL
//! on the state would forget a long failover and never return.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lifeboat_aws::dynamodb::{Condition, DynamoDb, Item, Put, Query, Value, Write};
use lifeboat_aws::{AwsError, Kind};
use lifeboat_core::failover::state::State;
use lifeboat_core::time::{Millis, Timestamp};

use super::{
    Commit, Committed, Fact, HISTORY_PAGE_MAX, Meter, Store, StoreError, decode, decode_entry, encode,
    encode_entry,
};

/// One call; the machine's patience with an answer is longer.
const CALL_MAX: Duration = Duration::from_secs(4);

/// Source: ECS service quotas, 5,000 services a cluster; read 2023. Several clusters share a table.
const SERVICES_MAX: usize = 50_000;

/// Reads that run at once.
const CONCURRENT: usize = 16;

/// See the module.
#[derive(Clone, Debug)]
pub struct DynamoStore {
    table: String,
    db: DynamoDb,
    history: Millis,
    within: Duration,
}

impl DynamoStore {
    /// Uses `table`, whose partition key is `pk` and whose sort key is `sk`, both text. History expires after `history`.
    #[must_use]
    pub fn new(db: DynamoDb, table: &str, history: Millis) -> Self {
        Self { table: table.to_owned(), db, history, within: CALL_MAX }
    }

    /// The same with another limit for one call, for a stand-in that is slow.
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    async fn get(&self, service: &str, sort: &str) -> Result<Option<Item>, StoreError> {
        self.db.get(&self.table, key(service, sort), self.within).await.map_err(failed)
    }

    async fn fleet(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let query = Query {
            partition: ("pk".to_owned(), "fleet".into()),
            sort_prefix: None,
            newest_first: false,
            limit: SERVICES_MAX,
        };
        let items = self.db.query(&self.table, &query, self.within).await.map_err(failed)?;
        let of = |item: Item| Some((item.get("sk")?.as_text()?.to_owned(), number(&item, "generation")?));
        Ok(items.into_iter().filter_map(of).collect())
    }

    async fn facts(&self, service: &str, limit: usize) -> Result<Vec<Fact>, StoreError> {
        let query = Query {
            partition: ("pk".to_owned(), format!("service#{service}").into()),
            sort_prefix: Some(("sk".to_owned(), "history#".to_owned())),
            newest_first: true,
            limit,
        };
        let items = self.db.query(&self.table, &query, self.within).await.map_err(failed)?;
        let fact = |item: &Item| {
            let entry = decode_entry(service, text(service, item, "entry")?)?;
            Ok(Fact { service: service.to_owned(), entry })
        };
        items.iter().map(fact).collect()
    }

    fn writes(&self, commit: &Commit) -> Vec<Write> {
        let service = &commit.service;
        let condition = match commit.expected {
            None => Condition { expression: "attribute_not_exists(pk)".to_owned(), ..Condition::default() },
            Some(expected) => Condition {
                expression: "#g = :g".to_owned(),
                names: BTreeMap::from([("#g".to_owned(), "generation".to_owned())]),
                values: Item::from([(":g".to_owned(), expected.into())]),
            },
        };
        let put = |item, condition| Write::Put { table: self.table.clone(), item, condition };
        let generation = || ("generation".to_owned(), Value::from(commit.state.generation));
        let mut state = key(service, "state");
        state.extend([generation(), ("state".to_owned(), encode(&commit.state).into())]);
        let fleet = Item::from([
            ("pk".to_owned(), "fleet".into()),
            ("sk".to_owned(), service.as_str().into()),
            generation(),
        ]);
        let mut writes = vec![put(state, Some(condition)), put(fleet, None)];
        if let Some(entry) = &commit.entry {
            // Sorts like its numbers: times are after 1970.
            let sort = format!("history#{:015}#{:020}", entry.at.0.max(0), entry.generation);
            let mut item = key(service, &sort);
            let expires = (entry.at + self.history).0 / 1_000;
            item.extend([
                ("entry".to_owned(), encode_entry(entry).into()),
                ("expires".to_owned(), expires.into()),
            ]);
            writes.push(put(item, None));
        }
        writes
    }
}

fn key(service: &str, sort: &str) -> Item {
    Item::from([("pk".to_owned(), format!("service#{service}").into()), ("sk".to_owned(), sort.into())])
}

fn number(item: &Item, name: &str) -> Option<u64> {
    u64::try_from(item.get(name)?.as_i64()?).ok()
}

fn text<'a>(service: &str, item: &'a Item, name: &str) -> Result<&'a str, StoreError> {
    item.get(name).and_then(Value::as_text).ok_or_else(|| StoreError::Corrupt {
        service: service.to_owned(),
        what: format!("an item has no {name}"),
    })
}

fn failed(error: AwsError) -> StoreError {
    let text = error.to_string();
    match error.kind {
        Kind::Throttled => StoreError::Throttled(text),
        Kind::Unavailable | Kind::TimedOut { .. } | Kind::Conflict => StoreError::Unavailable(text),
        Kind::Denied { .. }
        | Kind::Expired
        | Kind::NoCredentials
        | Kind::NotFound
        | Kind::StaleReceipt
        | Kind::TooLarge { .. }
        | Kind::Invalid => StoreError::Unusable(text),
    }
}

/// Why nothing of a transaction was stored.
///
/// Source: DynamoDB API, `TransactWriteItems`, cancellation reasons; read 2026-11.
fn cancelled(reasons: &[String]) -> Result<Committed, StoreError> {
    let has = |wanted: &[&str]| reasons.iter().any(|reason| wanted.contains(&reason.as_str()));
    // The generation is another one, or another transaction on the same item is under way: either way somebody else
    // was faster.
    if has(&["ConditionalCheckFailed", "TransactionConflict"]) {
        return Ok(Committed::Conflict);
    }
    let text = format!("the transaction was cancelled: {}", reasons.join(", "));
    // Nobody was faster: to load and decide anew at once would make it worse.
    if has(&["ThrottlingError", "ProvisionedThroughputExceeded"]) {
        return Err(StoreError::Throttled(text));
    }
    Err(StoreError::Unusable(text))
}

#[async_trait]
impl Store for DynamoStore {
    async fn load(&self, service: &str) -> Result<Option<Box<State>>, StoreError> {
        let Some(item) = self.get(service, "state").await? else { return Ok(None) };
        decode(service, text(service, &item, "state")?).map(Some)
    }

    async fn generation(&self, service: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.get(service, "state").await?.and_then(|item| number(&item, "generation")))
    }

    async fn generations(&self, services: &[String]) -> Result<BTreeMap<String, u64>, StoreError> {
        let mut fleet = self.fleet().await?;
        fleet.retain(|name, _| services.contains(name));
        Ok(fleet)
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        use lifeboat_aws::dynamodb::Transacted;
        match self.db.transact(self.writes(&commit), None, self.within).await.map_err(failed)? {
            Transacted::Done => Ok(Committed::Stored),
            Transacted::Cancelled(reasons) => cancelled(&reasons),
        }
    }

    async fn history(&self, service: Option<&str>, limit: usize) -> Result<Vec<Fact>, StoreError> {
        let limit = limit.min(HISTORY_PAGE_MAX);
        if limit == 0 {
            return Ok(Vec::new());
        }
        if let Some(service) = service {
            let mut facts = self.facts(service, limit).await?;
            facts.sort_by_key(|fact| std::cmp::Reverse(fact.entry.generation));
            return Ok(facts);
        }
        let services = self.fleet().await?.into_keys();
        let all: Vec<Vec<Fact>> = stream::iter(services)
            .map(|service| async move { self.facts(&service, limit).await })
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await?;
        let mut all: Vec<Fact> = all.into_iter().flatten().collect();
        all.sort_by_key(|fact| std::cmp::Reverse((fact.entry.at, fact.entry.generation)));
        all.truncate(limit);
        Ok(all)
    }

    async fn states(&self) -> Result<BTreeMap<String, Box<State>>, StoreError> {
        let services = self.fleet().await?.into_keys();
        let states: Vec<Option<(String, Box<State>)>> = stream::iter(services)
            .map(|service| async move {
                Ok::<_, StoreError>(self.load(&service).await?.map(|state| (service, state)))
            })
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await?;
        Ok(states.into_iter().flatten().collect())
    }

    /// DynamoDB's TTL does it.
    async fn prune(&self, _before: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn meter(&self, service: &str) -> Result<Option<Meter>, StoreError> {
        let Some(item) = self.get(service, "meter").await? else { return Ok(None) };
        let field = |name: &str| item.get(name).and_then(Value::as_i64);
        let of = || {
            Some(Meter {
                day: field("day")?,
                saved_micros: u64::try_from(field("saved")?).ok()?,
                until: Timestamp(field("until")?),
            })
        };
        let corrupt = || StoreError::Corrupt { service: service.to_owned(), what: "its meter".to_owned() };
        of().ok_or_else(corrupt).map(Some)
    }

    async fn set_meter(
        &self,
        service: &str,
        before: Option<Meter>,
        next: Meter,
    ) -> Result<Committed, StoreError> {
        let mut item = key(service, "meter");
        item.extend([
            ("day".to_owned(), next.day.into()),
            ("saved".to_owned(), next.saved_micros.into()),
            ("until".to_owned(), next.until.0.into()),
        ]);
        let condition = match before {
            None => Condition { expression: "attribute_not_exists(pk)".to_owned(), ..Condition::default() },
            // Until and saved only rise within a day, and the day rises with the former.
            Some(before) => Condition {
                expression: "#u = :u AND #s = :s".to_owned(),
                names: BTreeMap::from([
                    ("#u".to_owned(), "until".to_owned()),
                    ("#s".to_owned(), "saved".to_owned()),
                ]),
                values: Item::from([
                    (":u".to_owned(), before.until.0.into()),
                    (":s".to_owned(), before.saved_micros.into()),
                ]),
            },
        };
        match self.db.put(&self.table, item, Some(condition), self.within).await.map_err(failed)? {
            Put::Written => Ok(Committed::Stored),
            Put::Refused { .. } => Ok(Committed::Conflict),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_slower_has_a_conflict() {
        let of = |reasons: &[&str]| {
            let reasons: Vec<String> = reasons.iter().map(|reason| (*reason).to_owned()).collect();
            cancelled(&reasons)
        };
        assert!(matches!(of(&["ConditionalCheckFailed", "None", "None"]), Ok(Committed::Conflict)));
        assert!(matches!(of(&["TransactionConflict", "None"]), Ok(Committed::Conflict)));
        assert!(matches!(of(&["None", "ThrottlingError"]), Err(StoreError::Throttled(_))));
        assert!(matches!(of(&["None", "ProvisionedThroughputExceeded"]), Err(StoreError::Throttled(_))));
        assert!(matches!(of(&["ValidationError", "None"]), Err(StoreError::Unusable(_))));
        assert!(matches!(of(&["ConditionalCheckFailed", "ThrottlingError"]), Ok(Committed::Conflict)));
    }
}

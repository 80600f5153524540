//! States of workloads in a DynamoDB table: what an interrupted machine knew, for those who look into the table.
//!
//! Partition key `workload`, sort key `instance_time` (`INSTANCE#UNIX_MS`), both texts. Beside the states one item a
//! workload, `instance_time` = `newest`, says which of them is the newest; it moves forward only. A state that is too
//! large for an item is kept as a pointer to the store. No TTL: an item is deleted by people, or never.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::pause;
use crate::dynamodb::{Condition, DynamoDb, ITEM_BYTES_MAX, Item, Transacted, Value, Write, item_bytes};
use crate::{AwsError, Kind, Operation};

/// The name of the partition key.
pub const PARTITION_KEY: &str = "workload";

/// The name of the sort key.
pub const SORT_KEY: &str = "instance_time";

/// The sort key of the item that names the newest state. No instance is called so: it lacks the `#`.
const NEWEST: &str = "newest";

/// Tries of one write; with their pauses they last longer than any budget.
const TRIES_MAX: u32 = 64;

/// A state as it was saved at an interruption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whose.
    pub workload: String,
    /// The machine that saved it.
    pub instance: String,
    /// When, ms since 1970 by that machine's clock.
    pub at_ms: u64,
    /// The number of the claim under which it was saved: greater is newer.
    pub claim: u64,
    /// The state as text; empty where only the pointer was kept.
    pub text: String,
    /// Where in the store the same text lies.
    pub stored: Option<String>,
}

impl State {
    fn sort_key(&self) -> String {
        format!("{}#{:013}", self.instance, self.at_ms)
    }

    fn item(&self) -> Item {
        let mut item = Item::from([
            (PARTITION_KEY.to_owned(), self.workload.as_str().into()),
            (SORT_KEY.to_owned(), self.sort_key().into()),
            ("instance".to_owned(), self.instance.as_str().into()),
            ("at_ms".to_owned(), self.at_ms.into()),
            ("claim".to_owned(), self.claim.into()),
        ]);
        item.extend(self.stored.as_ref().map(|key| ("stored".to_owned(), key.as_str().into())));
        let text = ("state".to_owned(), Value::from(self.text.as_str()));
        let fits = item_bytes(&item) + item_bytes(&Item::from([text.clone()])) <= ITEM_BYTES_MAX;
        if fits || self.stored.is_none() {
            item.insert(text.0, text.1); // too large and stored nowhere else: the write is refused
        }
        item
    }

    fn of(item: &Item) -> Option<Self> {
        let text = |name: &str| item.get(name).and_then(Value::as_text).map(str::to_owned);
        let number = |name: &str| u64::try_from(item.get(name)?.as_i64()?).ok();
        Some(Self {
            workload: text(PARTITION_KEY)?,
            instance: text("instance")?,
            at_ms: number("at_ms")?,
            claim: number("claim")?,
            text: text("state").unwrap_or_default(),
            stored: text("stored"),
        })
    }
}

fn key(workload: &str, sort: &str) -> Item {
    Item::from([(PARTITION_KEY.to_owned(), workload.into()), (SORT_KEY.to_owned(), sort.into())])
}

impl DynamoDb {
    /// Keeps a state, unless a newer one of the same workload is there. The same one again is done already. Tries
    /// again until `within` is over what may pass.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when another machine's newer state is there; [`Kind::TooLarge`] when it neither fits nor
    /// lies in the store; [`AwsError`].
    pub async fn put_state(&self, table: &str, state: &State, within: Duration) -> Result<(), AwsError> {
        let until = Instant::now() + within;
        let mut newest = key(&state.workload, NEWEST);
        newest.insert("item".to_owned(), state.sort_key().into());
        newest.insert("claim".to_owned(), state.claim.into());
        newest.insert("at_ms".to_owned(), state.at_ms.into());
        let numbers =
            Item::from([(":claim".to_owned(), state.claim.into()), (":at".to_owned(), state.at_ms.into())]);
        let writes = [
            Write::Put { table: table.to_owned(), item: state.item(), condition: None },
            Write::Put {
                table: table.to_owned(),
                item: newest,
                condition: Some(Condition {
                    expression:
                        "attribute_not_exists(claim) OR claim < :claim OR (claim = :claim AND at_ms <= :at)"
                            .to_owned(),
                    values: numbers,
                    ..Condition::default()
                }),
            },
        ];
        let mut attempt = 0;
        let mut earlier = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let error = match self.transact(writes.to_vec(), None, left).await {
                Ok(Transacted::Done) => return Ok(()),
                Ok(cancelled) => {
                    let mut error = AwsError::new(Operation::TransactWriteItems, table, Kind::Conflict);
                    if cancelled.is_refused() {
                        "a newer state is there".clone_into(&mut error.message);
                        return Err(error);
                    }
                    error
                }
                Err(error) => error,
            };
            let error = error.after(earlier.take());
            let pause = pause(attempt);
            attempt += 1;
            if !error.is_temporary() || attempt == TRIES_MAX || Instant::now() + pause >= until {
                return Err(error);
            }
            earlier = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    /// The newest state of `workload`.
    ///
    /// # Errors
    /// [`AwsError`]; that there is none is `None`.
    pub async fn newest_state(
        &self,
        table: &str,
        workload: &str,
        within: Duration,
    ) -> Result<Option<State>, AwsError> {
        let until = Instant::now() + within;
        let Some(newest) = self.get(table, key(workload, NEWEST), within).await? else { return Ok(None) };
        let Some(sort) = newest.get("item").and_then(Value::as_text) else { return Ok(None) };
        let left = until.saturating_duration_since(Instant::now());
        let item = self.get(table, key(workload, sort), left).await?;
        Ok(item.as_ref().and_then(State::of))
    }
}

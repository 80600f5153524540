//! DynamoDB: items, conditional writes, queries and transactions.
//!
//! An item that is too large is refused before anything is sent. There is no lock here: an item's TTL deletes up to
//! days late and must never be taken for one.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, Delete, Put as SdkPut, ReturnValuesOnConditionCheckFailure,
    TransactWriteItem,
};
use tokio::time::Instant;

use crate::client::call;
use crate::{Aws, AwsError, Kind, Operation};

/// Source: DynamoDB developer guide, "Service quotas" (read 2023): 400 KB an item, names of attributes included.
pub const ITEM_BYTES_MAX: usize = 400 * 1024;

/// Source: DynamoDB API reference, `TransactWriteItems` (read 2023): 100 writes.
pub const TRANSACTION_MAX: usize = 100;

/// Pages of one query: each may be 1 MB long, and a caller says how many items it wants.
const PAGES_MAX: usize = 1_000;

/// DynamoDB, as one account sees it.
#[derive(Clone, Debug)]
pub struct DynamoDb(Aws);

/// An item: attributes by name.
pub type Item = BTreeMap<String, Value>;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A number, in decimal.
    Number(String),
    /// Yes or no.
    Bool(bool),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Self>),
    /// Values by name.
    Map(Item),
    /// Nothing.
    Null,
}

/// What must hold for a write, as a condition expression: `attribute_not_exists(pk)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The expression.
    pub expression: String,
    /// What `#name` stands for.
    pub names: BTreeMap<String, String>,
    /// What `:value` stands for.
    pub values: Item,
}

/// What came of a conditional write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was written.
    Written,
    /// The condition does not hold.
    Refused {
        /// What is there instead, if anything. After a try whose answer was lost it may be what was just written.
        current: Option<Item>,
    },
}

/// Which items of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The partition key's name and value.
    pub partition: (String, Value),
    /// The sort key's name, and what it begins with.
    pub sort_prefix: Option<(String, String)>,
    /// The greatest sort key first.
    pub newest_first: bool,
    /// At most so many.
    pub limit: usize,
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Puts an item.
    Put {
        /// Where.
        table: String,
        /// What.
        item: Item,
        /// Only if.
        condition: Option<Condition>,
    },
    /// Deletes an item.
    Delete {
        /// Where.
        table: String,
        /// Which.
        key: Item,
        /// Only if.
        condition: Option<Condition>,
    },
    /// Writes nothing.
    Check {
        /// Where.
        table: String,
        /// Which.
        key: Item,
        /// What must hold.
        condition: Condition,
    },
}

/// What came of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transacted {
    /// All of it was written.
    Done,
    /// Nothing was; one reason a write, in their order: `None`, `ConditionalCheckFailed`, `TransactionConflict`, …
    Cancelled(Vec<String>),
}

impl Transacted {
    /// Whether a condition did not hold, so that the same transaction can never succeed.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Done => false,
            Self::Cancelled(reasons) => reasons.iter().any(|reason| reason == "ConditionalCheckFailed"),
        }
    }
}

/// What a table says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// `ACTIVE` and its like.
    pub status: String,
    /// The partition key's name.
    pub partition_key: String,
    /// The sort key's name, if it has one.
    pub sort_key: Option<String>,
}

impl Aws {
    /// DynamoDB.
    #[must_use]
    pub fn dynamodb(&self) -> DynamoDb {
        DynamoDb(self.clone())
    }
}

impl DynamoDb {
    /// Puts an item in place of whatever has its key, if the condition holds.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] before anything is sent; [`AwsError`]. That the condition does not hold is [`Put::Refused`].
    pub async fn put(
        &self,
        table: &str,
        item: Item,
        condition: Option<Condition>,
        within: Duration,
    ) -> Result<Put, AwsError> {
        use aws_sdk_dynamodb::error::SdkError;
        use aws_sdk_dynamodb::operation::put_item::PutItemError;
        let operation = Operation::PutItem;
        check_size(operation, table, &item)?;
        let answer = async {
            let request = self.0.dynamodb_client().await.put_item().table_name(table);
            let request = request.set_item(Some(attributes(item)));
            let sent = match condition {
                None => request.send().await,
                Some(condition) => {
                    let (expression, names, values) = parts(condition);
                    request
                        .condition_expression(expression)
                        .set_expression_attribute_names(names)
                        .set_expression_attribute_values(values)
                        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                        .send()
                        .await
                }
            };
            match sent {
                Ok(_) => Ok(Put::Written),
                Err(SdkError::ServiceError(answer)) => match answer.err() {
                    PutItemError::ConditionalCheckFailedException(refusal) => {
                        Ok(Put::Refused { current: refusal.item.clone().map(item_of) })
                    }
                    _ => Err(SdkError::ServiceError(answer)),
                },
                Err(error) => Err(error),
            }
        };
        call(operation, table, within, answer).await
    }

    /// The item with this key, as of the last write that was answered.
    ///
    /// # Errors
    /// [`AwsError`]; that there is none is `None`.
    pub async fn get(&self, table: &str, key: Item, within: Duration) -> Result<Option<Item>, AwsError> {
        let answer = async {
            let request = self.0.dynamodb_client().await.get_item().table_name(table);
            request.set_key(Some(attributes(key))).consistent_read(true).send().await
        };
        Ok(call(Operation::GetItem, table, within, answer).await?.item.map(item_of))
    }

    /// Items of one partition, in the order of their sort keys.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn query(&self, table: &str, query: &Query, within: Duration) -> Result<Vec<Item>, AwsError> {
        let until = Instant::now() + within;
        let mut all = Vec::new();
        let mut next = None;
        let mut names = HashMap::from([("#p".to_owned(), query.partition.0.clone())]);
        let mut values = HashMap::from([(":p".to_owned(), attribute(query.partition.1.clone()))]);
        let mut expression = "#p = :p".to_owned();
        if let Some((name, prefix)) = &query.sort_prefix {
            expression += " AND begins_with(#s, :s)";
            names.insert("#s".to_owned(), name.clone());
            values.insert(":s".to_owned(), AttributeValue::S(prefix.clone()));
        }
        for _ in 0..PAGES_MAX {
            let wanted = query.limit - all.len();
            let answer = async {
                let request = self.0.dynamodb_client().await.query().table_name(table);
                request
                    .key_condition_expression(&expression)
                    .set_expression_attribute_names(Some(names.clone()))
                    .set_expression_attribute_values(Some(values.clone()))
                    .scan_index_forward(!query.newest_first)
                    .consistent_read(true)
                    .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                    .set_exclusive_start_key(next.take())
                    .send()
                    .await
            };
            let left = until.saturating_duration_since(Instant::now());
            let page = call(Operation::Query, table, left, answer).await?;
            all.extend(page.items.unwrap_or_default().into_iter().map(item_of));
            next = page.last_evaluated_key.filter(|key| !key.is_empty());
            if next.is_none() || all.len() >= query.limit {
                break;
            }
        }
        Ok(all)
    }

    /// Writes all or nothing. Tried again with the same `token` within ten minutes, it is done once.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] before anything is sent; [`AwsError`]. A cancelled transaction is [`Transacted::Cancelled`].
    pub async fn transact(
        &self,
        writes: Vec<Write>,
        token: Option<String>,
        within: Duration,
    ) -> Result<Transacted, AwsError> {
        use aws_sdk_dynamodb::error::SdkError;
        let operation = Operation::TransactWriteItems;
        let tables: Vec<&str> = writes.iter().map(Write::table).collect();
        let resource = tables.first().copied().unwrap_or_default().to_owned();
        if writes.len() > TRANSACTION_MAX {
            let kind = Kind::TooLarge { bytes: writes.len(), limit: TRANSACTION_MAX };
            return Err(AwsError::new(operation, &resource, kind));
        }
        for write in &writes {
            if let Write::Put { table, item, .. } = write {
                check_size(operation, table, item)?;
            }
        }
        let answer = async {
            let request = self.0.dynamodb_client().await.transact_write_items();
            let items = writes.into_iter().map(transact_item).collect();
            match request.set_transact_items(Some(items)).set_client_request_token(token).send().await {
                Ok(_) => Ok(Transacted::Done),
                Err(SdkError::ServiceError(answer)) => match answer.err() {
                    TransactWriteItemsError::TransactionCanceledException(refusal) => {
                        let reasons = refusal.cancellation_reasons().iter();
                        let codes = reasons.map(|reason| reason.code.clone().unwrap_or_default());
                        Ok(Transacted::Cancelled(codes.collect()))
                    }
                    _ => Err(SdkError::ServiceError(answer)),
                },
                Err(error) => Err(error),
            }
        };
        call(operation, &resource, within, answer).await
    }

    /// What the table says of itself.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none; [`AwsError`].
    pub async fn table(&self, name: &str, within: Duration) -> Result<Table, AwsError> {
        use aws_sdk_dynamodb::types::KeyType;
        let answer = async { self.0.dynamodb_client().await.describe_table().table_name(name).send().await };
        let answer = call(Operation::DescribeTable, name, within, answer).await?;
        let table =
            answer.table.ok_or_else(|| AwsError::new(Operation::DescribeTable, name, Kind::NotFound))?;
        let keys = table.key_schema.unwrap_or_default();
        let key = |kind: &KeyType| {
            keys.iter().find(|key| key.key_type == *kind).map(|key| key.attribute_name.clone())
        };
        Ok(Table {
            status: table.table_status.map(|status| status.as_str().to_owned()).unwrap_or_default(),
            partition_key: key(&KeyType::Hash).unwrap_or_default(),
            sort_key: key(&KeyType::Range),
        })
    }
}

impl Write {
    fn table(&self) -> &str {
        match self {
            Self::Put { table, .. } | Self::Delete { table, .. } | Self::Check { table, .. } => table,
        }
    }
}

impl Value {
    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is a whole one.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// As DynamoDB counts it, rather a little more than less.
    fn bytes(&self) -> usize {
        // Source: DynamoDB developer guide, "DynamoDB item sizes" (read 2023).
        match self {
            Self::Text(text) => text.len(),
            Self::Number(text) => text.len() / 2 + 2,
            Self::Bool(_) | Self::Null => 1,
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => 3 + list.iter().map(|value| 1 + value.bytes()).sum::<usize>(),
            Self::Map(map) => 3 + map.len() + item_bytes(map),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number.to_string())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number.to_string())
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

/// How large an item is, as DynamoDB counts it, rather a little more than less.
#[must_use]
pub fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.bytes()).sum()
}

fn check_size(operation: Operation, table: &str, item: &Item) -> Result<(), AwsError> {
    let bytes = item_bytes(item);
    if bytes > ITEM_BYTES_MAX {
        return Err(AwsError::new(operation, table, Kind::TooLarge { bytes, limit: ITEM_BYTES_MAX }));
    }
    Ok(())
}

type Parts = (String, Option<HashMap<String, String>>, Option<HashMap<String, AttributeValue>>);

/// DynamoDB refuses empty maps.
fn parts(condition: Condition) -> Parts {
    let names: HashMap<_, _> = condition.names.into_iter().collect();
    let values = attributes(condition.values);
    let expression = condition.expression;
    (expression, Some(names).filter(|n| !n.is_empty()), Some(values).filter(|v| !v.is_empty()))
}

fn transact_item(write: Write) -> TransactWriteItem {
    const SET: &str = "table and item are set";
    let item = TransactWriteItem::builder();
    let split = |condition: Option<Condition>| match condition.map(parts) {
        None => (None, None, None),
        Some((expression, names, values)) => (Some(expression), names, values),
    };
    match write {
        Write::Put { table, item: put, condition } => {
            let (expression, names, values) = split(condition);
            let put = SdkPut::builder().table_name(table).set_item(Some(attributes(put)));
            let put = put.set_condition_expression(expression).set_expression_attribute_names(names);
            item.put(put.set_expression_attribute_values(values).build().expect(SET)).build()
        }
        Write::Delete { table, key, condition } => {
            let (expression, names, values) = split(condition);
            let delete = Delete::builder().table_name(table).set_key(Some(attributes(key)));
            let delete = delete.set_condition_expression(expression).set_expression_attribute_names(names);
            item.delete(delete.set_expression_attribute_values(values).build().expect(SET)).build()
        }
        Write::Check { table, key, condition } => {
            let (expression, names, values) = parts(condition);
            let check = ConditionCheck::builder().table_name(table).set_key(Some(attributes(key)));
            let check = check.condition_expression(expression).set_expression_attribute_names(names);
            item.condition_check(check.set_expression_attribute_values(values).build().expect(SET)).build()
        }
    }
}

fn attributes(item: Item) -> HashMap<String, AttributeValue> {
    item.into_iter().map(|(name, value)| (name, attribute(value))).collect()
}

fn attribute(value: Value) -> AttributeValue {
    match value {
        Value::Text(text) => AttributeValue::S(text),
        Value::Number(text) => AttributeValue::N(text),
        Value::Bool(yes) => AttributeValue::Bool(yes),
        Value::Bytes(bytes) => AttributeValue::B(Blob::new(bytes)),
        Value::List(list) => AttributeValue::L(list.into_iter().map(attribute).collect()),
        Value::Map(map) => AttributeValue::M(attributes(map)),
        Value::Null => AttributeValue::Null(true),
    }
}

fn item_of(item: HashMap<String, AttributeValue>) -> Item {
    item.into_iter().map(|(name, value)| (name, value_of(value))).collect()
}

fn value_of(value: AttributeValue) -> Value {
    let texts = |list: Vec<String>| Value::List(list.into_iter().map(Value::Text).collect());
    match value {
        AttributeValue::S(text) => Value::Text(text),
        AttributeValue::N(text) => Value::Number(text),
        AttributeValue::Bool(yes) => Value::Bool(yes),
        AttributeValue::B(blob) => Value::Bytes(blob.into_inner()),
        AttributeValue::L(list) => Value::List(list.into_iter().map(value_of).collect()),
        AttributeValue::M(map) => Value::Map(item_of(map)),
        AttributeValue::Ss(list) => texts(list),
        AttributeValue::Ns(list) => Value::List(list.into_iter().map(Value::Number).collect()),
        AttributeValue::Bs(list) => {
            Value::List(list.into_iter().map(|blob| Value::Bytes(blob.into_inner())).collect())
        }
        // `Null`, and whatever DynamoDB may add: nothing of ours holds it.
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let inner = Item::from([("t".to_owned(), "x".into()), ("n".to_owned(), 7_i64.into())]);
        let item = Item::from([
            ("m".to_owned(), Value::Map(inner)),
            ("l".to_owned(), Value::List(vec![true.into(), Value::Null])),
            ("b".to_owned(), Value::Bytes(vec![0, 255])),
        ]);
        assert_eq!(item_of(attributes(item.clone())), item);
        assert_eq!(item_bytes(&item), 1 + (3 + 2 + 2 + 3) + 1 + (3 + 2 + 2) + 1 + 2);
    }
}

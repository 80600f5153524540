//! What an evacuation asks of the world beyond the store: queues that take messages back, a table that keeps the
//! state. The embedded default has its own of each; AWS's are made elsewhere and handed in with [`Ports`].
//!
//! Every call gets the time it may take. It must answer or give up by then: the stage that asks is ended by force
//! soon after. Retries, with jitter, happen inside that time and inside the implementation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_core::notice::Interruption;
use serde::{Deserialize, Serialize};

use crate::summary::Summary;

/// Why a call to a queue or a table failed, by what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Too many requests; it may go better later, and the time was over.
    #[error("throttled: {0}")]
    Throttled(String),
    /// Permissions or credentials: a person must act.
    #[error("not allowed: {0}")]
    Denied(String),
    /// The queue, table or message does not exist, or not any more; a receipt that is out of date.
    #[error("not there: {0}")]
    NotFound(String),
    /// A conditional write was refused: something newer is there.
    #[error("something newer is there: {0}")]
    Conflict(String),
    /// It will never be taken as it was asked for.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer in time.
    #[error("no answer within {0} ms")]
    TimedOut(u64),
    /// Anything else that may pass.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// A kind of queue: hands messages in flight back.
#[async_trait]
pub trait Queues: fmt::Debug + Send + Sync {
    /// Whether queues with such a URL are of this kind. The first kind that says so is asked.
    fn knows(&self, queue: &str) -> bool;

    /// Sets for how long the messages behind `receipts`, all of `queue`, stay invisible from now on; zero gives
    /// them to whoever receives next. Any number of receipts: batching is the implementation's. Answers with one
    /// result a receipt, in their order. Doing it twice does no harm.
    async fn change_visibility(
        &self,
        queue: &str,
        receipts: &[String],
        visibility: Duration,
        within: Duration,
    ) -> Vec<Result<(), PortError>>;
}

/// The state of a workload as it was saved at an interruption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// The workload (partition key).
    pub workload: String,
    /// The machine that saved it.
    pub instance: String,
    /// When, Unix time in ms by that machine's clock. With the instance it is the sort key.
    pub at_unix_ms: u64,
    /// The number of the claim under which it was saved: greater is newer, and an older one never replaces a newer.
    pub claim: u64,
    /// The state as JSON text.
    pub state: String,
    /// Where in the store the same text lies: what is too large for the table is a pointer to it.
    pub stored: Option<String>,
}

/// A table that keeps states, beside the store.
#[async_trait]
pub trait StateTable: fmt::Debug + Send + Sync {
    /// The table for people: `dynamodb://TABLE`.
    fn url(&self) -> String;

    /// Keeps `state`. The same one again is done already; it never replaces what another machine wrote.
    ///
    /// # Errors
    /// [`PortError`]
    async fn put(&self, state: &SavedState, within: Duration) -> Result<(), PortError>;

    /// The newest state of `workload`: of the greatest claim, and of that the latest. `state` is empty where only
    /// the pointer was kept.
    ///
    /// # Errors
    /// [`PortError`]
    async fn newest(&self, workload: &str, within: Duration) -> Result<Option<SavedState>, PortError>;
}

/// The Auto Scaling group that waits for this machine before it ends it.
#[async_trait]
pub trait Lifecycle: fmt::Debug + Send + Sync {
    /// Ends the group's waiting. Whether it was waiting at all.
    ///
    /// # Errors
    /// [`PortError`]
    async fn complete(&self, instance: &str, within: Duration) -> Result<bool, PortError>;

    /// Makes the group wait on. Whether it was waiting at all.
    ///
    /// # Errors
    /// [`PortError`]
    async fn heartbeat(&self, instance: &str, within: Duration) -> Result<bool, PortError>;
}

/// A load balancer's group of targets, of which this machine or task is one.
#[async_trait]
pub trait Balancer: fmt::Debug + Send + Sync {
    /// Which, for the log and the summary.
    fn name(&self) -> String;

    /// Takes this target out: it gets no new requests. Whether it was in at all. Doing it twice does no harm.
    ///
    /// # Errors
    /// [`PortError`]
    async fn leave(&self, within: Duration) -> Result<bool, PortError>;

    /// Whether no request can be under way to it any more.
    ///
    /// # Errors
    /// [`PortError`]
    async fn is_drained(&self, within: Duration) -> Result<bool, PortError>;
}

/// Makes the groups of [`Ports::balancers`], once it is known what this target is called there: an instance's id or an
/// address.
pub type MakeBalancers = Arc<dyn Fn(&str) -> Vec<Arc<dyn Balancer>> + Send + Sync>;

/// What is told of an evacuation.
#[derive(Clone, Debug)]
pub enum News {
    /// It has begun.
    Begun {
        /// The workload's name.
        workload: String,
        /// This machine's name.
        instance: String,
        /// What was announced.
        interruption: Interruption,
    },
    /// It is over.
    Ended(Box<Summary>),
}

/// Somebody, or something, that is told.
#[async_trait]
pub trait Herald: fmt::Debug + Send + Sync {
    /// Who or what, without secrets: for the log and the summary.
    fn name(&self) -> String;

    /// Tells it.
    ///
    /// # Errors
    /// [`PortError`]
    async fn tell(&self, news: &News, within: Duration) -> Result<(), PortError>;
}

/// What is beyond the store. The default knows directory queues, and keeps the state in the store alone.
#[derive(Clone, Default)]
pub struct Ports {
    /// Kinds of queues beside the directory queue, which is always known.
    pub queues: Vec<Arc<dyn Queues>>,
    /// Where the state goes beside the store.
    pub table: Option<Arc<dyn StateTable>>,
    /// Who waits for the evacuation.
    pub lifecycle: Option<Arc<dyn Lifecycle>>,
    /// Who sends requests here.
    pub balancers: Option<MakeBalancers>,
    /// Who is told of it.
    pub heralds: Vec<Arc<dyn Herald>>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports")
            .field("queues", &self.queues)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

//! The Auto Scaling group's lifecycle hook: heartbeats while the evacuation lasts, and its end.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::evacuation::stage::Report;
use lifeboat_snapshot::Deadline;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::hands::{Handed, Site, chain};
use crate::ports::Lifecycle;

/// One heartbeat may take so long.
const BEAT: Duration = Duration::from_secs(5);

/// Heartbeats end with this value.
#[derive(Debug)]
pub(crate) struct Heartbeats(AbortHandle);

impl Heartbeats {
    /// Begins at once, and goes on until nobody waits for this machine any more.
    pub(crate) fn start(lifecycle: Arc<dyn Lifecycle>, instance: String, every: Duration) -> Self {
        let beating = tokio::spawn(async move {
            loop {
                match lifecycle.heartbeat(&instance, BEAT).await {
                    Ok(true) => tracing::debug!("the lifecycle hook waits on"),
                    Ok(false) => return tracing::info!("no lifecycle action is waiting"),
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "no heartbeat for the lifecycle hook")
                    }
                }
                tokio::time::sleep(every).await;
            }
        });
        Self(beating.abort_handle())
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// CompleteLifecycle: the group need not wait for this machine any longer.
pub(crate) async fn complete(site: &Site, deadline: &Deadline) -> Handed {
    let Some(lifecycle) = &site.lifecycle else {
        return Handed::new(Report::Failed, "nothing here can complete a lifecycle action");
    };
    let left = deadline.current().map(|end| end.saturating_duration_since(Instant::now()));
    match lifecycle.complete(&site.instance, left.unwrap_or(BEAT)).await {
        Ok(true) => Handed::new(Report::Done, "the group may end this instance"),
        // The usual case at a plain Spot notice: the hook holds back what the group ends, not what EC2 reclaims.
        Ok(false) => Handed::new(Report::Nothing, "no lifecycle action is waiting"),
        Err(error) => Handed::failed(&error),
    }
}

//! Keeps the claim alive, and finds out when it is lost.

use std::sync::Arc;

use lifeboat_snapshot::claim::ClaimError;
use tokio::sync::{Notify, oneshot};

use crate::hands::chain;
use crate::holding::SharedClaim;

/// Renews a claim until it is dropped.
#[derive(Debug)]
pub(crate) struct Renewal {
    task: tokio::task::JoinHandle<()>,
    now: Arc<Notify>,
}

impl Renewal {
    /// Starts renewing. The receiver gets the error once, when the work belongs to somebody else.
    pub(crate) fn start(claim: SharedClaim) -> (Self, oneshot::Receiver<ClaimError>) {
        let (lost, receiver) = oneshot::channel();
        let now = Arc::new(Notify::new());
        let task = tokio::spawn(renew(claim, Arc::clone(&now), lost));
        (Self { task, now }, receiver)
    }

    /// Asks the store at once: the machine slept, and the work may have been taken over.
    pub(crate) fn renew_now(&self) {
        self.now.notify_one();
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn renew(claim: SharedClaim, now: Arc<Notify>, lost: oneshot::Sender<ClaimError>) {
    let interval = claim.lock().await.renew_interval();
    let mut was_refused = false;
    loop {
        // A store that hangs must not hold the claim longer than until the next renewal is due.
        let renewed = tokio::time::timeout(interval, async { claim.lock().await.renew().await }).await;
        let refusal = match renewed {
            Ok(Ok(())) => None,
            Ok(Err(ClaimError::Ended { .. })) => return, // given up by this agent itself: nothing to renew
            Ok(Err(error @ ClaimError::Fenced { .. })) => {
                let _ = lost.send(error); // nobody listens: the run is over
                return;
            }
            Ok(Err(ClaimError::Store(error))) => Some(chain(&error)),
            Err(_) => Some("the store does not answer".to_owned()),
        };
        match (&refusal, was_refused) {
            (Some(error), false) => {
                tracing::warn!(
                    error,
                    "cannot renew the claim; after its lease another machine may take the work over"
                );
            }
            (None, true) => tracing::info!("the claim is renewed again"),
            (Some(_), true) | (None, false) => {}
        }
        was_refused = refusal.is_some();
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = now.notified() => {}
        }
    }
}

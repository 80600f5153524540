//! Copies what has changed while the workload runs, so that little is left to be saved at the notice.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_snapshot::claim::ClaimError;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hands::{Site, chain};
use crate::holding::SharedClaim;
use crate::hooks::{Occasion, Outcome};
use crate::metrics::Round;

/// Between two rounds after a rebalance recommendation, where no interval is configured: the notice may follow
/// within minutes, or never.
const AFTER_RECOMMENDATION: Duration = Duration::from_secs(30);

/// A round that takes longer has met a store that hangs; the next one goes on with what it had stored.
const ROUND_MAX: Duration = Duration::from_secs(60 * 60);

/// The rounds of a run; they end with this value.
#[derive(Debug)]
pub(crate) struct Precopy {
    task: tokio::task::JoinHandle<()>,
    now: Arc<Notify>,
}

impl Precopy {
    /// Starts the rounds, where they are configured or an interruption has become likely.
    pub(crate) fn start(site: &Arc<Site>, claim: &SharedClaim, is_likely: bool) -> Option<Self> {
        let configured = site.settings.precopy.map(lifeboat_core::time::Millis::to_duration);
        let interval = configured.or_else(|| is_likely.then_some(AFTER_RECOMMENDATION))?;
        let now = Arc::new(Notify::new());
        let task = tokio::spawn(rounds(Arc::clone(site), Arc::clone(claim), Arc::clone(&now), interval));
        Some(Self { task, now })
    }

    /// Does not wait for the interval.
    pub(crate) fn round_now(&self) {
        self.now.notify_one();
    }
}

impl Drop for Precopy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn rounds(site: Arc<Site>, claim: SharedClaim, now: Arc<Notify>, interval: Duration) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = now.notified() => {}
        }
        match tokio::time::timeout(ROUND_MAX, Box::pin(round(&site, &claim))).await {
            Ok(true) => {}
            // The renewal finds out too, and ends the run.
            Ok(false) => return,
            Err(_) => {
                site.meter.round(Round::Failed);
                tracing::warn!("a round of copying took too long and was broken off");
            }
        }
    }
}

/// One round. `false`: the work is not ours any more.
async fn round(site: &Site, claim: &SharedClaim) -> bool {
    let begun = Instant::now();
    let around = site.hooks.begin(Occasion::Round, None).await;
    if let Some(failure) = around.failure() {
        // The last recovery point was prepared as it should be: this one would take its place and was not.
        site.meter.round(Round::Failed);
        tracing::error!(failure, "nothing is copied in this round; it is tried again");
        return true;
    }
    let (is_ours, outcome) = copy(site, claim, begun).await;
    if outcome == Outcome::Failed {
        site.meter.round(Round::Failed);
    }
    around.end(outcome);
    is_ours
}

/// Copies what has changed and commits it. First whether the work is ours still.
async fn copy(site: &Site, claim: &SharedClaim, begun: Instant) -> (bool, Outcome) {
    let mut rounds = site.rounds.lock().await;
    let (id, point) = {
        let claim = claim.lock().await;
        (claim.id(), claim.point().cloned())
    };
    if let Some(point) = point.filter(|_| !rounds.has_base())
        && let Err(error) = rounds.go_on_from(&point.manifest).await
    {
        tracing::warn!(
            error = chain(&error),
            "the last recovery point cannot be read: everything is copied anew"
        );
    }
    let saved = match rounds.round(&id).await {
        Ok(saved) => saved,
        Err(error) => {
            tracing::warn!(error = chain(&error), "what has changed could not be copied; it is tried again");
            return (true, Outcome::Failed);
        }
    };
    site.meter.saved(saved.stored_bytes);
    if saved.is_new {
        match claim.lock().await.commit(saved.manifest.clone()).await {
            Ok(point) => tracing::info!(
                generation = point.seq,
                files = saved.files,
                stored = saved.stored_bytes,
                took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "copied what has changed"
            ),
            Err(ClaimError::Store(error)) => {
                tracing::warn!(
                    error = chain(&error),
                    "what was copied could not be committed; it is tried again"
                );
                return (true, Outcome::Failed);
            }
            Err(ClaimError::Fenced { .. } | ClaimError::Ended { .. }) => return (false, Outcome::Failed),
        }
    }
    site.meter.round(if saved.is_new { Round::Committed } else { Round::Unchanged });
    if !saved.is_new {
        tracing::debug!("nothing has changed since the last recovery point");
    }
    rounds.committed(&saved);
    if rounds.is_prune_due()
        && let Err(error) = rounds.prune(&id).await
    {
        tracing::warn!(error = chain(&error), "cannot prune old recovery points");
    }
    (true, Outcome::Committed)
}

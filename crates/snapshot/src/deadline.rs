//! Until when something must be finished, where "when" may move closer while it runs.

use tokio::sync::watch;
use tokio::time::Instant;

/// A deadline that its owner may tighten at any time. Loosening it has no effect on what is already running.
#[derive(Clone, Debug)]
pub struct Deadline(watch::Receiver<Option<Instant>>);

impl Deadline {
    /// Follows what the sender of `receiver` says; `None` there means "no deadline yet".
    #[must_use]
    pub const fn following(receiver: watch::Receiver<Option<Instant>>) -> Self {
        Self(receiver)
    }

    /// One fixed moment.
    #[must_use]
    pub fn at(moment: Instant) -> Self {
        Self(watch::channel(Some(moment)).1)
    }

    /// No deadline: retries are bounded by their number instead.
    #[must_use]
    pub fn none() -> Self {
        Self(watch::channel(None).1)
    }

    /// The moment as it stands now.
    #[must_use]
    pub fn current(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Waits until `reserve(deadline)` has come for the tightest deadline seen; for ever if there is none.
    pub(crate) async fn reached(&self, reserve: impl Fn(Instant) -> Instant) {
        let mut receiver = self.0.clone();
        let mut tightest: Option<Instant> = None;
        let mut is_followed = true;
        // Ends with the deadline; each round answers one change by the owner.
        loop {
            if let Some(moment) = *receiver.borrow_and_update() {
                tightest = Some(tightest.map_or(moment, |seen| seen.min(moment)));
            }
            let wait = async {
                match tightest {
                    Some(moment) => tokio::time::sleep_until(reserve(moment)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => return,
                changed = receiver.changed(), if is_followed => is_followed = changed.is_ok(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_only_ever_tightens_what_runs() {
        let start = Instant::now();
        let (sender, receiver) = watch::channel(Some(start + Duration::from_secs(60)));
        let deadline = Deadline::following(receiver);
        let waiting = tokio::spawn(async move { deadline.reached(|moment| moment).await });
        for seconds in [20, 90] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sender.send(Some(start + Duration::from_secs(seconds))).expect("the waiter listens");
        }
        drop(sender);
        waiting.await.expect("the waiter ends");
        assert_eq!(start.elapsed(), Duration::from_secs(20));
    }
}

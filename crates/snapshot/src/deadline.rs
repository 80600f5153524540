//! Until when something must be finished, where "when" may move closer while it runs.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// A deadline that its owner may tighten at any time. Loosening it has no effect on what is already running.
#[derive(Clone, Debug)]
pub struct Deadline {
    receiver: watch::Receiver<Option<Instant>>,
    /// So long before the moment that the owner says.
    early: Duration,
}

impl Deadline {
    /// Follows what the sender of `receiver` says; `None` there means "no deadline yet".
    #[must_use]
    pub const fn following(receiver: watch::Receiver<Option<Instant>>) -> Self {
        Self { receiver, early: Duration::ZERO }
    }

    /// One fixed moment.
    #[must_use]
    pub fn at(moment: Instant) -> Self {
        Self::following(watch::channel(Some(moment)).1)
    }

    /// No deadline: retries are bounded by their number instead.
    #[must_use]
    pub fn none() -> Self {
        Self::following(watch::channel(None).1)
    }

    /// The moment as it stands now.
    #[must_use]
    pub fn current(&self) -> Option<Instant> {
        self.receiver.borrow().map(|moment| moment.checked_sub(self.early).unwrap_or(moment))
    }

    /// The same deadline, so long before: what gives up then has time left to say what it gave up.
    #[must_use]
    pub fn earlier(&self, by: Duration) -> Self {
        Self { receiver: self.receiver.clone(), early: self.early + by }
    }

    /// Waits until it has come, as it stands by then; for ever if there is none.
    pub async fn passed(&self) {
        self.reached(|moment| moment).await;
    }

    /// Waits until `reserve(deadline)` has come for the tightest deadline seen; for ever if there is none.
    pub(crate) async fn reached(&self, reserve: impl Fn(Instant) -> Instant) {
        let (mut receiver, early) = (self.receiver.clone(), self.early);
        let mut tightest: Option<Instant> = None;
        let mut is_followed = true;
        // Ends with the deadline; each round answers one change by the owner.
        loop {
            if let Some(moment) = *receiver.borrow_and_update() {
                let moment = moment.checked_sub(early).unwrap_or(moment);
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

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_follows_the_one_it_is_before() {
        let start = Instant::now();
        let (sender, receiver) = watch::channel(Some(start + Duration::from_secs(60)));
        let deadline = Deadline::following(receiver).earlier(Duration::from_secs(2));
        assert_eq!(deadline.current(), Some(start + Duration::from_secs(58)));
        let waiting = tokio::spawn(async move { deadline.reached(|moment| moment).await });
        sender.send(Some(start + Duration::from_secs(20))).expect("the waiter listens");
        waiting.await.expect("the waiter ends");
        assert_eq!(start.elapsed(), Duration::from_secs(18));
    }
}

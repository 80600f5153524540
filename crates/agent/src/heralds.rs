//! Tells people and dashboards of an evacuation, beside it: no stage waits for them, and none of them for another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;

use crate::hands::chain;
use crate::metrics::{Meter, Trouble};
use crate::ports::{Herald, News};

/// One of them may take so long, its own retries included.
const TELLING: Duration = Duration::from_secs(10);

/// When the evacuation is over, those that are still being told are waited for so long. It comes out of the reserve.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Everyone who is told, and what has come of it.
#[derive(Debug)]
pub(crate) struct Heralds {
    all: Vec<Arc<dyn Herald>>,
    under_way: AsyncMutex<JoinSet<()>>,
    failed: Arc<Mutex<Vec<String>>>,
    meter: Arc<Meter>,
}

impl Heralds {
    pub(crate) fn new(all: Vec<Arc<dyn Herald>>, meter: Arc<Meter>) -> Self {
        Self { all, under_way: AsyncMutex::default(), failed: Arc::default(), meter }
    }

    /// Begins to tell everyone, and waits for nobody.
    pub(crate) fn tell(&self, news: &News) {
        // Held elsewhere only by `settle`, after which there is nothing to tell.
        let Ok(mut under_way) = self.under_way.try_lock() else { return };
        for herald in &self.all {
            let (herald, news, failed) = (Arc::clone(herald), news.clone(), Arc::clone(&self.failed));
            let meter = Arc::clone(&self.meter);
            under_way.spawn(async move {
                let told = tokio::time::timeout(TELLING, herald.tell(&news, TELLING)).await;
                let why = match told {
                    Ok(Ok(())) => return tracing::debug!(herald = herald.name(), "told"),
                    Ok(Err(error)) => chain(&error),
                    Err(_) => format!("no answer within {} ms", TELLING.as_millis()),
                };
                tracing::error!(herald = herald.name(), why, "was not told of the evacuation");
                meter.trouble(Trouble::NotTold);
                let text = format!("{}: {why}", herald.name());
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            });
        }
    }

    /// Waits a moment for those that are still being told.
    pub(crate) async fn settle(&self) {
        let mut under_way = self.under_way.lock().await;
        let all = async { while under_way.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            let left = under_way.len();
            under_way.abort_all();
            for _ in 0..left {
                self.meter.trouble(Trouble::NotTold);
            }
            tracing::error!(left, "not everyone was told of the evacuation: no time is left");
            let text = format!("{left} had not answered when the time was over");
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }

    /// Who was not told, and why.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::PortError;
    use async_trait::async_trait;
    use lifeboat_core::notice::{Action, Interruption, Notice, Source};
    use lifeboat_core::time::Timestamp;

    #[derive(Debug)]
    struct Told(&'static str, Option<Duration>, Arc<Mutex<Vec<&'static str>>>);

    #[async_trait]
    impl Herald for Told {
        fn name(&self) -> String {
            self.0.to_owned()
        }

        async fn tell(&self, _: &News, _: Duration) -> Result<(), PortError> {
            let Some(wait) = self.1 else { return Err(PortError::Denied("sns:Publish".to_owned())) };
            tokio::time::sleep(wait).await;
            self.2.lock().expect("unharmed").push(self.0);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_or_fails_keeps_nobody_from_being_told_and_is_named() {
        let told = Arc::default();
        let herald = |name, wait| -> Arc<dyn Herald> { Arc::new(Told(name, wait, Arc::clone(&told))) };
        let seconds = |count| Some(Duration::from_secs(count));
        let heralds = Heralds::new(
            vec![herald("hanging", seconds(3_600)), herald("refusing", None), herald("quick", seconds(0))],
            Arc::new(Meter::new(&"w".parse().expect("a name"))),
        );
        let notice =
            Notice { source: Source::Sigterm, action: Action::Terminate, key: None, deadline: Timestamp(0) };
        heralds.tell(&News::Begun {
            workload: "w".to_owned(),
            instance: "i".to_owned(),
            interruption: Interruption::begin(notice, Timestamp(0)),
        });
        let begun = tokio::time::Instant::now();
        heralds.settle().await;
        assert_eq!(begun.elapsed(), LAST_WORDS);
        assert_eq!(*told.lock().expect("unharmed"), ["quick"]);
        let failed = heralds.failed().join("; ");
        assert!(
            failed.contains("refusing: not allowed: sns:Publish") && failed.contains("1 had not"),
            "{failed}"
        );
    }
}

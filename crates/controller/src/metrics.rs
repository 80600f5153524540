//! The numbers of B8, each with the one dimension `Service`, to CloudWatch; the same and the controller's own totals to
//! Prometheus, on loopback.
//!
//! An alarm must name the same dimension: to CloudWatch a metric without it is another one. No label has unbounded
//! values: services are configured, tasks and events are never named.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::routing::get;
use lifeboat_core::time::{Millis, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::call::{tried, within};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::directory::Directory;
use crate::port::{Datum, Metrics};
use crate::snapshot::Snapshot;
use crate::store::{Meter, Store};

/// Source: CloudWatch API, PutMetricData: at most 1,000 metrics a call; read 2023.
const A_CALL: usize = 1_000;

/// Tries of one call, and its time.
const TRIES: u32 = 3;
const CALL_MAX: Duration = Duration::from_secs(10);

/// What was saved is read and stored within so much real time for all services together, so many at once.
const STORE_MAX: Duration = Duration::from_secs(5);
const STORE_CALLS: usize = 16;

/// Savings are counted over at most so much time that nobody watched.
const UNWATCHED_MAX: Millis = Millis::from_secs(300);

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: u64 = 3_600_000;

/// Publishes at intervals.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) metrics: Option<Arc<dyn Metrics>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directory: watch::Receiver<Arc<Directory>>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) every: Millis,
    /// Millionths of a dollar.
    pub(crate) saving_per_task_hour: u64,
}

impl Publisher {
    /// Publishes until it is stopped.
    pub(crate) async fn run(self) {
        let mut ticks =
            tokio::time::interval(self.clock.real_time(self.every).max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await; // the first comes at once, before anything is known
        loop {
            ticks.tick().await;
            self.publish().await;
        }
    }

    async fn publish(&self) {
        let now = self.clock.now();
        let directory = Arc::clone(&self.directory.borrow());
        let known: Vec<(&String, Snapshot)> = directory
            .members()
            .map(|(name, member)| (name, *member.snapshot.borrow()))
            .filter(|(_, snapshot)| snapshot.generation.is_some())
            .collect();
        // A store that is away costs what was saved meanwhile, and no other metric.
        let until = Instant::now() + STORE_MAX;
        let mut data = Vec::new();
        for some in known.chunks(STORE_CALLS) {
            let saved = some.iter().map(|(name, snapshot)| self.saved(name, now, snapshot, until));
            let saved = futures_util::future::join_all(saved).await;
            data.extend(
                some.iter().zip(saved).flat_map(|((name, snapshot), saved)| of(name, snapshot, saved)),
            );
        }
        let Some(metrics) = &self.metrics else { return };
        for chunk in data.chunks(A_CALL) {
            let send = || within(CALL_MAX, metrics.publish(chunk));
            if let Err(error) = tried(TRIES, 0, send).await {
                self.counters.metrics_failed.one();
                tracing::warn!(%error, "metrics were not published");
            }
        }
    }

    async fn saved(&self, name: &str, now: Timestamp, snapshot: &Snapshot, until: Instant) -> Option<f64> {
        if self.saving_per_task_hour == 0 {
            return None;
        }
        tokio::time::timeout_at(until, self.count(name, now, snapshot)).await.unwrap_or(None)
    }

    /// Counts on what Spot has saved today; in dollars. None where the store does not tell.
    async fn count(&self, name: &str, now: Timestamp, snapshot: &Snapshot) -> Option<f64> {
        let before = self.store.meter(name).await.ok()?;
        let next = counted(before, now, snapshot.spot.serving(), self.saving_per_task_hour);
        // Another controller was faster: what it counted is as good.
        self.store.set_meter(name, before, next).await.ok()?;
        #[expect(clippy::cast_precision_loss, reason = "a day's dollars need no 53 bits")]
        Some(next.saved_micros as f64 / 1e6)
    }
}

/// The meter at `now`, with so many Spot tasks since it was last counted.
fn counted(before: Option<Meter>, now: Timestamp, tasks: u32, saving_per_task_hour: u64) -> Meter {
    let day = now.0.div_euclid(DAY_MS);
    let before = before.unwrap_or(Meter { day, saved_micros: 0, until: now });
    let midnight = Timestamp(day * DAY_MS);
    let from = if before.day == day { before.until } else { before.until.max(midnight) };
    let span = now.since(from).0.min(UNWATCHED_MAX.0);
    let saved = span.saturating_mul(u64::from(tasks)).saturating_mul(saving_per_task_hour) / HOUR_MS;
    let kept = if before.day == day { before.saved_micros } else { 0 };
    Meter { day, saved_micros: kept + saved, until: before.until.max(now) }
}

/// The metrics of one service.
fn of(service: &str, snapshot: &Snapshot, saved: Option<f64>) -> Vec<Datum> {
    let datum = |metric, value, unit| Datum { metric, service: service.to_owned(), value, unit };
    let mut data = vec![
        datum("SpotHealthScore", f64::from(snapshot.health()), "None"),
        datum("FailoverActive", f64::from(u8::from(snapshot.is_failed_over())), "None"),
        datum("ErrorCount5min", f64::from(snapshot.window.errors()), "Count"),
        datum("FailoverCount", f64::from(snapshot.failovers), "Count"),
        datum("SpotReady", f64::from(snapshot.spot.ready), "Count"),
        datum("OnDemandReady", f64::from(snapshot.on_demand.ready), "Count"),
    ];
    data.extend(saved.map(|saved| datum("CostSavingsToday", saved, "None")));
    data
}

/// Serves Prometheus until it is stopped.
pub(crate) async fn serve(
    listener: TcpListener,
    directory: watch::Receiver<Arc<Directory>>,
    counters: Arc<Counters>,
) {
    let routes = axum::Router::new().route("/metrics", get(text)).with_state((directory, counters));
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::warn!(%error, "metrics are no longer served");
    }
}

type Served = (watch::Receiver<Arc<Directory>>, Arc<Counters>);

async fn text(Shared((directory, counters)): Shared<Served>) -> String {
    let directory = Arc::clone(&directory.borrow());
    let mut text = counters.prometheus();
    let names = [
        (
            "SpotHealthScore",
            "lifeboat_spot_health_score",
            "100 - 10 errors - 5 pending + 2 successes, 0 to 100",
        ),
        ("FailoverActive", "lifeboat_failover_active", "1 while On-Demand is asked for"),
        ("ErrorCount5min", "lifeboat_errors_5min", "Refused launches and interruptions in the window"),
        ("FailoverCount", "lifeboat_failovers_today", "Failovers since midnight, UTC"),
        ("SpotReady", "lifeboat_spot_ready", "Ready Spot tasks that nobody warned"),
        ("OnDemandReady", "lifeboat_on_demand_ready", "Ready On-Demand tasks"),
    ];
    for (metric, name, help) in names {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge"); // a String takes everything
        for (service, member) in directory.members() {
            let data = of(service, &member.snapshot.borrow(), None);
            if let Some(datum) = data.iter().find(|datum| datum.metric == metric) {
                let label = service.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = writeln!(text, "{name}{{service=\"{label}\"}} {}", datum.value);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MORNING: Timestamp = Timestamp(20_514 * DAY_MS + 3_600_000);

    #[test]
    fn savings_are_counted_once_and_begin_anew_each_day() {
        let first = counted(None, MORNING, 10, 1_000_000);
        assert_eq!(first.saved_micros, 0, "nobody knows what was before");
        let minute = MORNING + Millis::from_secs(60);
        let second = counted(Some(first), minute, 6, 1_000_000);
        assert_eq!(second.saved_micros, 100_000, "6 tasks, a minute, a dollar an hour each");
        assert_eq!(counted(Some(second), minute, 6, 1_000_000), second, "twice equals once");
        let later = counted(Some(second), minute + Millis::from_secs(7_200), 6, 1_000_000);
        assert_eq!(later.saved_micros, 100_000 + 500_000, "of two hours that nobody watched five minutes");
        let tomorrow = Timestamp((20_514 + 1) * DAY_MS + 30_000);
        let new = counted(Some(later), tomorrow, 6, 1_000_000);
        assert_eq!((new.day, new.saved_micros), (20_515, 50_000), "half a minute since midnight");
    }
}

//! Telling people: a bounded queue before topics that may be slow or away. An alert is tried a few times and then
//! given up: the history has it in any case.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_core::failover::machine::Alert;
use lifeboat_core::failover::phase::Phase;
use tokio::sync::mpsc;

use crate::call::{tried, within};
use crate::counters::Counters;
use crate::key::key;
use crate::port::{Alerts, CallError};

/// Alerts that may wait. More is a storm that a person knows of by then.
const WAITING_MAX: usize = 256;

/// Tries of one alert on one topic: some 15 s in all.
const TRIES: u32 = 6;

/// One try, in real time.
const SEND_MAX: Duration = Duration::from_secs(10);

/// What a person is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// One line.
    pub subject: String,
    /// A few lines.
    pub text: String,
}

/// Takes alerts and never waits. Each topic has a queue of its own: one that is away does not keep another from its
/// alerts.
#[derive(Clone, Debug)]
pub(crate) struct AlertQueue {
    senders: Vec<mpsc::Sender<Told>>,
    counters: Arc<Counters>,
}

impl AlertQueue {
    /// The queue, and for each of `topics` the other end for [`deliver`].
    pub(crate) fn new(topics: usize, counters: Arc<Counters>) -> (Self, Vec<mpsc::Receiver<Told>>) {
        let (senders, receivers) = (0..topics).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        (Self { senders, counters }, receivers)
    }

    pub(crate) fn tell(&self, told: Told) {
        for sender in &self.senders {
            if sender.try_send(told.clone()).is_err() {
                self.counters.alerts_lost.one();
                tracing::error!(subject = told.subject, "an alert was lost: too many wait");
            }
        }
    }
}

/// Delivers alerts to one topic until nobody sends any more.
pub(crate) async fn deliver(
    mut waiting: mpsc::Receiver<Told>,
    topic: Arc<dyn Alerts>,
    counters: Arc<Counters>,
) {
    while let Some(told) = waiting.recv().await {
        let send = || within(SEND_MAX, topic.send(&told.subject, &told.text));
        match tried(TRIES, key(topic.name()), send).await {
            Ok(()) => counters.alerts_sent.one(),
            Err(error) => {
                counters.alerts_lost.one();
                tracing::error!(topic = topic.name(), subject = told.subject, %error, "an alert was lost");
            }
        }
    }
}

/// The alert of a change of phase.
#[must_use]
pub fn of_change(service: &str, alert: &Alert) -> Told {
    let what = match alert.to {
        Phase::Degraded => "On-Demand does not start: a person must look",
        Phase::ShiftingToOnDemand => "fails over to On-Demand",
        Phase::OnDemand => "runs On-Demand what Spot is missing",
        Phase::ShiftingToSpot => "returns to Spot",
        Phase::Spot => "is back on Spot",
    };
    Told {
        subject: format!("Lifeboat: {service} {what}"),
        text: format!(
            "{service} {what}.\nreason: {}\nfrom {} to {}, after {}\ntold to run: {} on Spot, {} On-Demand\n",
            alert.reason, alert.from, alert.to, alert.lasted, alert.split.spot, alert.split.on_demand
        ),
    }
}

/// A Slack webhook. Its URL is a secret and appears in no log.
pub struct Slack {
    url: String,
    client: reqwest::Client,
}

impl std::fmt::Debug for Slack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slack")
    }
}

impl Slack {
    /// Posts to `url`.
    ///
    /// # Errors
    /// [`CallError::Refused`] when it is no HTTP URL or TLS cannot be set up.
    pub fn new(url: &str) -> Result<Self, CallError> {
        if !url.starts_with("https://") && !url.starts_with("http://127.0.0.1:") {
            return Err(CallError::Refused("the Slack webhook is no https:// URL".to_owned()));
        }
        let _ = rustls::crypto::ring::default_provider().install_default(); // another part may have done so
        let client = reqwest::Client::builder()
            .timeout(SEND_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| CallError::Refused(error.without_url().to_string()))?;
        Ok(Self { url: url.to_owned(), client })
    }
}

#[async_trait]
impl Alerts for Slack {
    fn name(&self) -> &'static str {
        "Slack"
    }

    async fn send(&self, subject: &str, text: &str) -> Result<(), CallError> {
        let body = serde_json::json!({ "text": format!("*{subject}*\n{text}") }).to_string();
        let request = self.client.post(&self.url).header("content-type", "application/json").body(body);
        let answer =
            request.send().await.map_err(|error| CallError::Unavailable(error.without_url().to_string()))?;
        let status = answer.status();
        match status.as_u16() {
            200..=299 => Ok(()),
            429 => Err(CallError::Throttled(status.to_string())),
            500.. => Err(CallError::Unavailable(status.to_string())),
            _ => Err(CallError::Refused(status.to_string())),
        }
    }
}

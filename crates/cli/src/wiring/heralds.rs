//! Who is told of an evacuation: SNS topics, webhooks, CloudWatch.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use lifeboat_agent::cloud::Cloud;
use lifeboat_agent::ports::{Herald, News, PortError};
use lifeboat_aws::Aws;
use lifeboat_aws::cloudwatch::{CloudWatch, Metric, Unit};
use lifeboat_aws::sns::Sns;
use lifeboat_core::backoff::Backoff;
use lifeboat_core::evacuation::Verdict;
use lifeboat_core::notice::{Interruption, Source};
use lifeboat_core::time::Millis;
use tokio::time::Instant;

use super::aws::port_error;

/// Said at the start, where nothing else is configured.
const START: &str = "Interruption of {workload} on {instance}: {action} announced by {sources}, until {deadline}. \
                     Evacuating.";

/// Said at the end.
const END: &str = "Evacuation of {workload} on {instance} is {verdict} after {took}.\n\n{table}";

/// What the templates may name.
const NAMES: [&str; 8] =
    ["workload", "instance", "action", "sources", "deadline", "verdict", "took", "table"];

/// Tries of a webhook; Slack and its like ask for patience with 429.
const TRIES: u32 = 3;

/// Between the first two of them at most so long, then twice as long.
const PAUSE: Millis = Millis(500);

/// Everyone whom the configuration names.
pub(super) fn all(cloud: &Cloud, aws: &Aws) -> anyhow::Result<Vec<Arc<dyn Herald>>> {
    let alerts = &cloud.alerts;
    let words = Words {
        start: alerts.start.clone().unwrap_or_else(|| START.to_owned()),
        end: alerts.end.clone().unwrap_or_else(|| END.to_owned()),
    };
    words.check()?;
    let mut all: Vec<Arc<dyn Herald>> = Vec::new();
    let critical = &alerts.critical;
    if alerts.sns.is_some() || critical.sns.is_some() {
        let topics = Channels { usual: alerts.sns.clone(), critical: critical.sns.clone() };
        all.push(Arc::new(Topic { aws: aws.sns(), topics, words: words.clone() }));
    }
    if alerts.webhook_env.is_some() || critical.webhook_env.is_some() {
        let read = |name: &Option<String>| name.as_deref().map(webhook);
        let hooks = Channels { usual: read(&alerts.webhook_env), critical: read(&critical.webhook_env) };
        all.push(Arc::new(Webhook { client: http_client()?, hooks, words }));
    }
    if let Some(namespace) = &cloud.metrics.namespace {
        all.push(Arc::new(Metrics { aws: aws.cloudwatch(), namespace: namespace.clone() }));
    }
    Ok(all)
}

/// Where something goes: an incomplete evacuation to `critical` where there is one, everything else to `usual`.
#[derive(Debug)]
struct Channels<T> {
    usual: Option<T>,
    critical: Option<T>,
}

impl<T> Channels<T> {
    fn of(&self, news: &News) -> Option<&T> {
        match news {
            News::Ended(summary) if summary.verdict == Verdict::Incomplete => {
                self.critical.as_ref().or(self.usual.as_ref())
            }
            News::Begun { .. } | News::Ended(_) => self.usual.as_ref(),
        }
    }
}

/// The templates.
#[derive(Clone, Debug)]
struct Words {
    start: String,
    end: String,
}

impl Words {
    /// A name that does not exist would be sent as it is written.
    fn check(&self) -> anyhow::Result<()> {
        for (key, template) in [("alerts.start", &self.start), ("alerts.end", &self.end)] {
            for part in template.split('{').skip(1) {
                let name = part.split('}').next().unwrap_or_default();
                if !NAMES.contains(&name) {
                    bail!("`{key}` names `{{{name}}}`, which does not exist; there are {}", NAMES.join(", "));
                }
            }
        }
        Ok(())
    }

    /// Subject and text.
    fn say(&self, news: &News) -> (String, String) {
        let (template, interruption, mut values) = match news {
            News::Begun { workload, instance, interruption } => (
                &self.start,
                interruption,
                vec![("workload", workload.clone()), ("instance", instance.clone())],
            ),
            News::Ended(summary) => {
                let values = vec![
                    ("workload", summary.workload.clone()),
                    ("instance", summary.instance.clone()),
                    ("verdict", verdict(summary.verdict).to_owned()),
                    ("took", Millis(summary.took_ms).to_string()),
                ];
                (&self.end, &summary.interruption, values)
            }
        };
        values.extend(of_interruption(interruption));
        if let News::Ended(summary) = news {
            // Last: what it holds is not filled in.
            values.push(("table", summary.table()));
        }
        let mut text = template.clone();
        for (name, value) in &values {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        let what = match news {
            News::Begun { .. } => "interruption",
            News::Ended(summary) => match summary.verdict {
                Verdict::Complete => "evacuated",
                Verdict::Incomplete => "evacuation INCOMPLETE",
            },
        };
        (format!("Lifeboat: {what}: {}", values[0].1), text)
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Complete => "complete",
        Verdict::Incomplete => "INCOMPLETE",
    }
}

fn of_interruption(interruption: &Interruption) -> [(&'static str, String); 3] {
    let sources: Vec<String> = interruption.sources.iter().map(ToString::to_string).collect();
    [
        ("action", interruption.action.to_string()),
        ("sources", sources.join(", ")),
        ("deadline", lifeboat_agent::clock::rfc3339(interruption.deadline)),
    ]
}

/// SNS.
#[derive(Debug)]
struct Topic {
    aws: Sns,
    topics: Channels<String>,
    words: Words,
}

#[async_trait]
impl Herald for Topic {
    fn name(&self) -> String {
        "alerts by SNS".to_owned()
    }

    async fn tell(&self, news: &News, within: Duration) -> Result<(), PortError> {
        let Some(topic) = self.topics.of(news) else { return Ok(()) };
        let (subject, text) = self.words.say(news);
        let sent = self.aws.publish(topic, &subject, &text, within).await;
        sent.map(drop).map_err(|error| port_error(&error))
    }
}

/// CloudWatch. One dimension, the workload: an alarm can name it, and machines that come and go add none.
#[derive(Debug)]
struct Metrics {
    aws: CloudWatch,
    namespace: String,
}

#[async_trait]
impl Herald for Metrics {
    fn name(&self) -> String {
        format!("metrics in {}", self.namespace)
    }

    async fn tell(&self, news: &News, within: Duration) -> Result<(), PortError> {
        let (workload, values) = values(news);
        let metrics: Vec<Metric> = values
            .into_iter()
            .map(|(name, unit, value)| Metric {
                name: name.to_owned(),
                dimensions: vec![("Workload".to_owned(), workload.to_owned())],
                unit,
                value,
                at_ms: None,
            })
            .collect();
        self.aws.put(&self.namespace, &metrics, within).await.map_err(|error| port_error(&error))
    }
}

/// Whose metrics, and which. Of Spot interruptions as many are handled as were announced: an evacuation that somebody
/// asked for, or that a failure brought about, is an evacuation and no interruption.
fn values(news: &News) -> (&str, Vec<(&'static str, Unit, f64)>) {
    let of_spot = |source: &Source| matches!(source, Source::InstanceAction | Source::TerminationTime);
    let is_spot = |interruption: &Interruption| interruption.sources.iter().any(of_spot);
    match news {
        News::Begun { workload, interruption, .. } => {
            let values =
                if is_spot(interruption) { vec![("SpotInterruption", Unit::Count, 1.0)] } else { Vec::new() };
            (workload, values)
        }
        News::Ended(summary) => {
            let is_complete = summary.verdict == Verdict::Complete;
            let success = if is_complete { "DataEvacuationSuccess" } else { "DataEvacuationFailure" };
            let took = Duration::from_millis(summary.took_ms).as_secs_f64() * 1_000.0;
            let mut values = vec![(success, Unit::Count, 1.0), ("EvacuationTime", Unit::Milliseconds, took)];
            if is_spot(&summary.interruption) {
                values.push(("SpotInterruptionHandled", Unit::Count, 1.0));
                // Somebody else's announcement began it: this one was not counted then.
                if !summary.interruption.sources.first().is_some_and(of_spot) {
                    values.push(("SpotInterruption", Unit::Count, 1.0));
                }
            }
            (&summary.workload, values)
        }
    }
}

/// The address of a webhook, which is a secret.
#[derive(Clone)]
pub(super) struct Address(reqwest::Url);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(..)")
    }
}

/// What is wrong is said when somebody is to be told: it must not keep an evacuation from its work.
pub(super) fn webhook(variable: &str) -> Result<Address, String> {
    let text = std::env::var(variable).map_err(|_| {
        format!("the environment variable {variable}, which is to hold its address, is not set")
    })?;
    // The error of the parser would repeat the text.
    let url = reqwest::Url::parse(text.trim());
    url.map(Address).map_err(|_| format!("the environment variable {variable} holds no address"))
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    // A process has one TLS implementation; whoever came first has chosen it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(1))
        .build()
        .context("no client for webhooks can be made")
}

/// A Slack-compatible webhook: a JSON object with `text`.
#[derive(Debug)]
struct Webhook {
    client: reqwest::Client,
    hooks: Channels<Result<Address, String>>,
    words: Words,
}

#[async_trait]
impl Herald for Webhook {
    fn name(&self) -> String {
        "alerts by webhook".to_owned()
    }

    async fn tell(&self, news: &News, within: Duration) -> Result<(), PortError> {
        let url = match self.hooks.of(news) {
            None => return Ok(()),
            Some(Ok(Address(url))) => url,
            Some(Err(why)) => return Err(PortError::Denied(why.clone())),
        };
        let until = Instant::now() + within;
        let (_, text) = self.words.say(news);
        let body = serde_json::json!({ "text": text }).to_string();
        let mut tried = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let request = self.client.post(url.clone()).header("content-type", "application/json");
            let sent = request.body(body.clone()).timeout(left).send().await;
            tried += 1;
            let error = match sent {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => match answer.status().as_u16() {
                    429 => PortError::Throttled("HTTP 429".to_owned()),
                    status @ (401 | 403) => return Err(PortError::Denied(format!("HTTP {status}"))),
                    status @ 400..500 => return Err(PortError::Refused(format!("HTTP {status}"))),
                    status => PortError::Unavailable(format!("HTTP {status}")),
                },
                // Without its address, which is a secret.
                Err(error) => PortError::Unavailable(error.without_url().to_string()),
            };
            // Machines that are interrupted together ask apart.
            let backoff =
                Backoff { first: PAUSE, longest: Millis(PAUSE.0 * 4), seed: u64::from(std::process::id()) };
            let pause = backoff.wait(tried - 1).to_duration();
            if tried == TRIES || Instant::now() + pause >= until {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_agent::Summary;
    use lifeboat_core::notice::{Action, Notice};
    use lifeboat_core::time::Timestamp;

    fn interruption(sources: &[Source]) -> Interruption {
        let notice =
            Notice { source: sources[0], action: Action::Terminate, key: None, deadline: Timestamp(0) };
        Interruption { sources: sources.to_vec(), ..Interruption::begin(notice, Timestamp(0)) }
    }

    fn ended(sources: &[Source], verdict: Verdict) -> News {
        News::Ended(Box::new(Summary {
            workload: "w".to_owned(),
            instance: "i-1".to_owned(),
            verdict,
            interruption: interruption(sources),
            deadline: String::new(),
            took_ms: 1_500,
            remaining_ms: 0,
            stages: Vec::new(),
            snapshot: None,
            not_told: Vec::new(),
        }))
    }

    #[test]
    fn as_many_interruptions_are_handled_as_were_announced_and_only_those_of_spot_count() {
        let names = |news: &News| values(news).1.into_iter().map(|value| value.0).collect::<Vec<_>>();
        let begun = |source| News::Begun {
            workload: "w".to_owned(),
            instance: "i-1".to_owned(),
            interruption: interruption(&[source]),
        };
        let (spot, hand) = (Source::InstanceAction, Source::Operator);
        assert_eq!(names(&begun(spot)), ["SpotInterruption"]);
        assert_eq!(names(&begun(hand)), Vec::<&str>::new());
        let plain = ["DataEvacuationSuccess", "EvacuationTime"];
        assert_eq!(names(&ended(&[hand], Verdict::Complete)), plain);
        let [success, time] = plain;
        assert_eq!(names(&ended(&[spot], Verdict::Complete)), [success, time, "SpotInterruptionHandled"]);
        let late = names(&ended(&[Source::Sigterm, spot], Verdict::Incomplete));
        assert_eq!(late, ["DataEvacuationFailure", time, "SpotInterruptionHandled", "SpotInterruption"]);
        assert_eq!(
            values(&ended(&[spot], Verdict::Complete)).0,
            "w",
            "whose: the workload's, never an instance's"
        );
    }

    #[tokio::test]
    async fn a_webhook_that_cannot_be_reached_is_told_without_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/services/SECRET", listener.local_addr().expect("bound"));
        drop(listener);
        let url = Address(reqwest::Url::parse(&address).expect("an address"));
        let words = Words { start: START.to_owned(), end: END.to_owned() };
        let hooks = Channels { usual: Some(Ok(url)), critical: None };
        let webhook = Webhook { client: http_client().expect("a client"), hooks, words };
        let told = webhook.tell(&ended(&[Source::Sigterm], Verdict::Complete), Duration::from_secs(20)).await;
        let said = format!("{} {webhook:?}", told.expect_err("nobody listens"));
        assert!(!said.contains("SECRET") && !said.contains("127.0.0.1"), "{said}");
    }

    #[test]
    fn templates_are_filled_and_names_that_do_not_exist_are_told() {
        let notice = Notice {
            source: Source::InstanceAction,
            action: Action::Terminate,
            key: None,
            deadline: Timestamp(0),
        };
        let news = News::Begun {
            workload: "w".to_owned(),
            instance: "i-1".to_owned(),
            interruption: Interruption::begin(notice, Timestamp(0)),
        };
        let words =
            Words { start: "{workload}/{instance}: {action} by {sources}".to_owned(), end: END.to_owned() };
        words.check().expect("known names");
        let said = words.say(&news);
        assert_eq!(said.1, "w/i-1: terminate by instance-action");
        assert_eq!(said.0, "Lifeboat: interruption: w");
        let wrong = Words { start: "{worklaod}".to_owned(), ..words };
        let error = wrong.check().expect_err("no such name").to_string();
        assert!(error.contains("{worklaod}") && error.contains("workload"), "{error}");
    }
}

//! What this agent counts of its own doing, and serves to Prometheus over HTTP.
//!
//! It lives as long as the agent: an agent that was evacuated ends, and with it what it counted. What must outlive it
//! goes to CloudWatch (`[metrics] namespace`) and into the summary.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifeboat_core::evacuation::Verdict;
use lifeboat_core::evacuation::reason::Reason;
use lifeboat_core::evacuation::stage::Outcome;
use lifeboat_core::notice::Source;
use lifeboat_snapshot::WorkloadName;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::summary::Summary;

/// Upper ends of buckets, seconds: from a stage that only writes a file to the two minutes of a notice.
const BUCKETS: [f64; 13] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 45.0, 90.0, 120.0];

/// Source: the OpenMetrics specification, version 1.0, "Content type".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at once; more are closed at once. The agent's descriptors are for the evacuation, and nobody is asked who
/// they are here.
const CONNECTIONS_MAX: usize = 16;

/// From the connection to the end of its answer; a scrape takes milliseconds.
const CONNECTION_WAIT: Duration = Duration::from_secs(10);

/// What came of a round of copying.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Round {
    /// A new recovery point.
    Committed,
    /// There was nothing new.
    Unchanged,
    /// Nothing was committed.
    Failed,
}

/// Whatever goes wrong beside the stages, whose outcomes have a metric of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// Somebody was not told.
    NotTold,
    /// A round of copying failed.
    Round,
}

/// Every label has a handful of values, which are known beforehand.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BySource {
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByVerdict {
    verdict: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStage {
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStageAndOutcome {
    stage: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    of: &'static str,
}

/// Totals and times since the start of the agent.
#[derive(Debug)]
pub(crate) struct Meter {
    registry: Registry,
    notices: Family<BySource, Counter>,
    evacuating: Gauge,
    evacuations: Family<ByVerdict, Histogram>,
    stages: Family<ByStage, Histogram>,
    stage_ends: Family<ByStageAndOutcome, Counter>,
    rounds: Family<ByOutcome, Counter>,
    saved_bytes: Counter,
    errors: Family<Of, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Meter {
    /// A workload's name has nothing that would have to be escaped; the library escapes nothing.
    pub(crate) fn new(workload: &WorkloadName) -> Self {
        let label = ("workload".into(), workload.to_string().into());
        let mut registry = Registry::with_prefix_and_labels("lifeboat_agent", [label].into_iter());
        let meter = Self {
            registry: Registry::default(),
            notices: Family::default(),
            evacuating: Gauge::default(),
            evacuations: Family::new_with_constructor(seconds),
            stages: Family::new_with_constructor(seconds),
            stage_ends: Family::default(),
            rounds: Family::default(),
            saved_bytes: Counter::default(),
            errors: Family::default(),
        };
        registry.register("notices", "Sightings of a notice that counted", meter.notices.clone());
        registry.register("evacuating", "1 while an evacuation runs", meter.evacuating.clone());
        registry.register(
            "evacuation_seconds",
            "From the first notice to the end of the last stage",
            meter.evacuations.clone(),
        );
        registry.register("stage_seconds", "How long a stage ran", meter.stages.clone());
        registry.register("stage_ends", "How stages ended", meter.stage_ends.clone());
        registry.register("rounds", "Rounds of copying what has changed", meter.rounds.clone());
        registry.register("saved_bytes", "Bytes sent to the store", meter.saved_bytes.clone());
        registry.register("errors", "What went wrong", meter.errors.clone());
        // What has not happened yet is there, as 0: an alarm on its rate needs a beginning.
        for source in SOURCES {
            let _ = meter.notices.get_or_create(&BySource { source: source_name(source) }); // made
        }
        for verdict in ["complete", "incomplete"] {
            let _ = meter.evacuations.get_or_create(&ByVerdict { verdict }); // made
        }
        for of in ["stage", "round", "not_told"] {
            let _ = meter.errors.get_or_create(&Of { of }); // made
        }
        for outcome in ["committed", "unchanged", "failed"] {
            let _ = meter.rounds.get_or_create(&ByOutcome { outcome }); // made
        }
        Self { registry, ..meter }
    }

    /// A turn of the machine: what of it was a notice.
    pub(crate) fn turned(&self, reason: &Reason) {
        let source = match reason {
            Reason::Began { source, .. } => {
                self.evacuating.set(1);
                *source
            }
            Reason::Merged { source }
            | Reason::Tightened { source, .. }
            | Reason::Escalated { source, .. } => *source,
            Reason::AlreadyHandled { .. }
            | Reason::StageEnded { .. }
            | Reason::ReportIgnored { .. }
            | Reason::StageTimedOut { .. }
            | Reason::Resumed
            | Reason::Survived
            | Reason::NothingDue => return,
        };
        self.notices.get_or_create(&BySource { source: source_name(source) }).inc();
    }

    /// An evacuation is over.
    pub(crate) fn ended(&self, summary: &Summary) {
        self.evacuating.set(0);
        let verdict = match summary.verdict {
            Verdict::Complete => "complete",
            Verdict::Incomplete => "incomplete",
        };
        let in_seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
        self.evacuations.get_or_create(&ByVerdict { verdict }).observe(in_seconds(summary.took_ms));
        for line in &summary.stages {
            let stage = line.stage.to_string();
            let (outcome, has_run, is_error) = outcome_of(line.outcome);
            self.stage_ends.get_or_create(&ByStageAndOutcome { stage: stage.clone(), outcome }).inc();
            if has_run {
                self.stages.get_or_create(&ByStage { stage }).observe(in_seconds(line.took_ms));
            }
            if is_error {
                self.errors.get_or_create(&Of { of: "stage" }).inc();
            }
        }
    }

    pub(crate) fn round(&self, round: Round) {
        let outcome = match round {
            Round::Committed => "committed",
            Round::Unchanged => "unchanged",
            Round::Failed => {
                self.trouble(Trouble::Round);
                "failed"
            }
        };
        self.rounds.get_or_create(&ByOutcome { outcome }).inc();
    }

    pub(crate) fn saved(&self, bytes: u64) {
        self.saved_bytes.inc_by(bytes);
    }

    pub(crate) fn trouble(&self, trouble: Trouble) {
        let of = match trouble {
            Trouble::NotTold => "not_told",
            Trouble::Round => "round",
        };
        self.errors.get_or_create(&Of { of }).inc();
    }

    /// In the text form of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

/// All of them.
const SOURCES: [Source; 6] = [
    Source::InstanceAction,
    Source::TerminationTime,
    Source::LifecycleState,
    Source::Sigterm,
    Source::Operator,
    Source::Failure,
];

const fn source_name(source: Source) -> &'static str {
    match source {
        Source::InstanceAction => "instance_action",
        Source::TerminationTime => "termination_time",
        Source::LifecycleState => "lifecycle_state",
        Source::Sigterm => "sigterm",
        Source::Operator => "operator",
        Source::Failure => "failure",
    }
}

/// Its label, whether the stage ran at all, and whether that is an error.
const fn outcome_of(outcome: Outcome) -> (&'static str, bool, bool) {
    match outcome {
        Outcome::Done => ("done", true, false),
        Outcome::Partly => ("partly", true, true),
        Outcome::Failed => ("failed", true, true),
        Outcome::Nothing => ("nothing", true, false),
        Outcome::TimedOut => ("timed_out", true, true),
        Outcome::NotWanted => ("not_wanted", false, false),
        Outcome::NoTime => ("no_time", false, true),
        Outcome::NeedUnmet => ("need_unmet", false, true),
    }
}

/// The server; it ends with this value.
#[derive(Debug)]
pub(crate) struct Served(JoinHandle<()>);

impl Served {
    /// Serves `GET /metrics` at `address`. A port that cannot be had is told and nothing more: the work is to be
    /// protected all the same.
    pub(crate) async fn start(address: SocketAddr, meter: Arc<Meter>) -> Option<Self> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            std::io::Result::Ok((listener, address))
        };
        let (listener, address) = match bound.await {
            Ok(bound) => bound,
            Err(error) => {
                tracing::error!(%address, %error, "metrics are not served: the address cannot be had");
                return None;
            }
        };
        tracing::info!(%address, "serving metrics");
        Some(Self(tokio::spawn(accept(listener, meter))))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: TcpListener, meter: Arc<Meter>) {
    /// The kernel has no descriptor left, or the like: it passes.
    const AGAIN: Duration = Duration::from_millis(100);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if open.len() < CONNECTIONS_MAX => {
                    open.spawn(serve(stream, Arc::clone(&meter)));
                }
                Ok(_) => tracing::debug!("too many connections to the metrics: one is closed"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the metrics");
                    tokio::time::sleep(AGAIN).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, meter: Arc<Meter>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(&request, &meter);
        async { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_WAIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What hangs or breaks off is the reader's own affair.
    let _ = tokio::time::timeout(CONNECTION_WAIT, served).await;
}

fn answer(request: &Request<Incoming>, meter: &Meter) -> Response<Full<Bytes>> {
    let is_known = request.method() == Method::GET && request.uri().path() == "/metrics";
    let mut response = Response::new(Full::from(if is_known { meter.text() } else { String::new() }));
    if is_known {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lifeboat_core::evacuation::stage::Stage;
    use lifeboat_core::notice::{Action, Interruption, Notice};
    use lifeboat_core::time::{Millis, Timestamp};

    use super::*;
    use crate::summary::StageLine;

    /// Series with their values; panics where the text is not of the form.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let body = text.strip_suffix("# EOF\n").expect("the mark of the end");
        let mut families = BTreeMap::new();
        let mut series = BTreeMap::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (kind, name) = (words.next().expect("a word"), words.next().expect("a name"));
                assert!(["HELP", "TYPE", "UNIT"].contains(&kind), "{line}");
                if kind == "TYPE" {
                    families.insert(name.to_owned(), words.next().expect("a type").to_owned());
                }
                continue;
            }
            let (id, value) = line.rsplit_once(' ').expect("a value");
            let name = id.split('{').next().expect("a name");
            let of = |family: &&String| {
                name.strip_prefix(family.as_str())
                    .is_some_and(|rest| ["", "_total", "_bucket", "_sum", "_count"].contains(&rest))
            };
            assert!(families.keys().any(|family| of(&family)), "{line} belongs to no family");
            let is_whole = id == name || (id.ends_with("\"}") && id[name.len()..].starts_with('{'));
            assert!(is_whole, "{line}");
            let before = series.insert(id.to_owned(), value.parse().expect("a number"));
            assert!(before.is_none(), "{id} twice");
        }
        series
    }

    fn summary(verdict: Verdict) -> Summary {
        let line = |stage, outcome, took_ms| StageLine { stage, outcome, took_ms, detail: String::new() };
        let notice = Notice {
            source: Source::InstanceAction,
            action: Action::Terminate,
            key: None,
            deadline: Timestamp(0),
        };
        Summary {
            workload: "w".to_owned(),
            instance: "i".to_owned(),
            verdict,
            interruption: Interruption::begin(notice, Timestamp(0)),
            deadline: String::new(),
            took_ms: 3_200,
            remaining_ms: 0,
            stages: vec![
                line(Stage::Snapshot, Outcome::Done, 2_000),
                line(Stage::SaveState, Outcome::Failed, 40),
                line(Stage::CleanUp, Outcome::NotWanted, 0),
            ],
            snapshot: None,
            not_told: Vec::new(),
        }
    }

    #[test]
    fn what_happened_is_in_the_text_and_what_did_not_is_zero() {
        let meter = Meter::new(&"w".parse().expect("a name"));
        let zero = parse(&meter.text());
        let id = |name: &str, labels: &str| {
            let comma = if labels.is_empty() { "" } else { "," };
            format!("lifeboat_agent_{name}{{workload=\"w\"{comma}{labels}}}")
        };
        for (name, labels) in [
            ("notices_total", "source=\"instance_action\""),
            ("notices_total", "source=\"failure\""),
            ("evacuating", ""),
            ("evacuation_seconds_count", "verdict=\"complete\""),
            ("rounds_total", "outcome=\"failed\""),
            ("saved_bytes_total", ""),
            ("errors_total", "of=\"not_told\""),
        ] {
            assert_eq!(zero.get(&id(name, labels)), Some(&0.0), "{name} {labels}: {zero:#?}");
        }
        let source = Source::InstanceAction;
        let left = Millis(120_000);
        meter.turned(&Reason::Began { source, action: Action::Terminate, left });
        meter.turned(&Reason::AlreadyHandled { source });
        assert_eq!(parse(&meter.text())[&id("evacuating", "")], 1.0);
        meter.round(Round::Failed);
        meter.saved(4_096);
        meter.ended(&summary(Verdict::Incomplete));
        let now = parse(&meter.text());
        for (name, labels, value) in [
            ("notices_total", "source=\"instance_action\"", 1.0),
            ("evacuating", "", 0.0),
            ("evacuation_seconds_count", "verdict=\"incomplete\"", 1.0),
            ("evacuation_seconds_sum", "verdict=\"incomplete\"", 3.2),
            ("stage_seconds_count", "stage=\"snapshot\"", 1.0),
            ("stage_ends_total", "stage=\"save_state\",outcome=\"failed\"", 1.0),
            ("stage_ends_total", "stage=\"clean_up\",outcome=\"not_wanted\"", 1.0),
            ("rounds_total", "outcome=\"failed\"", 1.0),
            ("saved_bytes_total", "", 4_096.0),
            ("errors_total", "of=\"stage\"", 1.0),
            ("errors_total", "of=\"round\"", 1.0),
        ] {
            assert_eq!(now.get(&id(name, labels)), Some(&value), "{name} {labels}: {now:#?}");
        }
        assert!(!now.contains_key(&id("stage_seconds_count", "stage=\"clean_up\"")), "it did not run");
        let (prefix, mut last, mut buckets) = (id("evacuation_seconds_bucket", "le="), 0.0, 0);
        for (name, value) in now.iter().filter(|(name, _)| name.contains("evacuation_seconds_bucket")) {
            assert!(*value == 0.0 || *value == 1.0, "{name} {prefix}");
            buckets += 1;
            last = f64::max(last, *value);
        }
        assert_eq!((buckets, last), (2 * (BUCKETS.len() + 1), 1.0), "one set a verdict, with +Inf");
    }
}

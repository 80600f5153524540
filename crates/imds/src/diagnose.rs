//! Why the metadata service cannot be used, and how to mend it: what `lifeboat doctor` shows, as data.

use lifeboat_core::clock::ClockDifference;
use lifeboat_core::time::Millis;
use serde::Serialize;
use tokio::time::Instant;

use crate::client::{Client, REQUEST_LIMIT, deadline_in};
use crate::clock::WallClock;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::{GetError, GetErrorKind};
use crate::identity::{Identity, identity_until};
use crate::wire::InstanceAction;

/// What was looked at, in this order; a step that needs a failed one is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The environment names a service.
    Endpoint,
    /// The service grants a token.
    Token,
    /// The interruption notice can be asked for.
    Notice,
    /// The instance says which one it is, and that it is a Spot instance.
    Identity,
    /// This machine's clock agrees with the service's.
    Clock,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Not looked at, because an earlier step failed or the service is switched off.
    Skipped,
    /// Works, and deserves a look.
    Warn,
    /// Does not work.
    Fail,
}

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub step: Step,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub what: String,
    /// How to mend it; `None` where nothing needs mending.
    pub remedy: Option<String>,
}

/// A throttled or broken token request is repeated this often: one bad moment is no finding.
const TOKEN_TRIES_MAX: u32 = 3;
/// From here on the difference is worth a word: deadlines are corrected for it, other programs' are not.
const DIFFERENCE_WARN: Millis = Millis::from_secs(2);
/// AWS refuses signed requests from clocks further apart.
/// Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/signing-elements.html> (five minutes; read 2023-06).
const DIFFERENCE_FAIL: Millis = Millis::from_secs(300);

/// Looks at everything, beginning with the environment, within about `within`: one finding per [`Step`].
pub async fn diagnose(
    lookup: impl Fn(&str) -> Option<String>,
    wall: WallClock,
    within: Millis,
) -> Vec<Finding> {
    match Endpoint::from_environment(lookup) {
        Ok(Some(endpoint)) => {
            let mut findings = vec![ok(Step::Endpoint, format!("the metadata service is {endpoint}"))];
            findings.append(&mut diagnose_client(&mut Client::new(endpoint, wall), within).await);
            findings
        }
        Ok(None) => {
            let what = "AWS_EC2_METADATA_DISABLED is true: metadata is not used".to_owned();
            let remedy = Some("on EC2, unset it: without metadata there are no notices".to_owned());
            let first = Finding { step: Step::Endpoint, verdict: Verdict::Warn, what, remedy };
            with_rest_skipped(vec![first], "metadata is switched off")
        }
        Err(error) => with_rest_skipped(vec![bad_endpoint(&error)], "there is no end point"),
    }
}

/// Looks at the service of `client`: the findings from [`Step::Token`] on.
pub async fn diagnose_client(client: &mut Client, within: Millis) -> Vec<Finding> {
    let deadline = deadline_in(within);
    let mut difference = ClockDifference::default();
    match first_token(client, deadline).await {
        Ok(()) => {}
        Err(error) => return with_rest_skipped(vec![failed(Step::Token, &error)], "there is no token"),
    }
    let mut findings = vec![ok(Step::Token, "the service grants IMDSv2 tokens".to_owned())];
    findings.push(match client.instance_action().await {
        Ok(answer) => {
            answer.clock.into_iter().for_each(|sample| difference.observe(sample));
            notice_finding(answer.value)
        }
        Err(error) => failed(Step::Notice, &error),
    });
    let identity = identity_until(client, deadline, |sample| difference.observe(sample)).await;
    findings.push(match identity {
        Ok(identity) => identity_finding(&identity),
        Err(error) => failed(Step::Identity, &error),
    });
    findings.push(clock_finding(&difference));
    findings
}

async fn first_token(client: &mut Client, deadline: Instant) -> Result<(), GetError> {
    let mut tries = 1;
    loop {
        let error = match client.ensure_token().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let may_pass = error.is_transient() && error.kind() != GetErrorKind::Unreachable;
        if !may_pass || tries >= TOKEN_TRIES_MAX || Instant::now() + REQUEST_LIMIT.to_duration() > deadline {
            return Err(error);
        }
        tokio::time::sleep(REQUEST_LIMIT.to_duration() / 4).await;
        tries += 1;
    }
}

fn notice_finding(notice: Option<InstanceAction>) -> Finding {
    match notice {
        None => ok(Step::Notice, "the notice end point answers: no interruption announced".to_owned()),
        Some(notice) => Finding {
            step: Step::Notice,
            verdict: Verdict::Warn,
            what: format!(
                "an interruption is announced: {:?} at {:?}",
                notice.action.as_str(),
                notice.time_text
            ),
            remedy: Some("evacuate now: lifeboat evacuate".to_owned()),
        },
    }
}

fn identity_finding(identity: &Identity) -> Finding {
    let unknown = || "unknown".to_owned();
    let what = format!(
        "instance {}, type {}, zone {}, life cycle {}",
        identity.instance_id.clone().unwrap_or_else(unknown),
        identity.instance_type.clone().unwrap_or_else(unknown),
        identity.availability_zone.clone().unwrap_or_else(unknown),
        identity.life_cycle.clone().unwrap_or_else(unknown),
    );
    let remedy = if identity.instance_id.is_none() {
        Some("without an instance id evacuated work is filed under the host name: check the end point")
    } else if !identity.is_spot() {
        Some("no interruption notices come on an instance that is not Spot; SIGTERM still evacuates")
    } else {
        None
    };
    let verdict = if remedy.is_some() { Verdict::Warn } else { Verdict::Ok };
    Finding { step: Step::Identity, verdict, what, remedy: remedy.map(str::to_owned) }
}

fn clock_finding(difference: &ClockDifference) -> Finding {
    let step = Step::Clock;
    let remedy = Some("synchronise the clock: chrony with server 169.254.169.123".to_owned());
    let Some((least, most)) = difference.bounds() else {
        let what = "no answer carried a date: the clocks cannot be compared".to_owned();
        let remedy = Some("make sure that the end point is the metadata service".to_owned());
        return Finding { step, verdict: Verdict::Warn, what, remedy };
    };
    let what = format!("the service's clock is {least} to {most} ms ahead of this machine's");
    let certain = difference.certain_difference();
    if certain >= DIFFERENCE_FAIL {
        Finding { step, verdict: Verdict::Fail, what, remedy }
    } else if certain >= DIFFERENCE_WARN {
        Finding { step, verdict: Verdict::Warn, what, remedy }
    } else {
        ok(step, what)
    }
}

const fn ok(step: Step, what: String) -> Finding {
    Finding { step, verdict: Verdict::Ok, what, remedy: None }
}

fn failed(step: Step, error: &GetError) -> Finding {
    let remedy = Some(error.remedy().to_owned());
    Finding { step, verdict: Verdict::Fail, what: error.chain(), remedy }
}

fn bad_endpoint(error: &EndpointError) -> Finding {
    let remedy =
        "set AWS_EC2_METADATA_SERVICE_ENDPOINT to http://HOST[:PORT], or unset it; the mode is IPv4 or IPv6";
    Finding {
        step: Step::Endpoint,
        verdict: Verdict::Fail,
        what: error.to_string(),
        remedy: Some(remedy.to_owned()),
    }
}

fn with_rest_skipped(mut findings: Vec<Finding>, why: &str) -> Vec<Finding> {
    let last = findings.last().map(|finding| finding.step);
    for step in [Step::Token, Step::Notice, Step::Identity, Step::Clock] {
        if Some(step) > last {
            findings.push(Finding {
                step,
                verdict: Verdict::Skipped,
                what: format!("not looked at: {why}"),
                remedy: None,
            });
        }
    }
    findings
}

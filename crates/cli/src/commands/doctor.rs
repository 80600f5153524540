//! `lifeboat doctor`: what is wrong with this machine, and how to mend it; with files, what is wrong with the setting up
//! of a fleet, wherever it runs.
//!
//! `look`: what the configuration names in AWS; `fleet`: a controller's services; `told`: facts from files; `wire`: their form. What facts mean is judged
//! in core (`precondition`).

mod fleet;
mod look;
mod told;
mod wire;

use std::path::Path;
use std::sync::Arc;

use lifeboat_agent::clock::wall_now;
use lifeboat_agent::control::{AskError, ask};
use lifeboat_agent::dirs::DirsError;
use lifeboat_agent::{Config, Setup, bytes_text};
use lifeboat_core::conclusion::exit_code;
use lifeboat_core::precondition::{self, Facts, Group, Machine, Plan, judge};
use lifeboat_core::time::Millis;
use lifeboat_imds::WallClock;
use lifeboat_imds::diagnose::{self, diagnose, diagnose_client};
use lifeboat_imds::identity::{Identity, identity};
use lifeboat_snapshot::probe::probe;
use lifeboat_snapshot::{StoreError, StoreUrl};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::fleet::is_controllers;
use crate::args::DoctorArgs;
use crate::output;

/// All questions to the metadata service together.
const METADATA_WITHIN: Millis = Millis::from_secs(5);

/// A probe object is written, read and deleted; slower than this is too slow for a notice.
const STORE_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// Below this the agent's record and a store on the same disk may fail.
const SPACE_MIN: u64 = 256 << 20;

/// The agent itself needs some 60; packs, connections and the runtime make up the rest.
const FILES_MIN: u64 = 256;

const WORK_DIR: &str = "work directory";
const STORE: &str = "store";
const IDENTITY: &str = "instance identity";

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    /// Of what, where there may be several.
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<String>,
    verdict: Verdict,
    what: String,
    remedy: Option<String>,
}

/// How a check ended. Ordered by how much it deserves a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Not looked at: it does not apply, needs what failed before, or would have an effect.
    Skipped,
    /// Cannot be seen from here; the remedy tells how to find out.
    Unknown,
    /// Works, and deserves a look.
    Warn,
    /// Does not work.
    Fail,
}

pub(crate) async fn doctor(args: &DoctorArgs, json: bool) -> anyhow::Result<u8> {
    let of_controller = args.workload.store.config.as_deref().filter(|file| is_controllers(file));
    if let (Some(file), true) = (of_controller, args.from.is_empty()) {
        return report(fleet::fleet(file).await?, json);
    }
    let mut config = if of_controller.is_some() { Config::default() } else { args.workload.config()? };
    if !args.from.is_empty() {
        let told = told::read(&args.from)?;
        let facts = Facts { plan: plan(&config)?, ..told };
        return report(judged(&facts), json);
    }
    // Without a name everything else can still be looked at.
    let is_named = config.name.is_some();
    config.name.get_or_insert_with(|| "doctor".to_owned());
    // What cannot be used is a finding, and must not hide the others.
    let no_work_dir = missing_work_dir(&mut config);
    let no_store = unusable_store(&mut config);
    let setup = Setup::new(&config, None, |name| std::env::var_os(name))?;
    let mut findings = metadata(&setup).await;
    let is_identified =
        findings.iter().any(|finding| finding.check == IDENTITY && finding.verdict == Verdict::Ok);
    match no_work_dir {
        Some(finding) => findings.push(finding),
        None => {
            findings.push(work_dir(&setup.work_dir));
            findings.push(space("space for the work", &setup.work_dir));
        }
    }
    findings.push(state_dir(&setup, is_named));
    match no_store {
        Some(finding) => findings.push(finding),
        None => {
            let found = store(&setup).await;
            let is_there = found.verdict == Verdict::Ok;
            findings.push(found);
            if let Some(directory) = setup.store.directory().filter(|_| is_there) {
                findings.push(space("space for the store", directory));
            }
        }
    }
    findings.push(open_files());
    if is_named {
        findings.push(other_agent(&setup).await);
    }
    findings.extend(protected(&setup).await);
    let this = if is_identified { this_machine(&setup).await } else { Identity::default() };
    let instance = setup.instance_id.as_ref().or(this.instance_id.as_ref());
    findings.extend(usable(&setup));
    let seen = look::look(&setup.settings, Some(&setup.store), instance.map(String::as_str)).await;
    findings.extend(seen.findings);
    let (groups, target_groups) = (seen.groups, seen.target_groups);
    let machines = spot(this, &groups).into_iter().collect();
    findings.extend(judged(&Facts {
        plan: plan(&config)?,
        machines,
        groups,
        target_groups,
        ..Facts::default()
    }));
    report(findings, json)
}

/// What `lifeboat agent` would stop at the notice.
async fn protected(setup: &Setup) -> Option<Finding> {
    let (name, runs) = lifeboat_agent::protected(setup).await?;
    let (verdict, what, remedy) = match runs {
        Ok(true) => (Verdict::Ok, "runs".to_owned(), None),
        Ok(false) => (Verdict::Ok, "does not run now".to_owned(), None),
        Err(why) => {
            let remedy = "`lifeboat agent` could not stop it at the notice: mend `[protect]`, or run it as the user who may";
            (Verdict::Fail, why, Some(remedy.to_owned()))
        }
    };
    Some(Finding { check: "protected", about: Some(name), verdict, what, remedy })
}

/// Whether a run could begin with what the configuration says of AWS, alerts and metrics.
fn usable(setup: &Setup) -> Option<Finding> {
    let error = crate::wiring::ports(&setup.settings).err()?;
    Some(fail("configuration", output::causes(&error).join(": "), "`lifeboat run` would refuse it: mend it"))
}

fn report(findings: Vec<Finding>, json: bool) -> anyhow::Result<u8> {
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    output::either(json, &findings, || {
        findings
            .iter()
            .map(|finding| {
                let mark = match finding.verdict {
                    Verdict::Ok => "ok   ",
                    Verdict::Skipped => "skip ",
                    Verdict::Unknown => "?    ",
                    Verdict::Warn => "WARN ",
                    Verdict::Fail => "FAIL ",
                };
                let remedy =
                    finding.remedy.as_ref().map_or_else(String::new, |text| format!("\n      → {text}"));
                let about = finding.about.as_ref().map_or_else(String::new, |text| format!(" of {text}"));
                format!("{mark} {}{about}: {}{remedy}\n", finding.check, finding.what)
            })
            .collect()
    })?;
    Ok(if worst == Verdict::Fail { exit_code::FAILED } else { 0 })
}

/// What a configuration counts on.
fn plan(config: &Config) -> anyhow::Result<Plan> {
    let settings = config.settings().map_err(lifeboat_agent::RunError::from)?;
    let heartbeat = u64::try_from(settings.cloud.heartbeat().as_millis()).unwrap_or(u64::MAX);
    Ok(Plan {
        grace: config.evacuation.grace.map(|span| span.0),
        hook: settings.cloud.auto_scaling.hook.clone(),
        heartbeat: Millis(heartbeat),
    })
}

/// Which instance this is.
async fn this_machine(setup: &Setup) -> Identity {
    let endpoint = match &setup.metadata {
        Some(endpoint) => endpoint.clone(),
        None => match lifeboat_imds::Endpoint::from_environment(|name| std::env::var(name).ok()) {
            Ok(Some(endpoint)) => endpoint,
            Ok(None) | Err(_) => return Identity::default(),
        },
    };
    let mut client = lifeboat_imds::Client::new(endpoint, WallClock::new(wall_now));
    // It was told a moment ago.
    identity(&mut client, METADATA_WITHIN).await.unwrap_or_default()
}

/// The Spot instance that this is, if it is one. What its metadata does not say is a question for `aws`.
fn spot(this: Identity, groups: &[Group]) -> Option<Machine> {
    let is_spot = this.is_spot().then_some(true)?;
    Some(Machine {
        name: this.instance_id?,
        is_spot: Some(is_spot),
        instance_type: this.instance_type,
        has_metadata: Some(true),
        group: groups.first().map(|group| group.name.clone()),
        ..Machine::default()
    })
}

fn judged(facts: &Facts) -> Vec<Finding> {
    let findings = judge(facts).into_iter().map(|finding| Finding {
        check: finding.check.name(),
        about: Some(finding.about),
        verdict: match finding.verdict {
            precondition::Verdict::Ok => Verdict::Ok,
            precondition::Verdict::Unknown => Verdict::Unknown,
            precondition::Verdict::Warn => Verdict::Warn,
            precondition::Verdict::Fail => Verdict::Fail,
        },
        what: finding.what,
        remedy: finding.remedy,
    });
    findings.collect()
}

async fn metadata(setup: &Setup) -> Vec<Finding> {
    let wall = WallClock::new(wall_now);
    let found = match (&setup.metadata, setup.settings.metadata_enabled) {
        (Some(endpoint), _) => {
            let mut client = lifeboat_imds::Client::new(endpoint.clone(), wall);
            let mut found = diagnose_client(&mut client, METADATA_WITHIN).await;
            for finding in &mut found {
                if finding.verdict == diagnose::Verdict::Fail {
                    finding.what = format!("{} ({endpoint})", finding.what);
                }
            }
            found
        }
        (None, true) => diagnose(|name| std::env::var(name).ok(), wall, METADATA_WITHIN).await,
        (None, false) => {
            return vec![warn(
                "metadata",
                "switched off in the configuration",
                "only SIGTERM and `lifeboat evacuate` announce an interruption; on EC2 set metadata.enabled = true",
            )];
        }
    };
    found
        .into_iter()
        .map(|finding| {
            let check = match finding.step {
                diagnose::Step::Endpoint => "metadata endpoint",
                diagnose::Step::Token => "metadata token",
                diagnose::Step::Notice => "interruption notice",
                diagnose::Step::Identity => IDENTITY,
                diagnose::Step::Clock => "clock difference",
            };
            let verdict = match finding.verdict {
                diagnose::Verdict::Ok => Verdict::Ok,
                diagnose::Verdict::Skipped => Verdict::Skipped,
                diagnose::Verdict::Warn => Verdict::Warn,
                diagnose::Verdict::Fail => Verdict::Fail,
            };
            Finding { check, about: None, verdict, what: finding.what, remedy: finding.remedy }
        })
        .collect()
}

/// `lifeboat run` creates a work directory that does not exist; a check creates nothing.
fn missing_work_dir(config: &mut Config) -> Option<Finding> {
    let dir = config.work_dir.take_if(|dir| !dir.is_dir())?;
    let what = dir.display();
    Some(match std::fs::symlink_metadata(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => warn(
            WORK_DIR,
            &format!("{what} does not exist"),
            "`lifeboat run` creates it; if there should be work in it, check its name",
        ),
        Err(error) => fail(WORK_DIR, format!("{what}: {error}"), "name another directory with --work-dir"),
        Ok(_) => fail(WORK_DIR, format!("{what} is no directory"), "name a directory with --work-dir"),
    })
}

fn unusable_store(config: &mut Config) -> Option<Finding> {
    let text = config.store.clone()?;
    let error = text.parse::<StoreUrl>().err()?;
    config.store = None;
    let text = lifeboat_snapshot::store::without_secrets(&text);
    Some(fail(STORE, format!("{text}: {error}"), "name another store with --store"))
}

fn work_dir(path: &Path) -> Finding {
    let check = WORK_DIR;
    let probe = path.join(format!(".lifeboat-doctor-{}", std::process::id()));
    let tried = std::fs::write(&probe, b"probe").and_then(|()| std::fs::remove_file(&probe));
    match tried.and_then(|()| std::fs::read_dir(path).map(drop)) {
        Ok(()) => ok(check, format!("{} can be read and written", path.display())),
        Err(error) => fail(
            check,
            format!("{}: {error}", path.display()),
            "give this user read and write permission, or name another directory with --work-dir",
        ),
    }
}

fn space(check: &'static str, path: &Path) -> Finding {
    match rustix::fs::statvfs(path) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let what = format!("{} free below {}", bytes_text(free), path.display());
            if free < SPACE_MIN {
                warn(
                    check,
                    &what,
                    "free some space: restoring and a store on this disk need as much as the work",
                )
            } else {
                ok(check, what)
            }
        }
        Err(error) => {
            warn(check, &format!("{}: {error}", path.display()), "it cannot be told how much is free")
        }
    }
}

fn state_dir(setup: &Setup, is_named: bool) -> Finding {
    let check = "state directory";
    let tried = setup.dirs.create().map_err(anyhow::Error::from).and_then(|()| {
        let probe = setup.dirs.agent.join(".doctor");
        std::fs::write(&probe, b"probe")?;
        Ok(std::fs::remove_file(&probe)?)
    });
    if !is_named {
        let _ = std::fs::remove_dir(&setup.dirs.agent); // it was made for this check; never with anything in it
    }
    match tried {
        Ok(()) => ok(check, format!("{} can be written", setup.state_dir.display())),
        Err(error) => fail(
            check,
            output::causes(&error).join(": "),
            "set XDG_STATE_HOME to a directory of this user that can be written",
        ),
    }
}

async fn store(setup: &Setup) -> Finding {
    let check = STORE;
    let tried = match lifeboat_snapshot::open(&setup.store) {
        Ok(store) => tokio::time::timeout(STORE_WITHIN, probe(&Arc::clone(&store))).await,
        Err(error) => Ok(Err(error)),
    };
    match tried {
        Ok(Ok(())) => ok(check, format!("{} takes, keeps and protects objects", setup.store)),
        Ok(Err(error)) => {
            let remedy = store_remedy(&setup.store, &error);
            let why = output::causes(&anyhow::Error::new(error)).join(": ");
            fail(check, format!("{}: {why}", setup.store), &remedy)
        }
        Err(_) => fail(
            check,
            format!("{} does not answer within {} s", setup.store, STORE_WITHIN.as_secs()),
            "check the way to the store",
        ),
    }
}

/// The permission that was missing in a bucket, by name.
fn store_remedy(store: &StoreUrl, error: &StoreError) -> String {
    let action = match (store, error) {
        (StoreUrl::S3(_), StoreError::Denied { operation, .. }) => match *operation {
            "create" => Some("s3:PutObject"),
            "read" => Some("s3:GetObject"),
            "list" => Some("s3:ListBucket"),
            "delete" => Some("s3:DeleteObject"),
            _ => None,
        },
        _ => None,
    };
    action.map_or_else(
        || "check the URL, and that this user may create, read, list and delete there".to_owned(),
        |action| {
            format!("check the credentials and allow {action}; `lifeboat policy FILE` prints what is needed")
        },
    )
}

fn open_files() -> Finding {
    let check = "open files";
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < FILES_MIN => warn(
            check,
            &format!("this user may open {limit} files"),
            "raise it: ulimit -n 1024, or LimitNOFILE in the unit",
        ),
        Some(limit) => ok(check, format!("up to {limit}")),
        None => ok(check, "no limit".into()),
    }
}

async fn other_agent(setup: &Setup) -> Finding {
    let check = "other agent";
    match ask(&setup.dirs.socket, "GET", "/v1/status", std::time::Duration::from_secs(2)).await {
        Ok(status) => warn(
            check,
            &format!("process {} protects `{}` on this machine", status["pid"], setup.name),
            "that is as it should be, unless you are about to start another",
        ),
        Err(AskError::NoAgent) => match setup.dirs.lock() {
            Ok(_) => ok(check, format!("nobody else protects `{}` on this machine", setup.name)),
            Err(DirsError::Locked { pid }) => {
                let who = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                warn(
                    check,
                    &format!("an agent{who} holds the lock and does not listen"),
                    "it is starting or ending; if it stays so, end it",
                )
            }
            Err(error) => fail(check, error.to_string(), "see the state directory"),
        },
        Err(error @ (AskError::NotBegun | AskError::Failed(_))) => {
            warn(check, &format!("an agent listens: {error}"), "if it stays so, end it")
        }
    }
}

fn ok(check: &'static str, what: String) -> Finding {
    Finding { check, about: None, verdict: Verdict::Ok, what, remedy: None }
}

fn warn(check: &'static str, what: &str, remedy: &str) -> Finding {
    Finding {
        check,
        about: None,
        verdict: Verdict::Warn,
        what: what.to_owned(),
        remedy: Some(remedy.to_owned()),
    }
}

fn fail(check: &'static str, what: String, remedy: &str) -> Finding {
    Finding { check, about: None, verdict: Verdict::Fail, what, remedy: Some(remedy.to_owned()) }
}

//! `lifeboat doctor`: what is wrong with this machine, and how to mend it.

use std::path::Path;
use std::sync::Arc;

use lifeboat_agent::clock::wall_now;
use lifeboat_agent::control::{AskError, ask};
use lifeboat_agent::dirs::DirsError;
use lifeboat_agent::{Config, Setup, bytes_text};
use lifeboat_core::conclusion::exit_code;
use lifeboat_core::time::Millis;
use lifeboat_imds::WallClock;
use lifeboat_imds::diagnose::{Verdict, diagnose, diagnose_client};
use lifeboat_snapshot::StoreUrl;
use lifeboat_snapshot::probe::probe;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::args::WorkloadArgs;
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

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    what: String,
    remedy: Option<String>,
}

pub(crate) async fn doctor(args: &WorkloadArgs, json: bool) -> anyhow::Result<u8> {
    let mut config = args.config()?;
    // Without a name everything else can still be looked at.
    let is_named = config.name.is_some();
    config.name.get_or_insert_with(|| "doctor".to_owned());
    // What cannot be used is a finding, and must not hide the others.
    let no_work_dir = missing_work_dir(&mut config);
    let no_store = unusable_store(&mut config);
    let setup = Setup::new(&config, None, |name| std::env::var_os(name))?;
    let mut findings = metadata(&setup).await;
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
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    output::either(json, &findings, || {
        findings
            .iter()
            .map(|finding| {
                let mark = match finding.verdict {
                    Verdict::Ok => "ok   ",
                    Verdict::Skipped => "skip ",
                    Verdict::Warn => "WARN ",
                    Verdict::Fail => "FAIL ",
                };
                let remedy =
                    finding.remedy.as_ref().map_or_else(String::new, |text| format!("\n      → {text}"));
                format!("{mark} {}: {}{remedy}\n", finding.check, finding.what)
            })
            .collect()
    })?;
    Ok(if worst == Verdict::Fail { exit_code::FAILED } else { 0 })
}

async fn metadata(setup: &Setup) -> Vec<Finding> {
    let wall = WallClock::new(wall_now);
    let found = match (&setup.metadata, setup.settings.metadata_enabled) {
        (Some(endpoint), _) => {
            let mut client = lifeboat_imds::Client::new(endpoint.clone(), wall);
            let mut found = diagnose_client(&mut client, METADATA_WITHIN).await;
            for finding in &mut found {
                if finding.verdict == Verdict::Fail {
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
                lifeboat_imds::diagnose::Step::Endpoint => "metadata endpoint",
                lifeboat_imds::diagnose::Step::Token => "metadata token",
                lifeboat_imds::diagnose::Step::Notice => "interruption notice",
                lifeboat_imds::diagnose::Step::Identity => "instance identity",
                lifeboat_imds::diagnose::Step::Clock => "clock difference",
            };
            Finding { check, verdict: finding.verdict, what: finding.what, remedy: finding.remedy }
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
        Ok(Err(error)) => fail(
            check,
            format!("{}: {}", setup.store, output::causes(&anyhow::Error::new(error)).join(": ")),
            "check the URL, and that this user may create, read, list and delete there",
        ),
        Err(_) => fail(
            check,
            format!("{} does not answer within {} s", setup.store, STORE_WITHIN.as_secs()),
            "check the way to the store",
        ),
    }
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
        Err(AskError::Failed(why)) => {
            warn(check, &format!("an agent listens and does not answer: {why}"), "if it stays so, end it")
        }
    }
}

fn ok(check: &'static str, what: String) -> Finding {
    Finding { check, verdict: Verdict::Ok, what, remedy: None }
}

fn warn(check: &'static str, what: &str, remedy: &str) -> Finding {
    Finding { check, verdict: Verdict::Warn, what: what.to_owned(), remedy: Some(remedy.to_owned()) }
}

fn fail(check: &'static str, what: String, remedy: &str) -> Finding {
    Finding { check, verdict: Verdict::Fail, what, remedy: Some(remedy.to_owned()) }
}

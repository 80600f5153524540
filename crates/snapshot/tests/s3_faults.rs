//! A real S3 server that breaks: killed and started again, overloaded, hanging, resetting connections, cutting
//! answers short, with bits flipped on the way down and up. After each, every recovery point that the journal names
//! restores byte for byte, what was not saved is named, and the deadline was kept.

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::http_proxy::{Fault, HttpProxy};
use common::s3::S3Server;
use common::{claimant, noise, temp, tree, workload, write};
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::{SaveError, SaveOptions, Saved};
use lifeboat_snapshot::{
    Claim, Deadline, NoProgress, Wait, Workload, acquire, journal, open, restore, save, verify,
};

/// Far more than it takes: a deadline makes what fails be repeated until it has come.
const ENOUGH: Duration = Duration::from_secs(120);

/// Beyond a deadline, for a machine that does twenty other things.
const SLACK: Duration = Duration::from_secs(20);

fn fill(top: &Path) {
    for number in 0..60 {
        write(top, format!("small/{number}"), noise(number, 3_000));
    }
    write(top, "large", noise(100, (17 << 20) + 5));
    write(top, "empty", "");
}

async fn claimed(work: &Workload) -> Claim {
    for _ in 0..20 {
        if let Ok(acquired) = acquire(work, &claimant(1), Wait::No).await {
            return acquired.claim;
        }
    }
    panic!("not claimed in twenty tries");
}

async fn committed(claim: &mut Claim, saved: &Saved) {
    for _ in 0..20 {
        if claim.commit(saved.manifest.clone()).await.is_ok() {
            return;
        }
    }
    panic!("not committed in twenty tries");
}

/// What every test here ends with: all that is named is there, seen through a line without faults and, as often as it
/// takes, through the one with them.
async fn all_points_restore(server: &S3Server, broken: &Workload, from: &Path, saved: &Saved) {
    let sound = workload(&open(&server.store_url("")).expect("opens"));
    let points = journal::recovery_points(&sound).await.expect("readable");
    assert!(!points.is_empty());
    let expected = tree(from);
    for point in &points {
        let (clean, repeated) = (temp(), temp());
        restore(&sound, &point.manifest, &RestoreOptions::new(clean.path())).await.expect("restored");
        let found = tree(clean.path());
        assert!(
            found.iter().all(|(path, seen)| expected.get(path) == Some(seen)),
            "something else came back"
        );
        if point.manifest.complete {
            assert_eq!(found, expected);
        }
        let checked = verify(&sound, &point.manifest, &NoProgress).await.expect("readable");
        assert_eq!(checked.damaged.len(), 0);
        // It goes on where it failed.
        let options = RestoreOptions::new(repeated.path());
        let mut tries = 0;
        while let Err(error) = restore(broken, &point.manifest, &options).await {
            tries += 1;
            assert!(tries < 40, "{error:?}");
        }
        assert_eq!(tree(repeated.path()), found);
    }
    assert_eq!(saved.manifest.complete, saved.left_out.is_empty(), "what is missing is named");
}

/// Saves, commits and restores while about one request in `100 / percent` meets one of `kinds`.
async fn survives(kinds: &[Fault], percent: u64) {
    let Some(server) = S3Server::start() else { return };
    let proxy = HttpProxy::start(server.port, kinds, percent, 7).await;
    let work = workload(&open(&proxy.store_url(&server, "")).expect("opens"));
    let from = temp();
    fill(from.path());
    let mut claim = claimed(&work).await;
    let begun = Instant::now();
    let deadline = Deadline::at(tokio::time::Instant::now() + ENOUGH);
    let options = SaveOptions { deadline, ..SaveOptions::new(from.path()) };
    let saved = save(&work, &claim.id(), &options).await.expect("there was time enough");
    assert!(begun.elapsed() < ENOUGH + SLACK);
    assert!(saved.manifest.complete, "{:?}", saved.left_out);
    committed(&mut claim, &saved).await;
    all_points_restore(&server, &work, from.path(), &saved).await;
    assert!(proxy.met() > 3, "only {} faults", proxy.met());
}

#[tokio::test]
async fn a_server_that_fails_or_asks_to_slow_down_at_a_third_costs_time_only() {
    survives(&[Fault::InternalError, Fault::SlowDown], 30).await;
}

#[tokio::test]
async fn connections_that_are_reset_before_and_after_the_deed_cost_time_only() {
    survives(&[Fault::Reset, Fault::Lost], 25).await;
}

#[tokio::test]
async fn answers_that_are_cut_short_are_noticed() {
    survives(&[Fault::Cut], 30).await;
}

#[tokio::test]
async fn a_flipped_bit_on_the_way_down_is_noticed() {
    survives(&[Fault::FlipDown], 30).await;
}

#[tokio::test]
async fn a_flipped_bit_on_the_way_up_is_noticed_by_the_servers_checksum() {
    survives(&[Fault::FlipUp], 30).await;
}

#[tokio::test]
async fn everything_at_once_costs_time_only() {
    let all = [
        Fault::InternalError,
        Fault::SlowDown,
        Fault::Reset,
        Fault::Lost,
        Fault::Cut,
        Fault::FlipDown,
        Fault::FlipUp,
    ];
    survives(&all, 30).await;
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_of_a_save_and_of_a_restore_costs_time_only() {
    let Some(mut server) = S3Server::start() else { return };
    let proxy = HttpProxy::start(server.port, &[], 0, 1).await;
    let work = workload(&open(&proxy.store_url(&server, "")).expect("opens"));
    let from = temp();
    fill(from.path());
    let mut claim = claimed(&work).await;
    let deadline = Deadline::at(tokio::time::Instant::now() + ENOUGH);
    let options = SaveOptions { deadline, ..SaveOptions::new(from.path()) };
    let id = claim.id();
    proxy.pause_after(2);
    let (saved, ()) = tokio::join!(save(&work, &id, &options), killed_and_started(&mut server, &proxy));
    let saved = saved.expect("there was time enough");
    assert!(saved.manifest.complete, "{:?}", saved.left_out);
    committed(&mut claim, &saved).await;

    let to = temp();
    let options = RestoreOptions::new(to.path());
    proxy.pause_after(4);
    let restoring = async {
        let mut tries = 0;
        while let Err(error) = restore(&work, &saved.manifest, &options).await {
            tries += 1;
            assert!(tries < 20, "{error:?}");
        }
    };
    tokio::join!(restoring, killed_and_started(&mut server, &proxy));
    assert_eq!(tree(to.path()), tree(from.path()));
    all_points_restore(&server, &work, from.path(), &saved).await;
}

/// Kills the server while a request is on its way to it, and starts it again a little later.
async fn killed_and_started(server: &mut S3Server, proxy: &HttpProxy) {
    proxy.paused().await;
    server.kill();
    proxy.resume();
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.launch();
}

#[tokio::test]
async fn a_server_that_hangs_in_the_middle_costs_no_more_than_the_deadline_and_loses_no_earlier_point() {
    let Some(server) = S3Server::start() else { return };
    let proxy = HttpProxy::start(server.port, &[], 0, 1).await;
    let work = workload(&open(&proxy.store_url(&server, "")).expect("opens"));
    let from = temp();
    fill(from.path());
    let mut claim = claimed(&work).await;
    let first = save(&work, &claim.id(), &SaveOptions::new(from.path())).await.expect("saved");
    committed(&mut claim, &first).await;

    let more = temp();
    fill(more.path());
    write(more.path(), "another", noise(9, 9 << 20));
    let deadline = Deadline::at(tokio::time::Instant::now() + Duration::from_secs(4));
    let begun = Instant::now();
    proxy.pause_after(1);
    let options = SaveOptions { deadline, ..SaveOptions::new(more.path()) };
    let refused = save(&work, &claim.id(), &options).await.expect_err("the manifest could not be stored");
    assert!(matches!(refused, SaveError::OutOfTime), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(4) + SLACK, "{:?}", begun.elapsed());
    proxy.resume();
    all_points_restore(&server, &work, from.path(), &first).await;
}

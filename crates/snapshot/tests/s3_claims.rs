//! One owner at a time, on a real S3 server, in real time. Its create-only puts are made what they are at S3 by the
//! proxy in front of it: s3s-fs looks before it writes.

mod common;

use std::time::Duration;

use common::http_proxy::{Fault, HttpProxy};
use common::s3::S3Server;
use common::{claimant, noise, temp, tree, workload, write};
use lifeboat_snapshot::claim::{AcquireError, ClaimError};
use lifeboat_snapshot::journal::{self, Release};
use lifeboat_snapshot::restore::RestoreOptions;
use lifeboat_snapshot::save::{SaveOptions, save};
use lifeboat_snapshot::{Acquired, Claimant, How, Wait, Workload, acquire, open, restore};
use tokio::time::Instant;

/// A server with its proxy, and the bucket behind both.
struct World {
    server: S3Server,
    proxy: HttpProxy,
}

impl World {
    async fn start(kinds: &[Fault], percent: u64) -> Option<Self> {
        let server = S3Server::start()?;
        let proxy = HttpProxy::start(server.port, kinds, percent, 3).await;
        Some(Self { server, proxy })
    }

    /// Each machine opens the bucket for itself.
    fn machine(&self) -> Workload {
        workload(&open(&self.proxy.store_url(&self.server, "")).expect("opens"))
    }
}

/// As short as it may be here: nobody waits for long, and nobody who renews is taken over.
fn brief(number: u8) -> Claimant {
    Claimant { lease: Duration::from_secs(1), ..claimant(number) }
}

fn soon() -> Wait {
    Wait::Until(Instant::now() + Duration::from_secs(60))
}

async fn race(world: &World, make: impl Fn(u8) -> Claimant, wait: Wait) -> Vec<Acquired> {
    let racing: Vec<_> = (0..16)
        .map(|number| {
            let (work, claimant, wait) = (world.machine(), make(number), wait);
            tokio::spawn(async move { acquire(&work, &claimant, wait).await })
        })
        .collect();
    let mut owners = Vec::new();
    for raced in racing {
        match raced.await.expect("no panic") {
            Ok(acquired) => owners.push(acquired),
            Err(AcquireError::Held { .. }) => {}
            Err(AcquireError::Store(error)) => panic!("{error}"),
        }
    }
    owners
}

#[tokio::test]
async fn of_sixteen_machines_exactly_one_owns_the_work_in_a_bucket() {
    for _ in 0..3 {
        let Some(world) = World::start(&[], 0).await else { return };
        let owners = race(&world, claimant, Wait::No).await;
        assert_eq!(owners.len(), 1);
        assert_eq!(owners[0].how, How::Fresh);
    }
}

#[tokio::test]
async fn of_sixteen_machines_one_owns_the_work_while_answers_are_lost() {
    let Some(world) = World::start(&[Fault::Lost, Fault::SlowDown, Fault::Reset], 25).await else { return };
    let owners = race(&world, claimant, Wait::No).await;
    assert_eq!(owners.len(), 1);
}

#[tokio::test]
async fn of_sixteen_machines_that_wait_for_a_frozen_one_exactly_one_takes_over_and_the_frozen_one_is_fenced()
{
    let Some(world) = World::start(&[], 0).await else { return };
    let work = world.machine();
    let from = temp();
    write(from.path(), "file", noise(1, 50_000));
    let mut frozen = acquire(&work, &brief(99), Wait::No).await.expect("nobody has it").claim;
    let saved = save(&work, &frozen.id(), &SaveOptions::new(from.path())).await.expect("saved");
    frozen.commit(saved.manifest.clone()).await.expect("the owner");
    // It says nothing for longer than its lease, on the clocks of those who wait. The winner's own is long: whoever
    // else gets the work has not raced well.
    let (winners, mut won) = tokio::sync::mpsc::channel(16);
    let mut racing = tokio::task::JoinSet::new();
    for number in 0..16 {
        let (work, winners) = (world.machine(), winners.clone());
        racing.spawn(async move {
            if let Ok(acquired) = acquire(&work, &claimant(number), soon()).await {
                let _ = winners.send(acquired).await; // the test is over
            }
        });
    }
    let mut owners = vec![won.recv().await.expect("one takes over")];
    tokio::time::sleep(Duration::from_secs(2)).await;
    racing.shutdown().await;
    while let Ok(another) = won.try_recv() {
        owners.push(another);
    }
    assert_eq!(owners.len(), 1);
    assert!(
        matches!(&owners[0].how, How::TookOver { from } if from.instance == "i-99"),
        "{:?}",
        owners[0].how
    );
    assert_eq!(owners[0].resume.as_ref().map(|point| &point.manifest), Some(&saved.manifest));
    // It wakes up, and whatever it tries changes nothing.
    let head = journal::head(&work).await.expect("readable");
    let again = save(&work, &frozen.id(), &SaveOptions::new(from.path())).await.expect("only data");
    assert!(matches!(frozen.commit(again.manifest).await, Err(ClaimError::Fenced { .. })));
    assert!(matches!(frozen.renew().await, Err(ClaimError::Fenced { .. })));
    assert!(matches!(frozen.release(Release::default()).await, Err(ClaimError::Fenced { .. })));
    assert!(matches!(frozen.done(0).await, Err(ClaimError::Fenced { .. })));
    assert_eq!(journal::head(&work).await.expect("readable"), head);
}

#[tokio::test]
async fn two_agents_with_the_same_name_do_not_work_at_once() {
    let Some(world) = World::start(&[], 0).await else { return };
    // The same state directory on two machines, as a copied image has it.
    let first = claimant(1);
    let mut second = claimant(1);
    second.holder.instance = "i-copy".to_owned();
    let held = acquire(&world.machine(), &first, Wait::No).await.expect("nobody has it");
    let refused = acquire(&world.machine(), &second, Wait::No).await.expect_err("it is held");
    assert!(matches!(refused, AcquireError::Held { .. }), "{refused:?}");
    // The same one restarted may: its old self is fenced.
    let mut old = held.claim;
    let mut restarted = acquire(&world.machine(), &first, Wait::No).await.expect("its own").claim;
    assert!(matches!(old.renew().await, Err(ClaimError::Fenced { .. })));
    restarted.renew().await.expect("the owner");
}

#[tokio::test]
async fn a_restorer_that_is_frozen_beyond_its_lease_wakes_up_and_is_fenced() {
    let Some(world) = World::start(&[], 0).await else { return };
    let (writer, from) = (world.machine(), temp());
    for number in 0..20 {
        write(from.path(), format!("{number}"), noise(number, 40_000));
    }
    write(from.path(), "large", noise(50, 20 << 20));
    let mut first = acquire(&writer, &claimant(1), Wait::No).await.expect("nobody has it").claim;
    let saved = save(&writer, &first.id(), &SaveOptions::new(from.path())).await.expect("saved");
    first.commit(saved.manifest.clone()).await.expect("the owner");
    first.release(Release::default()).await.expect("the owner");

    // Two restorers through lines of their own: the first one's freezes in the middle.
    let slow_line = HttpProxy::start(world.server.port, &[], 0, 1).await;
    let slow = workload(&open(&slow_line.store_url(&world.server, "")).expect("opens"));
    let frozen = acquire(&slow, &brief(2), Wait::No).await.expect("it was given up");
    let mut frozen_claim = frozen.claim;
    let to = temp();
    slow_line.pause_after(3);
    let restoring = {
        let (slow, to, manifest) = (slow.clone(), to.path().to_owned(), saved.manifest.clone());
        tokio::spawn(async move { restore(&slow, &manifest, &RestoreOptions::new(to)).await })
    };
    slow_line.paused().await;
    let other = acquire(&world.machine(), &claimant(3), soon()).await.expect("the frozen one fell silent");
    assert!(matches!(other.how, How::TookOver { .. }), "{:?}", other.how);
    let mut owner = other.claim;
    let second = temp();
    let found = other.resume.expect("is handed on").manifest;
    restore(&world.machine(), &found, &RestoreOptions::new(second.path())).await.expect("restored");
    write(second.path(), "went on", "here");
    let went_on = save(&world.machine(), &owner.id(), &SaveOptions::new(second.path())).await.expect("saved");
    owner.commit(went_on.manifest.clone()).await.expect("the owner");

    slow_line.resume();
    restoring.await.expect("no panic").expect("reading harms nobody");
    assert_eq!(tree(to.path()), tree(from.path()));
    assert!(matches!(frozen_claim.renew().await, Err(ClaimError::Fenced { .. })));
    let stale = save(&slow, &frozen_claim.id(), &SaveOptions::new(to.path())).await.expect("only data");
    assert!(matches!(frozen_claim.commit(stale.manifest).await, Err(ClaimError::Fenced { .. })));
    let newest = journal::recovery_points(&world.machine()).await.expect("readable").pop().expect("one");
    assert_eq!(newest.manifest, went_on.manifest);
    owner.check().await.expect("still the owner");
}

//! While the workload runs: watches over it until it has ended, was evacuated, or belongs to somebody else.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lifeboat_core::conclusion::{Ending, Exit, conclude, exit_code};
use lifeboat_core::evacuation::{Input, Verdict};
use lifeboat_core::notice::Source;
use lifeboat_snapshot::claim::ClaimError;
use lifeboat_snapshot::prune;
use lifeboat_snapshot::prune::PrunePlan;
use rustix::process::Signal as OsSignal;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::evacuator::{Evacuator, Target};
use crate::hands::{Site, chain};
use crate::holding::SharedClaim;
use crate::intake::Event;
use crate::precopy::Precopy;
use crate::process::Life;
use crate::renewal::Renewal;
use crate::resume::loss;
use crate::run::{Run, RunEnd, answer, give_up};
use crate::setup::RunError;
use crate::summary::Summary;

/// SIGKILL.
const KILLED: u8 = 9;

/// A workload under protection.
struct Protected {
    claim: SharedClaim,
    evacuator: Evacuator,
    renewal: Renewal,
    lost: Option<oneshot::Receiver<ClaimError>>,
    /// Whoever asked for an evacuation and waits for its result.
    waiting: Vec<oneshot::Sender<Summary>>,
    /// Why the work is not ours any more.
    fenced: Option<ClaimError>,
    interrupts: u32,
    /// When processes that the workload left behind are killed.
    linger_until: Option<Instant>,
    /// When a survived interruption is over.
    survived_at: Option<Instant>,
    precopy: Option<Precopy>,
    copy_now: bool,
}

/// What is to be done after something has happened.
enum Next {
    /// The machine takes it in.
    Feed(Input),
    /// Nothing but to look at the workload.
    Look,
    /// The run is over.
    End(Box<RunEnd>),
}

impl Run<'_> {
    /// The workload runs: watches over it until its end.
    pub(crate) async fn protect(
        &mut self,
        claim: SharedClaim,
        evacuator: Evacuator,
    ) -> Result<RunEnd, RunError> {
        // Ends with this function at the latest: it only makes room.
        let mut housekeeping = JoinSet::new();
        housekeeping.spawn(prune_old_points(Arc::clone(&self.site)));
        let mut on = Protected::new(claim, evacuator);
        let mut announced = self.announced.take();
        loop {
            on.copy(&self.site);
            let next = match announced.take() {
                Some(notice) => Next::Feed(Input::Notice(notice)),
                None => self.next(&mut on).await,
            };
            let input = match next {
                Next::Feed(input) => Some(input),
                Next::Look => None,
                Next::End(end) => return Ok(*end),
            };
            self.notice_a_jump_of_the_clock(&mut on);
            if let Some(summary) = input.and_then(|input| on.evacuator.feed(input)) {
                answer(&mut on.waiting, &summary);
                if !on.evacuator.workload_goes_on() {
                    on.evacuator.kill_workload();
                    return Ok(self.evacuated(&on.claim, &mut on.evacuator, summary).await);
                }
                tracing::warn!("saved before the hibernation; the workload goes on");
                let over = summary.interruption.deadline + self.site.settings.patience.stale;
                on.survived_at = Some(on.evacuator.clock().instant(over));
            }
            let Some(exit) = self.look(&mut on) else { continue };
            match on.fenced.take() {
                Some(error) => {
                    on.evacuator.forget_evacuation();
                    let became = match on.evacuator.target {
                        Target::None => "its files here are not saved any more",
                        Target::Own(_) | Target::Leftover(_) => "the workload was killed",
                        Target::Foreign(_) => {
                            on.evacuator.record.stopped = true;
                            "the workload was killed"
                        }
                    };
                    on.evacuator.keep_record();
                    let message = format!("{}; {became}", chain(&error));
                    return Ok(RunEnd::new(exit_code::NOT_OURS, message));
                }
                None if on.evacuator.is_evacuating() => on.evacuator.workload_gone(&exit.to_string()),
                None => {
                    on.precopy = None; // what it would copy is saved for good now
                    let Protected { claim, evacuator, renewal: _renewal, .. } = on;
                    return self.ended_by_itself(claim, evacuator, exit).await;
                }
            }
        }
    }

    /// Waits until something happens.
    async fn next(&mut self, on: &mut Protected) -> Next {
        let clock = on.evacuator.clock();
        let handled = on.evacuator.handled();
        tokio::select! {
            event = self.intake.next(handled, || clock.now()) => self.take(on, event).await,
            stage = on.evacuator.next() => Next::Feed(stage),
            error = loss(&mut on.lost) => {
                tracing::error!(error = chain(&error), "the work belongs to somebody else now; the workload is killed");
                on.fenced = Some(error);
                on.evacuator.kill_workload();
                Next::Look
            }
            () = sleep_until(on.linger_until) => {
                tracing::warn!("killing processes that the workload left behind");
                on.evacuator.kill_workload();
                on.linger_until = None;
                Next::Look
            }
            () = sleep_until(on.survived_at) => {
                on.survived_at = None;
                Next::Feed(Input::Survived)
            }
        }
    }

    /// Takes in what reached the agent from outside.
    async fn take(&self, on: &mut Protected, event: Event) -> Next {
        let clock = on.evacuator.clock();
        match event {
            Event::Terminate if self.leaves_on_sigterm().await => {
                if on.evacuator.is_evacuating() {
                    tracing::info!("asked to end: the evacuation is brought to its end first");
                    return Next::Look;
                }
                Next::End(Box::new(self.left()))
            }
            Event::Terminate => Next::Feed(Input::Notice(self.own_notice(clock, Source::Sigterm))),
            Event::Evacuate(reply) => {
                on.waiting.push(reply);
                Next::Feed(Input::Notice(self.own_notice(clock, Source::Operator)))
            }
            // A person at a terminal; nothing here is the agent's own child.
            Event::Interrupt if self.is_agent && !on.evacuator.is_evacuating() => {
                Next::End(Box::new(self.left()))
            }
            Event::Interrupt => {
                on.interrupts += 1;
                if on.interrupts > 1 {
                    on.evacuator.kill_workload();
                    give_up(&on.claim, "ended by a second interrupt").await;
                    let message = "ended by a second interrupt; the files are where they were";
                    return Next::End(Box::new(RunEnd::new(exit_code::SIGNAL_BASE + 2, message)));
                }
                pass_on(&on.evacuator, OsSignal::INT);
                Next::Look
            }
            Event::PassOn(signal) => {
                pass_on(&on.evacuator, signal);
                Next::Look
            }
            Event::Notice(notice) | Event::Expect(notice) => Next::Feed(Input::Notice(notice)),
            Event::Child | Event::Withdrawn | Event::Quiet => Next::Look,
            Event::CopyNow => {
                on.copy_now = true;
                Next::Look
            }
            Event::Status(reply) => {
                let phase = if on.evacuator.is_evacuating() { "evacuating" } else { "running" };
                let id = on.claim.try_lock().map_or(0, |claim| claim.id().seq);
                let _ = reply.send(self.status(phase, id)); // the asker has gone
                Next::Look
            }
        }
    }

    fn notice_a_jump_of_the_clock(&mut self, on: &mut Protected) {
        if let Some(jump) = (!on.evacuator.is_evacuating()).then(|| self.clock.catch_up()).flatten() {
            tracing::warn!(
                jump_ms = jump,
                "the clock jumped: the machine slept or was set; asking who owns the work"
            );
            on.evacuator.set_clock(self.clock);
            self.intake.forget_clock();
            on.renewal.renew_now();
        }
    }

    /// Looks at the workload, in every round, not only at SIGCHLD: signals may be merged. Returns how it ended once
    /// nothing is left of it.
    fn look(&self, on: &mut Protected) -> Option<Exit> {
        let life = match &mut on.evacuator.target {
            Target::Own(workload) => workload.reap(),
            Target::Foreign(foreign) if on.fenced.is_none() => {
                foreign.remember();
                Life::Running
            }
            Target::Foreign(_) => Life::Gone(Exit::Signal(KILLED)),
            Target::None if on.fenced.is_some() => Life::Gone(Exit::Code(0)),
            Target::None | Target::Leftover(_) => Life::Running,
        };
        match life {
            Life::Running => None,
            Life::Gone(exit) => Some(exit),
            Life::Orphans(_) if on.evacuator.is_evacuating() || on.fenced.is_some() => None,
            Life::Orphans(exit) => {
                if on.linger_until.is_none() {
                    tracing::info!(%exit, "the workload ended and left processes behind; asking them to stop");
                    if let Target::Own(workload) = &mut on.evacuator.target {
                        workload.ask_to_stop(self.site.settings.stop_signal.number());
                    }
                    on.linger_until = Some(Instant::now() + self.site.settings.linger.to_duration());
                }
                None
            }
        }
    }

    async fn evacuated(&self, claim: &SharedClaim, evacuator: &mut Evacuator, summary: Summary) -> RunEnd {
        /// The renewal may not have noticed yet; the time is nearly over.
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
        let is_lost = summary.verdict == Verdict::Incomplete
            && matches!(
                tokio::time::timeout(PATIENCE, async { claim.lock().await.renew().await }).await,
                Ok(Err(ClaimError::Fenced { .. }))
            );
        if is_lost {
            evacuator.forget_evacuation();
        } else {
            evacuator.settle();
        }
        evacuator.keep_record();
        let ending = if is_lost { Ending::LostClaim } else { Ending::Evacuated(summary.verdict) };
        let message = if is_lost { "the work belongs to somebody else now" } else { "evacuated" };
        let (_, code) = conclude(Exit::Code(0), ending);
        RunEnd { code, message: message.into(), summary: Some(summary) }
    }
}

impl Protected {
    fn new(claim: SharedClaim, evacuator: Evacuator) -> Self {
        let (renewal, lost) = Renewal::start(Arc::clone(&claim));
        Self {
            claim,
            evacuator,
            renewal,
            lost: Some(lost),
            waiting: Vec::new(),
            fenced: None,
            interrupts: 0,
            linger_until: None,
            survived_at: None,
            precopy: None,
            copy_now: false,
        }
    }

    /// Copies what has changed, in rounds. The last save is the evacuation's: a round that is under way ends then.
    fn copy(&mut self, site: &Arc<Site>) {
        if self.evacuator.is_evacuating() || self.fenced.is_some() {
            self.precopy = None;
            return;
        }
        if self.precopy.is_none() {
            self.precopy = Precopy::start(site, &self.claim, self.copy_now);
        }
        if std::mem::take(&mut self.copy_now)
            && let Some(precopy) = &self.precopy
        {
            precopy.round_now();
        }
    }
}

/// Deletes what the recovery points beyond the configured number alone need, best effort.
async fn prune_old_points(site: Arc<Site>) {
    let keep =
        usize::try_from(site.settings.keep).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    let plan = PrunePlan { keep, holder: None, is_dry_run: false };
    match prune(&site.workload, &plan).await {
        Ok(pruned) if pruned.objects.is_empty() => {}
        Ok(pruned) => {
            tracing::info!(
                objects = pruned.objects.len(),
                bytes = pruned.bytes,
                "pruned old recovery points"
            );
        }
        Err(error) => tracing::warn!(error = chain(&error), "cannot prune old recovery points"),
    }
}

fn pass_on(evacuator: &Evacuator, signal: OsSignal) {
    if let Target::Own(workload) = &evacuator.target {
        workload.signal(signal);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

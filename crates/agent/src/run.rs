//! `lifeboat run`: restore, start, watch, evacuate, conclude.
//!
//! The order of a run, each step only after the one before it:
//! lock → finish what a dead agent left → hold while the machine is about to go → claim → restore → start →
//! protect → conclude. Until the workload starts, any stop ends the run without having touched anything.

use std::ffi::OsString;
use std::sync::Arc;

use lifeboat_core::conclusion::{Conclusion, Ending, Exit, conclude, exit_code};
use lifeboat_core::evacuation::stage::Plan;
use lifeboat_core::evacuation::{Input, Progress};
use lifeboat_core::notice::{Action, Notice, Source};
use lifeboat_snapshot::Deadline;
use lifeboat_snapshot::claim::{Acquired, ClaimError};
use lifeboat_snapshot::journal::{self, RecoveryPoint, Release};
use lifeboat_worker::wire::SOCKET_VARIABLE;
use serde::Serialize;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use crate::app::serve::AppServer;
use crate::before::Stop;
use crate::begin::{RestorePlan, acquire_patiently, environment, log_plan, restore_into, restore_plan};
use crate::clock::LocalClock;
use crate::control::{Server, Status};
use crate::evacuator::{Evacuator, Target};
use crate::hands::{MakeProgress, Site, chain};
use crate::holding::{Holding, SharedClaim, descends};
use crate::intake::{Event, Intake};
use crate::metrics::Served;
use crate::ports::Ports;
use crate::process::{Mark, Workload};
use crate::record::{Record, RecordFile};
use crate::renewal::Renewal;
use crate::resume::loss;
use crate::ring::LogRing;
use crate::setup::{RunError, Setup};
use crate::summary::Summary;
use crate::whereabouts::whereabouts;

/// What a caller adds to the set-up.
#[derive(Clone)]
pub struct Ui {
    /// The agent's own last log lines.
    pub ring: LogRing,
    /// For progress bars.
    pub progress: MakeProgress,
    /// Queues and tables.
    pub ports: Ports,
}

impl std::fmt::Debug for Ui {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ui").finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunEnd {
    /// The exit code.
    pub code: u8,
    /// In a sentence.
    pub message: String,
    /// What was evacuated, if anything was.
    pub summary: Option<Summary>,
}

impl RunEnd {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), summary: None }
    }
}

/// How an evacuation without a running workload ended.
pub(crate) enum Driven {
    /// As it should.
    Over(Summary),
    /// By an interrupt.
    BrokenOff,
    /// The work is somebody else's.
    Lost(ClaimError),
}

/// Runs `command` under protection until it has ended, was evacuated, or belongs to somebody else.
///
/// # Errors
/// [`RunError`] when the workload was not started, or the end of its work could not be recorded.
pub async fn run(setup: &Setup, command: &[OsString], ui: Ui) -> Result<RunEnd, RunError> {
    live(setup, Some(command), ui).await
}

/// The life of an agent: with a command it starts that, without one it protects what others start.
pub(crate) async fn live(setup: &Setup, command: Option<&[OsString]>, ui: Ui) -> Result<RunEnd, RunError> {
    setup.dirs.create()?;
    let _lock = setup.dirs.lock()?;
    setup.keep_config();
    let (server, requests) = Server::start(&setup.dirs.socket)
        .map_err(|source| RunError::System { what: "cannot listen on the control socket", source })?;
    let intake = Intake::start(setup, requests)
        .map_err(|source| RunError::System { what: "cannot catch signals", source })?;
    let site = Arc::new(setup.site(whereabouts(setup).await, ui)?);
    let _served = match setup.settings.cloud.metrics.prometheus {
        Some(address) => Served::start(address, Arc::clone(&site.meter)).await,
        None => None,
    };
    let file = RecordFile::new(&setup.dirs.agent);
    let record = file.load();
    let clock = LocalClock::start();
    let is_agent = command.is_none();
    let mut run =
        Run { setup, site, intake, clock, file, record, has_unsaved: false, is_agent, announced: None };
    let mut end = match command {
        Some(command) => Box::pin(run.whole(command)).await,
        None => Box::pin(run.watch_over()).await,
    };
    run.site.heralds.settle().await;
    if let Ok(RunEnd { summary: Some(summary), .. }) = &mut end {
        summary.not_told = run.site.heralds.failed();
    }
    // What is owed to a database that was told to hold still; bounded by its own time-out.
    run.site.hooks.settle().await;
    drop(run); // whoever still waits for an answer is told that there is none
    server.close().await;
    end
}

pub(crate) struct Run<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) site: Arc<Site>,
    pub(crate) intake: Intake,
    pub(crate) clock: LocalClock,
    pub(crate) file: RecordFile,
    pub(crate) record: Record,
    /// A dead agent's workload worked here, and what it did since the last recovery point is nowhere else.
    pub(crate) has_unsaved: bool,
    /// Others start what is protected.
    pub(crate) is_agent: bool,
    /// A notice that came while what runs here already was not claimed yet.
    pub(crate) announced: Option<Notice>,
}

impl Run<'_> {
    async fn whole(&mut self, command: &[OsString]) -> Result<RunEnd, RunError> {
        if let Some(end) = self.finish_what_a_dead_agent_left().await? {
            return Ok(end);
        }
        if let Some(end) = self.hold_while_the_machine_is_about_to_go().await? {
            return Ok(end);
        }
        let (claim, mut environment) = match self.claim_and_restore().await? {
            Ok(ready) => ready,
            Err(end) => return Ok(end),
        };
        let run_id = lifeboat_snapshot::id::Nonce::random().to_string();
        self.hand_over_what_was_left().await;
        remove_old_signal_file(&self.site);
        let mut record = Record {
            progress: Progress::Idle { handled: handled(&self.record) },
            // Before it is started: an agent that dies in between must find it again.
            workload: Some(Mark { run_id: run_id.clone(), leader: 0, born: None }),
            base: self.record.base.clone(),
            ..Record::default()
        };
        self.file.store(&record);
        let socket = &self.setup.dirs.app_socket;
        let _app_server = AppServer::start(&self.site.app, socket).map_err(|source| RunError::System {
            what: "cannot listen on the application's socket",
            source,
        })?;
        environment.push((SOCKET_VARIABLE, socket.clone().into()));
        let workload = match Workload::start(command, &self.site.work_dir, &environment, &run_id) {
            Ok(workload) => workload,
            Err(error) => {
                self.file.store(&self.record);
                if !self.has_unsaved {
                    // Nothing was begun: whoever can start the command may have the work at once.
                    give_up(&claim, "the command could not be started").await;
                }
                return Err(error.into());
            }
        };
        record.workload = Some(workload.mark().clone());
        let evacuator = Evacuator::new(
            Arc::clone(&self.site),
            Holding::held(Arc::clone(&claim)),
            self.clock,
            (self.file.clone(), record),
            Target::Own(workload),
            self.site.settings.plan,
        );
        evacuator.keep_record();
        tracing::info!(workload = %self.site.workload.name(), run_id, "workload started");
        Box::pin(self.protect(claim, evacuator)).await
    }

    /// Tasks of an agent that died on this machine: no process of theirs is left, so that others may have them.
    pub(crate) async fn hand_over_what_was_left(&self) {
        let deadline = Deadline::at(Instant::now() + HAND_OVER_WAIT);
        let handed = self.site.app.hand_over(Vec::new(), Some(std::time::Duration::ZERO), &deadline).await;
        if !handed.is_nothing() {
            tracing::info!(what = handed.text(), "handed over what the workload before had left");
            self.site.app.spool_now();
        }
    }

    pub(crate) fn status(&self, phase: &str, claim: u64) -> Status {
        Status {
            workload: self.site.workload.name().to_string(),
            instance: self.site.instance.clone(),
            pid: std::process::id(),
            phase: phase.to_owned(),
            claim,
            task: self.site.task.clone(),
            metadata: self.intake.seen().clone(),
        }
    }

    /// Claims the work and brings the work directory to where it stands.
    pub(crate) async fn claim_and_restore(&mut self) -> Result<Result<Ready, RunEnd>, RunError> {
        let claimant = self.setup.claimant(&self.site.instance)?;
        let workload = self.site.workload.clone();
        let wait = Instant::now() + self.site.settings.claim_wait.to_duration();
        tracing::info!(workload = %workload.name(), instance = self.site.instance, "claiming the work");
        let fence = self.fence();
        let acquired = loop {
            let stop = tokio::select! {
                acquired = acquire_patiently(&workload, &claimant, wait, || fence.held_elsewhere()) => break acquired?,
                stop = self.next_stop(false) => stop,
            };
            if let Some(stop) = stop
                && !self.keeps_for_later(&stop).await
                && let Some(end) = self.stopped(stop).await?
            {
                return Ok(Err(end));
            }
        };
        self.record.stopped |= fence.is_ended();
        let Acquired { claim, resume, how } = acquired;
        let claim: SharedClaim = Arc::new(Mutex::new(claim));
        // Restoring may take longer than the lease.
        let (_renewal, mut lost) = Renewal::start(Arc::clone(&claim));
        let descends = match &resume {
            None => true,
            Some(point) => {
                let records = journal::records(&workload).await?;
                descends(&records, &claimant, self.record.base.as_ref(), point)
            }
        };
        let plan = restore_plan(resume, descends, &self.record, &self.site);
        log_plan(&how, &plan);
        let plan = self.restore_where_it_may_be(plan);
        if let RestorePlan::Restore { point } = &plan
            && let Some(end) = self.bring_here(&claim, point, &mut lost).await?
        {
            return Ok(Err(end));
        }
        self.site.app.claimed(claim.lock().await.id().seq);
        let environment = environment(&self.site, &how, &plan).await;
        Ok(Ok((claim, environment)))
    }

    /// Brings the work directory to `point`. Returns how the run ended where something stopped it.
    async fn bring_here(
        &mut self,
        claim: &SharedClaim,
        point: &RecoveryPoint,
        lost: &mut oneshot::Receiver<ClaimError>,
    ) -> Result<Option<RunEnd>, RunError> {
        if let Err(error) = self.nothing_runs_here().await {
            give_up(claim, "its directory is in use").await;
            return Err(error);
        }
        let progress = Progress::Idle { handled: handled(&self.record) };
        let base = self.record.base.take();
        let stopped = self.record.stopped;
        self.record = Record { restoring: true, stopped, progress, base: base.clone(), ..Record::default() };
        self.file.store(&self.record);
        let site = Arc::clone(&self.site);
        let restored = tokio::select! {
            restored = restore_into(&site, point, base.as_ref()) => restored,
            stop = self.next_call_to_stop() => {
                // Nothing here is newer than what is stored.
                give_up(claim, "interrupted while the work was being restored").await;
                let code = if let Stop::Signal(code) = stop { code } else { exit_code::EVACUATED };
                return Ok(Some(RunEnd::new(code, "stopped while the work was being restored; it is given back")));
            }
            Ok(error) = lost => return Err(error.into()),
        };
        if let Err(error) = restored {
            give_up(claim, "it could not be restored").await;
            return Err(error);
        }
        self.record.base = Some(point.manifest.clone());
        Ok(None)
    }

    /// A notice whose deadline this machine's configuration gives: SIGTERM, or somebody's wish.
    pub(crate) fn own_notice(&self, clock: LocalClock, source: Source) -> Notice {
        let settings = &self.site.settings;
        let grace = match source {
            Source::Operator | Source::Failure => settings.operator_grace,
            Source::LifecycleState => settings.lifecycle_grace,
            Source::Sigterm | Source::InstanceAction | Source::TerminationTime => settings.grace,
        };
        let deadline = clock.now() + grace;
        Notice { source, action: Action::Terminate, key: None, deadline }
    }

    /// The workload ended without having been stopped: finished work is marked done, failed work is saved
    /// and given back.
    pub(crate) async fn ended_by_itself(
        &mut self,
        claim: SharedClaim,
        mut evacuator: Evacuator,
        exit: Exit,
    ) -> Result<RunEnd, RunError> {
        let (conclusion, code) = conclude(exit, Ending::ByItself);
        match conclusion {
            Conclusion::MarkDone => {
                // Tasks that it did not end: somebody else may have them.
                self.hand_over_what_was_left().await;
                let until = Instant::now() + self.site.settings.operator_grace.to_duration();
                mark_done(&claim, until).await?;
                evacuator.record.workload = None;
                evacuator.keep_record();
                tracing::info!("the work is done");
                Ok(RunEnd::new(code, "the work is done"))
            }
            Conclusion::SaveAndRelease => {
                tracing::warn!(%exit, "the workload failed; saving what it left, so that it can be tried again");
                let plan = Plan { clean_up: false, has_workload: false, ..self.site.settings.plan };
                let parts = (self.file.clone(), evacuator.record.clone());
                let site = Arc::clone(evacuator.site());
                let clock = evacuator.clock();
                let holding = Holding::held(claim);
                let mut evacuator = Evacuator::new(site, holding, clock, parts, Target::None, plan);
                let notice = Input::Notice(self.own_notice(clock, Source::Failure));
                // A hibernation that was outlived must not be taken for this one.
                evacuator.feed(Input::Survived);
                let summary = match self.drive(&mut evacuator, notice, &mut None, Vec::new()).await {
                    Driven::Over(summary) => Some(summary),
                    Driven::BrokenOff | Driven::Lost(_) => None,
                };
                evacuator.settle();
                evacuator.keep_record();
                Ok(RunEnd { code, message: format!("the workload failed with {exit}"), summary })
            }
            Conclusion::Leave => Ok(RunEnd::new(code, "left as it is")),
        }
    }

    /// Runs an evacuation to its end, without a workload of this process. An interrupt breaks it off.
    pub(crate) async fn drive(
        &mut self,
        evacuator: &mut Evacuator,
        first: Input,
        lost: &mut Option<oneshot::Receiver<ClaimError>>,
        mut waiting: Vec<oneshot::Sender<Summary>>,
    ) -> Driven {
        let clock = evacuator.clock();
        let mut summary = evacuator.feed(first);
        loop {
            if let Some(summary) = summary {
                answer(&mut waiting, &summary);
                return Driven::Over(summary);
            }
            let handled = evacuator.handled();
            let input = tokio::select! {
                event = self.intake.next(handled, || clock.now()) => match event {
                    Event::Notice(notice) | Event::Expect(notice) => Input::Notice(notice),
                    Event::Interrupt => return Driven::BrokenOff,
                    Event::Terminate => Input::Notice(self.own_notice(clock, Source::Sigterm)),
                    Event::Evacuate(reply) => {
                        waiting.push(reply);
                        Input::Notice(self.own_notice(clock, Source::Operator))
                    }
                    Event::Status(reply) => {
                        let _ = reply.send(self.status("evacuating", 0)); // the asker has gone
                        continue;
                    }
                    Event::Child | Event::PassOn(_) | Event::Withdrawn | Event::Quiet | Event::CopyNow => continue,
                },
                stage = evacuator.next() => stage,
                error = loss(lost) => return Driven::Lost(error),
            };
            summary = evacuator.feed(input);
        }
    }
}

/// What a workload leaves of its tasks when it ends by itself, or has left before, is handed over within so long.
const HAND_OVER_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

type Ready = (SharedClaim, Vec<(&'static str, OsString)>);

/// Gives the work back untouched, best effort: without it the lease has to run out.
pub(crate) async fn give_up(claim: &SharedClaim, why: &str) {
    /// One small write; a store that is slower than this is waited for by whoever comes next.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
    let release = Release { reason: why.to_owned(), ..Release::default() };
    let released = tokio::time::timeout(PATIENCE, async { claim.lock().await.release(release).await }).await;
    match released {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = chain(&error), "cannot give the work back"),
        Err(_) => tracing::warn!("cannot give the work back: the store does not answer"),
    }
}

/// Marks the work done, repeating until `until` what the store refuses.
async fn mark_done(claim: &SharedClaim, until: Instant) -> Result<(), ClaimError> {
    let pause = std::time::Duration::from_millis(500);
    loop {
        match claim.lock().await.done(0).await {
            Err(ClaimError::Store(error)) if Instant::now() + pause < until => {
                tracing::warn!(error = chain(&error), "cannot mark the work done; trying again");
            }
            other => return other,
        }
        tokio::time::sleep(pause).await;
    }
}

pub(crate) fn remove_old_signal_file(site: &Site) {
    match std::fs::remove_file(&site.signal_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %site.signal_file.display(), "cannot remove the signal file of an earlier run");
        }
        Ok(()) | Err(_) => {}
    }
}

pub(crate) fn answer(waiting: &mut Vec<oneshot::Sender<Summary>>, summary: &Summary) {
    for asker in waiting.drain(..) {
        let _ = asker.send(summary.clone()); // the asker has gone
    }
}

pub(crate) fn handled(record: &Record) -> Option<lifeboat_core::notice::Key> {
    match &record.progress {
        Progress::Idle { handled } => *handled,
        Progress::Evacuating { interruption, .. } | Progress::Finished { interruption, .. } => {
            interruption.key
        }
    }
}

//! `lifeboat agent`: protects what it did not start. A unit or a daemon comes and goes without it; the agent restores
//! its files before it begins, saves them while it runs, and ends it at the notice.
//!
//! The order is that of a run (`run.rs`), without a command of its own. What follows from that:
//! * The agent ends and the work goes on: whoever restarts it wants that. It says so, and the claim lapses after its
//!   lease unless the agent is back by then.
//! * A claim that is lost ends the work here, as it does for a command: two machines never work at once.
//! * What the agent stopped it starts again once the work is claimed and restored.

use std::cell::Cell;
use std::sync::Arc;

use lifeboat_core::evacuation::Progress;

use crate::app::serve::AppServer;
use crate::before::Stop;
use crate::begin::RestorePlan;
use crate::config::{OnSigterm, Protected};
use crate::evacuator::{Evacuator, Target};
use crate::foreign::Foreign;
use crate::holding::Holding;
use crate::process::Mark;
use crate::record::{Record, RecordFile};
use crate::run::{Run, RunEnd, Ui, handled, live, remove_old_signal_file};
use crate::setup::{RunError, Setup};
use crate::systemd;

/// Protects what the configuration names in `[protect]` until it was evacuated or belongs to somebody else, or the
/// agent itself is asked to end.
///
/// # Errors
/// [`RunError`] when protection cannot begin; nothing was stopped or overwritten then.
pub async fn agent(setup: &Setup, ui: Ui) -> Result<RunEnd, RunError> {
    let end = live(setup, None, ui).await;
    systemd::tell("STOPPING=1");
    end
}

/// What the configuration names in `[protect]`, for people, and whether it runs, or why nobody can tell. `None`: only
/// directories are protected. Changes nothing.
pub async fn protected(setup: &Setup) -> Option<(String, Result<bool, String>)> {
    let foreign = Foreign::of(&setup.settings.protect.what)?;
    let runs = foreign.runs().await;
    Some((foreign.name(), runs))
}

impl Run<'_> {
    /// Claims, restores, starts what is to be started, protects.
    pub(crate) async fn watch_over(&mut self) -> Result<RunEnd, RunError> {
        let what = self.name_of_it();
        self.look_whether_it_exists().await?;
        if let Some(end) = self.finish_what_a_dead_agent_left().await? {
            return Ok(end);
        }
        systemd::tell("STATUS=Waiting for the work");
        // What runs already does not wait for us: held back, it would go with the machine unsaved.
        if self.runs().await != Some(true)
            && let Some(end) = self.hold_while_the_machine_is_about_to_go().await?
        {
            return Ok(end);
        }
        let claim = match self.claim_and_restore().await? {
            Ok((claim, _for_a_command)) => claim,
            Err(end) => return Ok(end),
        };
        // Workers that go on keep their messages.
        if self.runs().await == Some(false) {
            self.hand_over_what_was_left().await;
        }
        remove_old_signal_file(&self.site);
        let record = Record {
            progress: Progress::Idle { handled: handled(&self.record) },
            workload: Some(Mark::of_others()),
            base: self.record.base.clone(),
            ..Record::default()
        };
        self.file.store(&Record { stopped: self.record.stopped, ..record.clone() });
        let socket = &self.setup.dirs.app_socket;
        let _app_server = AppServer::start(&self.site.app, socket).map_err(|source| RunError::System {
            what: "cannot listen on the application's socket",
            source,
        })?;
        self.start_it().await?;
        let target = self.site.foreign.clone().map_or(Target::None, Target::Foreign);
        let mut plan = self.site.settings.plan;
        plan.has_workload = !matches!(target, Target::None);
        let parts = (self.file.clone(), record);
        let holding = Holding::held(Arc::clone(&claim));
        let evacuator = Evacuator::new(Arc::clone(&self.site), holding, self.clock, parts, target, plan);
        evacuator.keep_record();
        tracing::info!(what, work_dir = %self.site.work_dir.display(), "protecting");
        systemd::tell(&format!("READY=1\nSTATUS=Protecting {what}"));
        Box::pin(self.protect(claim, evacuator)).await
    }

    fn name_of_it(&self) -> String {
        let directory = || self.site.work_dir.display().to_string();
        self.site.foreign.as_ref().map_or_else(directory, |foreign| foreign.name())
    }

    /// A unit that was misspelt would never be stopped.
    async fn look_whether_it_exists(&self) -> Result<(), RunError> {
        let Some(foreign) = &self.site.foreign else { return Ok(()) };
        match (foreign.runs().await, foreign.as_ref()) {
            (Ok(_), _) => Ok(()),
            (Err(problem), Foreign::Unit(_)) => Err(RunError::Protect { what: foreign.name(), problem }),
            (Err(problem), Foreign::PidFile(_)) => {
                tracing::warn!(problem, "nothing would be stopped now; it is looked at again at the notice");
                Ok(())
            }
        }
    }

    /// Whether it runs; `None`: nobody can tell.
    async fn runs(&self) -> Option<bool> {
        match &self.site.foreign {
            Some(foreign) => foreign.runs().await.ok(),
            None => None,
        }
    }

    /// A notice is for what runs here, whether or not it is claimed yet: it is evacuated as soon as it is.
    pub(crate) async fn keeps_for_later(&mut self, stop: &Stop) -> bool {
        let announced = match stop {
            Stop::Notice(notice) | Stop::Expected(notice) => Some(*notice),
            Stop::Withdrawn => None,
            Stop::Signal(_) | Stop::Evacuate(_) => return false,
        };
        if !self.is_agent || self.has_unsaved || self.runs().await != Some(true) {
            return false;
        }
        self.announced = announced;
        true
    }

    /// What is in use is not written to.
    pub(crate) async fn nothing_runs_here(&self) -> Result<(), RunError> {
        if self.is_agent && self.runs().await == Some(true) {
            return Err(RunError::RunsAlready { what: self.name_of_it(), path: self.site.work_dir.clone() });
        }
        Ok(())
    }

    /// What is to be ended here if another machine holds the work: what this one protected before.
    pub(crate) fn fence(&self) -> Fence {
        // What was never protected here may have been started for a reason.
        let foreign = self.site.foreign.clone().filter(|_| self.is_agent && self.has_unsaved);
        Fence { foreign, file: self.file.clone(), record: self.record.clone(), is_ended: Cell::new(false) }
    }

    /// Where restoring is switched off the files stay as they are.
    pub(crate) fn restore_where_it_may_be(&self, plan: RestorePlan) -> RestorePlan {
        if self.is_agent
            && !self.site.settings.protect.restore
            && let RestorePlan::Restore { point } = &plan
        {
            tracing::warn!(
                generation = point.seq,
                "`protect.restore` is off: what was evacuated is not restored, and what is here will take its place"
            );
            return RestorePlan::Keep;
        }
        plan
    }

    /// Starts the unit, where that is asked for or it was the agent that had stopped it.
    async fn start_it(&self) -> Result<(), RunError> {
        let (protect, foreign) = (&self.site.settings.protect, &self.site.foreign);
        let Some(Foreign::Unit(unit)) = foreign.as_deref().filter(|_| protect.start || self.record.stopped)
        else {
            if let (Protected::PidFile(_), true) = (&protect.what, self.record.stopped) {
                tracing::warn!(
                    "the daemon was stopped for an evacuation; it is for its own supervisor to start it"
                );
            }
            return Ok(());
        };
        tracing::info!(unit = unit.name(), "starting the unit");
        unit.start().await.map_err(|error| RunError::Protect {
            what: format!("the unit {}", unit.name()),
            problem: format!("it cannot be started: {error}"),
        })
    }

    /// Whether SIGTERM ends the agent alone.
    pub(crate) async fn leaves_on_sigterm(&self) -> bool {
        if !self.is_agent {
            return false;
        }
        match self.site.settings.protect.on_sigterm {
            Some(OnSigterm::Leave) => true,
            Some(OnSigterm::Evacuate) => false,
            // Without systemd nobody ends an agent but with its container.
            None => systemd::is_our_supervisor() && systemd::is_shutting_down().await == Some(false),
        }
    }

    /// The agent ends; the work goes on.
    pub(crate) fn left(&self) -> RunEnd {
        let message = format!(
            "{} is left as it is, unprotected until this agent is back; after {} another machine may take the work over",
            self.name_of_it(),
            self.site.settings.lease
        );
        tracing::warn!("{message}");
        RunEnd::new(0, message)
    }
}

/// Keeps two machines from working at once.
pub(crate) struct Fence {
    foreign: Option<Arc<Foreign>>,
    file: RecordFile,
    record: Record,
    is_ended: Cell<bool>,
}

impl Fence {
    /// Another machine holds the work.
    pub(crate) fn held_elsewhere(&self) {
        let Some(foreign) = self.foreign.as_ref().filter(|_| !self.is_ended.get()) else { return };
        tracing::error!(what = foreign.name(), "another machine took the work over; it is killed here");
        if !foreign.kill() {
            tracing::error!(what = foreign.name(), "it does not end");
        }
        self.is_ended.set(true);
        self.file.store(&Record { stopped: true, ..self.record.clone() });
    }

    /// Whether something was ended.
    pub(crate) const fn is_ended(&self) -> bool {
        self.is_ended.get()
    }
}

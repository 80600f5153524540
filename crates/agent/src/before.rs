//! Before the workload starts: what a dead agent left is brought to its end, and nothing is begun on a machine
//! that is about to go.

use lifeboat_core::conclusion::{Ending, Exit, conclude, exit_code};
use lifeboat_core::evacuation::stage::{Outcome, Stage, StageState};
use lifeboat_core::evacuation::{Input, Progress, Verdict};
use lifeboat_core::notice::{Action, Notice, Source};
use lifeboat_core::time::Millis;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::hands::chain;
use crate::intake::Event;
use crate::resume::take_over;
use crate::run::{Driven, Run, RunEnd, handled};
use crate::setup::RunError;
use crate::summary::Summary;

/// How long to wait for the metadata service's first answer before work begins: two tries.
const FIRST_ANSWER: Millis = Millis::from_secs(2);

/// What stops a run before its workload has started.
pub(crate) enum Stop {
    /// SIGTERM or SIGINT, with the exit code.
    Signal(u8),
    /// The machine is about to go.
    Notice(Notice),
    /// The same, and its work was evacuated for this before.
    Expected(Notice),
    /// It stays after all.
    Withdrawn,
    /// Somebody asks for an evacuation.
    Evacuate(Option<oneshot::Sender<Summary>>),
}

impl Run<'_> {
    /// An agent that was killed in the middle of an evacuation left a record: the evacuation goes on within
    /// its deadline. One that was killed otherwise left its workload running: it is stopped before another
    /// one is started in the same directory.
    pub(crate) async fn finish_what_a_dead_agent_left(&mut self) -> Result<Option<RunEnd>, RunError> {
        if let Progress::Evacuating { interruption, .. } = &self.record.progress {
            let over = interruption.deadline + self.site.settings.patience.stale;
            if self.clock.now() < over {
                tracing::warn!(
                    "the agent before this one was killed in the middle of an evacuation; going on with it"
                );
                let message = "resumed the evacuation that a killed agent had begun";
                if let Some(end) = self.take_over(Input::Resumed, message, Vec::new()).await? {
                    return Ok(Some(end));
                }
            } else {
                tracing::warn!(
                    "the agent before this one was killed in the middle of an evacuation, and the machine outlived the interruption; going on with the work"
                );
            }
        }
        let Some(mark) = &self.record.workload else { return Ok(None) };
        self.has_unsaved = !is_settled(&self.record.progress);
        let left = mark.processes().len();
        if left > 0 {
            tracing::warn!(
                left,
                "the agent before this one was killed and left its workload running; stopping it first"
            );
            let signal = self.site.settings.stop_signal.number();
            let until = Instant::now() + self.site.settings.plan.budget(Stage::Drain).wanted.to_duration();
            if !mark.stop(signal, until).await && !mark.kill() {
                tracing::error!(
                    "processes of the workload before cannot be killed; the directory may change under the new one"
                );
            }
        }
        Ok(None)
    }

    /// Evacuates in place of a dead agent. `None`: the run goes on; this machine was hibernated and its workload
    /// did not end, or the work turned out to be somebody else's by now.
    async fn take_over(
        &mut self,
        first: Input,
        message: &str,
        waiting: Vec<oneshot::Sender<Summary>>,
    ) -> Result<Option<RunEnd>, RunError> {
        let parts = (self.file.clone(), self.record.clone());
        let mut taken = take_over(self.setup, &self.site, self.clock, parts)?;
        let evacuator = &mut taken.evacuator;
        if first != Input::Resumed {
            // A hibernation that was outlived must not be taken for this one.
            evacuator.feed(Input::Survived);
        }
        let driven = self.drive(evacuator, first, &mut taken.lost, waiting).await;
        let goes_on = evacuator.workload_goes_on();
        let end = match driven {
            Driven::Over(_) if goes_on => None,
            Driven::Over(summary) => {
                evacuator.kill_workload();
                evacuator.settle();
                let (_, code) = conclude(Exit::Code(0), Ending::Evacuated(summary.verdict));
                Some(RunEnd { code, message: message.to_owned(), summary: Some(summary) })
            }
            Driven::BrokenOff => {
                evacuator.kill_workload();
                let message = "ended by an interrupt; the files are where they were";
                return Ok(Some(RunEnd::new(exit_code::SIGNAL_BASE + 2, message)));
            }
            Driven::Lost(error) => {
                tracing::error!(
                    error = chain(&error),
                    "what a dead agent left here is not the newest any more"
                );
                evacuator.kill_workload();
                evacuator.forget_evacuation();
                let end = RunEnd::new(exit_code::NOT_OURS, chain(&error));
                // An evacuation that is over for this machine does not keep it from waiting for its turn.
                (first != Input::Resumed).then_some(end)
            }
        };
        evacuator.keep_record();
        self.record = evacuator.record.clone();
        Ok(end)
    }

    /// Waits for the metadata service's first answer, and while it announces an interruption: work that was
    /// begun now would only have to be evacuated.
    pub(crate) async fn hold_while_the_machine_is_about_to_go(&mut self) -> Result<Option<RunEnd>, RunError> {
        if !self.intake.is_watching() {
            return Ok(None);
        }
        let first_answer = self.clock.instant(self.clock.now() + FIRST_ANSWER);
        let stop = tokio::select! {
            stop = self.next_stop(true) => stop,
            () = tokio::time::sleep_until(first_answer) => None,
        };
        match stop {
            Some(stop) => self.stopped(stop).await,
            None => Ok(None), // asked, and nothing is announced
        }
    }

    /// A stop before the workload has started. What a dead agent left unsaved is evacuated now. Otherwise a
    /// notice holds the run until its machine is gone, or surely stays: `None`.
    pub(crate) async fn stopped(&mut self, mut stop: Stop) -> Result<Option<RunEnd>, RunError> {
        let mut held_until = self.clock.now();
        // Ends with the last of the announced instants, or with a signal.
        loop {
            if matches!(stop, Stop::Signal(_)) && self.leaves_on_sigterm().await {
                return Ok(Some(self.left()));
            }
            if self.has_unsaved
                && let Some((notice, waiting)) = self.evacuation_for(&mut stop)
            {
                tracing::warn!("the agent before this one was killed; evacuating what its workload left");
                let message = "evacuated what a killed agent had left";
                let end = self.take_over(Input::Notice(notice), message, waiting).await?;
                self.has_unsaved = false;
                if end.is_some() {
                    return Ok(end);
                }
            }
            match stop {
                Stop::Signal(code) => return Ok(Some(RunEnd::new(code, "stopped before the work began"))),
                Stop::Withdrawn => return Ok(None),
                Stop::Evacuate(_) => {} // dropped: the asker is told that nothing has begun
                Stop::Notice(notice) | Stop::Expected(notice) => {
                    held_until = held_until.max(notice.deadline + self.site.settings.patience.stale);
                    let left = notice.deadline.since(self.clock.now());
                    tracing::warn!(action = %notice.action, %left, "this machine is about to be interrupted: no work is begun on it");
                }
            }
            let until = self.clock.instant(held_until);
            stop = tokio::select! {
                next = self.next_stop(false) => match next {
                    Some(next) => next,
                    None => return Ok(None),
                },
                () = tokio::time::sleep_until(until) => return Ok(None),
            };
        }
    }

    /// The evacuation that `stop` calls for, and who waits for its result.
    fn evacuation_for(&self, stop: &mut Stop) -> Option<(Notice, Vec<oneshot::Sender<Summary>>)> {
        let own = |source| self.own_notice(self.clock, source);
        match stop {
            Stop::Signal(exit_code::EVACUATED) => Some((own(Source::Sigterm), Vec::new())),
            Stop::Evacuate(reply) => Some((own(Source::Operator), reply.take().into_iter().collect())),
            Stop::Notice(notice) => Some((*notice, Vec::new())),
            // What could not be stored then is tried again. Without its key: this is not the same evacuation.
            Stop::Expected(notice) => Some((Notice { key: None, ..*notice }, Vec::new())),
            Stop::Signal(_) | Stop::Withdrawn => None,
        }
    }

    /// Waits for something that stops a run while it restores.
    pub(crate) async fn next_call_to_stop(&mut self) -> Stop {
        loop {
            match self.next_stop(false).await {
                Some(Stop::Withdrawn) | None => {}
                Some(stop) => return stop,
            }
        }
    }

    /// Waits for something that stops a run before it has begun. `None`: the metadata service was asked and
    /// announces nothing (only where `quiet_counts`).
    pub(crate) async fn next_stop(&mut self, quiet_counts: bool) -> Option<Stop> {
        let handled = handled(&self.record);
        let clock = self.clock;
        loop {
            match self.intake.next(handled, || clock.now()).await {
                Event::Terminate => return Some(Stop::Signal(exit_code::EVACUATED)),
                Event::Interrupt => return Some(Stop::Signal(exit_code::SIGNAL_BASE + 2)),
                Event::Notice(notice) => return Some(Stop::Notice(notice)),
                Event::Expect(notice) => return Some(Stop::Expected(notice)),
                Event::Withdrawn => return Some(Stop::Withdrawn),
                Event::Quiet if quiet_counts && self.intake.seen().reachable.is_some() => return None,
                Event::Quiet | Event::CopyNow | Event::Child | Event::PassOn(_) => {}
                Event::Status(reply) => {
                    let _ = reply.send(self.status("starting", 0)); // the asker has gone
                }
                Event::Evacuate(reply) if self.has_unsaved => return Some(Stop::Evacuate(Some(reply))),
                Event::Evacuate(reply) => {
                    // The result that there is; without one the asker is told that nothing has begun.
                    if let Some(summary) = Summary::of(&self.record, &self.site) {
                        let _ = reply.send(summary); // the asker has gone
                    }
                }
            }
        }
    }
}

/// Whether the last evacuation stored everything, and the workload did nothing after it.
pub(crate) fn is_all_saved(progress: &Progress) -> bool {
    match progress {
        Progress::Idle { .. } | Progress::Evacuating { .. } => false,
        Progress::Finished { interruption, verdict, .. } => {
            *verdict == Verdict::Complete && interruption.action != Action::Hibernate
        }
    }
}

/// Whether nothing is left to be saved here: it is all stored, or what is stored was handed back and the rest
/// cannot be.
pub(crate) fn is_settled(progress: &Progress) -> bool {
    let is_handed_back = match progress {
        Progress::Idle { .. } | Progress::Evacuating { .. } => false,
        Progress::Finished { stages, .. } => {
            matches!(stages[Stage::HandBack.index()], StageState::Ended { outcome: Outcome::Done, .. })
        }
    };
    is_handed_back || is_all_saved(progress)
}

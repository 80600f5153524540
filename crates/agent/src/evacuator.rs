//! The driver of the evacuation machine: carries its effects out in order, feeds what came of them back.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_core::evacuation::reason::Reason;
use lifeboat_core::evacuation::stage::{Plan, Report, STAGES, Stage};
use lifeboat_core::evacuation::{Effect, Evacuation, Input, Progress, Turn};
use lifeboat_core::notice::{Action, Interruption, Key};
use lifeboat_core::time::Timestamp;
use lifeboat_snapshot::Deadline;
use rustix::process::Signal as OsSignal;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::before::is_settled;
use crate::clock::LocalClock;
use crate::dirs::{Outlive, write_atomically};
use crate::foreign::Foreign;
use crate::hands::{self, Handed, Site, Stored};
use crate::holding::Holding;
use crate::lifecycle::Heartbeats;
use crate::ports::News;
use crate::process::{Life, Mark, Workload};
use crate::record::{Record, RecordFile};
use crate::summary::Summary;

/// More reports than there are stages never wait.
const REPORTS: usize = 2 * STAGES;

/// The processes that are drained.
#[derive(Debug)]
pub(crate) enum Target {
    /// There are none.
    None,
    /// Children of this process.
    Own(Workload),
    /// Left running by an agent that died.
    Leftover(Mark),
    /// Started by somebody else.
    Foreign(Arc<Foreign>),
}

/// Drives one machine.
#[derive(Debug)]
pub(crate) struct Evacuator {
    site: Arc<Site>,
    holding: Holding,
    clock: LocalClock,
    machine: Evacuation,
    pub(crate) target: Target,
    pub(crate) record: Record,
    file: RecordFile,
    running: BTreeMap<Stage, Running>,
    starts: u64,
    sender: mpsc::Sender<Ended>,
    reports: mpsc::Receiver<Ended>,
    wake_at: Option<Timestamp>,
    heartbeats: Option<Heartbeats>,
}

#[derive(Debug)]
struct Running {
    start: u64,
    task: Option<AbortHandle>,
    deadline: watch::Sender<Option<Instant>>,
}

/// The report of a stage, with the number of its start: one that was abandoned meanwhile no longer counts.
#[derive(Debug)]
pub(crate) struct Ended {
    stage: Stage,
    start: u64,
    handed: Handed,
}

impl Evacuator {
    pub(crate) fn new(
        site: Arc<Site>,
        holding: Holding,
        clock: LocalClock,
        (file, record): (RecordFile, Record),
        target: Target,
        plan: Plan,
    ) -> Self {
        let (sender, reports) = mpsc::channel(REPORTS);
        Self {
            machine: Evacuation::from_record(plan, record.progress.clone()),
            site,
            holding,
            clock,
            target,
            record,
            file,
            running: BTreeMap::new(),
            starts: 0,
            sender,
            reports,
            wake_at: None,
            heartbeats: None,
        }
    }

    /// The interruption that was handled last.
    pub(crate) fn handled(&self) -> Option<Key> {
        self.machine.handled()
    }

    pub(crate) fn is_evacuating(&self) -> bool {
        matches!(self.machine.progress(), Progress::Evacuating { .. })
    }

    /// The interruption that is being handled, or was.
    pub(crate) fn interruption(&self) -> Option<&Interruption> {
        match self.machine.progress() {
            Progress::Idle { .. } => None,
            Progress::Evacuating { interruption, .. } | Progress::Finished { interruption, .. } => {
                Some(interruption)
            }
        }
    }

    pub(crate) const fn clock(&self) -> LocalClock {
        self.clock
    }

    /// The wall clock was set or the machine slept. Not in the middle of an evacuation: its times stay.
    pub(crate) fn set_clock(&mut self, clock: LocalClock) {
        if !self.is_evacuating() {
            self.clock = clock;
        }
    }

    pub(crate) const fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The work is somebody else's: a restart has nothing to go on with.
    pub(crate) fn forget_evacuation(&mut self) {
        self.record.progress = Progress::Idle { handled: self.machine.handled() };
        self.record.workload = None;
    }

    /// The evacuation is over and no process is left. Unless something is still to be saved here, a restart
    /// has nothing to look after.
    pub(crate) fn settle(&mut self) {
        if is_settled(&self.record.progress) {
            self.record.workload = None;
        }
    }

    /// Keeps the record as it stands.
    pub(crate) fn keep_record(&self) {
        self.file.store(&self.record);
    }

    /// Waits until a stage has ended or the machine wants to be woken, and returns the input for [`Self::feed`].
    /// Cancel-safe. Never returns while nothing is being evacuated.
    pub(crate) async fn next(&mut self) -> Input {
        let wake_at = self.wake_at.map(|at| self.clock.instant(at));
        loop {
            let woken = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(ended) = self.reports.recv() => {
                    if let Some(input) = self.accept(ended) {
                        return input;
                    }
                }
                () = woken => return Input::Tick,
            }
        }
    }

    /// Takes a stage's report in, unless the stage was abandoned or started anew meanwhile.
    fn accept(&mut self, ended: Ended) -> Option<Input> {
        if self.running.get(&ended.stage)?.start != ended.start {
            return None;
        }
        self.running.remove(&ended.stage);
        let Handed { report, detail, stored } = ended.handed;
        match report {
            Report::Done | Report::Nothing => tracing::info!(stage = %ended.stage, detail, "stage ended"),
            Report::Partly | Report::Failed => {
                tracing::error!(stage = %ended.stage, ?report, detail, "stage ended")
            }
        }
        if ended.stage == Stage::Drain && report == Report::Nothing {
            self.record.stopped = false; // it did not run
        }
        self.record.details[ended.stage.index()] = detail;
        match stored {
            Stored::Nothing => {}
            Stored::Snapshot(snapshot, manifest) => {
                self.record.saved.snapshot = Some(snapshot);
                self.record.base = Some(manifest);
            }
            Stored::State(object) => self.record.saved.state = Some(object),
            Stored::Logs(object) => self.record.saved.logs = Some(object),
        }
        Some(Input::Ended(ended.stage, report))
    }

    /// The workload has no process left.
    pub(crate) fn workload_gone(&mut self, exit: &str) {
        if let Some(running) = self.running.get(&Stage::Drain) {
            let handed = Handed { report: Report::Done, detail: exit.to_owned(), stored: Stored::Nothing };
            let ended = Ended { stage: Stage::Drain, start: running.start, handed };
            let _ = self.sender.try_send(ended); // full only when it was reported before
        }
    }

    /// One turn of the machine. Returns the summary when the evacuation is over.
    pub(crate) fn feed(&mut self, input: Input) -> Option<Summary> {
        let now = self.clock.now();
        if matches!((&input, self.machine.progress()), (Input::Survived, Progress::Idle { .. })) {
            return None; // nothing was announced that could have been outlived
        }
        let Turn { effects, wake_at, reason } = self.machine.step(now, input);
        if matches!(reason, Reason::Began { .. }) {
            self.record.saved = crate::record::Saved::default();
            self.record.details = Default::default();
            self.begun();
        }
        match reason {
            Reason::Survived => self.site.app.withdraw(),
            _ => self.announce(now),
        }
        self.wake_at = wake_at;
        self.site.meter.turned(&reason);
        tracing::info!(%reason, "evacuation");
        let mut summary = None;
        for effect in effects {
            match effect {
                Effect::Record => {
                    self.record.progress = self.machine.progress().clone();
                    self.keep_record();
                }
                Effect::Start { stage, until } => self.start(stage, until),
                Effect::Tighten { stage, until } => {
                    if let Some(running) = self.running.get(&stage) {
                        let _ = running.deadline.send(Some(self.clock.instant(until))); // nobody listens: it ended
                    }
                }
                Effect::Abandon(stage) => self.abandon(stage),
                Effect::Finish(_) => summary = self.summary(),
            }
        }
        if let Some(summary) = &summary {
            self.heartbeats = None;
            self.keep_summary(summary);
            self.site.meter.ended(summary);
            self.site.heralds.tell(&News::Ended(Box::new(summary.clone())));
        }
        summary
    }

    /// The application is told at once, and again when there is less time, or worse to come.
    fn announce(&self, now: Timestamp) {
        if let Progress::Evacuating { interruption, .. } = self.machine.progress() {
            self.site.app.announce(interruption, now);
        }
    }

    /// An evacuation begins: who waits for this machine waits on, and who is to know is told.
    fn begun(&mut self) {
        let Some(interruption) = self.interruption().cloned() else { return };
        let wants = self.machine.wants(Stage::CompleteLifecycle, interruption.action);
        if let Some(lifecycle) = self.site.lifecycle.clone().filter(|_| wants) {
            let every = self.site.settings.cloud.heartbeat();
            self.heartbeats = Some(Heartbeats::start(lifecycle, self.site.instance.clone(), every));
        }
        self.site.heralds.tell(&News::Begun {
            workload: self.site.workload.name().to_string(),
            instance: self.site.instance.clone(),
            interruption,
        });
    }

    fn start(&mut self, stage: Stage, until: Timestamp) {
        let Some(interruption) = self.interruption().cloned() else { return };
        self.starts += 1;
        let start = self.starts;
        let (sender, receiver) = watch::channel(Some(self.clock.instant(until)));
        let deadline = Deadline::following(receiver);
        tracing::info!(%stage, budget = %until.since(self.clock.now()), "stage started");
        let task = self.spawn(stage, start, interruption, deadline);
        self.running.insert(stage, Running { start, task, deadline: sender });
        if stage == Stage::Drain
            && let Target::Own(workload) = &mut self.target
            && let Life::Gone(exit) = workload.reap()
        {
            self.workload_gone(&exit.to_string());
        }
    }

    fn spawn(
        &mut self,
        stage: Stage,
        start: u64,
        interruption: Interruption,
        deadline: Deadline,
    ) -> Option<AbortHandle> {
        let stop_signal = self.site.settings.stop_signal.number();
        let others = match (&mut self.target, stage) {
            (Target::Own(workload), Stage::Drain) => {
                workload.ask_to_stop(stop_signal);
                return None; // reported by `workload_gone`
            }
            (Target::Leftover(mark), Stage::Drain) => Others::Leftover(mark.clone()),
            (Target::Foreign(foreign), Stage::Drain) => {
                // Before it is asked: an agent that dies in between must know that it is to start it again.
                self.record.stopped = true;
                self.file.store(&self.record);
                Others::Foreign(Arc::clone(foreign))
            }
            (Target::None | Target::Own(_) | Target::Leftover(_) | Target::Foreign(_), _) => Others::None,
        };
        let (site, holding, sender) = (Arc::clone(&self.site), self.holding.clone(), self.sender.clone());
        let saved = (self.record.saved.state.clone(), self.record.saved.logs.clone());
        let committed = self.record.saved.snapshot.as_ref().and_then(|_| self.record.base.clone());
        let task = tokio::spawn(async move {
            let handed = match stage {
                Stage::Notify => hands::notify(&site, &interruption, &deadline).await,
                Stage::Deregister => crate::deregister::deregister(&site, &deadline).await,
                Stage::Drain => others.drain(stop_signal, &deadline).await,
                Stage::Snapshot => Box::pin(hands::snapshot(&site, &holding, deadline)).await,
                Stage::SaveState => crate::state::save_state(&site, &holding, &interruption, deadline).await,
                Stage::FlushLogs => crate::logs::flush(&site, &holding, deadline).await,
                Stage::HandBack => hands::hand_back(&holding, &interruption, saved, deadline).await,
                Stage::CompleteLifecycle => crate::lifecycle::complete(&site, &deadline).await,
                Stage::CleanUp => hands::clean(&site, committed).await,
            };
            let _ = sender.send(Ended { stage, start, handed }).await; // the driver is gone: nobody to tell
        });
        Some(task.abort_handle())
    }

    fn abandon(&mut self, stage: Stage) {
        if let Some(task) = self.running.remove(&stage).and_then(|running| running.task) {
            task.abort();
        }
        tracing::warn!(%stage, "abandoned: its time is over");
        if stage == Stage::Snapshot {
            self.record.details[stage.index()] = hands::still_there(&self.site);
        }
        if stage == Stage::Drain {
            let gone = self.kill_workload();
            self.record.details[stage.index()] =
                if gone { "killed".into() } else { "killed, but does not end".into() };
        }
    }

    /// Kills whatever of the workload still runs. Returns whether nothing is left.
    pub(crate) fn kill_workload(&mut self) -> bool {
        match &mut self.target {
            Target::None => true,
            Target::Own(workload) => workload.kill(),
            Target::Leftover(mark) => mark.kill(),
            Target::Foreign(foreign) => foreign.kill(),
        }
    }

    pub(crate) fn summary(&self) -> Option<Summary> {
        // The record holds what the machine says: it is replaced in the turn that finishes.
        let summary = Summary::of(&self.record, &self.site)?;
        Some(Summary { not_told: self.site.heralds.failed(), ..summary })
    }

    fn keep_summary(&self, summary: &Summary) {
        let path = self.site.agent_dir.join("last_evacuation.json");
        let written = serde_json::to_vec_pretty(summary)
            .map_err(std::io::Error::from)
            .and_then(|text| write_atomically(&path, &text, Outlive::PowerCut));
        if let Err(error) = written {
            tracing::warn!(%error, path = %path.display(), "cannot keep the summary");
        }
    }

    /// Whether the last interruption leaves the workload running.
    pub(crate) fn workload_goes_on(&self) -> bool {
        self.interruption().is_some_and(|interruption| interruption.action == Action::Hibernate)
    }
}

/// Processes that are no children of this agent.
enum Others {
    None,
    Leftover(Mark),
    Foreign(Arc<Foreign>),
}

impl Others {
    async fn drain(self, signal: OsSignal, deadline: &Deadline) -> Handed {
        let mark = match self {
            Self::None => return Handed::new(Report::Nothing, ""),
            Self::Foreign(foreign) => return foreign.stop(signal).await,
            Self::Leftover(mark) => mark,
        };
        let until = deadline.current().unwrap_or_else(Instant::now);
        if mark.stop(signal, until).await {
            Handed::new(Report::Done, "stopped what was left running")
        } else {
            std::future::pending().await // the machine abandons the stage now, which kills
        }
    }
}

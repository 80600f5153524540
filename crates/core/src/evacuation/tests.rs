//! Tables over every (phase, input) and (stage state, report) pair, and properties over random runs.

use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::budget::Budget;
use super::*;
use crate::notice::Source;

const NOW: Timestamp = Timestamp(1_000_000);

fn plan() -> Plan {
    let budget = |minimum, wanted, maximum| Budget {
        minimum: Millis(minimum),
        wanted: Millis(wanted),
        maximum: Millis(maximum),
    };
    Plan {
        budgets: [
            budget(100, 1_000, 5_000),
            budget(100, 15_000, 60_000),
            budget(1_000, 20_000, 45_000),
            budget(2_000, 60_000, 600_000),
            budget(500, 5_000, 10_000),
            budget(500, 3_000, 5_000),
            budget(1_000, 3_000, 10_000),
            budget(100, 2_000, 5_000),
            budget(1_000, 5_000, 10_000),
        ],
        reserve: Millis(5_000),
        clean_up: true,
        deregister: true,
        complete_lifecycle: true,
        snapshot_on_stop: true,
        has_workload: true,
    }
}

fn notice(source: Source, action: Action, left: u64, key: Option<i64>) -> Notice {
    Notice { source, action, key: key.map(|at| Key(Timestamp(at))), deadline: NOW + Millis(left) }
}

fn imds(left: u64) -> Notice {
    notice(Source::InstanceAction, Action::Terminate, left, Some(7))
}

fn started(turn: &Turn) -> Vec<Stage> {
    turn.effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Start { stage, .. } => Some(*stage),
            Effect::Record | Effect::Tighten { .. } | Effect::Abandon(_) | Effect::Finish(_) => None,
        })
        .collect()
}

/// Runs to the end; every started stage reports what `report` says, at once. Returns the order of starts.
fn run_through(
    machine: &mut Evacuation,
    first: Notice,
    report: impl Fn(Stage) -> Report,
) -> (Vec<Vec<Stage>>, Verdict) {
    let mut levels = vec![];
    let mut turn = machine.step(NOW, Input::Notice(first));
    for round in 0..20 {
        let batch = started(&turn);
        if let Some(Effect::Finish(verdict)) = turn.effects.last() {
            return (levels, *verdict);
        }
        assert!(!batch.is_empty(), "stuck in {:?}", machine.progress());
        levels.push(batch.clone());
        for stage in batch {
            turn = machine.step(NOW + Millis(round), Input::Ended(stage, report(stage)));
        }
    }
    panic!("does not end");
}

#[test]
fn terminate_runs_every_stage_in_order_and_saves_side_by_side() {
    let (levels, verdict) = run_through(&mut Evacuation::new(plan()), imds(120_000), |_| Report::Done);
    assert_eq!(
        levels,
        [
            vec![Stage::Notify],
            vec![Stage::Deregister],
            vec![Stage::Drain],
            vec![Stage::Snapshot, Stage::SaveState, Stage::FlushLogs],
            vec![Stage::HandBack],
            vec![Stage::CompleteLifecycle],
            vec![Stage::CleanUp],
        ]
    );
    assert_eq!(verdict, Verdict::Complete);
}

#[test]
fn hibernate_saves_the_state_first_and_neither_stops_nor_hands_back() {
    let hibernate = notice(Source::InstanceAction, Action::Hibernate, 10_000, Some(7));
    let (levels, verdict) = run_through(&mut Evacuation::new(plan()), hibernate, |_| Report::Done);
    assert_eq!(
        levels,
        [vec![Stage::Notify], vec![Stage::SaveState, Stage::FlushLogs], vec![Stage::Snapshot]]
    );
    assert_eq!(verdict, Verdict::Complete);
}

#[test]
fn stop_may_leave_to_ebs_what_it_keeps() {
    let stop = notice(Source::InstanceAction, Action::Stop, 120_000, Some(7));
    let lean = Plan { snapshot_on_stop: false, deregister: false, ..plan() };
    let (levels, _) = run_through(&mut Evacuation::new(lean), stop, |_| Report::Done);
    assert_eq!(levels, [vec![Stage::Notify], vec![Stage::Drain], vec![Stage::SaveState, Stage::FlushLogs]]);
    let (levels, _) = run_through(&mut Evacuation::new(plan()), stop, |_| Report::Done);
    assert!(levels[3].contains(&Stage::Snapshot), "by default all is saved");
}

#[test]
fn a_failing_stage_never_blocks_one_that_does_not_need_it() {
    for failing in Stage::ALL {
        let (levels, verdict) = run_through(&mut Evacuation::new(plan()), imds(120_000), |stage| {
            if stage == failing { Report::Failed } else { Report::Done }
        });
        let run: Vec<Stage> = levels.concat();
        for stage in Stage::ALL {
            let needs_failed = match stage {
                Stage::HandBack => failing == Stage::Snapshot,
                Stage::CleanUp => failing == Stage::Snapshot || failing == Stage::HandBack,
                Stage::Notify
                | Stage::Deregister
                | Stage::Drain
                | Stage::Snapshot
                | Stage::SaveState
                | Stage::FlushLogs
                | Stage::CompleteLifecycle => false,
            };
            assert_eq!(run.contains(&stage), !needs_failed, "{stage} when {failing} fails");
        }
        let expected = if failing.counts() { Verdict::Incomplete } else { Verdict::Complete };
        assert_eq!(verdict, expected, "when {failing} fails");
    }
}

fn idle() -> Evacuation {
    Evacuation::from_record(plan(), Progress::Idle { handled: Some(Key(Timestamp(3))) })
}

fn evacuating() -> Evacuation {
    let mut machine = Evacuation::new(plan());
    machine.step(NOW, Input::Notice(imds(120_000)));
    machine.step(NOW, Input::Ended(Stage::Notify, Report::Done));
    machine.step(NOW, Input::Ended(Stage::Deregister, Report::Done));
    machine
}

fn finished() -> Evacuation {
    let mut machine = Evacuation::new(plan());
    run_through(&mut machine, imds(120_000), |_| Report::Done);
    machine
}

/// Every (phase, input) pair: the reason, the phase afterwards, and whether anything is to be done.
#[test]
fn every_phase_answers_every_input() {
    let other = notice(Source::Sigterm, Action::Terminate, 30_000, None);
    let inputs = [
        Input::Notice(other),
        Input::Ended(Stage::Drain, Report::Done),
        Input::Tick,
        Input::Resumed,
        Input::Survived,
    ];
    let show = |machine: &Evacuation, input: Input| {
        let mut machine = machine.clone();
        let turn = machine.step(NOW + Millis(1), input);
        let phase = match machine.progress() {
            Progress::Idle { .. } => "idle",
            Progress::Evacuating { .. } => "evacuating",
            Progress::Finished { .. } => "finished",
        };
        alloc::format!("{} | {} | {phase}", turn.reason, turn.effects.len())
    };
    let table = |machine: Evacuation| inputs.map(|input| show(&machine, input));
    assert_eq!(
        table(idle()),
        [
            "SIGTERM announced terminate in 29.999 s | 2 | evacuating",
            "late report of drain ignored | 0 | idle",
            "nothing was due | 0 | idle",
            "the agent restarted and goes on | 0 | idle",
            "the machine outlived the interruption | 0 | idle",
        ]
    );
    assert_eq!(
        table(evacuating()),
        [
            "SIGTERM left only 29.999 s | 2 | evacuating",
            "drain: done | 4 | evacuating",
            "nothing was due | 0 | evacuating",
            "the agent restarted and goes on | 1 | evacuating",
            "nothing was due | 0 | evacuating",
        ]
    );
    assert_eq!(
        table(finished()),
        [
            "SIGTERM announced an interruption that was evacuated before | 0 | finished",
            "late report of drain ignored | 0 | finished",
            "nothing was due | 0 | finished",
            "the agent restarted and goes on | 0 | finished",
            "the machine outlived the interruption | 1 | idle",
        ]
    );
}

#[test]
fn after_a_hibernation_a_worse_or_other_notice_is_a_new_interruption() {
    let hibernate = notice(Source::InstanceAction, Action::Hibernate, 10_000, Some(7));
    let mut machine = Evacuation::new(plan());
    run_through(&mut machine, hibernate, |_| Report::Done);
    for (next, is_new) in [
        (hibernate, false),
        (notice(Source::InstanceAction, Action::Hibernate, 10_000, Some(8)), true),
        (notice(Source::Sigterm, Action::Terminate, 10_000, None), true),
    ] {
        let began = matches!(machine.clone().step(NOW, Input::Notice(next)).reason, Reason::Began { .. });
        assert_eq!(began, is_new, "{next:?}");
    }
}

/// Every (stage state, report) pair: only a running stage can end, and it ends as reported.
#[test]
fn every_stage_state_answers_every_report() {
    let reports = [Report::Done, Report::Partly, Report::Failed, Report::Nothing];
    let ended = StageState::Ended { outcome: Outcome::TimedOut, took: Millis(9) };
    let running = StageState::Running { since: NOW, until: NOW + Millis(500) };
    for stage in Stage::ALL {
        for report in reports {
            for before in [StageState::Waiting, ended, running] {
                let mut stages = [StageState::Waiting; STAGES];
                stages[stage.index()] = before;
                let reason = end_stage(&mut stages, stage, report, NOW + Millis(10));
                let after = stages[stage.index()];
                if before == running {
                    let outcome = Outcome::from(report);
                    assert_eq!(after, StageState::Ended { outcome, took: Millis(10) });
                    assert_eq!(reason, Reason::StageEnded { stage, outcome });
                } else {
                    assert_eq!(after, before);
                    assert_eq!(reason, Reason::ReportIgnored { stage });
                }
            }
        }
    }
}

/// Every (stage, state) pair when time runs out: running is abandoned, waiting is skipped, ended stays.
#[test]
fn at_the_end_of_the_time_nothing_runs_or_waits() {
    for stage in Stage::ALL {
        for before in [
            StageState::Waiting,
            StageState::Running { since: NOW, until: NOW + Millis(110_000) },
            StageState::Ended { outcome: Outcome::Done, took: Millis(9) },
        ] {
            let mut stages = [StageState::Ended { outcome: Outcome::Done, took: Millis::ZERO }; STAGES];
            stages[stage.index()] = before;
            let interruption = Interruption::begin(imds(120_000), NOW);
            let mut machine = Evacuation::from_record(plan(), Progress::Evacuating { interruption, stages });
            let turn = machine.step(NOW + Millis(120_000), Input::Tick);
            assert_eq!(started(&turn), []);
            let Progress::Finished { stages, .. } = machine.progress() else { panic!("not finished") };
            let StageState::Ended { outcome, .. } = stages[stage.index()] else { panic!("not ended") };
            let expected = match before {
                StageState::Waiting => Outcome::NoTime,
                StageState::Running { .. } => Outcome::TimedOut,
                StageState::Ended { outcome, .. } => outcome,
            };
            assert_eq!(outcome, expected, "{stage} from {before:?}");
            let abandons = turn.effects.contains(&Effect::Abandon(stage));
            let was_running = matches!(before, StageState::Running { .. });
            assert_eq!(abandons, was_running || (stage == Stage::Drain && before == StageState::Waiting));
        }
    }
}

#[test]
fn a_workload_without_time_to_drain_is_killed_before_the_snapshot_starts() {
    let mut machine = Evacuation::new(Plan { deregister: false, ..plan() });
    let turn = machine.step(NOW, Input::Notice(imds(6_000)));
    assert_eq!(started(&turn), [Stage::Notify]);
    let turn = machine.step(NOW, Input::Ended(Stage::Notify, Report::Done));
    let kill = turn.effects.iter().position(|effect| *effect == Effect::Abandon(Stage::Drain));
    let save =
        turn.effects.iter().position(|effect| matches!(effect, Effect::Start { stage: Stage::Snapshot, .. }));
    match (kill, save) {
        (Some(kill), Some(save)) => assert!(kill < save),
        (None, _) => assert_eq!(started(&turn), [Stage::Drain], "drained within its minimum"),
        (Some(_), None) => panic!("killed and nothing saved: {turn:?}"),
    }
}

#[test]
fn escalation_from_hibernate_stops_the_workload_and_saves_again() {
    let mut machine = Evacuation::new(plan());
    let hibernate = notice(Source::InstanceAction, Action::Hibernate, 60_000, Some(7));
    machine.step(NOW, Input::Notice(hibernate));
    machine.step(NOW, Input::Ended(Stage::Notify, Report::Done));
    let terminate = notice(Source::Sigterm, Action::Terminate, 30_000, None);
    let turn = machine.step(NOW, Input::Notice(terminate));
    assert!(turn.effects.contains(&Effect::Abandon(Stage::SaveState)));
    assert_eq!(started(&turn), [Stage::Deregister]);
    let turn = machine.step(NOW, Input::Ended(Stage::Deregister, Report::Failed));
    assert_eq!(started(&turn), [Stage::Drain]);
}

/// (time left, how long it may hold the stop signal back at most): drained as long as there is time, and skipped when
/// there is none; never so long that the drain and the snapshot would not have their minima.
#[test]
fn the_stop_signal_is_held_back_for_the_load_balancer_as_long_as_there_is_time() {
    for (left, held_max) in [(120_000, 60_000), (30_000, 15_000), (8_000, 4_000), (50, 0)] {
        let mut machine = Evacuation::new(plan());
        machine.step(NOW, Input::Notice(imds(left)));
        let turn = machine.step(NOW, Input::Ended(Stage::Notify, Report::Done));
        let until = turn.effects.iter().find_map(|effect| match effect {
            Effect::Start { stage: Stage::Deregister, until } => Some(*until),
            Effect::Start { .. }
            | Effect::Record
            | Effect::Tighten { .. }
            | Effect::Abandon(_)
            | Effect::Finish(_) => None,
        });
        let held = until.map_or(Millis::ZERO, |until| until.since(NOW));
        assert!(held <= Millis(held_max), "{left}: {held}");
        assert_eq!(held == Millis::ZERO, held_max == 0, "{left}: {held}");
        let Some(until) = until else { continue };
        // It hangs: at its end the workload is asked to stop, with what that and the snapshot need at least.
        let turn = machine.step(until, Input::Tick);
        assert_eq!(turn.reason, Reason::StageTimedOut { stage: Stage::Deregister });
        assert_eq!(started(&turn), [Stage::Drain], "{left}");
        let rest = (NOW + Millis(left)).since(until);
        assert!(rest >= Millis(3_000), "{left}: {rest} are left for the drain and the snapshot");
    }
}

/// Which actions take this machine out of the load balancer's group, and that it is never done unasked.
#[test]
fn only_what_goes_for_good_leaves_the_load_balancer_and_only_where_asked_for() {
    for action in [Action::Hibernate, Action::Stop, Action::Terminate] {
        let wants = |deregister| Plan { deregister, ..plan() }.wants(Stage::Deregister, action);
        assert_eq!(wants(true), action != Action::Hibernate, "{action}");
        assert!(!wants(false), "{action}");
    }
}

#[test]
fn without_a_workload_process_nothing_drains() {
    let mut machine = Evacuation::new(Plan { has_workload: false, ..plan() });
    let (levels, verdict) = run_through(&mut machine, imds(120_000), |_| Report::Done);
    assert!(!levels.concat().contains(&Stage::Drain));
    assert_eq!(verdict, Verdict::Complete);
}

#[test]
fn a_record_survives_its_file() {
    for machine in [idle(), evacuating(), finished()] {
        let text = serde_json::to_string(machine.progress()).expect("serialises");
        let back: Progress = serde_json::from_str(&text).expect("parses");
        assert_eq!(&back, machine.progress());
    }
}

/// One random world: stages of random length and outcome, random further notices, crashes between inputs.
#[derive(Debug, Clone)]
struct World {
    first: Notice,
    lengths: [u64; STAGES],
    reports: [Report; STAGES],
    notices: Vec<(u64, Notice)>,
    crashes: Vec<u64>,
    clean_up: bool,
}

fn any_report() -> impl Strategy<Value = Report> {
    prop_oneof![
        6 => Just(Report::Done),
        1 => Just(Report::Partly),
        1 => Just(Report::Failed),
        1 => Just(Report::Nothing)
    ]
}

fn any_notice(longest: u64) -> impl Strategy<Value = Notice> {
    let sources = prop_oneof![
        Just(Source::InstanceAction),
        Just(Source::TerminationTime),
        Just(Source::LifecycleState),
        Just(Source::Sigterm),
        Just(Source::Operator)
    ];
    let actions = prop_oneof![Just(Action::Terminate), Just(Action::Stop), Just(Action::Hibernate)];
    (sources, actions, 0..longest).prop_map(|(source, action, left)| notice(source, action, left, Some(7)))
}

prop_compose! {
    fn any_world()(
        first in any_notice(130_000),
        lengths in prop::array::uniform9(0u64..90_000),
        reports in prop::array::uniform9(any_report()),
        notices in prop::collection::vec((0u64..130_000, any_notice(200_000)), 0..4),
        crashes in prop::collection::vec(0u64..130_000, 0..4),
        clean_up in any::<bool>(),
    ) -> World {
        World { first, lengths, reports, notices, crashes, clean_up }
    }
}

/// What the driver's hands do in a world: started stages with the instant of their report.
#[derive(Debug, Default)]
struct Hands {
    running: BTreeMap<Stage, (Timestamp, Timestamp)>,
    committed: bool,
    finished: Option<(Timestamp, Verdict)>,
}

impl Hands {
    fn carry_out(&mut self, world: &World, now: Timestamp, end: Timestamp, turn: &Turn) {
        for effect in &turn.effects {
            match effect {
                Effect::Record => {}
                Effect::Start { stage, until } => {
                    assert!(*until <= end, "{stage} may run until {until:?}, the deadline is {end:?}");
                    assert!(*until > now, "{stage} started with no time");
                    if *stage == Stage::CleanUp {
                        assert!(self.committed, "clean-up before a manifest was committed");
                        assert!(world.clean_up, "clean-up that nobody asked for");
                    }
                    let ends = now + Millis(world.lengths[stage.index()]);
                    self.running.insert(*stage, (ends, *until));
                }
                Effect::Tighten { stage, until } => {
                    let (_, before) = self.running.get_mut(stage).expect("only running stages tighten");
                    assert!(*until < *before, "tightening made {stage} longer");
                    *before = *until;
                }
                Effect::Abandon(stage) => {
                    self.running.remove(stage);
                    self.committed &= *stage != Stage::Snapshot;
                }
                Effect::Finish(verdict) => {
                    assert!(self.running.is_empty(), "finished while {:?} run", self.running);
                    assert!(self.finished.is_none(), "finished twice");
                    self.finished = Some((now, *verdict));
                }
            }
        }
    }
}

/// Plays `world` to its end and checks every promise on the way. Returns the final record.
fn play(world: &World) -> Progress {
    let mut machine = Evacuation::new(Plan { clean_up: world.clean_up, ..plan() });
    let mut hands = Hands::default();
    let mut now = NOW;
    let mut deadline = world.first.deadline;
    let mut agenda: Vec<(Timestamp, Input)> =
        world.notices.iter().map(|(at, notice)| (NOW + Millis(*at), Input::Notice(*notice))).collect();
    agenda.extend(world.crashes.iter().map(|at| (NOW + Millis(*at), Input::Resumed)));
    agenda.sort_by_key(|(at, _)| *at);
    let mut agenda = agenda.into_iter().peekable();

    let mut turn = machine.step(now, Input::Notice(world.first));
    hands.carry_out(world, now, deadline, &turn);
    for _ in 0..200 {
        if hands.finished.is_some() {
            break;
        }
        let report = hands.running.iter().map(|(stage, (ends, _))| (*ends, *stage)).min();
        let wake = turn.wake_at.expect("an unfinished evacuation wants to be woken");
        let next_report = report.map_or(Timestamp(i64::MAX), |(ends, _)| ends);
        let input = if let Some((at, input)) = agenda.next_if(|(at, _)| *at <= wake && *at <= next_report) {
            now = now.max(at);
            input
        } else if next_report < wake {
            let (ends, stage) = report.expect("it is the earliest");
            now = now.max(ends);
            hands.running.remove(&stage);
            let report = world.reports[stage.index()];
            hands.committed |= stage == Stage::Snapshot && report != Report::Failed;
            Input::Ended(stage, report)
        } else {
            now = now.max(wake);
            Input::Tick
        };
        match input {
            Input::Notice(notice) => deadline = deadline.min(notice.deadline),
            Input::Resumed => {
                // The process died with all that it ran; the record is what it kept.
                machine = Evacuation::from_record(machine.plan, machine.progress.clone());
                hands.running.clear();
            }
            Input::Ended(..) | Input::Tick | Input::Survived => {}
        }
        turn = machine.step(now, input);
        hands.carry_out(world, now, deadline.max(now), &turn);
    }
    let (at, verdict) = hands.finished.expect("every evacuation ends");
    assert!(at <= deadline.max(NOW) || at == now && now > deadline, "ended {at:?} after {deadline:?}");
    let Progress::Finished { stages, verdict: recorded, .. } = machine.progress() else {
        panic!("not finished: {:?}", machine.progress())
    };
    assert_eq!(*recorded, verdict);
    assert!(stages.iter().all(|state| matches!(state, StageState::Ended { .. })));
    machine.progress().clone()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Never beyond the deadline, never a clean-up before the commit, no start without time, always an end.
    #[test]
    fn every_world_ends_in_time_and_deletes_nothing_unproven(world in any_world()) {
        play(&world);
    }

    /// Between inputs a crash and restart changes nothing that is decided: the record is the whole state.
    #[test]
    fn restart_equals_going_on(world in any_world(), cut in 0usize..12) {
        let mut going_on = Evacuation::new(plan());
        let mut turn = going_on.step(NOW, Input::Notice(world.first));
        let mut now = NOW;
        for round in 0..cut {
            let Some(stage) = started(&turn).first().copied() else { break };
            now = now + Millis(world.lengths[stage.index()] / 10);
            turn = if round % 3 == 2 {
                going_on.step(now, Input::Tick)
            } else {
                going_on.step(now, Input::Ended(stage, world.reports[stage.index()]))
            };
        }
        let text = serde_json::to_string(going_on.progress()).expect("serialises");
        let mut restarted = Evacuation::from_record(plan(), serde_json::from_str(&text).expect("parses"));
        going_on.step(now, Input::Tick);
        restarted.step(now, Input::Resumed);
        prop_assert_eq!(&restarted, &going_on);
        for (later, notice) in &world.notices {
            now = now + Millis(*later / 10);
            let a = going_on.step(now, Input::Notice(*notice));
            let b = restarted.step(now, Input::Notice(*notice));
            prop_assert_eq!(a, b);
        }
    }

    /// The same notice once more changes nothing.
    #[test]
    fn twice_equals_once(world in any_world(), rounds in 0usize..6) {
        let mut machine = Evacuation::new(plan());
        let mut turn = machine.step(NOW, Input::Notice(world.first));
        for _ in 0..rounds {
            let Some(stage) = started(&turn).first().copied() else { break };
            turn = machine.step(NOW, Input::Ended(stage, world.reports[stage.index()]));
        }
        let before = machine.clone();
        let again = machine.step(NOW, Input::Notice(world.first));
        prop_assert_eq!(again.effects, vec![]);
        prop_assert_eq!(machine, before);
    }

    /// A notice with an earlier deadline never gives any running stage more time, nor a later one.
    #[test]
    fn a_shorter_deadline_only_ever_shortens(
        world in any_world(), rounds in 0usize..4, further in any_notice(200_000), at in 0u64..20_000,
    ) {
        let mut machine = Evacuation::new(plan());
        let mut turn = machine.step(NOW, Input::Notice(world.first));
        for _ in 0..rounds {
            let Some(stage) = started(&turn).first().copied() else { break };
            turn = machine.step(NOW, Input::Ended(stage, world.reports[stage.index()]));
        }
        let untils = |machine: &Evacuation| match machine.progress() {
            Progress::Evacuating { stages, .. } => stages.map(|state| match state {
                StageState::Running { until, .. } => Some(until),
                StageState::Waiting | StageState::Ended { .. } => None,
            }),
            Progress::Idle { .. } | Progress::Finished { .. } => [None; STAGES],
        };
        let before = untils(&machine);
        let turn = machine.step(NOW + Millis(at), Input::Notice(further));
        if !matches!(turn.reason, Reason::Escalated { .. }) {
            for (before, after) in before.iter().zip(untils(&machine)) {
                if let (Some(before), Some(after)) = (before, after) {
                    prop_assert!(after <= *before);
                }
            }
        }
    }
}

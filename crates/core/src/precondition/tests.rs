//! Every rule by table: facts in order, one thing changed, one finding.

use super::*;
use crate::time::Millis;

const fn seconds(count: u64) -> Millis {
    Millis::from_secs(count)
}

/// An instance in order, whatever happens to it.
fn machine(behaviour: Action) -> Machine {
    Machine {
        name: "i-1".into(),
        is_spot: Some(true),
        behaviour: Some(behaviour),
        request: Some(RequestKind::Persistent),
        has_launch_group: Some(false),
        price: Some(MaximumPrice::NotSet),
        instance_type: Some("m5.large".into()),
        type_hibernates: Some(true),
        memory_mib: Some(8 * 1024),
        is_windows: Some(false),
        is_hibernation_enabled: Some(true),
        root: Some(Root::Ebs { volume: Some("vol-1".into()), gib: Some(30), is_encrypted: Some(true) }),
        has_metadata: Some(true),
        hop_limit: Some(2),
        ..Machine::default()
    }
}

fn surroundings() -> Facts {
    let hook = Hook { name: "h".into(), is_terminating: true, timeout: Some(seconds(300)) };
    let container = Container { name: "c".into(), stop_timeout: Some(seconds(120)) };
    Facts {
        machines: Vec::new(),
        fleets: vec![Fleet {
            id: "fleet-1".into(),
            kind: Some(FleetKind::Maintain),
            behaviour: None,
            rebalances: Some(true),
            price: None,
        }],
        groups: vec![Group {
            name: "g".into(),
            rebalances: Some(true),
            price: Some(MaximumPrice::NotSet),
            hooks: Some(vec![hook]),
        }],
        target_groups: vec![TargetGroup { arn: "arn:tg".into(), delay: Some(seconds(90)) }],
        tasks: vec![Task { name: "t:1".into(), containers: vec![container] }],
        on_demand: vec![OnDemand { pool: Pool::Fargate, needed: Some(8_000), quota: Some(100_000) }],
        plan: Plan { grace: Some(seconds(120)), hook: Some("h".into()), heartbeat: seconds(15) },
    }
}

/// What `judge` says of `check`, in one line: the worst of it.
fn of(facts: &Facts, check: Check) -> (Verdict, String) {
    let found = judge(facts);
    for finding in &found {
        assert_eq!(finding.remedy.is_none(), finding.verdict == Verdict::Ok, "{finding:?}");
    }
    let of_check = found.into_iter().filter(|finding| finding.check == check);
    let worst =
        of_check.max_by_key(|finding| finding.verdict).unwrap_or_else(|| panic!("no finding of {check}"));
    (worst.verdict, format!("{}: {} → {}", worst.about, worst.what, worst.remedy.unwrap_or_default()))
}

#[test]
fn what_is_in_order_is_ok_and_nothing_else_is_said() {
    for behaviour in [Action::Terminate, Action::Stop, Action::Hibernate] {
        let facts = Facts { machines: vec![machine(behaviour)], ..surroundings() };
        for finding in judge(&facts) {
            let is_visible = finding.check != Check::HibernationAgent;
            assert!(finding.verdict == Verdict::Ok || !is_visible, "{behaviour:?}: {finding:?}");
        }
    }
}

#[test]
fn what_nobody_told_is_unknown_and_never_blamed() {
    let machines = [None, Some(Action::Terminate), Some(Action::Stop), Some(Action::Hibernate)]
        .map(|behaviour| Machine { name: "i-1".into(), behaviour, ..Machine::default() });
    let facts = Facts {
        machines: machines.into(),
        fleets: vec![Fleet { id: "fleet-1".into(), ..Fleet::default() }],
        groups: vec![Group { name: "g".into(), ..Group::default() }],
        target_groups: vec![TargetGroup { arn: "arn:tg".into(), delay: None }],
        on_demand: vec![
            OnDemand { pool: Pool::Ec2Standard, needed: None, quota: None },
            OnDemand { pool: Pool::Fargate, needed: None, quota: Some(6_000) },
        ],
        ..Facts::default()
    };
    let found = judge(&facts);
    assert!(found.len() > 20, "{found:#?}");
    for finding in found {
        assert!(finding.verdict <= Verdict::Unknown, "{finding:?}");
        let remedy = finding.remedy.unwrap_or_default();
        let has_command = ["aws ", "systemctl", "compare"].iter().any(|text| remedy.contains(text));
        assert!(finding.verdict == Verdict::Ok || has_command, "{remedy}");
    }
    assert_eq!(judge(&Facts::default()), Vec::new());
}

#[test]
fn every_precondition_of_a_machine_is_judged() {
    use Action::{Hibernate, Stop, Terminate};
    use Verdict::{Fail, Ok, Unknown, Warn};
    type Change = fn(&mut Machine);
    let cases: &[(Action, Change, Check, Verdict, &str)] = &[
        (Stop, |m| m.is_spot = Some(false), Check::Behaviour, Ok, "On-Demand"),
        (Stop, |m| m.group = Some("g".into()), Check::Behaviour, Warn, "replaces"),
        (Hibernate, |m| m.group = Some("g".into()), Check::Behaviour, Fail, "cannot"),
        (Terminate, |m| m.behaviour = None, Check::Behaviour, Unknown, "instance-id,Values=i-1 > told.json"),
        (Stop, |m| m.request = Some(RequestKind::OneTime), Check::Request, Fail, "persistent"),
        (Hibernate, |m| m.request = Some(RequestKind::OneTime), Check::Request, Fail, "maintain"),
        (Stop, |m| m.request = None, Check::Request, Unknown, "describe-spot-instance-requests"),
        (Stop, |m| m.fleet = Some("fleet-1".into()), Check::Request, Ok, "fleet-1"),
        (
            Stop,
            |m| m.fleet = Some("fleet-2".into()),
            Check::Request,
            Unknown,
            "describe-fleets --fleet-ids fleet-2",
        ),
        (Stop, |m| m.has_launch_group = Some(true), Check::LaunchGroup, Fail, "without"),
        (Terminate, |m| m.price = Some(MaximumPrice::Set("0.02".into())), Check::MaximumPrice, Warn, "$0.02"),
        (
            Terminate,
            |m| m.price = Some(MaximumPrice::Shown("0.1".into())),
            Check::MaximumPrice,
            Unknown,
            "m5.large",
        ),
        (Terminate, |m| m.price = None, Check::MaximumPrice, Unknown, "describe-spot"),
        (Stop, |m| m.root = Some(Root::InstanceStore), Check::RootVolume, Fail, "EBS"),
        (Stop, |m| m.root = None, Check::RootVolume, Unknown, "describe-instances --instance-ids i-1"),
        (Hibernate, |m| m.root = Some(ebs(30, Some(false))), Check::RootVolume, Fail, "encrypted"),
        (
            Hibernate,
            |m| m.root = Some(ebs(30, None)),
            Check::RootVolume,
            Unknown,
            "describe-volumes --volume-ids vol-1",
        ),
        (Hibernate, |m| m.root = Some(ebs(7, Some(true))), Check::RootVolume, Fail, "no room"),
        (Hibernate, |m| m.root = Some(ebs(15, Some(true))), Check::RootVolume, Warn, "fails when"),
        (Hibernate, |m| m.root = Some(ebs(16, Some(true))), Check::RootVolume, Ok, "16 GiB for 8192 MiB"),
        (Hibernate, |m| m.memory_mib = None, Check::RootVolume, Unknown, "describe-instance-types"),
        (Hibernate, |m| m.type_hibernates = Some(false), Check::Hibernation, Fail, "m5.large cannot"),
        (Hibernate, |m| m.type_hibernates = None, Check::Hibernation, Unknown, "--instance-types m5.large"),
        (
            Hibernate,
            |m| m.is_hibernation_enabled = Some(false),
            Check::Hibernation,
            Fail,
            "cannot be enabled later",
        ),
        (Hibernate, |m| m.memory_mib = Some(150 * 1024), Check::Hibernation, Fail, "less than 150"),
        (Hibernate, |m| m.memory_mib = Some(150 * 1024 - 1), Check::Hibernation, Ok, ""),
        (
            Hibernate,
            |m| (m.is_windows, m.memory_mib) = (Some(true), Some(16 * 1024)),
            Check::Hibernation,
            Ok,
            "",
        ),
        (
            Hibernate,
            |m| (m.is_windows, m.memory_mib) = (Some(true), Some(16_385)),
            Check::Hibernation,
            Fail,
            "Windows",
        ),
        (Hibernate, |_| {}, Check::HibernationAgent, Unknown, "systemctl is-enabled hibinit-agent"),
        (Terminate, |m| m.has_metadata = Some(false), Check::HopLimit, Fail, "switched off"),
        (Terminate, |m| m.hop_limit = Some(1), Check::HopLimit, Warn, "--http-put-response-hop-limit 2"),
        (
            Terminate,
            |m| m.hop_limit = None,
            Check::HopLimit,
            Unknown,
            "describe-instances --instance-ids i-1",
        ),
    ];
    for (behaviour, change, check, verdict, text) in cases {
        let mut changed = machine(*behaviour);
        change(&mut changed);
        let facts = Facts { machines: vec![changed], ..surroundings() };
        let (found, said) = of(&facts, *check);
        assert_eq!(found, *verdict, "{check}: {said}");
        assert!(said.contains(text), "{check}: {said:?} without {text:?}");
    }
}

fn ebs(gib: u64, is_encrypted: Option<bool>) -> Root {
    Root::Ebs { volume: Some("vol-1".into()), gib: Some(gib), is_encrypted }
}

#[test]
fn what_terminate_does_not_need_is_not_asked_for() {
    let spare = Machine {
        request: None,
        has_launch_group: None,
        type_hibernates: None,
        memory_mib: None,
        root: Some(Root::InstanceStore),
        ..machine(Action::Terminate)
    };
    let found = judge(&Facts { machines: vec![spare], ..Facts::default() });
    assert!(found.iter().all(|finding| finding.verdict == Verdict::Ok), "{found:#?}");
}

#[test]
fn everything_around_the_machines_is_judged() {
    use Verdict::{Fail, Ok, Unknown, Warn};
    type Change = fn(&mut Facts);
    let cases: &[(Change, Check, Verdict, &str)] = &[
        (|f| f.fleets[0].kind = Some(FleetKind::Request), Check::FleetType, Warn, "not replaced"),
        (|f| f.fleets[0].kind = Some(FleetKind::Instant), Check::FleetType, Warn, "maintain"),
        (
            |f| (f.fleets[0].kind, f.fleets[0].behaviour) = (Some(FleetKind::Request), Some(Action::Stop)),
            Check::FleetType,
            Fail,
            "cannot stop",
        ),
        (|f| f.fleets[0].kind = None, Check::FleetType, Unknown, "describe-fleets"),
        (
            |f| f.fleets[0].rebalances = Some(false),
            Check::CapacityRebalancing,
            Warn,
            "launch-before-terminate",
        ),
        (
            |f| f.fleets[0].price = Some(MaximumPrice::Set("1".into())),
            Check::MaximumPrice,
            Warn,
            "fleet-1: $1",
        ),
        (|f| f.groups[0].rebalances = Some(false), Check::CapacityRebalancing, Warn, "--capacity-rebalance"),
        (
            |f| f.groups[0].rebalances = None,
            Check::CapacityRebalancing,
            Unknown,
            "--auto-scaling-group-names g",
        ),
        (|f| f.groups[0].price = Some(MaximumPrice::Set("1".into())), Check::MaximumPrice, Warn, "leave"),
        (|f| f.groups[0].hooks = None, Check::LifecycleHook, Unknown, "describe-lifecycle-hooks"),
        (|f| f.groups[0].hooks = Some(Vec::new()), Check::LifecycleHook, Fail, "put-lifecycle-hook"),
        (|f| f.plan.hook = Some("other".into()), Check::LifecycleHook, Fail, "has no hook other"),
        (|f| f.plan.hook = None, Check::LifecycleHook, Warn, "auto_scaling.hook = \"h\""),
        (
            |f| (f.plan.hook, f.groups[0].hooks) = (None, Some(Vec::new())),
            Check::LifecycleHook,
            Warn,
            "--lifecycle-hook-name lifeboat",
        ),
        (|f| hook(f).is_terminating = false, Check::LifecycleHook, Fail, "begins"),
        (|f| hook(f).timeout = Some(seconds(15)), Check::LifecycleHook, Fail, "too late"),
        (|f| hook(f).timeout = Some(seconds(29)), Check::LifecycleHook, Warn, "may be lost"),
        (|f| hook(f).timeout = Some(seconds(30)), Check::LifecycleHook, Ok, "h waits 30 s"),
        (|f| f.target_groups[0].delay = Some(seconds(119)), Check::DeregistrationDelay, Ok, "119 s"),
        (|f| f.target_groups[0].delay = Some(seconds(120)), Check::DeregistrationDelay, Fail, "Value=90"),
        (
            |f| f.target_groups[0].delay = None,
            Check::DeregistrationDelay,
            Unknown,
            "--target-group-arn arn:tg",
        ),
        (|f| container(f).stop_timeout = None, Check::StopTimeout, Fail, "killed before the 120 s"),
        (
            |f| (f.plan.grace, container(f).stop_timeout) = (None, None),
            Check::StopTimeout,
            Warn,
            "30 s (the default) of the 120 s",
        ),
        (
            |f| (f.plan.grace, container(f).stop_timeout) = (Some(seconds(90)), Some(seconds(119))),
            Check::StopTimeout,
            Warn,
            "c of t:1: 119 s",
        ),
        (
            |f| container(f).stop_timeout = Some(seconds(121)),
            Check::StopTimeout,
            Fail,
            "more than ECS grants",
        ),
        (|f| f.on_demand[0].quota = None, Check::OnDemandQuota, Unknown, "--quota-code L-3032A538"),
        (|f| f.on_demand[0].quota = Some(7_999), Check::OnDemandQuota, Fail, "--desired-value 10"),
        (|f| f.on_demand[0].quota = Some(8_000), Check::OnDemandQuota, Warn, "little"),
        (|f| f.on_demand[0].quota = Some(10_000), Check::OnDemandQuota, Ok, "10 vCPUs"),
        (|f| f.on_demand[0].needed = Some(250), Check::OnDemandQuota, Ok, "needs 0.25"),
        (|f| f.on_demand[0].needed = None, Check::OnDemandQuota, Unknown, "100 vCPUs"),
    ];
    for (change, check, verdict, text) in cases {
        let mut facts = surroundings();
        change(&mut facts);
        let (found, said) = of(&facts, *check);
        assert_eq!(found, *verdict, "{check}: {said}");
        assert!(said.contains(text), "{check}: {said:?} without {text:?}");
    }
}

fn hook(facts: &mut Facts) -> &mut Hook {
    &mut facts.groups[0].hooks.as_mut().expect("has some")[0]
}

fn container(facts: &mut Facts) -> &mut Container {
    &mut facts.tasks[0].containers[0]
}

#[test]
fn a_template_s_open_fields_have_ec2_s_defaults() {
    let template = Machine {
        name: "lt-1 version 3".into(),
        is_template: true,
        has_launch_group: None,
        price: None,
        root: None,
        image: Some("ami-1".into()),
        ..machine(Action::Stop)
    };
    let facts = Facts { machines: vec![template], ..Facts::default() };
    assert_eq!(of(&facts, Check::MaximumPrice).0, Verdict::Ok);
    assert_eq!(of(&facts, Check::LaunchGroup).0, Verdict::Ok);
    let (verdict, said) = of(&facts, Check::RootVolume);
    assert!(verdict == Verdict::Unknown && said.contains("describe-images --image-ids ami-1 "), "{said}");
}

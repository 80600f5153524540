//! What surrounds the machines: EC2 Fleet, Auto Scaling group and hook, target group, task definition, quota.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{
    About, Check, Container, Finding, Fleet, FleetKind, Group, Hook, OnDemand, Plan, Pool, TargetGroup, Task,
    Verdict, of_price,
};
use crate::notice::Action;
use crate::time::Millis;

/// From the notice to the end.
///
/// Source: EC2 and ECS guides, "Spot Instance interruption notices", "Fargate capacity providers" (read 2023).
const NOTICE: Millis = Millis::from_secs(120);

/// Source: ECS API reference, `ContainerDefinition` (read 2023): `stopTimeout` is 30 s by default, on Fargate 120 s at
/// most.
const STOP_DEFAULT: Millis = Millis::from_secs(30);

/// Source: the same.
const STOP_MAX: Millis = Millis::from_secs(120);

/// From this share of a quota on, in hundredths, a failover may fail for what else the account runs.
///
/// Assumed: a fifth is in use elsewhere. What is really in use is not in the quota's answer.
const QUOTA_WARN_PERCENT: u64 = 80;

/// Source: EC2 user guide, "EC2 Fleet request types", "Capacity Rebalancing in EC2 Fleet" (read 2023): only `maintain`
/// replaces interrupted instances; rebalancing exists for this type alone.
pub(super) fn of_fleet(fleet: &Fleet, found: &mut Vec<Finding>) {
    let describe = format!("aws ec2 describe-fleets --fleet-ids {}", fleet.id);
    let about = About(Check::FleetType, &fleet.id);
    let stays = matches!(fleet.behaviour, Some(Action::Stop | Action::Hibernate));
    found.push(match fleet.kind {
        Some(FleetKind::Maintain) => about.ok("maintain: interrupted instances are replaced"),
        Some(FleetKind::Request | FleetKind::Instant) if stays => about.fail(
            "asks once: it cannot stop or hibernate its instances",
            "use a fleet of type `maintain`, or the behaviour `terminate`",
        ),
        Some(FleetKind::Request | FleetKind::Instant) => about.warn(
            "asks once: an interrupted instance is not replaced",
            "use a fleet of type `maintain`, or an Auto Scaling group",
        ),
        None => about.unknown("not known", &describe),
    });
    if fleet.kind == Some(FleetKind::Maintain) {
        let about = About(Check::CapacityRebalancing, &fleet.id);
        found.push(match fleet.rebalances {
            Some(true) => about.ok("on: a replacement is started at the rebalance recommendation"),
            Some(false) => about.warn(
                "off: the replacement is started after the interruption",
                "set SpotOptions MaintenanceStrategies CapacityRebalance ReplacementStrategy=launch-before-terminate",
            ),
            None => about.unknown("not known", &describe),
        });
    }
    if let Some(price) = &fleet.price {
        found.push(of_price(&About(Check::MaximumPrice, &fleet.id), price, "its instance types"));
    }
}

pub(super) fn of_group(group: &Group, plan: &Plan, found: &mut Vec<Finding>) {
    let name = &group.name;
    let about = About(Check::CapacityRebalancing, name);
    // Source: EC2 Auto Scaling guide, "Capacity Rebalancing" (read 2023).
    found.push(match group.rebalances {
        Some(true) => about.ok("on: the group starts a replacement at the rebalance recommendation"),
        Some(false) => about.warn(
            "off: the group starts a replacement only after the interruption",
            format!(
                "aws autoscaling update-auto-scaling-group --auto-scaling-group-name {name} --capacity-rebalance"
            ),
        ),
        None => about.unknown(
            "not known",
            &format!("aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names {name}"),
        ),
    });
    if let Some(price) = &group.price {
        found.push(of_price(&About(Check::MaximumPrice, name), price, "its instance types"));
    }
    found.push(hook(group, plan));
}

/// Source: EC2 Auto Scaling guide, "Lifecycle hooks" (read 2023): a hook waits 3,600 s by default, a heartbeat makes it
/// wait as long again. It delays what the group ends, never what EC2 takes back.
fn hook(group: &Group, plan: &Plan) -> Finding {
    let about = About(Check::LifecycleHook, &group.name);
    let name = &group.name;
    let Some(hooks) = &group.hooks else {
        let command = format!("aws autoscaling describe-lifecycle-hooks --auto-scaling-group-name {name}");
        return about.unknown("not known", &command);
    };
    let put = |hook: &str| {
        format!(
            "aws autoscaling put-lifecycle-hook --auto-scaling-group-name {name} --lifecycle-hook-name {hook} \
             --lifecycle-transition autoscaling:EC2_INSTANCE_TERMINATING --heartbeat-timeout 120"
        )
    };
    let terminating = hooks.iter().find(|hook| hook.is_terminating);
    match (&plan.hook, terminating) {
        (None, None) => about.warn(
            "none waits for the evacuation of an instance that the group ends: it is shut down at once",
            put("lifeboat") + "; then auto_scaling.hook = \"lifeboat\"",
        ),
        (None, Some(hook)) => about.warn(
            format!("{} waits{}, and this configuration does not complete it", hook.name, for_so_long(hook)),
            format!("auto_scaling.hook = \"{}\", unless something else completes it", hook.name),
        ),
        (Some(wanted), _) => match hooks.iter().find(|hook| hook.name == *wanted) {
            None => about.fail(format!("the group has no hook {wanted}"), put(wanted)),
            Some(hook) if !hook.is_terminating => about.fail(
                format!("{wanted} waits when an instance begins, not when one ends"),
                put("lifeboat") + "; then auto_scaling.hook = \"lifeboat\"",
            ),
            Some(hook) => time_of(&about, hook, plan.heartbeat, &put(wanted)),
        },
    }
}

fn time_of(about: &About<'_>, hook: &Hook, heartbeat: Millis, put: &str) -> Finding {
    let what =
        format!("{} waits{}; heartbeats come every {}", hook.name, for_so_long(hook), seconds(heartbeat));
    match hook.timeout {
        Some(timeout) if timeout <= heartbeat => about.fail(what + ", which is too late", put),
        // One that is lost, or late, must not end the waiting.
        Some(timeout) if timeout.0 < heartbeat.0.saturating_mul(2) => {
            about.warn(what + ", and none of them may be lost", put)
        }
        Some(_) | None => about.ok(what),
    }
}

fn for_so_long(hook: &Hook) -> String {
    hook.timeout.map_or_else(String::new, |timeout| format!(" {}", seconds(timeout)))
}

/// AWS's times here are whole seconds.
fn seconds(span: Millis) -> String {
    format!("{} s", span.0 / 1_000)
}

/// Source: re:Post, "Fargate Spot termination notice" (read 2023): the delay, 300 s by default, must be below the 120 s
/// of the notice.
pub(super) fn of_target_group(group: &TargetGroup) -> Finding {
    let about = About(Check::DeregistrationDelay, &group.arn);
    match group.delay {
        Some(delay) if delay < NOTICE => {
            about.ok(format!("{}, within the notice's two minutes", seconds(delay)))
        }
        Some(delay) => about.fail(
            format!("{}: the target may be gone before it is drained", seconds(delay)),
            format!(
                "aws elbv2 modify-target-group-attributes --target-group-arn {} --attributes \
                 Key=deregistration_delay.timeout_seconds,Value=90",
                group.arn
            ),
        ),
        None => about.unknown(
            "not known",
            &format!("aws elbv2 describe-target-group-attributes --target-group-arn {}", group.arn),
        ),
    }
}

pub(super) fn of_container(task: &Task, container: &Container, plan: &Plan) -> Finding {
    let name = format!("{} of {}", container.name, task.name);
    let about = About(Check::StopTimeout, &name);
    let whole = "set \"stopTimeout\": 120 in the container's definition";
    let timeout = container.stop_timeout.unwrap_or(STOP_DEFAULT);
    let by_default = if container.stop_timeout.is_some() { "" } else { " (the default)" };
    let what = format!("{}{by_default}", seconds(timeout));
    match plan.grace {
        _ if timeout > STOP_MAX => about.fail(what + ": more than ECS grants on Fargate", whole),
        Some(grace) if grace > timeout => about.fail(
            format!("{what}: killed before the {} of evacuation.grace are over", seconds(grace)),
            format!("{whole}, or lower evacuation.grace to \"{}s\"", timeout.0 / 1_000),
        ),
        Some(_) | None if timeout < NOTICE => about.warn(
            what + " of the 120 s that a notice gives",
            format!("{whole}, and evacuation.grace = \"120s\""),
        ),
        Some(_) | None => about.ok(what + ": the whole of the notice"),
    }
}

/// Source: AWS General Reference, "Amazon ECS endpoints and quotas", "Amazon EC2 service quotas" (read 2023): quotas are the
/// account's in a region, On-Demand and Spot counted apart. Of a failover that needs more only a part starts.
pub(super) fn of_quota(on_demand: &OnDemand) -> Finding {
    let (service, code) = on_demand.pool.code();
    let name = match on_demand.pool {
        Pool::Fargate => "Fargate",
        Pool::Ec2Standard => "EC2",
    };
    let about = About(Check::OnDemandQuota, name);
    let raise = || {
        let wanted = on_demand.needed.unwrap_or(0).saturating_mul(5) / 4;
        format!(
            "aws service-quotas request-service-quota-increase --service-code {service} --quota-code {code} \
             --desired-value {}",
            wanted.div_ceil(1_000)
        )
    };
    let Some(quota) = on_demand.quota else {
        let command =
            format!("aws service-quotas get-service-quota --service-code {service} --quota-code {code}");
        return about.unknown("how many vCPUs the account may run on demand is not known", &command);
    };
    let Some(needed) = on_demand.needed else {
        return about.finding(
            Verdict::Unknown,
            format!("{} vCPUs; how many this fleet would need is not known", vcpus(quota)),
            Some("compare it with the vCPUs of the whole fleet, and with what else the account runs".into()),
        );
    };
    let what = format!("{} vCPUs; the whole fleet on demand needs {}", vcpus(quota), vcpus(needed));
    if needed > quota {
        about.fail(what + ": a failover would stop half-way", raise())
    } else if needed.saturating_mul(100) > quota.saturating_mul(QUOTA_WARN_PERCENT) {
        about.warn(what + ", which leaves little for what else the account runs", raise())
    } else {
        about.ok(what)
    }
}

/// Thousandths as a number with as many places as it needs.
fn vcpus(thousandths: u64) -> String {
    let (whole, rest) = (thousandths / 1_000, thousandths % 1_000);
    if rest == 0 {
        format!("{whole}")
    } else {
        String::from(format!("{whole}.{rest:03}").trim_end_matches('0'))
    }
}

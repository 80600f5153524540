//! An instance or a launch template: what an interruption does to it, and whether it can do that.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{
    About, Check, Finding, Fleet, FleetKind, Machine, MaximumPrice, RequestKind, Root, Verdict, of_price,
};
use crate::notice::Action;

/// Source: EC2 user guide, "Prerequisites for EC2 instance hibernation" (read November 2026): Linux instances need less
/// than 150 GiB of memory.
const LINUX_MEMORY_MIB: u64 = 150 * 1024;

/// Source: the same page: Windows instances have 16 GiB at most.
const WINDOWS_MEMORY_MIB: u64 = 16 * 1024;

/// Beside the memory the root volume holds the operating system and its files.
///
/// Assumed: the 8 GiB that Amazon Linux images begin with; with less the file system fills up sooner or later, and the
/// hibernation fails.
const SYSTEM_MIB: u64 = 8 * 1024;

/// A container behind a bridge is one hop further away.
///
/// Source: EC2 user guide, "Instance metadata options" (read November 2026): with a limit of 1 the answer to the token
/// request does not reach a container.
const CONTAINER_HOPS: u32 = 2;

pub(super) fn judge(machine: &Machine, fleets: &[Fleet], found: &mut Vec<Finding>) {
    if machine.is_spot == Some(false) {
        let about = About(Check::Behaviour, &machine.name);
        found.push(about.ok("runs On-Demand: EC2 does not take it back"));
    } else {
        found.push(behaviour(machine));
        found.extend(price(machine));
        match machine.behaviour {
            Some(Action::Stop) => stays(machine, fleets, found),
            Some(Action::Hibernate) => {
                stays(machine, fleets, found);
                hibernation(machine, found);
            }
            // Any kind of request and of volume goes with it; and without the behaviour nothing depends on them.
            Some(Action::Terminate) | None => {}
        }
    }
    found.push(hops(machine));
}

fn describe_requests(machine: &Machine) -> String {
    format!("aws ec2 describe-spot-instance-requests --filters Name=instance-id,Values={}", machine.name)
}

/// A template may leave the image to who uses it.
fn describe_image(machine: &Machine) -> String {
    let image = machine.image.as_deref().unwrap_or("IMAGE");
    format!("aws ec2 describe-images --image-ids {image}")
}

fn behaviour(machine: &Machine) -> Finding {
    let about = About(Check::Behaviour, &machine.name);
    // Source: EC2 user guide, "Auto Scaling health checks" (read 2023): what does not run is unhealthy, and replaced.
    // "Hibernate your instance": not for instances of a group or of ECS.
    match (machine.behaviour, &machine.group) {
        (None, _) => about.unknown(
            "it is not known whether EC2 terminates, stops or hibernates it",
            &describe_requests(machine),
        ),
        (Some(Action::Terminate), _) => about.ok("terminate: everything is saved within the two minutes"),
        (Some(Action::Stop), Some(group)) => about.warn(
            format!("stop, in the Auto Scaling group {group}, which replaces what does not run"),
            "use `terminate` for instances of a group",
        ),
        (Some(Action::Hibernate), Some(group)) => about.fail(
            format!("hibernate, in the Auto Scaling group {group}: instances of a group cannot"),
            "use `terminate` for instances of a group",
        ),
        (Some(Action::Stop), None) => {
            about.ok("stop: EBS volumes stay, memory and instance store are lost, after two minutes")
        }
        (Some(Action::Hibernate), None) => about
            .ok("hibernate: begins at once, without the two minutes; if it fails, the instance is stopped"),
    }
}

fn price(machine: &Machine) -> Option<Finding> {
    let about = About(Check::MaximumPrice, &machine.name);
    let instance_type = machine.instance_type.as_deref().unwrap_or("its instance type");
    match &machine.price {
        Some(price) => Some(of_price(&about, price, instance_type)),
        // An instance of a group or fleet has its maximum price from there.
        None if machine.group.is_some() || machine.fleet.is_some() => None,
        None if machine.is_template => Some(of_price(&about, &MaximumPrice::NotSet, instance_type)),
        None => Some(about.unknown("no maximum price is known", &describe_requests(machine))),
    }
}

/// What `stop` and `hibernate` ask for alike.
///
/// Source: EC2 user guide, "Behavior of Spot Instance interruptions" (read November 2026): the request must be
/// persistent, or of a fleet of type `maintain`, without a launch group; the root volume must be EBS.
fn stays(machine: &Machine, fleets: &[Fleet], found: &mut Vec<Finding>) {
    found.push(request(machine, fleets));
    let about = About(Check::LaunchGroup, &machine.name);
    found.push(match machine.has_launch_group {
        Some(false) => about.ok("none"),
        Some(true) => about.fail(
            "the request has a launch group: its instances are terminated together, and never stopped",
            "request it without a launch group",
        ),
        // A launch template has no field for it.
        None if machine.is_template || machine.fleet.is_some() => about.ok("none"),
        None => about.unknown("not known", &describe_requests(machine)),
    });
    let about = About(Check::RootVolume, &machine.name);
    found.push(match &machine.root {
        Some(Root::Ebs { .. }) => about.ok("on EBS, which outlives the interruption"),
        Some(Root::InstanceStore) => about.fail(
            "on instance store: the instance can only be terminated",
            "use an image with an EBS root volume",
        ),
        None if machine.is_template => {
            about.unknown("the template does not name it", &describe_image(machine))
        }
        None => {
            about.unknown("not known", &format!("aws ec2 describe-instances --instance-ids {}", machine.name))
        }
    });
}

fn request(machine: &Machine, fleets: &[Fleet]) -> Finding {
    let about = About(Check::Request, &machine.name);
    if let Some(id) = &machine.fleet {
        let kind = fleets.iter().find(|fleet| fleet.id == *id).and_then(|fleet| fleet.kind);
        return match kind {
            Some(FleetKind::Maintain) => about.ok(format!("of {id}, which keeps up its capacity")),
            Some(FleetKind::Request | FleetKind::Instant) => about.fail(
                format!("{id} asks once: it cannot stop or hibernate its instances"),
                "use a fleet of type `maintain`",
            ),
            None => about.unknown(
                format!("the type of {id} is not known"),
                &format!("aws ec2 describe-fleets --fleet-ids {id}"),
            ),
        };
    }
    match machine.request {
        Some(RequestKind::Persistent) => about.ok("persistent"),
        Some(RequestKind::OneTime) => about.fail(
            "made once: EC2 can only terminate its instances",
            "make a persistent request (SpotInstanceType=persistent), or use a fleet of type `maintain`",
        ),
        None => about.unknown("its kind is not known", &describe_requests(machine)),
    }
}

/// What hibernation asks for beyond a stop.
///
/// Source: EC2 user guide, "Prerequisites for EC2 instance hibernation" (read November 2026).
fn hibernation(machine: &Machine, found: &mut Vec<Finding>) {
    let about = About(Check::Hibernation, &machine.name);
    let type_name = machine.instance_type.as_deref().unwrap_or("the instance type");
    let describe_type = format!("aws ec2 describe-instance-types --instance-types {type_name}");
    let limit = if machine.is_windows == Some(true) { WINDOWS_MEMORY_MIB } else { LINUX_MEMORY_MIB - 1 };
    found.push(match (machine.type_hibernates, machine.memory_mib, machine.is_hibernation_enabled) {
        (Some(false), ..) => about.fail(
            format!("{type_name} cannot hibernate"),
            "choose from `aws ec2 describe-instance-types --filters Name=hibernation-supported,Values=true`",
        ),
        (_, Some(memory), _) if memory > limit => about.fail(
            format!("{memory} MiB of memory are more than can be hibernated"),
            "choose a smaller type: less than 150 GiB with Linux, at most 16 GiB with Windows",
        ),
        (_, _, Some(false)) => about.fail(
            "it was not enabled at the launch, and cannot be enabled later",
            "launch with HibernationOptions Configured=true",
        ),
        (None, ..) | (_, None, _) => {
            about.unknown(format!("whether {type_name} can is not known"), &describe_type)
        }
        (_, _, None) => about.unknown(
            "whether it was enabled at the launch is not known",
            &format!("aws ec2 describe-instances --instance-ids {}", machine.name),
        ),
        (Some(true), Some(_), Some(true)) => about.ok(format!("{type_name} can, and it is enabled")),
    });
    found.extend(room(machine, &describe_type));
    let about = About(Check::HibernationAgent, &machine.name);
    found.push(
        about.finding(
            Verdict::Unknown,
            "cannot be seen from outside; without it EC2 stops the instance instead, and its memory is lost"
                .into(),
            Some("on the machine: systemctl is-enabled hibinit-agent".into()),
        ),
    );
}

/// Whether the root volume takes the memory, encrypted.
fn room(machine: &Machine, describe_type: &str) -> Option<Finding> {
    let about = About(Check::RootVolume, &machine.name);
    // One that is not there was told of before.
    let Some(Root::Ebs { volume, gib, is_encrypted }) = &machine.root else { return None };
    let volume = volume.as_deref().unwrap_or("VOLUME");
    let describe = format!("aws ec2 describe-volumes --volume-ids {volume}");
    Some(match (is_encrypted, gib, machine.memory_mib) {
        (Some(false), ..) => about.fail(
            "not encrypted: memory must not go to a readable disk, and EC2 does not hibernate",
            "launch with an encrypted root volume",
        ),
        (None, ..) => about.unknown("whether it is encrypted is not known", &describe),
        (_, None, _) => about.unknown("its size is not known", &describe),
        (.., None) => about.unknown("the size of the memory is not known", describe_type),
        (Some(true), Some(gib), Some(memory)) => {
            let size = gib.saturating_mul(1024);
            let what = format!("encrypted, {gib} GiB for {memory} MiB of memory");
            if size < memory {
                about.fail(what + ": no room for it", "launch with a larger root volume")
            } else if size < memory.saturating_add(SYSTEM_MIB) {
                about.warn(
                    what + " and the operating system: a hibernation fails when the rest is full",
                    "launch with a root volume of the memory's size and what the system needs",
                )
            } else {
                about.ok(what)
            }
        }
    })
}

fn hops(machine: &Machine) -> Finding {
    let about = About(Check::HopLimit, &machine.name);
    let command = if machine.is_template {
        describe_image(machine)
    } else {
        format!("aws ec2 describe-instances --instance-ids {}", machine.name)
    };
    match (machine.has_metadata, machine.hop_limit) {
        (Some(false), _) => about.fail(
            "the metadata service is switched off: no notice can be seen",
            "switch it on: aws ec2 modify-instance-metadata-options --http-endpoint enabled",
        ),
        (_, None) => about.unknown("not known", &command),
        (_, Some(hops)) if hops >= CONTAINER_HOPS => {
            about.ok(format!("{hops}: containers reach the metadata service, too"))
        }
        (_, Some(hops)) => about.warn(
            format!("{hops}: enough outside of containers; one with a network of its own gets no token"),
            "for an agent in a container: aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2",
        ),
    }
}

//! What must be so before an interruption comes: facts about machines, fleets, groups and containers in, findings out.
//!
//! What it is: a judgement. What it is not: a way to learn the facts. Whoever knows something fills it in; what nobody
//! knows is judged as unknown, with the call that would tell it.
//!
//! * `machine`: a Spot instance or a launch template: behaviour, request, price, root volume, hibernation, metadata.
//! * `fleet`: what surrounds it: EC2 Fleet, Auto Scaling group and hook, target group, task definition, quota.

mod fleet;
mod machine;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::notice::Action;
use crate::time::Millis;

/// How something stands. Ordered by how much it deserves a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Nobody has told; the remedy is the call that does.
    Unknown,
    /// It works, and something is lost that need not be.
    Warn,
    /// It will not work when it is needed.
    Fail,
}

/// What was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// What EC2 does to the instance at an interruption.
    Behaviour,
    /// The kind of the Spot request, which not every behaviour goes with.
    Request,
    /// The most that is paid.
    MaximumPrice,
    /// The request's launch group.
    LaunchGroup,
    /// Where the operating system lies, and whether there is room for the memory.
    RootVolume,
    /// Whether the instance can hibernate at all.
    Hibernation,
    /// The program that takes the memory to the disk; nobody sees it from outside.
    HibernationAgent,
    /// Whether the metadata service can be reached, from a container, too.
    HopLimit,
    /// Whether an EC2 Fleet replaces what is interrupted.
    FleetType,
    /// Whether a replacement is started at the rebalance recommendation.
    CapacityRebalancing,
    /// The lifecycle hook that waits for the evacuation.
    LifecycleHook,
    /// How long a load balancer drains a target.
    DeregistrationDelay,
    /// From SIGTERM to SIGKILL in a container.
    StopTimeout,
    /// What the account may run on demand.
    OnDemandQuota,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was judged.
    pub check: Check,
    /// Of what: an instance's id, a group's name.
    pub about: String,
    /// How it stands.
    pub verdict: Verdict,
    /// In words.
    pub what: String,
    /// What to do; `None` where nothing is to be done.
    pub remedy: Option<String>,
}

/// Everything that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Instances and launch templates.
    pub machines: Vec<Machine>,
    /// EC2 Fleets.
    pub fleets: Vec<Fleet>,
    /// Auto Scaling groups.
    pub groups: Vec<Group>,
    /// Target groups of load balancers.
    pub target_groups: Vec<TargetGroup>,
    /// ECS task definitions.
    pub tasks: Vec<Task>,
    /// What On-Demand would need, and may have.
    pub on_demand: Vec<OnDemand>,
    /// What this configuration counts on.
    pub plan: Plan,
}

/// What a configuration counts on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The time from SIGTERM to the end, where one is chosen.
    pub grace: Option<Millis>,
    /// The lifecycle hook that is completed.
    pub hook: Option<String>,
    /// Between two heartbeats for it.
    pub heartbeat: Millis,
}

/// An instance, or the launch template of some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The instance's id, or the template's name and version.
    pub name: String,
    /// Whether it is a template: what it leaves open has EC2's default, and its instances may have any type.
    pub is_template: bool,
    /// Whether it is a Spot instance.
    pub is_spot: Option<bool>,
    /// What happens at an interruption.
    pub behaviour: Option<Action>,
    /// The kind of its Spot request.
    pub request: Option<RequestKind>,
    /// Whether its request has a launch group.
    pub has_launch_group: Option<bool>,
    /// The most that its request pays.
    pub price: Option<MaximumPrice>,
    /// The EC2 Fleet that started it.
    pub fleet: Option<String>,
    /// The Auto Scaling group that it is in.
    pub group: Option<String>,
    /// Such as `c5.large`.
    pub instance_type: Option<String>,
    /// The image that it was started from.
    pub image: Option<String>,
    /// Whether instances of its type can hibernate.
    pub type_hibernates: Option<bool>,
    /// Its memory, MiB.
    pub memory_mib: Option<u64>,
    /// Whether it runs Windows.
    pub is_windows: Option<bool>,
    /// Whether it was started with hibernation enabled.
    pub is_hibernation_enabled: Option<bool>,
    /// Where its operating system lies.
    pub root: Option<Root>,
    /// Whether its metadata service is switched on.
    pub has_metadata: Option<bool>,
    /// How many hops an answer of its metadata service survives.
    pub hop_limit: Option<u32>,
}

/// The kind of a Spot request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Made once.
    OneTime,
    /// Made again after an interruption.
    Persistent,
}

/// The most that a Spot request pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaximumPrice {
    /// None is set: the On-Demand price.
    NotSet,
    /// So much, in dollars an hour, as AWS writes it.
    Set(String),
    /// AWS shows so much, which is the On-Demand price where none is set.
    Shown(String),
}

/// Where the operating system lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// On a disk of the host.
    InstanceStore,
    /// On an EBS volume.
    Ebs {
        /// Its id.
        volume: Option<String>,
        /// Its size.
        gib: Option<u64>,
        /// Whether it is encrypted.
        is_encrypted: Option<bool>,
    },
}

/// An EC2 Fleet or Spot Fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: Option<FleetKind>,
    /// What happens to its instances at an interruption.
    pub behaviour: Option<Action>,
    /// Whether it replaces instances at the rebalance recommendation.
    pub rebalances: Option<bool>,
    /// The most that it pays.
    pub price: Option<MaximumPrice>,
}

/// The type of an EC2 Fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetKind {
    /// Keeps up its target capacity.
    Maintain,
    /// Asks once, and does not replace.
    Request,
    /// Asks once, synchronously.
    Instant,
}

/// An Auto Scaling group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Whether Capacity Rebalancing is on.
    pub rebalances: Option<bool>,
    /// The most that it pays.
    pub price: Option<MaximumPrice>,
    /// Its lifecycle hooks.
    pub hooks: Option<Vec<Hook>>,
}

/// A lifecycle hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Whether it waits when an instance ends, and not when one begins.
    pub is_terminating: bool,
    /// How long it waits without a heartbeat.
    pub timeout: Option<Millis>,
}

/// A load balancer's target group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetGroup {
    /// Its ARN.
    pub arn: String,
    /// How long it drains a target.
    pub delay: Option<Millis>,
}

/// An ECS task definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Family and revision.
    pub name: String,
    /// Its containers.
    pub containers: Vec<Container>,
}

/// A container of a task definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// From SIGTERM to SIGKILL, where the definition says it.
    pub stop_timeout: Option<Millis>,
}

/// What a fleet would need if it moved to On-Demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDemand {
    /// Of which quota.
    pub pool: Pool,
    /// Thousandths of a vCPU that the whole fleet needs.
    pub needed: Option<u64>,
    /// Thousandths of a vCPU that the account may run.
    pub quota: Option<u64>,
}

/// A quota for On-Demand capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// Fargate.
    Fargate,
    /// EC2, the families A, C, D, H, I, M, R, T, Z.
    Ec2Standard,
}

impl Pool {
    /// Service and quota code, as Service Quotas names them.
    ///
    /// Source: Service Quotas, "Fargate On-Demand vCPU resource count" and "Running On-Demand Standard (A, C, D, H, I,
    /// M, R, T, Z) instances", which counts vCPUs (read November 2026).
    #[must_use]
    pub const fn code(self) -> (&'static str, &'static str) {
        match self {
            Self::Fargate => ("fargate", "L-3032A538"),
            Self::Ec2Standard => ("ec2", "L-1216C47A"),
        }
    }
}

impl Check {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Behaviour => "interruption behaviour",
            Self::Request => "Spot request",
            Self::MaximumPrice => "maximum price",
            Self::LaunchGroup => "launch group",
            Self::RootVolume => "root volume",
            Self::Hibernation => "hibernation",
            Self::HibernationAgent => "hibernation agent",
            Self::HopLimit => "metadata hop limit",
            Self::FleetType => "fleet type",
            Self::CapacityRebalancing => "Capacity Rebalancing",
            Self::LifecycleHook => "lifecycle hook",
            Self::DeregistrationDelay => "deregistration delay",
            Self::StopTimeout => "stopTimeout",
            Self::OnDemandQuota => "On-Demand quota",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Judges everything, in the order of [`Facts`].
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for one in &facts.machines {
        machine::judge(one, &facts.fleets, &mut found);
    }
    for one in &facts.fleets {
        fleet::of_fleet(one, &mut found);
    }
    for one in &facts.groups {
        fleet::of_group(one, &facts.plan, &mut found);
    }
    for one in &facts.target_groups {
        found.push(fleet::of_target_group(one));
    }
    for one in &facts.tasks {
        found.extend(one.containers.iter().map(|container| fleet::of_container(one, container, &facts.plan)));
    }
    found.extend(facts.on_demand.iter().map(fleet::of_quota));
    found
}

/// Whose finding it is, and of what: three of the four verdicts want a remedy.
struct About<'a>(Check, &'a str);

impl About<'_> {
    fn finding(&self, verdict: Verdict, what: String, remedy: Option<String>) -> Finding {
        Finding { check: self.0, about: self.1.into(), verdict, what, remedy }
    }

    fn ok(&self, what: impl Into<String>) -> Finding {
        self.finding(Verdict::Ok, what.into(), None)
    }

    fn warn(&self, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Verdict::Warn, what.into(), Some(remedy.into()))
    }

    fn fail(&self, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Verdict::Fail, what.into(), Some(remedy.into()))
    }

    /// `command` is the whole of it: its output is one of the files that `lifeboat doctor --from` puts together.
    fn unknown(&self, what: impl Into<String>, command: &str) -> Finding {
        let remedy = alloc::format!(
            "{command} > told.json; then lifeboat doctor --from told.json and what was told before"
        );
        self.finding(Verdict::Unknown, what.into(), Some(remedy))
    }
}

/// How the maximum price of `about` stands.
///
/// Source: EC2 API reference, `SpotMarketOptions` (read November 2026): without `MaxPrice` the current Spot price is
/// paid, with one instances are interrupted more often.
fn of_price(about: &About<'_>, price: &MaximumPrice, instance_type: &str) -> Finding {
    match price {
        MaximumPrice::NotSet => about.ok("none is set: at most the On-Demand price is paid"),
        MaximumPrice::Set(price) => about.warn(
            alloc::format!("${price} an hour: above it EC2 interrupts, whether it needs the capacity or not"),
            "leave the maximum price out: the On-Demand price is the limit then",
        ),
        // DescribeSpotInstanceRequests fills the On-Demand price in where none was asked for.
        MaximumPrice::Shown(price) => about.finding(
            Verdict::Unknown,
            alloc::format!("the request shows ${price} an hour, which is the On-Demand price where none was set"),
            Some(alloc::format!(
                "compare it with the On-Demand price of {instance_type}; where it is lower, leave it out of the request"
            )),
        ),
    }
}

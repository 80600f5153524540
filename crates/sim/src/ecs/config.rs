//! What an ECS world is made of.

use lifeboat_core::failover::machine::Target;
use lifeboat_core::failover::state::Rules;
use lifeboat_core::time::Millis;

use super::faults::Faults;
use super::start::StartTimes;

/// One run of this world.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many service pairs share the account and the trace's capacity.
    pub services: usize,
    /// Tasks that each wants.
    pub target: u32,
    /// Whether the controllers are told the target or follow the Spot service's desired count.
    pub follows: bool,
    /// The policy and its rules.
    pub rules: Rules,
    /// Controllers that run at once.
    pub controllers: usize,
    /// From placement until RUNNING.
    pub start: StartTimes,
    /// How long before a reclaim it is announced.
    pub notice: Millis,
    /// The share of reclaims that are announced, in thousandths.
    pub announced: u32,
    /// How long after the notice ECS kills the containers. Source: ECS task definition parameters,
    /// `stopTimeout`: 30 s by default, at most 120 s on Fargate; read 2026-11.
    pub stop_timeout: Millis,
    /// On-Demand tasks that the account's vCPU quota allows, all services together.
    pub on_demand_quota: u32,
    /// Begin with everything on Spot, else On-Demand.
    pub starts_on_spot: bool,
    /// Notices are not read: a warned task counts until it has stopped, as source B has it.
    pub hides_notices: bool,
    /// What goes wrong.
    pub faults: Faults,
    /// Draws everything.
    pub seed: u64,
    /// Keep turns and the time line of the first service.
    pub record: bool,
    /// A mistake planted on purpose, to prove that the checkers see it.
    pub planted: Planted,
}

/// The classic mistakes, planted in what runs the machine, never in the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    /// None: the real thing.
    #[default]
    Nothing,
    /// Messages are acknowledged when they are received.
    AcknowledgesEarly,
    /// Events of Standard tasks are told as events of Spot tasks.
    CountsStandard,
    /// When On-Demand is raised, Spot is told to stop at the same moment.
    StopsSpotFirst,
    /// The stored state expires, as source B's TTL made it.
    ExpiresState,
    /// The generation is not read again before acting, nor the order's expiry checked.
    ActsUnfenced,
}

impl Config {
    /// A world without faults: one controller, one service that starts on Spot.
    #[must_use]
    pub const fn new(target: u32, rules: Rules, seed: u64) -> Self {
        Self {
            services: 1,
            target,
            follows: false,
            rules,
            controllers: 1,
            start: StartTimes::MEASURED,
            notice: Millis::from_secs(120),
            announced: 1000,
            stop_timeout: Millis::from_secs(120),
            on_demand_quota: u32::MAX,
            starts_on_spot: true,
            hides_notices: false,
            faults: Faults::none(),
            seed,
            record: false,
            planted: Planted::Nothing,
        }
    }

    pub(super) const fn machine_target(&self) -> Target {
        if self.follows { Target::FollowSpot } else { Target::Fixed(self.target) }
    }
}

//! The world's time against the wall's: at a speed, or moved on by hand.

use lifeboat_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The fastest that a world may run: at more, a poll of the API sees nothing but the end.
pub(crate) const SPEED_MAX: u32 = 10_000;

/// What the time stamps on the wire say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Stamps {
    /// The machine's own time: the client's clock stays right, and its durations are divided by the speed.
    #[default]
    Wall,
    /// The world's time, counted from the moment at which the lab was started: the client's clock must be the lab's.
    World,
}

/// Where the world's time stands.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// World milliseconds for each of the wall's; 0 stands still.
    speed: u32,
    stamps: Stamps,
    /// When the lab was started, in milliseconds since 1970.
    started_wall: i64,
    /// Since when this speed has been in force.
    base_wall: i64,
    base_world: i64,
}

impl Clock {
    pub(crate) const fn new(wall: i64, speed: u32, stamps: Stamps) -> Self {
        Self { speed, stamps, started_wall: wall, base_wall: wall, base_world: 0 }
    }

    pub(crate) const fn speed(&self) -> u32 {
        self.speed
    }

    pub(crate) const fn stamps(&self) -> Stamps {
        self.stamps
    }

    /// The world's time at this moment of the wall.
    pub(crate) fn world(&self, wall: i64) -> Timestamp {
        let passed = wall.saturating_sub(self.base_wall).max(0);
        Timestamp(self.base_world.saturating_add(passed.saturating_mul(i64::from(self.speed))))
    }

    /// How much of the wall's time passes until the world is there; `None` where it stands still.
    pub(crate) fn wall_until(&self, wall: i64, world: Timestamp) -> Option<u64> {
        if self.speed == 0 {
            return None;
        }
        let left = world.0.saturating_sub(self.world(wall).0).max(0);
        Some(left.unsigned_abs().div_ceil(u64::from(self.speed)))
    }

    /// The time stamp on the wire for something that happened at this time of the world, in milliseconds since 1970.
    pub(crate) fn stamp(&self, world: Timestamp) -> i64 {
        match self.stamps {
            Stamps::World => self.started_wall.saturating_add(world.0),
            Stamps::Wall => {
                let speed = i64::from(self.speed.max(1));
                self.base_wall.saturating_add((world.0 - self.base_world) / speed)
            }
        }
    }

    /// The clock by which whoever talks to the lab measures: that of the wall, or that of the world.
    pub(crate) fn client(&self, wall: i64) -> i64 {
        match self.stamps {
            Stamps::Wall => wall,
            Stamps::World => self.stamp(self.world(wall)),
        }
    }

    /// From now on it runs at `speed`.
    pub(crate) fn set_speed(&mut self, wall: i64, speed: u32) {
        self.base_world = self.world(wall).0;
        self.base_wall = wall;
        self.speed = speed;
    }

    /// The world's time is `ms` later at once.
    pub(crate) fn advance(&mut self, wall: i64, ms: u64) {
        self.base_world = self.world(wall).0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
        self.base_wall = wall;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_runs_at_its_speed_and_never_jumps_when_that_changes() {
        let mut clock = Clock::new(1_000_000, 60, Stamps::Wall);
        assert_eq!(clock.world(1_001_000), Timestamp(60_000));
        clock.set_speed(1_001_000, 1);
        assert_eq!(clock.world(1_001_000), Timestamp(60_000));
        assert_eq!(clock.world(1_002_000), Timestamp(61_000));
        assert_eq!(clock.wall_until(1_002_000, Timestamp(62_500)), Some(1_500));
        clock.set_speed(1_002_000, 0);
        assert_eq!(clock.world(9_000_000), Timestamp(61_000));
        assert_eq!(clock.wall_until(9_000_000, Timestamp(62_000)), None);
        clock.advance(9_000_000, 500);
        assert_eq!(clock.world(9_500_000), Timestamp(61_500));
    }

    #[test]
    fn stamps_are_the_walls_or_the_worlds() {
        let wall = Clock::new(1_000_000, 60, Stamps::Wall);
        assert_eq!(wall.stamp(Timestamp(60_000)), 1_001_000);
        let world = Clock::new(1_000_000, 60, Stamps::World);
        assert_eq!(world.stamp(Timestamp(60_000)), 1_060_000);
        assert_eq!(world.client(1_001_000), 1_060_000);
    }
}

//! Which zone is asked for how many tasks.

use alloc::vec;
use alloc::vec::Vec;

use crate::failover::zones::{Launch, Memory, Placement, Zones};
use crate::time::{Millis, Timestamp};

fn after(seconds: u64) -> Timestamp {
    Timestamp(0) + Millis::from_secs(seconds)
}

fn memory() -> Placement {
    let (first, longest) = (Millis::from_secs(30), Millis::from_secs(120));
    Placement::Memory(Memory { canary_first: first, canary_longest: longest, full: Millis::from_secs(30) })
}

fn plan(zones: &mut Zones, at: u64, need: u32) -> Vec<(usize, u32)> {
    zones.plan(after(at), need, 10).into_iter().map(|Launch { zone, count }| (zone, count)).collect()
}

/// Zone 0 holds four tasks since second 0, zone 1 four since second 100, zone 2 is dead.
fn two_live() -> Zones {
    let mut zones = Zones::new(memory(), 3);
    assert_eq!(plan(&mut zones, 0, 3), [(0, 1), (1, 1), (2, 1)]);
    zones.answered(after(0), 0, 1, 1);
    zones.answered(after(0), 1, 1, 0);
    zones.answered(after(0), 2, 1, 0);
    assert_eq!(plan(&mut zones, 1, 3), [(0, 3)]);
    zones.answered(after(1), 0, 3, 3);
    assert_eq!(plan(&mut zones, 2, 1), [(0, 1)]);
    zones.answered(after(2), 0, 1, 0);
    // The full one has the better record and is asked for the odd task.
    assert_eq!(plan(&mut zones, 100, 4), [(0, 2), (1, 1), (2, 1)]);
    zones.answered(after(100), 0, 2, 0);
    zones.answered(after(100), 1, 1, 1);
    zones.answered(after(100), 2, 1, 0);
    assert_eq!(plan(&mut zones, 101, 3), [(1, 3)]);
    zones.answered(after(101), 1, 3, 3);
    zones
}

#[test]
fn live_zones_are_filled_and_full_ones_asked_again_later() {
    let mut zones = two_live();
    // Zone 0 said that it is full, zone 2 is dead: the live one serves.
    assert_eq!(plan(&mut zones, 140, 1), [(1, 1)]);
    zones.answered(after(140), 1, 1, 1);
    // At most half of the target in one zone while another lives; then what is left goes there all the same.
    assert_eq!(plan(&mut zones, 141, 2), [(1, 2)]);
}

#[test]
fn what_is_asked_for_is_not_asked_for_twice() {
    let mut zones = two_live();
    assert_eq!(plan(&mut zones, 140, 2), [(1, 2)]);
    assert_eq!(zones.asked(), 2);
    assert_eq!(plan(&mut zones, 141, 2), []);
    assert_eq!(plan(&mut zones, 141, 3), [(1, 1)]);
}

#[test]
fn a_lost_zone_is_dead_until_it_accepts_again() {
    let mut zones = two_live();
    zones.lost(after(200), 1);
    assert_eq!(plan(&mut zones, 201, 1), [(0, 1)], "zone 0 lives and is due again");
    zones.answered(after(201), 0, 1, 0);
    assert_eq!(plan(&mut zones, 229, 1), [(2, 1)], "zone 1 was lost less than 30 s ago");
    zones.answered(after(229), 2, 1, 0);
    assert_eq!(plan(&mut zones, 230, 1), [(1, 1)]);
}

#[test]
fn dead_zones_are_asked_at_growing_distances() {
    let mut zones = Zones::new(memory(), 1);
    let mut asked = vec![];
    for second in 0..600 {
        if !plan(&mut zones, second, 1).is_empty() {
            asked.push(second);
            zones.answered(after(second), 0, 1, 0);
        }
    }
    assert_eq!(asked, [0, 30, 90, 210, 330, 450, 570]);
}

#[test]
fn zones_that_live_longest_are_filled_first_and_left_last() {
    let mut zones = Zones::new(memory(), 3);
    assert_eq!(plan(&mut zones, 0, 3), [(0, 1), (1, 1), (2, 1)]);
    zones.answered(after(9), 0, 1, 1);
    zones.answered(after(5), 1, 1, 1);
    zones.answered(after(7), 2, 1, 1);
    assert_eq!(plan(&mut zones, 10, 6), [(1, 4), (2, 2)], "half of ten in one zone, the rest in the next");
    assert_eq!(zones.surplus(after(10)), Some(0));
    zones.stopped(0);
    assert_eq!(zones.surplus(after(10)), Some(2), "where nothing runs, nothing can be stopped");
}

#[test]
fn zones_with_losses_come_last_until_a_day_has_passed() {
    let mut zones = Zones::new(memory(), 2);
    assert_eq!(plan(&mut zones, 0, 2), [(0, 1), (1, 1)]);
    zones.answered(after(0), 0, 1, 1);
    zones.answered(after(0), 1, 1, 0);
    // Two tasks lost at once are one loss of the zone.
    zones.lost(after(100), 0);
    assert_eq!(plan(&mut zones, 200, 3), [(0, 1), (1, 2)]);
    zones.answered(after(200), 0, 1, 0);
    zones.answered(after(200), 1, 2, 0);
    assert_eq!(plan(&mut zones, 100 + 86_399, 3), [(0, 1), (1, 2)]);
    zones.answered(after(100 + 86_399), 0, 1, 0);
    zones.answered(after(100 + 86_399), 1, 2, 0);
    assert_eq!(plan(&mut zones, 1_000 + 86_400, 3), [(0, 2), (1, 1)]);
}

#[test]
fn spread_takes_the_emptiest_zone_that_did_not_just_refuse() {
    let mut zones = Zones::new(Placement::Spread { retry: Millis::from_secs(30) }, 3);
    assert_eq!(plan(&mut zones, 0, 4), [(0, 2), (1, 1), (2, 1)]);
    zones.answered(after(0), 0, 2, 1);
    zones.answered(after(0), 1, 1, 1);
    zones.answered(after(0), 2, 1, 1);
    assert_eq!(zones.retry_at(after(0)), Some(after(30)));
    assert_eq!(plan(&mut zones, 29, 2), [(1, 1), (2, 1)]);
    zones.answered(after(29), 1, 1, 1);
    zones.answered(after(29), 2, 1, 1);
    zones.lost(after(30), 0);
    assert_eq!(plan(&mut zones, 30, 2), [(0, 2)]);
}

#[test]
fn hedge_leaves_preempted_zones_alone_until_fewer_than_two_others_remain() {
    let mut zones = Zones::new(Placement::Hedge { retry: Millis::from_secs(30) }, 3);
    assert_eq!(plan(&mut zones, 0, 3), [(0, 1), (1, 1), (2, 1)]);
    for zone in 0..3 {
        zones.answered(after(0), zone, 1, 1);
    }
    zones.lost(after(10), 0);
    assert_eq!(plan(&mut zones, 100, 2), [(1, 1), (2, 1)]);
    zones.answered(after(100), 1, 1, 0);
    zones.answered(after(100), 2, 1, 1);
    // Zones 0 and 1 are set aside, one remains: all count again, but one that refused waits its 30 s.
    assert_eq!(plan(&mut zones, 101, 3), [(0, 3)]);
}

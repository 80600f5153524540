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
fn a_lost_zone_is_dead_until_it_accepts_again_and_all_that_are_due_are_asked_at_once() {
    let mut zones = two_live();
    zones.lost(after(200), 1, after(200));
    assert_eq!(plan(&mut zones, 201, 1), [(0, 1), (2, 1)], "zone 1 was lost less than 30 s ago");
    zones.answered(after(201), 0, 1, 0);
    zones.answered(after(201), 2, 1, 0);
    assert_eq!(plan(&mut zones, 229, 1), []);
    assert_eq!(plan(&mut zones, 230, 1), [(1, 1)]);
}

#[test]
fn a_warned_zone_is_asked_again_when_its_tasks_are_gone() {
    let mut zones = two_live();
    zones.lost(after(200), 1, after(320));
    assert_eq!(plan(&mut zones, 309, 1), [(0, 1), (2, 1)], "zone 1 has nothing to give until then");
    assert_eq!(plan(&mut zones, 310, 3), [(1, 1)], "the answer comes when they are gone");
}

#[test]
fn a_zone_that_refuses_time_and_again_is_asked_for_everything() {
    let mut zones = Zones::new(memory(), 2);
    let refuse = |zones: &mut Zones, at: u64, asked: [u32; 2]| {
        assert_eq!(plan(zones, at, 5), [(0, asked[0]), (1, asked[1])]);
        zones.answered(after(at), 0, asked[0], 0);
        zones.answered(after(at), 1, asked[1], 0);
    };
    refuse(&mut zones, 0, [3, 2]);
    refuse(&mut zones, 30, [3, 2]);
    refuse(&mut zones, 90, [5, 5]);
    assert_eq!(zones.asked(), 0);
    assert_eq!(plan(&mut zones, 300, 1), [(0, 1), (1, 1)]);
    // One that accepts has a name to lose again.
    zones.answered(after(300), 0, 1, 1);
    zones.lost(after(301), 0, after(301));
    zones.answered(after(302), 1, 1, 0);
    assert_eq!(plan(&mut zones, 600, 5), [(0, 2), (1, 5)]);
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

/// Three zones that live; zone 0 serves for two hours, the others for some seconds.
fn one_old() -> Zones {
    let mut zones = Zones::new(memory(), 3);
    assert_eq!(plan(&mut zones, 0, 3), [(0, 1), (1, 1), (2, 1)]);
    zones.answered(after(0), 0, 1, 1);
    zones.answered(after(7_190), 1, 1, 1);
    zones.answered(after(7_190), 2, 1, 1);
    zones
}

#[test]
fn zones_with_the_least_risk_are_filled_first_and_left_last() {
    let mut zones = one_old();
    // Up to half of ten in the old one, then the two that are alike by turns.
    assert_eq!(plan(&mut zones, 7_200, 7), [(0, 4), (1, 2), (2, 1)]);
    assert_eq!(zones.surplus(after(7_200), |_| true), Some(2), "the last of those with the greatest risk");
    assert_eq!(zones.surplus(after(7_200), |zone| zone < 2), Some(1));
    zones.stopped(after(7_200), 2);
    assert_eq!(zones.surplus(after(7_200), |_| true), Some(1), "where nothing runs, nothing can be stopped");
}

#[test]
fn the_time_up_to_an_answer_counts_as_served_where_tasks_run() {
    let mut zones = Zones::new(memory(), 2);
    assert_eq!(plan(&mut zones, 0, 2), [(0, 1), (1, 1)]);
    zones.answered(after(0), 1, 1, 1);
    zones.answered(after(7_200), 0, 1, 1);
    assert_eq!(plan(&mut zones, 7_200, 1), [(1, 1)]);
    zones.answered(after(7_200), 1, 1, 1);
    assert_eq!(zones.surplus(after(7_200), |_| true), Some(0), "it has only begun");
}

/// A zone in which two run since second 0.
fn one_live() -> Zones {
    let mut zones = Zones::new(memory(), 1);
    assert_eq!(plan(&mut zones, 0, 2), [(0, 2)]);
    zones.answered(after(0), 0, 2, 2);
    zones
}

/// It refuses at these seconds, and is asked again no sooner than at `next`.
fn assert_asked_again(mut zones: Zones, refusals: [u64; 2], next: u64) {
    for at in refusals {
        assert_eq!(plan(&mut zones, at, 1), [(0, 1)]);
        zones.answered(after(at), 0, 1, 0);
    }
    assert_eq!(plan(&mut zones, next - 1, 1), []);
    assert_eq!(plan(&mut zones, next, 1), [(0, 1)]);
}

#[test]
fn a_zone_is_full_only_while_it_lives_and_ours_run_there() {
    assert_asked_again(one_live(), [1, 31], 61);
    let mut left = one_live();
    left.stopped(after(0), 0);
    left.stopped(after(0), 0);
    assert_asked_again(left, [1, 31], 91);
    let mut warned = one_live();
    warned.lost(after(10), 0, after(10));
    assert_asked_again(warned, [40, 70], 130);
}

#[test]
fn what_is_asked_for_counts_as_if_it_were_there() {
    let mut zones = Zones::new(memory(), 2);
    assert_eq!(plan(&mut zones, 0, 2), [(0, 1), (1, 1)]);
    zones.answered(after(0), 0, 1, 1);
    zones.answered(after(0), 1, 1, 1);
    assert_eq!(plan(&mut zones, 1, 3), [(0, 2), (1, 1)]);
    assert_eq!(plan(&mut zones, 2, 4), [(1, 1)]);
}

#[test]
fn when_every_zone_has_half_of_the_target_the_best_takes_the_rest() {
    let mut zones = one_old();
    let launches = zones.plan(after(7_200), 7, 4);
    let counts: Vec<(usize, u32)> = launches.into_iter().map(|launch| (launch.zone, launch.count)).collect();
    assert_eq!(counts, [(0, 5), (1, 1), (2, 1)]);
}

#[test]
fn a_zone_that_was_lost_comes_after_those_that_were_not() {
    let mut zones = Zones::new(memory(), 2);
    assert_eq!(plan(&mut zones, 0, 4), [(0, 2), (1, 2)]);
    zones.answered(after(0), 0, 2, 2);
    zones.answered(after(0), 1, 2, 2);
    // Two tasks lost at once are one loss of the zone.
    zones.lost(after(1_000), 0, after(1_000));
    zones.lost(after(1_000), 0, after(1_000));
    assert_eq!(plan(&mut zones, 1_001, 1), [(1, 1)]);
    zones.answered(after(1_001), 1, 1, 0);
    assert_eq!(plan(&mut zones, 1_031, 1), [(0, 1), (1, 1)]);
    zones.answered(after(1_031), 0, 1, 1);
    zones.answered(after(1_031), 1, 1, 1);
    assert_eq!(plan(&mut zones, 1_032, 2), [(1, 2)], "the lost one has fewer, but not so good a record");
}

#[test]
fn what_dead_zones_leave_over_is_asked_of_the_best_of_them_first() {
    let mut zones = Zones::new(memory(), 3);
    assert_eq!(plan(&mut zones, 0, 3), [(0, 1), (1, 1), (2, 1)]);
    for zone in 0..3 {
        zones.answered(after(0), zone, 1, u32::from(zone < 2));
    }
    zones.lost(after(10), 0, after(10));
    zones.lost(after(36_000), 1, after(36_000));
    // Zone 2 was never lost, zone 0 ten hours ago, zone 1 just now after ten good hours.
    assert_eq!(plan(&mut zones, 36_100, 5), [(0, 1), (1, 2), (2, 2)]);
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
    zones.lost(after(30), 0, after(30));
    assert_eq!(plan(&mut zones, 30, 2), [(0, 2)]);
}

#[test]
fn hedge_leaves_preempted_zones_alone_until_fewer_than_two_others_remain() {
    let mut zones = Zones::new(Placement::Hedge { retry: Millis::from_secs(30) }, 3);
    assert_eq!(plan(&mut zones, 0, 3), [(0, 1), (1, 1), (2, 1)]);
    for zone in 0..3 {
        zones.answered(after(0), zone, 1, 1);
    }
    zones.lost(after(10), 0, after(10));
    assert_eq!(plan(&mut zones, 100, 2), [(1, 1), (2, 1)]);
    zones.answered(after(100), 1, 1, 0);
    zones.answered(after(100), 2, 1, 1);
    // Zones 0 and 1 are set aside, one remains: all count again, but one that refused waits its 30 s.
    assert_eq!(plan(&mut zones, 101, 3), [(0, 3)]);
}

#[test]
fn a_loss_that_is_told_twice_or_too_early_leaves_the_zone_empty() {
    let mut zones = two_live();
    for _ in 0..6 {
        zones.lost(after(150), 1, after(150));
    }
    zones.stopped(after(150), 1);
    zones.answered(after(151), 1, 7, 0);
    assert_eq!(zones.asked(), 0);
    assert_eq!(zones.surplus(after(152), |zone| zone == 1), None);
}

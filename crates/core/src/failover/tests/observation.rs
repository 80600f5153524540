//! What a look makes of the tasks that ECS shows.

use alloc::collections::BTreeMap;
use alloc::vec;

use crate::failover::observation::{Observation, Service, Task};
use crate::failover::split::Split;
use crate::failover::state::Seen;
use crate::failover::view::Counts;
use crate::time::{Millis, Timestamp};

#[test]
fn tasks_are_counted_by_what_they_are_and_will_be() {
    let task = |key, created: i64, is_ready, is_warned| Task {
        key,
        created_at: Timestamp(created),
        is_ready,
        is_warned,
    };
    let spot = vec![
        task(1, 0, true, false),
        task(2, 0, true, false),
        task(3, 0, true, true),
        task(4, 0, false, true),
        task(5, 7_000, false, false),
        task(6, 4_000, false, false),
        task(7, 0, true, false),
        task(8, 0, false, false),
    ];
    let on_demand = vec![
        task(11, 0, true, false),
        task(12, 0, true, false),
        task(13, 0, false, false),
        task(14, 0, false, false),
        task(15, 0, false, false),
        task(16, 0, true, true),
    ];
    let observation = Observation {
        at: Timestamp(8_000),
        spot: Service { desired: 9, tasks: spot.into() },
        on_demand: Service { desired: 5, tasks: on_demand.into() },
        is_deploying: false,
    };
    // Events told that 7 and 8 are lost, and of one that has never been seen.
    let doomed = BTreeMap::from([(7, Timestamp(0)), (8, Timestamp(0)), (99, Timestamp(0))]);
    let expected = Seen {
        target: 9,
        spot: Counts { starting: 2, ready: 2, warned: 2 },
        on_demand: Counts { starting: 3, ready: 2, warned: 0 },
        cover: 0,
        oldest_pending: Millis(6_000),
        desired: Split { spot: 9, on_demand: 5 },
        is_fresh: false,
    };
    assert_eq!(observation.seen(Timestamp(10_000), 9, &doomed), expected);
    let calm = observation.seen(Timestamp(10_000), 9, &BTreeMap::new());
    assert_eq!(calm.spot, Counts { starting: 3, ready: 3, warned: 1 }, "nothing was told");
    assert_eq!((calm.on_demand, calm.oldest_pending), (expected.on_demand, Millis(10_000)));
    assert_eq!(observation.age(Timestamp(10_000)), Millis(2_000));
}

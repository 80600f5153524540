//! The omniscient linear program: the cheapest plan that holds the target all the time, knowing the whole trace.
//!
//! Tasks may be fractions and the trace is solved in stretches whose first state is free, so that the result is a
//! little below what even an omniscient planner would pay: ratios against it are on the safe side.

pub(crate) mod sweep;

use lifeboat_core::time::{Millis, Timestamp};
use lifeboat_sim::trace::Trace;
use microlp::{ComparisonOp, LinearExpr, OptimizationDirection, Problem, Variable};

/// Moments in one stretch. The time of the simplex grows faster than the square.
const MOMENTS_MAX: usize = 120;

/// The least cost in task-milliseconds of On-Demand.
pub(crate) fn cost(trace: &Trace, target: u32, ratio: f64, start: Millis) -> f64 {
    let moments = moments(trace, start);
    let mut total = 0.0;
    let mut from = 0;
    while from + 1 < moments.len() {
        let to = (from + MOMENTS_MAX).min(moments.len() - 1);
        total += stretch(trace, &moments[from..=to], (f64::from(target), ratio, start));
        from = to;
    }
    total
}

/// Everything can be decided at a change of capacity, one start before it, or one start after it.
fn moments(trace: &Trace, start: Millis) -> Vec<Timestamp> {
    let mut moments = vec![Timestamp(0), trace.end()];
    for tick in 1..trace.ticks() {
        if trace.zones.iter().any(|zone| zone.capacity[tick] != zone.capacity[tick - 1]) {
            let at = trace.starts(tick);
            moments.extend([at.before(start), at, at + start]);
        }
    }
    moments.retain(|at| *at >= Timestamp(0) && *at <= trace.end());
    moments.sort_unstable();
    moments.dedup();
    moments
}

struct Kind {
    alive: Vec<Variable>,
    launched: Vec<Variable>,
}

fn stretch(trace: &Trace, moments: &[Timestamp], (target, ratio, start): (f64, f64, Millis)) -> f64 {
    let mut problem = Problem::new(OptimizationDirection::Minimize);
    let steps = moments.len() - 1;
    let kinds: Vec<Kind> = (0..=trace.zones.len())
        .map(|kind| add_kind(&mut problem, trace, (moments, kind), (target, ratio)))
        .collect();
    for step in 0..steps {
        let mut ready = LinearExpr::empty();
        for kind in &kinds {
            let mut mine = LinearExpr::empty();
            mine.add(kind.alive[step], 1.0);
            ready.add(kind.alive[step], 1.0);
            for launch in (0..=step).rev().take_while(|launch| moments[*launch] + start > moments[step]) {
                mine.add(kind.launched[launch], -1.0);
                ready.add(kind.launched[launch], -1.0);
            }
            problem.add_constraint(mine, ComparisonOp::Ge, 0.0);
            if step > 0 {
                let mut grown = LinearExpr::empty();
                grown.add(kind.alive[step], 1.0);
                grown.add(kind.alive[step - 1], -1.0);
                grown.add(kind.launched[step], -1.0);
                problem.add_constraint(grown, ComparisonOp::Le, 0.0);
            }
        }
        problem.add_constraint(ready, ComparisonOp::Ge, target);
    }
    problem.solve().expect("On-Demand alone is a solution").objective()
}

fn add_kind(
    problem: &mut Problem,
    trace: &Trace,
    (moments, kind): (&[Timestamp], usize),
    (target, ratio): (f64, f64),
) -> Kind {
    let mut added = Kind { alive: Vec::new(), launched: Vec::new() };
    for pair in moments.windows(2) {
        let span = pair[1].since(pair[0]).0 as f64;
        let (price, most) = match trace.zones.get(kind) {
            None => (1.0, 2.0 * target),
            Some(zone) => {
                let tick = usize::try_from(pair[0].0.unsigned_abs() / trace.gap.0).unwrap_or(0);
                (ratio, f64::from(zone.capacity[tick.min(trace.ticks() - 1)]).min(2.0 * target))
            }
        };
        added.alive.push(problem.add_var(price * span, (0.0, most)));
        added.launched.push(problem.add_var(0.0, (0.0, 2.0 * target)));
    }
    added
}

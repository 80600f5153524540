//! The load balancers that send requests here: this machine is taken out of their groups before it stops, and held back
//! until the requests under way are answered, or time is short.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use lifeboat_core::evacuation::stage::Report;
use lifeboat_snapshot::Deadline;
use tokio::time::Instant;

use crate::hands::{Handed, Site, chain};
use crate::ports::{Balancer, PortError};

/// One call may take so long; the stage's own time ends it sooner.
const CALL: Duration = Duration::from_secs(8);

/// Between two looks at whether requests are under way.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// After so many looks in a row that failed nothing is to be learned by waiting.
const FAILED_LOOKS_MAX: u32 = 3;

/// Told before the stage's time is over: what is ended by force says nothing.
const LAST_WORD: Duration = Duration::from_millis(250);

/// What came of one group.
enum Left {
    /// No request is under way.
    Drained,
    /// This target is not in it.
    NotIn,
    /// It gets no new requests; some may be under way.
    Draining(String),
    /// It still gets requests.
    Failed(String),
}

/// Deregister: all groups side by side.
pub(crate) async fn deregister(site: &Site, deadline: &Deadline) -> Handed {
    let groups = site.balancers.iter().map(|balancer| leave(balancer, deadline));
    let left = join_all(groups).await;
    let mut drained = 0;
    let (mut draining, mut failed) = (Vec::new(), Vec::new());
    for (balancer, left) in site.balancers.iter().zip(left) {
        match left {
            Left::Drained => drained += 1,
            Left::NotIn => {}
            Left::Draining(why) => draining.push(format!("{}: {why}", balancer.name())),
            Left::Failed(why) => failed.push(format!("{}: {why}", balancer.name())),
        }
    }
    let text = [draining.as_slice(), failed.as_slice()].concat().join("; ");
    if !failed.is_empty() {
        let is_all = draining.is_empty() && drained == 0;
        return Handed::new(if is_all { Report::Failed } else { Report::Partly }, text);
    }
    if !draining.is_empty() {
        return Handed::new(Report::Partly, text);
    }
    match drained {
        0 => Handed::new(Report::Nothing, "no load balancer sends requests here"),
        _ => Handed::new(Report::Done, "no request is under way"),
    }
}

async fn leave(balancer: &Arc<dyn Balancer>, deadline: &Deadline) -> Left {
    match balancer.leave(left_of(deadline).min(CALL)).await {
        Ok(true) => tracing::info!(group = balancer.name(), "taken out of the load balancer's group"),
        Ok(false) => return Left::NotIn,
        Err(error) => return Left::Failed(chain(&error)),
    }
    let mut failed_looks = 0;
    // Ends with the stage's time.
    loop {
        let left = left_of(deadline);
        if left.is_zero() {
            return Left::Draining("requests may be under way: time is short".to_owned());
        }
        match balancer.is_drained(left.min(CALL)).await {
            Ok(true) => return Left::Drained,
            Ok(false) => failed_looks = 0,
            Err(error) => {
                failed_looks += 1;
                if failed_looks == FAILED_LOOKS_MAX || matches!(error, PortError::Denied(_)) {
                    return Left::Draining(format!("requests may be under way: {}", chain(&error)));
                }
            }
        }
        tokio::time::sleep(LOOK_AGAIN.min(left_of(deadline))).await;
    }
}

/// How much of the stage's time is left, but for its last word.
fn left_of(deadline: &Deadline) -> Duration {
    let end = deadline.current().unwrap_or_else(|| Instant::now() + CALL);
    end.saturating_duration_since(Instant::now()).saturating_sub(LAST_WORD)
}

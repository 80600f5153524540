//! Looks at the services of one cluster, shared between those who ask: services by tens, tasks by hundreds, of the
//! whole cluster where that costs fewer calls than asking service by service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use lifeboat_core::failover::observation::{Observation, Service, Task};
use lifeboat_core::time::{Millis, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use crate::call::{tried, within};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::directory::{Directory, Mail};
use crate::discover::Pair;
use crate::key::key;
use crate::port::{CallError, Ecs, ServiceView, TaskView};

/// Source: ECS API, DescribeServices: at most ten services a call; read 2023.
pub(crate) const SERVICES_A_CALL: usize = 10;

/// Source: ECS API, DescribeTasks: at most 100 tasks a call; ListTasks pages of 100; read 2023.
const TASKS_A_CALL: usize = 100;

/// Calls that run at once: ECS's read calls are throttled at some 20 a second sustained.
const CONCURRENT: usize = 8;

/// Looks that are asked for within this time share their calls.
const GATHER: Millis = Millis(200);

/// Tries of one call; a look that still fails is asked for again by the machine.
const TRIES: u32 = 4;

/// One call, in real time; a list may have many pages.
const CALL_MAX: Duration = Duration::from_secs(60);

/// With more tasks than this the cluster is not listed as a whole: a list has a hundred tasks a page, one page after the
/// other, and a look that took longer than 20 s stops nothing any more.
const WHOLE_MAX: usize = 10_000;

/// Where the whole cluster could not be looked at, its services are looked at one by one for so long.
const WHOLE_AGAIN: Millis = Millis::from_secs(600);

/// Pairs that are looked at together where the cluster is not listed as a whole.
const GROUP: usize = 50;

/// Looks that may wait.
pub(crate) const LOOKS_MAX: usize = 4_096;

/// Somebody wants to see a service.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) name: String,
    /// None where it could not be seen.
    pub(crate) reply: oneshot::Sender<Option<Observation>>,
}

/// The observer of one cluster.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) cluster: String,
    pub(crate) ecs: Arc<dyn Ecs>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) directory: watch::Receiver<Arc<Directory>>,
}

/// What one round of calls showed.
struct Sweep {
    at: Timestamp,
    services: BTreeMap<String, ServiceView>,
    tasks: BTreeMap<String, Vec<Task>>,
    /// Services whose tasks could not be listed.
    unknown: BTreeSet<String>,
}

impl Observer {
    /// Answers looks until nobody can ask any more.
    pub(crate) async fn run(self, mut looks: mpsc::Receiver<Look>) {
        // How many tasks the whole cluster had, once that is known.
        let mut tasks_known: Option<usize> = None;
        // Not before is the whole cluster listed again.
        let mut whole_from = Timestamp(i64::MIN);
        let mut waiting = Vec::new();
        while looks.recv_many(&mut waiting, LOOKS_MAX).await > 0 {
            tokio::time::sleep(self.clock.real_time(GATHER)).await;
            while let Ok(look) = looks.try_recv() {
                waiting.push(look);
            }
            let directory = Arc::clone(&self.directory.borrow());
            let all: Vec<Arc<Pair>> =
                directory.in_cluster(&self.cluster).map(|(_, member)| Arc::clone(&member.pair)).collect();
            let mut asked: BTreeMap<String, Vec<Look>> = BTreeMap::new();
            for look in waiting.drain(..) {
                asked.entry(look.name.clone()).or_default().push(look);
            }
            let now = self.clock.now();
            if now >= whole_from && is_whole(asked.len(), all.len(), tasks_known) {
                let sweep = self.sweep(&all, true).await;
                match &sweep {
                    Ok(sweep) => tasks_known = Some(sweep.tasks.values().map(Vec::len).sum()),
                    Err(_) => whole_from = now + WHOLE_AGAIN,
                }
                self.answer(&directory, &all, sweep, &mut asked);
                continue;
            }
            // A few at a time: each look is as old as its own first call.
            let pairs: Vec<Arc<Pair>> =
                all.into_iter().filter(|pair| asked.contains_key(&pair.name)).collect();
            for group in pairs.chunks(GROUP) {
                let sweep = self.sweep(group, false).await;
                self.answer(&directory, group, sweep, &mut asked);
            }
        }
    }

    /// Tells what `sweep` showed of `pairs` to those who asked, and to those who did not.
    fn answer(
        &self,
        directory: &Directory,
        pairs: &[Arc<Pair>],
        sweep: Result<Sweep, CallError>,
        asked: &mut BTreeMap<String, Vec<Look>>,
    ) {
        if let Err(error) = &sweep {
            tracing::warn!(cluster = self.cluster, %error, "services could not be looked at");
        }
        let sweep = sweep.ok();
        for pair in pairs {
            let seen = sweep.as_ref().and_then(|sweep| sweep.of(pair));
            let Some(looks) = asked.remove(&pair.name) else {
                self.mail(directory, pair, seen);
                continue;
            };
            for look in looks {
                // Who did not wait for a look at a large cluster gets it in the mail.
                if let Err(Some(seen)) = look.reply.send(seen.clone()) {
                    self.mail(directory, pair, Some(seen));
                }
            }
        }
    }

    fn mail(&self, directory: &Directory, pair: &Pair, seen: Option<Observation>) {
        if let (Some(seen), Some(member)) = (seen, directory.get(&pair.name)) {
            let _ = member.mail.try_send(Mail::Seen(seen)); // it asks again in any case
        }
    }

    async fn call<T, F>(&self, call: impl Fn() -> F + Send) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, CallError>> + Send,
    {
        let seed = key(&self.cluster);
        tried(TRIES, seed, || async {
            self.counters.ecs_calls.one();
            let done = within(CALL_MAX, call()).await;
            if done.is_err() {
                self.counters.ecs_calls_failed.one();
            }
            done
        })
        .await
    }

    async fn sweep(&self, pairs: &[Arc<Pair>], is_whole: bool) -> Result<Sweep, CallError> {
        let at = self.clock.now();
        let names: Vec<String> =
            pairs.iter().flat_map(|pair| [pair.spot.clone(), pair.on_demand.clone()]).collect();
        let chunks: Vec<Vec<String>> = names.chunks(SERVICES_A_CALL).map(<[String]>::to_vec).collect();
        let described: Vec<Vec<ServiceView>> = stream::iter(chunks)
            .map(|chunk| async move { self.call(|| self.ecs.describe_services(&self.cluster, &chunk)).await })
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await?;
        let services: BTreeMap<String, ServiceView> =
            described.into_iter().flatten().map(|service| (service.name.clone(), service)).collect();
        let mut unknown = BTreeSet::new();
        let arns = if is_whole {
            self.list(None).await?
        } else {
            // A service that has just been deleted must not hide the others.
            let there: Vec<String> =
                names.into_iter().filter(|name| services.get(name).is_some_and(|s| s.is_active)).collect();
            let listed: Vec<(String, Result<Vec<String>, CallError>)> = stream::iter(there)
                .map(|name| async move {
                    let arns = self.list(Some(&name)).await;
                    (name, arns)
                })
                .buffer_unordered(CONCURRENT)
                .collect()
                .await;
            let mut arns = Vec::new();
            for (name, listed) in listed {
                match listed {
                    Ok(listed) => arns.extend(listed),
                    Err(_) => {
                        unknown.insert(name);
                    }
                }
            }
            arns
        };
        let tasks = self.describe(at, arns).await?;
        Ok(Sweep { at, services, tasks, unknown })
    }

    async fn list(&self, service: Option<&str>) -> Result<Vec<String>, CallError> {
        self.call(|| self.ecs.tasks(&self.cluster, service)).await
    }

    async fn describe(
        &self,
        at: Timestamp,
        arns: Vec<String>,
    ) -> Result<BTreeMap<String, Vec<Task>>, CallError> {
        let arns = &arns;
        let mut described = stream::iter((0..arns.len()).step_by(TASKS_A_CALL))
            .map(|from| async move {
                let chunk = &arns[from..(from + TASKS_A_CALL).min(arns.len())];
                self.call(|| self.ecs.describe_tasks(&self.cluster, chunk)).await
            })
            .buffer_unordered(CONCURRENT);
        let mut tasks: BTreeMap<String, Vec<Task>> = BTreeMap::new();
        while let Some(chunk) = described.try_next().await? {
            for view in chunk {
                let Some(service) = view.group.strip_prefix("service:") else { continue };
                if let Some(task) = task(at, &view) {
                    match tasks.get_mut(service) {
                        Some(known) => known.push(task),
                        None => {
                            tasks.insert(service.to_owned(), vec![task]);
                        }
                    }
                }
            }
        }
        Ok(tasks)
    }
}

/// Whether to list the whole cluster's tasks: where that takes no more calls than listing those of each service. What
/// is not known yet is found out that way.
fn is_whole(asked: usize, pairs: usize, tasks_known: Option<usize>) -> bool {
    let Some(tasks) = tasks_known else { return asked * 4 >= pairs };
    if tasks > WHOLE_MAX {
        return false;
    }
    // Listed and described.
    let pages = |tasks: usize| 2 * tasks.div_ceil(TASKS_A_CALL).max(1);
    let whole = pages(tasks) + (2 * pairs).div_ceil(SERVICES_A_CALL);
    let theirs = tasks * asked / pairs.max(1);
    let single = 2 * asked + pages(theirs) / 2 + (2 * asked).div_ceil(SERVICES_A_CALL);
    whole <= single
}

fn task(at: Timestamp, view: &TaskView) -> Option<Task> {
    if view.last_status == "STOPPED" {
        return None;
    }
    Some(Task {
        key: key(&view.arn),
        created_at: view.created_at.unwrap_or(at),
        is_ready: view.last_status == "RUNNING",
        is_warned: view.desired_status == "STOPPED",
    })
}

impl Sweep {
    /// Both sides of a pair; none where either is not there.
    fn of(&self, pair: &Pair) -> Option<Observation> {
        let side = |name: &String| {
            let view = self.services.get(name).filter(|view| view.is_active)?;
            if self.unknown.contains(name) {
                return None;
            }
            let tasks = self.tasks.get(name).cloned().unwrap_or_default();
            Some((Service { desired: view.desired, tasks: tasks.into() }, view.is_deploying))
        };
        let (spot, spot_deploys) = side(&pair.spot)?;
        let (on_demand, on_demand_deploys) = side(&pair.on_demand)?;
        Some(Observation { at: self.at, spot, on_demand, is_deploying: spot_deploys || on_demand_deploys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_listed_as_a_whole_where_that_takes_fewer_calls() {
        assert!(is_whole(1, 1, None));
        assert!(!is_whole(1, 100, None));
        assert!(is_whole(1_000, 1_000, Some(5_000)), "5 tasks each: 300 calls against 2,250");
        assert!(!is_whole(1, 1_000, Some(5_000)));
        assert!(!is_whole(1, 2, Some(400)), "the other's two hundred tasks are not needed");
        assert!(!is_whole(1_000, 1_000, Some(200_000)), "2,000 pages one after the other");
    }
}

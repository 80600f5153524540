//! Who is managed at this moment: a value that discovery replaces as a whole and everybody else reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_core::failover::event::Event;
use lifeboat_core::failover::machine::Receipt;
use lifeboat_core::failover::observation::{Capacity, Observation};
use tokio::sync::{mpsc, watch};

use crate::discover::Pair;
use crate::event::ServiceName;
use crate::snapshot::Snapshot;

/// Mail that may wait for one service. What does not fit stays in the queue and comes again.
pub(crate) const MAIL_MAX: usize = 256;

/// What a service's worker is told.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Events of one receive.
    Events { receipt: Receipt, events: Vec<Event> },
    /// A look that somebody else asked for and that shows this service too.
    Seen(Observation),
    /// The generation that was stored a moment ago.
    Stored { generation: u64 },
}

/// A managed pair and how to reach its worker.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) pair: Arc<Pair>,
    pub(crate) mail: mpsc::Sender<Mail>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    members: BTreeMap<String, Member>,
    /// By service and cluster.
    sides: BTreeMap<(String, String), (String, Capacity)>,
}

impl Directory {
    pub(crate) fn new(members: BTreeMap<String, Member>) -> Self {
        let mut sides = BTreeMap::new();
        for (name, member) in &members {
            let pair = &member.pair;
            let key = |service: &String| (service.clone(), pair.cluster.clone());
            sides.insert(key(&pair.spot), (name.clone(), Capacity::Spot));
            sides.insert(key(&pair.on_demand), (name.clone(), Capacity::OnDemand));
        }
        Self { members, sides }
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = (&String, &Member)> {
        self.members.iter()
    }

    pub(crate) fn in_cluster(&self, cluster: &str) -> impl Iterator<Item = (&String, &Member)> {
        self.members.iter().filter(move |(_, member)| member.pair.cluster == cluster)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Member> {
        self.members.get(name)
    }

    /// Whose service an event names. An old ARN lacks the cluster: it means the only one that has such a service.
    pub(crate) fn find(&self, named: &ServiceName) -> Option<(&String, &Member, Capacity)> {
        let of = |(name, capacity): &(String, Capacity)| {
            self.members.get_key_value(name).map(|(name, member)| (name, member, *capacity))
        };
        match &named.cluster {
            Some(cluster) => self.sides.get(&(named.service.clone(), cluster.clone())).and_then(of),
            None => {
                let first = (named.service.clone(), String::new());
                let mut same =
                    self.sides.range(first..).take_while(|((service, _), _)| *service == named.service);
                let only = same.next().map(|(_, side)| side);
                only.filter(|_| same.next().is_none()).and_then(of)
            }
        }
    }
}

//! A store that forgets at the end: for dry runs and tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lifeboat_core::failover::state::State;
use lifeboat_core::time::Timestamp;

use super::{Commit, Committed, Fact, HISTORY_PAGE_MAX, Meter, Store, StoreError};

/// Entries kept; the oldest go first.
const HISTORY_MAX: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    states: BTreeMap<String, Box<State>>,
    history: Vec<Fact>,
    meters: BTreeMap<String, Meter>,
}

impl MemoryStore {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held, and a torn state would be seen by its generation.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn load(&self, service: &str) -> Result<Option<Box<State>>, StoreError> {
        Ok(self.lock().states.get(service).cloned())
    }

    async fn generation(&self, service: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.lock().states.get(service).map(|state| state.generation))
    }

    async fn generations(&self, services: &[String]) -> Result<BTreeMap<String, u64>, StoreError> {
        let inner = self.lock();
        let of = |name: &String| Some((name.clone(), inner.states.get(name)?.generation));
        Ok(services.iter().filter_map(of).collect())
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        let mut inner = self.lock();
        if inner.states.get(&commit.service).map(|state| state.generation) != commit.expected {
            return Ok(Committed::Conflict);
        }
        if let Some(entry) = commit.entry {
            if inner.history.len() >= HISTORY_MAX {
                inner.history.remove(0);
            }
            inner.history.push(Fact { service: commit.service.clone(), entry });
        }
        inner.states.insert(commit.service, commit.state);
        Ok(Committed::Stored)
    }

    async fn history(&self, service: Option<&str>, limit: usize) -> Result<Vec<Fact>, StoreError> {
        let inner = self.lock();
        let mut facts: Vec<Fact> = inner
            .history
            .iter()
            .filter(|fact| service.is_none_or(|service| fact.service == service))
            .cloned()
            .collect();
        drop(inner);
        match service {
            Some(_) => facts.sort_by_key(|fact| std::cmp::Reverse(fact.entry.generation)),
            None => facts.sort_by_key(|fact| std::cmp::Reverse((fact.entry.at, fact.entry.generation))),
        }
        facts.truncate(limit.min(HISTORY_PAGE_MAX));
        Ok(facts)
    }

    async fn states(&self) -> Result<BTreeMap<String, Box<State>>, StoreError> {
        Ok(self.lock().states.clone())
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut inner = self.lock();
        let all = inner.history.len();
        inner.history.retain(|fact| fact.entry.at >= before);
        Ok((all - inner.history.len()) as u64)
    }

    async fn meter(&self, service: &str) -> Result<Option<Meter>, StoreError> {
        Ok(self.lock().meters.get(service).copied())
    }

    async fn set_meter(
        &self,
        service: &str,
        before: Option<Meter>,
        next: Meter,
    ) -> Result<Committed, StoreError> {
        let mut inner = self.lock();
        if inner.meters.get(service).copied() != before {
            return Ok(Committed::Conflict);
        }
        inner.meters.insert(service.to_owned(), next);
        Ok(Committed::Stored)
    }
}

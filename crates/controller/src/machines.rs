//! Layer 3: an instance that will be interrupted is told to evacuate through SSM Run Command, and a person is told.
//! That its own agent saw the notice too is harmless: `lifeboat evacuate` runs once however often it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lifeboat_core::time::{Millis, Timestamp};
use tokio::sync::mpsc;

use crate::alert::{AlertQueue, Told};
use crate::call::{tried, within};
use crate::clock::Clock;
use crate::config::{Machines, OnRebalance};
use crate::counters::Counters;
use crate::event::{MachineEvent, MachineNews};
use crate::inbox::{Entry, MachineMail};
use crate::key::key;
use crate::port::{CallError, Commands};

/// Receives with machine events that may wait.
pub(crate) const MAIL_MAX: usize = 256;

/// Source: SSM API, SendCommand: at most 50 instance ids; read 2023.
const INSTANCES_A_CALL: usize = 50;

/// Tries of one command: some 2 s where SSM answers. The message comes again after that, and the machine has two
/// minutes.
const TRIES: u32 = 4;

/// One call, in real time.
const CALL_MAX: Duration = Duration::from_secs(5);

/// News that was acted on is not acted on again within this: the time of one interruption.
const KNOWN_FOR: Millis = Millis::from_secs(150);

/// News remembered. What is beyond is acted on again where it comes again, which is harmless.
const KNOWN_MAX: usize = 10_000;

/// Receives that are worked on at once.
const TOGETHER_MAX: usize = 8;

/// Does what is to be done about machines.
#[derive(Debug)]
pub(crate) struct Layer3 {
    pub(crate) commands: Arc<dyn Commands>,
    pub(crate) rules: Machines,
    pub(crate) ledger: mpsc::Sender<Entry>,
    pub(crate) alerts: AlertQueue,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Clock,
    pub(crate) is_dry_run: bool,
}

/// What follows from a piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    Evacuation,
    Alert,
    Nothing,
}

/// What is known to be done, or is being done: instance and kind of news, since when.
type Known = Mutex<BTreeMap<(String, &'static str), Timestamp>>;

/// A piece of news that something follows from, with those of its instances that nobody has acted on.
struct Due {
    news: MachineNews,
    kind: &'static str,
    follows: Follows,
    instances: Vec<String>,
}

/// What became of the instances that a command was to be sent to.
#[derive(Default)]
struct Outcome {
    /// SSM will never take it.
    refused: BTreeSet<String>,
    /// It may, later.
    failed: BTreeSet<String>,
}

impl Layer3 {
    /// Works until nobody sends any more. Several receives at once: SSM may be slow, and a notice is two minutes.
    pub(crate) async fn run(self, mut mail: mpsc::Receiver<MachineMail>) {
        let known = Known::default();
        let mut working = FuturesUnordered::new();
        loop {
            tokio::select! {
                letter = mail.recv(), if working.len() < TOGETHER_MAX => match letter {
                    Some(letter) => working.push(self.work(&known, letter)),
                    None => break,
                },
                Some(()) = working.next() => {}
            }
        }
        while working.next().await.is_some() {}
    }

    /// All that one receive tells, with one command for all of its instances.
    async fn work(&self, known: &Known, MachineMail { receipt, events }: MachineMail) {
        let due = self.due(known, events);
        let is_evacuation = |due: &&Due| due.follows == Follows::Evacuation;
        let evacuees: BTreeSet<String> =
            due.iter().filter(is_evacuation).flat_map(|due| due.instances.iter().cloned()).collect();
        let outcome = self.evacuate(&evacuees.into_iter().collect::<Vec<_>>()).await;
        for due in due {
            let is_in = |names: &BTreeSet<String>, name: &String| {
                due.follows == Follows::Evacuation && names.contains(name)
            };
            let (failed, acted): (Vec<String>, Vec<String>) =
                due.instances.iter().cloned().partition(|name| is_in(&outcome.failed, name));
            let (refused, told): (Vec<String>, Vec<String>) =
                acted.into_iter().partition(|name| is_in(&outcome.refused, name));
            self.tell(&told, &due, &self.done(due.follows));
            self.tell(&refused, &due, "SSM does not take the command: nothing was done");
            let mut known = lock(known);
            for instance in failed {
                known.remove(&(instance, due.kind));
            }
        }
        // What could not be sent comes again as soon as it is visible, not when the ledger loses patience: by then
        // the notice would be over.
        let entry = if outcome.failed.is_empty() { Entry::Done(receipt) } else { Entry::LetGo(receipt) };
        let _ = self.ledger.send(entry).await; // at the end it comes again, harmlessly
    }

    /// What is to be done about `events`; from now on it counts as known.
    fn due(&self, known: &Known, events: Vec<MachineEvent>) -> Vec<Due> {
        let now = self.clock.now();
        let mut known = lock(known);
        known.retain(|_, at| now.since(*at) < KNOWN_FOR);
        let mut all = Vec::new();
        for event in events {
            let (kind, follows) = self.follows(&event.what);
            if follows == Follows::Nothing {
                continue;
            }
            let mut instances = Vec::new();
            for instance in event.instances {
                let key = (instance.clone(), kind);
                if !known.contains_key(&key) {
                    if known.len() < KNOWN_MAX {
                        known.insert(key, now);
                    }
                    instances.push(instance);
                }
            }
            if !instances.is_empty() {
                all.push(Due { news: event.what, kind, follows, instances });
            }
        }
        all
    }

    fn follows(&self, news: &MachineNews) -> (&'static str, Follows) {
        match news {
            MachineNews::Interruption { .. } => ("interruption warning", Follows::Evacuation),
            MachineNews::Terminating { .. } => ("lifecycle action", Follows::Evacuation),
            MachineNews::Rebalance => {
                let follows = match self.rules.rebalance {
                    OnRebalance::Evacuate => Follows::Evacuation,
                    OnRebalance::Alert => Follows::Alert,
                    OnRebalance::Ignore => Follows::Nothing,
                };
                ("rebalance recommendation", follows)
            }
            MachineNews::Maintenance { .. } => ("scheduled maintenance", Follows::Alert),
            // Too late for anything; the workload's replacement takes its work up.
            MachineNews::Gone { .. } => ("state change", Follows::Nothing),
        }
    }

    /// Sends the command; an instance that SSM does not manage is told to a person and is no reason to try again.
    async fn evacuate(&self, instances: &[String]) -> Outcome {
        let mut outcome = Outcome::default();
        if self.is_dry_run {
            tracing::info!(?instances, command = self.rules.command, "would send a command");
            return outcome;
        }
        for chunk in instances.chunks(INSTANCES_A_CALL) {
            match self.send(chunk).await {
                // One that SSM does not know spoils the call for the others.
                Err(CallError::NotFound(_) | CallError::Refused(_)) if chunk.len() > 1 => {
                    for instance in chunk {
                        let one = std::slice::from_ref(instance);
                        let sent = self.send(one).await;
                        self.note(one, sent, &mut outcome);
                    }
                }
                sent => self.note(chunk, sent, &mut outcome),
            }
        }
        outcome
    }

    fn note(&self, instances: &[String], sent: Result<(), CallError>, outcome: &mut Outcome) {
        match sent {
            Ok(()) => {}
            Err(error) if error.is_temporary() => {
                tracing::warn!(?instances, %error, "the command could not be sent; the message comes again");
                outcome.failed.extend(instances.iter().cloned());
            }
            Err(error) => {
                self.not_sent(instances, &error);
                outcome.refused.extend(instances.iter().cloned());
            }
        }
    }

    async fn send(&self, instances: &[String]) -> Result<(), CallError> {
        let seed = instances.first().map_or(0, |instance| key(instance));
        let send = || within(CALL_MAX, self.commands.run(instances, &self.rules.command));
        tried(TRIES, seed, send).await?;
        self.counters.commands_sent.many(instances.len());
        tracing::info!(?instances, command = self.rules.command, "command sent");
        Ok(())
    }

    fn not_sent(&self, instances: &[String], error: &CallError) {
        let names = instances.join(", ");
        tracing::error!(instances = names, %error, "SSM does not take the command");
        self.alerts.tell(Told {
            subject: format!("Lifeboat: {names} cannot be told to evacuate"),
            text: format!(
                "SSM does not take the command: {error}.\nIs the SSM agent running there, and its role allowed? \
                 Its own lifeboat agent, if there is one, sees the notice by itself.\n"
            ),
        });
    }

    fn done(&self, follows: Follows) -> String {
        match follows {
            Follows::Evacuation => format!("told to run `{}`", self.rules.command),
            Follows::Alert | Follows::Nothing => "nothing was done".to_owned(),
        }
    }

    fn tell(&self, instances: &[String], due: &Due, done: &str) {
        if instances.is_empty() {
            return;
        }
        let (names, kind) = (instances.join(", "), due.kind);
        let what = match &due.news {
            MachineNews::Interruption { action } => format!("action: {action}"),
            MachineNews::Terminating { group, hook } => format!("group: {group}, hook: {hook}"),
            MachineNews::Maintenance { code } => format!("code: {code}"),
            MachineNews::Gone { state } => format!("state: {state}"),
            MachineNews::Rebalance => "a higher risk of interruption".to_owned(),
        };
        self.alerts.tell(Told {
            subject: format!("Lifeboat: {kind} for {names}"),
            text: format!("{kind} for {names}.\n{what}\n{done}\n"),
        });
    }
}

fn lock(known: &Known) -> MutexGuard<'_, BTreeMap<(String, &'static str), Timestamp>> {
    // Nothing panics while it is held.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

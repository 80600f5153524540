//! Layer 3: an instance that will be interrupted is told to evacuate through SSM Run Command, and a person is told.
//! That its own agent saw the notice too is harmless: `lifeboat evacuate` runs once however often it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_core::time::{Millis, Timestamp};
use tokio::sync::mpsc;

use crate::alert::{AlertQueue, Told};
use crate::call::{tried, within};
use crate::clock::Clock;
use crate::config::{Machines, OnRebalance};
use crate::counters::Counters;
use crate::event::MachineNews;
use crate::inbox::{Entry, MachineMail};
use crate::key::key;
use crate::port::{CallError, Commands};

/// Receives with machine events that may wait.
pub(crate) const MAIL_MAX: usize = 256;

/// Source: SSM API, SendCommand: at most 50 instance ids; read 2023.
const INSTANCES_A_CALL: usize = 50;

/// Tries of one command: some 2 s. The message comes again after that, and the machine has two minutes.
const TRIES: u32 = 4;

/// One call, in real time.
const CALL_MAX: Duration = Duration::from_secs(5);

/// News that was acted on is not acted on again within this: the time of one interruption.
const KNOWN_FOR: Millis = Millis::from_secs(150);

/// News remembered; the oldest go first.
const KNOWN_MAX: usize = 10_000;

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

impl Layer3 {
    /// Works until nobody sends any more.
    pub(crate) async fn run(self, mut mail: mpsc::Receiver<MachineMail>) {
        let mut known: BTreeMap<(String, &'static str), Timestamp> = BTreeMap::new();
        while let Some(MachineMail { receipt, events }) = mail.recv().await {
            let now = self.clock.now();
            known.retain(|_, at| now.since(*at) < KNOWN_FOR);
            let mut is_done = true;
            for event in events {
                let (kind, follows) = self.follows(&event.what);
                let new: Vec<String> = event
                    .instances
                    .into_iter()
                    .filter(|instance| !known.contains_key(&(instance.clone(), kind)))
                    .collect();
                if new.is_empty() || follows == Follows::Nothing {
                    continue;
                }
                let sent = match follows {
                    Follows::Evacuation => self.evacuate(&new, kind).await,
                    Follows::Alert | Follows::Nothing => Ok(()),
                };
                match sent {
                    Ok(()) => {
                        self.tell(&new, kind, &event.what, follows);
                        if known.len() < KNOWN_MAX {
                            known.extend(new.into_iter().map(|instance| ((instance, kind), now)));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(?new, kind, %error, "the command could not be sent; the message comes again");
                        is_done = false;
                    }
                }
            }
            if is_done {
                let _ = self.ledger.send(Entry::Done(receipt)).await; // at the end it comes again, harmlessly
            }
        }
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
    async fn evacuate(&self, instances: &[String], kind: &'static str) -> Result<(), CallError> {
        if self.is_dry_run {
            tracing::info!(?instances, kind, command = self.rules.command, "would send a command");
            return Ok(());
        }
        for chunk in instances.chunks(INSTANCES_A_CALL) {
            match self.send(chunk).await {
                // One that SSM does not know spoils the call for the others.
                Err(CallError::NotFound(_) | CallError::Refused(_)) if chunk.len() > 1 => {
                    for instance in chunk {
                        self.send_or_tell(std::slice::from_ref(instance)).await?;
                    }
                }
                Err(error) if !error.is_temporary() => self.not_sent(chunk, &error),
                sent => sent?,
            }
        }
        Ok(())
    }

    async fn send_or_tell(&self, instances: &[String]) -> Result<(), CallError> {
        match self.send(instances).await {
            Err(error) if !error.is_temporary() => {
                self.not_sent(instances, &error);
                Ok(())
            }
            sent => sent,
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

    fn tell(&self, instances: &[String], kind: &str, news: &MachineNews, follows: Follows) {
        let names = instances.join(", ");
        let what = match news {
            MachineNews::Interruption { action } => format!("action: {action}"),
            MachineNews::Terminating { group, hook } => format!("group: {group}, hook: {hook}"),
            MachineNews::Maintenance { code } => format!("code: {code}"),
            MachineNews::Gone { state } => format!("state: {state}"),
            MachineNews::Rebalance => "a higher risk of interruption".to_owned(),
        };
        let done = match follows {
            Follows::Evacuation => format!("told to run `{}`", self.rules.command),
            Follows::Alert | Follows::Nothing => "nothing was done".to_owned(),
        };
        self.alerts.tell(Told {
            subject: format!("Lifeboat: {kind} for {names}"),
            text: format!("{kind} for {names}.\n{what}\n{done}\n"),
        });
    }
}

//! What a person told: to run a service on one kind of capacity for a while, or to leave it alone. It is stored with
//! the state, so that every controller heeds it and a crash forgets nothing.

use serde::{Deserialize, Serialize};

use super::observation::Capacity;
use super::reason::Reason;
use super::state::State;
use crate::time::Timestamp;

/// A person's word about one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Run everything there.
    Shift {
        /// Where.
        to: Capacity,
        /// Until then; without it, until [`Instruction::Resume`].
        until: Option<Timestamp>,
    },
    /// Change nothing until [`Instruction::Resume`]. Events still count.
    Pause,
    /// The policy decides again.
    Resume,
}

/// A shift that a person asked for. It stays until the Spot service is told again what it was told before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Where everything is to run.
    pub to: Capacity,
    /// Until then, on the clock of whoever reads it.
    pub until: Option<Timestamp>,
}

impl Asked {
    /// Whether it is still in force.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl State {
    /// This state as it is to be stored after a person's word: the next generation.
    #[must_use]
    pub fn instructed(&self, now: Timestamp, instruction: Instruction) -> Self {
        let mut next = Self { generation: self.generation + 1, ..self.clone() };
        match instruction {
            Instruction::Shift { to, until } => {
                next.asked = Some(Asked { to, until });
                next.since = if next.is_paused { now } else { next.since };
                next.is_paused = false;
                next.reason = Reason::Asked { to };
            }
            Instruction::Pause => {
                next.is_paused = true;
                next.reason = Reason::Paused;
            }
            Instruction::Resume => {
                // What the pause lasted is no phase's fault.
                next.since = if next.is_paused { now } else { next.since };
                next.is_paused = false;
                next.asked = next.asked.map(|asked| Asked { until: Some(now), ..asked });
                next.reason = Reason::Resumed;
            }
        }
        next
    }
}

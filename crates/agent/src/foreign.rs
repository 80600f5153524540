//! What the agent protects and did not start: a systemd unit, or the process that a PID file names. It comes and goes
//! without the agent; only an evacuation, or the loss of the claim, ends it.

use lifeboat_core::evacuation::stage::Report;
use rustix::process::Signal as OsSignal;
use std::time::Duration;

use crate::config::Protected;
use crate::hands::Handed;
use crate::pid_file::PidFile;
use crate::systemd::Unit;

/// An order that systemd did not take is repeated so often: the stage's budget is its limit in time.
const TRIES: u32 = 5;

/// Between two of those.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Between two looks at a unit that is stopping; each starts a process.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A unit or a process.
#[derive(Debug)]
pub(crate) enum Foreign {
    Unit(Unit),
    PidFile(PidFile),
}

impl Foreign {
    /// What the configuration names; `None`: only directories.
    pub(crate) fn of(protected: &Protected) -> Option<Self> {
        match protected {
            Protected::Directories => None,
            Protected::Unit(name) => Some(Self::Unit(Unit::new(name.clone()))),
            Protected::PidFile(path) => Some(Self::PidFile(PidFile::new(path.clone()))),
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Unit(unit) => format!("the unit {}", unit.name()),
            Self::PidFile(file) => format!("the process of {}", file.path().display()),
        }
    }

    /// Looks for it, so that it is known when it has to be stopped. Costs next to nothing.
    pub(crate) fn remember(&self) {
        match self {
            Self::Unit(_) => {} // systemd knows
            Self::PidFile(file) => {
                if let Err(error) = file.process() {
                    tracing::debug!(%error, "no process can be named");
                }
            }
        }
    }

    /// Whether it runs now.
    ///
    /// # Errors
    /// What keeps it from being told, in words.
    pub(crate) async fn runs(&self) -> Result<bool, String> {
        match self {
            Self::Unit(unit) => match unit.state().await {
                Ok(state) if !state.exists() => Err(format!("there is no unit {}", unit.name())),
                Ok(state) => Ok(!state.is_over()),
                Err(error) => Err(error.to_string()),
            },
            Self::PidFile(file) => match file.process() {
                Ok(process) => Ok(process.is_some()),
                Err(error) => Err(crate::hands::chain(&error)),
            },
        }
    }

    /// Drain: has it stopped, and waits until it has. Ended by force when the stage's time is over; cancel-safe.
    pub(crate) async fn stop(&self, signal: OsSignal) -> Handed {
        match self {
            Self::Unit(unit) => stop_unit(unit).await,
            Self::PidFile(file) => match file.stop(signal).await {
                Ok(true) => Handed::new(Report::Done, format!("{} has ended", self.name())),
                Ok(false) => Handed::new(Report::Nothing, format!("{} does not run", self.name())),
                Err(error) => Handed::failed(&error),
            },
        }
    }

    /// Kills whatever runs of it. Blocks, for seconds at most. Returns whether nothing is left.
    pub(crate) fn kill(&self) -> bool {
        match self {
            Self::Unit(unit) => unit.kill(),
            Self::PidFile(file) => file.kill(),
        }
    }
}

async fn stop_unit(unit: &Unit) -> Handed {
    let name = unit.name();
    match unit.state().await {
        Ok(state) if !state.exists() => {
            return Handed::new(Report::Nothing, format!("there is no unit {name}"));
        }
        Ok(state) if state.is_over() => {
            return Handed::new(Report::Nothing, format!("{name} does not run"));
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, unit = name, "systemd does not say how the unit stands"),
    }
    let mut tries = 0;
    while let Err(error) = unit.stop().await {
        tries += 1;
        if tries == TRIES {
            return Handed::new(Report::Failed, format!("{name} cannot be stopped: {error}"));
        }
        tracing::warn!(%error, unit = name, "systemd did not take the order to stop the unit; trying again");
        tokio::time::sleep(TRY_AGAIN).await;
    }
    tracing::info!(unit = name, "systemd stops the unit");
    // Ended by the stage's time.
    loop {
        match unit.state().await {
            Ok(state) if state.is_over() => {
                return Handed::new(Report::Done, format!("{name} is {}", state.active));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, unit = name, "systemd does not say how the unit stands"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

//! Everything that reaches an agent from outside, as one closed stream of events.

use std::io;

use lifeboat_core::notice::{Key, Notice};
use lifeboat_core::time::Timestamp;
use lifeboat_imds::{Client, Pace, Sighting, WallClock, poller};
use rustix::process::Signal as OsSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::clock::wall_now;
use crate::control::{Request, Status};
use crate::setup::Setup;
use crate::summary::Summary;
use crate::watch::{Call, Seen, Watch};

/// Sightings that wait for the agent's turn; the poller then waits too.
const SIGHTINGS: usize = 64;

/// Something happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A child ended.
    Child,
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// A signal that is passed on to the workload.
    PassOn(OsSignal),
    /// The metadata service calls for an evacuation.
    Notice(Notice),
    /// The machine is expected to go at this notice's deadline; its work was evacuated before.
    Expect(Notice),
    /// What was announced no longer is.
    Withdrawn,
    /// The metadata service was asked and announces nothing new.
    Quiet,
    /// An interruption has become likely: what has changed is copied at once.
    CopyNow,
    /// Somebody asks how the agent stands.
    Status(oneshot::Sender<Status>),
    /// Somebody asks for an evacuation.
    Evacuate(oneshot::Sender<Summary>),
}

/// The stream. Reading it is cancel-safe.
#[derive(Debug)]
pub(crate) struct Intake {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// `None`: it was ignored when lifeboat began, as under nohup, and stays ignored.
    hangup: Option<Signal>,
    passed_on: [(OsSignal, Signal); 4],
    sightings: Option<mpsc::Receiver<Sighting>>,
    requests: mpsc::Receiver<Request>,
    watch: Watch,
    poller: Option<tokio::task::JoinHandle<()>>,
}

impl Intake {
    /// Catches signals and starts the one poller.
    pub(crate) fn start(setup: &Setup, requests: mpsc::Receiver<Request>) -> io::Result<Self> {
        let listen = |kind| signal(kind);
        let mut intake = Self {
            child: listen(SignalKind::child())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: if ignores_hangup() { None } else { Some(listen(SignalKind::hangup())?) },
            passed_on: [
                (OsSignal::QUIT, listen(SignalKind::quit())?),
                (OsSignal::USR1, listen(SignalKind::user_defined1())?),
                (OsSignal::USR2, listen(SignalKind::user_defined2())?),
                (OsSignal::WINCH, listen(SignalKind::window_change())?),
            ],
            sightings: None,
            requests,
            watch: Watch::new(setup.settings.patience, setup.settings.lifecycle_grace),
            poller: None,
        };
        if let Some(endpoint) = &setup.metadata {
            let seed = u64::from(std::process::id()) ^ wall_now().0.unsigned_abs();
            let pace = Pace { interval: setup.settings.interval, seed };
            let client = Client::new(endpoint.clone(), WallClock::new(wall_now)).with_seed(seed);
            let (sender, sightings) = mpsc::channel(SIGHTINGS);
            intake.poller = Some(tokio::spawn(poller::poll(client, pace, sender)));
            intake.sightings = Some(sightings);
        }
        Ok(intake)
    }

    /// What the metadata service has shown.
    pub(crate) fn seen(&self) -> &Seen {
        self.watch.seen()
    }

    /// Whether there is a metadata service to watch.
    pub(crate) const fn is_watching(&self) -> bool {
        self.sightings.is_some()
    }

    /// The local clock was set or the machine slept.
    pub(crate) fn forget_clock(&mut self) {
        self.watch.forget_clock();
    }

    /// Waits for the next event. `handled` is the last interruption that was evacuated.
    pub(crate) async fn next(&mut self, handled: Option<Key>, now: impl Fn() -> Timestamp) -> Event {
        let [quit, usr1, usr2, winch] = &mut self.passed_on;
        tokio::select! {
            biased;
            Some(()) = self.terminate.recv() => Event::Terminate,
            Some(()) = self.interrupt.recv() => Event::Interrupt,
            Some(()) = self.child.recv() => Event::Child,
            Some(sighting) = receive(&mut self.sightings) => {
                match self.watch.take(sighting, handled, now()) {
                    Call::Nothing => Event::Quiet,
                    Call::CopyNow => Event::CopyNow,
                    Call::Evacuate(notice) => Event::Notice(notice),
                    Call::Expect(notice) => Event::Expect(notice),
                    Call::Withdrawn => Event::Withdrawn,
                }
            }
            Some(request) = self.requests.recv() => match request {
                Request::Status(reply) => Event::Status(reply),
                Request::Evacuate(reply) => Event::Evacuate(reply),
            },
            Some(()) = heard(&mut self.hangup) => Event::PassOn(OsSignal::HUP),
            Some(()) = quit.1.recv() => Event::PassOn(quit.0),
            Some(()) = usr1.1.recv() => Event::PassOn(usr1.0),
            Some(()) = usr2.1.recv() => Event::PassOn(usr2.0),
            Some(()) = winch.1.recv() => Event::PassOn(winch.0),
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some(poller) = &self.poller {
            poller.abort();
        }
    }
}

async fn receive(sightings: &mut Option<mpsc::Receiver<Sighting>>) -> Option<Sighting> {
    match sightings {
        Some(sightings) => sightings.recv().await,
        None => std::future::pending().await,
    }
}

async fn heard(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Catching a signal that the parent had ignored would un-ignore it for the workload too: `nohup lifeboat run`
/// would end with the terminal.
fn ignores_hangup() -> bool {
    // Source: proc(5): `SigIgn` is a mask in hexadecimal, signal 1 its lowest bit.
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok())
            .is_some_and(|mask| mask & 1 == 1)
    })
}

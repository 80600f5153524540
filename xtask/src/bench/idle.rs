//! What an agent costs while nothing is announced: memory, and CPU time projected to an hour.

use std::thread;
use std::time::{Duration, Instant};

use super::Bench;
use super::agents::{AGENTS, Agent};
use super::mock::Mock;
use super::process::{CpuTime, Memory, Running};

/// Often enough for [`CpuTime`] and for the greatest memory.
const LOOK: Duration = Duration::from_secs(1);

/// What one agent used.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    pub(crate) agent: Agent,
    pub(crate) memory: Memory,
    pub(crate) cpu_seconds_an_hour: f64,
}

struct Watched {
    agent: Agent,
    process: Running,
    _mock: Mock,
    cpu: CpuTime,
    at_first: f64,
    memory: Memory,
}

/// All agents side by side, each with its own mock: they hardly use the machine, and they share its weather.
///
/// # Errors
/// When one of them cannot be started or ends.
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Idle>> {
    let Bench { extent, scratch, .. } = bench;
    println!("idle: {} agents for {:?} after {:?}", AGENTS.len(), extent.idle, extent.warm_up);
    let mut watched = Vec::new();
    for agent in AGENTS {
        let folder = scratch.join("idle").join(agent.tag());
        std::fs::create_dir_all(&folder)?;
        let mock = Mock::start(&bench.lifeboat, &folder)?;
        let process = agent.start(bench, &folder, &mock.endpoint(), &["sleep", "100000"])?;
        let (cpu, memory) = (CpuTime::default(), Memory::default());
        watched.push(Watched { agent, process, _mock: mock, cpu, at_first: 0.0, memory });
    }
    thread::sleep(extent.warm_up);
    for one in &mut watched {
        one.look()?;
        one.at_first = one.cpu.seconds();
    }
    let begun = Instant::now();
    while begun.elapsed() < extent.idle {
        thread::sleep(LOOK);
        for one in &mut watched {
            one.look()?;
        }
    }
    let hours = begun.elapsed().as_secs_f64() / 3_600.0;
    watched.into_iter().map(|one| one.end(hours)).collect()
}

impl Watched {
    fn look(&mut self) -> anyhow::Result<()> {
        self.process.check_running()?;
        self.cpu.look(self.process.id())?;
        if let Some(now) = Memory::of(self.process.id()) {
            self.memory.resident_kib = self.memory.resident_kib.max(now.resident_kib);
            self.memory.peak_kib = now.peak_kib;
        }
        Ok(())
    }

    fn end(mut self, hours: f64) -> anyhow::Result<Idle> {
        let cpu_seconds_an_hour = (self.cpu.seconds() - self.at_first) / hours;
        self.process.terminate();
        self.process.ended(Duration::from_secs(60))?;
        Ok(Idle { agent: self.agent, memory: self.memory, cpu_seconds_an_hour })
    }
}

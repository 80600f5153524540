//! From the notice's appearance in the metadata service to the moment in which the workload has its signal.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use super::Bench;
use super::agents::{AGENTS, Agent};
use super::mock::Mock;
use super::process::{LOOK_AGAIN, wait_for, wall_now};
use super::statistics::Random;
use crate::tree::root;

/// Starting an agent and Python takes a fraction of it.
const START: Duration = Duration::from_secs(30);

/// The notice's two minutes and a margin: an agent that takes longer has failed.
const EVACUATION: Duration = Duration::from_secs(150);

/// Spread over the lanes, so that no two of them wait in step. The number itself means nothing.
const SEED: u64 = 20_260_101;

/// Every reaction of one agent, ms.
#[derive(Clone, Debug)]
pub(crate) struct Reaction {
    pub(crate) agent: Agent,
    pub(crate) ms: Vec<f64>,
}

/// One agent after the other; of each, several lanes at once, each with its own mock and its own moments.
///
/// # Errors
/// When an agent misses a notice or fails to evacuate.
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Reaction>> {
    AGENTS.into_iter().map(|agent| reactions(bench, agent)).collect()
}

fn reactions(bench: &Bench, agent: Agent) -> anyhow::Result<Reaction> {
    println!("reaction: {}, {} notices", agent.name(), bench.extent.notices());
    let mut ms = Vec::new();
    thread::scope(|scope| -> anyhow::Result<()> {
        let lanes: Vec<_> =
            (0..bench.extent.lanes).map(|lane| scope.spawn(move || run_lane(bench, agent, lane))).collect();
        for lane in lanes {
            match lane.join() {
                Ok(measured) => ms.extend(measured?),
                Err(_) => bail!("a lane panicked"),
            }
        }
        Ok(())
    })?;
    Ok(Reaction { agent, ms })
}

fn run_lane(bench: &Bench, agent: Agent, lane: usize) -> anyhow::Result<Vec<f64>> {
    let folder = bench.scratch.join("reaction").join(format!("{}-{lane}", agent.tag()));
    fs::create_dir_all(&folder)?;
    let mock = Mock::start(&bench.lifeboat, &folder)?;
    let mut random = Random::new(SEED + u64::try_from(lane)?);
    let mut ms = Vec::new();
    for round in 0..bench.extent.rounds {
        let folder = folder.join(round.to_string());
        fs::create_dir_all(&folder)?;
        ms.push(react(bench, agent, (&mock, random.fraction()), &folder)?);
        mock.withdraw()?;
    }
    Ok(ms)
}

/// One notice at the given phase (0 to 1) of the agent's polling.
fn react(bench: &Bench, agent: Agent, (mock, phase): (&Mock, f64), folder: &Path) -> anyhow::Result<f64> {
    let file = folder.join("signalled");
    let script = root().join("bench/signalled.py");
    let workload = ["python3".as_ref(), script.as_os_str(), file.as_os_str()];
    let mut process = agent.start(bench, folder, mock, &workload)?;
    wait_for(&folder.join("signalled.ready"), &mut process, START)?;
    // Over one whole interval every phase is equally likely, whenever the agent's first poll was.
    thread::sleep(Duration::from_millis(500) + agent.interval().mul_f64(phase));
    process.check_running()?;
    let announced = wall_now();
    mock.announce()?;
    let begun = wall_now();
    while !file.exists() {
        if wall_now().saturating_sub(begun) > agent.interval() * 2 + Duration::from_secs(5) {
            bail!("{} missed a notice:\n{}", agent.name(), process.said());
        }
        thread::sleep(LOOK_AGAIN);
    }
    let signalled: u64 = fs::read_to_string(&file)?.trim().parse().context("the workload wrote no time")?;
    let reaction = Duration::from_nanos(signalled).saturating_sub(announced);
    let status = process.ended(EVACUATION)?;
    if !agent.is_success(status.code()) {
        bail!("{} did not evacuate ({status}):\n{}", agent.name(), process.said());
    }
    Ok(reaction.as_secs_f64() * 1_000.0)
}

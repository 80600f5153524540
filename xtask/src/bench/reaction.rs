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
use super::tap::Tap;
use crate::tree::root;

/// Starting an agent and Python takes a fraction of it.
const START: Duration = Duration::from_secs(30);

/// The notice's two minutes and a margin: an agent that takes longer has failed.
const EVACUATION: Duration = Duration::from_secs(150);

/// Of the phases. The number itself means nothing.
const SEED: u64 = 20_260_101;

/// Every reaction of one agent.
#[derive(Clone, Debug)]
pub(crate) struct Reaction {
    /// From the notice's appearance to the signal, ms.
    pub(crate) ms: Vec<f64>,
    /// The part of it that lies behind the answer that told the agent, ms.
    pub(crate) own_ms: Vec<f64>,
}

/// One agent of [`AGENTS`] after the other; of each, several lanes at once, each with its own mock and its own moments.
///
/// # Errors
/// When an agent misses a notice or fails to evacuate.
pub(crate) fn measure(bench: &Bench) -> anyhow::Result<Vec<Reaction>> {
    AGENTS.into_iter().map(|agent| reactions(bench, agent)).collect()
}

fn reactions(bench: &Bench, agent: Agent) -> anyhow::Result<Reaction> {
    println!("reaction: {}, {} notices", agent.name(), bench.extent.notices());
    let phases = phases(bench.extent.notices());
    let mut measured = Vec::new();
    thread::scope(|scope| -> anyhow::Result<()> {
        let lanes: Vec<_> = phases
            .chunks(bench.extent.rounds)
            .enumerate()
            .map(|(lane, phases)| scope.spawn(move || run_lane(bench, agent, lane, phases)))
            .collect();
        for lane in lanes {
            match lane.join() {
                Ok(lane) => measured.extend(lane?),
                Err(_) => bail!("a lane panicked"),
            }
        }
        Ok(())
    })?;
    let (ms, own_ms) = measured.into_iter().unzip();
    Ok(Reaction { ms, own_ms })
}

/// Moments within an interval (0 to 1): a random one in each of `count` equal parts, in random order.
///
/// The mean of 100 independent moments, over 2 s, would be uncertain by 58 ms.
fn phases(count: usize) -> Vec<f64> {
    let mut random = Random::new(SEED);
    let parts = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let mut phases: Vec<f64> =
        (0..count).zip(0_u32..).map(|(_, part)| (f64::from(part) + random.fraction()) / parts).collect();
    for last in (1..count).rev() {
        let other = usize::try_from(random.next() % (last as u64 + 1)).unwrap_or(last);
        phases.swap(last, other);
    }
    phases
}

fn run_lane(bench: &Bench, agent: Agent, lane: usize, phases: &[f64]) -> anyhow::Result<Vec<(f64, f64)>> {
    let folder = bench.scratch.join("reaction").join(format!("{}-{lane}", agent.tag()));
    fs::create_dir_all(&folder)?;
    let mock = Mock::start(&bench.lifeboat, &folder)?;
    let mut measured = Vec::new();
    for (round, phase) in phases.iter().enumerate() {
        let folder = folder.join(round.to_string());
        fs::create_dir_all(&folder)?;
        measured.push(react(bench, agent, (&mock, *phase), &folder)?);
        mock.withdraw()?;
    }
    Ok(measured)
}

/// One notice at the given phase (0 to 1) of the agent's polling. Returns the whole reaction and the agent's own
/// part of it, ms.
fn react(
    bench: &Bench,
    agent: Agent,
    (mock, phase): (&Mock, f64),
    folder: &Path,
) -> anyhow::Result<(f64, f64)> {
    let tap = Tap::start(mock.address())?;
    let file = folder.join("signalled");
    let script = root().join("bench/signalled.py");
    let workload = ["python3".as_ref(), script.as_os_str(), file.as_os_str()];
    let mut process = agent.start(bench, folder, &tap.endpoint(), &workload)?;
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
    let signalled = Duration::from_nanos(signalled);
    let told = tap.told().context("the agent signalled its workload without having seen a notice")?;
    let status = process.ended(EVACUATION)?;
    if !agent.is_success(status.code()) {
        bail!("{} did not evacuate ({status}):\n{}", agent.name(), process.said());
    }
    let ms_since = |begin| signalled.saturating_sub(begin).as_secs_f64() * 1_000.0;
    Ok((ms_since(announced), ms_since(told)))
}

#[cfg(test)]
mod tests {
    use super::super::statistics::mean;
    use super::*;

    #[test]
    fn phases_cover_the_interval_evenly_and_in_no_order() {
        let phases = phases(100);
        assert!((mean(&phases) - 0.5).abs() < 0.005, "{}", mean(&phases));
        assert!(!phases.is_sorted());
        let mut sorted = phases;
        sorted.sort_by(f64::total_cmp);
        let is_in_its_part = |(part, phase): (i32, &f64)| (phase * 100.0 - f64::from(part)).abs() <= 1.0;
        assert!((0..).zip(&sorted).all(is_in_its_part), "{sorted:?}");
    }
}

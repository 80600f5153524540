//! Polling takes bounded memory. Alone in its binary, so that no other test's memory is counted.

mod common;

use std::time::Duration;

use lifeboat_imds::mock::Script;
use lifeboat_imds::poller::poll;
use lifeboat_imds::{Pace, Sighting};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Resident memory in KiB.
/// Source: proc(5), `VmRSS` in /proc/PID/status.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

#[tokio::test(start_paused = true)]
async fn polling_for_five_thousand_seconds_takes_no_more_memory_than_for_a_thousand() {
    let faults = vec!["503:5%".parse().expect("valid"), "401:5%".parse().expect("valid")];
    let mock = common::mock(Script { faults, ..Script::default() });
    let (sender, mut receiver) = mpsc::channel(16);
    tokio::spawn(poll(mock.client(), Pace::default(), sender));
    let reader = tokio::spawn(async move {
        let mut samples = 0;
        while let Some(sighting) = receiver.recv().await {
            samples += u64::from(matches!(sighting, Sighting::ClockSample(_)));
        }
        samples
    });
    sleep(Duration::from_secs(1_000)).await;
    let before = resident_kib();
    sleep(Duration::from_secs(4_000)).await;
    let after = resident_kib();
    // The allocator may keep a page here and there; a KiB a round would be 2 MiB.
    assert!(after < before + 1_024, "{before} KiB before, {after} KiB after");
    assert!(mock.control().requests().by_path.len() < 10);
    reader.abort();
}

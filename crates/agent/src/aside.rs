//! Files are read and written beside the one thread on which everything waits: a file system that hangs (its server went
//! with the network) costs who asked for it the time it had, and nobody else anything.

use lifeboat_snapshot::Deadline;
use tokio::sync::oneshot;

/// What `work` gives, done on a thread of its own: those that the runtime has may all be reading what is saved. `None`: it
/// has not ended at `deadline`, and is left to itself, or no thread can be had.
pub(crate) async fn aside<T: Send + 'static>(
    deadline: &Deadline,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("lifeboat-files".into());
    let started = thread.spawn(move || {
        let _ = sender.send(work()); // nobody waits any more
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread can be had");
        return None;
    }
    tokio::select! {
        biased;
        done = receiver => done.ok(), // it does not panic
        () = deadline.passed() => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_hangs_is_given_up_at_the_deadline_and_holds_up_nobody() {
        let (release, hangs) = mpsc::channel::<()>();
        let deadline = Deadline::at(Instant::now() + Duration::from_millis(100));
        let hung = aside(&deadline, move || hangs.recv_timeout(Duration::from_secs(600)));
        assert_eq!(hung.await, None);
        drop(release);
        let deadline = Deadline::at(Instant::now() + Duration::from_secs(60));
        assert_eq!(aside(&deadline, || 7).await, Some(7));
    }
}

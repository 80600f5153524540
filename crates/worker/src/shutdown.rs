//! Whether the machine is about to go: announced by the agent, or by SIGTERM, which means the same.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::Notice;

/// Tells when work is to be stopped. Cheap to clone; all clones tell the same. Once requested it stays so.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default)]
struct State {
    is_requested: bool,
    notice: Option<Notice>,
}

impl Shutdown {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether work is to be stopped.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.state().is_requested
    }

    /// What the agent announced; `None` also where SIGTERM alone asked.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        self.state().notice.clone()
    }

    /// Waits until it is requested, at most so long. Returns whether it is.
    #[must_use]
    pub fn wait_timeout(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.state();
        while !state.is_requested {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Requests it. A program may do so itself, for its own reasons.
    pub fn request(&self) {
        self.state().is_requested = true;
        self.0.changed.notify_all();
    }

    pub(crate) fn announce(&self, notice: Notice) {
        // A hibernation brings the processes back: they are not stopped for it.
        let goes_on = notice.action == "hibernate";
        let mut state = self.state();
        state.is_requested |= !goes_on;
        state.notice = Some(notice);
        drop(state);
        self.0.changed.notify_all();
    }
}

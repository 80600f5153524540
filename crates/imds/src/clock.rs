//! The wall clock, passed in as a function, so that tests and simulations bring their own.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_core::time::{Millis, Timestamp};

/// A function that tells the wall-clock time as Unix milliseconds.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl WallClock {
    /// A clock that asks `tell`.
    pub fn new(tell: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// This machine's clock. A clock set before 1970 reads as 1970.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(0) + Millis::from(since_epoch)
        })
    }

    /// A clock that reads `start` now and then follows tokio's clock, paused or not.
    ///
    /// Tokio's clock is monotonic, so this wall clock is never set.
    #[must_use]
    pub fn following_tokio(start: Timestamp) -> Self {
        let begun = tokio::time::Instant::now();
        Self::new(move || start + Millis::from(begun.elapsed()))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WallClock({})", self.now().0)
    }
}

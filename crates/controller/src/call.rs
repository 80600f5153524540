//! Tries of one call: what is worth another try, how often, and how long between.

use std::future::Future;
use std::time::Duration;

use lifeboat_core::backoff::Backoff;
use lifeboat_core::time::Millis;

use crate::port::CallError;

/// Waits between tries, in real time.
pub(crate) const BACKOFF: Backoff = Backoff { first: Millis(100), longest: Millis(3_000), seed: 0 };

impl CallError {
    /// Whether the same call may succeed soon.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Throttled(_) | Self::Unavailable(_) => true,
            Self::NotFound(_) | Self::Refused(_) => false,
        }
    }
}

/// Makes a call up to `tries` times while its failures are temporary.
pub(crate) async fn tried<T, F>(tries: u32, seed: u64, mut call: impl FnMut() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let backoff = Backoff { seed, ..BACKOFF };
    let mut attempt = 0;
    loop {
        match call().await {
            Err(error) if error.is_temporary() && attempt + 1 < tries => {
                tokio::time::sleep(backoff.wait(attempt).to_duration()).await;
                attempt += 1;
            }
            done => return done,
        }
    }
}

/// Gives a call up after `longest`.
pub(crate) async fn within<T>(
    longest: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(longest, call).await {
        Ok(done) => done,
        Err(_) => Err(CallError::Unavailable(format!("no answer within {} ms", longest.as_millis()))),
    }
}

//! How far a long operation is, for a person who watches it.

use crate::deadline::Deadline;

/// Told as bytes move. Calls come from several threads and must be cheap: count, and draw elsewhere.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// What there is to do, as soon as it is known.
    fn planned(&self, files: u64, bytes: u64);

    /// Until when it must be done, which may move closer; before anything is planned.
    fn due(&self, _deadline: &Deadline) {}

    /// This much more is done.
    fn advanced(&self, files: u64, bytes: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn planned(&self, _files: u64, _bytes: u64) {}

    fn advanced(&self, _files: u64, _bytes: u64) {}
}

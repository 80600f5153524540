//! How far a long operation is, for a person who watches it.

/// Told as bytes move. Calls come from several threads and must be cheap: count, and draw elsewhere.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// What there is to do, as soon as it is known.
    fn planned(&self, files: u64, bytes: u64);

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

//! Where tests kill the controller: `LIFEBOAT_CRASH_AT=commit:3` ends the process, as `kill -9` does, when it passes
//! the point `commit` for the third time. In release builds there is no such thing.

/// Passes a point.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("LIFEBOAT_CRASH_AT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    let Some((at, count)) = wanted else { return };
    if at == name && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *count {
        // Neither destructors nor buffers.
        std::process::abort();
    }
}

/// Passes a point.
#[cfg(not(debug_assertions))]
pub(crate) const fn point(_name: &'static str) {}

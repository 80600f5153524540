//! Buffers of one size that are used again, and whose memory goes back to the system when the work is done.
//!
//! They are mapped, not allocated: an allocator keeps what it once had, and an agent that saved a terabyte shall be
//! as small afterwards as before.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;

/// What fits into one: a whole pack or segment of 8 MiB, and a little by which growth is noticed.
pub(crate) const BUFFER_BYTES: usize = 8 * 1024 * 1024 + 4096;

/// The buffers of one save or restore. Dropping it and what it gave out frees them.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Vec<MmapMut>>,
}

/// A buffer; it goes back to its pool when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Option<MmapMut>,
    pool: Arc<Pool>,
}

impl Pool {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// A buffer with arbitrary content. How many there are is for the caller to bound.
    pub(crate) fn take(self: &Arc<Self>) -> std::io::Result<Buffer> {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = match kept {
            Some(memory) => memory,
            None => MmapMut::map_anon(BUFFER_BYTES)?,
        };
        Ok(Buffer { memory: Some(memory), pool: Arc::clone(self) })
    }
}

impl Buffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_deref().unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().unwrap_or_default()
    }

    /// The bytes of `range`, shared; the buffer goes back when the last share is dropped.
    pub(crate) fn share(self, range: Range<usize>) -> Bytes {
        Bytes::from_owner(self).slice(range)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_back_when_its_last_share_is_dropped() {
        let pool = Pool::new();
        let mut buffer = pool.take().expect("memory");
        buffer.bytes_mut()[3] = 7;
        let shared = buffer.share(3..5);
        let other = shared.slice(..1);
        drop(shared);
        assert_eq!((other.as_ref(), pool.free.lock().expect("unpoisoned").len()), ([7].as_slice(), 0));
        drop(other);
        assert_eq!(pool.free.lock().expect("unpoisoned").len(), 1);
    }
}

//! One large file on its way: its blocks are read, hashed and stored in any order, and are its content only if it
//! did not change meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::build::Place;
use crate::blocks::{self, Blocks};
use crate::buffer::BUFFER_BYTES;
use crate::id::Digest;
use crate::read::Version;

/// What is known of one block once it is read.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) node: Digest,
    pub(super) place: Place,
}

/// A file that is open, as of one version.
#[derive(Debug)]
pub(super) struct Large {
    index: usize,
    pub(super) attempt: u32,
    pub(super) file: File,
    pub(super) version: Version,
    log2: u32,
    blocks: Mutex<Vec<Option<Block>>>,
}

impl Large {
    pub(super) fn new(
        (index, attempt): (usize, u32),
        file: File,
        version: Version,
        log2_before: Option<u32>,
    ) -> Arc<Self> {
        let log2 = blocks::log2_for(version.size, log2_before);
        let count = usize::try_from(blocks::count(version.size, log2)).unwrap_or(usize::MAX);
        let blocks = Mutex::new(vec![None; count.min(blocks::BLOCKS_MAX + 1)]);
        Arc::new(Self { index, attempt, file, version, log2, blocks })
    }

    pub(super) const fn index(&self) -> usize {
        self.index
    }

    pub(super) fn count(&self) -> usize {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many blocks make about `target` bytes: at least one, at most a buffer full.
    pub(super) fn blocks_in(&self, target: u64) -> usize {
        let most = BUFFER_BYTES >> self.log2;
        usize::try_from(target >> self.log2).unwrap_or(most).clamp(1, most.max(1))
    }

    /// Where block `number` begins, and its length.
    pub(super) fn stretch(&self, number: usize) -> (u64, usize) {
        let offset = u64::try_from(number).unwrap_or(u64::MAX) << self.log2;
        let length = (self.version.size - offset).min(1 << self.log2);
        (offset, usize::try_from(length).unwrap_or(BUFFER_BYTES))
    }

    /// Reads a stretch.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file has become shorter.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Whether the bytes from `offset` on are a hole that is at least `length` long.
    pub(super) fn is_hole(&self, offset: u64, length: u64) -> bool {
        // Not every file system knows; then nothing is a hole.
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => data >= offset + length,
            // Source: lseek(2): nothing but a hole from here to the end.
            Err(rustix::io::Errno::NXIO) => true,
            Err(_) => false,
        }
    }

    /// Takes the blocks from `first` on in. `true` when none is missing any more.
    pub(super) fn put(&self, first: usize, stored: Vec<Block>) -> bool {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, block) in blocks.iter_mut().skip(first).zip(stored) {
            *slot = Some(block);
        }
        blocks.iter().all(Option::is_some)
    }

    /// The blocks and where they lie; `None` while some are missing.
    pub(super) fn finished(&self) -> Option<(Blocks, Vec<(Place, u64)>)> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = Vec::with_capacity(blocks.len());
        let mut places = Vec::with_capacity(blocks.len());
        for (number, block) in blocks.iter().enumerate() {
            let block = block.as_ref()?;
            let (_, length) = self.stretch(number);
            nodes.push(block.node);
            places.push((block.place.clone(), u64::try_from(length).unwrap_or(u64::MAX)));
        }
        Some((Blocks { log2: self.log2, nodes }, places))
    }

    /// Whether the file is still as it was, or has only grown beyond what was read. Reads it again to know the latter.
    pub(super) fn still_holds(&self, buffer: &mut [u8]) -> io::Result<bool> {
        let after = Version::of(&self.file)?;
        if after == self.version {
            return Ok(true);
        }
        if !self.version.may_have_grown_to(&after) {
            return Ok(false);
        }
        for number in 0..self.count() {
            let (offset, length) = self.stretch(number);
            let bytes = &mut buffer[..length];
            self.read(bytes, offset)?;
            let node = blocks::node(bytes, offset);
            let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
            if blocks[number].as_ref().is_none_or(|block| block.node != node) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

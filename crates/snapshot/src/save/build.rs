//! Reads files into the content of one object: what is known to be stored is left out, what compresses is compressed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::large::Large;
use super::queue::PACKED_FILE_BYTES_MAX;
use crate::blocks;
use crate::buffer::{BUFFER_BYTES, Buffer, Pool};
use crate::dirs::Dirs;
use crate::id::Digest;
use crate::known::{Known, Piece};
use crate::read::{Failure, Version, read_whole};
use crate::scan::Found;
use crate::transfer::{as_u64, as_usize};

/// zstd's quickest ordinary level: half a GB a second, which is more than most links take.
const LEVEL: i32 = 1;

/// Content is compressed if three samples of it shrink to less than this many hundredths together.
const SAMPLE_HUNDREDTHS: usize = 80;

/// The length of a sample: long enough for zstd to find what repeats.
const SAMPLE_BYTES: usize = 16 * 1024;

/// Less content than this is sent as it is.
const COMPRESSED_FROM: usize = 512;

/// Where bytes lie, or will.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the object that is being built, from this byte on.
    Here(u64),
    Known(Piece),
    /// Nowhere: zeros, or nothing at all.
    Hole,
}

/// A small file that was read.
#[derive(Debug)]
pub(super) struct Small {
    pub(super) index: usize,
    pub(super) version: Version,
    pub(super) digest: Digest,
    pub(super) place: Place,
}

/// What is to be stored.
#[derive(Debug)]
pub(super) struct Content {
    /// As it is sent; empty if there is nothing to store.
    pub(super) bytes: Bytes,
    /// Its length before it was compressed.
    pub(super) raw: Option<u64>,
    /// What is in it: hash, offset, length.
    pub(super) pieces: Vec<(Digest, u64, u64)>,
}

/// A pack that was read.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) content: Content,
    pub(super) files: Vec<Small>,
    pub(super) failed: Vec<(usize, Failure)>,
    /// Those that have no room, with the size that they have now.
    pub(super) left: Vec<(usize, u64)>,
}

/// What every build needs.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) found: Arc<Vec<Found>>,
    pub(super) dirs: Dirs,
    pub(super) known: Known,
    pub(super) pool: Arc<Pool>,
    pub(super) compresses: bool,
}

impl Builder {
    /// Reads small files one behind the other.
    pub(super) fn pack(&self, members: &[usize]) -> io::Result<Pack> {
        let mut dirs = self.dirs.fresh();
        let mut buffer = self.pool.take()?;
        let mut used = 0;
        let mut here: HashMap<Digest, u64> = HashMap::new();
        let (mut files, mut failed, mut left, mut pieces) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for index in members {
            let path = &self.found[*index].path;
            let room = &mut buffer.bytes_mut()[used..];
            match read_whole(&mut dirs, path, room, PACKED_FILE_BYTES_MAX) {
                Ok(Ok(whole)) => {
                    let (size, digest) = (whole.version.size, whole.digest);
                    let place = if size == 0 {
                        Place::Hole
                    } else if let Some(piece) = self.known.find(&digest, size) {
                        Place::Known(piece)
                    } else {
                        let offset = *here.entry(digest).or_insert_with(|| {
                            let offset = as_u64(used);
                            pieces.push((digest, offset, size));
                            used += as_usize(size);
                            offset
                        });
                        Place::Here(offset)
                    };
                    files.push(Small { index: *index, version: whole.version, digest, place });
                }
                Ok(Err(size)) => left.push((*index, size)),
                Err(failure) => failed.push((*index, failure)),
            }
        }
        let content = self.content(buffer, used, pieces)?;
        Ok(Pack { content, files, failed, left })
    }

    /// Reads blocks of a large file.
    ///
    /// # Errors
    /// `UnexpectedEof` when it has become shorter.
    pub(super) fn chunk(
        &self,
        large: &Large,
        (first, count): (usize, usize),
    ) -> io::Result<(Content, Vec<super::large::Block>)> {
        let mut buffer = self.pool.take()?;
        let mut used = 0;
        let (mut stored, mut pieces) = (Vec::with_capacity(count), Vec::new());
        for number in first..first + count {
            let (offset, length) = large.stretch(number);
            let room = &mut buffer.bytes_mut()[used..used + length];
            if large.is_hole(offset, as_u64(length)) {
                room.fill(0);
            } else {
                large.read(room, offset)?;
            }
            let node = blocks::node(room, offset);
            let place = if is_zero(room) {
                Place::Hole
            } else if let Some(piece) = self.known.find(&node, as_u64(length)) {
                Place::Known(piece)
            } else {
                pieces.push((node, as_u64(used), as_u64(length)));
                used += length;
                Place::Here(as_u64(used - length))
            };
            stored.push(super::large::Block { node, place });
        }
        Ok((self.content(buffer, used, pieces)?, stored))
    }

    /// The first `used` bytes of `buffer` as they are to be sent.
    fn content(&self, buffer: Buffer, used: usize, pieces: Vec<(Digest, u64, u64)>) -> io::Result<Content> {
        if self.compresses && is_compressible(&buffer.bytes()[..used]) {
            let mut packed = self.pool.take()?;
            let compressed = zstd::bulk::Compressor::new(LEVEL)?
                .compress_to_buffer(&buffer.bytes()[..used], packed.bytes_mut());
            // What does not fit was not worth it.
            if let Ok(size) = compressed
                && size < used
            {
                return Ok(Content { bytes: packed.share(0..size), raw: Some(as_u64(used)), pieces });
            }
        }
        Ok(Content { bytes: buffer.share(0..used), raw: None, pieces })
    }

    /// Whether a large file still is what was read of it.
    pub(super) fn still_holds(&self, large: &Large) -> io::Result<bool> {
        large.still_holds(self.pool.take()?.bytes_mut())
    }
}

/// Whether samples from the beginning, the middle and the end shrink.
fn is_compressible(bytes: &[u8]) -> bool {
    if bytes.len() < COMPRESSED_FROM {
        return false;
    }
    let length = SAMPLE_BYTES.min(bytes.len());
    let starts = [0, (bytes.len() - length) / 2, bytes.len() - length];
    let distinct = if length == bytes.len() { &starts[..1] } else { &starts[..] };
    let shrunk: usize = distinct
        .iter()
        .map(|start| {
            zstd::bulk::compress(&bytes[*start..*start + length], LEVEL).map_or(length, |sample| sample.len())
        })
        .sum();
    shrunk * 100 < distinct.len() * length * SAMPLE_HUNDREDTHS
}

/// Whether there is nothing but zeros.
fn is_zero(bytes: &[u8]) -> bool {
    /// Compared at once: the compiler makes wide instructions of it.
    const STEP: usize = 64;
    bytes.first() == Some(&0)
        && bytes.chunks(STEP).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

const _: () = assert!(BUFFER_BYTES >= 1 << blocks::BLOCK_LOG2_MAX, "a buffer holds the largest block");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shrinks_is_compressed() {
        let mut noise = vec![0; 1 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(!is_compressible(&noise));
        assert!(is_compressible("the same words again ".repeat(10_000).as_bytes()));
        assert!(!is_compressible(b"short"));
        assert!(is_zero(&[0; 100_000]) && !is_zero(&noise) && !is_zero(&[]));
    }
}

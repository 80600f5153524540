//! BLAKE3 of a large file, block by block: the hash of each block is a node of the file's own hash tree.
//!
//! So the blocks of one file are hashed by several threads in any order, each block can be checked by itself when it
//! comes back, and together they give the very hash that hashing the file in one go gives.

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};

use crate::id::Digest;

/// The smallest block: a touched page of a database costs so much. 2^18 = 256 KiB.
pub(crate) const BLOCK_LOG2_MIN: u32 = 18;

/// The largest block: one object holds at least one. 2^23 = 8 MiB.
pub(crate) const BLOCK_LOG2_MAX: u32 = 23;

/// Blocks grow with the file, so that a new file has at most about this many.
const BLOCKS_WANTED: u64 = 4096;

/// A file that grows keeps its blocks until there are so many: another size would make all of them new.
const BLOCKS_KEPT_MAX: u64 = 16 * 1024;

/// No file has more: at the largest size that is 1 TiB.
pub const BLOCKS_MAX: usize = 128 * 1024;

/// The blocks of one file: its bytes cut at multiples of a power of two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// Each has 2^this bytes; the last may have fewer.
    pub log2: u32,
    /// Their nodes in the file's BLAKE3 tree, in order.
    pub nodes: Vec<Digest>,
}

/// How large the blocks of a file of `size` bytes are, when those of its last version were `before`.
pub(crate) fn log2_for(size: u64, before: Option<u32>) -> u32 {
    if let Some(log2) = before
        && size > 1 << log2
        && size >> log2 < BLOCKS_KEPT_MAX
        && (size >> log2) * 16 >= BLOCKS_WANTED.min(size >> BLOCK_LOG2_MIN)
    {
        return log2;
    }
    let mut log2 = BLOCK_LOG2_MIN;
    while log2 < BLOCK_LOG2_MAX && size >> log2 > BLOCKS_WANTED {
        log2 += 1;
    }
    log2
}

/// How many blocks of 2^`log2` bytes `size` bytes take.
pub(crate) const fn count(size: u64, log2: u32) -> u64 {
    size.div_ceil(1 << log2)
}

/// The node of the block `bytes` that begins at `offset` of its file, of which it is not the whole.
pub(crate) fn node(bytes: &[u8], offset: u64) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    Digest::from(hasher.finalize_non_root())
}

/// The hash of the whole file of `size` bytes; `None` when that is not what these blocks are of.
pub(crate) fn whole(blocks: &Blocks, size: u64) -> Option<Digest> {
    let is_tree = (BLOCK_LOG2_MIN..=BLOCK_LOG2_MAX).contains(&blocks.log2)
        && blocks.nodes.len() >= 2
        && blocks.nodes.len() <= BLOCKS_MAX
        && u64::try_from(blocks.nodes.len()).ok() == Some(count(size, blocks.log2));
    if !is_tree {
        return None;
    }
    let (left, right) = split(blocks, 0, size);
    let (left, right) = (subtree(blocks, left), subtree(blocks, right));
    Some(merge_subtrees_root(left.as_bytes(), right.as_bytes(), Mode::Hash).into())
}

/// The two halves of the stretch of `length` bytes from `offset` on, as BLAKE3 cuts it.
fn split(_blocks: &Blocks, offset: u64, length: u64) -> ((u64, u64), (u64, u64)) {
    let left = left_subtree_len(length);
    ((offset, left), (offset + left, length - left))
}

/// The node of a stretch. The recursion is as deep as the tree: 17 levels for [`BLOCKS_MAX`].
fn subtree(blocks: &Blocks, (offset, length): (u64, u64)) -> Digest {
    if length <= 1 << blocks.log2 {
        let index = usize::try_from(offset >> blocks.log2).unwrap_or(usize::MAX);
        return blocks.nodes[index];
    }
    let (left, right) = split(blocks, offset, length);
    let (left, right) = (subtree(blocks, left), subtree(blocks, right));
    Digest::from(merge_subtrees_non_root(left.as_bytes(), right.as_bytes(), Mode::Hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_together_give_the_hash_of_the_whole() {
        let block = 1usize << BLOCK_LOG2_MIN;
        let mut bytes = vec![0; 9 * block + 12345];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        for size in [block + 1, 2 * block, 3 * block - 1, 5 * block, 8 * block, 9 * block + 12345] {
            let bytes = &bytes[..size];
            let nodes: Vec<Digest> = bytes
                .chunks(block)
                .enumerate()
                .map(|(number, chunk)| node(chunk, u64::try_from(number * block).expect("small")))
                .collect();
            let size = u64::try_from(size).expect("small");
            let mut blocks = Blocks { log2: BLOCK_LOG2_MIN, nodes };
            assert_eq!(whole(&blocks, size), Some(Digest::of(bytes)), "{size}");
            assert_eq!(whole(&blocks, size + (1 << BLOCK_LOG2_MIN)), None);
            blocks.nodes.swap(0, 1);
            assert_ne!(whole(&blocks, size), Some(Digest::of(bytes)));
        }
        assert_eq!(whole(&Blocks { log2: 60, nodes: vec![Digest::of(b""); 2] }, 5), None);
    }

    #[test]
    fn blocks_grow_with_the_file_and_stay_while_it_grows() {
        const GIB: u64 = 1 << 30;
        assert_eq!(log2_for(5 << 20, None), 18);
        assert_eq!(log2_for(GIB, None), 18);
        assert_eq!(log2_for(GIB + 1, None), 18);
        assert_eq!(log2_for(4 * GIB, None), 20);
        assert_eq!(log2_for(3 * GIB, Some(18)), 18);
        assert_eq!(log2_for(100 * GIB, Some(18)), 23);
        assert_eq!(log2_for(GIB, Some(23)), 18, "too coarse for what it has become");
    }
}

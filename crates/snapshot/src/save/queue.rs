//! What is read and stored next: files by value, small ones together, large ones in pieces.

use std::collections::VecDeque;
use std::sync::Arc;

use super::large::Large;
use super::{PRIORITY_DEFAULT, PriorityRule};
use crate::scan::Found;
use lifeboat_core::evacuation::priority::compare as by_value;

/// Larger files are stored by themselves, in blocks.
pub(super) const PACKED_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A pack is closed once it has this many files, so that 100,000 empty ones are read by several threads.
const PACK_FILES_MAX: usize = 4096;

/// Packs are not made smaller than this to have more of them: many small objects cost later saves.
const SHARED_BYTES_MIN: u64 = 1280 * 1024;

/// What makes one object, or prepares it. The numbers are indices into what was found.
#[derive(Debug)]
pub(super) enum Job {
    /// Small files, one behind the other.
    Pack(Vec<usize>),
    /// A large file is to be opened; again when it changed.
    Open { index: usize, attempt: u32 },
    /// So many blocks of a large file from the first on.
    Chunk { large: Arc<Large>, first: usize, count: usize },
}

/// All that is to be stored, the most valuable first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    small: VecDeque<Waiting>,
    large: VecDeque<Waiting>,
    /// Large files that are open, with their first block that nobody has taken.
    open: VecDeque<(Arc<Large>, usize)>,
    again: VecDeque<(usize, u32)>,
    /// No pack is larger.
    pack_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    priority: u32,
    size: u64,
    index: usize,
}

impl Waiting {
    const fn value(&self) -> (u32, u64) {
        (self.priority, self.size)
    }
}

impl Queue {
    /// The files `indices` of `found`.
    pub(super) fn new(found: &[Found], indices: &[usize], rules: &[PriorityRule]) -> Self {
        let mut files: Vec<Waiting> = indices
            .iter()
            .filter_map(|index| {
                let entry = found.get(*index)?;
                Some(Waiting { priority: priority_of(entry, rules), size: entry.size()?, index: *index })
            })
            .collect();
        // Stable: files of equal value keep their order.
        files.sort_by(|a, b| by_value(a.value(), b.value()));
        let (small, large) = files.into_iter().partition(|file| file.size <= PACKED_FILE_BYTES_MAX);
        Self { small, large, pack_bytes: u64::MAX, ..Self::default() }
    }

    /// Makes packs so small that there are about so many `parts` of what little there is: they are read, hashed and
    /// sent side by side.
    pub(super) fn share_out(&mut self, parts: u64) {
        let bytes: u64 = self.small.iter().map(|file| file.size).sum();
        self.pack_bytes = bytes.div_ceil(parts.max(1)).max(SHARED_BYTES_MIN);
    }

    /// The next job, of about `target` bytes.
    pub(super) fn next(&mut self, target: u64) -> Option<Job> {
        if let Some((index, attempt)) = self.again.pop_front() {
            return Some(Job::Open { index, attempt });
        }
        if let Some((large, first)) = self.open.pop_front() {
            let count = large.blocks_in(target).min(large.count() - first);
            if first + count < large.count() {
                self.open.push_front((Arc::clone(&large), first + count));
            }
            return Some(Job::Chunk { large, first, count });
        }
        let is_large_next = match (self.small.front(), self.large.front()) {
            (Some(small), Some(large)) => by_value(large.value(), small.value()).is_lt(),
            (None, Some(_)) => true,
            (Some(_) | None, None) => false,
        };
        if is_large_next {
            let file = self.large.pop_front()?;
            return Some(Job::Open { index: file.index, attempt: 0 });
        }
        let target = target.min(self.pack_bytes);
        let first = self.small.pop_front()?;
        let (mut members, mut bytes) = (vec![first.index], first.size);
        while let Some(next) = self.small.front()
            && bytes + next.size <= target
            && members.len() < PACK_FILES_MAX
        {
            members.push(next.index);
            bytes += next.size;
            self.small.pop_front();
        }
        Some(Job::Pack(members))
    }

    /// A large file has been opened: its blocks come next.
    pub(super) fn opened(&mut self, large: Arc<Large>) {
        self.open.push_back((large, 0));
    }

    /// A file that found no room in its pack, with the size that it has now: it goes where its value puts it.
    pub(super) fn put_back(&mut self, found: &Found, index: usize, size: u64, rules: &[PriorityRule]) {
        let file = Waiting { priority: priority_of(found, rules), size, index };
        let queue = if size <= PACKED_FILE_BYTES_MAX { &mut self.small } else { &mut self.large };
        let place = queue.partition_point(|other| by_value(other.value(), file.value()).is_lt());
        queue.insert(place, file);
    }

    /// A large file changed while it was read.
    pub(super) fn open_again(&mut self, index: usize, attempt: u32) {
        self.again.push_back((index, attempt));
    }

    /// A large file whose upload failed: what is left of it need not be tried.
    pub(super) fn drop_open(&mut self, index: usize) {
        self.open.retain(|(large, _)| large.index() != index);
    }
}

/// Compares two files by their priority for their size, the most valuable first.
pub(super) fn by_worth(a: &Found, b: &Found, rules: &[PriorityRule]) -> std::cmp::Ordering {
    let value = |found: &Found| (priority_of(found, rules), found.size().unwrap_or(0));
    by_value(value(a), value(b))
}

/// The priority that the first matching rule gives.
fn priority_of(found: &Found, rules: &[PriorityRule]) -> u32 {
    rules
        .iter()
        .find(|rule| rule.glob.is_match(found.path.as_path()))
        .map_or(PRIORITY_DEFAULT, |rule| rule.priority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::EntryPath;
    use crate::read::Version;
    use crate::scan::FoundKind;

    const MIB: u64 = 1024 * 1024;

    fn file(path: &str, size: u64) -> Found {
        let path = EntryPath::new(path.as_bytes()).expect("a valid path");
        let directory = tempfile::tempdir().expect("a directory");
        let file = std::fs::File::create(directory.path().join("f")).expect("creatable");
        file.set_len(size).expect("sparse");
        let version = Version::of(&file).expect("a file");
        Found { path, attributes: version.attributes, kind: FoundKind::File { version, links: 1 } }
    }

    /// Packs as lists, opened files as one number.
    fn order(found: &[Found], rules: &[PriorityRule], target: u64) -> Vec<Vec<usize>> {
        let indices: Vec<usize> = (0..found.len()).collect();
        let mut queue = Queue::new(found, &indices, rules);
        std::iter::from_fn(|| queue.next(target))
            .map(|job| match job {
                Job::Pack(members) => members,
                Job::Open { index, .. } => vec![index],
                Job::Chunk { .. } => panic!("nothing is open"),
            })
            .collect()
    }

    #[test]
    fn packs_are_filled_by_value_and_large_files_stand_alone() {
        let found =
            [file("a", 3 * MIB), file("b", 100 * MIB), file("c", 4 * MIB), file("d", 2 * MIB), file("e", 0)];
        assert_eq!(order(&found, &[], 8 * MIB), [vec![4, 3, 0], vec![2], vec![1]]);
        assert_eq!(order(&found, &[], MIB), [vec![4], vec![3], vec![0], vec![2], vec![1]]);
    }

    #[test]
    fn a_file_that_has_grown_goes_where_its_priority_and_its_size_put_it() {
        let found = [file("a", 10), file("cache/b", 20), file("c", 30)];
        let glob = globset::Glob::new("cache/**").expect("a valid glob").compile_matcher();
        let rules = [PriorityRule { glob, priority: 0 }];
        let mut queue = Queue::new(&found, &[0, 2], &rules);
        queue.put_back(&found[1], 1, 5, &rules);
        let Some(Job::Pack(members)) = queue.next(8 * MIB) else { panic!("all are small") };
        assert_eq!(members, [0, 2, 1], "little as it is, it is worth nothing");
    }

    #[test]
    fn what_little_there_is_is_shared_out() {
        let found: Vec<Found> = (0..40).map(|number| file(&number.to_string(), MIB / 10)).collect();
        let indices: Vec<usize> = (0..found.len()).collect();
        let mut queue = Queue::new(&found, &indices, &[]);
        queue.share_out(2);
        let packs = std::iter::from_fn(|| queue.next(8 * MIB)).count();
        assert_eq!(packs, 2);
    }

    #[test]
    fn an_important_large_file_goes_before_unimportant_small_ones() {
        let found = [file("cache/a", 10), file("model.bin", 100 * MIB)];
        let rule = |glob, priority| {
            let glob = globset::Glob::new(glob).expect("a valid glob").compile_matcher();
            PriorityRule { glob, priority }
        };
        let rules = [rule("cache/**", 0), rule("**", 1)];
        assert_eq!(order(&found, &rules, 8 * MIB), [vec![1], vec![0]]);
    }
}

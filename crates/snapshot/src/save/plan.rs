//! Decides which files go into which object, and which object goes first.

use super::{PRIORITY_DEFAULT, PriorityRule, size_of};
use crate::order::by_value;
use crate::scan::Found;

/// A pack is closed once it has this many bytes. Source: docs/architecture, "Snapshot: the format".
pub(super) const PACK_BYTES: u64 = 8 * 1024 * 1024;

/// Larger files are objects of their own: at half a pack, packs stay within one and a half times their size.
pub(super) const PACKED_FILE_BYTES_MAX: u64 = PACK_BYTES / 2;

/// A pack is closed once it has this many files, so that 100,000 empty ones are read by several threads.
const PACK_FILES_MAX: usize = 4096;

/// What makes one object. The numbers are indices into what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Small files, one behind the other.
    Pack(Vec<usize>),
    /// One file that is large enough by itself.
    Large(usize),
}

/// All regular files as units, the most valuable first: a unit is worth what its first file is.
pub(super) fn plan(found: &[Found], rules: &[PriorityRule]) -> Vec<Unit> {
    let mut files: Vec<(u32, u64, usize)> = found
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| Some((priority_of(entry, rules), size_of(entry)?, index)))
        .collect();
    // Stable: files of equal value keep the order of their paths.
    files.sort_by(|a, b| by_value((a.0, a.1), (b.0, b.1)));

    let mut units: Vec<Unit> = Vec::new();
    // Where in `units` the pack is that takes the next small file, and how many bytes it has.
    let mut open: Option<(usize, u64)> = None;
    for (_, size, index) in files {
        if size > PACKED_FILE_BYTES_MAX {
            units.push(Unit::Large(index));
            continue;
        }
        let packed = open.and_then(|(at, bytes)| match units.get_mut(at) {
            Some(Unit::Pack(members)) => Some((at, bytes, members)),
            Some(Unit::Large(_)) | None => None,
        });
        open = match packed {
            Some((at, bytes, members)) if bytes + size <= PACK_BYTES && members.len() < PACK_FILES_MAX => {
                members.push(index);
                Some((at, bytes + size))
            }
            Some(_) | None => {
                units.push(Unit::Pack(vec![index]));
                Some((units.len() - 1, size))
            }
        };
    }
    units
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
    use crate::scan::{Attributes, FoundKind};

    const MIB: u64 = 1024 * 1024;

    fn file(path: &str, size: u64) -> Found {
        let path = EntryPath::new(path.as_bytes()).expect("a valid path");
        let attributes =
            Attributes { mode: 0o644, uid: 0, gid: 0, modified: crate::manifest::Modified::default() };
        Found { path, attributes, kind: FoundKind::File { size } }
    }

    #[test]
    fn packs_hold_eight_mebibytes_and_large_files_stand_alone() {
        let found =
            [file("a", 3 * MIB), file("b", 100 * MIB), file("c", 4 * MIB), file("d", 2 * MIB), file("e", 0)];
        assert_eq!(plan(&found, &[]), [Unit::Pack(vec![4, 3, 0]), Unit::Pack(vec![2]), Unit::Large(1)]);
    }

    #[test]
    fn an_important_large_file_goes_before_unimportant_small_ones() {
        let found = [file("cache/a", 10), file("model.bin", 100 * MIB)];
        let rule = |glob, priority| {
            let glob = globset::Glob::new(glob).expect("a valid glob").compile_matcher();
            PriorityRule { glob, priority }
        };
        let rules = [rule("cache/**", 0), rule("**", 1)];
        assert_eq!(plan(&found, &rules), [Unit::Large(1), Unit::Pack(vec![0])]);
    }
}

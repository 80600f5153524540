//! Real text files for the demo: given, or found where Unix machines keep some.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Where text lies on most machines; a machine that builds Rust programs has their sources.
const PLACES: [&str; 6] = [
    "/usr/share/common-licenses",
    "/usr/share/doc",
    "/usr/share/perl",
    "/usr/lib/python3",
    "/usr/include",
    "/etc",
];

/// Smaller files are no work, larger ones would make the demo long.
const SIZES: std::ops::RangeInclusive<u64> = 512..=256 * 1024;

/// Enough to choose from; a machine may have millions of files.
const LOOKED_AT_MAX: usize = 50_000;

/// Copies `count` text files into `folder` (fewer where there are no more) and returns the copies, in order.
pub(super) fn collect(given: Option<&Path>, count: usize, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(folder)?;
    let mut found = Vec::new();
    let mut looked_at = 0;
    match given {
        Some(dir) => {
            fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
            search(dir, count, &mut looked_at, &mut found);
        }
        None => {
            let registry =
                std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/registry/src"));
            for place in PLACES.iter().map(PathBuf::from).chain(registry) {
                search(&place, count, &mut looked_at, &mut found);
            }
        }
    }
    if found.len() < super::ROUNDS_MIN {
        let place = given.map_or_else(|| "on this machine".to_owned(), |dir| format!("in {}", dir.display()));
        bail!(
            "found {} text files of {} to {} bytes {place}, and need {}; give a directory with more: \
             lifeboat demo --input DIR",
            found.len(),
            SIZES.start(),
            SIZES.end(),
            super::ROUNDS_MIN,
        );
    }
    found
        .iter()
        .enumerate()
        .map(|(number, path)| {
            let copy = folder.join(format!("{number:05}.txt"));
            fs::copy(path, &copy).with_context(|| format!("cannot copy {}", path.display()))?;
            Ok(copy)
        })
        .collect()
}

/// Depth first, in the order of names, links not followed.
fn search(dir: &Path, count: usize, looked_at: &mut usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        *looked_at += 1;
        if found.len() >= count || *looked_at > LOOKED_AT_MAX {
            return;
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            search(&path, count, looked_at, found);
        } else if metadata.is_file() && SIZES.contains(&metadata.len()) && is_text(&path) {
            found.push(path);
        }
    }
}

fn is_text(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| std::str::from_utf8(&bytes).is_ok() && !bytes.contains(&0))
}

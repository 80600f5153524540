//! What is saved: made before each measurement, and compared byte for byte with what came back.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

pub(super) const MIB: u64 = 1024 * 1024;

/// Files in one folder.
const FOLDER_FILES: u64 = 500;

/// Noise is made and compared in pieces of this size.
const PIECE: usize = 64 * 1024;

/// Deeper than any source tree.
const DEPTH_MAX: usize = 64;

/// A directory full of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// So many files of so many bytes that do not compress.
    Noise { count: u64, size: u64 },
    /// The sources of the crates that this machine has, up to so many bytes.
    Sources { bytes: u64 },
}

/// One row of the plan: the load on loopback, and the smaller one over the link.
pub(super) struct Planned {
    pub(super) near: Load,
    pub(super) far: Load,
    /// How many times faster than the fastest other tool the save shall be.
    pub(super) aim: f64,
}

/// The loads, each divided by `divisor`.
pub(super) fn plan(divisor: u64) -> [Planned; 4] {
    let noise = |count: u64, size: u64| Load::Noise { count, size };
    let sources = |mib: u64| Load::Sources { bytes: mib * MIB };
    // What is small already is not divided as much: it would be round trips and nothing else.
    let far = divisor.isqrt();
    [
        Planned { near: noise(20_000 / divisor, 16 * 1024), far: noise(5_000 / far, 16 * 1024), aim: 5.0 },
        Planned { near: noise(2_000 / divisor, MIB), far: noise(400 / far, MIB), aim: 1.2 },
        Planned { near: noise(4, 1024 * MIB / divisor), far: noise(4, 128 * MIB / far), aim: 1.0 },
        Planned { near: sources(96 / divisor), far: sources(24 / far), aim: 3.0 },
    ]
}

impl Load {
    /// As the tables call it.
    pub(crate) fn name(&self) -> String {
        let size = |bytes: u64| match bytes {
            0..MIB => format!("{} KiB", bytes / 1024),
            _ if bytes.is_multiple_of(1024 * MIB) => format!("{} GiB", bytes / MIB / 1024),
            _ => format!("{} MiB", bytes / MIB),
        };
        match self {
            Self::Noise { count, size: bytes } => format!("{} × {}", grouped(*count), size(*bytes)),
            Self::Sources { bytes } => format!("source tree, {}", size(*bytes)),
        }
    }

    /// Whether there is so much of it that it is taken away while it is fetched back.
    pub(super) const fn is_huge(&self) -> bool {
        matches!(self, Self::Noise { count, size } if *count * *size > 2048 * MIB)
    }

    /// Makes it at `top`, where nothing is left of what was there.
    pub(super) fn make(&self, top: &Path) -> anyhow::Result<Made> {
        if top.exists() {
            fs::remove_dir_all(top)?;
        }
        fs::create_dir_all(top)?;
        match *self {
            Self::Noise { count, size } => {
                for number in 0..count {
                    let path = top.join(noise_name(number));
                    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
                    write_noise(&path, number, size)?;
                }
                Ok(Made { files: count, bytes: count * size })
            }
            Self::Sources { bytes } => copy_sources(top, bytes),
        }
    }

    /// Whether `back` is what [`Load::make`] made, every byte of it and nothing else. `top` is what was made, which
    /// for noise need not be there any more.
    pub(super) fn compare(&self, top: &Path, back: &Path) -> anyhow::Result<()> {
        let files = files_below(back)?;
        match *self {
            Self::Noise { count, size } => {
                let mut is_there = vec![false; usize::try_from(count)?];
                for path in &files {
                    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                    let number: u64 =
                        name.parse().with_context(|| format!("{} came back", path.display()))?;
                    if back.join(noise_name(number)) != *path || !is_noise(path, number, size)? {
                        bail!("{} is something else", path.display());
                    }
                    is_there[usize::try_from(number)?] = true;
                }
                match is_there.iter().position(|is_there| !is_there) {
                    Some(number) => bail!("{} did not come back", noise_name(u64::try_from(number)?)),
                    None => Ok(()),
                }
            }
            Self::Sources { .. } => {
                let wanted = files_below(top)?;
                if files.len() != wanted.len() {
                    bail!("{} files came back, not {}", files.len(), wanted.len());
                }
                for path in wanted {
                    let here = back.join(path.strip_prefix(top)?);
                    if fs::read(&path)? != fs::read(&here).with_context(|| here.display().to_string())? {
                        bail!("{} is something else", here.display());
                    }
                }
                Ok(())
            }
        }
    }
}

/// How much was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// A number with commas.
pub(super) fn grouped(number: u64) -> String {
    if number >= 1000 { format!("{},{:03}", number / 1000, number % 1000) } else { number.to_string() }
}

fn noise_name(number: u64) -> String {
    format!("{:03}/{number}", number / FOLDER_FILES)
}

/// Bytes that do not compress and do not repeat: xorshift, another stream for each seed.
struct Noise(u64);

impl Noise {
    const fn new(seed: u64) -> Self {
        // The step of splitmix64; never 0.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

/// A file of `size` bytes of noise.
pub(super) fn write_noise(path: &Path, seed: u64, size: u64) -> anyhow::Result<()> {
    let (mut noise, mut piece, mut left) = (Noise::new(seed), vec![0; PIECE], size);
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        noise.fill(&mut piece[..length]);
        file.write_all(&piece[..length])?;
        left -= u64::try_from(length)?;
    }
    Ok(())
}

fn is_noise(path: &Path, seed: u64, size: u64) -> anyhow::Result<bool> {
    let (mut noise, mut piece, mut here) = (Noise::new(seed), vec![0; PIECE], vec![0; PIECE]);
    let mut file = File::open(path)?;
    if file.metadata()?.len() != size {
        return Ok(false);
    }
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        noise.fill(&mut piece[..length]);
        file.read_exact(&mut here[..length])?;
        if piece[..length] != here[..length] {
            return Ok(false);
        }
        left -= u64::try_from(length)?;
    }
    Ok(true)
}

/// Copies the sources of whole crates, in the order of their names, until there are `bytes`.
fn copy_sources(top: &Path, bytes: u64) -> anyhow::Result<Made> {
    let home = home_of_crates().context("cargo has no sources of crates here")?;
    let mut crates: Vec<PathBuf> = fs::read_dir(home)?.flatten().map(|entry| entry.path()).collect();
    crates.sort();
    let mut made = Made::default();
    for path in crates {
        for file in files_below(&path)? {
            let target = top.join(path.file_name().unwrap_or_default()).join(file.strip_prefix(&path)?);
            fs::create_dir_all(target.parent().context("a file lies in a folder")?)?;
            made.bytes += fs::copy(&file, &target)?;
            made.files += 1;
        }
        if made.bytes >= bytes {
            break;
        }
    }
    Ok(made)
}

/// Where cargo keeps the sources of crates.
fn home_of_crates() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    fs::read_dir(home.join("registry/src")).ok()?.flatten().map(|entry| entry.path()).next()
}

/// The regular files below a folder, sorted.
fn files_below(top: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![(top.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && depth < DEPTH_MAX {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_that_was_changed_is_noticed() {
        let top = std::env::temp_dir().join(format!("lifeboat-bench-noise-{}", std::process::id()));
        let load = Load::Noise { count: 3, size: 100_001 };
        load.make(&top).expect("writable");
        load.compare(&top, &top).expect("the same");
        let mut bytes = fs::read(top.join("000/1")).expect("there");
        bytes[100_000] ^= 1;
        fs::write(top.join("000/1"), bytes).expect("writable");
        assert!(load.compare(&top, &top).is_err(), "a byte is another");
        load.make(&top).expect("writable");
        fs::remove_file(top.join("000/2")).expect("there");
        assert!(load.compare(&top, &top).is_err(), "a file is missing");
        fs::remove_dir_all(&top).expect("there");
    }

    #[test]
    fn loads_have_names_that_people_read() {
        assert_eq!(Load::Noise { count: 20_000, size: 16 * 1024 }.name(), "20,000 × 16 KiB");
        assert_eq!(Load::Noise { count: 4, size: 1024 * MIB }.name(), "4 × 1 GiB");
        assert_eq!(Load::Sources { bytes: 96 * MIB }.name(), "source tree, 96 MiB");
    }
}

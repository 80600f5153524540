//! A short run of what `fuzz/` does for hours: thousands of damaged seeds through every function that reads bytes from
//! a store. None panics, none passes for what it is not, and memory stays bounded.

mod entries;

use std::io::Read;
use std::path::Path;

/// Resident memory at its highest may grow by this much, whatever comes in: some buffers of 8 MiB, and lines.
const MEMORY_MAX: u64 = 256 << 20;

/// The highest that the resident memory of this process has been, in bytes.
fn peak() -> u64 {
    // Source: proc(5): the line `VmHWM:` in kB.
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// The same numbers in each run.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("64 bit") % below.max(1)
    }
}

/// What harms most where it is put in the place of something else.
const WORDS: [&str; 16] = [
    "18446744073709551615",
    "-1",
    "9999999999999999999999999",
    "1e308",
    "../",
    "/",
    "\\u0000",
    "\n",
    "{",
    "[[[[[[[[[[[[[[[[",
    "null",
    "\"\"",
    "\"removed\"",
    "\"entry\"",
    "\"raw\":",
    "0",
];

/// One to four changes to `seed`.
fn mutated(seed: &[u8], other: &[u8], draw: &mut Draw) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=draw.next(4) {
        let at = draw.next(bytes.len() + 1);
        let length = draw.next(40).min(bytes.len() - at);
        match draw.next(8) {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << draw.next(8);
                }
            }
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let copy = bytes[at..at + length].to_vec();
                let to = draw.next(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let word = WORDS[draw.next(WORDS.len())];
                bytes.splice(at..at + length.min(word.len()), word.bytes());
            }
            6 => {
                let from = draw.next(other.len() + 1);
                let piece = &other[from..(from + draw.next(300)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                // A line in the place of another: each by itself is right.
                let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                let (one, two) = (draw.next(lines.len()), draw.next(lines.len()));
                if draw.next(2) == 0 && !lines.is_empty() {
                    lines.swap(one, two);
                } else if let Some(line) = lines.get(one).copied() {
                    lines.insert(two, line);
                }
                bytes = lines.concat();
            }
        }
    }
    bytes
}

fn seeds(kind: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(entries::folder().join("seeds").join(kind))
        .expect("readable")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("readable")
}

fn sweep(kind: &str, cases: usize, entry: impl Fn(&[u8])) {
    let seeds = seeds(kind);
    assert!(!seeds.is_empty(), "{kind} has seeds");
    seeds.iter().for_each(|seed| entry(seed));
    let before = peak();
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    for number in 0..cases {
        let other = &seeds[draw.next(seeds.len())];
        let bytes = mutated(&seeds[number % seeds.len()], other, &mut draw);
        entry(&bytes);
    }
    let grown = peak().saturating_sub(before);
    assert!(grown < MEMORY_MAX, "{kind}: {grown} bytes more");
}

#[test]
fn no_damaged_manifest_harms() {
    sweep("manifest", 4_000, entries::manifest);
}

#[test]
fn no_hostile_lines_of_a_manifest_harm() {
    sweep("lines", 4_000, entries::lines);
}

#[test]
fn no_hostile_delta_harms() {
    sweep("delta", 2_000, entries::delta);
}

#[test]
fn no_other_base_passes_for_a_deltas_own() {
    sweep("lines", 600, entries::base);
}

#[test]
fn no_damaged_object_passes_for_what_was_saved() {
    sweep("object", 600, entries::object);
}

#[test]
fn no_damaged_record_harms() {
    sweep("record", 1_500, entries::record);
}

#[test]
fn a_bomb_in_the_place_of_a_compressed_object_is_refused_in_bounded_memory() {
    let before = peak();
    let seeds = seeds("object");
    // As long as what it replaces, by a frame that decoders skip. Source: RFC 8878, 3.1.2 "Skippable Frames".
    for honest in seeds.iter().filter(|seed| seed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])) {
        let mut bomb = zstd::encode_all(std::io::repeat(0).take(5 << 20), 19).expect("compressible");
        let room = honest.len().checked_sub(bomb.len() + 8).expect("the bomb is small");
        bomb.extend([0x50, 0x2a, 0x4d, 0x18]);
        bomb.extend(u32::try_from(room).expect("small").to_le_bytes());
        bomb.extend(vec![0; room]);
        assert_eq!(bomb.len(), honest.len());
        entries::object(&bomb);
        assert!(!entries::is_sound(&bomb), "it passes for what was saved");
    }
    assert!(peak() - before < MEMORY_MAX);
}

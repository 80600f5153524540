//! Reads a manifest that anybody may have written: every limit and every rule is checked before it is used.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read};

use super::encode::{Footer, Line, footer};
use super::{Entry, EntryKind, FORMAT, Manifest};
use crate::claim::ClaimId;
use crate::extra::StoredObject;
use crate::path::PATH_BYTES_MAX;
use crate::workload::WorkloadName;

/// The longest line: a path of [`PATH_BYTES_MAX`] bytes that is no UTF-8 takes 4/3 of that, one full of control
/// characters six times that, and the rest of an entry and its extents find room in what remains.
pub const LINE_BYTES_MAX: usize = 8 * PATH_BYTES_MAX;

/// All lines together: four million entries with paths of average length. It bounds the reader's memory.
pub const DECODED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// More entries than this are refused, and not written either: at 300 bytes each they are 1.2 GiB of memory.
pub const ENTRIES_MAX: usize = 4_000_000;

/// Source: Linux `PATH_MAX` with its NUL; no file system stores a longer target.
pub const LINK_BYTES_MAX: usize = 4095;

/// One file lies in at most so many stretches: objects of 64 GiB make 64 TiB, beyond any file on an instance.
pub const EXTENTS_MAX: usize = 1024;

/// zstd may ask for a window of 2^23 = 8 MiB and no more; our writer's level needs 2 MiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Permission bits, set-user-id, set-group-id and sticky.
const MODE_MAX: u32 = 0o7777;

/// Why some bytes are no manifest that is accepted here.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not zstd, damaged, or a line that is not JSON of the right shape.
    #[error("line {line} cannot be read")]
    Unreadable {
        /// Counted from 1.
        line: u64,
        /// What the reader of zstd or JSON says.
        #[source]
        source: io::Error,
    },
    /// Larger than the format allows.
    #[error("line {line}: more than {max} {what}")]
    TooLarge {
        /// Counted from 1.
        line: u64,
        /// Of what there is too much.
        what: &'static str,
        /// How much of it is allowed.
        max: u64,
    },
    /// A manifest of another version.
    #[error("format {format} is not known here, only {FORMAT}")]
    Version {
        /// What it says.
        format: u32,
    },
    /// It breaks a rule of the format: it was cut short, damaged, or made to harm.
    #[error("line {line}: {what}")]
    Invalid {
        /// Counted from 1.
        line: u64,
        /// Which rule.
        what: String,
    },
}

/// Reads the manifest that `compressed` contains and checks that it is one of `workload`.
///
/// # Errors
/// [`DecodeError`]. Every path in the result is inside the work directory, unique, and below directories only;
/// every extent lies within its object; the counts are right.
pub fn decode(compressed: &[u8], workload: &WorkloadName) -> Result<Manifest, DecodeError> {
    decode_within(compressed, workload, DECODED_BYTES_MAX)
}

/// As [`decode`], with at most `max` bytes in all lines together.
fn decode_within(compressed: &[u8], workload: &WorkloadName, max: u64) -> Result<Manifest, DecodeError> {
    let unreadable = |source| DecodeError::Unreadable { line: 1, source };
    let mut decoder = zstd::Decoder::new(compressed).map_err(unreadable)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
    // One byte more than allowed, to tell "exactly as much" from "too much".
    let mut lines = Lines { input: BufReader::new(decoder.take(max + 1)), number: 0, total: 0, max };
    let Some(Line::Manifest(header)) = lines.next()? else {
        return Err(lines.invalid("a manifest begins with its header"));
    };
    if header.format != FORMAT {
        return Err(DecodeError::Version { format: header.format });
    }
    if header.workload != *workload {
        return Err(lines.invalid(format!("this is a manifest of workload {}", header.workload)));
    }
    let mut manifest = Manifest {
        header: header.into_owned(),
        objects: Vec::new(),
        entries: Vec::new(),
        left_out: Vec::new(),
    };
    let end = read_body(&mut lines, &mut manifest)?;
    if end != footer(&manifest) {
        return Err(lines.invalid("the counts of the last line are not those of the lines before it"));
    }
    if lines.next()?.is_some() {
        return Err(lines.invalid("something follows the last line"));
    }
    check_tree(&manifest).map_err(|what| lines.invalid(what))?;
    Ok(manifest)
}

/// Reads all lines between the header and the footer, in their order, and returns the footer.
fn read_body<R: BufRead>(lines: &mut Lines<R>, manifest: &mut Manifest) -> Result<Footer, DecodeError> {
    let mut bytes: u64 = 0;
    // Bounded by `DECODED_BYTES_MAX`.
    loop {
        let Some(line) = lines.next()? else { return Err(lines.invalid("the manifest is cut short")) };
        let is_ordered = match &line {
            Line::Manifest(_) => false,
            Line::Object(_) => manifest.entries.is_empty() && manifest.left_out.is_empty(),
            Line::Entry(_) => manifest.left_out.is_empty(),
            Line::LeftOut(_) | Line::End(_) => true,
        };
        if !is_ordered {
            return Err(lines.invalid("the lines are out of order"));
        }
        if manifest.objects.len() + manifest.entries.len() + manifest.left_out.len() >= 2 * ENTRIES_MAX
            || manifest.entries.len() > ENTRIES_MAX
        {
            return Err(lines.too_large("entries", ENTRIES_MAX));
        }
        match line {
            Line::Manifest(_) => return Err(lines.invalid("a second header")),
            Line::Object(object) => {
                check_object(&object).map_err(|what| lines.invalid(what))?;
                manifest.objects.push(object.into_owned());
            }
            Line::Entry(entry) => {
                let size = check_entry(&entry, &manifest.objects).map_err(|what| lines.invalid(what))?;
                bytes = bytes.checked_add(size).ok_or_else(|| lines.invalid("the sizes overflow"))?;
                manifest.entries.push(entry.into_owned());
            }
            Line::LeftOut(left_out) => manifest.left_out.push(left_out.into_owned()),
            Line::End(end) => return Ok(end),
        }
    }
}

/// Checks one data object: a key under `data/` that this program could have made.
fn check_object(object: &StoredObject) -> Result<(), String> {
    let is_ours = object.key.strip_prefix("data/").and_then(|rest| rest.split_once('/')).is_some_and(
        |(folder, name)| {
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
            let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
            ClaimId::parse_folder(folder).is_some()
                && starts_well
                && name.len() <= 128
                && name.bytes().all(is_safe)
        },
    );
    if is_ours { Ok(()) } else { Err(format!("{:?} is no key of a data object", object.key)) }
}

/// Checks one entry by itself and returns its size. The path was checked as it was parsed.
fn check_entry(entry: &Entry, objects: &[StoredObject]) -> Result<u64, String> {
    let path = &entry.path;
    if entry.mode > MODE_MAX {
        return Err(format!("{path}: mode {:o} has more than permission bits", entry.mode));
    }
    if entry.modified.nanos >= 1_000_000_000 {
        return Err(format!("{path}: {} nanoseconds are a second or more", entry.modified.nanos));
    }
    match &entry.kind {
        EntryKind::Directory => Ok(0),
        EntryKind::Link { target } => {
            if target.is_empty() || target.len() > LINK_BYTES_MAX || target.contains(&0) {
                return Err(format!(
                    "{path}: a link has a target of 1 to {LINK_BYTES_MAX} bytes without NUL"
                ));
            }
            Ok(0)
        }
        EntryKind::File { size, extents, .. } => {
            if extents.len() > EXTENTS_MAX {
                return Err(format!("{path}: more than {EXTENTS_MAX} extents"));
            }
            let mut sum: u64 = 0;
            for extent in extents {
                let object = usize::try_from(extent.object).ok().and_then(|index| objects.get(index));
                let end = extent.offset.checked_add(extent.length);
                match (object, end) {
                    (Some(object), Some(end)) if extent.length > 0 && end <= object.size => {}
                    (Some(_) | None, Some(_) | None) => {
                        return Err(format!("{path}: an extent is empty or outside of its object"));
                    }
                }
                // Bounded by the sizes of objects, of which each extent has one: no overflow goes unnoticed.
                sum =
                    sum.checked_add(extent.length).ok_or_else(|| format!("{path}: the extents overflow"))?;
            }
            if sum == *size {
                Ok(*size)
            } else {
                Err(format!("{path}: {size} bytes, but the extents have {sum}"))
            }
        }
    }
}

/// Checks that paths are unique, and that nothing lies below a file or a link.
fn check_tree(manifest: &Manifest) -> Result<(), String> {
    let mut others: HashSet<&[u8]> = HashSet::new();
    let mut seen: HashSet<&[u8]> = HashSet::with_capacity(manifest.entries.len());
    for entry in &manifest.entries {
        if !seen.insert(entry.path.as_bytes()) {
            return Err(format!("{} appears twice", entry.path));
        }
        match entry.kind {
            EntryKind::Directory => {}
            EntryKind::Link { .. } | EntryKind::File { .. } => {
                others.insert(entry.path.as_bytes());
            }
        }
    }
    for entry in &manifest.entries {
        if let Some(above) = entry.path.ancestors().find(|above| others.contains(above)) {
            let above = String::from_utf8_lossy(above);
            return Err(format!("{} lies below {above:?}, which is no directory", entry.path));
        }
    }
    Ok(())
}

/// Reads line by line, and never more of one than is allowed.
struct Lines<R> {
    input: R,
    number: u64,
    total: u64,
    max: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<Line<'static>>, DecodeError> {
        self.number += 1;
        let line = self.number;
        let unreadable = |source| DecodeError::Unreadable { line, source };
        let mut bytes = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let read = self.input.by_ref().take(limit + 1).read_until(b'\n', &mut bytes).map_err(unreadable)?;
        self.total += u64::try_from(read).unwrap_or(u64::MAX);
        if read > LINE_BYTES_MAX {
            return Err(self.too_large("bytes in one line", LINE_BYTES_MAX));
        }
        if self.total > self.max {
            return Err(DecodeError::TooLarge { line, what: "bytes in all", max: self.max });
        }
        match bytes.split_last() {
            None => Ok(None),
            Some((b'\n', text)) => {
                serde_json::from_slice(text).map(Some).map_err(|error| unreadable(error.into()))
            }
            Some((_, _)) => Err(self.invalid("the manifest is cut short")),
        }
    }

    fn invalid(&self, what: impl Into<String>) -> DecodeError {
        DecodeError::Invalid { line: self.number, what: what.into() }
    }

    fn too_large(&self, what: &'static str, max: usize) -> DecodeError {
        DecodeError::TooLarge { line: self.number, what, max: u64::try_from(max).unwrap_or(u64::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::ClaimId;
    use crate::id::Nonce;
    use crate::manifest::{Header, LeftOut, LeftOutReason, encode};

    #[test]
    fn a_bomb_is_refused_as_soon_as_it_has_grown_beyond_the_limit() {
        let workload: WorkloadName = "work".parse().expect("a valid name");
        let nonce = Nonce::from_bytes([0; 16]);
        let claim = ClaimId { seq: 1, nonce };
        let header = Header { format: FORMAT, workload: workload.clone(), claim, save: nonce, at_unix_ms: 0 };
        let blank = LeftOut { path: None, reason: LeftOutReason::Socket, message: "m".repeat(100_000) };
        let bomb = Manifest { header, objects: Vec::new(), entries: Vec::new(), left_out: vec![blank; 100] };
        let compressed = encode(&bomb).expect("encodable");
        assert!(compressed.len() < 10_000, "ten MiB in {} bytes", compressed.len());
        let max = 1024 * 1024;
        match decode_within(&compressed, &workload, max) {
            Err(DecodeError::TooLarge { line: 2..=12, what: "bytes in all", max: 1_048_576 }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(decode(&compressed, &workload).expect("within the real limit"), bomb);
    }
}

//! Reads a manifest that anybody may have written: every limit and every rule is checked before it is used.

use std::io::{self, BufRead, BufReader, Read, Take};

use super::delta::apply;
use super::encode::{Footer, Line};
use super::{DataObject, Delta, Entry, EntryKind, FORMAT, Header, Manifest, ManifestRef};
use crate::blocks::{self, Blocks};
use crate::claim::ClaimId;
use crate::scan::RESTORE_FOLDER;
use crate::workload::WorkloadName;

/// The longest line: a file of 1 TiB has 128 Ki blocks with nodes of 67 characters and as many extents of up to 35,
/// and next to them two paths of [`crate::path::PATH_BYTES_MAX`] bytes find room.
pub const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// All lines together: four million entries with paths of average length. It bounds the reader's memory.
pub const DECODED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// More entries than this are refused, and not written either: at 300 bytes each they are 1.2 GiB of memory.
pub const ENTRIES_MAX: usize = 4_000_000;

/// Source: Linux `PATH_MAX` with its NUL; no file system stores a longer target.
pub const LINK_BYTES_MAX: usize = 4095;

/// One file lies in at most so many stretches: one for each block.
pub const EXTENTS_MAX: usize = blocks::BLOCKS_MAX;

/// What is in a compressed object is at most so long, and a file without blocks. It bounds what a bomb can become.
pub const RAW_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// No object is larger: five times what S3 takes, and sums of a few such lengths never overflow.
const OBJECT_BYTES_MAX: u64 = 1 << 48;

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

/// Reads the whole manifest that `compressed` contains and checks that it is one of `workload`. Deltas are refused:
/// [`super::read_manifest`] reads them with their base.
///
/// # Errors
/// [`DecodeError`]. Every path in the result is inside the work directory, unique, and below directories only;
/// every extent lies within its object; the counts are right.
pub fn decode(compressed: &[u8], workload: &WorkloadName) -> Result<Manifest, DecodeError> {
    decode_within(compressed, workload, DECODED_BYTES_MAX)
}

/// As [`decode`], with at most `max` bytes in all lines together.
fn decode_within(compressed: &[u8], workload: &WorkloadName, max: u64) -> Result<Manifest, DecodeError> {
    let mut lines = Lines::open(compressed, max)?;
    let header = read_header(&mut lines, workload)?;
    if header.base.is_some() {
        return Err(lines.invalid("a delta in the place of a whole manifest"));
    }
    let Delta { header, objects, mut entries, removed, left_out } = read_body(&mut lines, header, &[])?;
    if !removed.is_empty() {
        return Err(lines.invalid("a whole manifest removes nothing"));
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut manifest = Manifest { header, objects, entries, left_out };
    check_tree(&manifest).map_err(|what| lines.invalid(what))?;
    manifest.drop_unused_objects();
    Ok(manifest)
}

/// The whole manifest that the delta in `compressed` is based on; `None` for one that is whole itself.
pub(crate) fn base_of(compressed: &[u8]) -> Result<Option<ManifestRef>, DecodeError> {
    let mut lines = Lines::open(compressed, DECODED_BYTES_MAX)?;
    Ok(first_line(&mut lines)?.base.map(|base| *base))
}

/// Reads a delta and applies it to its base. The result is checked as a whole manifest is.
pub(crate) fn decode_delta(
    compressed: &[u8],
    workload: &WorkloadName,
    base: &Manifest,
) -> Result<Manifest, DecodeError> {
    let mut lines = Lines::open(compressed, DECODED_BYTES_MAX)?;
    let header = read_header(&mut lines, workload)?;
    if header.base.is_none() || base.header.base.is_some() {
        return Err(lines.invalid("a delta changes a whole manifest, and nothing else"));
    }
    let delta = read_body(&mut lines, header, &base.objects)?;
    let manifest = apply(base, delta);
    if manifest.entries.len() > ENTRIES_MAX {
        return Err(lines.too_large("entries", ENTRIES_MAX));
    }
    check_tree(&manifest).map_err(|what| lines.invalid(what))?;
    Ok(manifest)
}

/// Whether `compressed` reads as `delta`, which turns `base` into `whole`, and a reader would accept that.
pub(crate) fn check_delta(
    compressed: &[u8],
    delta: &Delta,
    base: &Manifest,
    whole: &Manifest,
) -> Result<(), DecodeError> {
    let mut lines = Lines::open(compressed, DECODED_BYTES_MAX)?;
    let header = read_header(&mut lines, &delta.header.workload)?;
    let read = read_body(&mut lines, header, &base.objects)?;
    if read != *delta || base.header.base.is_some() {
        return Err(lines.invalid("it reads as something else than was written"));
    }
    if whole.entries.len() > ENTRIES_MAX {
        return Err(lines.too_large("entries", ENTRIES_MAX));
    }
    check_tree(whole).map_err(|what| lines.invalid(what))
}

fn first_line(lines: &mut Lines<'_>) -> Result<Header, DecodeError> {
    let Some(Line::Manifest(header)) = lines.next()? else {
        return Err(lines.invalid("a manifest begins with its header"));
    };
    if header.format != FORMAT {
        return Err(DecodeError::Version { format: header.format });
    }
    Ok(header.into_owned())
}

fn read_header(lines: &mut Lines<'_>, workload: &WorkloadName) -> Result<Header, DecodeError> {
    let header = first_line(lines)?;
    if header.workload == *workload {
        Ok(header)
    } else {
        Err(lines.invalid(format!("this is a manifest of workload {}", header.workload)))
    }
}

/// Reads all lines after the header, in their order. Extents count the `known` objects first.
fn read_body(lines: &mut Lines<'_>, header: Header, known: &[DataObject]) -> Result<Delta, DecodeError> {
    let mut body =
        Delta { header, objects: Vec::new(), entries: Vec::new(), removed: Vec::new(), left_out: Vec::new() };
    let mut contents: Vec<u64> = known.iter().map(DataObject::content).collect();
    let mut bytes: u64 = 0;
    // Bounded by `DECODED_BYTES_MAX`.
    loop {
        let Some(line) = lines.next()? else { return Err(lines.invalid("the manifest is cut short")) };
        let is_ordered = match &line {
            Line::Manifest(_) => false,
            Line::Object(_) => body.entries.is_empty() && body.removed.is_empty() && body.left_out.is_empty(),
            Line::Entry(_) => body.removed.is_empty() && body.left_out.is_empty(),
            Line::Removed(_) => body.left_out.is_empty(),
            Line::LeftOut(_) | Line::End(_) => true,
        };
        if !is_ordered {
            return Err(lines.invalid("the lines are out of order"));
        }
        let others = body.removed.len() + body.left_out.len();
        if body.entries.len() > ENTRIES_MAX || body.objects.len() > ENTRIES_MAX || others > ENTRIES_MAX {
            return Err(lines.too_large("entries", ENTRIES_MAX));
        }
        match line {
            Line::Manifest(_) => return Err(lines.invalid("a second header")),
            Line::Object(object) => {
                check_object(&object).map_err(|what| lines.invalid(what))?;
                contents.push(object.content());
                body.objects.push(object.into_owned());
            }
            Line::Entry(entry) => {
                let size = check_entry(&entry, &contents).map_err(|what| lines.invalid(what))?;
                bytes = bytes.checked_add(size).ok_or_else(|| lines.invalid("the sizes overflow"))?;
                body.entries.push(entry.into_owned());
            }
            Line::Removed(path) => body.removed.push(path.into_owned()),
            Line::LeftOut(left_out) => body.left_out.push(left_out.into_owned()),
            Line::End(end) => {
                check_end(lines, &body, end)?;
                return Ok(body);
            }
        }
    }
}

/// Checks the counts of the last line, and that it is the last.
fn check_end(lines: &mut Lines<'_>, body: &Delta, end: Footer) -> Result<(), DecodeError> {
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let counted = Footer {
        objects: count(body.objects.len()),
        entries: count(body.entries.len()),
        removed: count(body.removed.len()),
        left_out: count(body.left_out.len()),
    };
    if end != counted {
        return Err(lines.invalid("the counts of the last line are not those of the lines before it"));
    }
    if lines.next()?.is_some() {
        return Err(lines.invalid("something follows the last line"));
    }
    Ok(())
}

/// Checks one data object: a key under `data/`, or of a file in the layout `plain`, that this program could have made.
fn check_object(object: &DataObject) -> Result<(), String> {
    if object.raw.is_some_and(|raw| raw > RAW_BYTES_MAX || object.size > RAW_BYTES_MAX) {
        return Err(format!("{:?} has more than {RAW_BYTES_MAX} bytes, compressed", object.key));
    }
    if object.size > OBJECT_BYTES_MAX {
        return Err(format!("{:?} has more than {OBJECT_BYTES_MAX} bytes", object.key));
    }
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
    let is_plain = || object.raw.is_none() && crate::plain::claim_of(&object.key).is_some();
    if is_ours || is_plain() { Ok(()) } else { Err(format!("{:?} is no key of a data object", object.key)) }
}

/// Checks one entry by itself and returns its size. The path was checked as it was parsed.
fn check_entry(entry: &Entry, contents: &[u64]) -> Result<u64, String> {
    let path = &entry.path;
    if path.as_bytes().split(|byte| *byte == b'/').next() == Some(RESTORE_FOLDER.as_bytes()) {
        return Err(format!("{path}: that folder is a restore's own"));
    }
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
        EntryKind::File { size, digest, extents, blocks, .. } => {
            check_extents(*size, extents, blocks.as_ref(), contents)
                .map_err(|what| format!("{path}: {what}"))?;
            if let Some(blocks) = blocks
                && blocks::whole(blocks, *size) != Some(*digest)
            {
                return Err(format!("{path}: its blocks are not those of its hash"));
            }
            Ok(*size)
        }
    }
}

/// Checks that the extents are stretches of known objects and together the file, cut at blocks only.
fn check_extents(
    size: u64,
    extents: &[super::Extent],
    blocks: Option<&Blocks>,
    contents: &[u64],
) -> Result<(), String> {
    let max = if blocks.is_some() { EXTENTS_MAX } else { 1 };
    if extents.len() > max {
        return Err(format!("more than {max} extents"));
    }
    if blocks.is_none() && size > RAW_BYTES_MAX {
        return Err(format!("{size} bytes in one piece"));
    }
    let block = blocks.map(|blocks| 1u64.checked_shl(blocks.log2).unwrap_or(u64::MAX));
    let mut sum: u64 = 0;
    for extent in extents {
        let is_inside = match extent.object {
            None => extent.offset == 0,
            Some(object) => {
                let content = usize::try_from(object).ok().and_then(|index| contents.get(index));
                let end = extent.offset.checked_add(extent.length);
                content.zip(end).is_some_and(|(content, end)| end <= *content)
            }
        };
        if extent.length == 0 || !is_inside {
            return Err("an extent is empty or outside of its object".to_owned());
        }
        if block.is_some_and(|block| !sum.is_multiple_of(block)) {
            return Err("an extent begins within a block".to_owned());
        }
        sum = sum.checked_add(extent.length).ok_or("the extents overflow")?;
    }
    if sum == size { Ok(()) } else { Err(format!("{size} bytes, but the extents have {sum}")) }
}

/// Checks that paths are unique, that nothing lies below a file or a link, and that hard links are to files as they
/// are themselves. The entries are in the order of their paths.
fn check_tree(manifest: &Manifest) -> Result<(), String> {
    let entries = &manifest.entries;
    let find = |path: &[u8]| {
        entries.binary_search_by(|entry| entry.path.as_bytes().cmp(path)).ok().map(|index| &entries[index])
    };
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].path >= pair[1].path) {
        return Err(format!("{} appears twice", pair[1].path));
    }
    for entry in entries {
        if let EntryKind::File { same_as: Some(first), size, digest, .. } = &entry.kind {
            let is_same = find(first.as_bytes()).is_some_and(|first| match &first.kind {
                EntryKind::File { size: here, digest: known, same_as: None, .. } => {
                    (here, known) == (size, digest)
                }
                EntryKind::File { .. } | EntryKind::Directory | EntryKind::Link { .. } => false,
            });
            if !is_same {
                return Err(format!("{} is a hard link to {first}, which is not the same file", entry.path));
            }
        }
    }
    // Neighbours mostly lie in the same folder.
    let mut checked: &[u8] = &[];
    for entry in entries {
        let (folder, _) = entry.path.split();
        if folder == checked {
            continue;
        }
        let is_directory =
            |path: &[u8]| find(path).is_none_or(|entry| matches!(entry.kind, EntryKind::Directory));
        if let Some(above) = entry.path.ancestors().find(|above| !is_directory(above)) {
            let above = String::from_utf8_lossy(above);
            return Err(format!("{} lies below {above:?}, which is no directory", entry.path));
        }
        checked = folder;
    }
    Ok(())
}

/// Reads line by line, and never more of one than is allowed.
struct Lines<'a> {
    input: BufReader<Take<zstd::Decoder<'static, BufReader<&'a [u8]>>>>,
    number: u64,
    total: u64,
    max: u64,
}

impl<'a> Lines<'a> {
    fn open(compressed: &'a [u8], max: u64) -> Result<Self, DecodeError> {
        let unreadable = |source| DecodeError::Unreadable { line: 1, source };
        let mut decoder = zstd::Decoder::new(compressed).map_err(unreadable)?;
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
        // One byte more than allowed, to tell "exactly as much" from "too much".
        Ok(Self { input: BufReader::new(decoder.take(max + 1)), number: 0, total: 0, max })
    }

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
        let header = Header {
            format: FORMAT,
            workload: workload.clone(),
            claim,
            save: nonce,
            at_unix_ms: 0,
            base: None,
        };
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

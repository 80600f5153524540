//! Writes a manifest as compressed lines.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::{DataObject, Delta, Entry, Header, LeftOut, Manifest};
use crate::path::EntryPath;

/// zstd's own default: paths and hashes compress hardly better above it, and take longer.
const LEVEL: i32 = 3;

/// One line. The order of the variants is the order in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Manifest(std::borrow::Cow<'a, Header>),
    Object(std::borrow::Cow<'a, DataObject>),
    Entry(std::borrow::Cow<'a, Entry>),
    /// In a delta: what the base has and this does not.
    Removed(std::borrow::Cow<'a, EntryPath>),
    LeftOut(std::borrow::Cow<'a, LeftOut>),
    End(Footer),
}

/// The counts of all that stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Footer {
    pub(super) objects: u64,
    pub(super) entries: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) removed: u64,
    pub(super) left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The compressed form of a whole manifest.
///
/// # Errors
/// Only what zstd reports; nothing is read or written elsewhere.
pub(crate) fn encode(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let Manifest { header, objects, entries, left_out } = manifest;
    write(header, objects.iter(), entries.iter(), &[], left_out)
}

/// The compressed form of `delta`, to be read with its base.
pub(crate) fn encode_delta(delta: &Delta) -> io::Result<Vec<u8>> {
    let Delta { header, objects, entries, removed, left_out } = delta;
    write(header, objects.iter(), entries.iter(), removed, left_out)
}

fn write<'a>(
    header: &'a Header,
    objects: impl ExactSizeIterator<Item = &'a DataObject>,
    entries: impl ExactSizeIterator<Item = &'a Entry>,
    removed: &'a [EntryPath],
    left_out: &'a [LeftOut],
) -> io::Result<Vec<u8>> {
    use std::borrow::Cow::Borrowed;
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let end = Footer {
        objects: count(objects.len()),
        entries: count(entries.len()),
        removed: count(removed.len()),
        left_out: count(left_out.len()),
    };
    // serde_json writes piece by piece, which zstd would take one by one.
    let mut text = Vec::new();
    let mut line = |line: &Line<'_>| -> io::Result<()> {
        text.clear();
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        encoder.write_all(&text)
    };
    line(&Line::Manifest(Borrowed(header)))?;
    for object in objects {
        line(&Line::Object(Borrowed(object)))?;
    }
    for entry in entries {
        line(&Line::Entry(Borrowed(entry)))?;
    }
    removed.iter().try_for_each(|path| line(&Line::Removed(Borrowed(path))))?;
    left_out.iter().try_for_each(|left_out| line(&Line::LeftOut(Borrowed(left_out))))?;
    line(&Line::End(end))?;
    encoder.finish()
}

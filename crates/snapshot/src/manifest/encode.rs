//! Writes a manifest as compressed lines.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::{Entry, Header, LeftOut, Manifest};
use crate::extra::StoredObject;

/// zstd's own default: paths and hashes compress hardly better above it, and take longer.
const LEVEL: i32 = 3;

/// One line. The order of the variants is the order in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'a> {
    Manifest(std::borrow::Cow<'a, Header>),
    Object(std::borrow::Cow<'a, StoredObject>),
    Entry(std::borrow::Cow<'a, Entry>),
    LeftOut(std::borrow::Cow<'a, LeftOut>),
    End(Footer),
}

/// The counts of all that stands before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Footer {
    pub(super) objects: u64,
    pub(super) entries: u64,
    pub(super) left_out: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// The compressed form of `manifest`.
///
/// # Errors
/// Only what zstd reports; nothing is read or written elsewhere.
pub(crate) fn encode(manifest: &Manifest) -> io::Result<Vec<u8>> {
    use std::borrow::Cow::Borrowed;
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    let mut write = |line: &Line<'_>| -> io::Result<()> {
        serde_json::to_writer(&mut encoder, line)?;
        encoder.write_all(b"\n")
    };
    write(&Line::Manifest(Borrowed(&manifest.header)))?;
    manifest.objects.iter().try_for_each(|object| write(&Line::Object(Borrowed(object))))?;
    manifest.entries.iter().try_for_each(|entry| write(&Line::Entry(Borrowed(entry))))?;
    manifest.left_out.iter().try_for_each(|left_out| write(&Line::LeftOut(Borrowed(left_out))))?;
    write(&Line::End(footer(manifest)))?;
    encoder.finish()
}

/// What the last line of `manifest` says.
pub(super) fn footer(manifest: &Manifest) -> Footer {
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let (files, bytes) = manifest.totals();
    Footer {
        objects: count(manifest.objects.len()),
        entries: count(manifest.entries.len()),
        left_out: count(manifest.left_out.len()),
        files,
        bytes,
    }
}

//! Names of objects in the layout `plain`: one object a file, under its own path, for people to look at.
//!
//! `interrupted/{instance}/{time}.{claim}-{save}/{path}`. The manifest is what counts: it says which objects are a
//! recovery point. What cannot be a key in every kind of store is stored as in the usual layout.

use jiff::Timestamp;

use crate::claim::ClaimId;
use crate::manifest::Header;
use crate::path::EntryPath;

/// The folder of all of them, relative to the workload.
pub(crate) const FOLDER: &str = "interrupted";

/// Source: S3 user guide, "Naming Amazon S3 objects": a key has at most 1,024 bytes of UTF-8.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// Directories take names of 255 bytes, and a file that is being written has a few more in its name.
const NAME_BYTES_MAX: usize = 240;

/// An instance's name in a key is cut to this.
const INSTANCE_BYTES_MAX: usize = 64;

/// So many digits of a save's nonce are in its keys.
const SAVE_DIGITS: usize = 8;

/// How the objects of a save are laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Small files together, large ones in blocks, compressed where that helps, named by numbers: fast, and an
    /// unchanged block is never stored twice.
    #[default]
    Packed,
    /// One object for each file, named as it is.
    Plain {
        /// The machine's name, a part of each key.
        instance: String,
        /// How many bytes a key may have below the workload's own name.
        key_bytes_max: usize,
    },
}

/// The folder of one save.
pub(crate) fn folder(header: &Header, instance: &str) -> String {
    let ms = i64::try_from(header.at_unix_ms).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or_default().strftime("%Y-%m-%dT%H-%M-%SZ");
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    let mut instance: String = instance.chars().map(safe).collect();
    instance.truncate(INSTANCE_BYTES_MAX);
    if instance.is_empty() {
        instance.push('-');
    }
    let save = header.save.to_string();
    let ClaimId { seq, nonce } = header.claim;
    // Two saves of one claim within a second are told apart by the last part.
    format!("{FOLDER}/{instance}/{time}.{seq}-{nonce}-{}", &save[..SAVE_DIGITS])
}

/// The key of the file at `path` in the folder of its save; `None` where not every store takes it.
pub(crate) fn key(folder: &str, path: &EntryPath, bytes_max: usize) -> Option<String> {
    let path = std::str::from_utf8(path.as_bytes()).ok()?;
    let key = format!("{folder}/{path}");
    let fits = key.len() <= bytes_max.min(KEY_BYTES_MAX);
    (fits && path.split('/').all(is_safe_name)).then_some(key)
}

/// Whether a name means the same to S3, in a URL, in XML and as a file.
fn is_safe_name(name: &str) -> bool {
    let is_safe = |c: char| !c.is_control() && !matches!(c, '%' | '#' | '\\' | '\u{fffe}' | '\u{ffff}');
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && name.chars().all(is_safe)
}

/// The claim under which the object at `key` was stored; `None` where it is none of this layout.
pub(crate) fn claim_of(key: &str) -> Option<ClaimId> {
    let mut parts = key.strip_prefix(FOLDER)?.strip_prefix('/')?.splitn(3, '/');
    let (_instance, save, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (_time, names) = save.split_once('.')?;
    let mut names = names.split('-');
    let (seq, nonce, save) = (names.next()?, names.next()?, names.next()?);
    let is_ours = key.len() <= KEY_BYTES_MAX
        && names.next().is_none()
        && (save.len(), save.bytes().all(|byte| byte.is_ascii_hexdigit())) == (SAVE_DIGITS, true)
        && seq.bytes().all(|byte| byte.is_ascii_digit())
        && path.split('/').all(is_safe_name);
    let claim = ClaimId { seq: seq.parse().ok()?, nonce: nonce.parse().ok()? };
    is_ours.then_some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Nonce;

    fn header() -> Header {
        let nonce = Nonce::from_bytes([7; 16]);
        Header {
            format: 2,
            workload: "work".parse().expect("valid"),
            claim: ClaimId { seq: 3, nonce },
            save: nonce,
            at_unix_ms: 1_700_000_000_000,
            base: None,
        }
    }

    #[test]
    fn a_key_tells_whose_it_is_and_what() {
        let folder = folder(&header(), "i-0 ab/../c");
        assert!(folder.starts_with("interrupted/i-0-ab----c/2023-11-14T22-13-20Z.3-0707"), "{folder}");
        let path = EntryPath::new("data/höher (1).txt".as_bytes()).expect("valid");
        let key = key(&folder, &path, 1024).expect("a key");
        assert!(key.ends_with("/data/höher (1).txt"));
        assert_eq!(claim_of(&key), Some(header().claim));
    }

    #[test]
    fn what_not_every_store_takes_is_no_key() {
        let folder = folder(&header(), "i-1");
        for path in [
            b"\xff".as_slice(),
            b"a\nb",
            b"a#1",
            b"100%",
            b"a\\b",
            "n".repeat(250).as_bytes(),
            "deep/".repeat(300).trim_end_matches('/').as_bytes(),
        ] {
            let path = EntryPath::new(path).expect("valid");
            assert_eq!(key(&folder, &path, 1024), None, "{path}");
        }
        let path = EntryPath::new(b"0123456789".as_slice()).expect("valid");
        assert_eq!(key(&folder, &path, folder.len() + 5), None, "the store's prefix takes the rest");
        for key in [
            "interrupted/i-1/x",
            "interrupted/i-1/2023.x-y/f",
            "data/x",
            &format!("{folder}/../f"),
            &format!("{folder}/a//f"),
            &format!("{folder}/"),
        ] {
            assert_eq!(claim_of(key), None, "{key}");
        }
    }
}

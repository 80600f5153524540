//! A path inside the work directory: bytes, relative, and safe to join to any directory.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest path that is stored. Sixteen times what one system call takes (`PATH_MAX`), because directories
/// that are opened one by one can nest deeper; beyond it every manifest reader would have to hold any amount.
pub const PATH_BYTES_MAX: usize = 64 * 1024;

/// Source: Linux `NAME_MAX`, the longest name in one directory on every file system in use.
pub const NAME_BYTES_MAX: usize = 255;

/// One or more names joined by `/`: never absolute, no empty name, no `.`, no `..`, no NUL. Any other byte may occur.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryPath(Box<[u8]>);

/// Why some bytes are not an [`EntryPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryPathError {
    /// Nothing at all, or more than [`PATH_BYTES_MAX`].
    #[error("a path has 1 to {PATH_BYTES_MAX} bytes, not {0}")]
    Length(usize),
    /// It starts with `/`, or two slashes follow one another, or it ends with one.
    #[error("a path inside the work directory is relative and has no empty name")]
    EmptyName,
    /// `.` or `..` as a name.
    #[error("a path inside the work directory has no name . or ..")]
    Dots,
    /// A NUL byte.
    #[error("a path has no NUL byte")]
    Nul,
    /// One name is longer than [`NAME_BYTES_MAX`].
    #[error("a name has at most {NAME_BYTES_MAX} bytes, not {0}")]
    NameLength(usize),
}

impl EntryPath {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// See [`EntryPathError`]; each says what is allowed.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, EntryPathError> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > PATH_BYTES_MAX {
            return Err(EntryPathError::Length(bytes.len()));
        }
        if bytes.contains(&0) {
            return Err(EntryPathError::Nul);
        }
        for name in bytes.split(|byte| *byte == b'/') {
            if name.is_empty() {
                return Err(EntryPathError::EmptyName);
            }
            if name == b"." || name == b".." {
                return Err(EntryPathError::Dots);
            }
            if name.len() > NAME_BYTES_MAX {
                return Err(EntryPathError::NameLength(name.len()));
            }
        }
        Ok(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a relative [`Path`], for matching against globs. Never open it: a name may have become a link.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The directory that holds it (empty for the work directory itself) and its name there.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }

    /// Every directory above it, outermost first, without the work directory itself.
    pub fn ancestors(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(slash, _)| &self.0[..slash])
    }
}

/// Printable on one line: what is no UTF-8 or no visible character is escaped.
impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// Bytes in JSON: as text where they are UTF-8, else as `{"base64": …}`.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes { base64: std::borrow::Cow<'a, str> },
}

/// Serializes bytes as [`Wire`]. Also used for the targets of links, which are bytes but no `EntryPath`.
pub(crate) fn serialize_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Wire::Text(text.into()).serialize(serializer),
        Err(_) => Wire::Bytes { base64: STANDARD.encode(bytes).into() }.serialize(serializer),
    }
}

/// The reverse of [`serialize_bytes`].
pub(crate) fn deserialize_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Wire::deserialize(deserializer)? {
        Wire::Text(text) => Ok(text.into_owned().into_bytes()),
        Wire::Bytes { base64 } => STANDARD.decode(base64.as_bytes()).map_err(D::Error::custom),
    }
}

impl Serialize for EntryPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_bytes(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for EntryPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(deserialize_bytes(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_leave_the_directory_is_refused() {
        use EntryPathError::{Dots, EmptyName, Length, NameLength, Nul};
        let long_name = "n".repeat(256);
        let long_path = "d/".repeat(PATH_BYTES_MAX / 2) + "f";
        for (bytes, error) in [
            ("", Length(0)),
            ("/etc/passwd", EmptyName),
            ("a//b", EmptyName),
            ("a/", EmptyName),
            ("..", Dots),
            ("a/../b", Dots),
            ("./a", Dots),
            ("a\0b", Nul),
            (long_name.as_str(), NameLength(256)),
            (long_path.as_str(), Length(PATH_BYTES_MAX + 1)),
        ] {
            assert_eq!(EntryPath::new(bytes.as_bytes()), Err(error), "{bytes:.20}");
        }
    }

    #[test]
    fn any_other_bytes_survive_json_and_are_shown_on_one_line() {
        for bytes in [b"a/b\nc".as_slice(), b"...", b"\xff\xfe/x", "höher".as_bytes(), b"{\"base64\""] {
            let path = EntryPath::new(bytes).expect("allowed");
            let json = serde_json::to_string(&path).expect("serializable");
            assert_eq!(serde_json::from_str::<EntryPath>(&json).expect("comes back"), path);
            assert!(!path.to_string().contains('\n'));
        }
    }

    #[test]
    fn a_path_knows_what_is_above_it() {
        let path = EntryPath::new(b"a/b/c".as_slice()).expect("allowed");
        assert_eq!(path.split(), (b"a/b".as_slice(), b"c".as_slice()));
        assert_eq!(path.ancestors().collect::<Vec<_>>(), [b"a".as_slice(), b"a/b"]);
    }
}

//! Which store a text names: a directory, memory, or a bucket with its options as a query.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where recovery points are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory on this machine or on a file system that is mounted here. Always absolute.
    Directory(PathBuf),
    /// The memory of this process: for tests and trials, gone with it.
    Memory,
    /// A bucket of S3 or of something that speaks its protocol.
    S3(Box<S3Url>),
    /// A bucket of Google Cloud Storage. Untested.
    Google(CloudUrl),
    /// A container of Azure Blob Storage. Untested.
    Azure(CloudUrl),
}

/// `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudUrl {
    /// The bucket, or the container.
    pub bucket: String,
    /// Below which all keys lie; may be empty. Without slashes at its ends.
    pub prefix: String,
}

/// `s3://BUCKET/PREFIX?OPTION=VALUE&…`: everything but credentials, which never stand in a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Url {
    /// The bucket.
    pub bucket: String,
    /// Below which all keys lie; may be empty. Without slashes at its ends.
    pub prefix: String,
    /// `endpoint`: another server than AWS's, as `http(s)://HOST:PORT`. Else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`.
    pub endpoint: Option<String>,
    /// `region`: else `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, `us-east-1`.
    pub region: Option<String>,
    /// `path_style`: the bucket in the path and not in the host's name. Else only with an endpoint.
    pub path_style: Option<bool>,
    /// `profile`: of the shared credentials files; else `AWS_PROFILE`, `default`.
    pub profile: Option<String>,
    /// `storage_class`: of every object; else the bucket's.
    pub storage_class: Option<String>,
    /// `encryption`: else the bucket's.
    pub encryption: Option<Encryption>,
    /// `kms_key`: which key, for the kinds of encryption that take one.
    pub kms_key: Option<String>,
    /// `checksum`: which one the server checks.
    pub checksum: Checksum,
    /// `metadata.NAME`: user metadata of every object.
    pub metadata: BTreeMap<String, String>,
    /// No part of the text: keys that the program itself brings along. Else they come from the environment, a profile,
    /// or a role.
    pub keys: Option<Keys>,
}

/// A pair of access keys that shows its secret to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The public half.
    pub id: String,
    /// The other.
    pub secret: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Server-side encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// `AES256`: with keys of S3 itself.
    S3,
    /// `aws:kms`
    Kms,
    /// `aws:kms:dsse`: in two layers.
    KmsTwice,
}

/// The checksum that is sent with every object, and that the server compares before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// `crc64nvme`: against damage; it is itself signed with the request.
    #[default]
    Crc64Nvme,
    /// `sha256`: against manipulation on the way, too. It costs as much as everything else together.
    Sha256,
}

/// A text that names no store of this build.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseStoreUrlError {
    /// Nothing given.
    #[error("the store is empty: give a directory, file:///DIRECTORY, s3://BUCKET/PREFIX or memory://")]
    Empty,
    /// A scheme that this build cannot serve.
    #[error(
        "stores with {scheme}:// are not supported by this build: give a directory, file:///DIRECTORY, \
         s3://BUCKET/PREFIX or memory://"
    )]
    Unsupported {
        /// What stood before `://`.
        scheme: String,
    },
    /// `file://` with something else than an absolute path behind it.
    #[error("{url:?} names no directory of this machine: write file:/// and an absolute path, spaces as %20")]
    NotLocal {
        /// What was given.
        url: String,
    },
    /// A relative path, while the current directory is unknown.
    #[error("the current directory is unknown: give the store as an absolute path")]
    NoCurrentDirectory,
    /// A `gs://` or `az://` URL makes no sense.
    #[error(
        "write gs://BUCKET/PREFIX or az://CONTAINER/PREFIX without options: credentials come from the environment"
    )]
    Cloud,
    /// Something in an `s3://` URL makes no sense.
    #[error("{part:?} in an s3:// URL {problem}")]
    S3 {
        /// Which part of it.
        part: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
}

impl FromStr for StoreUrl {
    type Err = ParseStoreUrlError;

    fn from_str(text: &str) -> Result<Self, ParseStoreUrlError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(ParseStoreUrlError::Empty);
            }
            let absolute = std::path::absolute(text).map_err(|_| ParseStoreUrlError::NoCurrentDirectory)?;
            return Ok(Self::Directory(absolute));
        };
        match scheme {
            "memory" => Ok(Self::Memory),
            "s3" => S3Url::parse(rest).map(|url| Self::S3(Box::new(url))),
            "gs" => CloudUrl::parse(rest).map(Self::Google),
            "az" => CloudUrl::parse(rest).map(Self::Azure),
            "file" => match percent_decoded(rest) {
                Some(path) if path.starts_with('/') => Ok(Self::Directory(path.into())),
                Some(_) | None => Err(ParseStoreUrlError::NotLocal { url: text.to_owned() }),
            },
            other => Err(ParseStoreUrlError::Unsupported { scheme: other.to_owned() }),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => {
                f.write_str("file://")?;
                escaped(f, &path.to_string_lossy())
            }
            Self::Memory => f.write_str("memory://"),
            Self::S3(url) => write!(f, "{url}"),
            Self::Google(url) => url.write("gs", f),
            Self::Azure(url) => url.write("az", f),
        }
    }
}

/// `text`, which was given as a store, without what may be a secret in it: credentials before an `@`, and options.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (place, options) = match rest.split_once('?') {
        Some((place, _)) => (place, "?…"),
        None => (rest, ""),
    };
    let (host, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}{options}")
}

impl StoreUrl {
    /// How many bytes a key below the URL's own prefix may have.
    #[must_use]
    pub fn key_bytes_max(&self) -> usize {
        let all = crate::plain::KEY_BYTES_MAX;
        match self {
            Self::Directory(_) | Self::Memory => all,
            Self::Google(url) | Self::Azure(url) if !url.prefix.is_empty() => {
                all.saturating_sub(url.prefix.len() + 1)
            }
            Self::Google(_) | Self::Azure(_) => all,
            // The slash between the two.
            Self::S3(url) if !url.prefix.is_empty() => all.saturating_sub(url.prefix.len() + 1),
            Self::S3(_) => all,
        }
    }

    /// The directory, when it is one: never save it into itself.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Memory | Self::S3(_) | Self::Google(_) | Self::Azure(_) => None,
        }
    }
}

impl CloudUrl {
    /// What stands behind `gs://` or `az://`.
    fn parse(rest: &str) -> Result<Self, ParseStoreUrlError> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let prefix = percent_decoded(prefix).unwrap_or_default().trim_matches('/').to_owned();
        let is_right = (3..=63).contains(&bucket.len())
            && bucket.bytes().all(is_safe)
            && !rest.contains('?')
            && prefix.len() <= PREFIX_BYTES_MAX
            && !prefix.split('/').any(|name| matches!(name, "." | ".."));
        // What was given may hold a secret: it is not repeated.
        if is_right { Ok(Self { bucket: bucket.to_owned(), prefix }) } else { Err(ParseStoreUrlError::Cloud) }
    }

    fn write(&self, scheme: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{scheme}://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            f.write_str("/")?;
            escaped(f, &self.prefix)?;
        }
        Ok(())
    }
}

/// Keys have at most 1,024 bytes, and ours take up to 250 of them.
const PREFIX_BYTES_MAX: usize = 512;

fn wrong(part: &str, problem: &'static str) -> ParseStoreUrlError {
    ParseStoreUrlError::S3 { part: part.to_owned(), problem }
}

impl S3Url {
    /// What stands behind `s3://`.
    fn parse(rest: &str) -> Result<Self, ParseStoreUrlError> {
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        // Source: S3 user guide, "General purpose bucket naming rules"; other servers allow upper case and underscores.
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if bucket.len() < 3 || bucket.len() > 63 || !bucket.bytes().all(is_safe) {
            // What stands before an @ may be a secret: it is not repeated.
            let shown = bucket.rsplit('@').next().unwrap_or_default();
            return Err(wrong(
                shown,
                "is no bucket: write s3://BUCKET/PREFIX (credentials come from elsewhere)",
            ));
        }
        let undecodable = || wrong(prefix, "is no prefix: escapes are % and two digits, of UTF-8");
        let prefix = percent_decoded(prefix).ok_or_else(undecodable)?.trim_matches('/').to_owned();
        if prefix.len() > PREFIX_BYTES_MAX || prefix.split('/').any(|name| matches!(name, "." | "..")) {
            return Err(wrong(&prefix, "is no prefix: up to 512 bytes without . and .. as names"));
        }
        let mut url = Self { bucket: bucket.to_owned(), prefix, ..Self::default() };
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| wrong(option, "lacks its =VALUE"))?;
            let value = percent_decoded(value).ok_or_else(|| wrong(option, "has a broken % escape"))?;
            url.set(name, value)?;
        }
        if url.kms_key.is_some() && !matches!(url.encryption, Some(Encryption::Kms | Encryption::KmsTwice)) {
            return Err(wrong("kms_key", "needs encryption=aws:kms or aws:kms:dsse"));
        }
        Ok(url)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), ParseStoreUrlError> {
        if value.is_empty() || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(wrong(name, "must have a value of printable ASCII"));
        }
        match name {
            "endpoint" => {
                if !value.starts_with("http://") && !value.starts_with("https://") {
                    return Err(wrong(name, "must start with http:// or https://"));
                }
                self.endpoint = Some(value.trim_end_matches('/').to_owned());
            }
            "region" => self.region = Some(value),
            "path_style" => {
                self.path_style = Some(value.parse().map_err(|_| wrong(name, "must be true or false"))?);
            }
            "profile" => self.profile = Some(value),
            "storage_class" => {
                // Source: S3 user guide, "Understanding and managing storage classes": these must be thawed before
                // they can be read, for minutes to hours; a replacement cannot wait.
                if matches!(value.as_str(), "GLACIER" | "DEEP_ARCHIVE") {
                    return Err(wrong(&value, "cannot be read at once: no work can be resumed from it"));
                }
                self.storage_class = Some(value);
            }
            "encryption" => {
                self.encryption = Some(match value.as_str() {
                    "AES256" => Encryption::S3,
                    "aws:kms" => Encryption::Kms,
                    "aws:kms:dsse" => Encryption::KmsTwice,
                    _ => return Err(wrong(&value, "is no encryption: AES256, aws:kms or aws:kms:dsse")),
                });
            }
            "kms_key" => self.kms_key = Some(value),
            "checksum" => {
                self.checksum = match value.as_str() {
                    "crc64nvme" => Checksum::Crc64Nvme,
                    "sha256" => Checksum::Sha256,
                    _ => return Err(wrong(&value, "is no checksum: crc64nvme or sha256")),
                };
            }
            _ => match name.strip_prefix("metadata.") {
                Some(key)
                    if !key.is_empty()
                        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') =>
                {
                    self.metadata.insert(key.to_ascii_lowercase(), value);
                }
                Some(_) | None => {
                    return Err(wrong(
                        name,
                        "is no option: endpoint, region, path_style, profile, storage_class, encryption, kms_key, \
                         checksum, metadata.NAME",
                    ));
                }
            },
        }
        Ok(())
    }
}

impl fmt::Display for S3Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            f.write_str("/")?;
            escaped(f, &self.prefix)?;
        }
        let encryption = self.encryption.map(|encryption| match encryption {
            Encryption::S3 => "AES256",
            Encryption::Kms => "aws:kms",
            Encryption::KmsTwice => "aws:kms:dsse",
        });
        let checksum = match self.checksum {
            Checksum::Crc64Nvme => None,
            Checksum::Sha256 => Some("sha256"),
        };
        let path_style = self.path_style.map(|is| if is { "true" } else { "false" });
        let named = [
            ("endpoint", self.endpoint.as_deref()),
            ("region", self.region.as_deref()),
            ("path_style", path_style),
            ("profile", self.profile.as_deref()),
            ("storage_class", self.storage_class.as_deref()),
            ("encryption", encryption),
            ("kms_key", self.kms_key.as_deref()),
            ("checksum", checksum),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let metadata = self.metadata.iter().map(|(key, value)| (format!("metadata.{key}"), value.as_str()));
        for (number, (name, value)) in named.chain(metadata).enumerate() {
            write!(f, "{}{name}=", if number == 0 { '?' } else { '&' })?;
            escaped(f, value)?;
        }
        Ok(())
    }
}

/// Writes `text` so that [`percent_decoded`] gives it back.
fn escaped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        match character {
            '%' | '?' | '#' | ' ' | '&' => write!(f, "%{:02X}", u32::from(character))?,
            other => write!(f, "{other}")?,
        }
    }
    Ok(())
}

/// `text` with `%41` read as `A`; `None` when an escape is broken or the result is no UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_directories_memory_and_buckets() {
        for (text, url) in [
            ("/var/lib/x", StoreUrl::Directory("/var/lib/x".into())),
            ("file:///var/lib/x%20y", StoreUrl::Directory("/var/lib/x y".into())),
            ("memory://", StoreUrl::Memory),
            ("s3://bucket", bucket(|_| {})),
            ("s3://bucket/a/b%20c/", bucket(|url| url.prefix = "a/b c".to_owned())),
            (
                "s3://bucket?endpoint=http://127.0.0.1:9000/&path_style=true&encryption=aws:kms&kms_key=alias/a%26b",
                bucket(|url| {
                    url.endpoint = Some("http://127.0.0.1:9000".to_owned());
                    url.path_style = Some(true);
                    url.encryption = Some(Encryption::Kms);
                    url.kms_key = Some("alias/a&b".to_owned());
                }),
            ),
            (
                "s3://bucket?metadata.Team=x%20y&storage_class=STANDARD_IA&checksum=sha256&region=eu-west-1&profile=p",
                bucket(|url| {
                    url.metadata.insert("team".to_owned(), "x y".to_owned());
                    url.storage_class = Some("STANDARD_IA".to_owned());
                    url.checksum = Checksum::Sha256;
                    url.region = Some("eu-west-1".to_owned());
                    url.profile = Some("p".to_owned());
                }),
            ),
        ] {
            assert_eq!(text.parse(), Ok(url.clone()), "{text}");
            assert_eq!(url.to_string().parse(), Ok(url));
        }
        assert!(matches!("relative/dir".parse(), Ok(StoreUrl::Directory(path)) if path.is_absolute()));
    }

    fn bucket(set: impl FnOnce(&mut S3Url)) -> StoreUrl {
        let mut url = S3Url { bucket: "bucket".to_owned(), ..S3Url::default() };
        set(&mut url);
        StoreUrl::S3(Box::new(url))
    }

    #[test]
    fn other_urls_are_refused_with_what_is_possible() {
        for (text, url) in [
            ("gs://bucket/a/b", StoreUrl::Google(CloudUrl { bucket: "bucket".into(), prefix: "a/b".into() })),
            (
                "az://container",
                StoreUrl::Azure(CloudUrl { bucket: "container".into(), prefix: String::new() }),
            ),
        ] {
            assert_eq!(text.parse(), Ok(url.clone()), "{text}");
            assert_eq!(url.to_string(), text);
        }
        for text in ["gs://b", "az://b?sas=secret", "gs://bucket/../x", "gs://key:secret@bucket"] {
            let error = text.parse::<StoreUrl>().expect_err(text).to_string();
            assert!(error.contains("gs://") && !error.contains("secret"), "{error}");
        }
        for text in ["", "https://x", "file://host/x", "file:///x%2", "file:///x%ff"] {
            let error = text.parse::<StoreUrl>().expect_err(text).to_string();
            assert!(error.contains("file:///"), "{error}");
        }
        for (text, part) in [
            ("s3://", "s3://BUCKET"),
            ("s3://key:secret@bucket", "credentials"),
            ("s3://bucket/../x", "prefix"),
            ("s3://bucket?region", "=VALUE"),
            ("s3://bucket?region=", "region"),
            ("s3://bucket?Region=x", "is no option"),
            ("s3://bucket?endpoint=localhost:9000", "http://"),
            ("s3://bucket?storage_class=GLACIER", "cannot be read at once"),
            ("s3://bucket?kms_key=x", "encryption=aws:kms"),
            ("s3://bucket?encryption=none", "AES256"),
            ("s3://bucket?checksum=md5", "crc64nvme"),
            ("s3://bucket?metadata.a=%0d%0ax", "printable"),
        ] {
            let error = text.parse::<StoreUrl>().expect_err(text).to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{text}: {error}");
        }
    }
}

//! Where the metadata service is: the rules of the AWS SDKs, from an environment that is passed in.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Source: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html> (read 2026-11-21).
const ENDPOINT_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
/// `IPv4` (default) or `IPv6`; same source.
const MODE_VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE";
/// `true` switches the use of the service off; same source.
const DISABLED_VARIABLE: &str = "AWS_EC2_METADATA_DISABLED";

/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html> (read 2023-06).
const DEFAULT_V4: &str = "http://169.254.169.254";
/// Same source; reachable on Nitro instances only.
const DEFAULT_V6: &str = "http://[fd00:ec2::254]";

/// The address of a metadata service, as `http://HOST[:PORT][/BASE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    base: String,
}

/// Why an address of a metadata service cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The address does not begin with `http://`, the one scheme that the service speaks.
    #[error("the metadata end point {text:?} does not begin with http://")]
    Scheme {
        /// What was given.
        text: String,
    },
    /// Host or port cannot be read, or there is user information, a query or a fragment.
    #[error("the metadata end point {text:?} is not http://HOST[:PORT]: {why}")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The mode is neither `IPv4` nor `IPv6`.
    #[error("{MODE_VARIABLE} is {text:?}, neither IPv4 nor IPv6")]
    Mode {
        /// What was given.
        text: String,
    },
}

impl Endpoint {
    /// Reads the end point from environment variables, as the AWS SDKs do; `None` where
    /// `AWS_EC2_METADATA_DISABLED` is `true`.
    ///
    /// `lookup` answers a variable's name with its value; an empty value counts as unset.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] where a variable is set to something that cannot be used: guessing would hide it.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, EndpointError> {
        let set = |name| lookup(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if set(DISABLED_VARIABLE).is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        if let Some(text) = set(ENDPOINT_VARIABLE) {
            return Self::parse(&text).map(Some);
        }
        let default = match set(MODE_VARIABLE) {
            Some(mode) if mode.eq_ignore_ascii_case("ipv6") => DEFAULT_V6,
            Some(mode) if !mode.eq_ignore_ascii_case("ipv4") => {
                return Err(EndpointError::Mode { text: mode });
            }
            Some(_) | None => DEFAULT_V4,
        };
        Self::parse(default).map(Some)
    }

    /// Reads `http://HOST[:PORT][/BASE]`; an IPv6 host stands in brackets; the port is 80 unless given.
    ///
    /// # Errors
    ///
    /// [`EndpointError::Scheme`] or [`EndpointError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let malformed = |why| EndpointError::Malformed { text: text.to_owned(), why };
        let scheme_end = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
        if scheme_end.is_none() {
            return Err(EndpointError::Scheme { text: text.to_owned() });
        }
        let rest = &text[7..];
        if rest.contains(['@', '?', '#']) || rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(malformed("only host, port and path are allowed"));
        }
        let (authority, base) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (host, port) = split_authority(authority).map_err(malformed)?;
        if !base.is_empty() && base.parse::<hyper::Uri>().is_err() {
            return Err(malformed("the path is no URI path"));
        }
        Ok(Self { host, port, base: base.trim_end_matches('/').to_owned() })
    }

    /// The end point of a server at `address`.
    #[must_use]
    pub fn at(address: std::net::SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port(), base: String::new() }
    }

    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What the paths are appended to: empty, or begins with a slash and ends without.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What belongs into the header `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == 80 { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.base)
    }
}

fn split_authority(authority: &str) -> Result<(String, u16), &'static str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
        host.parse::<Ipv6Addr>().map_err(|_| "no IPv6 address in brackets")?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err("text after the bracket"),
        };
        (host, port)
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("an IPv6 address needs brackets"),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if !is_name && host.parse::<IpAddr>().is_err() {
        return Err("the host is no name and no address");
    }
    let port = match port {
        None => 80,
        Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or("the port is not 1 to 65535")?,
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Option<String>, EndpointError> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Endpoint::from_environment(lookup).map(|found| found.map(|endpoint| endpoint.to_string()))
    }

    #[test]
    fn the_environment_is_read_as_the_sdks_do() {
        assert_eq!(from(&[]), Ok(Some(DEFAULT_V4.to_owned())));
        assert_eq!(from(&[(MODE_VARIABLE, "IPv6")]), Ok(Some(DEFAULT_V6.to_owned())));
        assert_eq!(from(&[(DISABLED_VARIABLE, "TRUE")]), Ok(None));
        assert_eq!(from(&[(DISABLED_VARIABLE, "false")]), Ok(Some(DEFAULT_V4.to_owned())));
        let chosen = [(ENDPOINT_VARIABLE, "http://localhost:1338/"), (MODE_VARIABLE, "IPv6")];
        assert_eq!(from(&chosen), Ok(Some("http://localhost:1338".to_owned())));
        assert_eq!(from(&[(ENDPOINT_VARIABLE, "  ")]), Ok(Some(DEFAULT_V4.to_owned())));
        assert!(matches!(from(&[(MODE_VARIABLE, "5")]), Err(EndpointError::Mode { .. })));
    }

    #[test]
    fn an_address_is_read_whole_or_refused() {
        let endpoint = Endpoint::parse("http://[::1]:1338/base/").expect("valid");
        assert_eq!((endpoint.host(), endpoint.port(), endpoint.base()), ("::1", 1338, "/base"));
        assert_eq!(endpoint.authority(), "[::1]:1338");
        assert_eq!(Endpoint::parse("HTTP://127.0.0.1").expect("valid").to_string(), "http://127.0.0.1");
        for bad in ["https://127.0.0.1", "127.0.0.1", "", "http:/x", "ftp://x", "é http://x"] {
            assert!(matches!(Endpoint::parse(bad), Err(EndpointError::Scheme { .. })), "{bad}");
        }
        for bad in [
            "http://",
            "http://:80",
            "http://h:0",
            "http://h:65536",
            "http://h:x",
            "http://u@h",
            "http://h?q",
            "http://h/#f",
            "http://[::1",
            "http://[::1]x",
            "http://[no]",
            "http://::1",
            "http://h\r\nx",
            "http://ä",
        ] {
            assert!(matches!(Endpoint::parse(bad), Err(EndpointError::Malformed { .. })), "{bad}");
        }
    }
}

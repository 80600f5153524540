//! Why a metadata path could not be read, by what the caller can do about it.

use std::io;

use lifeboat_core::time::Millis;

/// A metadata path could not be read. A path that does not exist (404) is no error but an answer: `None`.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No connection to the service.
    #[error("no connection to the metadata service at {endpoint}")]
    Unreachable {
        /// Where the service was looked for.
        endpoint: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Connected, but the answer to the token request never came: in a container, most often the hop limit.
    #[error("the metadata service at {endpoint} accepted the connection but sent no token within {limit}")]
    TokenTimedOut {
        /// Where the service was looked for.
        endpoint: String,
        /// How long was waited.
        limit: Millis,
    },
    /// Connected and holding a token, but no answer in time.
    #[error("no answer for {path} within {limit}")]
    TimedOut {
        /// The path that was asked for.
        path: String,
        /// How long was waited.
        limit: Millis,
    },
    /// 403: the service is switched off for this instance, or a policy of the machine forbids its use.
    #[error("the metadata service refused {path} (403): it is disabled for this instance")]
    Denied {
        /// The path that was asked for.
        path: String,
    },
    /// The service grants no token; falling back to IMDSv1 without telling anyone is not done.
    #[error("the metadata service granted no token (status {status})")]
    TokenRefused {
        /// The HTTP status of the answer.
        status: u16,
    },
    /// 401, and again with a fresh token.
    #[error("the metadata service refused {path} (401) with a fresh token, too")]
    Unauthorized {
        /// The path that was asked for.
        path: String,
    },
    /// 503 or 429: too many requests from this instance.
    #[error("the metadata service throttled {path} (status {status})")]
    Throttled {
        /// The path that was asked for.
        path: String,
        /// The HTTP status of the answer.
        status: u16,
    },
    /// The connection broke before the answer was complete, on a fresh connection, too.
    #[error("the connection broke while {path} was read")]
    Broken {
        /// The path that was asked for.
        path: String,
        /// What the HTTP library said.
        #[source]
        source: hyper::Error,
    },
    /// The answer came and makes no sense.
    #[error("the answer for {path} cannot be read: {why}")]
    Corrupt {
        /// The path that was asked for.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A status that the service is not documented to send.
    #[error("unexpected status {status} for {path}")]
    Unexpected {
        /// The path that was asked for.
        path: String,
        /// The HTTP status of the answer.
        status: u16,
    },
}

/// The variant of a [`GetError`] without its fields, to compare and to count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GetErrorKind {
    /// See [`GetError::Unreachable`].
    Unreachable,
    /// See [`GetError::TokenTimedOut`].
    TokenTimedOut,
    /// See [`GetError::TimedOut`].
    TimedOut,
    /// See [`GetError::Denied`].
    Denied,
    /// See [`GetError::TokenRefused`].
    TokenRefused,
    /// See [`GetError::Unauthorized`].
    Unauthorized,
    /// See [`GetError::Throttled`].
    Throttled,
    /// See [`GetError::Broken`].
    Broken,
    /// See [`GetError::Corrupt`].
    Corrupt,
    /// See [`GetError::Unexpected`].
    Unexpected,
}

impl GetError {
    /// Which variant this is.
    #[must_use]
    pub const fn kind(&self) -> GetErrorKind {
        match self {
            Self::Unreachable { .. } => GetErrorKind::Unreachable,
            Self::TokenTimedOut { .. } => GetErrorKind::TokenTimedOut,
            Self::TimedOut { .. } => GetErrorKind::TimedOut,
            Self::Denied { .. } => GetErrorKind::Denied,
            Self::TokenRefused { .. } => GetErrorKind::TokenRefused,
            Self::Unauthorized { .. } => GetErrorKind::Unauthorized,
            Self::Throttled { .. } => GetErrorKind::Throttled,
            Self::Broken { .. } => GetErrorKind::Broken,
            Self::Corrupt { .. } => GetErrorKind::Corrupt,
            Self::Unexpected { .. } => GetErrorKind::Unexpected,
        }
    }

    /// The error and its causes in one line, as a log or a terminal shows it.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Whether asking again soon may succeed without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Throttled { .. } | Self::Broken { .. } => true,
            Self::TokenTimedOut { .. } | Self::Unreachable { .. } | Self::Unauthorized { .. } => true,
            Self::Unexpected { status, .. } | Self::TokenRefused { status } => *status >= 500,
            Self::Denied { .. } | Self::Corrupt { .. } => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        self.kind().remedy()
    }
}

impl GetErrorKind {
    /// What a person can do about it.
    ///
    /// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html>
    /// (hop limit, `HttpEndpoint`, `HttpTokens`; read 2023-06).
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "off EC2 this is expected: set AWS_EC2_METADATA_DISABLED=true; on EC2, let the route and the \
                 firewall pass 169.254.169.254 port 80, or correct AWS_EC2_METADATA_SERVICE_ENDPOINT"
            }
            Self::TokenTimedOut => {
                "in a container, raise the hop limit: aws ec2 modify-instance-metadata-options --instance-id ID \
                 --http-put-response-hop-limit 2; or use the host's network"
            }
            Self::TimedOut => "it is asked again; if it lasts, look at the machine's load and its firewall",
            Self::Denied => {
                "enable the service: aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint \
                 enabled; and look for a local firewall or proxy in front of it"
            }
            Self::TokenRefused => {
                "reach the service directly, without a proxy (a request with X-Forwarded-For gets no token); an \
                 emulator must speak IMDSv2"
            }
            Self::Unauthorized => {
                "something between here and the service strips the header X-aws-ec2-metadata-token: remove that \
                 proxy"
            }
            Self::Throttled => {
                "it is asked again, slower; let fewer programs on this instance poll the service"
            }
            Self::Broken => {
                "it is asked again; if it lasts, look for a proxy or a firewall that cuts connections"
            }
            Self::Corrupt => {
                "make sure that the end point is the metadata service and not another web server"
            }
            Self::Unexpected => "make sure that the end point is the metadata service; it is asked again",
        }
    }
}

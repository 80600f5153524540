//! What went wrong in a call, by what the caller can do about it. The SDK's errors end here.

use std::error::Error;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::Operation;

/// Of AWS's messages so many characters are kept: the first line says it; what follows may repeat the signed request.
const MESSAGE_CHARS_MAX: usize = 400;

/// A call to AWS that failed. Holds no secret: neither credentials nor signed requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {} on {} {kind}{}", operation.service(), operation, shown(resource), detail(code.as_deref(), message))]
pub struct AwsError {
    /// The call.
    pub operation: Operation,
    /// On what: a queue's URL, a table's name, an ARN.
    pub resource: String,
    /// What the caller can do.
    pub kind: Kind,
    /// AWS's own code (`AccessDeniedException`), where an answer came.
    pub code: Option<String>,
    /// The first line of AWS's message, or why no answer came; may be empty.
    pub message: String,
}

/// Failures by what can be done about them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
    /// AWS asks for fewer calls: later, with jitter.
    #[error("was throttled")]
    Throttled,
    /// A person must grant a permission.
    #[error("was denied (IAM action {action})")]
    Denied {
        /// The missing permission, as AWS names it, else the one that the call is known to need.
        action: String,
    },
    /// A person, or whoever issues the credentials, must renew them; the signing clock may also be wrong.
    #[error("failed: the credentials have expired or are not accepted")]
    Expired,
    /// A person must supply credentials: an instance role, a profile, the environment.
    #[error("failed: no credentials were found")]
    NoCredentials,
    /// What the call is about does not exist.
    #[error("failed: it does not exist")]
    NotFound,
    /// Somebody else was faster; read again, then decide again.
    #[error("met a conflict")]
    Conflict,
    /// The receipt is no longer valid: the message is in other hands, or gone.
    #[error("failed: the receipt is no longer valid")]
    StaleReceipt,
    /// No answer, or one that AWS says is its own fault: later.
    #[error("failed: the service is not available")]
    Unavailable,
    /// The time that the caller gave is over. Whether AWS did it is not known.
    #[error("did not answer within {} ms", within.as_millis())]
    TimedOut {
        /// That time.
        within: Duration,
    },
    /// More bytes than the service takes; nothing was sent.
    #[error("was not made: {bytes} bytes are more than the {limit} that are possible")]
    TooLarge {
        /// So many.
        bytes: usize,
        /// So many are possible.
        limit: usize,
    },
    /// The request is wrong: a bug or a wrong configuration. Trying again does not help.
    #[error("was refused")]
    Invalid,
}

impl AwsError {
    pub(crate) fn new(operation: Operation, resource: &str, kind: Kind) -> Self {
        Self { operation, resource: resource.to_owned(), kind, code: None, message: String::new() }
    }

    /// An answer of AWS's with its code and message.
    pub(crate) fn answered(
        (operation, resource): (Operation, &str),
        code: &str,
        message: &str,
        status: u16,
    ) -> Self {
        Self {
            kind: kind_of(operation, code, message, status),
            code: Some(code.to_owned()).filter(|code| !code.is_empty()),
            message: first_line(message),
            ..Self::new(operation, resource, Kind::Invalid)
        }
    }

    /// Converts what the SDK says.
    pub(crate) fn from_sdk<E>(operation: Operation, resource: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let named = |kind, message: String| Self {
            message: first_line(&message),
            ..Self::new(operation, resource, kind)
        };
        match error {
            SdkError::ServiceError(answer) => {
                let (code, message) = (answer.err().code(), answer.err().message());
                let status = answer.raw().status().as_u16();
                let about = (operation, resource);
                Self::answered(about, code.unwrap_or_default(), message.unwrap_or_default(), status)
            }
            SdkError::ResponseError(answer) => {
                let kind = kind_of(operation, "", "", answer.raw().status().as_u16());
                named(kind, "the answer cannot be read".to_owned())
            }
            SdkError::TimeoutError(_) => named(Kind::Unavailable, "no answer in time".to_owned()),
            SdkError::DispatchFailure(failure) => {
                let text = failure.as_connector_error().map_or_else(String::new, |error| chain(error));
                if is_about_credentials(&text) {
                    named(Kind::NoCredentials, String::new())
                } else {
                    named(Kind::Unavailable, text)
                }
            }
            SdkError::ConstructionFailure(_) => {
                let text = chain(error);
                let kind = if is_about_credentials(&text) { Kind::NoCredentials } else { Kind::Invalid };
                let text = if kind == Kind::NoCredentials { String::new() } else { text };
                named(kind, text)
            }
            // The SDK may add more; none is known today.
            _ => named(Kind::Unavailable, "the call failed in an unknown way".to_owned()),
        }
    }

    /// Of a try and the one before it, what a person is told: a last try that our own clock cut short says nothing of
    /// what is wrong, and the one before it may.
    pub(crate) fn after(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if matches!(self.kind, Kind::TimedOut { .. }) => {
                let last = format!("the last try {}", self.kind);
                let told = [earlier.message.as_str(), &last].into_iter().filter(|text| !text.is_empty());
                Self { message: told.collect::<Vec<_>>().join("; "), ..earlier }
            }
            _ => self,
        }
    }

    /// Whether the same call may succeed soon.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self.kind, Kind::Throttled | Kind::Unavailable | Kind::TimedOut { .. } | Kind::Conflict)
    }
}

/// The kind of an answer, by AWS's code first.
///
/// Source: the "Common Errors" page and each operation's errors in the API references of the services used here
/// (read 2023). Codes of the query protocol and of JSON differ by a suffix: both are listed.
fn kind_of(operation: Operation, code: &str, message: &str, status: u16) -> Kind {
    let short = code.rsplit(['#', '.']).next().unwrap_or(code);
    match short.strip_suffix("Exception").unwrap_or(short) {
        "Throttling"
        | "ThrottledRequests"
        | "Throttled"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "ProvisionedThroughputExceeded"
        | "RequestThrottled"
        | "SlowDown"
        | "BandwidthLimitExceeded"
        | "KmsThrottled"
        | "OverLimit" => Kind::Throttled,
        "AccessDenied"
        | "AuthorizationError"
        | "UnauthorizedOperation"
        | "NotAuthorized"
        | "KmsAccessDenied" => Kind::Denied { action: missing_action(operation, message) },
        "ExpiredToken"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "InvalidSignature"
        | "SignatureDoesNotMatch"
        | "InvalidAccessKeyId"
        | "AuthFailure"
        | "IncompleteSignature"
        | "OptInRequired" => Kind::Expired,
        "MissingAuthenticationToken" => Kind::NoCredentials,
        "ResourceNotFound"
        | "NotFound"
        | "QueueDoesNotExist"
        | "NonExistentQueue"
        | "ClusterNotFound"
        | "ServiceNotFound"
        | "TargetGroupNotFound"
        | "InvalidDocument"
        | "InvalidInstanceId" => Kind::NotFound,
        "ConditionalCheckFailed"
        | "TransactionConflict"
        | "TransactionCanceled"
        | "TransactionInProgress"
        | "IdempotentParameterMismatch"
        | "ResourceContention"
        | "ReplicatedWriteConflict"
        | "ResourceInUse"
        | "UpdateInProgress" => Kind::Conflict,
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => Kind::StaleReceipt,
        // SQS's way to say that a receipt is from another life of the message.
        // Source: aws-sdk issues and SQS API reference, ChangeMessageVisibility (read 2023).
        "InvalidParameterValue" if message.contains("receipt handle has expired") => Kind::StaleReceipt,
        _ => by_status(operation, message, status),
    }
}

fn by_status(operation: Operation, message: &str, status: u16) -> Kind {
    match status {
        429 => Kind::Throttled,
        403 => Kind::Denied { action: missing_action(operation, message) },
        404 => Kind::NotFound,
        // A success that cannot be read was not written by AWS, or not to its end.
        200..300 | 408 | 500.. => Kind::Unavailable,
        _ => Kind::Invalid,
    }
}

/// AWS mostly says which permission is missing: "… is not authorized to perform: sqs:SendMessage on resource: …".
fn missing_action(operation: Operation, message: &str) -> String {
    let named = message.split("to perform:").nth(1).and_then(|rest| rest.split_whitespace().next());
    let is_action = |text: &&str| text.split_once(':').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
    named.filter(is_action).map_or_else(|| operation.iam_actions().join(", "), str::to_owned)
}

/// Whether a failure before the first byte is one of credentials. The SDK's type for it is private.
fn is_about_credentials(text: &str) -> bool {
    text.contains("credential") || text.contains("failed to load identity") || text.contains("no identity")
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text += &format!(": {current}");
        cause = current.source();
    }
    text
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim().chars().take(MESSAGE_CHARS_MAX).collect()
}

fn shown(resource: &str) -> &str {
    if resource.is_empty() { "the account" } else { resource }
}

fn detail(code: Option<&str>, message: &str) -> String {
    match (code, message) {
        (None, "") => String::new(),
        (None, message) => format!(": {message}"),
        (Some(code), "") => format!(": {code}"),
        (Some(code), message) => format!(": {code}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, message: &str, status: u16) -> Kind {
        AwsError::answered((Operation::ReceiveMessage, "q"), code, message, status).kind
    }

    #[test]
    fn codes_of_both_protocols_mean_the_same() {
        for code in ["Throttling", "ThrottlingException", "com.amazonaws.sqs#RequestThrottled", "SlowDown"] {
            assert_eq!(kind(code, "", 400), Kind::Throttled, "{code}");
        }
        for code in ["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId"] {
            assert_eq!(kind(code, "", 403), Kind::Expired, "{code}");
        }
        for code in ["AWS.SimpleQueueService.NonExistentQueue", "com.amazonaws.sqs#QueueDoesNotExist"] {
            assert_eq!(kind(code, "", 400), Kind::NotFound, "{code}");
        }
        assert_eq!(kind("AWS.SimpleQueueService.MessageNotInflight", "", 400), Kind::StaleReceipt);
        assert_eq!(kind("InternalFailure", "", 500), Kind::Unavailable);
        assert_eq!(kind("", "", 503), Kind::Unavailable);
        assert_eq!(kind("ValidationError", "", 400), Kind::Invalid);
    }

    #[test]
    fn a_denial_names_the_permission() {
        let message =
            "User: arn:aws:sts::1:assumed-role/r/i is not authorized to perform: kms:Decrypt on resource: x";
        assert_eq!(kind("AccessDenied", message, 403), Kind::Denied { action: "kms:Decrypt".to_owned() });
        let own = Kind::Denied { action: "sqs:ReceiveMessage".to_owned() };
        assert_eq!(kind("AccessDeniedException", "no", 400), own);
        assert_eq!(kind("", "", 403), own);
    }

    #[test]
    fn what_a_person_reads_names_service_call_thing_code_and_no_secret() {
        let message = "The signature does not match.\n\nx-amz-security-token:SECRET";
        let about = (Operation::ReceiveMessage, "https://q");
        let error = AwsError::answered(about, "SignatureDoesNotMatch", message, 403);
        assert_eq!(
            error.to_string(),
            "SQS: ReceiveMessage on https://q failed: the credentials have expired or are not accepted: \
             SignatureDoesNotMatch: The signature does not match."
        );
    }
}

//! What can be wrong with a bucket.

use thiserror::Error;

/// Most characters of what others say that are repeated.
const EXCERPT_CHARS: usize = 200;

/// A bucket that cannot be used, at all or for now. Quotes what the store says of it, and never a key, a
/// signature or a presigned URL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BucketError {
    /// Not the URL of a bucket.
    #[error("{url:?} is no bucket: {reason}; expected s3://NAME or s3://NAME/PREFIX")]
    Url {
        /// What was given, without a user.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Not the URL of a store.
    #[error("{url:?} is no endpoint of an object store: {reason}; expected something like https://s3.example.com")]
    Endpoint {
        /// What was given, without a user.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Settings that do not go together.
    #[error("{bucket} cannot be set up: {reason}; check the environment's variables AWS_…")]
    Settings {
        /// The bucket.
        bucket: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to prove with who this is.
    #[error(
        "there are no credentials for {bucket}: {reason}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give \
         this machine a role (profiles are not read)"
    )]
    NoCredentials {
        /// The bucket.
        bucket: String,
        /// What was tried.
        reason: String,
    },
    /// There is no such bucket.
    #[error("{bucket} does not exist; check name, region and endpoint, or create the bucket")]
    NoBucket {
        /// The bucket.
        bucket: String,
    },
    /// The store does not let this peer do it.
    #[error(
        "{bucket} denies access, a peer cannot {action} there ({reason}); check credentials, region and the rights \
         that docs/buckets.md lists"
    )]
    Denied {
        /// The bucket.
        bucket: String,
        /// What was tried.
        action: &'static str,
        /// What the store says.
        reason: String,
    },
    /// The store does not understand this peer.
    #[error("{bucket} refuses to {action} ({reason}); check region and endpoint")]
    Refused {
        /// The bucket.
        bucket: String,
        /// What was tried.
        action: &'static str,
        /// What the store says.
        reason: String,
    },
    /// The store is not there, does not answer, or has enough to do.
    #[error("cannot {action} in {bucket}: {reason}")]
    Unreachable {
        /// The bucket.
        bucket: String,
        /// What was tried.
        action: &'static str,
        /// What network or store say.
        reason: String,
    },
    /// The operating system gave no random bytes for a key.
    #[error("cannot make a key: {0}")]
    Randomness(String),
    /// An object of this peer is gone.
    #[error("cannot {action} in {bucket}: the object is not there (any more)")]
    NoObject {
        /// The bucket.
        bucket: String,
        /// What was tried.
        action: &'static str,
    },
}

impl BucketError {
    /// Whether it may be different the next time.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NoObject { .. } | Self::Randomness(_) => true,
            Self::Url { .. } | Self::Endpoint { .. } | Self::Settings { .. } | Self::NoCredentials { .. } => false,
            Self::NoBucket { .. } | Self::Denied { .. } | Self::Refused { .. } => false,
        }
    }

    /// What became of a request.
    pub(super) fn of_request(bucket: &str, action: &'static str, error: &object_store::Error) -> Self {
        let (bucket, text) = (bucket.to_owned(), error.to_string());
        // The client does not export the type that has the status, but writes it into the message.
        let status = status(&text);
        let reason = said(&text)
            .or_else(|| status.map(|status| format!("it answers {status}")))
            .unwrap_or_else(|| root_cause(error));
        match status {
            Some(404) if text.contains("NoSuchBucket") => Self::NoBucket { bucket },
            Some(404) => Self::NoObject { bucket, action },
            Some(401 | 403) => Self::Denied { bucket, action, reason },
            _ if is_temporary(error, status, &text) => Self::Unreachable { bucket, action, reason },
            _ => Self::Refused { bucket, action, reason },
        }
    }
}

/// Whether it is about the moment and not about the request. A redirect without a status is how AWS answers where
/// the bucket is in another region.
fn is_temporary(error: &object_store::Error, status: Option<u16>, text: &str) -> bool {
    match status {
        Some(status) => matches!(status, 408 | 429 | 500..),
        None => matches!(error, object_store::Error::Generic { .. }) && !text.contains("Received redirect"),
    }
}

/// The status that the store answered.
fn status(text: &str) -> Option<u16> {
    let (_, behind) = text.split_once("status code: ")?;
    behind.get(..3)?.parse().ok()
}

/// Code and message of S3's error document, and nothing else of it: it may quote signatures.
fn said(text: &str) -> Option<String> {
    let element = |name: &str| {
        let (_, behind) = text.split_once(&format!("<{name}>"))?;
        Some(behind.split_once('<')?.0.to_owned())
    };
    let code = element("Code")?;
    let message = element("Message").map_or(code.clone(), |message| format!("{code}: {message}"));
    Some(excerpt(&message))
}

/// The innermost cause, without the addresses that those around it quote.
pub(super) fn root_cause(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    excerpt(&cause.to_string())
}

fn excerpt(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    fn of(error: &object_store::Error) -> BucketError {
        BucketError::of_request("s3://b/p", "write", error)
    }

    #[test]
    fn outages_are_worth_another_attempt_and_refusals_are_not() {
        for text in ["connection refused", "status code: 503 Slow Down", "status code: 500", "status code: 429 "] {
            assert!(matches!(of(&generic(text)), BucketError::Unreachable { .. }), "{text}");
            assert!(of(&generic(text)).retryable());
        }
        for text in ["status code: 400 Bad Request", "status code: 301", "Received redirect without LOCATION"] {
            assert!(matches!(of(&generic(text)), BucketError::Refused { .. }), "{text}");
            assert!(!of(&generic(text)).retryable());
        }
        // Lists and the like give no variant of their own.
        for denied in [
            object_store::Error::PermissionDenied { path: "k".into(), source: "status code: 403".into() },
            generic("status code: 403 Forbidden"),
            generic("status code: 401"),
        ] {
            assert!(matches!(of(&denied), BucketError::Denied { .. }) && !of(&denied).retryable(), "{denied}");
        }
    }

    #[test]
    fn a_missing_bucket_is_told_from_a_missing_object() {
        let missing = |text: &str| object_store::Error::NotFound { path: "k".into(), source: text.into() };
        let (bucket, key) = ("status code: 404: <Code>NoSuchBucket</Code>", "status code: 404: <Code>NoSuchKey</Code>");
        assert!(matches!(of(&missing(bucket)), BucketError::NoBucket { .. }));
        assert!(matches!(of(&generic(bucket)), BucketError::NoBucket { .. }));
        assert!(matches!(of(&missing(key)), BucketError::NoObject { .. }));
        assert!(matches!(of(&missing("status code: 404 Not Found")), BucketError::NoObject { .. }), "of HEAD");
    }

    #[test]
    fn only_code_and_message_of_an_error_document_are_repeated() {
        let body = "status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><Message>It differs</Message>\
                    <SignatureProvided>abc123</SignatureProvided></Error>";
        let denied = object_store::Error::PermissionDenied { path: "k".into(), source: body.into() };
        let message = of(&denied).to_string();
        assert!(message.contains("(SignatureDoesNotMatch: It differs)") && !message.contains("abc123"), "{message}");
        let page = generic("status code: 502 Bad Gateway: <html>Authorization: AWS4 abc123</html>");
        assert!(of(&page).to_string().ends_with("it answers 502"), "{}", of(&page));
        assert_eq!(excerpt(&"x".repeat(300)).chars().count(), EXCERPT_CHARS + 1);
    }
}

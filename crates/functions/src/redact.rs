//! Errors without the secrets of tasks. Errors quote what functions and platforms say, and these may
//! quote the task: an endpoint that echoes its request, a function that prints what it cannot read.

use crate::error::{InvokeError, ProtocolViolation};

/// Stands where a secret was.
const REDACTED: &str = "[secret]";

/// Shortest beginning of a secret that is taken out at the end of a text, where an excerpt was cut.
const SHORTEST: usize = 6;

impl InvokeError {
    /// Takes `secrets` out of everything that was quoted, cut ones at the end of a quotation too.
    pub fn redact(&mut self, secrets: &[String]) {
        for text in self.quoted() {
            for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
                remove(text, secret);
            }
        }
    }

    /// The texts of others in it.
    fn quoted(&mut self) -> Vec<&mut String> {
        match self {
            Self::Encode(text) => vec![text],
            Self::Spawn { message, .. } | Self::Transfer { message, .. } => vec![message],
            Self::Died { stderr, .. } | Self::OutOfMemory { stderr, .. } => vec![stderr],
            Self::Protocol { violation: ProtocolViolation::NotAReport { excerpt, reason }, .. } => {
                vec![excerpt, reason]
            }
            Self::Unreachable { reason, .. }
            | Self::Denied { reason, .. }
            | Self::Missing { reason, .. }
            | Self::Crashed { reason, .. }
            | Self::Refused { reason, .. } => vec![reason],
            Self::Reported(failure) => vec![&mut failure.message],
            Self::Protocol { .. }
            | Self::TimedOut { .. }
            | Self::Throttled { .. }
            | Self::TaskTooLarge { .. }
            | Self::QueueFull { .. }
            | Self::DeadlinePassed
            | Self::ShutDown => Vec::new(),
        }
    }
}

fn remove(text: &mut String, secret: &str) {
    if text.contains(secret) {
        *text = text.replace(secret, REDACTED);
    }
    let beginnings = secret.char_indices().map(|(end, _)| &secret[..end]).rev();
    let cut = beginnings.take_while(|beginning| beginning.len() >= SHORTEST);
    // An excerpt may be followed by dots that say that it was cut.
    let kept = text.trim_end_matches(['.', '…', ' ', '"']).len();
    if let Some(beginning) = cut.into_iter().find(|beginning| text[..kept].ends_with(beginning)) {
        text.replace_range(kept - beginning.len()..kept, REDACTED);
    }
}

#[cfg(test)]
mod tests {
    use peerless_protocol::function::{Failure, FailureKind};

    use super::*;
    use crate::error::FunctionName;

    fn redacted(text: &str) -> String {
        let failure = Failure { kind: FailureKind::Input, message: text.into() };
        let mut error = InvokeError::Reported(failure);
        error.redact(&["s3cr3t-t0k3n".to_owned(), String::new()]);
        error.to_string()
    }

    #[test]
    fn secrets_are_taken_out_wherever_they_are_quoted() {
        assert_eq!(redacted("s3cr3t-t0k3n and s3cr3t-t0k3n"), "the function reported a failure: [secret] and [secret]");
        assert_eq!(redacted("nothing"), "the function reported a failure: nothing");
        let excerpt = r#"{"token":"s3cr3t-t0k3n"}"#.to_owned();
        let violation = ProtocolViolation::NotAReport { excerpt, reason: "no".into() };
        let mut error = InvokeError::Protocol { function: FunctionName::Process(1), violation };
        error.redact(&["s3cr3t-t0k3n".to_owned()]);
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }

    #[test]
    fn a_secret_that_was_cut_with_its_quotation_is_taken_out() {
        assert_eq!(redacted("token: s3cr3t-"), "the function reported a failure: token: [secret]");
        assert_eq!(redacted("token: s3cr3t-t0k…"), "the function reported a failure: token: [secret]…");
        assert_eq!(redacted("it is s3cr"), "the function reported a failure: it is s3cr");
    }
}

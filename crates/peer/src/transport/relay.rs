//! The address of a relay: a server that peers reach each other by while no direct way is known.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest URL of a relay in bytes.
pub const MAX_RELAY_URL_BYTES: usize = 256;

/// The URL of an iroh relay, `https://host[:port]` or, without TLS, `http://host[:port]`.
///
/// What passes through a relay is encrypted between the peers; the relay learns who talks to whom,
/// and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelayUrl(String);

/// What is wrong with the URL of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RelayUrlError {
    /// Longer than allowed.
    #[error("the URL of a relay has at most {MAX_RELAY_URL_BYTES} bytes, this one has {length}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Not such a URL.
    #[error("the URL of a relay is https://HOST or http://HOST, with :PORT if need be")]
    Malformed,
}

impl RelayUrl {
    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RelayUrl {
    type Err = RelayUrlError;

    fn from_str(text: &str) -> Result<Self, RelayUrlError> {
        if text.len() > MAX_RELAY_URL_BYTES {
            return Err(RelayUrlError::TooLong { length: text.len() });
        }
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let rest = rest.ok_or(RelayUrlError::Malformed)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // No user, path or query: nothing that could carry a secret into logs.
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        match !authority.is_empty() && authority.chars().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err(RelayUrlError::Malformed),
        }
    }
}

impl TryFrom<String> for RelayUrl {
    type Error = RelayUrlError;

    fn try_from(text: String) -> Result<Self, RelayUrlError> {
        text.parse()
    }
}

impl From<RelayUrl> for String {
    fn from(url: RelayUrl) -> Self {
        url.0
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_or_without_port_is_taken() {
        for text in ["https://relay.example.org", "http://10.0.0.1:3340", "https://[2001:db8::1]:443/"] {
            assert_eq!(text.parse::<RelayUrl>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn what_is_no_relay_is_refused() {
        for text in
            ["", "relay.example.org", "ftp://a", "https://", "https://user@host", "https://host/path", "http://a b"]
        {
            assert_eq!(text.parse::<RelayUrl>(), Err(RelayUrlError::Malformed), "{text}");
        }
        let long = format!("https://{}", "a".repeat(300));
        assert_eq!(long.parse::<RelayUrl>(), Err(RelayUrlError::TooLong { length: 308 }));
    }
}

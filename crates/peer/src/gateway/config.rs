//! Where the gateway listens and what it allows.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// Longest name of a dataset file in a URL, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// How remote functions reach this peer's tensors.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// What functions put before the paths, such as `https://peer.example:7443`: needed where they do not
    /// reach the address that is listened on. May have a path, for a proxy that takes it away again.
    pub url: Option<String>,
    /// Speak TLS 1.3. Without it tokens and tensors can be read on the way; right on loopback, in a
    /// private network, or behind a proxy that has the certificate.
    pub tls: Option<TlsFiles>,
    /// Files of the dataset that functions may read, by the names that they know them under.
    pub dataset: BTreeMap<String, PathBuf>,
    /// How long a token is good at most; its attempt usually ends long before. Should be longer than the
    /// platform lets functions work: 15 minutes on AWS Lambda.
    pub lifetime: Duration,
    /// Bounds on what clients can take.
    pub limits: Limits,
}

impl GatewayConfig {
    /// Defaults: plain HTTP, no dataset files, tokens for 16 minutes.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            url: None,
            tls: None,
            dataset: BTreeMap::new(),
            lifetime: Duration::from_secs(16 * 60),
            limits: Limits::default(),
        }
    }

    /// The advertised address of a gateway that came to listen at `local`, without a slash at its end.
    pub(super) fn base_url(&self, local: SocketAddr) -> Result<String, GatewayError> {
        let Some(url) = &self.url else {
            if local.ip().is_unspecified() {
                return Err(GatewayError::NoUrl { listen: local });
            }
            let scheme = if self.tls.is_some() { "https" } else { "http" };
            return Ok(format!("{scheme}://{local}"));
        };
        let bad = |reason| GatewayError::Url { url: url.clone(), reason };
        let uri: hyper::Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("it must begin with http:// or https://"));
        }
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(bad("it must name a host, without a user"));
        }
        if url.contains(['?', '#']) {
            return Err(bad("it must end before ? and #"));
        }
        Ok(url.trim_end_matches('/').to_owned())
    }
}

/// Certificate and key in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to an authority which functions trust.
    pub certificate: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// Bounds on what clients can take, those without a token too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at a time; each takes a descriptor. The next few are answered 503, more are closed.
    pub connections: usize,
    /// Most transfers at a time, which take up to a megabyte each; more are answered 503. At least the
    /// number of functions that start at the same moment.
    pub transfers: usize,
    /// Longest time for the TLS handshake, and from there, or from the last answer, until a request's head
    /// is complete. Longer than clients keep idle connections (`ureq`: 15 s), or they will find them closed.
    pub head: Duration,
    /// Longest time in which nothing of a body comes, or nothing of an answer is taken.
    pub stall: Duration,
    /// Most bytes of a request's head.
    pub head_bytes: usize,
    /// Most ranges in one request.
    pub ranges: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            transfers: 256,
            head: Duration::from_secs(20),
            stall: Duration::from_secs(20),
            head_bytes: 16 << 10,
            ranges: 128,
        }
    }
}

/// A gateway that cannot start.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The address to listen on.
    #[error("the gateway cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// It listens on all addresses, so that nobody knows which one functions reach.
    #[error("the gateway listens on every address ({listen}); say by which URL functions reach it")]
    NoUrl {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// The URL to advertise.
    #[error("{url:?} is no URL for a gateway: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The certificate or its key.
    #[error("the gateway's {what} {} cannot be used: {reason}", path.display())]
    Tls {
        /// `certificate` or `key`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of the dataset.
    #[error("the dataset file {name:?} ({}) cannot be offered to functions: {reason}", path.display())]
    Dataset {
        /// Its name.
        name: String,
        /// Where it should be.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Whether a dataset file can have this name: one that stands for itself in a URL.
pub(super) fn is_file_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_url(url: Option<&str>, listen: &str) -> Result<String, GatewayError> {
        let listen = listen.parse().unwrap();
        GatewayConfig { url: url.map(str::to_owned), ..GatewayConfig::new(listen) }.base_url(listen)
    }

    #[test]
    fn functions_are_told_the_given_url_or_the_address() {
        assert_eq!(base_url(None, "127.0.0.1:80").unwrap(), "http://127.0.0.1:80");
        assert_eq!(base_url(None, "[::1]:80").unwrap(), "http://[::1]:80");
        assert_eq!(base_url(Some("https://a.example/peer/"), "0.0.0.0:1").unwrap(), "https://a.example/peer");
        assert!(matches!(base_url(None, "0.0.0.0:1"), Err(GatewayError::NoUrl { .. })));
    }

    #[test]
    fn what_is_no_base_of_urls_is_refused() {
        for url in ["", "host", "ftp://host", "/path", "http://", "http://u:p@host", "http://host/?a=b", "http://h/#f"]
        {
            assert!(matches!(base_url(Some(url), "127.0.0.1:1"), Err(GatewayError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn dataset_names_stand_for_themselves_in_a_url() {
        assert!(is_file_name("train-images-idx3-ubyte"));
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "a%62", "ä", "a\0b", &"x".repeat(129)] {
            assert!(!is_file_name(name), "{name:?}");
        }
    }
}

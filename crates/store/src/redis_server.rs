//! Which Redis or Valkey server keeps gradients, and what can be wrong with it. Without the cargo feature
//! `redis` a server can be named, but not used.

use std::fmt;

use thiserror::Error;

/// Stands where a secret was.
const REDACTED: &str = "[secret]";

/// A Redis or Valkey server, and who one is there. `Debug` and `Display` show no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisServer {
    url: String,
    user: Option<String>,
    password: Option<String>,
}

/// An address that is none of a server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RedisUrlError {
    /// It holds a user or a password. Not quoted, for that reason.
    #[error("the server's URL holds a user or a password, where everybody who lists processes can read them")]
    Secret,
    /// It is something else.
    #[error("{found:?} is not redis://HOST[:PORT][/DATABASE], or rediss:// for TLS")]
    Malformed {
        /// What was given.
        found: String,
    },
}

/// A server that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RedisError {
    /// No connection, or it broke.
    #[error("{url} does not answer: {reason}")]
    Unreachable {
        /// The server.
        url: String,
        /// What the system or the TLS library says.
        reason: String,
    },
    /// Wrong user or password, or a right that the user lacks.
    #[error("{url} denies access: {reason}")]
    Denied {
        /// The server.
        url: String,
        /// What the server says.
        reason: String,
    },
    /// It answers, but not with what is needed.
    #[error("{url} cannot keep gradients: {reason}")]
    Refused {
        /// The server.
        url: String,
        /// What the server says.
        reason: String,
    },
    /// This program was built without the client.
    #[error("this program was built without a client for Redis (cargo feature `redis`)")]
    NotBuilt,
}

impl RedisServer {
    /// The server at `redis://HOST[:PORT][/DATABASE]`, or `rediss://` for TLS. Without user and password:
    /// URLs end up on command lines and in logs.
    ///
    /// # Errors
    /// [`RedisUrlError`].
    pub fn new(url: &str) -> Result<Self, RedisUrlError> {
        // Before anything that quotes it.
        if url.contains('@') {
            return Err(RedisUrlError::Secret);
        }
        match is_address(url) {
            true => Ok(Self { url: url.to_owned(), user: None, password: None }),
            false => Err(RedisUrlError::Malformed { found: url.to_owned() }),
        }
    }

    /// The same server with a user (the server's default user if there is none) and a password.
    #[must_use]
    pub fn with_password(self, user: Option<String>, password: Option<String>) -> Self {
        Self { user, password, ..self }
    }

    /// Its URL, which holds no secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A key of its database as a URL.
    pub fn key_url(&self, key: &str) -> String {
        let url = self.url.trim_end_matches('/');
        let has_database = url.split_once("://").is_some_and(|(_, address)| address.contains('/'));
        if has_database { format!("{url}/{key}") } else { format!("{url}/0/{key}") }
    }

    /// Whether it is reached by TLS.
    pub fn uses_tls(&self) -> bool {
        self.url.starts_with("rediss:")
    }

    /// The user, if it is not the server's default one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// A text of others without the password.
    pub fn redact(&self, text: &str) -> String {
        match self.password.as_deref().filter(|password| !password.is_empty()) {
            Some(password) => text.replace(password, REDACTED),
            None => text.to_owned(),
        }
    }
}

/// Whether a server could keep gradients now.
///
/// # Errors
/// [`RedisError::NotBuilt`].
#[cfg(not(feature = "redis"))]
pub fn check_redis(_: &RedisServer, _: &str) -> Result<bool, RedisError> {
    Err(RedisError::NotBuilt)
}

fn is_address(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("redis://").or(url.strip_prefix("rediss://")) else { return false };
    let (address, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match address.rsplit_once(':') {
        // The last colon may be one of an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (address, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
    let is_host = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(named),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    is_host && is_port && (database.is_empty() || database.parse::<u32>().is_ok())
}

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisServer").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Display for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers_are_told_from_others() {
        let right = ["redis://h", "redis://h:1", "rediss://h.example:6380/3", "redis://[::1]", "redis://[::1]:7/0"];
        for url in right {
            assert_eq!(RedisServer::new(url).unwrap().url(), url);
        }
        let wrong = [
            "",
            "h:6379",
            "http://h",
            "redis://",
            "redis://:1",
            "redis://h:0",
            "redis://h:70000",
            "redis://h:x",
            "redis://h/x",
            "redis://h/-1",
            "redis://h/0/k",
            "redis://h?db=1",
            "rediss://h#insecure",
            "redis://[h]",
            "redis://h h",
        ];
        for url in wrong {
            assert_eq!(RedisServer::new(url), Err(RedisUrlError::Malformed { found: url.into() }), "{url}");
        }
    }

    #[test]
    fn a_key_has_the_database_before_it() {
        for (url, key) in [
            ("redis://h", "redis://h/0/k"),
            ("redis://h:1/", "redis://h:1/0/k"),
            ("rediss://[::1]:1/7", "rediss://[::1]:1/7/k"),
        ] {
            assert_eq!(RedisServer::new(url).unwrap().key_url("k"), key);
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_quoted_nowhere() {
        for url in ["redis://:s3cret@h", "redis://user:s3cret@h:1/0", "rediss://s3cret@h", "s3cret@h"] {
            let error = RedisServer::new(url).unwrap_err();
            assert_eq!(error, RedisUrlError::Secret);
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn a_password_is_neither_shown_nor_repeated() {
        let server = RedisServer::new("redis://h").unwrap().with_password(Some("u".into()), Some("s3cret".into()));
        assert_eq!(
            format!("{server:?} {server}"),
            "RedisServer { url: \"redis://h\", user: Some(\"u\"), .. } redis://h"
        );
        assert_eq!(server.redact("not s3cret, said s3cret"), "not [secret], said [secret]");
    }
}

//! Gradients written to a Redis or Valkey server, where a task names a key of one.

use std::env;
use std::time::Duration;

use peerless_protocol::function::{Failure, FailureKind, Remote};
use redis::{Client, Connection, ErrorKind, IntoConnectionInfo, RedisError, RedisResult, cmd};

use crate::failure::failure;

/// Longest time to reach the server, and for it to answer.
const LIMIT: Duration = Duration::from_secs(20);

/// What nobody wants any more disappears after this many seconds.
const EXPIRY: u64 = 3600;

/// Errors of the server that say that this function lacks a right.
const DENIALS: [&str; 3] = ["NOAUTH", "WRONGPASS", "NOPERM"];

/// The environment variables with user and password. They are the function's own: tasks hold no secret of the
/// database.
const USER: &str = "PEERLESS_REDIS_USER";
const PASSWORD: &str = "PEERLESS_REDIS_PASSWORD";

/// The last server that was written to, connected.
#[derive(Default)]
pub(crate) struct Database(Option<(String, Connection)>);

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.0.as_ref().map(|(server, _)| server)).finish()
    }
}

/// Whether this is how to write to the resource.
pub(crate) fn is_key(remote: &Remote) -> bool {
    remote.url.starts_with("redis:") || remote.url.starts_with("rediss:")
}

impl Database {
    /// Writes a value under a key that has none.
    pub(crate) fn write(&mut self, remote: &Remote, bytes: &[u8]) -> Result<(), Failure> {
        let address = remote.address();
        let unwritten = |kind, why: &str| failure(kind, format!("cannot write {address}: {why}"));
        let Some((server, key)) = split(address) else {
            return Err(unwritten(FailureKind::Input, "not redis://HOST:PORT/DATABASE/KEY"));
        };
        match self.set(server, key, bytes) {
            Ok(true) => Ok(()),
            // Another one was here first, or a connection broke behind the value.
            Ok(false) => Err(unwritten(FailureKind::Environment, "it is written already")),
            Err(error) => Err(unwritten(kind(&error), &without_password(&error.to_string()))),
        }
    }

    /// Whether the value was written.
    fn set(&mut self, server: &str, key: &str, bytes: &[u8]) -> RedisResult<bool> {
        // A connection that was kept may have been closed since.
        let kept = self.0.take().filter(|(known, _)| known == server);
        if let Some((_, mut connection)) = kept {
            let alive = cmd("PING").query::<()>(&mut connection);
            // A user without the right to ask has a connection all the same.
            if alive.is_ok() || alive.is_err_and(|error| error.code() == Some("NOPERM")) {
                return self.set_by(connection, server, key, bytes);
            }
        }
        self.set_by(connect(server)?, server, key, bytes)
    }

    fn set_by(&mut self, mut connection: Connection, server: &str, key: &str, bytes: &[u8]) -> RedisResult<bool> {
        let mut set = cmd("SET");
        let answer: Option<String> = set.arg(key).arg(bytes).arg("EX").arg(EXPIRY).arg("NX").query(&mut connection)?;
        self.0 = Some((server.to_owned(), connection));
        Ok(answer.is_some())
    }
}

/// Server with database, and key.
fn split(url: &str) -> Option<(&str, &str)> {
    let authority = url.find("://")? + 3;
    let database = authority + url[authority..].find('/')? + 1;
    let end = database + url[database..].find('/')?;
    let (server, key) = (&url[..end], &url[end + 1..]);
    (end > database && !key.is_empty() && !server.contains('@')).then_some((server, key))
}

fn connect(server: &str) -> RedisResult<Connection> {
    if server.starts_with("rediss:") && rustls::crypto::CryptoProvider::get_default().is_none() {
        // The client takes the process's provider. Whoever was quicker has set one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let info = server.into_connection_info()?;
    let mut who = info.redis_settings().clone();
    if let Some(user) = set(USER) {
        who = who.set_username(user);
    }
    if let Some(password) = set(PASSWORD) {
        who = who.set_password(password);
    }
    let connection = Client::open(info.set_redis_settings(who))?.get_connection_with_timeout(LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    connection.set_write_timeout(Some(LIMIT))?;
    Ok(connection)
}

fn kind(error: &RedisError) -> FailureKind {
    let denied = error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| DENIALS.contains(&code))
        || matches!(error.kind(), ErrorKind::InvalidClientConfig);
    if denied { FailureKind::Input } else { FailureKind::Environment }
}

fn without_password(text: &str) -> String {
    match set(PASSWORD) {
        Some(password) => text.replace(&password, "[secret]"),
        None => text.to_owned(),
    }
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_url_is_cut_behind_its_database() {
        let key = "{peerless:r:p}:out:s-1";
        assert_eq!(split("redis://h:1/0/{peerless:r:p}:out:s-1"), Some(("redis://h:1/0", key)));
        assert_eq!(split("rediss://[::1]/12/a/b"), Some(("rediss://[::1]/12", "a/b")));
        for url in ["redis://h", "redis://h/0", "redis://h/0/", "redis://h//k", "h/0/k", "redis://:p@h/0/k"] {
            assert_eq!(split(url), None, "{url}");
        }
    }
}

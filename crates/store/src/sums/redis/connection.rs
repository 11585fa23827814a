//! Connections to the server, and its errors in our words.

use std::time::Duration;

use redis::{Client, Connection, ErrorKind, IntoConnectionInfo, RedisResult, Value, cmd};

use crate::redis_server::{RedisError, RedisServer};

/// How long the server may take to accept a connection or to answer. Longer than any command of the module
/// takes, short enough that a peer whose server hangs goes on by itself.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What servers say when a user has not the right to something.
const DENIALS: [&str; 3] = ["NOAUTH", "WRONGPASS", "NOPERM"];

/// A server to be connected to.
pub(super) struct Server {
    client: Client,
    pub(super) server: RedisServer,
}

impl Server {
    /// Connects to nothing yet.
    pub(super) fn new(server: RedisServer) -> Result<Self, RedisError> {
        if server.uses_tls() && rustls::crypto::CryptoProvider::get_default().is_none() {
            // The client takes the process's provider. Whoever was quicker has set one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let open = || {
            let info = server.url().into_connection_info()?;
            let mut who = info.redis_settings().clone();
            if let Some(user) = server.user() {
                who = who.set_username(user);
            }
            if let Some(password) = server.password() {
                who = who.set_password(password);
            }
            Client::open(info.set_redis_settings(who))
        };
        match open() {
            Ok(client) => Ok(Self { client, server }),
            Err(error) => Err(explain(&server, &error)),
        }
    }

    pub(super) fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        Ok(connection)
    }

    /// An error of the client in our words, without the password.
    pub(super) fn explain(&self, error: &redis::RedisError) -> RedisError {
        explain(&self.server, error)
    }
}

/// Whether the server has our module.
pub(super) fn has_module(connection: &mut Connection) -> RedisResult<bool> {
    let known: Vec<Value> = cmd("COMMAND").arg("INFO").arg("PEERLESS.ADD").query(connection)?;
    Ok(known.first().is_some_and(|command| *command != Value::Nil))
}

fn explain(server: &RedisServer, error: &redis::RedisError) -> RedisError {
    let (url, reason) = (server.url().to_owned(), server.redact(&error.to_string()));
    let denied = error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| DENIALS.contains(&code))
        // Said in place of the code when the database is chosen.
        || reason.contains("Authentication required");
    if denied {
        RedisError::Denied { url, reason }
    } else if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        RedisError::Unreachable { url, reason }
    } else {
        RedisError::Refused { url, reason }
    }
}

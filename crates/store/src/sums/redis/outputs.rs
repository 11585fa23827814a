//! Gradients that functions elsewhere write to the database themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use peerless_protocol::Digest;
use redis::{Connection, RedisResult, cmd};
use thiserror::Error;

use super::connection::{Server, has_module};
use super::{PAUSE, braced};
use crate::error::{AtPath, FileError};
use crate::redis_server::{RedisError, RedisServer};

/// Offers keys to functions, and takes over what they wrote there once a report has named its digest. What is taken
/// over is under a name that functions have no right to write to, so that a late or lying one changes nothing.
pub struct RedisOutputs {
    server: Server,
    prefix: String,
    session: String,
    next: AtomicU64,
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    /// With whether the server has the module.
    connection: Option<(Connection, bool)>,
    failed: Option<Instant>,
    /// Whether gradients of this round were lost: what is computed again goes to files, so that it is not lost again.
    avoided: bool,
    /// Keys of gradients that are in the database alone, by the file that they were to be in.
    taken: BTreeMap<PathBuf, String>,
}

/// A key that one attempt may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisOutput {
    /// Server, database and key as one URL. Holds no secret.
    pub url: String,
    name: String,
}

/// What a function said to have written is not there.
#[derive(Debug, Error)]
pub enum RedisOutputError {
    /// There is nothing: never written, or lost by the server since.
    #[error("the function reported success, but its output is not in the database")]
    NotWritten,
    /// Something of another length.
    #[error("the output in the database has {found} bytes instead of {expected}")]
    Length {
        /// Bytes in the database.
        found: u64,
        /// Bytes of every gradient of the run.
        expected: u64,
    },
    /// Something else.
    #[error("the output in the database has digest {found}, but the function reported {reported}")]
    Damaged {
        /// Digest of what is in the database.
        found: String,
        /// Digest in the report.
        reported: Digest,
    },
    /// The server does not do what it should.
    #[error(transparent)]
    Server(#[from] RedisError),
    /// What was fetched could not be written to its file.
    #[error(transparent)]
    File(#[from] FileError),
}

impl RedisOutputs {
    /// Outputs in the database of `server` under keys that begin with `prefix`. `session` tells this process from
    /// earlier ones of the same peer.
    ///
    /// # Errors
    /// [`RedisError`] if the server's name can be none.
    pub fn new(server: &RedisServer, prefix: &str, session: &str) -> Result<Self, RedisError> {
        let server = Server::new(server.clone())?;
        let (prefix, session) = (braced(prefix), session.to_owned());
        Ok(Self { server, prefix, session, next: AtomicU64::new(1), shelf: Mutex::default() })
    }

    /// A key for one attempt; `None` while the server does not answer, and for the rest of a round of which it has lost
    /// gradients.
    pub fn offer(&self) -> Option<RedisOutput> {
        let mut shelf = self.lock();
        if shelf.avoided {
            return None;
        }
        self.with(&mut shelf, |connection, _| cmd("PING").query::<()>(connection)).ok()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.session);
        Some(RedisOutput { url: self.server.server.key_url(&format!("{}:out:{name}", self.prefix)), name })
    }

    /// Takes over what a function wrote, if it has this length and digest. With the module it stays in the database;
    /// without, it is moved to the file `path`.
    ///
    /// # Errors
    /// [`RedisOutputError`]; nothing is taken over then.
    pub fn collect(
        &self,
        output: &RedisOutput,
        path: &Path,
        bytes: u64,
        digest: Digest,
    ) -> Result<(), RedisOutputError> {
        let [written, key] = ["out", "taken"].map(|kind| format!("{}:{kind}:{}", self.prefix, output.name));
        let mut shelf = self.lock();
        let found = self.with(&mut shelf, |connection, module| {
            // To begin with: what is checked must be what is counted.
            match cmd("RENAME").arg(&written).arg(&key).query::<()>(connection) {
                Err(error) if error.detail().is_some_and(|detail| detail.contains("no such key")) => return Ok(None),
                renamed => renamed?,
            }
            let found = if module { inspect(connection, &key)? } else { fetch(connection, &key)? };
            if !found.matches(bytes, digest) {
                cmd("UNLINK").arg(&key).query::<()>(connection)?;
            }
            Ok(Some(found))
        })?;
        let found = found.ok_or(RedisOutputError::NotWritten)?;
        if found.length != bytes {
            return Err(RedisOutputError::Length { found: found.length, expected: bytes });
        }
        if !found.matches(bytes, digest) {
            return Err(RedisOutputError::Damaged { found: found.digest, reported: digest });
        }
        match found.value {
            Some(value) => write(path, &output.name, &value)?,
            None => {
                shelf.taken.insert(path.to_path_buf(), key);
            }
        }
        Ok(())
    }

    /// The key under which a gradient is that was to be in this file; asked for once.
    pub(super) fn take(&self, path: &Path) -> Option<String> {
        self.lock().taken.remove(path)
    }

    /// Offers no more keys for this round.
    pub(super) fn avoid(&self) {
        self.lock().avoided = true;
    }

    /// Begins another round; the keys of gradients of this one that nobody has asked for.
    pub(super) fn begin(&self) -> Vec<String> {
        let mut shelf = self.lock();
        shelf.avoided = false;
        std::mem::take(&mut shelf.taken).into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the server, unless it has failed a moment ago.
    fn with<T>(
        &self,
        shelf: &mut Shelf,
        work: impl FnOnce(&mut Connection, bool) -> RedisResult<T>,
    ) -> Result<T, RedisError> {
        if shelf.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            let url = self.server.server.url().to_owned();
            return Err(RedisError::Unreachable { url, reason: "it did not answer a moment ago".into() });
        }
        let connect = || {
            let mut connection = self.server.connect()?;
            let module = has_module(&mut connection)?;
            Ok((connection, module))
        };
        let kept = shelf.connection.take().filter(|(connection, _)| redis::ConnectionLike::is_open(connection));
        let done = kept.map_or_else(connect, Ok).and_then(|(mut connection, module)| {
            let done = work(&mut connection, module)?;
            shelf.connection = Some((connection, module));
            Ok(done)
        });
        shelf.failed = done.is_err().then(Instant::now);
        done.map_err(|error| self.server.explain(&error))
    }
}

/// What is under a key.
struct Found {
    length: u64,
    /// BLAKE3, as hex digits.
    digest: String,
    /// The bytes, where they had to be fetched.
    value: Option<Vec<u8>>,
}

impl Found {
    fn matches(&self, bytes: u64, digest: Digest) -> bool {
        self.length == bytes && self.digest == digest.to_string()
    }
}

/// Has the module hash the value where it is.
fn inspect(connection: &mut Connection, key: &str) -> RedisResult<Found> {
    let length = cmd("STRLEN").arg(key).query(connection)?;
    let digest = cmd("PEERLESS.DIGEST").arg(key).query(connection)?;
    Ok(Found { length, digest, value: None })
}

/// Takes the value out of the database.
fn fetch(connection: &mut Connection, key: &str) -> RedisResult<Found> {
    let value: Vec<u8> = cmd("GET").arg(key).query(connection)?;
    cmd("UNLINK").arg(key).query::<()>(connection)?;
    Ok(Found { length: value.len() as u64, digest: Digest::of(&value).to_string(), value: Some(value) })
}

/// Writes a file that nobody sees half of.
fn write(path: &Path, name: &str, value: &[u8]) -> Result<(), FileError> {
    let partial = path.with_extension(format!("{name}.partial"));
    fs::write(&partial, value).at("write gradient", &partial)?;
    fs::rename(&partial, path).at("rename gradient", &partial)
}

impl fmt::Debug for RedisOutputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOutputs")
            .field("server", &self.server.server)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

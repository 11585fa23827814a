//! Gradients in a Redis or Valkey server, summed there by our module, or here where it has none.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerless_protocol::{Digest, UnitSet};
use redis::{Client, Connection, RedisResult, Value, cmd};

use super::SumsError;
use super::gradients::{GradientFiles, UnitGradients};
use crate::payload::{Payload, PayloadFormat};

/// How long the server may take to accept a connection or to answer. Longer than any command of the module
/// takes, short enough that a peer whose server hangs goes on by itself.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failure before the server is tried again, so that a server that hangs does not cost every
/// unit a time-out.
const PAUSE: Duration = Duration::from_secs(1);

/// What is left of a round whose peer is gone disappears after this many seconds.
const EXPIRY: u64 = 3600;

/// Is told why the server is not used for the time being.
pub type OnFailure = Box<dyn FnMut(&redis::RedisError) + Send>;

/// Gradients in the database under keys of this peer, and in the files that functions wrote until the round is
/// over. Sums come from the database; while it does not answer, or has lost what it held, from the files. They
/// are the same bytes, so a server that dies costs time and nothing else.
pub struct RedisGradients {
    files: GradientFiles,
    format: PayloadFormat,
    client: Client,
    prefix: String,
    on_failure: OnFailure,
    database: Option<Database>,
    failed: Option<Instant>,
}

/// A connection, and what was put into the database by it in this round.
struct Database {
    connection: Connection,
    module: bool,
    units: UnitSet,
}

impl RedisGradients {
    /// Connects to `url` (`redis://[:password@]host[:port][/database]`). Keys begin with `prefix`, which
    /// nobody else may use at the same time. `on_failure` is called whenever the server stops answering.
    ///
    /// # Errors
    /// If the URL is none or the server does not answer now.
    pub fn connect(format: PayloadFormat, url: &str, prefix: &str, on_failure: OnFailure) -> RedisResult<Self> {
        let files = GradientFiles::new(format);
        let client = Client::open(url)?;
        // In braces, so that all keys are in one slot of a cluster.
        let prefix = format!("{{{prefix}}}");
        let mut gradients = Self { files, format, client, prefix, on_failure, database: None, failed: None };
        gradients.database = Some(gradients.open()?);
        Ok(gradients)
    }

    /// Whether the server sums, by the module; `None` while it does not answer.
    pub fn sums_in_database(&self) -> Option<bool> {
        self.database.as_ref().map(|database| database.module)
    }

    fn open(&self) -> RedisResult<Database> {
        let mut connection = self.client.get_connection_with_timeout(TIMEOUT)?;
        connection.set_read_timeout(Some(TIMEOUT))?;
        connection.set_write_timeout(Some(TIMEOUT))?;
        let known: Vec<Value> = cmd("COMMAND").arg("INFO").arg("PEERLESS.ADD").query(&mut connection)?;
        let module = known.first().is_some_and(|command| *command != Value::Nil);
        if module {
            // What an earlier process or connection left.
            match cmd("PEERLESS.CLEAR").arg(self.sum_key()).query::<()>(&mut connection) {
                Err(error) if error.is_io_error() => return Err(error),
                // Something else is there, or a sum of another model.
                _ => cmd("DEL").arg(self.sum_key()).query::<()>(&mut connection)?,
            }
        }
        Ok(Database { connection, module, units: UnitSet::new() })
    }

    fn sum_key(&self) -> String {
        format!("{}:sum", self.prefix)
    }

    fn gradient_key(&self, unit: u32) -> String {
        format!("{}:gradient:{unit}", self.prefix)
    }

    /// Does something with the database, on a new connection if the old one has failed. `None` if that fails,
    /// too: then the files have to do.
    fn try_database<T>(&mut self, work: impl Fn(&mut Self, &mut Database) -> Result<T, Failure>) -> Option<T> {
        if self.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return None;
        }
        let mut failure = None;
        for _ in 0..2 {
            let database = self.database.take().map_or_else(|| self.open(), Ok);
            let done = database.map_err(Failure::Server).and_then(|mut database| {
                let done = work(self, &mut database)?;
                self.database = Some(database);
                Ok(done)
            });
            match done {
                Ok(done) => {
                    self.failed = None;
                    return Some(done);
                }
                Err(Failure::File) => return None,
                Err(Failure::Server(error)) => failure = Some(error),
            }
        }
        if let Some(failure) = failure {
            (self.on_failure)(&failure);
        }
        self.failed = Some(Instant::now());
        None
    }

    /// Brings the gradients of these units into the database that are not there yet.
    fn upload(&mut self, database: &mut Database, units: &UnitSet) -> Result<(), Failure> {
        for unit in units.difference(&database.units).iter() {
            let key = self.gradient_key(unit);
            let gradient = self.files.read(unit).map_err(|_| Failure::File)?;
            let bytes: &[u8] = bytemuck::cast_slice(gradient);
            cmd("SET").arg(&key).arg(bytes).arg("EX").arg(EXPIRY).query::<()>(&mut database.connection)?;
            if database.module {
                let bits = self.format.grid().fraction_bits();
                let sum = self.sum_key();
                let mut add = cmd("PEERLESS.ADD");
                add.arg(bits).arg(&sum).arg(unit).arg(&key).query::<()>(&mut database.connection)?;
                cmd("EXPIRE").arg(&sum).arg(EXPIRY).query::<()>(&mut database.connection)?;
            }
            database.units.insert(unit);
        }
        Ok(())
    }

    /// The sum of units as the database gives it.
    fn download(&mut self, database: &mut Database, units: &UnitSet) -> Result<Payload, Failure> {
        self.upload(database, units)?;
        let keys: Vec<String> = units.iter().map(|unit| self.gradient_key(unit)).collect();
        let connection = &mut database.connection;
        if !database.module {
            return self.sum_here(connection, units, &keys);
        }
        let bytes: Vec<u8> = if *units == database.units {
            // The server may have evicted the sum and begun another one.
            let info: (String, u32, String, usize, String, Vec<u32>) =
                cmd("PEERLESS.INFO").arg(self.sum_key()).query(connection)?;
            if info.5.into_iter().collect::<UnitSet>() != *units {
                return Err(lost("sum"));
            }
            let last = self.format.bytes() - 1;
            cmd("GETRANGE").arg(self.sum_key()).arg(0).arg(last).query(connection)?
        } else {
            let bits = self.format.grid().fraction_bits();
            cmd("PEERLESS.SUM").arg(bits).arg(&keys).query(connection)?
        };
        Payload::decode_verified(&bytes, &self.format).map_err(|_| lost("sum"))
    }
}

impl RedisGradients {
    /// What `PEERLESS.SUM` does, for servers without the module.
    fn sum_here(&self, connection: &mut Connection, units: &UnitSet, keys: &[String]) -> Result<Payload, Failure> {
        let mut payload = self.format.zeros();
        for (unit, key) in units.iter().zip(keys) {
            // One by one: quicker than all at once, and memory for one of them.
            let bytes: Vec<u8> = cmd("GET").arg(key).query::<Option<_>>(connection)?.unwrap_or_default();
            let gradient: Vec<f32> = bytes.as_chunks().0.iter().map(|element| f32::from_le_bytes(*element)).collect();
            let added = self.format.grid().accumulate(payload.sums_mut(), &gradient, unit);
            added.map_err(|_| lost("gradient"))?;
        }
        Ok(payload)
    }
}

impl UnitGradients for RedisGradients {
    fn clear(&mut self) -> Result<(), SumsError> {
        let keys: Vec<String> = self.files.units().iter().map(|unit| self.gradient_key(unit)).collect();
        self.try_database(|gradients, database| {
            database.units = UnitSet::new();
            if !keys.is_empty() {
                cmd("UNLINK").arg(&keys).query::<()>(&mut database.connection)?;
            }
            if database.module {
                cmd("PEERLESS.CLEAR").arg(gradients.sum_key()).query::<()>(&mut database.connection)?;
            }
            Ok(())
        });
        self.files.clear()
    }

    fn units(&self) -> &UnitSet {
        self.files.units()
    }

    /// Adds to the sum of the files, too: that is a check of digest and elements, and the sum that is there
    /// when the server is not.
    fn add(&mut self, unit: u32, path: &Path, digest: Digest) -> Result<(), SumsError> {
        self.files.add(unit, path, digest)?;
        let units = self.files.units().clone();
        self.try_database(|gradients, database| gradients.upload(database, &units));
        Ok(())
    }

    fn sum(&mut self, units: &UnitSet) -> Result<Arc<Payload>, SumsError> {
        if let Some(unit) = units.difference(self.files.units()).iter().next() {
            return Err(SumsError::MissingUnit { unit });
        }
        match self.try_database(|gradients, database| gradients.download(database, units)) {
            Some(payload) => Ok(Arc::new(payload)),
            None => self.files.sum(units),
        }
    }
}

impl fmt::Debug for RedisGradients {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisGradients")
            .field("prefix", &self.prefix)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Why the database could not be used.
enum Failure {
    Server(redis::RedisError),
    /// The gradient's file cannot be read; the files tell why.
    File,
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        Self::Server(error)
    }
}

/// A server that was started again without its data, or whose keys somebody else has changed.
fn lost(what: &'static str) -> Failure {
    Failure::Server(redis::RedisError::from((
        redis::ErrorKind::UnexpectedReturnType,
        "the database has lost a value",
        what.into(),
    )))
}

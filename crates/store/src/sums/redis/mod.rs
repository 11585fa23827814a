//! Gradients in a Redis or Valkey server, summed there by our module, or here where it has none.

mod connection;
mod outputs;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerless_protocol::{Digest, UnitSet};
use redis::{Connection, RedisResult, cmd};

use self::connection::{Server, has_module};
use super::SumsError;
use super::gradients::{GradientFiles, UnitGradients};
use crate::files;
use crate::payload::{Payload, PayloadFormat};
use crate::redis_server::{RedisError, RedisServer};

pub use outputs::{RedisOutput, RedisOutputError, RedisOutputs};

/// Pause after a failure before the server is tried again, so that a server that hangs does not cost every
/// unit a time-out.
const PAUSE: Duration = Duration::from_secs(1);

/// What is left of a round whose peer is gone disappears after this many seconds.
const EXPIRY: u64 = 3600;

/// Errors of the module for gradients that would be refused in a file, too.
const NOT_ON_GRID: [&str; 4] = ["NAN", "INFINITE", "OUTOFRANGE", "OVERFLOW"];

/// How the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisState {
    /// It answers.
    Answers {
        /// Whether its module sums; gradients are fetched and summed here otherwise.
        module: bool,
    },
    /// It does not do what it should, so that gradients are summed from files.
    Away(RedisError),
}

/// Is told when the server's state changes: once when an outage begins, and once when it is over.
pub type OnChange = Box<dyn FnMut(&RedisState) + Send>;

/// Gradients in the database under keys of this peer, and in the files that functions wrote until the round is
/// over. Sums come from the database; while it does not answer, or has lost what it held, from the files. They
/// are the same bytes, so a server that dies costs time and nothing else.
///
/// Gradients that functions wrote to the database themselves ([`RedisOutputs`]) are in no file. When they are lost
/// their units have to be computed again.
pub struct RedisGradients {
    files: GradientFiles,
    outputs: Option<Arc<RedisOutputs>>,
    /// Gradients that are in the database alone.
    written: BTreeMap<u32, Written>,
    /// Units in files and in the database alone.
    units: UnitSet,
    format: PayloadFormat,
    server: Server,
    prefix: String,
    on_change: OnChange,
    /// What was told last.
    told: Option<RedisState>,
    database: Option<Database>,
    failed: Option<Instant>,
}

/// A gradient that is in the database alone.
#[derive(Debug)]
struct Written {
    key: String,
    digest: Digest,
}

/// A connection, and what was put into the database by it in this round.
struct Database {
    connection: Connection,
    module: bool,
    units: UnitSet,
}

/// Whether a server could keep gradients under keys with this prefix now, and whether it has the module.
///
/// # Errors
/// [`RedisError`].
pub fn check_redis(server: &RedisServer, prefix: &str) -> Result<bool, RedisError> {
    let server = Server::new(server.clone())?;
    let module = server.connect().and_then(|mut connection| probe(&mut connection, &braced(prefix)));
    module.map_err(|error| server.explain(&error))
}

/// Writes something, so that a right that is missing shows at once; whether the server has the module.
fn probe(connection: &mut Connection, prefix: &str) -> RedisResult<bool> {
    cmd("SET").arg(format!("{prefix}:probe")).arg("").arg("EX").arg(1).query::<()>(connection)?;
    has_module(connection)
}

/// In braces, so that all keys are in one slot of a cluster.
fn braced(prefix: &str) -> String {
    format!("{{{prefix}}}")
}

impl RedisGradients {
    /// Gradients in the database of `server`, under keys that begin with `prefix`, which nobody else may use at
    /// the same time. Connects when the first gradient comes.
    ///
    /// # Errors
    /// [`RedisError`] if the server's name can be none.
    pub fn new(
        format: PayloadFormat,
        server: &RedisServer,
        prefix: &str,
        on_change: OnChange,
    ) -> Result<Self, RedisError> {
        let files = GradientFiles::new(format);
        let server = Server::new(server.clone())?;
        let prefix = braced(prefix);
        Ok(Self {
            files,
            outputs: None,
            written: BTreeMap::new(),
            units: UnitSet::new(),
            format,
            server,
            prefix,
            on_change,
            told: None,
            database: None,
            failed: None,
        })
    }

    /// With gradients that functions write to the same database themselves.
    #[must_use]
    pub fn with_outputs(self, outputs: Arc<RedisOutputs>) -> Self {
        Self { outputs: Some(outputs), ..self }
    }

    /// Connects now.
    ///
    /// # Errors
    /// Why it does not work; it is tried again later all the same.
    pub fn connect(&mut self) -> Result<(), RedisError> {
        let opened = self.open();
        opened.map(|database| self.answers(database)).map_err(|error| self.away(&error))
    }

    /// The server works.
    fn answers(&mut self, database: Database) {
        self.failed = None;
        self.tell(RedisState::Answers { module: database.module });
        self.database = Some(database);
    }

    /// The server does not work for now.
    fn away(&mut self, error: &redis::RedisError) -> RedisError {
        self.failed = Some(Instant::now());
        let error = self.server.explain(error);
        // An outage is told once, with its first reason.
        if !matches!(self.told, Some(RedisState::Away(_))) {
            self.tell(RedisState::Away(error.clone()));
        }
        error
    }

    fn tell(&mut self, state: RedisState) {
        if self.told.as_ref() != Some(&state) {
            (self.on_change)(&state);
            self.told = Some(state);
        }
    }

    /// Whether the server sums, by the module; `None` while it does not answer.
    pub fn sums_in_database(&self) -> Option<bool> {
        self.database.as_ref().map(|database| database.module)
    }

    fn open(&self) -> RedisResult<Database> {
        let mut connection = self.server.connect()?;
        let module = probe(&mut connection, &self.prefix)?;
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
        let written = self.written.get(&unit).map(|written| written.key.clone());
        written.unwrap_or_else(|| format!("{}:gradient:{unit}", self.prefix))
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
                Ok((done, database))
            });
            match done {
                Ok((done, database)) => {
                    self.answers(database);
                    return Some(done);
                }
                Err(Failure::File) => return None,
                Err(Failure::Server(error)) => failure = Some(error),
            }
        }
        self.away(&failure?);
        None
    }

    /// Brings the gradients of these units into the database that are not there yet.
    fn upload(&mut self, database: &mut Database, units: &UnitSet) -> Result<(), Failure> {
        for unit in units.difference(&database.units).iter() {
            let key = self.gradient_key(unit);
            if !self.written.contains_key(&unit) {
                let gradient = self.files.read(unit).map_err(|_| Failure::File)?;
                let bytes: &[u8] = bytemuck::cast_slice(gradient);
                cmd("SET").arg(&key).arg(bytes).arg("EX").arg(EXPIRY).query::<()>(&mut database.connection)?;
            }
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

impl RedisGradients {
    /// Counts a gradient that is in the database alone. Its digest was checked there; its elements are by the sum.
    fn add_written(&mut self, unit: u32, key: String, digest: Digest) -> Result<(), SumsError> {
        let present = self.written.get(&unit).map(|written| written.digest).or(self.files.digest(unit));
        if let Some(first) = present {
            self.unlink(&[key]);
            let same = first == digest;
            return if same { Ok(()) } else { Err(SumsError::NotDeterministic { unit, first, second: digest }) };
        }
        let others = self.units.clone();
        self.written.insert(unit, Written { key: key.clone(), digest });
        self.units.insert(unit);
        let refused = self.try_database(|gradients, database| {
            gradients.upload(database, &others)?;
            match gradients.upload(database, &[unit].into_iter().collect()) {
                Err(Failure::Server(error)) if error.code().is_some_and(|code| NOT_ON_GRID.contains(&code)) => {
                    Ok(cmd("GET").arg(&key).query::<Option<Vec<u8>>>(&mut database.connection)?)
                }
                // One that cannot be counted now is lost, which whoever wants the sum will hear.
                uploaded => uploaded.map(|()| None),
            }
        });
        let Some(Some(bytes)) = refused else { return Ok(()) };
        self.forget(&[unit].into_iter().collect());
        self.unlink(&[key]);
        // The same error as for a file.
        let gradient: Vec<f32> = bytes.as_chunks().0.iter().map(|element| f32::from_le_bytes(*element)).collect();
        self.format.grid().accumulate(self.format.zeros().sums_mut(), &gradient, unit)?;
        Err(SumsError::Lost { units: [unit].into_iter().collect() })
    }

    /// Forgets units that are in no file.
    fn forget(&mut self, units: &UnitSet) {
        self.written.retain(|unit, _| !units.contains(*unit));
        self.units = self.units.difference(units);
    }

    /// Frees values, unless the server does not answer; then they expire.
    fn unlink(&mut self, keys: &[String]) {
        if !keys.is_empty() {
            self.try_database(|_, database| Ok(cmd("UNLINK").arg(keys).query::<()>(&mut database.connection)?));
        }
    }
}

impl UnitGradients for RedisGradients {
    fn clear(&mut self) -> Result<(), SumsError> {
        let mut keys: Vec<String> = self.units.iter().map(|unit| self.gradient_key(unit)).collect();
        keys.extend(self.outputs.iter().flat_map(|outputs| outputs.begin()));
        self.unlink(&keys);
        self.try_database(|gradients, database| {
            database.units = UnitSet::new();
            if database.module {
                cmd("PEERLESS.CLEAR").arg(gradients.sum_key()).query::<()>(&mut database.connection)?;
            }
            Ok(())
        });
        self.written.clear();
        self.units = UnitSet::new();
        self.files.clear()
    }

    fn units(&self) -> &UnitSet {
        &self.units
    }

    /// Adds a file to the sum of the files, too: that is a check of digest and elements, and the sum that is there
    /// when the server is not.
    fn add(&mut self, unit: u32, path: &Path, digest: Digest) -> Result<(), SumsError> {
        if let Some(key) = self.outputs.as_ref().and_then(|outputs| outputs.take(path)) {
            return self.add_written(unit, key, digest);
        }
        if let Some(Written { digest: first, .. }) = self.written.get(&unit) {
            if *first != digest {
                return Err(SumsError::NotDeterministic { unit, first: *first, second: digest });
            }
            return Ok(files::remove(path)?);
        }
        self.files.add(unit, path, digest)?;
        self.units.insert(unit);
        let units = self.units.clone();
        self.try_database(|gradients, database| gradients.upload(database, &units));
        Ok(())
    }

    fn sum(&mut self, units: &UnitSet) -> Result<Arc<Payload>, SumsError> {
        if let Some(unit) = units.difference(&self.units).iter().next() {
            return Err(SumsError::MissingUnit { unit });
        }
        if let Some(payload) = self.try_database(|gradients, database| gradients.download(database, units)) {
            return Ok(Arc::new(payload));
        }
        let lost = units.difference(self.files.units());
        if lost.is_empty() {
            return self.files.sum(units);
        }
        self.forget(&lost);
        self.outputs.iter().for_each(|outputs| outputs.avoid());
        Err(SumsError::Lost { units: lost })
    }
}

impl fmt::Debug for RedisGradients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisGradients")
            .field("server", &self.server.server)
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

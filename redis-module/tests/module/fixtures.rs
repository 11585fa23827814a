//! A server for each test, random vectors from a printed seed, and commands in short.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::Path;

use peerless_aggregation::FixedPoint;
use peerless_redis_bench::{Server, module, version};
use redis::{Cmd, Connection, FromRedisValue, RedisError, cmd};
use tempfile::TempDir;

pub const GRID: FixedPoint = FixedPoint::DEFAULT;
pub const FRACTION_BITS: u32 = 40;

/// A server with the module, and the folder of its files.
pub struct Database {
    pub folder: TempDir,
    pub server: Server,
    pub connection: Connection,
}

impl Database {
    /// Starts a server; `None`, with a line that says so, if this machine has none.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        if let Err(missing) = version() {
            // Past the capture of the test's output.
            std::io::stderr().write_all(format!("SKIPPED: {missing:#}\n").as_bytes()).unwrap();
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let server = start_in(folder.path(), arguments);
        let connection = server.connect().unwrap();
        Some(Self { folder, server, connection })
    }

    /// Without persistence.
    pub fn in_memory() -> Option<Self> {
        Self::start(&["--save", "", "--appendonly", "no"])
    }

    /// Kills the server and starts another one on its files.
    pub fn kill_and_restart(&mut self, arguments: &[&str]) {
        self.server.kill().unwrap();
        self.server = start_in(self.folder.path(), arguments);
        self.connection = self.server.connect().unwrap();
    }

    pub fn run<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        command.query(&mut self.connection).unwrap()
    }

    pub fn refused(&mut self, command: &Cmd) -> RedisError {
        command.query::<redis::Value>(&mut self.connection).unwrap_err()
    }

    pub fn set(&mut self, key: &str, value: &[u8]) {
        self.run::<()>(cmd("SET").arg(key).arg(value));
    }

    pub fn get(&mut self, key: &str) -> Vec<u8> {
        self.run(cmd("GET").arg(key))
    }

    /// Every key with the server's serialisation of its value.
    pub fn dump(&mut self) -> BTreeMap<String, Value> {
        let keys: Vec<String> = self.run(cmd("KEYS").arg("*"));
        keys.into_iter().map(|key| (key.clone(), Value(self.run(cmd("DUMP").arg(key))))).collect()
    }
}

/// A value as the server serialises it.
#[derive(PartialEq, Eq)]
pub struct Value(Vec<u8>);

/// Few of thousands of bytes, the checksum among them.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes ending in {:02x?}", self.0.len(), self.0.last_chunk::<8>())
    }
}

pub fn start_in(folder: &Path, arguments: &[&str]) -> Server {
    Server::start(folder, Some(&module().unwrap()), arguments).unwrap()
}

/// SplitMix64 (Steele, Lea and Flood 2014).
pub struct Random(u64);

impl Random {
    /// From `PEERLESS_SEED` or a new seed, which is printed.
    pub fn new() -> Self {
        let given = std::env::var("PEERLESS_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| getrandom::u64().unwrap());
        println!("PEERLESS_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// Elements of every magnitude that the grid holds, some far below a step.
    pub fn vector(&mut self, length: usize) -> Vec<f32> {
        let element = |random: &mut Self| {
            let magnitude = 2.0_f32.powi(10 - i32::try_from(random.below(60)).unwrap());
            (random.next() as f32 / u64::MAX as f32 * 2.0 - 1.0) * magnitude
        };
        (0..length).map(|_| element(self)).collect()
    }

    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
    }
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The bytes of a sum as they are documented.
pub fn sum_bytes(fraction_bits: u32, sums: &[i64], units: &[u32]) -> Vec<u8> {
    let mut bytes = b"PLSS\x01\x00\x01".to_vec();
    bytes.push(u8::try_from(fraction_bits).unwrap());
    bytes.extend((sums.len() as u64).to_le_bytes());
    bytes.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    let mut bits = vec![0_u8; units.iter().max().map_or(0, |unit| *unit as usize / 8 + 1)];
    units.iter().for_each(|unit| bits[*unit as usize / 8] |= 1 << (unit % 8));
    bytes.extend(bits);
    bytes
}

/// The exact sum as a peer forms it.
pub fn exact_sum<'a>(grid: FixedPoint, gradients: impl IntoIterator<Item = &'a Vec<f32>>) -> Vec<i64> {
    let mut sums = Vec::new();
    for gradient in gradients {
        sums.resize(gradient.len(), 0);
        grid.accumulate(&mut sums, gradient, 0).unwrap();
    }
    sums
}

pub fn mean(grid: FixedPoint, sums: &[i64], divisor: u64) -> Vec<f32> {
    let mut mean = vec![0.0; sums.len()];
    grid.mean(sums, divisor, &mut mean).unwrap();
    mean
}

/// Adds the gradients under `g:UNIT`.
pub fn add(fraction_bits: u32, sum: &str, units: &[u32]) -> Cmd {
    let pairs: Vec<String> = units.iter().flat_map(|unit| [unit.to_string(), format!("g:{unit}")]).collect();
    let mut add = cmd("PEERLESS.ADD");
    add.arg(fraction_bits).arg(sum).arg(pairs);
    add
}

//! Price tables: TOML with a date and a source for each entry.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::money::Price;

/// The prices that come with the program.
const BUILT_IN: &str = include_str!("../../prices/aws.toml");
const BUILT_IN_NAME: &str = "prices/aws.toml (built in)";

/// Version of the form of a price table.
const VERSION: u32 = 1;
/// Largest table that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What a function platform charges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionPrice {
    /// For 1,024 MB of configured memory during one second of billed time.
    pub usd_per_gb_second: Price,
    /// For a million requests.
    pub usd_per_million_requests: Price,
    /// When the entry was written down, as YYYY-MM-DD.
    pub date: String,
    /// Where the price is published.
    pub source: String,
    /// What it includes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a machine costs that a peer runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinePrice {
    /// For an hour; charged by the microsecond.
    pub usd_per_hour: Price,
    /// When the entry was written down, as YYYY-MM-DD.
    pub date: String,
    /// Where the price is published.
    pub source: String,
    /// What it includes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What requests to a bucket cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketPrice {
    /// For a thousand requests that write or list.
    pub usd_per_thousand_puts: Price,
    /// For a thousand requests that read.
    pub usd_per_thousand_gets: Price,
    /// When the entry was written down, as YYYY-MM-DD.
    pub date: String,
    /// Where the price is published.
    pub source: String,
    /// What it includes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What it costs that functions send data out of their cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressPrice {
    /// For 2^30 bytes.
    pub usd_per_gb: Price,
    /// When the entry was written down, as YYYY-MM-DD.
    pub date: String,
    /// Where the price is published.
    pub source: String,
    /// What it includes, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Prices by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    version: u32,
    /// Of functions.
    #[serde(default)]
    pub function: BTreeMap<String, FunctionPrice>,
    /// Of machines.
    #[serde(default)]
    pub machine: BTreeMap<String, MachinePrice>,
    /// Of buckets.
    #[serde(default)]
    pub bucket: BTreeMap<String, BucketPrice>,
    /// Of traffic out of a cloud.
    #[serde(default)]
    pub egress: BTreeMap<String, EgressPrice>,
}

/// A price table that cannot be used.
#[derive(Debug, Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("cannot read the prices in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is larger than any table.
    #[error("the price table {} is larger than {MAX_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not a price table, or an entry makes no sense.
    #[error("{origin}, line {line}: {message}")]
    Invalid {
        /// The file.
        origin: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Another form than this program knows.
    #[error("{origin} has the version {found}, this program reads version {VERSION}")]
    Version {
        /// The file.
        origin: String,
        /// The version found.
        found: u32,
    },
}

impl PriceTable {
    /// The prices that come with the program.
    ///
    /// # Errors
    /// Never, as long as the tests pass.
    pub fn built_in() -> Result<Self, TableError> {
        Self::parse(BUILT_IN, BUILT_IN_NAME)
    }

    /// Reads a table from a file.
    ///
    /// # Errors
    /// [`TableError`], with the line.
    pub fn read(path: &Path) -> Result<Self, TableError> {
        let at = |source| TableError::Read { path: path.into(), source };
        let mut text = String::new();
        fs::File::open(path).map_err(at)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(at)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(TableError::TooLarge { path: path.into() });
        }
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a table; `origin` names it in errors.
    ///
    /// # Errors
    /// [`TableError::Invalid`] with the line, or [`TableError::Version`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, TableError> {
        let invalid = |line, message: String| TableError::Invalid { origin: origin.to_owned(), line, message };
        let line = |offset: usize| text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
        let table: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(1, |span| line(span.start));
            invalid(at, error.message().replace('\n', " "))
        })?;
        if table.version != VERSION {
            return Err(TableError::Version { origin: origin.to_owned(), found: table.version });
        }
        for (kind, name, date, source) in table.origins() {
            let written = text.find(&format!("[{kind}.")).unwrap_or_default();
            let at = line(text[written..].find(name).map_or(written, |offset| written + offset));
            if !valid_name(name) {
                let message =
                    format!("{name:?} is no name of a price: letters, digits, '.', '-' and '_', not a number");
                return Err(invalid(at, message));
            }
            if !is_date(date) {
                return Err(invalid(at, format!("the date {date:?} of {name} is not of the form 2026-11-22")));
            }
            if source.trim().is_empty() {
                return Err(invalid(at, format!("{name} has no source")));
            }
        }
        Ok(table)
    }

    /// These prices, with those of `other` added and put in the place of those with the same name.
    pub fn with(mut self, other: Self) -> Self {
        self.function.extend(other.function);
        self.machine.extend(other.machine);
        self.bucket.extend(other.bucket);
        self.egress.extend(other.egress);
        self
    }

    /// Kind, name, date and source of each entry.
    fn origins(&self) -> impl Iterator<Item = (&'static str, &str, &str, &str)> {
        let function = self.function.iter().map(|(name, it)| ("function", &**name, &*it.date, &*it.source));
        let machine = self.machine.iter().map(|(name, it)| ("machine", &**name, &*it.date, &*it.source));
        let bucket = self.bucket.iter().map(|(name, it)| ("bucket", &**name, &*it.date, &*it.source));
        let egress = self.egress.iter().map(|(name, it)| ("egress", &**name, &*it.date, &*it.source));
        function.chain(machine).chain(bucket).chain(egress)
    }
}

/// Names stand on command lines, with a `:` or `=` beside them, where also plain dollars may stand.
fn valid_name(name: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !name.is_empty() && name.bytes().all(letters) && name.parse::<f64>().is_err()
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |text: &str, digits: usize| (text.len() == digits).then(|| text.parse::<u8>().ok()).flatten();
    year.len() == 4
        && year.bytes().all(|byte| byte.is_ascii_digit())
        && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
        && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
}

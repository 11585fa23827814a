//! Strings of the database, read in place and written.

use std::collections::BTreeSet;

use redis_module::key::{RedisKey, RedisKeyWritable};
use redis_module::{Context, KeyType, RedisString};

use crate::arguments::printable;
use crate::error::{CommandError, Result};

/// The longest string that a module may write, in bytes.
pub const MAX_BYTES: usize = 512 << 20;

/// A key as it is named in messages.
pub fn name(key: &RedisString) -> String {
    printable(key.as_slice())
}

/// Refuses a command that names a key twice. Two handles of one key would be two pointers to one value, and
/// the first use of either may move it.
pub fn check_distinct<'a>(keys: impl IntoIterator<Item = &'a RedisString>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for key in keys {
        if !seen.insert(key.as_slice()) {
            return Err(CommandError::KeyTwice { key: name(key) });
        }
    }
    Ok(())
}

/// A string that is read where it lies.
pub struct Source {
    key: RedisKey,
    name: String,
}

impl Source {
    /// Opens a key; `None` if there is nothing under it.
    pub fn open_if_any(context: &Context, key: &RedisString) -> Result<Option<Self>> {
        let (opened, name) = (context.open_key(key), name(key));
        if opened.is_null() {
            return Ok(None);
        }
        match opened.key_type() {
            KeyType::String => Ok(Some(Self { key: opened, name })),
            _ => Err(CommandError::NotAString { key: name }),
        }
    }

    /// Opens a key; `what` it should be is said if there is nothing under it.
    pub fn open(context: &Context, key: &RedisString, what: &'static str) -> Result<Self> {
        Self::open_if_any(context, key)?.ok_or_else(|| CommandError::Missing { what, key: name(key) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The string, at no particular alignment.
    pub fn bytes(&self) -> &[u8] {
        // An error is answered for other types and for no key only, which `open` has excluded.
        self.key.read().ok().flatten().unwrap_or_default()
    }

    /// The string as a vector of f32.
    pub fn elements(&self, what: &'static str) -> Result<&[u8]> {
        let bytes = self.bytes();
        if bytes.is_empty() || !bytes.len().is_multiple_of(4) {
            let (key, found) = (self.name.clone(), bytes.len());
            return Err(CommandError::Length { what, key, found, expected: "a multiple of 4, and some".into() });
        }
        Ok(bytes)
    }
}

/// A string that is written.
pub struct Target {
    key: RedisKeyWritable,
    name: String,
}

impl Target {
    /// Opens a key, whether there is a string under it or nothing.
    pub fn open(context: &Context, key: &RedisString) -> Result<Self> {
        let (opened, name) = (context.open_key_writable(key), name(key));
        match opened.key_type() {
            KeyType::String | KeyType::Empty => Ok(Self { key: opened, name }),
            _ => Err(CommandError::NotAString { key: name }),
        }
    }

    /// Opens a key with a string of `length` bytes, above 0. What is in them must be written: what was there
    /// if there was as much, else zeros.
    ///
    /// The server makes a new string itself: one that is handed over is written twice, and memory that the
    /// server has just got from the system costs more than all arithmetic.
    pub fn sized(context: &Context, key: &RedisString, length: usize) -> Result<Self> {
        let target = Self::open(context, key)?;
        if target.exists() {
            if target.update(|bytes| Ok(bytes.len()))? != length {
                target.write(&vec![0; length])?;
            }
            return Ok(target);
        }
        drop(target);
        let last = (length - 1).to_string();
        let failed = |_| CommandError::Write { key: name(key), bytes: length };
        context.call("SETRANGE", &[key.as_slice(), last.as_bytes(), b"\0"]).map_err(failed)?;
        Self::open(context, key)
    }

    pub fn exists(&self) -> bool {
        !self.key.is_empty()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Replaces the string.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        let failed = |_| CommandError::Write { key: self.name.clone(), bytes: bytes.len() };
        self.key.as_string_dma().map_err(failed)?.write(bytes).map_err(failed)?;
        Ok(())
    }

    /// Makes the string longer.
    pub fn append(&self, bytes: &[u8]) -> Result<()> {
        let failed = |_| CommandError::Write { key: self.name.clone(), bytes: bytes.len() };
        self.key.as_string_dma().map_err(failed)?.append(bytes).map_err(failed)?;
        Ok(())
    }

    /// Lets `change` work on the string in place.
    pub fn update<T>(&self, change: impl FnOnce(&mut [u8]) -> Result<T>) -> Result<T> {
        if !self.exists() {
            return change(&mut []);
        }
        let wrong_type = |_| CommandError::NotAString { key: self.name.clone() };
        change(&mut self.key.as_string_dma().map_err(wrong_type)?)
    }

    /// Removes the key.
    pub fn remove(&self) -> Result<()> {
        let failed = |_| CommandError::Write { key: self.name.clone(), bytes: 0 };
        self.key.delete().map(|_| ()).map_err(failed)
    }
}

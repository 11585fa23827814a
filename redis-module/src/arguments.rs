//! Arguments of commands. Whatever a client sends is either a value in its range or an error.

use std::str::FromStr;
use std::vec::IntoIter;

use peerless_aggregation::FixedPoint;
use redis_module::RedisString;

use crate::error::{CommandError, Result};

/// Units are numbered below this, as in the protocol; it bounds the list of units behind a sum.
pub const MAX_UNITS: u32 = 2 * 16_384;

/// The arguments behind a command's name, in order.
pub struct Arguments(IntoIter<RedisString>);

impl Arguments {
    pub fn new(all: Vec<RedisString>) -> Self {
        let mut all = all.into_iter();
        // The command's name.
        all.next();
        Self(all)
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    pub fn key(&mut self) -> Result<RedisString> {
        self.0.next().ok_or(CommandError::Arity)
    }

    /// A number or name in the form that Rust's `FromStr` reads.
    pub fn parse<T: FromStr>(&mut self, what: &'static str, expected: &'static str) -> Result<T> {
        let argument = self.key()?;
        let text = printable(argument.as_slice());
        let parsed = std::str::from_utf8(argument.as_slice()).ok().and_then(|text| text.parse().ok());
        parsed.ok_or(CommandError::Argument { what, found: text, expected })
    }

    pub fn grid(&mut self) -> Result<FixedPoint> {
        let fraction_bits: u32 = self.parse("fraction_bits", "an integer in 8..=44")?;
        Ok(FixedPoint::new(fraction_bits)?)
    }

    pub fn unit(&mut self) -> Result<u32> {
        let expected = "an integer below 32768";
        let unit = self.parse("unit", expected)?;
        let found = || u32::to_string(&unit);
        if unit < MAX_UNITS { Ok(unit) } else { Err(CommandError::Argument { what: "unit", found: found(), expected }) }
    }

    pub fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(CommandError::Arity) }
    }
}

/// The beginning of what a client sent, fit for a message.
pub fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(128)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    format!("{}{more}", shown.escape_ascii())
}

//! What a command answers when it cannot do what was asked. Nothing has changed then.

use peerless_aggregation::{ConfigError, StepError, SumError};
use redis_module::RedisError;
use thiserror::Error;

/// The result of a command or a part of it.
pub type Result<T> = std::result::Result<T, CommandError>;

/// Why a command was refused. The first word of the reply is [`code`](CommandError::code).
#[derive(Debug, Error)]
pub enum CommandError {
    /// Too few arguments, or a list of pairs with one half missing.
    #[error("wrong number of arguments")]
    Arity,
    /// An argument is not a number or a name.
    #[error("{what} is '{found}', but must be {expected}")]
    Argument { what: &'static str, found: String, expected: &'static str },
    /// A key is given where another value of the same command is read or written.
    #[error("key '{key}' is given twice")]
    KeyTwice { key: String },
    /// There is nothing under a key.
    #[error("{what} '{key}' does not exist")]
    Missing { what: &'static str, key: String },
    /// A key holds a list, hash or the like.
    #[error("Operation against a key holding the wrong kind of value: '{key}' is not a string")]
    NotAString { key: String },
    /// The server could not make room.
    #[error("the value of '{key}' cannot be written with {bytes} bytes")]
    Write { key: String, bytes: usize },
    /// A vector is empty, no whole number of elements, or longer than the others or than a string may be.
    #[error("{what} '{key}' has {found} bytes, but must have {expected}")]
    Length { what: &'static str, key: String, found: usize, expected: String },
    /// A string that should be a sum is none.
    #[error("'{key}' is not a sum: {reason}")]
    NotASum { key: String, reason: &'static str },
    /// A sum is on another grid than the command or the other sum.
    #[error("sum '{key}' has {found} fraction bits, but {expected} are asked for")]
    Grid { key: String, found: u32, expected: u32 },
    /// Two sums to be combined hold the same unit.
    #[error("unit {unit} is already in the sum that '{key}' is to be combined with")]
    UnitTwice { key: String, unit: u32 },
    /// A sum without units cannot be combined or applied, nor its mean be formed without divisor.
    #[error("sum '{key}' has no units")]
    NoUnits { key: String },
    /// A gradient cannot be added.
    #[error("gradient '{key}' cannot be added: {source}")]
    Gradient { key: String, source: SumError },
    /// Sums cannot be combined or divided.
    #[error("sum '{key}': {source}")]
    Sum { key: String, source: SumError },
    /// A hyperparameter is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Vectors do not belong to the optimizer.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The mean cannot be formed.
    #[error(transparent)]
    Mean(#[from] SumError),
}

impl CommandError {
    /// The first word of the error reply, by which clients can tell errors apart.
    fn code(&self) -> &'static str {
        match self {
            Self::NotAString { .. } => "WRONGTYPE",
            Self::Missing { .. } => "NOKEY",
            Self::Length { .. } => "LENGTH",
            Self::NotASum { .. } => "NOTASUM",
            Self::Grid { .. } => "GRID",
            Self::UnitTwice { .. } => "UNITTWICE",
            Self::NoUnits { .. } => "NOUNITS",
            Self::Gradient { source, .. } | Self::Sum { source, .. } => match source {
                SumError::NotANumber { .. } => "NAN",
                SumError::Infinite { .. } => "INFINITE",
                SumError::OutOfRange { .. } => "OUTOFRANGE",
                SumError::Overflow { .. } | SumError::CombinedOverflow { .. } => "OVERFLOW",
                SumError::LengthMismatch { .. } | SumError::Scalar { .. } | SumError::ZeroDivisor => "ERR",
            },
            Self::Arity
            | Self::Argument { .. }
            | Self::KeyTwice { .. }
            | Self::Write { .. }
            | Self::Config(_)
            | Self::Step(_)
            | Self::Mean(_) => "ERR",
        }
    }
}

/// Not `From`: the server's bindings already have one for every error, without the code.
pub fn reply(error: CommandError) -> RedisError {
    if let CommandError::Arity = error {
        return RedisError::WrongArity;
    }
    // The bindings keep one byte of every character.
    let message = error.to_string().replace('±', "+-").replace(|c: char| !c.is_ascii_graphic() && c != ' ', "?");
    RedisError::String(format!("{} {message}", error.code()))
}

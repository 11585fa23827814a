//! The errors of this crate, one enum per thing that can fail.

use thiserror::Error;

/// A hyperparameter that no run can use.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ConfigError {
    /// A number lies outside the range in which its formula makes sense.
    #[error("{name} is {value}, but must be {expected}")]
    OutOfRange {
        /// The hyperparameter, as it is named in the spec.
        name: &'static str,
        /// The value that was given.
        value: f64,
        /// The values that are accepted, in words.
        expected: &'static str,
    },
    /// No optimizer has this name.
    #[error("optimizer {name:?} is unknown, use one of {known}")]
    UnknownOptimizer {
        /// The name that was given.
        name: String,
        /// The names that are known, comma-separated.
        known: String,
    },
}

impl ConfigError {
    /// `Ok` if `accepted`, else the error that says what `name` must be instead of `value`.
    pub(crate) fn unless(accepted: bool, name: &'static str, value: f64, expected: &'static str) -> Result<(), Self> {
        if accepted { Ok(()) } else { Err(Self::OutOfRange { name, value, expected }) }
    }
}

/// Values that have no exact sum. The accumulator is as it was before the call.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SumError {
    /// A unit's gradient holds a NaN.
    #[error("gradient of unit {unit} is not a number at element {index}")]
    NotANumber {
        /// The unit whose gradient it is.
        unit: u32,
        /// The first such element.
        index: usize,
    },
    /// A unit's gradient holds an infinity.
    #[error("gradient of unit {unit} is infinite at element {index}")]
    Infinite {
        /// The unit whose gradient it is.
        unit: u32,
        /// The first such element.
        index: usize,
    },
    /// A unit's gradient holds a finite value that is too large for the grid.
    #[error(
        "gradient of unit {unit} is {value} at element {index}, beyond the grid's ±{limit}; \
         lower the learning rate or use fewer fraction bits"
    )]
    OutOfRange {
        /// The unit whose gradient it is.
        unit: u32,
        /// The first such element.
        index: usize,
        /// The value found there.
        value: f32,
        /// The magnitude that the grid cannot reach.
        limit: f64,
    },
    /// Adding a unit's gradient would leave ±2^62 steps.
    #[error("sum overflows at element {index} when unit {unit} is added")]
    Overflow {
        /// The unit that was being added.
        unit: u32,
        /// The first such element.
        index: usize,
    },
    /// Adding or subtracting another sum would leave ±2^62 steps.
    #[error("sum overflows at element {index} when another sum is combined with it")]
    CombinedOverflow {
        /// The first such element.
        index: usize,
    },
    /// Two vectors of one model differ in length.
    #[error("sum has {expected} elements, but {actual} were given")]
    LengthMismatch {
        /// Elements of the accumulator.
        expected: usize,
        /// Elements of the other vector.
        actual: usize,
    },
    /// A scalar is not a number, infinite or too large for the grid.
    #[error("scalar {value} has no place on the grid, which ends at ±{limit}")]
    Scalar {
        /// The value that was given.
        value: f64,
        /// The magnitude that the grid cannot reach.
        limit: f64,
    },
    /// A mean over nothing was asked for.
    #[error("mean has a divisor of zero")]
    ZeroDivisor,
}

impl SumError {
    /// The error as it reads for a vector of which only the elements from `start` on were looked at.
    pub(crate) fn moved_by(mut self, start: usize) -> Self {
        match &mut self {
            Self::NotANumber { index, .. }
            | Self::Infinite { index, .. }
            | Self::OutOfRange { index, .. }
            | Self::Overflow { index, .. }
            | Self::CombinedOverflow { index } => *index += start,
            Self::LengthMismatch { .. } | Self::Scalar { .. } | Self::ZeroDivisor => {}
        }
        self
    }
}

/// Vectors that do not belong to one optimizer step. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StepError {
    /// The gradient or a slot differs in length from the parameters.
    #[error("{what} has {actual} elements, but there are {expected} parameters")]
    LengthMismatch {
        /// The vector that differs.
        what: &'static str,
        /// Number of parameters.
        expected: usize,
        /// Elements of that vector.
        actual: usize,
    },
    /// The optimizer keeps another number of vectors per parameter.
    #[error("optimizer keeps {expected} slots per parameter, but {actual} were given")]
    SlotCount {
        /// Slots that the optimizer keeps.
        expected: usize,
        /// Slots that were given.
        actual: usize,
    },
}

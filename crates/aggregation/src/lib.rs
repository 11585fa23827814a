//! Exact order-free sums and optimizers with one defined order of operations.
//!
//! # Why sums are integers
//!
//! Peers of a run receive gradients in different orders, in different groupings and some of them
//! twice, and still every peer must end a round with the same bits. Floating-point addition is not
//! associative, so a floating-point sum would depend on all of that. [`FixedPoint`] rounds each
//! element once to a grid of 2^-40 and sums integers instead: any order, any grouping and the
//! subtraction of what was counted twice give the same accumulator. A NaN, an infinity or a value
//! beyond the grid cannot be summed and is an error that names the unit it came from.
//!
//! # What makes the rest reproducible
//!
//! The mean is formed once from the exact sum; clipping, the learning rate and the optimizer step
//! follow in plain `f32` and `f64` code. Rust never contracts `a * b + c` into a fused multiply-add,
//! `+ - * /` and `sqrt` are exact to the last bit on every IEEE 754 machine, powers and cosines come
//! from `libm` instead of the platform, and every reduction has one order fixed in the code. What a
//! decision depends on ([`Decisions`]) belongs to the replicated state and is computed from exact
//! sums, so that all peers decide alike and a restart forgets nothing.

mod bytes;
mod clip;
mod decisions;
mod error;
mod fixed_point;
mod optimizer;
mod schedule;

pub use bytes::{UnitBytes, add_bytes};
pub use clip::{clip_by_global_norm, clip_slices_by_global_norm};
pub use decisions::{Decisions, EarlyStopping, Evaluation, Patience, Verdict};
pub use error::{ConfigError, StepError, SumError};
pub use fixed_point::{FixedPoint, add, subtract};
pub use optimizer::Optimizer;
pub use schedule::{LearningRate, Schedule};

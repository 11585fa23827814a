//! Architectures that do not fit on this machine: what a run takes and costs with each of them, at which numbers of peers,
//! sizes of models and rates of failures each is best, and how far the model is off for points that others have published.
//!
//! See docs/projection.md. The formulas are in `crate::model`; here they are applied and written down.

mod inputs;
mod map;
mod published;
mod report;
mod sweep;

pub(crate) use inputs::{Inputs, ModelInput};
pub(crate) use map::cells;
pub(crate) use published::rows;
pub(crate) use report::{Projection, Section};
pub(crate) use sweep::{Setup, sweep};

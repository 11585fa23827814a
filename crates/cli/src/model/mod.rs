//! What training takes and costs: one model for `peerless plan` and `peerless project`.
//!
//! It is pure: it knows neither this machine nor any file. What it starts from is measured, published or assumed
//! (`constants.rs`). docs/planning.md and docs/projection.md have the formulas with their reasons.

mod architecture;
mod constants;
#[cfg(test)]
mod example;
mod failures;
mod job;
mod measured;
mod money;
mod patterns;
mod rounds;
mod run;

pub(crate) use architecture::{ARCHITECTURES, Architecture, Cluster, Machine};
pub(crate) use constants::{Constant, ConstantArgs, Constants, positive};
pub(crate) use failures::{FailureArgs, Failures};
pub(crate) use job::Job;
pub(crate) use measured::{Measured, UnitTime};
pub(crate) use money::{Costs, Prices};
pub(crate) use patterns::{Link, STARTS, start_factor, store_all_reduce, store_scatter_reduce};
pub(crate) use rounds::{Configuration, Place, Prediction, predict};
pub(crate) use run::{Outcome, outcome, usd};

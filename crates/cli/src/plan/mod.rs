//! What a run would take and cost on other numbers of peers, functions and memory; see docs/planning.md.
//!
//! The model ([`predict`], [`Costs`], [`mark`]) is pure: it knows neither this machine nor any file. What it
//! starts from is measured ([`measure()`]), published or assumed (`constants.rs`).

mod against;
mod constants;
#[cfg(test)]
mod example;
mod front;
mod grid;
mod job;
mod measure;
mod measured;
mod model;
mod money;
mod report;

pub(crate) use against::compare;
pub(crate) use constants::ConstantArgs;
pub(crate) use front::mark;
pub(crate) use grid::{Grid, Sizes};
pub(crate) use job::Job;
pub(crate) use measure::measure;
pub(crate) use measured::Measured;
pub(crate) use model::{Place, predict};
pub(crate) use money::{Costs, Prices};
pub(crate) use report::{Plan, Point, constants as constants_table};

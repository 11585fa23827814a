//! What a run would take and cost on other numbers of peers, functions and memory; see docs/planning.md.
//!
//! What it starts from is measured here ([`measure()`]); the model is `crate::model`.

mod against;
mod front;
mod grid;
mod measure;
mod report;

pub(crate) use against::compare;
pub(crate) use front::mark;
pub(crate) use grid::{Grid, Sizes};
pub(crate) use measure::measure;
pub(crate) use report::{Plan, Point, constants as constants_table};

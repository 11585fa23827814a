//! One round as an execution of AWS Step Functions; see docs/step-functions.md.

mod definition;
mod tasks;

pub(crate) use definition::{Machine, definition};
pub(crate) use tasks::{Round, tasks};

//! Plain single-process training loops: what peers and functions are measured against.

mod plain_training;
mod throughput;

pub use plain_training::{PlainTraining, PlainUnit};
pub use throughput::{PlainLoop, Throughput, plain_loop};

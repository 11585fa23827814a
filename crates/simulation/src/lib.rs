//! Many peers in one thread: the real protocol code under virtual time, with a virtual network,
//! virtual functions and faults, everything derived from one seed.
//!
//! Units are cheap stand-ins for gradients, but sums, optimizer and state encoding are the real
//! ones, so that a state digest here means what it means outside.

#![allow(clippy::expect_used, reason = "a violated assumption of the simulator ends the simulation")]

mod faults;
mod model;
mod random;
mod world;

pub use faults::{Fault, Network};
pub use model::{serial_digests, small_spec};
pub use random::Random;
pub use world::{Outcome, World};

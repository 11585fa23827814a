//! The module in a real server, against the crate that every peer sums and steps with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod durability;
mod fixtures;
mod refusals;
mod steps;
mod sums;

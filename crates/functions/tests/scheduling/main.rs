//! Which function a task goes to, and when to a second one: in virtual time, and with real processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod burst;
mod hedged_processes;
mod hedging;
mod keep_warm;
mod scripted;
#[path = "../support/mod.rs"]
mod support;

//! A bucket as functions and others meet it: a real S3-compatible server (SeaweedFS), real signatures. Without the
//! server the tests say that they are skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod bench;
mod dataset;
mod outages;
mod rights;
mod secrets;
mod start;
mod units;
mod weed;

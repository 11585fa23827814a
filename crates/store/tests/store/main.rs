//! The store as its users see it: real files, real processes, real crashes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod apply;
mod checkpoints;
mod crashes;
mod fixtures;
mod ledger;
mod resume;
mod states;
mod sums;
mod tensors;

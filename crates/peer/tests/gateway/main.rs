//! The gateway as functions and others meet it: real sockets, a real HTTP client, and bytes that no
//! client would send.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod arbitrary;
mod bench;
mod function;
mod limits;
mod over_network;
mod reads;
mod runs;
mod secrets;
mod tls;
mod tokens;
mod writes;

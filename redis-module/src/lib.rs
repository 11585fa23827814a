//! In-database aggregation: exact sums of gradients and optimizer steps inside Redis or Valkey.
//!
//! The commands are described in `docs/redis.md`. Everything is in plain strings: gradients, means,
//! parameters and slots are little-endian `f32`, sums have a layout of their own. The server runs one command
//! at a time, so every command is atomic; each checks all of its input before it changes anything.
//!
//! Writing commands are replicated and written to the append-only file as they were given: they are
//! deterministic, so a replica and a replay come to the same bits.

mod aggregate;
mod arguments;
mod digest;
mod error;
mod keys;
mod registration;
mod step;
mod sum;
mod tile;

//! Training with a parameter server, as state machines without I/O: what peer-to-peer is compared with.
//!
//! One [`Server`] holds the state, deals the units of a round out to the [`Worker`]s, and forms the next state from
//! the exact sums that they send. It goes by the same units, sums and covers as [`Node`](crate::Node), so the states
//! are the very same; only who knows what differs. A lost worker's units go to others. A lost server is waited for: the
//! one that takes its place goes on from the state that it has, and the workers go back with it.

mod server;
mod worker;

use crate::node::Crowd;

pub use server::Server;
pub use worker::Worker;

/// A server adds up everything itself: shards would only come together at one place.
const UNSHARDED: Crowd = Crowd { sharded_from: usize::MAX, sparse_from: usize::MAX };

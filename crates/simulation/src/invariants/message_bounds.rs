//! Messages are small and few: no message beyond the limit of the wire, and no more messages per peer
//! and round than the protocol has reasons for.
//!
//! Why: a message beyond the limit is refused by every receiver, and messages without a reason are how
//! a cluster talks itself to death: one answer too many per message is enough. The bound counts the
//! reasons (heartbeats by time and by state, contributions and requests by unit, connections) with room
//! for repetition, so it holds for any fault, and an answer to everything or a forgotten timer breaks it.

use std::time::Duration;

use peerless_protocol::{HEARTBEAT_EVERY, MAX_MESSAGE_BYTES, Message, RoundPlan};

/// Messages per unit of a round and receiver: a contribution, a failure, a request, and once more each.
const PER_UNIT: u64 = 6;

/// Messages per shard of a round and receiver: a piece, a total and a few requests of either.
const PER_SHARD: u64 = 12;

/// Contributions beyond one per unit and receiver, as in the protocol.
const SPARE: u64 = 8;

/// Messages per new connection and receiver: members and heartbeat at each end, twice.
const PER_CONNECTION: u64 = 4;

/// Checks one encoded message.
pub(crate) fn check_size(message: &Message, bytes: usize) -> Result<(), String> {
    let limit = match message {
        Message::Heartbeat(_) | Message::Probe(_) => 128,
        Message::Silent(_) => 64,
        Message::Contribution(signed) => 512 + 16 * signed.contribution.units.len() as usize,
        Message::Leaving | Message::SpecWanted | Message::MembersWanted => 16,
        _ => MAX_MESSAGE_BYTES,
    };
    if bytes <= limit { Ok(()) } else { Err(format!("a message of {bytes} bytes, the bound is {limit}: {message:?}")) }
}

/// What a peer may send from the beginning of one round to that of the next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allowance {
    sent: u64,
    connections: u64,
    states: u64,
}

impl Allowance {
    /// A connection came up.
    pub fn connected(&mut self) {
        self.connections += 1;
    }

    /// The peer has a new state, which it tells at once.
    pub fn new_state(&mut self) {
        self.states += 1;
    }

    /// A message is sent to one of `receivers` peers; `passed` is the time since the round began.
    pub fn sent(&mut self, plan: &RoundPlan, shards: u32, receivers: usize, passed: Duration) -> Result<(), String> {
        self.sent += 1;
        let receivers = receivers.max(1) as u64;
        let beats = passed.as_micros() as u64 / HEARTBEAT_EVERY.as_micros() as u64 + self.states + 2;
        let work = u64::from(plan.total()) * PER_UNIT + u64::from(shards) * PER_SHARD + SPARE;
        // Clocks may be fast by a tenth.
        let bound = receivers * (beats + beats / 8 + work) + self.connections * PER_CONNECTION;
        if self.sent <= bound {
            return Ok(());
        }
        let (sent, ms) = (self.sent, passed.as_millis());
        Err(format!("{sent} messages to {receivers} peers within {ms} ms of one round, the bound is {bound}"))
    }
}

//! What happened, line by line, for people who ask why.

use std::fmt;

use peerless_protocol::Time;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Virtual time.
    pub at: Time,
    /// The round of the peer, or the newest round for what concerns no single peer.
    pub round: u64,
    /// The peer, by index.
    pub peer: Option<usize>,
    /// What happened, and why.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.map_or_else(|| "--".into(), |peer| format!("p{peer}"));
        write!(f, "{:>11.3} ms  round {:<4} {peer:<4} {}", self.at.0 as f64 / 1e3, self.round, self.text)
    }
}

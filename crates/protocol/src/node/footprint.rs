//! How much a peer keeps, for those who watch over it.

use super::Node;

/// What a peer keeps in memory and in its store, in numbers of things. Each has a limit that does not
/// depend on how long the run has lasted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Payloads in the store.
    pub payloads: usize,
    /// Contributions to the round under way.
    pub contributions: usize,
    /// Contributions to the round after it.
    pub early: usize,
    /// Rounds whose state digests are remembered.
    pub history: usize,
    /// Peers whose addresses are remembered.
    pub members: usize,
}

impl Node {
    /// What this peer keeps at present.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            payloads: self.held.len(),
            contributions: self.round.all_entries().count(),
            early: self.early.len(),
            history: self.history.len(),
            members: self.members.len(),
        }
    }
}

//! Deliberate mistakes in the protocol, to show that the checks around it can fail.
//!
//! Only tests switch the feature `mutants` on. Without it a mutant cannot be chosen, and the
//! compiler removes every hook, since `Node::is_mutated` is constant. Mutants of the real code and
//! not of a copy: what a copy shows says nothing about the code that is used.

use crate::node::Node;

/// One mistake. Each is made in one line, at the place that `Node::is_mutated` is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// A round is applied although one unit is in no contribution.
    CoverMayMissAUnit,
    /// A round is applied although units are in several contributions: a backup is counted twice.
    CoverMayOverlap,
    /// Contributions that were computed from another state are taken.
    StaleContributionAccepted,
    /// Signatures of contributions are not checked.
    SignatureNotChecked,
    /// A contribution is taken from a peer that did not make it.
    ForgedAuthorAccepted,
    /// Units, payload size and sample counts of contributions are not checked.
    ContentNotChecked,
    /// A peer may announce as many contributions to the next round as it likes.
    EarlyContributionsWithoutLimit,
    /// Units of a peer that died stay its own.
    NoReassignmentOfTheDead,
    /// Nobody computes what others owe for too long.
    NoBackups,
    /// A payload that was announced but did not arrive is never asked for.
    NoFetchOfLostPayloads,
    /// Sums that overlap stay as they are.
    NoUntangling,
    /// A peer that is behind does not take a state from others.
    ForgetsToCatchUp,
    /// A state that was fetched is taken even if the own one is newer by now.
    AdoptsAnOlderState,
    /// Payloads of rounds that are over are never dropped.
    KeepsPayloadsForEver,
    /// Heartbeats come fifty times as often as they should.
    HeartbeatStorm,
}

#[cfg(feature = "mutants")]
impl Mutant {
    /// Every mutant.
    pub const ALL: [Self; 15] = [
        Self::CoverMayMissAUnit,
        Self::CoverMayOverlap,
        Self::StaleContributionAccepted,
        Self::SignatureNotChecked,
        Self::ForgedAuthorAccepted,
        Self::ContentNotChecked,
        Self::EarlyContributionsWithoutLimit,
        Self::NoReassignmentOfTheDead,
        Self::NoBackups,
        Self::NoFetchOfLostPayloads,
        Self::NoUntangling,
        Self::ForgetsToCatchUp,
        Self::AdoptsAnOlderState,
        Self::KeepsPayloadsForEver,
        Self::HeartbeatStorm,
    ];
}

impl Node {
    /// The same peer, making one mistake from now on.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self
    }

    #[cfg(feature = "mutants")]
    pub(crate) fn is_mutated(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    #[cfg(not(feature = "mutants"))]
    pub(crate) const fn is_mutated(&self, _: Mutant) -> bool {
        false
    }
}

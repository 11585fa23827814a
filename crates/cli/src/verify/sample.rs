//! Which contributions are recomputed.

use std::collections::BTreeMap;

use peerless_protocol::{Digest, StateRef};
use peerless_store::ContributionRecord;

/// A seeded choice of contributions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// The part that is chosen, from 0 to 1.
    pub(crate) fraction: f64,
    /// Equal seeds choose equally, whatever else is in the ledgers.
    pub(crate) seed: u64,
    /// Whether rounds are replayed to reach starting states that are not on disk.
    pub(crate) replay: bool,
}

/// The contributions chosen, by the state that they were computed from.
pub(super) type Chosen = BTreeMap<StateRef, Vec<ContributionRecord>>;

impl Sample {
    /// Puts a contribution among those chosen if it is one.
    pub(super) fn consider(&self, contribution: &ContributionRecord, chosen: &mut Chosen) {
        // Without the digest of its state it is not known what it was computed from.
        let Some(proof) = contribution.proof.as_ref().filter(|_| self.takes(contribution)) else { return };
        let from = StateRef { round: contribution.round, digest: proof.from };
        let others = chosen.entry(from).or_default();
        // Every peer that applied the round has recorded it.
        let same = |other: &ContributionRecord| {
            let shard = |of: &ContributionRecord| of.proof.as_ref().and_then(|proof| proof.shard);
            (other.peer, &other.units, shard(other), other.digest)
                == (contribution.peer, &contribution.units, shard(contribution), contribution.digest)
        };
        if !others.iter().any(same) {
            others.push(contribution.clone());
        }
    }

    fn takes(&self, contribution: &ContributionRecord) -> bool {
        let mut bytes = self.seed.to_le_bytes().to_vec();
        bytes.extend(contribution.round.to_le_bytes());
        bytes.extend(contribution.peer.as_bytes());
        contribution.units.iter().for_each(|unit| bytes.extend(unit.to_le_bytes()));
        let mut word = [0; 8];
        word.copy_from_slice(&Digest::of(&bytes).0[..8]);
        // 53 bits make every double in [0, 1), so that a fraction of 1 takes all and 0 none.
        ((u64::from_le_bytes(word) >> 11) as f64) < self.fraction * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use peerless_protocol::PeerId;

    use super::*;

    fn taken(fraction: f64, seed: u64) -> Vec<u64> {
        let sample = Sample { fraction, seed, replay: false };
        let contribution = |round| ContributionRecord {
            round,
            at_us: 0,
            peer: PeerId([1; 32]),
            units: [0].into_iter().collect(),
            samples: 1,
            digest: None,
            accepted: true,
            proof: None,
        };
        (0..2000).filter(|round| sample.takes(&contribution(*round))).collect()
    }

    #[test]
    fn a_fraction_takes_about_so_many_and_the_seed_decides_which() {
        assert_eq!((taken(0.0, 1).len(), taken(1.0, 1).len()), (0, 2000));
        let some = taken(0.25, 1);
        assert!((400..600).contains(&some.len()), "{}", some.len());
        assert_eq!(some, taken(0.25, 1));
        assert_ne!(some, taken(0.25, 2));
    }
}

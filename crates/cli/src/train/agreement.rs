//! Whether the ledgers of a run's peers tell of the same states.

use std::collections::BTreeMap;
use std::path::Path;

use peerless_peer::run_directory::RunDirectory;
use peerless_protocol::Digest;
use peerless_store::{Ledger, ledger_path};

/// What ledgers are compared with: for each round the state that was found first, and where.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    states: BTreeMap<u64, (Digest, String)>,
    /// For [`Agreement::compare_new`], the first round of each peer that was not compared yet.
    next: BTreeMap<String, u64>,
    /// States that were compared with one found before.
    pub(crate) compared: u64,
    /// What did not agree, for people.
    pub(crate) differences: Vec<String>,
}

impl Agreement {
    /// Rounds of which a state is known.
    pub(crate) fn rounds(&self) -> u64 {
        self.states.len() as u64
    }

    /// The newest round of which a state is known.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.states.keys().next_back().copied()
    }

    /// Compares the states that the ledgers of a run's peers hold beyond those at the last call.
    ///
    /// # Errors
    /// When a ledger cannot be read.
    pub(crate) fn compare_new(&mut self, run: &RunDirectory) -> anyhow::Result<()> {
        for (name, directory) in run.peers()? {
            let first = self.next.get(&name).copied().unwrap_or_default();
            let newest = self.compare_peer(&directory, first, &format!("peer {name}"))?;
            self.next.insert(name, newest.map_or(first, |round| round + 1));
        }
        Ok(())
    }

    /// Compares the states from `first` on that the ledgers of a run's peers hold. `prefix` goes before
    /// the peers' names. A peer that has no ledger yet has no states.
    ///
    /// # Errors
    /// When a ledger cannot be read.
    pub(crate) fn compare(&mut self, run: &RunDirectory, first: u64, prefix: &str) -> anyhow::Result<()> {
        for (name, directory) in run.peers()? {
            self.compare_peer(&directory, first, &format!("{prefix}{name}"))?;
        }
        Ok(())
    }

    /// The newest state that was compared.
    fn compare_peer(&mut self, directory: &Path, first: u64, who: &str) -> anyhow::Result<Option<u64>> {
        let path = ledger_path(directory);
        if !path.exists() {
            return Ok(None);
        }
        let states = Ledger::open_read_only(&path)?.states(first, u32::MAX)?;
        states.iter().for_each(|state| self.add(state.round, state.digest, who));
        Ok(states.last().map(|state| state.round))
    }

    fn add(&mut self, round: u64, digest: Digest, who: &str) {
        let Some((known, first)) = self.states.get(&round) else {
            self.states.insert(round, (digest, who.to_owned()));
            return;
        };
        self.compared += 1;
        if *known != digest {
            let difference =
                format!("round {round}: {who} has state {}, {first} has {}", digest.short(), known.short());
            self.differences.push(difference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_differs_is_named_with_both_peers() {
        let mut agreement = Agreement::default();
        let [same, other] = [b"same", b"othr"].map(|bytes| Digest::of(bytes));
        agreement.add(7, same, "peer 1");
        agreement.add(7, same, "peer 2");
        assert_eq!((agreement.compared, agreement.differences.len()), (1, 0));
        agreement.add(7, other, "peer 3");
        agreement.add(8, other, "peer 3");
        assert_eq!((agreement.compared, agreement.rounds()), (2, 2));
        let [difference] = &agreement.differences[..] else { panic!("{agreement:?}") };
        assert!(difference.contains("round 7: peer 3") && difference.contains("peer 1"), "{difference}");
    }
}

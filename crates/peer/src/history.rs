//! When the rounds of a run were applied, and what was applied again: what failures cost in time.

use std::collections::BTreeMap;

/// When rounds were applied, by all who apply them.
#[derive(Debug, Default)]
pub struct RoundHistory {
    /// When each round was applied first.
    first: BTreeMap<u64, u64>,
    /// How often each round was applied again, by ledger.
    again: BTreeMap<u64, BTreeMap<usize, u64>>,
}

impl RoundHistory {
    /// Takes in what a ledger says, or what it says by now: times with rounds, and rounds that were applied again with
    /// the times that they were applied before. Times are microseconds since the Unix epoch.
    pub fn add(&mut self, ledger: usize, ends: &[(u64, u64)], redone: &[(u64, u64)]) {
        for &(round, _) in redone {
            *self.again.entry(round).or_default().entry(ledger).or_default() += 1;
        }
        let ends = ends.iter().map(|&(at_us, round)| (round, at_us));
        for (round, at_us) in ends.chain(redone.iter().copied()) {
            let first = self.first.entry(round).or_insert(at_us);
            *first = at_us.min(*first);
        }
    }

    /// Rounds that were applied again, each as often as by the peer that did so most often.
    pub fn redone(&self) -> u64 {
        self.again.values().filter_map(|ledgers| ledgers.values().max()).sum()
    }

    /// What the times from one round to the next exceed twice their median by, in microseconds, since a time in
    /// microseconds since the Unix epoch.
    pub fn stalled_us(&self, since_us: u64) -> u64 {
        let times: Vec<u64> = self.first.values().copied().filter(|at_us| *at_us >= since_us).collect();
        let mut gaps: Vec<u64> = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
        gaps.sort_unstable();
        let usual = gaps.get(gaps.len() / 2).copied().unwrap_or_default().saturating_mul(2);
        gaps.into_iter().map(|gap| gap.saturating_sub(usual)).sum()
    }

    /// Forgets all but so many rounds, the newest ones: stalls before them count no more.
    pub fn keep(&mut self, rounds: usize) {
        while self.first.len() > rounds {
            self.first.pop_first();
        }
    }

    /// When rounds were applied first, by number.
    pub fn first(&self) -> &BTreeMap<u64, u64> {
        &self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_apply_the_same_rounds_have_redone_none() {
        let mut history = RoundHistory::default();
        history.add(0, &[(10, 0), (20, 1), (30, 2)], &[]);
        history.add(1, &[(11, 0), (19, 1), (31, 2)], &[]);
        assert_eq!((history.redone(), history.stalled_us(0)), (0, 0));
        assert_eq!(history.first[&1], 19);
    }

    #[test]
    fn a_round_counts_as_often_as_one_peer_has_done_it_again() {
        let mut history = RoundHistory::default();
        // All had died, and go on together; one of them twice.
        history.add(0, &[(90, 0), (95, 1)], &[(0, 1), (1, 2), (0, 50)]);
        history.add(1, &[(91, 0), (96, 1)], &[(0, 3), (1, 4)]);
        assert_eq!(history.redone(), 3);
        assert_eq!((history.first[&0], history.first[&1]), (1, 2));
    }

    #[test]
    fn a_stall_lasts_until_the_run_is_further_than_ever() {
        let mut history = RoundHistory::default();
        // Rounds of 10; after round 3 at 40 a second of nothing, then rounds 2 and 3 again until 1060, and on.
        let ends = [(10, 0), (20, 1), (1050, 2), (1060, 3), (1070, 4), (1080, 5), (1090, 6)];
        history.add(0, &ends, &[(2, 30), (3, 40)]);
        assert_eq!(history.redone(), 2);
        assert_eq!(history.stalled_us(0), 1070 - 40 - 20);
        assert_eq!(history.stalled_us(1000), 0, "before this session");
    }
}

//! What ledgers tell about faults.

use std::collections::BTreeMap;

use peerless_peer::run_directory::RunDirectory;
use peerless_store::{Ledger, RoundRecord, UnitAttempt, ledger_path};

use super::super::percentile;
use super::incident::Incident;

/// A round that takes longer than this many normal ones counts as stalled.
const STALLED: f64 = 2.0;

/// Microseconds before a fault in which a normal round is measured.
const BEFORE_US: u64 = 5_000_000;

/// What the peers of a run wrote down.
#[derive(Debug)]
pub(super) struct Ledgers {
    peers: Vec<PeerLedger>,
}

#[derive(Debug)]
struct PeerLedger {
    name: String,
    /// The rounds that the peer applied, by time.
    rounds: Vec<RoundRecord>,
    attempts: Vec<UnitAttempt>,
}

/// What one fault cost. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    /// The longest time between two commits around the fault at any surviving peer, less a normal round.
    pub(super) gap: f64,
    /// Time beyond normal in rounds that stalled, from the fault until the run was steady again, at the
    /// surviving peer that lost most.
    pub(super) stalled: f64,
    /// From restart, SIGCONT or healing until the last peer has applied a round that was new to all.
    pub(super) back: Option<f64>,
    /// Gradient units that were computed more than once or whose result was thrown away.
    pub(super) units_again: u64,
}

impl Ledgers {
    /// Reads the ledgers of all peers.
    pub(super) fn read(run: &RunDirectory) -> anyhow::Result<Self> {
        let read = |(name, path): (String, std::path::PathBuf)| {
            let ledger = Ledger::open_read_only(&ledger_path(&path))?;
            let mut rounds = ledger.rounds(0, u32::MAX)?;
            rounds.sort_by_key(|round| round.at_us);
            Ok(PeerLedger { name, rounds, attempts: ledger.gradient_attempts(0, u64::MAX)? })
        };
        Ok(Self { peers: run.peers()?.into_iter().map(read).collect::<anyhow::Result<_>>()? })
    }

    /// Median time between two commits in the seconds before each fault, in milliseconds.
    pub(super) fn normal_round(&self, incidents: &[Incident]) -> f64 {
        let calm = |at_us: u64| {
            let earlier = incidents.iter().rev().find(|incident| incident.over_us <= at_us);
            let begin = earlier.map_or(0, |incident| incident.over_us);
            incidents.iter().any(|incident| (incident.at_us.saturating_sub(BEFORE_US)..incident.at_us).contains(&at_us))
                && incidents.iter().all(|incident| !(incident.at_us..incident.over_us).contains(&at_us))
                && begin <= at_us
        };
        let intervals = self.peers.iter().flat_map(|peer| peer.rounds.windows(2));
        let calm = intervals.filter(|pair| calm(pair[0].at_us) && calm(pair[1].at_us));
        percentile(&calm.map(interval).collect::<Vec<_>>(), 50)
    }

    /// What a fault cost, given the time of a normal round.
    pub(super) fn cost(&self, incident: &Incident, normal: f64) -> Cost {
        let survivors = || self.peers.iter().filter(|peer| Some(&peer.name) != incident.away.as_ref());
        let most = |value: &dyn Fn(&PeerLedger) -> f64| survivors().map(value).fold(0.0, f64::max);
        Cost {
            gap: (most(&|peer| peer.longest_gap(incident.at_us)) - normal).max(0.0),
            stalled: most(&|peer| peer.stalled(incident, normal)),
            back: incident.restored_us.and_then(|restored| self.back(restored)),
            units_again: self.units_again(incident),
        }
    }

    /// Milliseconds from a moment until the last peer has applied a round that nobody had applied then.
    fn back(&self, restored_us: u64) -> Option<f64> {
        let front = self.front(restored_us)?;
        let first = |peer: &PeerLedger| {
            let new = peer.rounds.iter().find(|round| round.at_us > restored_us && round.round > front);
            new.map(|round| (round.at_us - restored_us) as f64 / 1000.0)
        };
        self.peers.iter().map(first).try_fold(0.0, |most, time| Some(f64::max(most, time?)))
    }

    /// The newest round that anybody had applied at a moment.
    fn front(&self, at_us: u64) -> Option<u64> {
        let applied = self.peers.iter().flat_map(|peer| &peer.rounds).filter(|round| round.at_us <= at_us);
        applied.map(|round| round.round).max()
    }

    /// Counted over the rounds that were under way at any peer from the fault until all was over.
    fn units_again(&self, incident: &Incident) -> u64 {
        let first = self.front(incident.at_us).map_or(0, |round| round + 1);
        let last = self.front(incident.over_us).unwrap_or(first);
        let mut attempts: BTreeMap<(u64, u32), u64> = BTreeMap::new();
        for attempt in self.peers.iter().flat_map(|peer| peer.attempts(first, last)) {
            *attempts.entry((attempt.round, attempt.unit)).or_default() += 1;
        }
        attempts.values().map(|count| count - 1).sum::<u64>() + incident.lost_with_process
    }
}

impl PeerLedger {
    /// The longest time between two commits, in milliseconds, of which the later one is the first or
    /// second after a moment: the round under way may be hit, or the next one.
    fn longest_gap(&self, at_us: u64) -> f64 {
        let next = self.rounds.partition_point(|round| round.at_us <= at_us);
        let around = self.rounds.get(next.saturating_sub(1)..(next + 2).min(self.rounds.len())).unwrap_or_default();
        around.windows(2).map(interval).fold(0.0, f64::max)
    }

    fn stalled(&self, incident: &Incident, normal: f64) -> f64 {
        let during = |pair: &&[RoundRecord]| (incident.at_us..incident.over_us).contains(&pair[1].at_us);
        let times = self.rounds.windows(2).filter(during).map(interval);
        times.filter(|&time| time > STALLED * normal).map(|time| time - normal).sum()
    }

    fn attempts(&self, first: u64, last: u64) -> &[UnitAttempt] {
        let from = self.attempts.partition_point(|attempt| attempt.round < first);
        let to = self.attempts.partition_point(|attempt| attempt.round <= last);
        self.attempts.get(from..to).unwrap_or_default()
    }
}

/// Milliseconds between two commits.
fn interval(pair: &[RoundRecord]) -> f64 {
    (pair[1].at_us.saturating_sub(pair[0].at_us)) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use peerless_protocol::Digest;
    use peerless_store::RoundTimes;

    use super::*;

    fn round(round: u64, at_ms: u64) -> RoundRecord {
        RoundRecord {
            round,
            at_us: at_ms * 1000,
            state_digest: Digest([0; 32]),
            training_samples: 256,
            training_correct: 0,
            training_loss: None,
            evaluation: None,
            times: RoundTimes::default(),
            units_computed: 1,
            backup_units: 0,
        }
    }

    fn peer(name: &str, rounds: &[(u64, u64)], units: &[(u64, u32)]) -> PeerLedger {
        PeerLedger {
            name: name.to_owned(),
            rounds: rounds.iter().map(|&(number, at_ms)| round(number, at_ms)).collect(),
            attempts: units.iter().map(|&(round, unit)| UnitAttempt { round, unit, succeeded: true }).collect(),
        }
    }

    fn ledgers() -> Ledgers {
        // Peer 2 is away from 105 ms to 400 ms; round 3 takes 210 ms because of that, and its unit 1 is
        // computed by both.
        let one = [(0, 10), (1, 40), (2, 70), (3, 280), (4, 310), (5, 400), (6, 430)];
        let two = [(0, 10), (1, 40), (2, 71), (6, 450)];
        Ledgers { peers: vec![peer("1", &one, &[(2, 0), (3, 0), (3, 1), (6, 0)]), peer("2", &two, &[(2, 1), (3, 1)])] }
    }

    fn incident() -> Incident {
        let away = Some("2".to_owned());
        Incident { at_us: 105_000, restored_us: Some(401_000), over_us: 440_000, away, lost_with_process: 1 }
    }

    #[test]
    fn the_gap_is_that_of_survivors_and_the_way_back_that_of_all() {
        let ledgers = ledgers();
        let normal = ledgers.normal_round(&[incident()]);
        assert_eq!(normal, 30.0);
        let cost = ledgers.cost(&incident(), normal);
        assert_eq!((cost.gap, cost.back), (180.0, Some(49.0)));
        // Rounds 3 (210 ms) and 5 (90 ms).
        assert_eq!(cost.stalled, 180.0 + 60.0);
        assert_eq!(cost.units_again, 1 + 1, "unit 1 of round 3, and what the process took with it");
    }

    #[test]
    fn a_peer_that_never_came_back_has_no_way_back() {
        let mut ledgers = ledgers();
        ledgers.peers[1].rounds.pop();
        assert_eq!(ledgers.cost(&incident(), 30.0).back, None);
    }
}

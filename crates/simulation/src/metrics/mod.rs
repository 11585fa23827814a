//! What a run cost, in numbers.

mod recovery;

use std::collections::BTreeMap;

pub(crate) use recovery::Recovery;

/// Messages and bytes of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn plus(&mut self, other: &Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    fn max(&mut self, other: &Self) {
        self.messages = self.messages.max(other.messages);
        self.bytes = self.bytes.max(other.bytes);
    }
}

/// Traffic over rounds of peers: what a peer sends from the beginning of a round to that of the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerRound {
    /// All of it.
    pub total: Traffic,
    /// The most that one peer sent in one round, messages and bytes on their own.
    pub most: Traffic,
}

impl PerRound {
    fn plus(&mut self, other: &Self) {
        self.total.plus(&other.total);
        self.most.max(&other.most);
    }
}

/// What a peer has sent in its round so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    pub control: Traffic,
    pub payload: Traffic,
}

/// The numbers of one or many runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Rounds of the serial run that were done, each counted once.
    pub rounds: u64,
    /// Rounds begun, each counted for every peer.
    pub peer_rounds: u64,
    /// Messages of the protocol.
    pub control: PerRound,
    /// Exact sums.
    pub payload: PerRound,
    /// States that peers took from others.
    pub states: Traffic,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Received things that were not used, each recorded with its sender.
    pub refused: u64,
    /// Units computed by functions.
    pub units: u64,
    /// Units of the rounds that were done.
    pub units_needed: u64,
    /// From a fault until the last live peer that it concerns noticed, in microseconds.
    pub detect: Vec<u64>,
    /// From a fault until every peer that is up has committed the round that was under way, in
    /// microseconds.
    pub recover: Vec<u64>,
    /// Virtual time, in microseconds.
    pub virtual_time: u64,
    /// From the last fault (or the start) to the end, the longest, in microseconds.
    pub longest_end: u64,
}

impl Metrics {
    /// Adds the numbers of another run.
    pub fn merge(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.peer_rounds += other.peer_rounds;
        self.control.plus(&other.control);
        self.payload.plus(&other.payload);
        self.states.plus(&other.states);
        other.faults.iter().for_each(|(kind, count)| *self.faults.entry(kind).or_default() += count);
        self.refused += other.refused;
        self.units += other.units;
        self.units_needed += other.units_needed;
        self.detect.extend(&other.detect);
        self.recover.extend(&other.recover);
        self.virtual_time += other.virtual_time;
        self.longest_end = self.longest_end.max(other.longest_end);
    }

    pub(crate) fn end_round(&mut self, meter: &mut Meter) {
        for (per_round, sent) in [(&mut self.control, &meter.control), (&mut self.payload, &meter.payload)] {
            per_round.total.plus(sent);
            per_round.most.max(sent);
        }
        *meter = Meter::default();
    }
}

/// Median, 95th percentile and worst of some durations in microseconds, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// Number of durations.
    pub count: usize,
    /// Half are at most this.
    pub median: u64,
    /// 95 of 100 are at most this.
    pub p95: u64,
    /// The longest.
    pub worst: u64,
}

impl Quantiles {
    /// `None` without durations.
    pub fn of(durations: &[u64]) -> Option<Self> {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { count: sorted.len(), median: rank(50)?, p95: rank(95)?, worst: rank(100)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_durations_that_occurred() {
        let durations: Vec<u64> = (1..=20).rev().collect();
        assert_eq!(Quantiles::of(&durations), Some(Quantiles { count: 20, median: 10, p95: 19, worst: 20 }));
        assert_eq!(Quantiles::of(&[]), None);
    }
}

//! The virtual network: delay, loss, repetition, lopsided links and cuts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use peerless_protocol::split_mix;

use crate::random::Random;

/// How the network treats messages and payloads. Delays are in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Delay of each message, drawn anew, so that messages overtake each other.
    pub delay: Range<u64>,
    /// Percentage of messages and payloads that are lost.
    pub loss_percent: u64,
    /// Percentage of messages that arrive twice.
    pub duplicate_percent: u64,
    /// Percentage of directed links on which everything takes five times as long: the way back may
    /// be a fast one.
    pub slow_link_percent: u64,
    /// Rate at which the bytes of payloads and states arrive, in bits per second; 0 for no limit.
    pub bits_per_second: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self { delay: 50..500, loss_percent: 0, duplicate_percent: 0, slow_link_percent: 0, bits_per_second: 0 }
    }
}

/// What slow links cost.
const SLOW_LINK_FACTOR: u64 = 5;

/// A line between some peers and all others that messages do not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The peers on one side.
    pub side: BTreeSet<usize>,
    /// Whether messages into the side are lost.
    pub inbound: bool,
    /// Whether messages out of the side are lost.
    pub outbound: bool,
}

impl Cut {
    /// A partition: nothing passes in either direction.
    pub fn both_ways(side: impl IntoIterator<Item = usize>) -> Self {
        Self { side: side.into_iter().collect(), inbound: true, outbound: true }
    }

    fn stops(&self, from: usize, to: usize) -> bool {
        match (self.side.contains(&from), self.side.contains(&to)) {
            (true, false) => self.outbound,
            (false, true) => self.inbound,
            _ => false,
        }
    }
}

/// The network at one moment.
pub(crate) struct Links {
    settings: Network,
    seed: u64,
    cuts: BTreeMap<u32, Cut>,
}

impl Links {
    pub fn new(settings: Network, seed: u64) -> Self {
        Self { settings, seed, cuts: BTreeMap::new() }
    }

    pub fn cut(&mut self, id: u32, cut: Cut) {
        self.cuts.insert(id, cut);
    }

    pub fn mend(&mut self, id: u32) {
        self.cuts.remove(&id);
    }

    /// Whether anything at all can get from one peer to the other.
    pub fn open(&self, from: usize, to: usize) -> bool {
        !self.cuts.values().any(|cut| cut.stops(from, to))
    }

    /// The delays after which copies of a message arrive: none if it is lost.
    pub fn deliveries(&self, from: usize, to: usize, random: &mut Random) -> [Option<u64>; 2] {
        let first = self.copy(from, to, random);
        let again = self.settings.duplicate_percent > 0 && random.chance(self.settings.duplicate_percent);
        let second = if again { self.copy(from, to, random) } else { None };
        [first, second]
    }

    fn copy(&self, from: usize, to: usize, random: &mut Random) -> Option<u64> {
        let lost = random.chance(self.settings.loss_percent);
        let delay = self.delay(from, to, random);
        (!lost && self.open(from, to)).then_some(delay)
    }

    /// The delay of one message.
    pub fn delay(&self, from: usize, to: usize, random: &mut Random) -> u64 {
        let delay = random.between(self.settings.delay.start, self.settings.delay.end);
        if self.is_slow(from, to) { delay * SLOW_LINK_FACTOR } else { delay }
    }

    /// The time that `bytes` take besides the delay.
    pub fn transmission(&self, bytes: u64) -> u64 {
        (bytes * 8 * 1_000_000).checked_div(self.settings.bits_per_second).unwrap_or(0)
    }

    fn is_slow(&self, from: usize, to: usize) -> bool {
        let link = split_mix(self.seed ^ split_mix((from as u64) << 32 | to as u64));
        self.settings.slow_link_percent > 0 && link % 100 < self.settings.slow_link_percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_in_one_direction_lets_the_other_one_pass() {
        let mut links = Links::new(Network::default(), 1);
        links.cut(1, Cut { side: BTreeSet::from([0]), inbound: false, outbound: true });
        assert_eq!((links.open(0, 1), links.open(1, 0), links.open(1, 2)), (false, true, true));
        links.cut(2, Cut::both_ways([1]));
        links.mend(1);
        assert_eq!((links.open(0, 1), links.open(1, 0), links.open(0, 2)), (false, false, true));
    }
}

//! The simulator's only source of randomness.

use peerless_protocol::{SPLIT_MIX_STEP, split_mix};

/// SplitMix64: small, and one seed gives one sequence everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let bits = split_mix(self.0);
        self.0 = self.0.wrapping_add(SPLIT_MIX_STEP);
        bits
    }

    /// A number in `low..high`; `low` if that is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % high.saturating_sub(low).max(1)
    }

    /// True with probability `percent` / 100.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }
}

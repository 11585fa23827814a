//! A clock per peer: none agrees with another.

use peerless_protocol::Time;

const MILLION: u128 = 1_000_000;

/// A clock that was started at another time than the others and runs at another speed. Monotonic, as
/// the clock of a real peer is: it never jumps, and goes on while its process stands still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// What it shows at virtual time zero, in microseconds.
    pub offset: u64,
    /// By how many microseconds per second it is fast; negative if it is slow.
    pub drift_ppm: i32,
}

impl Clock {
    /// What the clock shows at virtual time `now`.
    pub fn at(&self, now: Time) -> Time {
        let passed = u128::from(now.0) * self.rate() / MILLION;
        Time(self.offset.saturating_add(passed as u64))
    }

    /// The earliest virtual time at which the clock shows `local` or more.
    pub fn reaches(&self, local: Time) -> Time {
        let passed = u128::from(local.0.saturating_sub(self.offset)) * MILLION;
        Time(passed.div_ceil(self.rate()) as u64)
    }

    fn rate(&self) -> u128 {
        (1_000_000 + i64::from(self.drift_ppm)).max(1) as u128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_exactly_when_the_clock_shows_it() {
        for drift_ppm in [-50_000, -1, 0, 3, 70_001] {
            let clock = Clock { offset: 12_345, drift_ppm };
            for local in [12_345, 12_346, 99_999, 7_654_321] {
                let at = clock.reaches(Time(local));
                assert!(clock.at(at) >= Time(local), "{clock:?} {local}");
                assert!(at.0 == 0 || clock.at(Time(at.0 - 1)) < Time(local), "{clock:?} {local}");
            }
        }
    }
}

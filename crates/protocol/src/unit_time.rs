//! How long a unit takes at each peer: measured by itself, announced to all, and what its share of the units is
//! worked out from.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::assignment::{Capacities, Capacity, EVEN_SPEED};
use crate::ids::PeerId;

/// Times kept, of which the median counts. Half as many change it, so stragglers do not, nor what the scheduler of a busy
/// machine does: with four peers on two cores a run of 400 rounds had 36 announcements of 5 times, and 12 of 15.
const WINDOW: usize = 15;

/// Times before anything is said.
const ENOUGH: usize = 3;

/// A time is announced anew once it is so many tenths of the announced one, or the announced one of it. Shares that
/// follow every flutter would only have peers compute the same unit twice.
const NOTEWORTHY_TENTHS: u64 = 15;

/// Peers that take up to so many tenths of the shortest time count as equally fast: equal machines differ by less,
/// also when each of them may be off by [`NOTEWORTHY_TENTHS`].
const EQUAL_TENTHS: u64 = 17;

/// Rounds without a unit of its own after which a peer takes itself for twice as fast as when it was last measured.
/// One that was slow for a while must get units again, or it would never be known to have recovered.
const IDLE_ROUNDS: u32 = 128;

/// From how many rounds later on an announcement counts: by then everyone has heard of it, so that peers deal out
/// the same shares.
const NOTICE_ROUNDS: u64 = 2;

/// A peer's announcement of how long it takes for a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnitTime {
    /// Time of a unit when all functions of the peer are busy, in microseconds; 0 if it is not known.
    pub us: u32,
    /// The first round that it counts for.
    pub from_round: u64,
}

/// What a peer announced last, and before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Announced {
    last: UnitTime,
    before_us: u32,
}

impl Announced {
    pub fn last(&self) -> UnitTime {
        self.last
    }

    /// Takes an announcement; the one that counted until then still does before the new one's first round.
    pub fn take(&mut self, new: UnitTime) {
        if new.from_round != self.last.from_round {
            *self = Self { last: new, before_us: self.last.us };
        }
    }

    /// The time that counts in `round`, in microseconds; 0 if it is not known.
    pub fn at(&self, round: u64) -> u32 {
        if round >= self.last.from_round { self.last.us } else { self.before_us }
    }
}

/// A peer's measurement of its own units.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stopwatch {
    times: VecDeque<Duration>,
    idle_rounds: u32,
}

impl Stopwatch {
    /// `units` units took `elapsed` on `functions` functions. Returns what is to be announced in `round` in place of
    /// `announced`, if anything is.
    pub fn measured(
        &mut self,
        elapsed: Duration,
        units: u32,
        functions: u32,
        round: u64,
        announced: UnitTime,
    ) -> Option<UnitTime> {
        self.idle_rounds = 0;
        if self.times.len() == WINDOW {
            self.times.pop_front();
        }
        self.times.push_back(elapsed / batches(units, functions));
        let us = u64::from(self.median_us()?);
        let known = u64::from(announced.us);
        let alike = known > 0 && us * 10 <= known * NOTEWORTHY_TENTHS && known * 10 <= us * NOTEWORTHY_TENTHS;
        (!alike).then(|| announcement(us, round))
    }

    /// Whether units that have taken `elapsed` so far, and are not done, are slower than what was announced.
    pub fn would_be_slow(&self, elapsed: Duration, units: u32, functions: u32, announced: UnitTime) -> bool {
        (elapsed / batches(units, functions)).as_micros() > u128::from(announced.us)
    }

    /// A round begins in which this peer has units of its own, or has not. Returns what is to be announced.
    pub fn round_began(&mut self, has_units: bool, round: u64, announced: UnitTime) -> Option<UnitTime> {
        self.idle_rounds = if has_units { 0 } else { self.idle_rounds + 1 };
        if self.idle_rounds < IDLE_ROUNDS || announced.us == 0 {
            return None;
        }
        *self = Self::default();
        Some(announcement(u64::from(announced.us / 2), round))
    }

    fn median_us(&self) -> Option<u32> {
        let mut sorted: Vec<Duration> = self.times.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).filter(|_| sorted.len() >= ENOUGH)?;
        Some(u32::try_from(median.as_micros()).unwrap_or(u32::MAX))
    }
}

fn announcement(us: u64, round: u64) -> UnitTime {
    // Zero would say that it is not known.
    UnitTime { us: u32::try_from(us).unwrap_or(u32::MAX).max(1), from_round: round + NOTICE_ROUNDS }
}

/// Batches that `units` units are computed in on `functions` functions.
pub(crate) fn batches(units: u32, functions: u32) -> u32 {
    units.max(1).div_ceil(functions.max(1))
}

/// How fast a function is that takes `us`, where the fastest one takes `fastest`: in parts of [`EVEN_SPEED`].
/// One whose time is not known is taken for as fast as any, so that it gets units and becomes known.
pub(crate) fn speed(us: u32, fastest: u32) -> u32 {
    let (us, fastest) = (u64::from(us), u64::from(fastest));
    if us == 0 || us * 10 <= fastest * EQUAL_TENTHS {
        return EVEN_SPEED;
    }
    u32::try_from(u64::from(EVEN_SPEED) * fastest / us).unwrap_or(EVEN_SPEED).max(1)
}

/// The capacities of peers with so many functions and a time of a unit in microseconds, 0 if it is not known.
pub(crate) fn capacities(peers: &[(PeerId, u32, u32)]) -> Capacities {
    let fastest = peers.iter().map(|(.., us)| *us).filter(|us| *us > 0).min().unwrap_or_default();
    let capacity = |functions, us| Capacity { functions, speed: speed(us, fastest) };
    peers.iter().map(|(peer, functions, us)| (*peer, capacity(*functions, *us))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: UnitTime = UnitTime { us: 0, from_round: 0 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What is announced after each of `times`, in milliseconds.
    fn announcements(stopwatch: &mut Stopwatch, mut announced: UnitTime, times: &[u64]) -> Vec<u32> {
        let measure = |(&time, round): (&u64, u64)| {
            if let Some(new) = stopwatch.measured(ms(time), 1, 1, round, announced) {
                announced = new;
            }
            announced.us / 1000
        };
        times.iter().zip(0..).map(measure).collect()
    }

    #[test]
    fn the_first_announcement_is_the_median_of_three() {
        assert_eq!(announcements(&mut Stopwatch::default(), UNKNOWN, &[900, 10, 12]), [0, 0, 12]);
    }

    #[test]
    fn flutter_and_single_stragglers_are_not_announced() {
        let times = [10, 10, 10, 14, 8, 13, 900, 11, 9];
        assert_eq!(announcements(&mut Stopwatch::default(), UNKNOWN, &times)[2..], [10; 7]);
    }

    #[test]
    fn a_peer_that_becomes_slower_says_so_after_eight_units() {
        let times = [[10; WINDOW], [80; WINDOW]].concat();
        let said = announcements(&mut Stopwatch::default(), UNKNOWN, &times);
        assert_eq!(said.iter().position(|ms| *ms == 80), Some(WINDOW + 7));
    }

    #[test]
    fn units_that_share_functions_are_timed_in_batches() {
        let mut stopwatch = Stopwatch::default();
        let mut said = |round| stopwatch.measured(ms(60), 5, 2, round, UNKNOWN);
        assert_eq!((said(7), said(8)), (None, None));
        assert_eq!(said(9), Some(UnitTime { us: 20_000, from_round: 9 + NOTICE_ROUNDS }));
    }

    #[test]
    fn a_peer_without_units_takes_itself_for_faster_and_faster_until_it_is_measured_again() {
        let mut stopwatch = Stopwatch::default();
        let mut announced = UnitTime { us: 80_000, from_round: 0 };
        for round in 0..u64::from(3 * IDLE_ROUNDS) {
            announced = stopwatch.round_began(false, round, announced).unwrap_or(announced);
        }
        assert_eq!(announced.us, 10_000);
        assert_eq!(stopwatch.round_began(true, 999, announced), None);
        assert_eq!(announcements(&mut stopwatch, announced, &[80, 80, 80]), [10, 10, 80]);
    }

    #[test]
    fn an_announcement_counts_from_its_round_on() {
        let mut announced = Announced::default();
        announced.take(UnitTime { us: 10, from_round: 5 });
        assert_eq!((announced.at(4), announced.at(5)), (0, 10));
        announced.take(UnitTime { us: 10, from_round: 5 });
        announced.take(UnitTime { us: 30, from_round: 9 });
        assert_eq!((announced.at(5), announced.at(8), announced.at(9)), (10, 10, 30));
    }

    #[test]
    fn speeds_are_relative_to_the_fastest_and_small_differences_do_not_count() {
        let speeds = [0, 100, 170, 171, 400, 1600, 160_000].map(|us| speed(us, 100));
        assert_eq!(speeds, [16, 16, 16, 9, 4, 1, 1]);
    }
}

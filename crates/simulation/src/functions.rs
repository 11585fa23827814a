//! Virtual functions: how long a unit takes, and whether it ends.

use std::ops::Range;

use peerless_protocol::Time;

use crate::random::Random;

/// Attempts at a unit before a peer gives it up, as the real retries do.
const ATTEMPTS: u32 = 3;

/// How functions behave. Times are in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Functions {
    /// Time of a unit: each peer draws its own typical time, and a unit takes once to twice that.
    pub unit: Range<u64>,
    /// Functions that a peer can run at once, drawn for each peer.
    pub capacity: Range<u64>,
    /// Percentage of attempts that take `straggler_factor` times as long.
    pub straggler_percent: u64,
    /// See `straggler_percent`.
    pub straggler_factor: u64,
    /// Percentage of attempts that fail.
    pub failure_percent: u64,
    /// Percentage of attempts that never end by themselves.
    pub hang_percent: u64,
    /// Time after which an attempt is ended from outside.
    pub time_limit: u64,
}

impl Default for Functions {
    fn default() -> Self {
        Self {
            unit: 5_000..30_000,
            capacity: 1..2,
            straggler_percent: 0,
            straggler_factor: 1,
            failure_percent: 0,
            hang_percent: 0,
            time_limit: 1_500_000,
        }
    }
}

/// The functions of one peer.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    unit: u64,
    /// When each function is free again.
    busy_until: Vec<Time>,
    /// How many times slower than usual everything is at present.
    pub slowdown: u64,
}

/// The end of all attempts at a unit.
pub(crate) struct Completion {
    pub at: Time,
    pub cause: Option<&'static str>,
}

impl Pool {
    pub fn new(functions: &Functions, random: &mut Random) -> Self {
        let unit = random.between(functions.unit.start, functions.unit.end).max(1);
        let capacity = random.between(functions.capacity.start, functions.capacity.end).max(1);
        Self { unit, busy_until: vec![Time(0); capacity as usize], slowdown: 1 }
    }

    pub fn capacity(&self) -> u32 {
        self.busy_until.len() as u32
    }

    /// Units of the last round are not waited for.
    pub fn abandon(&mut self) {
        self.busy_until.fill(Time(0));
    }

    /// When and how the attempts at a unit end that is given to the pool now.
    pub fn invoke(&mut self, now: Time, always_fails: bool, functions: &Functions, random: &mut Random) -> Completion {
        let mut took = 0;
        let mut cause = None;
        for _ in 0..ATTEMPTS {
            let (time, failure) = self.attempt(always_fails, functions, random);
            took += time;
            cause = failure;
            if cause.is_none() {
                break;
            }
        }
        let free = self.busy_until.iter_mut().min();
        let at = match free {
            Some(free) => {
                *free = Time((*free).max(now).0 + took);
                *free
            }
            None => Time(now.0 + took),
        };
        Completion { at, cause }
    }

    fn attempt(&self, always_fails: bool, functions: &Functions, random: &mut Random) -> (u64, Option<&'static str>) {
        let slow = if random.chance(functions.straggler_percent) { functions.straggler_factor } else { 1 };
        let time = random.between(self.unit, self.unit * 2) * slow * self.slowdown;
        let hangs = random.chance(functions.hang_percent);
        let fails = random.chance(functions.failure_percent) || always_fails;
        if hangs || time > functions.time_limit {
            (functions.time_limit, Some("function took too long"))
        } else if fails {
            (time / 2, Some("function crashed"))
        } else {
            (time, None)
        }
    }
}

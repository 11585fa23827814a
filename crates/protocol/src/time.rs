//! Time as an argument: microseconds since an origin that the caller chooses.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time, in microseconds since the caller's origin. Never read from a clock here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Time passed since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        // Rounded up: at `t + d`, `d` has passed since `t`.
        let micros = u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_deadline_has_come_its_duration_has_passed() {
        let wait = Duration::from_nanos(1_500);
        assert!((Time(10) + wait).since(Time(10)) >= wait);
    }
}

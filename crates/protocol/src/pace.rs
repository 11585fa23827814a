//! How long things take here: deadlines learned from what was observed.

use std::collections::VecDeque;
use std::time::Duration;

use crate::unit_time::batches;

/// Observations kept: enough for a 95th percentile, few enough to follow a change within a minute.
const WINDOW: usize = 64;

/// Deadline before anything was observed: a cold start on a slow platform fits in.
const UNKNOWN: Duration = Duration::from_secs(10);

/// Added to every deadline, since short units are delayed by scheduling far more than in proportion.
const SLACK: Duration = Duration::from_millis(100);

/// Least time given to messages that may be in flight.
const IN_FLIGHT: Duration = Duration::from_millis(20);

/// Recent observations of one kind.
#[derive(Debug, Clone, Default)]
struct Window(VecDeque<Duration>);

impl Window {
    fn push(&mut self, duration: Duration) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(duration);
    }

    fn percentile_95(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied()
    }
}

/// Observed times of computing and of transfer.
///
/// Neither may contain waiting that a deadline caused, or a lost message would make the next deadline
/// longer, and so on without end. So computing is timed by whoever computes, and a transfer only
/// counts if the payload came by itself.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    batch: Window,
    transfer: Window,
}

impl Pace {
    /// Records that `units` units took `elapsed` at a peer with `functions` functions.
    pub fn computed(&mut self, elapsed: Duration, units: u32, functions: u32) {
        self.batch.push(elapsed / batches(units, functions));
    }

    /// Records the time between an announcement and its payload.
    pub fn transferred(&mut self, elapsed: Duration) {
        self.transfer.push(elapsed);
    }

    /// When the delivery of `units` units by a peer with `functions` functions is overdue: twice the observed 95th
    /// percentiles.
    pub fn overdue_after(&self, units: u32, functions: u32) -> Duration {
        let Some(batch) = self.batch.percentile_95() else { return UNKNOWN };
        let transfer = self.transfer.percentile_95().unwrap_or_default();
        batch.saturating_mul(2 * batches(units, functions)) + transfer * 2 + SLACK
    }

    /// How long to wait for messages in flight: before asking for a payload that was announced, or for
    /// the state of a peer that is a round ahead.
    pub fn in_flight(&self) -> Duration {
        (self.transfer.percentile_95().unwrap_or_default() * 2).max(IN_FLIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_follow_what_was_observed() {
        let mut pace = Pace::default();
        assert_eq!(pace.overdue_after(1, 1), UNKNOWN);
        (0..WINDOW).for_each(|_| pace.computed(Duration::from_millis(40), 2, 1));
        assert_eq!(pace.overdue_after(1, 1), Duration::from_millis(140));
        assert_eq!(pace.overdue_after(3, 1), Duration::from_millis(220));
        assert_eq!(pace.overdue_after(3, 3), Duration::from_millis(140));
        (0..WINDOW).for_each(|_| pace.computed(Duration::from_secs(1), 1, 1));
        assert_eq!(pace.overdue_after(1, 1), Duration::from_millis(2100));
        pace.transferred(Duration::from_millis(500));
        assert_eq!(pace.overdue_after(1, 1), Duration::from_millis(3100));
    }

    #[test]
    fn one_straggler_in_fifty_does_not_move_the_deadline() {
        let mut pace = Pace::default();
        (0..49).for_each(|_| pace.computed(Duration::from_millis(20), 1, 1));
        pace.computed(Duration::from_secs(60), 1, 1);
        assert_eq!(pace.overdue_after(1, 1), Duration::from_millis(140));
    }
}

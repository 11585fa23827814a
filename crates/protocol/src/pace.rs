//! How long things take here: deadlines learned from what was observed.

use std::collections::VecDeque;
use std::time::Duration;

/// Observations kept: enough for a 95th percentile, few enough to follow a change within a minute.
const WINDOW: usize = 64;

/// Deadline before anything was observed: a cold start on a slow platform fits in.
const UNKNOWN: Duration = Duration::from_secs(10);

/// Added to every deadline, since short units are delayed by scheduling far more than in proportion.
const SLACK: Duration = Duration::from_millis(100);

/// Observed times per batch of units that a peer runs at once.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    observed: VecDeque<Duration>,
}

impl Pace {
    /// Records that a peer with `capacity` functions delivered `units` units after `elapsed`.
    pub fn observe(&mut self, elapsed: Duration, units: u32, capacity: u32) {
        if self.observed.len() == WINDOW {
            self.observed.pop_front();
        }
        self.observed.push_back(elapsed / batches(units, capacity));
    }

    /// When the delivery of `units` units by a peer of `capacity` is overdue: twice the observed
    /// 95th percentile.
    pub fn overdue_after(&self, units: u32, capacity: u32) -> Duration {
        let Some(percentile) = self.percentile_95() else { return UNKNOWN };
        (percentile * 2).saturating_mul(batches(units, capacity)) + SLACK
    }

    /// How long to wait for messages in flight from a peer that is a round ahead, before asking it
    /// for its state.
    pub fn catch_up_after(&self) -> Duration {
        self.percentile_95().unwrap_or(SLACK).min(SLACK)
    }

    fn percentile_95(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.observed.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied()
    }
}

fn batches(units: u32, capacity: u32) -> u32 {
    units.max(1).div_ceil(capacity.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_follow_what_was_observed() {
        let mut pace = Pace::default();
        assert_eq!(pace.overdue_after(1, 1), UNKNOWN);
        (0..WINDOW).for_each(|_| pace.observe(Duration::from_millis(40), 2, 1));
        assert_eq!(pace.overdue_after(1, 1), Duration::from_millis(140));
        assert_eq!(pace.overdue_after(3, 1), Duration::from_millis(220));
        assert_eq!(pace.overdue_after(3, 3), Duration::from_millis(140));
        (0..WINDOW).for_each(|_| pace.observe(Duration::from_secs(1), 1, 1));
        assert_eq!(pace.overdue_after(1, 1), Duration::from_millis(2100));
    }

    #[test]
    fn one_straggler_in_fifty_does_not_move_the_deadline() {
        let mut pace = Pace::default();
        (0..49).for_each(|_| pace.observe(Duration::from_millis(20), 1, 1));
        pace.observe(Duration::from_secs(60), 1, 1);
        assert_eq!(pace.overdue_after(1, 1), Duration::from_millis(140));
    }
}

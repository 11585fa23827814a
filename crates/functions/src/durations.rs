//! How long calls took lately, by kind of work.

use std::collections::VecDeque;
use std::time::Duration;

use peerless_protocol::UnitKind;
use peerless_protocol::function::Work;

/// Durations kept: enough for a 95th percentile, few enough to follow a change within a minute.
const WINDOW: usize = 64;

/// The last durations of one kind of work.
#[derive(Debug, Default)]
pub(crate) struct Window(VecDeque<Duration>);

impl Window {
    pub(crate) fn push(&mut self, duration: Duration) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(duration);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        self.percentile(50)
    }

    /// The smallest duration that is not exceeded by so many percent of them.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied()
    }
}

/// Windows of the kinds of work that there is enough of to learn from.
#[derive(Debug, Default)]
pub(crate) struct ByKind<T> {
    gradients: T,
    evaluations: T,
}

impl<T> ByKind<T> {
    pub(crate) fn of(&mut self, kind: UnitKind) -> &mut T {
        match kind {
            UnitKind::Gradient => &mut self.gradients,
            UnitKind::Evaluation => &mut self.evaluations,
        }
    }
}

/// The kind of a unit; nothing for other work.
pub(crate) fn unit_kind(work: &Work) -> Option<UnitKind> {
    match work {
        Work::Unit { unit_kind, .. } => Some(*unit_kind),
        Work::Initialise { .. } | Work::Ping => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_last_durations() {
        let mut window = Window::default();
        assert_eq!(window.percentile(95), None);
        (0..1000).for_each(|_| window.push(Duration::from_secs(9)));
        (1..=WINDOW as u64).for_each(|ms| window.push(Duration::from_millis(ms)));
        assert_eq!(window.len(), WINDOW);
        assert_eq!(window.median(), Some(Duration::from_millis(32)));
        assert_eq!(window.percentile(95), Some(Duration::from_millis(61)));
        assert_eq!(window.percentile(100), Some(Duration::from_millis(64)));
    }
}

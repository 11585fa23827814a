//! What of a run's invocations was of no use.

use std::collections::BTreeMap;

/// What became of an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Its result was the first.
    Used,
    /// It gave no result.
    Failed,
    /// Nobody waited for its result any more: a hedge, or a round that was over.
    Discarded,
    /// It gave the result that another one had given before: a backup, or work that was done again after a
    /// crash.
    Repeated,
}

impl Fate {
    /// Those of no use.
    pub const WASTED: [Self; 3] = [Self::Failed, Self::Discarded, Self::Repeated];

    /// Its name, for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Repeated => "repeated",
        }
    }

    /// From the outcome in a ledger; results that were repeated are [`FirstResults`]' business.
    pub fn of(outcome: &str) -> Self {
        match outcome {
            "ok" => Self::Used,
            "discarded" => Self::Discarded,
            _ => Self::Failed,
        }
    }
}

/// The first result of each unit of each round. Every unit was needed once, and all results for it are equal, so the
/// first one counts, whoever computed it.
#[derive(Debug)]
pub struct FirstResults<T> {
    first: BTreeMap<(u64, u32), (u64, T)>,
    limit: usize,
}

impl<T> Default for FirstResults<T> {
    fn default() -> Self {
        Self::with_limit(usize::MAX)
    }
}

impl<T> FirstResults<T> {
    /// Remembers at most so many units, those of the newest rounds.
    pub fn with_limit(limit: usize) -> Self {
        Self { first: BTreeMap::new(), limit }
    }

    /// Takes in a result for a unit, with the time that it was there. Of this one and the one that was the first until
    /// now, the one that was of no use; `None` if it is the only one.
    pub fn add(&mut self, unit: (u64, u32), at_us: u64, result: T) -> Option<T> {
        let Some(known) = self.first.get_mut(&unit) else {
            self.first.insert(unit, (at_us, result));
            if self.first.len() > self.limit {
                self.first.pop_first();
            }
            return None;
        };
        if known.0 <= at_us {
            return Some(result);
        }
        Some(std::mem::replace(known, (at_us, result)).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_results_for_a_unit_the_first_was_of_use() {
        let mut results = FirstResults::default();
        assert_eq!(results.add((3, 1), 20, 'a'), None);
        assert_eq!(results.add((3, 2), 40, 'b'), None);
        assert_eq!(results.add((3, 1), 10, 'c'), Some('a'));
        assert_eq!(results.add((3, 1), 30, 'd'), Some('d'));
        assert_eq!(results.add((4, 1), 5, 'e'), None);
    }

    #[test]
    fn units_of_old_rounds_are_forgotten() {
        let mut results = FirstResults::with_limit(2);
        for round in 0..4 {
            assert_eq!(results.add((round, 0), round, round), None);
        }
        assert_eq!(results.add((3, 0), 9, 9), Some(9));
        assert_eq!(results.first.len(), 2);
    }
}

//! What of a run's invocations was of no use.

use std::collections::BTreeMap;

use super::Item;

/// What became of an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
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
    pub(crate) const WASTED: [Self; 3] = [Self::Failed, Self::Discarded, Self::Repeated];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Repeated => "repeated",
        }
    }

    /// From the outcome in the ledger.
    pub(super) fn of(outcome: &str) -> Self {
        match outcome {
            "ok" => Self::Used,
            "discarded" => Self::Discarded,
            _ => Self::Failed,
        }
    }
}

/// Every unit was needed once. All results for it are equal, so the first one counts, whoever computed it.
pub(super) fn find_repeated(items: &mut [Item]) {
    let mut first: BTreeMap<(u64, u32), usize> = BTreeMap::new();
    for index in 0..items.len() {
        let Some(unit) = items[index].unit.filter(|_| items[index].fate == Fate::Used) else { continue };
        let Some(known) = first.insert(unit, index) else { continue };
        let loser = if items[known].ended_at_us <= items[index].ended_at_us { index } else { known };
        if loser == index {
            first.insert(unit, known);
        }
        items[loser].fate = Fate::Repeated;
    }
}

#[cfg(test)]
mod tests {
    use peerless_functions::prices::Charge;

    use super::*;

    fn item(unit: Option<(u64, u32)>, ended_at_us: u64, outcome: &str) -> Item {
        Item {
            peer: 0,
            platform: "process".into(),
            unit,
            duration_us: 1,
            ended_at_us,
            charge: Charge::default(),
            fate: Fate::of(outcome),
        }
    }

    #[test]
    fn of_several_results_for_a_unit_the_first_was_of_use() {
        let unit = Some((3, 1));
        let mut items = [
            item(unit, 20, "ok"),
            item(unit, 5, "died"),
            item(unit, 10, "ok"),
            item(unit, 30, "ok"),
            item(Some((3, 2)), 40, "ok"),
            item(Some((4, 1)), 40, "ok"),
            item(unit, 1, "discarded"),
            item(None, 1, "ok"),
            item(None, 2, "ok"),
        ];
        find_repeated(&mut items);
        use Fate::{Discarded, Failed, Repeated, Used};
        let fates = items.map(|item| item.fate);
        assert_eq!(fates, [Repeated, Failed, Used, Repeated, Used, Used, Discarded, Used, Used]);
    }
}

//! What of a run's invocations was of no use.

use peerless_peer::waste::{Fate, FirstResults};

use super::Item;

/// Of several results for a unit, all but the first were repeated.
pub(super) fn find_repeated(items: &mut [Item]) {
    let mut first = FirstResults::default();
    for index in 0..items.len() {
        let Some(unit) = items[index].unit.filter(|_| items[index].fate == Fate::Used) else { continue };
        if let Some(loser) = first.add(unit, items[index].ended_at_us, index) {
            items[loser].fate = Fate::Repeated;
        }
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

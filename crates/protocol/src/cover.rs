//! Covers: picking contributions that hold every unit of a round exactly once.

use crate::units::UnitSet;

/// Sets tried after which the search for a cover gives up. It is only needed when contributions
/// overlap, and then they are few; the bound protects against a peer that announces sets made to be
/// hard. Giving up costs the units that [`disjoint_choice`] leaves, which are asked for or computed.
const MAX_STEPS: u32 = 10_000;

/// Indices of `sets` that together hold each of `units` exactly once and nothing else, or `None`.
/// Larger sets are preferred where sets overlap.
pub fn exact_cover(units: &UnitSet, sets: &[&UnitSet]) -> Option<Vec<usize>> {
    let (simple, left) = disjoint_choice(units, sets);
    if left.is_empty() {
        return Some(simple);
    }
    let mut chosen = Vec::new();
    let mut steps = 0;
    search(units, sets, &mut chosen, &mut steps).then_some(chosen)
}

fn search(left: &UnitSet, sets: &[&UnitSet], chosen: &mut Vec<usize>, steps: &mut u32) -> bool {
    let Some(unit) = left.iter().next() else { return true };
    for (index, set) in sets.iter().enumerate() {
        if !set.contains(unit) || !set.is_subset(left) {
            continue;
        }
        *steps += 1;
        if *steps > MAX_STEPS {
            return false;
        }
        chosen.push(index);
        if search(&left.difference(set), sets, chosen, steps) {
            return true;
        }
        chosen.pop();
    }
    false
}

/// A maximal choice of disjoint sets, larger ones first: what can be used of contributions that
/// overlap. Returns the indices and the units that stay uncovered.
pub fn disjoint_choice(units: &UnitSet, sets: &[&UnitSet]) -> (Vec<usize>, UnitSet) {
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sets[index].len()));
    let mut left = units.clone();
    let mut chosen = Vec::new();
    for index in order {
        if !sets[index].is_empty() && sets[index].is_subset(&left) {
            left = left.difference(sets[index]);
            chosen.push(index);
        }
    }
    (chosen, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(units: &[u32]) -> UnitSet {
        units.iter().copied().collect()
    }

    fn cover(total: u32, sets: &[&[u32]]) -> Option<Vec<usize>> {
        let sets: Vec<UnitSet> = sets.iter().map(|units| set(units)).collect();
        exact_cover(&(0..total).collect(), &sets.iter().collect::<Vec<_>>())
    }

    #[test]
    fn disjoint_sets_that_hold_everything_are_a_cover() {
        assert_eq!(cover(4, &[&[1], &[0, 2], &[3]]), Some(vec![1, 0, 2]));
    }

    #[test]
    fn a_greedy_first_choice_is_taken_back_when_it_leads_nowhere() {
        assert_eq!(cover(4, &[&[0, 1], &[1, 2], &[0], &[3]]), Some(vec![2, 1, 3]));
    }

    #[test]
    fn sets_that_only_overlap_are_no_cover() {
        assert_eq!(cover(4, &[&[0, 1], &[1, 2], &[3]]), None);
    }

    #[test]
    fn a_missing_unit_is_no_cover() {
        assert_eq!(cover(3, &[&[0], &[1]]), None);
    }

    #[test]
    fn a_thousand_single_units_are_a_cover() {
        let sets: Vec<UnitSet> = (0..1000).map(|unit| set(&[unit])).collect();
        let chosen = exact_cover(&(0..1000).collect(), &sets.iter().collect::<Vec<_>>());
        assert_eq!(chosen.map(|chosen| chosen.len()), Some(1000));
    }

    #[test]
    fn a_search_made_to_be_hard_gives_up() {
        let pairs: Vec<UnitSet> = (0..60).flat_map(|a| (a + 1..60).map(move |b| set(&[a, b]))).collect();
        assert_eq!(exact_cover(&(0..61).collect(), &pairs.iter().collect::<Vec<_>>()), None);
    }

    #[test]
    fn the_disjoint_choice_leaves_what_only_overlapping_sets_hold() {
        let sets = [set(&[0, 1]), set(&[1, 2, 3])];
        let (chosen, left) = disjoint_choice(&(0..4).collect(), &sets.iter().collect::<Vec<_>>());
        assert_eq!((chosen, left), (vec![1], set(&[0])));
    }
}

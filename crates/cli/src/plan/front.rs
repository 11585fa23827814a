//! The Pareto front: what cannot be had both quicker and cheaper.

/// For each point of (time, cost) whether no other one is at least as good in both and better in one. Of equal
/// points all or none are on the front.
pub(crate) fn mark<T: Ord + Copy, C: Ord + Copy>(points: &[(T, C)]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_unstable_by_key(|&index| points[index]);
    let mut marks = vec![false; points.len()];
    let mut best: Option<(T, C)> = None;
    for index in order {
        let (time, cost) = points[index];
        let on_front = best.is_none_or(|(at, cheapest)| cost < cheapest || (cost == cheapest && time == at));
        if on_front {
            best = Some((time, cost));
            marks[index] = true;
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use peerless_protocol::split_mix;

    use super::*;

    fn dominates(a: (u64, u64), b: (u64, u64)) -> bool {
        a.0 <= b.0 && a.1 <= b.1 && a != b
    }

    #[test]
    fn no_point_of_the_front_is_dominated_and_every_other_one_is() {
        for seed in 0..500_u64 {
            let mut word = seed;
            let mut draw = |below: u64| {
                word = split_mix(word.wrapping_add(1));
                word % below
            };
            // Few different values, so that equal times, equal costs and equal points are there.
            let size = 1 + draw(30);
            let points: Vec<(u64, u64)> = (0..size).map(|_| (draw(12), draw(12))).collect();
            let marks = mark(&points);
            for (point, marked) in points.iter().zip(&marks) {
                let dominated = points.iter().any(|other| dominates(*other, *point));
                assert_eq!(*marked, !dominated, "seed {seed}: {point:?} of {points:?}");
            }
        }
    }

    #[test]
    fn equal_points_are_on_the_front_together() {
        assert_eq!(mark(&[(1, 5), (1, 5), (2, 5), (3, 1)]), [true, true, false, true]);
        assert_eq!(mark::<u64, u64>(&[]), Vec::<bool>::new());
    }
}

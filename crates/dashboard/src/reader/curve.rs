//! A curve over rounds that takes the same memory however long the run is.

use std::collections::BTreeMap;

/// Points kept before every second one goes.
const LIMIT: usize = 1024;

/// Values by round: all of them, or one of every so many rounds.
#[derive(Debug)]
pub struct Curve {
    stride: u64,
    /// By round divided by the stride: the newest round of the stride, and its value. A mean would depend on which
    /// rounds were read twice.
    points: BTreeMap<u64, (u64, f64)>,
}

impl Default for Curve {
    fn default() -> Self {
        Self { stride: 1, points: BTreeMap::new() }
    }
}

impl Curve {
    /// Takes in a value. Those that are no finite numbers are left out.
    pub fn add(&mut self, round: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        let stride = self.stride;
        put(&mut self.points, stride, (round, value));
        while self.points.len() > LIMIT {
            self.stride *= 2;
            for point in std::mem::take(&mut self.points).into_values() {
                put(&mut self.points, self.stride, point);
            }
        }
    }

    /// The points by round.
    pub fn points(&self) -> Vec<(u64, f64)> {
        self.points.values().copied().collect()
    }
}

fn put(points: &mut BTreeMap<u64, (u64, f64)>, stride: u64, point: (u64, f64)) {
    let known = points.entry(point.0 / stride).or_insert(point);
    if known.0 <= point.0 {
        *known = point;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_curve_has_all_points_in_any_order_of_reading() {
        let mut curve = Curve::default();
        for round in [3, 1, 2, 3, 0] {
            curve.add(round, round as f64);
        }
        curve.add(4, f64::NAN);
        assert_eq!(curve.points(), [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]);
    }

    #[test]
    fn a_long_curve_keeps_the_last_point_and_takes_no_more_memory() {
        let mut curve = Curve::default();
        for round in 0..1_000_000 {
            curve.add(round, round as f64);
        }
        let points = curve.points();
        assert!(points.len() <= LIMIT && points.len() > LIMIT / 4, "{}", points.len());
        assert_eq!(points.last(), Some(&(999_999, 999_999.0)));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}

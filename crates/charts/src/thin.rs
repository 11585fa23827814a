//! Thinning: a line with more points than pixels looks the same with four points a pixel column.

/// Points in pixels, of which consecutive ones in one column of pixels are reduced to the first, the lowest, the highest
/// and the last. The order is kept, and so is every extreme.
pub(crate) fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        let by_height = |a: &(usize, &(f64, f64)), b: &(usize, &(f64, f64))| a.1.1.total_cmp(&b.1.1);
        let lowest = column.iter().enumerate().min_by(by_height).map_or(0, |(index, _)| index);
        let highest = column.iter().enumerate().max_by(by_height).map_or(0, |(index, _)| index);
        let mut indices = [0, lowest, highest, column.len() - 1];
        indices.sort_unstable();
        for (position, &index) in indices.iter().enumerate() {
            if position == 0 || indices[position - 1] != index {
                kept.push(column[index]);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_keeps_its_ends_and_extremes_in_order() {
        let points = [(1.1, 5.0), (1.2, 9.0), (1.3, 7.0), (1.4, 1.0), (1.5, 4.0), (2.0, 3.0)];
        assert_eq!(thin(&points), [(1.1, 5.0), (1.2, 9.0), (1.4, 1.0), (1.5, 4.0), (2.0, 3.0)]);
    }

    #[test]
    fn few_points_stay_as_they_are() {
        let points = [(0.0, 1.0), (5.0, 2.0), (9.0, 0.0)];
        assert_eq!(thin(&points), points);
        assert_eq!(thin(&[]), []);
    }
}

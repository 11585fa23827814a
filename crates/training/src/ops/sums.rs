//! Sums over the rows of a matrix, in one order.

use super::outer::ROWS_PER_CHAIN;
use super::vectorised::vectorised;

/// The sum of each column: chains of rows, added one after the other.
pub(super) fn columns(rows: &[f32], columns: usize) -> Vec<f32> {
    let mut total = vec![0.0; columns];
    let mut chain = vec![0.0; columns];
    vectorised(
        #[inline(always)]
        || {
            for rows in rows.chunks(ROWS_PER_CHAIN * columns) {
                chain.fill(0.0);
                for row in rows.chunks_exact(columns) {
                    for (sum, value) in chain.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                for (total, sum) in total.iter_mut().zip(&chain) {
                    *total += sum;
                }
            }
        },
    );
    total
}

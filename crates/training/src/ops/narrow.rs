//! Products with few columns, of rows that begin one number apart: those of a convolution of images with one channel.
//!
//! A vector of columns would be mostly empty. Here it holds the same column of neighbouring rows. Each result is the
//! same chain of fused multiply-adds as in `kernels.rs`.

use std::array;

use pulp::{Simd, WithSimd, bytemuck};

use super::kernels::Rows;

/// More columns fill a vector well enough.
const MOST_COLUMNS: usize = 8;

/// Whether most of the rows begin one number behind the row before, and the matrix is as `Narrow` expects it.
pub(super) fn suits(rows: Rows<'_>, columns: usize, width: usize) -> bool {
    let neighbours = || rows.bases.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
    columns <= MOST_COLUMNS && width >= MOST_COLUMNS && rows.bases.len() > 1 && 2 * neighbours() >= rows.bases.len()
}

/// Puts the products, added to what each column begins with, into `out`. The matrix has rows of `width` numbers, at least `MOST_COLUMNS`
/// with zeros behind the last column.
pub(super) struct Narrow<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) matrix: &'a [f32],
    pub(super) width: usize,
    pub(super) begin: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl WithSimd for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.begin.len() {
            0..=2 => self.groups::<S, 2>(simd),
            3..=4 => self.groups::<S, 4>(simd),
            5..=6 => self.groups::<S, 6>(simd),
            _ => self.groups::<S, MOST_COLUMNS>(simd),
        }
    }
}

impl Narrow<'_> {
    #[inline(always)]
    fn groups<S: Simd, const COLUMNS: usize>(self, simd: S) {
        let Self { rows, matrix, width, begin, mut out } = self;
        let columns = begin.len();
        let mut first = [simd.splat_f32s(0.0); COLUMNS];
        first.iter_mut().zip(begin).for_each(|(tile, begin)| *tile = simd.splat_f32s(*begin));
        let mut bases = rows.bases;
        while let Some(&base) = bases.first() {
            let neighbours = bases.iter().zip(base..).take(S::F32_LANES);
            let count = neighbours.take_while(|(base, expected)| *base == expected).count();
            let (group, rest) = out.split_at_mut(count * columns);
            let tile = add::<S, COLUMNS>(simd, Rows { bases: &bases[..1], ..rows }, matrix, width, first);
            let found: &[f32] = bytemuck::cast_slice(&tile);
            for (row, out) in group.chunks_exact_mut(columns).enumerate() {
                for (column, out) in out.iter_mut().enumerate() {
                    *out = found[column * S::F32_LANES + row];
                }
            }
            (bases, out) = (&bases[count..], rest);
        }
    }
}

/// Adds the products of the row and those that begin behind it. Lanes beyond the last row of a group are not used.
#[inline(always)]
fn add<S: Simd, const COLUMNS: usize>(
    simd: S,
    row: Rows<'_>,
    matrix: &[f32],
    width: usize,
    mut tile: [S::f32s; COLUMNS],
) -> [S::f32s; COLUMNS] {
    let mut weights = matrix.chunks_exact(width);
    for offset in row.offsets {
        let first = row.bases[0] + offset;
        for (at, weights) in (first..first + row.run).zip(&mut weights) {
            let numbers = numbers(simd, &row.values[at..]);
            let weights: [f32; COLUMNS] = array::from_fn(|column| weights[column]);
            for (tile, weight) in tile.iter_mut().zip(weights) {
                *tile = simd.mul_add_f32s(simd.splat_f32s(weight), numbers, *tile);
            }
        }
    }
    tile
}

/// The first numbers, as many as there are of a vector.
#[inline(always)]
fn numbers<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    let (vectors, rest) = S::as_simd_f32s(&values[..values.len().min(S::F32_LANES)]);
    vectors.first().copied().unwrap_or_else(|| simd.partial_load_f32s(rest))
}

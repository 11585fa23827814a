//! Products of rows of a channels-last image with a matrix, for any instruction set with the same bits.
//!
//! Like those in `outer.rs` they keep a tile of results in registers and let neighbouring lanes hold neighbouring
//! *results*: every result is one chain of fused multiply-adds in the order of the definition. So the number of lanes, the
//! sizes of blocks and the threads that share the work change the speed alone.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::narrow::{self, Narrow};
use super::vectorised::{rectify, vectorised};

/// Terms of a result that are summed before the next block of weights comes into the cache.
const TERMS_PER_BLOCK: usize = 384;
/// Rows of one piece of parallel work.
const ROWS_PER_PIECE: usize = 2048;

/// Rows of numbers inside one slice: row r is, for each offset, the `run` numbers from `bases[r] + offset` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) bases: &'a [usize],
    pub(super) offsets: &'a [usize],
    pub(super) run: usize,
}

impl Rows<'_> {
    /// Numbers of a row.
    pub(super) fn length(&self) -> usize {
        self.offsets.len() * self.run
    }
}

/// A matrix of which a column is a result: blocks of neighbouring columns, each row by row.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    values: Vec<f32>,
    columns: usize,
    shape: TileShape,
    arch: Arch,
}

/// How wide a tile of results is: vectors, and numbers of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileShape {
    pub(super) vectors: usize,
    pub(super) width: usize,
}

impl TileShape {
    /// The fewest tiles that so many columns need, all of the same width.
    pub(super) fn of(arch: Arch, columns: usize) -> Self {
        let (lanes, most) = arch.dispatch(Registers);
        let vectors = columns.div_ceil(lanes).max(1);
        let vectors = vectors.div_ceil(vectors.div_ceil(most));
        Self { vectors, width: vectors * lanes }
    }
}

/// Vectors that so many numbers fill.
pub(super) fn vectors(numbers: usize) -> usize {
    let (lanes, _) = Arch::new().dispatch(Registers);
    numbers.div_ceil(lanes)
}

/// Numbers of a vector, and vectors of the widest tile.
struct Registers;

impl WithSimd for Registers {
    type Output = (usize, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        (S::F32_LANES, if S::REGISTER_COUNT >= 32 { 4 } else { 2 })
    }
}

impl Packed {
    /// The matrix of so many columns whose row r begins at the r-th of `starts` and has its numbers `stride` apart.
    pub(super) fn new(numbers: &[f32], starts: &[usize], columns: usize, stride: usize) -> Self {
        Self::on(Arch::new(), numbers, starts, columns, stride)
    }

    fn on(arch: Arch, numbers: &[f32], starts: &[usize], columns: usize, stride: usize) -> Self {
        let shape = TileShape::of(arch, columns);
        let block = starts.len() * shape.width;
        let mut values = vec![0.0; columns.div_ceil(shape.width) * block];
        for (index, values) in values.chunks_exact_mut(block.max(1)).enumerate() {
            let first = index * shape.width;
            let width = shape.width.min(columns - first);
            for (start, values) in starts.iter().zip(values.chunks_exact_mut(shape.width)) {
                let row = numbers[start + first * stride..].iter().step_by(stride);
                values[..width].iter_mut().zip(row).for_each(|(value, number)| *value = *number);
            }
        }
        Self { values, columns, shape, arch }
    }
}

/// `out[r][c] = bias[c] + sum over i of rows[r][i] * matrix[i][c]`, with i rising, or its positive part. No bias is one
/// of zeros. What `out` was does not matter.
pub(super) fn products(rows: Rows<'_>, matrix: &Packed, bias: Option<&[f32]>, rectified: bool, out: &mut [f32]) {
    let columns = matrix.columns;
    let arch = matrix.arch;
    super::work::add(rows.bases.len() * rows.length() * columns);
    let mut begin = vec![0.0; columns.next_multiple_of(matrix.shape.width)];
    begin[..columns].copy_from_slice(bias.unwrap_or(&vec![0.0; columns]));
    let pieces = out.par_chunks_mut(ROWS_PER_PIECE * columns).zip(rows.bases.par_chunks(ROWS_PER_PIECE));
    pieces.for_each(|(out, bases)| {
        let rows = Rows { bases, ..rows };
        if narrow::suits(rows, columns, matrix.shape.width) {
            let (begin, width) = (&begin[..columns], matrix.shape.width);
            arch.dispatch(Narrow { rows, matrix: &matrix.values, width, begin, out });
        } else {
            arch.dispatch(Products { rows, matrix, begin: &begin, out });
        }
        if rectified {
            vectorised(
                #[inline(always)]
                || rectify(out),
            );
        }
    });
}

struct Products<'a> {
    rows: Rows<'a>,
    matrix: &'a Packed,
    /// What the sums of each column begin with, as wide as the matrix' blocks.
    begin: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::REGISTER_COUNT >= 32, self.matrix.shape.vectors) {
            (true, 1) => self.blocks::<S, 12, 1>(simd),
            (true, 2) => self.blocks::<S, 12, 2>(simd),
            (true, 3) => self.blocks::<S, 8, 3>(simd),
            (true, _) => self.blocks::<S, 6, 4>(simd),
            (false, 1) => self.blocks::<S, 8, 1>(simd),
            (false, _) => self.blocks::<S, 6, 2>(simd),
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const ROWS: usize, const VECTORS: usize>(mut self, simd: S) {
        let Self { rows, matrix, .. } = self;
        let (vectors, _) = S::as_simd_f32s(&matrix.values);
        let (vectors, _) = vectors.as_chunks::<VECTORS>();
        for (block, vectors) in vectors.chunks_exact(rows.length()).enumerate() {
            let first = block * VECTORS * S::F32_LANES;
            let mut is_first = true;
            // Several runs, or a part of one.
            let runs = (TERMS_PER_BLOCK / rows.run).max(1);
            for (offsets, vectors) in rows.offsets.chunks(runs).zip(vectors.chunks(runs * rows.run)) {
                let terms = if runs > 1 { vectors.len() } else { TERMS_PER_BLOCK };
                for (part, vectors) in vectors.chunks(terms).enumerate() {
                    let begin = is_first.then(|| load(simd, &self.begin[first..][..VECTORS * S::F32_LANES]));
                    self.add::<S, ROWS, VECTORS>(simd, first, begin, offsets, part * terms, vectors);
                    is_first = false;
                }
            }
        }
    }

    /// Adds the products of the runs at `offsets`, from their term `skipped` on, to what the columns from `first` on begin
    /// with, if this is the begin, or to what they are so far.
    #[inline(always)]
    fn add<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        first: usize,
        begin: Option<[S::f32s; VECTORS]>,
        offsets: &[usize],
        skipped: usize,
        vectors: &[[S::f32s; VECTORS]],
    ) {
        let columns = self.matrix.columns;
        let last = columns.min(first + VECTORS * S::F32_LANES);
        let run = vectors.len() / offsets.len();
        for (bases, out) in self.rows.bases.chunks(ROWS).zip(self.out.chunks_mut(ROWS * columns)) {
            let mut tile = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
            match begin {
                Some(begin) => tile = [begin; ROWS],
                None => tile.iter_mut().zip(out.chunks_exact(columns)).for_each(
                    #[inline(always)]
                    |(tile, out)| *tile = load(simd, &out[first..last]),
                ),
            }
            // Rows that a last tile lacks are those of its first row, and not kept.
            let mut starts = [bases[0]; ROWS];
            starts[..bases.len()].copy_from_slice(bases);
            for (offset, vectors) in offsets.iter().zip(vectors.chunks_exact(run)) {
                // One length for all, so that the loop over the terms has no checks.
                let mut runs = [&self.rows.values[..0]; ROWS];
                for (run, start) in runs.iter_mut().zip(starts) {
                    *run = &self.rows.values[start + offset + skipped..][..vectors.len()];
                }
                tile = add_run(simd, runs, vectors, tile);
            }
            for (tile, out) in tile.iter().zip(out.chunks_exact_mut(columns)) {
                store(simd, &mut out[first..last], *tile);
            }
        }
    }
}

#[allow(clippy::needless_range_loop, reason = "all of one length and indexed alike, which keeps the tile in registers")]
#[inline(always)]
fn add_run<S: Simd, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    rows: [&[f32]; ROWS],
    matrix: &[[S::f32s; VECTORS]],
    mut tile: [[S::f32s; VECTORS]; ROWS],
) -> [[S::f32s; VECTORS]; ROWS] {
    for (term, vectors) in matrix.iter().enumerate() {
        for row in 0..ROWS {
            let factor = simd.splat_f32s(rows[row][term]);
            for vector in 0..VECTORS {
                tile[row][vector] = simd.mul_add_f32s(factor, vectors[vector], tile[row][vector]);
            }
        }
    }
    tile
}

/// Up to a tile's width of numbers; those that are lacking are zero.
#[inline(always)]
pub(super) fn load<S: Simd, const VECTORS: usize>(simd: S, values: &[f32]) -> [S::f32s; VECTORS] {
    let (whole, rest) = S::as_simd_f32s(values);
    if let Ok(whole) = <&[S::f32s; VECTORS]>::try_from(whole) {
        return *whole;
    }
    let mut values = [simd.splat_f32s(0.0); VECTORS];
    values[..whole.len()].copy_from_slice(whole);
    values[whole.len()] = simd.partial_load_f32s(rest);
    values
}

#[inline(always)]
fn store<S: Simd, const VECTORS: usize>(simd: S, target: &mut [f32], values: [S::f32s; VECTORS]) {
    let (whole, rest) = S::as_mut_simd_f32s(target);
    if let Ok(whole) = <&mut [S::f32s; VECTORS]>::try_from(&mut *whole) {
        *whole = values;
        return;
    }
    let filled = whole.len();
    whole.copy_from_slice(&values[..filled]);
    if let Some(last) = values.get(filled) {
        simd.partial_store_f32s(rest, *last);
    }
}

#[cfg(test)]
mod tests {
    use super::super::outer::{ROWS_PER_CHAIN, outer_products_on};
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 2_654_435_761 + seed * 40_503) % 2_003) as f32 / 1_001.0 - 1.0).collect()
    }

    /// What this machine has, the plainest last.
    fn archs() -> Vec<Arch> {
        let mut archs = vec![Arch::new()];
        #[cfg(target_arch = "x86_64")]
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs.push(Arch::Scalar);
        archs
    }

    /// Rows of runs that overlap, as those of a convolution do.
    const OFFSETS: [usize; 3] = [0, 40, 83];
    const RUN: usize = 19;

    fn bases(count: usize) -> Vec<usize> {
        (0..count).map(|row| row * 7 + row / 5).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        let (values, bias) = (numbers(8_000, 1), numbers(70, 2));
        for (count, columns) in [(1, 1), (13, 6), (29, 16), (40, 33), (300, 70)] {
            let bases = bases(count);
            let rows = Rows { values: &values, bases: &bases, offsets: &OFFSETS, run: RUN };
            let weights = numbers(rows.length() * columns, 3);
            let starts: Vec<usize> = (0..rows.length()).map(|row| row * columns).collect();
            let at = |row: usize, term: usize| values[bases[row] + OFFSETS[term / RUN] + term % RUN];
            let chain = |row: usize, column: usize| {
                let terms = 0..rows.length();
                terms.fold(bias[column], |sum, term| at(row, term).mul_add(weights[term * columns + column], sum))
            };
            let expected: Vec<f32> = (0..count * columns).map(|at| chain(at / columns, at % columns)).collect();
            for arch in archs() {
                let matrix = Packed::on(arch, &weights, &starts, columns, 1);
                let mut out = vec![f32::NAN; count * columns];
                products(rows, &matrix, Some(&bias[..columns]), false, &mut out);
                assert_eq!(out, expected, "{count} rows, {columns} columns, {arch:?}");
            }
        }
    }

    /// Images of one channel and 28 columns under a kernel of 3 rows and 5 columns.
    #[test]
    fn neighbouring_rows_with_few_columns_give_the_bits_of_the_definition() {
        const WINDOW: [usize; 3] = [0, 32, 64];
        let bases: Vec<usize> = (0..75).map(|row| row + row / 28 * 4).collect();
        // No number more than the last row needs.
        let (values, bias) = (numbers(bases[74] + 64 + 5, 1), numbers(9, 2));
        let rows = Rows { values: &values, bases: &bases, offsets: &WINDOW, run: 5 };
        for columns in 1..=9 {
            let weights = numbers(15 * columns, 3);
            let starts: Vec<usize> = (0..15).map(|term| term * columns).collect();
            let at = |row: usize, term: usize| values[bases[row] + WINDOW[term / 5] + term % 5];
            let chain = |row: usize, column: usize| {
                (0..15).fold(bias[column], |sum, term| at(row, term).mul_add(weights[term * columns + column], sum))
            };
            let chains: Vec<f32> = (0..75 * columns).map(|at| chain(at / columns, at % columns)).collect();
            for rectified in [false, true] {
                let floor = |value: &f32| if rectified { value.max(0.0) } else { *value };
                let expected: Vec<f32> = chains.iter().map(floor).collect();
                for arch in archs() {
                    let matrix = Packed::on(arch, &weights, &starts, columns, 1);
                    let mut out = vec![f32::NAN; 75 * columns];
                    products(rows, &matrix, Some(&bias[..columns]), rectified, &mut out);
                    assert_eq!(out, expected, "{columns} columns, {arch:?}");
                }
            }
        }
    }

    #[test]
    fn a_run_that_is_longer_than_a_block_is_one_chain_too() {
        let (run, columns) = (2 * TERMS_PER_BLOCK + 5, 3);
        let (values, weights) = (numbers(2 * run, 1), numbers(run * columns, 2));
        let starts: Vec<usize> = (0..run).map(|row| row * columns).collect();
        let mut out = vec![0.0; 2 * columns];
        let rows = Rows { values: &values, bases: &[0, run], offsets: &[0], run };
        products(rows, &Packed::new(&weights, &starts, columns, 1), None, false, &mut out);
        let chain = |row: usize, column: usize| {
            (0..run).fold(0.0, |sum, term| values[row * run + term].mul_add(weights[term * columns + column], sum))
        };
        assert_eq!(out, [0, 1, 2, 3, 4, 5].map(|at| chain(at / columns, at % columns)));
    }

    #[test]
    fn sums_over_rows_are_chains_added_in_order_with_every_instruction_set() {
        let count = 2 * ROWS_PER_CHAIN + 31;
        let bases = bases(count);
        // Short runs are joined: some with AVX-512 alone, some with AVX2 as well.
        for (offsets, run) in
            [(&OFFSETS[..], RUN), (&[0, 6, 12, 20, 31], 5), (&[0, 8, 19], 3), (&[2, 40], 40), (&[7], 1)]
        {
            // No number more than the last row needs.
            let values = numbers(bases[count - 1] + offsets[offsets.len() - 1] + run, 4);
            let rows = Rows { values: &values, bases: &bases, offsets, run };
            for columns in [1, 5, 17] {
                let others = numbers(count * columns, 5);
                let at = |row: usize, term: usize| values[bases[row] + offsets[term / run] + term % run];
                let sum = |term: usize, column: usize| {
                    let rows: Vec<usize> = (0..count).collect();
                    let chain = |rows: &[usize]| {
                        rows.iter().fold(0.0, |sum, &row| others[row * columns + column].mul_add(at(row, term), sum))
                    };
                    rows.chunks(ROWS_PER_CHAIN).fold(0.0, |total, rows| total + chain(rows))
                };
                for arch in archs() {
                    let mut seen = 0;
                    outer_products_on(arch, rows, &others, columns).each(|column, first, sums| {
                        for (index, found) in sums.iter().enumerate() {
                            assert_eq!(
                                *found,
                                sum(first + index, column),
                                "runs of {run}, {columns} columns, {arch:?}"
                            );
                            seen += 1;
                        }
                    });
                    assert_eq!(seen, columns * rows.length());
                }
            }
        }
    }
}

//! Sums of outer products of a channels-last image's rows, for any instruction set with the same bits. See `kernels.rs`.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::kernels::{Rows, TileShape, load};

/// Numbers of the narrower side of a piece of work.
const NUMBERS_PER_PIECE: usize = 1 << 17;
/// Rows whose products are one chain; the chains are added in order.
pub(super) const ROWS_PER_CHAIN: usize = 256;

/// `out[j][i] = sum over r of rows[r][i] * others[r][j]` for rows of so many `others`: chains of [`ROWS_PER_CHAIN`] rows,
/// added one after the other.
pub(super) fn outer_products(rows: Rows<'_>, others: &[f32], columns: usize) -> OuterProducts {
    super::work::add(rows.bases.len() * rows.length() * columns);
    outer_products_on(Arch::new(), rows, others, columns)
}

pub(super) fn outer_products_on(arch: Arch, rows: Rows<'_>, others: &[f32], columns: usize) -> OuterProducts {
    let shape = TileShape::of(arch, rows.run);
    let blocks = rows.run.div_ceil(shape.width);
    let size = columns * shape.width;
    let mut values = vec![0.0; rows.offsets.len() * blocks * size];
    // What all blocks of a piece share stays in the cache.
    let chains = (NUMBERS_PER_PIECE / columns / ROWS_PER_CHAIN).max(1);
    let piece = chains * ROWS_PER_CHAIN;
    let pieces = rows.bases.chunks(piece).zip(others.chunks(piece * columns));
    for (bases, others) in pieces {
        values.par_chunks_mut(size).enumerate().for_each(|(index, out)| {
            let start = rows.offsets[index / blocks] + index % blocks * shape.width;
            let numbers = shape.width.min(rows.run - index % blocks * shape.width);
            let rows = Rows { bases, ..rows };
            arch.dispatch(Outer { rows, start, numbers, others, columns, vectors: shape.vectors, out });
        });
    }
    OuterProducts { values, blocks, width: shape.width, columns, run: rows.run }
}

/// The result of [`outer_products`].
#[derive(Debug)]
pub(super) struct OuterProducts {
    values: Vec<f32>,
    blocks: usize,
    width: usize,
    columns: usize,
    run: usize,
}

impl OuterProducts {
    /// Calls `take(column, number, results)` with the results of neighbouring numbers from that one on.
    pub(super) fn each(&self, mut take: impl FnMut(usize, usize, &[f32])) {
        for (block, values) in self.values.chunks_exact(self.columns * self.width).enumerate() {
            let within = block % self.blocks * self.width;
            let count = self.width.min(self.run - within);
            let first = block / self.blocks * self.run + within;
            for (column, values) in values.chunks_exact(self.width).enumerate() {
                take(column, first, &values[..count]);
            }
        }
    }
}

struct Outer<'a> {
    rows: Rows<'a>,
    /// Where in a row the block of numbers begins, and how many it has.
    start: usize,
    numbers: usize,
    others: &'a [f32],
    columns: usize,
    vectors: usize,
    out: &'a mut [f32],
}

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (S::REGISTER_COUNT >= 32, self.vectors) {
            (true, 1) => self.chains::<S, 1>(simd),
            (true, 2) => self.chains::<S, 2>(simd),
            (true, 3) => self.chains::<S, 3>(simd),
            (true, _) => self.chains::<S, 4>(simd),
            (false, 1) => self.chains::<S, 1>(simd),
            (false, _) => self.chains::<S, 2>(simd),
        }
    }
}

impl Outer<'_> {
    #[inline(always)]
    fn chains<S: Simd, const VECTORS: usize>(self, simd: S) {
        let Self { rows, start, numbers, others, columns, out, .. } = self;
        let mut panel = [[simd.splat_f32s(0.0); VECTORS]; ROWS_PER_CHAIN];
        let (out, _) = S::as_mut_simd_f32s(out);
        let (out, _) = out.as_chunks_mut::<VECTORS>();
        for (bases, others) in rows.bases.chunks(ROWS_PER_CHAIN).zip(others.chunks(ROWS_PER_CHAIN * columns)) {
            let wide = start + VECTORS * S::F32_LANES;
            // Whole vectors, with what happens to be behind the numbers, wherever there is enough: to load a part of a
            // vector takes longer, and results of lanes behind the last number are not used.
            if bases.iter().all(|base| base + wide <= rows.values.len()) {
                for (panel, base) in panel.iter_mut().zip(bases) {
                    *panel = load(simd, &rows.values[base + start..base + wide]);
                }
            } else {
                for (panel, base) in panel.iter_mut().zip(bases) {
                    *panel = load(simd, &rows.values[base + start..][..numbers]);
                }
            }
            let panel = &panel[..bases.len()];
            let mut first = 0;
            while first < columns {
                let (others, out) = (&others[first..], &mut out[first..]);
                first += match columns - first {
                    6.. => chain::<S, 6, VECTORS>(simd, panel, others, columns, out),
                    4.. => chain::<S, 4, VECTORS>(simd, panel, others, columns, out),
                    2.. => chain::<S, 2, VECTORS>(simd, panel, others, columns, out),
                    _ => chain::<S, 1, VECTORS>(simd, panel, others, columns, out),
                };
            }
        }
    }
}

/// Adds the products of the rows with the first `COLUMNS` of the others' `stride` numbers.
#[allow(clippy::needless_range_loop, reason = "all of one length and indexed alike, which keeps the tile in registers")]
#[inline(always)]
fn chain<S: Simd, const COLUMNS: usize, const VECTORS: usize>(
    simd: S,
    panel: &[[S::f32s; VECTORS]],
    others: &[f32],
    stride: usize,
    out: &mut [[S::f32s; VECTORS]],
) -> usize {
    let mut tile = [[simd.splat_f32s(0.0); VECTORS]; COLUMNS];
    for (row, others) in panel.iter().zip(others.chunks(stride)) {
        let others = &others[..COLUMNS];
        for column in 0..COLUMNS {
            let factor = simd.splat_f32s(others[column]);
            for vector in 0..VECTORS {
                tile[column][vector] = simd.mul_add_f32s(factor, row[vector], tile[column][vector]);
            }
        }
    }
    for (out, tile) in out.iter_mut().zip(tile) {
        for vector in 0..VECTORS {
            out[vector] = simd.add_f32s(out[vector], tile[vector]);
        }
    }
    COLUMNS
}

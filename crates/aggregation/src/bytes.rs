//! Exact sums of vectors that are bytes: little-endian, at any alignment, as databases and files hold them.
//!
//! The integers are those of [`FixedPoint::accumulate`], bit for bit.

use crate::fixed_point::{SIGN_AND_EXPONENT, biased, margin, same_length};
use crate::{FixedPoint, SumError};

/// Elements whose sums are formed together before they are written: 32 KiB of sums, which stay in the
/// cache while gradients are added to them. In tiles of 512 the processor's prefetching is interrupted too
/// often: 16 gradients of 1.5 M elements took a third longer.
const TILE: usize = 4096;

/// Elements that are added in registers.
const CHUNK: usize = 16;

/// Gradients that are read side by side, so that sums are loaded and stored once for all of them. Adding
/// 16 gradients of 1.5 M elements took 20 ms one by one, 8.8 ms by fours, 8.1 ms by eights, which leave more
/// behind that has no group, and 12 ms all at once; reading them took 4 ms.
const GROUP: usize = 4;

/// The sign bit of an `f64` or an integer.
const SIGN: u64 = 1 << 63;

/// A unit, which is only named in errors, and its gradient as little-endian `f32`.
pub type UnitBytes<'a> = (u32, &'a [u8]);

impl FixedPoint {
    /// Adds `gradients` to `sums`, which are little-endian `i64`, as [`accumulate`](Self::accumulate) does
    /// one by one. Reading them side by side takes half the time.
    ///
    /// # Errors
    /// Those of [`accumulate`](Self::accumulate) for one of the elements that cannot be added; the sums are
    /// then unchanged. Sums may pass ±2^62 between two gradients if they return.
    pub fn accumulate_bytes(&self, sums: &mut [u8], gradients: &[UnitBytes<'_>]) -> Result<(), SumError> {
        check_lengths(sums.len() / 8, sums.len() % 8, gradients)?;
        let mut tile = [0; TILE];
        for start in (0..sums.len() / 8).step_by(TILE) {
            let bytes = tile_mut(sums, 8 * start, 8 * TILE);
            let totals = load_sums(&mut tile, bytes);
            if self.add_tile(totals, gradients, start) {
                store_sums(bytes, totals);
                continue;
            }
            let error = self.diagnose_tile(load_sums(&mut tile, bytes), gradients, start);
            self.undo_tiles(&mut sums[..8 * start], gradients);
            return Err(error);
        }
        Ok(())
    }

    /// Writes the mean of `gradients`, little-endian `f32`, to `mean`: that of
    /// [`accumulate`](Self::accumulate) and [`mean`](Self::mean), without keeping the sums.
    ///
    /// # Errors
    /// Those of [`accumulate`](Self::accumulate) for one of the elements that cannot be added, or
    /// [`SumError::ZeroDivisor`]; part of the mean may then have been written.
    pub fn average_bytes(&self, gradients: &[UnitBytes<'_>], mean: &mut [u8]) -> Result<(), SumError> {
        check_lengths(mean.len() / 4, mean.len() % 4, gradients)?;
        let (mut tile, mut means) = ([0; TILE], [0.0; TILE]);
        for start in (0..mean.len() / 4).step_by(TILE) {
            let bytes = tile_mut(mean, 4 * start, 4 * TILE);
            let length = bytes.len() / 4;
            let (totals, means) = (&mut tile[..length], &mut means[..length]);
            totals.fill(0);
            if !self.add_tile(totals, gradients, start) {
                totals.fill(0);
                return Err(self.diagnose_tile(totals, gradients, start));
            }
            self.mean(totals, gradients.len() as u64, means)?;
            for (bytes, mean) in bytes.as_chunks_mut().0.iter_mut().zip(means) {
                *bytes = mean.to_le_bytes();
            }
        }
        Ok(())
    }

    /// [`mean`](Self::mean) of `sums` that are little-endian `i64`.
    ///
    /// # Errors
    /// [`SumError::LengthMismatch`], or [`SumError::ZeroDivisor`].
    pub fn mean_bytes(&self, sums: &[u8], divisor: u64, mean: &mut [f32]) -> Result<(), SumError> {
        same_length(mean.len(), sums.len() / 8)?;
        let mut tile = [0; TILE];
        for (sums, mean) in sums.chunks(8 * TILE).zip(mean.chunks_mut(TILE)) {
            self.mean(load_sums(&mut tile, sums), divisor, mean)?;
        }
        Ok(())
    }

    /// Adds the elements from `start` on; false if one of them cannot be added, and then the totals are
    /// worthless.
    fn add_tile(&self, totals: &mut [i64], gradients: &[UnitBytes<'_>], start: usize) -> bool {
        let (magic, length) = (self.magic(), totals.len());
        let (groups, rest) = gradients.as_chunks::<GROUP>();
        let mut sound = true;
        for group in groups {
            sound &= add_group(totals, group.map(|gradient| elements(gradient, start, length)), magic);
        }
        let mut alone = [0.0; TILE];
        for gradient in rest {
            sound &= self.accumulate(totals, load_f32(&mut alone, elements(*gradient, start, length)), 0).is_ok();
        }
        sound
    }

    /// Takes back what was added to whole tiles.
    fn undo_tiles(&self, sums: &mut [u8], gradients: &[UnitBytes<'_>]) {
        let (mut tile, mut added) = ([0; TILE], [0; TILE]);
        for start in (0..sums.len() / 8).step_by(TILE) {
            let bytes = tile_mut(sums, 8 * start, 8 * TILE);
            let totals = load_sums(&mut tile, bytes);
            added.fill(0);
            self.add_tile(&mut added[..totals.len()], gradients, start);
            for (total, added) in totals.iter_mut().zip(added) {
                *total = total.wrapping_sub(added);
            }
            store_sums(bytes, totals);
        }
    }

    /// Names an element that cannot be added to the sums of a tile.
    fn diagnose_tile(&self, sums: &mut [i64], gradients: &[UnitBytes<'_>], start: usize) -> SumError {
        let mut tile = [0.0; TILE];
        for &(unit, bytes) in gradients {
            let gradient = load_f32(&mut tile, elements((unit, bytes), start, sums.len()));
            if let Err(error) = self.accumulate(sums, gradient, unit) {
                return error.moved_by(start);
            }
        }
        // Not reached: a group's total is outside only if it is so after the last of its gradients, too.
        SumError::CombinedOverflow { index: start }
    }
}

/// [`add`](crate::add) for sums that are little-endian `i64`.
///
/// # Errors
/// As for [`add`](crate::add); the sums are then unchanged.
pub fn add_bytes(sums: &mut [u8], other: &[u8]) -> Result<(), SumError> {
    same_length(sums.len() / 8, other.len() / 8)?;
    let totals = |sum: &[u8; 8], term: &[u8; 8]| {
        let sum = i64::from_le_bytes(*sum);
        (sum, sum.wrapping_add(i64::from_le_bytes(*term)))
    };
    let (sums, terms) = (sums.as_chunks_mut().0, other.as_chunks().0);
    // Checked before anything is changed, so that there is nothing to undo.
    let outside = |(sum, term)| {
        let (sum, total) = totals(sum, term);
        margin(sum) | margin(total) < 0
    };
    if let Some(index) = sums.iter().zip(terms).position(outside) {
        return Err(SumError::CombinedOverflow { index });
    }
    for (sum, term) in sums.iter_mut().zip(terms) {
        *sum = totals(sum, term).1.to_le_bytes();
    }
    Ok(())
}

/// Adds gradients to the totals; false if an element cannot be added.
fn add_group(totals: &mut [i64], gradients: [&[[u8; 4]]; GROUP], magic: f64) -> bool {
    let (chunks, rest) = totals.as_chunks_mut();
    let flags = add_chunks(chunks, gradients.map(|gradient| gradient.as_chunks().0), magic);
    // Padding with zeros adds nothing.
    let mut padded = [0; CHUNK];
    padded[..rest.len()].copy_from_slice(rest);
    let elements = gradients.map(|gradient| {
        let mut elements = [[0; 4]; CHUNK];
        elements[..rest.len()].copy_from_slice(gradient.as_chunks::<CHUNK>().1);
        [elements]
    });
    let rest_flags = add_chunks(std::slice::from_mut(&mut padded), elements.each_ref().map(|e| &e[..]), magic);
    rest.copy_from_slice(&padded[..rest.len()]);
    (flags | rest_flags) & SIGN_AND_EXPONENT == 0
}

/// Adds gradients to the totals. A bit of the result in the place of sign and exponent says that an
/// element cannot be added.
///
/// Its own function, and the loops over indices: this is the form that the compiler makes vector code of.
#[inline(never)]
fn add_chunks(totals: &mut [[i64; CHUNK]], gradients: [&[[[u8; 4]; CHUNK]]; GROUP], magic: f64) -> u64 {
    let length = totals.len();
    let gradients = gradients.map(|gradient| &gradient[..length]);
    let bias = magic.to_bits();
    let mut flags = [0; CHUNK];
    for chunk in 0..length {
        let mut sums = [0_u64; CHUNK];
        for gradient in &gradients {
            for i in 0..CHUNK {
                let biased = biased(f32::from_le_bytes(gradient[chunk][i]), magic);
                flags[i] |= biased ^ bias;
                sums[i] = sums[i].wrapping_add(biased);
            }
        }
        for i in 0..CHUNK {
            let added = sums[i].wrapping_sub(bias.wrapping_mul(GROUP as u64));
            let total = totals[chunk][i].wrapping_add(added.cast_signed());
            flags[i] |= margin(total).cast_unsigned() & SIGN;
            totals[chunk][i] = total;
        }
    }
    flags.iter().fold(0, |all, flag| all | flag)
}

/// The first `length` elements of a gradient from `start` on.
fn elements<'a>((_, bytes): UnitBytes<'a>, start: usize, length: usize) -> &'a [[u8; 4]] {
    &bytes.as_chunks().0[start..start + length]
}

fn tile_mut(bytes: &mut [u8], start: usize, length: usize) -> &mut [u8] {
    let end = bytes.len().min(start + length);
    &mut bytes[start..end]
}

fn load_f32<'a>(tile: &'a mut [f32; TILE], bytes: &[[u8; 4]]) -> &'a [f32] {
    let tile = &mut tile[..bytes.len()];
    for (element, bytes) in tile.iter_mut().zip(bytes) {
        *element = f32::from_le_bytes(*bytes);
    }
    tile
}

fn load_sums<'a>(tile: &'a mut [i64; TILE], bytes: &[u8]) -> &'a mut [i64] {
    let tile = &mut tile[..bytes.len() / 8];
    for (sum, bytes) in tile.iter_mut().zip(bytes.as_chunks().0) {
        *sum = i64::from_le_bytes(*bytes);
    }
    tile
}

fn store_sums(bytes: &mut [u8], totals: &[i64]) {
    for (bytes, total) in bytes.as_chunks_mut().0.iter_mut().zip(totals) {
        *bytes = total.to_le_bytes();
    }
}

fn check_lengths(expected: usize, odd_bytes: usize, gradients: &[UnitBytes<'_>]) -> Result<(), SumError> {
    for (_, gradient) in gradients {
        let whole = odd_bytes == 0 && gradient.len() % 4 == 0;
        let actual = gradient.len() / 4;
        if !whole || actual != expected {
            return Err(SumError::LengthMismatch { expected, actual });
        }
    }
    Ok(())
}

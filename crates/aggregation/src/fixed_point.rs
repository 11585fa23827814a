//! Exact sums of gradients on a fixed-point grid.

use serde::{Deserialize, Serialize};

use crate::{ConfigError, SumError};

/// Elements that are checked together before any of them is added. Small enough that the new sums
/// mostly stay in registers, large enough that the branch costs nothing (8 measured slower, 32 no faster).
const CHUNK: usize = 16;

/// Sums stay in [-SUM_LIMIT, SUM_LIMIT). One bit less than `i64` has, because then one addition finds
/// out whether a sum left its range; checking the full range took 45 % more time in cache.
const SUM_LIMIT: i64 = 1 << 62;

/// Mask of an `f64`'s sign and exponent.
pub(crate) const SIGN_AND_EXPONENT: u64 = 0xfff << 52;

/// A grid of multiples of 2^-`fraction_bits` on which sums are exact, held as `i64`.
///
/// An element takes 52 of the 64 bits, -2^51 to 2^51 - 1 steps, and a sum stays within ±2^62 steps: 2048
/// gradients can be summed in any order and grouping before an overflow is possible at all, and then
/// it is detected.
///
/// What is summed: a unit gives the gradient of its mean loss over a fixed number of samples. The
/// mean over units is formed once, with the number of units as divisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FixedPoint {
    fraction_bits: u32,
}

impl FixedPoint {
    /// The default grid for gradients, 2^-40: elements up to ±2048 in steps of 9.1e-13.
    pub const DEFAULT: Self = Self { fraction_bits: 40 };

    /// The grid of all loss sums, whatever the gradients use, so that decisions do not depend on it.
    pub const LOSS: Self = Self::DEFAULT;

    /// A grid of multiples of 2^-`fraction_bits`.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] unless `fraction_bits` is in 8..=44. More bits would leave elements
    /// less than ±128, fewer would round gradients by more than 0.002; the arithmetic allows both.
    pub fn new(fraction_bits: u32) -> Result<Self, ConfigError> {
        ConfigError::unless((8..=44).contains(&fraction_bits), "fraction_bits", f64::from(fraction_bits), "in 8..=44")?;
        Ok(Self { fraction_bits })
    }

    /// Fraction bits of the grid.
    pub fn fraction_bits(&self) -> u32 {
        self.fraction_bits
    }

    /// Elements must be at least `-limit()` and below `limit()`.
    pub fn limit(&self) -> f64 {
        (1_u64 << 51) as f64 / self.steps_per_one()
    }

    pub(crate) fn steps_per_one(&self) -> f64 {
        (1_u64 << self.fraction_bits) as f64
    }

    /// 1.5 * 2^(52 - `fraction_bits`). An element on the grid plus this lies in the binade
    /// [2^52, 2^53) * 2^-`fraction_bits`, where consecutive `f64` are exactly one step apart: the
    /// addition itself rounds to the nearest step, ties to even, and the difference between the bit
    /// patterns of result and constant is the number of steps. Unlike `as i64`, an addition and a
    /// subtraction of integers exist as vector instructions on every x86-64, which makes the loop
    /// several times as fast without any `unsafe`.
    pub(crate) fn magic(&self) -> f64 {
        1.5 * (1_u64 << (52 - self.fraction_bits)) as f64
    }

    /// Rounds each element of `gradient` to the nearest multiple of the grid, ties to even, and adds
    /// it to the accumulator. `unit` is only named in errors.
    ///
    /// # Errors
    /// [`SumError::LengthMismatch`], [`SumError::NotANumber`], [`SumError::Infinite`],
    /// [`SumError::OutOfRange`] or [`SumError::Overflow`] for the first element that cannot be added;
    /// the accumulator is then unchanged.
    pub fn accumulate(&self, accumulator: &mut [i64], gradient: &[f32], unit: u32) -> Result<(), SumError> {
        same_length(accumulator.len(), gradient.len())?;
        let (sums, sums_rest) = accumulator.as_chunks_mut::<CHUNK>();
        let (elements, elements_rest) = gradient.as_chunks::<CHUNK>();
        let magic = self.magic();
        let mut added = 0;
        for (sums, elements) in sums.iter_mut().zip(elements) {
            if !accumulate_chunk(sums, elements, magic) {
                break;
            }
            added += CHUNK;
        }
        if added == gradient.len() - elements_rest.len() && accumulate_rest(sums_rest, elements_rest, magic) {
            return Ok(());
        }
        self.undo(&mut accumulator[..added], &gradient[..added]);
        Err(self.diagnose(accumulator, gradient, added, unit))
    }

    /// Takes back what a failed [`accumulate`](Self::accumulate) had already added.
    ///
    /// Undoing costs nothing as long as gradients are sound. A pass that checks everything before
    /// anything is added reads gradient and accumulator twice, which took nearly twice as long for
    /// vectors beyond the cache.
    fn undo(&self, accumulator: &mut [i64], gradient: &[f32]) {
        let magic = self.magic();
        for (sum, &element) in accumulator.iter_mut().zip(gradient) {
            *sum = sum.wrapping_sub(steps(biased(element, magic), magic));
        }
    }

    /// Names the first element from `start` on that cannot be added.
    fn diagnose(&self, accumulator: &[i64], gradient: &[f32], start: usize, unit: u32) -> SumError {
        let pairs = accumulator.iter().zip(gradient).enumerate().skip(start);
        for (index, (sum, &value)) in pairs {
            let magic = self.magic();
            let biased = biased(value, magic);
            if value.is_nan() {
                return SumError::NotANumber { unit, index };
            }
            if value.is_infinite() {
                return SumError::Infinite { unit, index };
            }
            if (biased ^ magic.to_bits()) & SIGN_AND_EXPONENT != 0 {
                let limit = self.limit();
                return SumError::OutOfRange { unit, index, value, limit };
            }
            if margin(sum.wrapping_add(steps(biased, magic))) < 0 {
                return SumError::Overflow { unit, index };
            }
        }
        // Not reached: a chunk is only diagnosed after one of these tests failed for it as a whole.
        SumError::Overflow { unit, index: start }
    }

    /// Forms the mean of `divisor` gradients from their exact sum.
    ///
    /// Each element is rounded three times, to nearest even: the sum to `f64` (exact below 2^53
    /// steps), the quotient by `divisor` to `f64` (the scaling by 2^-`fraction_bits` is exact), and
    /// that to `f32`.
    ///
    /// # Errors
    /// [`SumError::LengthMismatch`], or [`SumError::ZeroDivisor`].
    pub fn mean(&self, accumulator: &[i64], divisor: u64, mean: &mut [f32]) -> Result<(), SumError> {
        same_length(accumulator.len(), mean.len())?;
        if divisor == 0 {
            return Err(SumError::ZeroDivisor);
        }
        let divisor = divisor as f64 * self.steps_per_one();
        for (mean, &sum) in mean.iter_mut().zip(accumulator) {
            *mean = (sum as f64 / divisor) as f32;
        }
        Ok(())
    }

    /// Rounds a scalar, such as the loss of a unit, to the nearest multiple of the grid, ties to even.
    /// The result is in steps of the grid; such steps are summed with [`i64::checked_add`].
    ///
    /// # Errors
    /// [`SumError::Scalar`] for a NaN, an infinity or a magnitude of 2^62 steps or more.
    pub fn round_scalar(&self, value: f64) -> Result<i64, SumError> {
        const LIMIT: f64 = SUM_LIMIT as f64;
        let steps = (value * self.steps_per_one()).round_ties_even();
        if steps.abs() < LIMIT {
            Ok(steps as i64)
        } else {
            Err(SumError::Scalar { value, limit: LIMIT / self.steps_per_one() })
        }
    }

    /// The value of a sum of that many steps, rounded once to `f64`.
    pub fn to_f64(&self, steps: i64) -> f64 {
        steps as f64 / self.steps_per_one()
    }
}

impl Default for FixedPoint {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u32> for FixedPoint {
    type Error = ConfigError;

    fn try_from(fraction_bits: u32) -> Result<Self, ConfigError> {
        Self::new(fraction_bits)
    }
}

impl From<FixedPoint> for u32 {
    fn from(grid: FixedPoint) -> Self {
        grid.fraction_bits
    }
}

/// Adds the exact sum `other` to `accumulator`, whatever grid both are on.
///
/// # Errors
/// [`SumError::LengthMismatch`], or [`SumError::CombinedOverflow`] for the first element that is or
/// would be outside ±2^62; the accumulator is then unchanged.
pub fn add(accumulator: &mut [i64], other: &[i64]) -> Result<(), SumError> {
    combine(accumulator, other, i64::wrapping_add, i64::wrapping_sub)
}

/// Subtracts the exact sum `other` from `accumulator`: what was added is as if it had never been.
///
/// # Errors
/// As for [`add`].
pub fn subtract(accumulator: &mut [i64], other: &[i64]) -> Result<(), SumError> {
    combine(accumulator, other, i64::wrapping_sub, i64::wrapping_add)
}

fn combine(
    accumulator: &mut [i64],
    other: &[i64],
    operation: impl Fn(i64, i64) -> i64,
    inverse: impl Fn(i64, i64) -> i64,
) -> Result<(), SumError> {
    same_length(accumulator.len(), other.len())?;
    let mut outside = 0;
    for (sum, &term) in accumulator.iter_mut().zip(other) {
        let total = operation(*sum, term);
        outside |= margin(*sum) | margin(total);
        *sum = total;
    }
    if outside >= 0 {
        return Ok(());
    }
    let mut first = None;
    for (index, (sum, &term)) in accumulator.iter_mut().zip(other).enumerate() {
        let total = *sum;
        *sum = inverse(total, term);
        if margin(*sum) | margin(total) < 0 {
            first.get_or_insert(index);
        }
    }
    Err(SumError::CombinedOverflow { index: first.unwrap_or_default() })
}

/// Negative exactly if a total is outside [-SUM_LIMIT, SUM_LIMIT). If one term of a wrapping addition
/// is inside, then a total that wrapped is outside, whatever the other term is.
#[inline(always)]
pub(crate) fn margin(total: i64) -> i64 {
    total.wrapping_add(SUM_LIMIT)
}

#[inline(always)]
pub(crate) fn biased(element: f32, magic: f64) -> u64 {
    (f64::from(element) + magic).to_bits()
}

#[inline(always)]
fn steps(biased: u64, magic: f64) -> i64 {
    biased.wrapping_sub(magic.to_bits()).cast_signed()
}

/// Adds a chunk, or returns false and leaves it alone because one of its elements cannot be added.
#[inline(always)]
fn accumulate_chunk(sums: &mut [i64; CHUNK], elements: &[f32; CHUNK], magic: f64) -> bool {
    let mut totals = [0; CHUNK];
    let mut misplaced = 0;
    let mut outside = 0;
    for i in 0..CHUNK {
        let biased = biased(elements[i], magic);
        let total = sums[i].wrapping_add(steps(biased, magic));
        // A NaN, an infinity or an element beyond the grid leaves the binade.
        misplaced |= biased ^ magic.to_bits();
        outside |= margin(total);
        totals[i] = total;
    }
    let sound = misplaced & SIGN_AND_EXPONENT == 0 && outside >= 0;
    if sound {
        *sums = totals;
    }
    sound
}

/// The same for the last elements, fewer than a chunk. Padding with zeros adds nothing.
fn accumulate_rest(sums: &mut [i64], elements: &[f32], magic: f64) -> bool {
    let mut padded_sums = [0; CHUNK];
    let mut padded_elements = [0.0; CHUNK];
    padded_sums[..sums.len()].copy_from_slice(sums);
    padded_elements[..elements.len()].copy_from_slice(elements);
    let sound = accumulate_chunk(&mut padded_sums, &padded_elements, magic);
    sums.copy_from_slice(&padded_sums[..sums.len()]);
    sound
}

pub(crate) fn same_length(expected: usize, actual: usize) -> Result<(), SumError> {
    if expected == actual { Ok(()) } else { Err(SumError::LengthMismatch { expected, actual }) }
}

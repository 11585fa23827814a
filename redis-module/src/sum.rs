//! The layout of a sum: that of a payload between peers, and behind it the units that are in it.
//!
//! | bytes | content |
//! | --- | --- |
//! | 4 | `PLSS` |
//! | 2 | format version 1, little-endian |
//! | 1 | codec: 1 for sums on an i64 grid |
//! | 1 | fraction bits of the grid |
//! | 8 | number of elements n, little-endian |
//! | 8 n | the sums in steps of the grid, little-endian i64 |
//! | 0 to 4096 | a bit for each unit, that of unit u is bit u mod 8 of byte u / 8 |
//!
//! Sums and units are one string, so that no failure, expiry or eviction can part them.

use peerless_aggregation::FixedPoint;

use crate::arguments::MAX_UNITS;
use crate::error::{CommandError, Result};
use crate::keys::MAX_BYTES;

/// Bytes before the sums.
pub const HEADER_BYTES: usize = 16;

const MAX_UNIT_BYTES: usize = MAX_UNITS as usize / 8;

/// The most elements of which a sum fits into a string.
pub const MAX_ELEMENTS: usize = (MAX_BYTES - HEADER_BYTES - MAX_UNIT_BYTES) / 8;

/// Grid and length of a sum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub grid: FixedPoint,
    pub elements: usize,
}

impl Shape {
    /// Bytes of a sum without its units.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + 8 * self.elements
    }

    /// Writes the header of a sum.
    pub fn write_header(&self, bytes: &mut [u8]) {
        bytes[..8].copy_from_slice(&[b'P', b'L', b'S', b'S', 1, 0, 1, self.grid.fraction_bits() as u8]);
        bytes[8..HEADER_BYTES].copy_from_slice(&(self.elements as u64).to_le_bytes());
    }

    /// The sums in the bytes of a sum of this shape.
    pub fn sums<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[HEADER_BYTES..HEADER_BYTES + 8 * self.elements]
    }

    /// The sums in the bytes of a sum of this shape.
    pub fn sums_mut<'a>(&self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        &mut bytes[HEADER_BYTES..HEADER_BYTES + 8 * self.elements]
    }

    /// Refuses another sum that cannot be added to one of this shape.
    pub fn check_same(&self, other: Self, key: &str) -> Result<()> {
        let key = || key.to_owned();
        if other.grid != self.grid {
            let [found, expected] = [other, *self].map(|shape| shape.grid.fraction_bits());
            return Err(CommandError::Grid { key: key(), found, expected });
        }
        if other.elements != self.elements {
            let [found, expected] = [other, *self].map(|shape| shape.bytes());
            return Err(CommandError::Length { what: "sum", key: key(), found, expected: expected.to_string() });
        }
        Ok(())
    }
}

/// The units of a sum, a bit for each.
#[derive(Clone, Default)]
pub struct Units(Vec<u8>);

impl Units {
    pub fn contains(&self, unit: u32) -> bool {
        self.0.get(unit as usize / 8).is_some_and(|byte| byte >> (unit % 8) & 1 == 1)
    }

    /// Adds a unit below [`MAX_UNITS`].
    pub fn insert(&mut self, unit: u32) {
        let byte = unit as usize / 8;
        if self.0.len() <= byte {
            self.0.resize(byte + 1, 0);
        }
        self.0[byte] |= 1 << (unit % 8);
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..8 * self.0.len() as u32).filter(|&unit| self.contains(unit))
    }

    pub fn len(&self) -> u64 {
        self.0.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Checks that a string is a sum, and says which.
pub fn parse(bytes: &[u8], key: &str) -> Result<(Shape, Units)> {
    let wrong = |reason| CommandError::NotASum { key: key.to_owned(), reason };
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(wrong("it is too short"))?;
    let [b'P', b'L', b'S', b'S', 1, 0, 1, fraction_bits, elements @ ..] = *header else {
        return Err(wrong("it does not begin like one of this version"));
    };
    let grid = FixedPoint::new(u32::from(fraction_bits)).map_err(|_| wrong("its grid does not exist"))?;
    let elements = usize::try_from(u64::from_le_bytes(elements)).unwrap_or(usize::MAX);
    if elements == 0 || elements > MAX_ELEMENTS {
        return Err(wrong("it has no or too many elements"));
    }
    match rest.len().checked_sub(8 * elements) {
        None => Err(wrong("it is shorter than its header says")),
        Some(units) if units > MAX_UNIT_BYTES => Err(wrong("it is longer than its header says")),
        Some(_) => Ok((Shape { grid, elements }, Units(rest[8 * elements..].to_vec()))),
    }
}

//! The bytes behind a contribution: an exact sum of gradients.
//!
//! | bytes | content |
//! | --- | --- |
//! | 4 | `PLSS` |
//! | 2 | format version, little-endian |
//! | 1 | codec: 1 for sums on an i64 grid, the only one so far |
//! | 1 | fraction bits of the grid |
//! | 8 | number of elements, little-endian |
//! | 8 each | the sums in steps of the grid, little-endian i64 |
//!
//! Which run, round and units a sum belongs to is not in here but in the signed announcement, so that
//! equal sums have equal bytes and one digest.

use std::ops::Range;

use peerless_aggregation::{ConfigError, FixedPoint};
use peerless_protocol::{Digest, Layout, PayloadShape, RunSpec};
use thiserror::Error;

/// Version of the encoding of a payload.
pub const PAYLOAD_FORMAT: u16 = 1;

const MAGIC: [u8; 4] = *b"PLSS";
const CODEC_I64_GRID: u8 = 1;

/// The header takes as much room as this many sums, so that the sums behind it are aligned.
const HEADER_WORDS: usize = 2;
const HEADER_BYTES: u64 = 8 * HEADER_WORDS as u64;

/// Bytes that are not the exact sum that was announced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Longer or shorter than a payload of this run is.
    #[error("the payload has {found} bytes, but one of this run has {expected}")]
    Length {
        /// Bytes given.
        found: usize,
        /// Bytes of every payload of the run.
        expected: usize,
    },
    /// Not a payload, or one of another version, codec, grid or model.
    #[error("the payload's header is {found:02x?}, but one of this run has {expected:02x?}")]
    Header {
        /// The header found.
        found: [u8; 16],
        /// The header of every payload of the run.
        expected: [u8; 16],
    },
    /// Whole, but with other content than announced.
    #[error("the payload has digest {}, but {} was announced", found.short(), expected.short())]
    Digest {
        /// The digest of the bytes.
        found: Digest,
        /// The digest announced.
        expected: Digest,
    },
}

/// What all payloads of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadFormat {
    grid: FixedPoint,
    elements: usize,
    shards: u32,
}

impl PayloadFormat {
    /// The format of a run whose model has this layout.
    ///
    /// # Errors
    /// [`ConfigError`] for a grid that does not exist.
    pub fn new(spec: &RunSpec, layout: &Layout) -> Result<Self, ConfigError> {
        let elements = usize::try_from(layout.elements()).unwrap_or(usize::MAX / 16);
        let grid = FixedPoint::new(spec.fraction_bits)?;
        let shards = PayloadShape::new(elements as u64, HEADER_BYTES).shards;
        Ok(Self { grid, elements, shards })
    }

    /// The grid that sums are on.
    pub fn grid(&self) -> FixedPoint {
        self.grid
    }

    /// Elements of the model's flat vector.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Exact length of every payload of the run; nothing longer needs to be received.
    pub fn bytes(&self) -> usize {
        (HEADER_WORDS + self.elements) * 8
    }

    /// The form of the run's payloads as the protocol speaks of it.
    pub fn shape(&self) -> PayloadShape {
        PayloadShape { elements: self.elements as u64, header_bytes: HEADER_BYTES, shards: self.shards }
    }

    /// The same with another number of shards, at least one and at most one for each element. All peers of a
    /// run must agree on it; it is for simulations with models that are too small for shards.
    #[must_use]
    pub fn with_shards(self, shards: u32) -> Self {
        let most = u32::try_from(self.elements).unwrap_or(u32::MAX).max(1);
        Self { shards: shards.clamp(1, most), ..self }
    }

    /// The format of one shard's payloads.
    pub fn shard(&self, shard: u32) -> Self {
        Self { grid: self.grid, elements: self.range(shard).len(), shards: 1 }
    }

    /// The elements of the flat vector that a shard consists of.
    pub fn range(&self, shard: u32) -> Range<usize> {
        let range = self.shape().range(shard);
        // Within the number of elements, which is a usize.
        let bound = |bound: u64| usize::try_from(bound).unwrap_or(self.elements).min(self.elements);
        bound(range.start)..bound(range.end)
    }

    /// The format of a payload of `bytes` bytes: of the whole vector or of a shard. `None` if no payload of
    /// the run is as long.
    pub fn of_length(&self, bytes: usize) -> Option<Self> {
        // Shards differ by one element at most, and the last one is among the longest.
        let shards = [0, self.shards.saturating_sub(1)].map(|shard| self.shard(shard));
        [*self].into_iter().chain(shards).find(|format| format.bytes() == bytes)
    }

    /// A buffer of exactly [`bytes`](Self::bytes) to receive a payload into.
    pub fn buffer(&self) -> PayloadBuffer {
        PayloadBuffer { words: vec![0; HEADER_WORDS + self.elements] }
    }

    /// A sum of nothing.
    pub fn zeros(&self) -> Payload {
        let mut words = vec![0; HEADER_WORDS + self.elements];
        bytemuck::cast_slice_mut(&mut words[..HEADER_WORDS]).copy_from_slice(&self.header());
        Payload { words }
    }

    /// The payload of a sum that was formed elsewhere; copies it.
    ///
    /// # Errors
    /// [`PayloadError::Length`] if it is not as long as the model.
    pub fn encode(&self, sums: &[i64]) -> Result<Payload, PayloadError> {
        if sums.len() != self.elements {
            let found = (HEADER_WORDS + sums.len()) * 8;
            return Err(PayloadError::Length { found, expected: self.bytes() });
        }
        let mut payload = self.zeros();
        payload.sums_mut().copy_from_slice(sums);
        Ok(payload)
    }

    fn header(&self) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&MAGIC);
        header[4..6].copy_from_slice(&PAYLOAD_FORMAT.to_le_bytes());
        header[6] = CODEC_I64_GRID;
        // At most 44, as the grid exists.
        header[7] = self.grid.fraction_bits() as u8;
        header[8..].copy_from_slice(&(self.elements as u64).to_le_bytes());
        header
    }
}

/// Memory that a payload is received into, so that its sums are used where the network put them.
#[derive(Debug)]
pub struct PayloadBuffer {
    words: Vec<i64>,
}

impl PayloadBuffer {
    /// The bytes to fill, all of them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }

    /// Checks what was received.
    ///
    /// # Errors
    /// [`PayloadError`] if it is not a payload of the run or not the one that was announced.
    pub fn finish(self, format: &PayloadFormat, digest: Digest) -> Result<Payload, PayloadError> {
        let payload = Payload { words: self.words };
        payload.check_header(format)?;
        payload.verified(digest)
    }
}

/// An exact sum of gradients, one i64 for each element of the model's flat vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    words: Vec<i64>,
}

impl Payload {
    /// Copies and checks bytes that were received elsewhere; see [`PayloadFormat::buffer`] for a way
    /// without a copy.
    ///
    /// # Errors
    /// [`PayloadError`] if they are not a payload of the run or not the one that was announced.
    pub fn decode(bytes: &[u8], format: &PayloadFormat, digest: Digest) -> Result<Self, PayloadError> {
        Self::decode_verified(bytes, format)?.verified(digest)
    }

    /// Copies bytes whose digest the caller has checked already; hashing them again would cost as much
    /// as adding them.
    ///
    /// # Errors
    /// [`PayloadError`] if they are not a payload of the run.
    pub fn decode_verified(bytes: &[u8], format: &PayloadFormat) -> Result<Self, PayloadError> {
        if bytes.len() != format.bytes() {
            return Err(PayloadError::Length { found: bytes.len(), expected: format.bytes() });
        }
        let mut buffer = format.buffer();
        buffer.bytes_mut().copy_from_slice(bytes);
        let payload = Self { words: buffer.words };
        payload.check_header(format)?;
        Ok(payload)
    }

    fn verified(self, expected: Digest) -> Result<Self, PayloadError> {
        let found = self.digest();
        if found == expected { Ok(self) } else { Err(PayloadError::Digest { found, expected }) }
    }

    /// The payload's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    /// BLAKE3 of [`as_bytes`](Self::as_bytes).
    pub fn digest(&self) -> Digest {
        Digest::of(self.as_bytes())
    }

    /// The sums, in steps of the grid.
    pub fn sums(&self) -> &[i64] {
        &self.words[HEADER_WORDS..]
    }

    pub(crate) fn sums_mut(&mut self) -> &mut [i64] {
        &mut self.words[HEADER_WORDS..]
    }

    fn check_header(&self, format: &PayloadFormat) -> Result<(), PayloadError> {
        let bytes = self.as_bytes();
        let wrong_length = PayloadError::Length { found: bytes.len(), expected: format.bytes() };
        if bytes.len() != format.bytes() {
            return Err(wrong_length);
        }
        let found = *bytes.first_chunk().ok_or(wrong_length)?;
        let expected = format.header();
        if found == expected { Ok(()) } else { Err(PayloadError::Header { found, expected }) }
    }
}

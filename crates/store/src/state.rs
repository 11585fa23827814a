//! A state and its canonical bytes.
//!
//! | bytes | content |
//! | --- | --- |
//! | 8 | `PLSSTATE` |
//! | 2 | format version, little-endian |
//! | 2 | zero |
//! | 4 | length of the header, little-endian |
//! | … | the [`StateHeader`], postcard |
//! | … | zeros up to a multiple of 64 bytes from the start |
//! | 4 each | parameters, then buffers, as the header's layout says: little-endian f32 |
//! | 4 each | the optimizer's slots one after the other, each as long as the parameters |
//!
//! The encoding is canonical: one state has one encoding, and bytes that differ from it anywhere
//! (padding, a longer form of a number in the header) are refused. So the digest of the bytes is the
//! digest of the state, whoever wrote them.

use std::collections::BTreeSet;
use std::io::{self, Read};

use peerless_protocol::{Digest, Layout, RunId, RunSpec, StateHeader, StateRef};
use thiserror::Error;

/// Version of the canonical encoding of a state.
pub const STATE_FORMAT: u16 = 1;

/// Most tensors that a model may have.
pub const MAX_TENSORS: usize = 65_536;

/// Most elements that a state may have, slots included (4 TiB of f32); keeps sizes from overflowing.
pub const MAX_ELEMENTS: u64 = 1 << 40;

/// Longest name of a tensor, in bytes.
const MAX_TENSOR_NAME: usize = 256;

/// Most dimensions of a tensor.
const MAX_RANK: usize = 16;

/// Longest encoded header, in bytes; above what [`MAX_TENSORS`] tensors can take.
const MAX_HEADER_BYTES: usize = 32 << 20;

/// Tensor names that checkpoints use for the optimizer's slots.
const RESERVED_PREFIX: &str = "optimizer.";

const MAGIC: [u8; 8] = *b"PLSSTATE";
const PREFIX_BYTES: usize = 16;

/// The vector starts at a multiple of this, so that it can be mapped and read with any vector width.
const ALIGNMENT: usize = 64;

/// Bytes that are hashed and written together: they stay in the cache between the two.
const CHUNK_BYTES: usize = 256 << 10;

#[cfg(target_endian = "big")]
compile_error!("tensors are used in place as little-endian; a big-endian port must convert them");

/// Bytes that are no state of this run, or a state that no run can have.
#[derive(Debug, Error)]
pub enum StateError {
    /// The bytes end early, do not start as a state does, or could not be read.
    #[error("the state cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Something other than a state.
    #[error("these {bytes} bytes are no peerless state")]
    NotAState {
        /// How many bytes were given.
        bytes: u64,
    },
    /// Written by another version of the program.
    #[error("the state has format {found}, this program reads format {STATE_FORMAT}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// The header is not what the canonical encoding of a header is.
    #[error("the state's header is malformed: {0}")]
    Header(String),
    /// The state of another run.
    #[error("the state belongs to run {}, not to run {}", found.short(), expected.short())]
    OtherRun {
        /// The run that is being trained.
        expected: RunId,
        /// The run named by the header.
        found: RunId,
    },
    /// The table of tensors is inconsistent or beyond its limits.
    #[error("the layout is invalid: {0}")]
    Layout(String),
    /// The tensors are not as long as the layout and the optimizer say.
    #[error("{what} has {found} {unit}, but the layout and the optimizer make it {expected}")]
    Length {
        /// Which part.
        what: &'static str,
        /// What it is counted in.
        unit: &'static str,
        /// The length found.
        found: u64,
        /// The length that belongs there.
        expected: u64,
    },
    /// Whole and consistent, but not the state that was asked for.
    #[error("state {} of round {} was expected, but state {} of round {} was found",
        expected.digest.short(), expected.round, found.digest.short(), found.round)]
    OtherState {
        /// What was asked for.
        expected: StateRef,
        /// What was found.
        found: StateRef,
    },
}

/// Everything that is equal on all peers.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// What is not tensors.
    pub header: StateHeader,
    /// Parameters, then buffers, as `header.layout` says.
    pub vector: Vec<f32>,
    /// The optimizer's vectors, each as long as the parameters.
    pub slots: Vec<Vec<f32>>,
}

impl State {
    /// The state that round 0 starts from: `vector` (parameters, then buffers) with the optimizer's
    /// slots at zero.
    ///
    /// # Errors
    /// [`StateError::Layout`], or [`StateError::Length`] when the vector does not fit the layout.
    pub fn initial(spec: &RunSpec, layout: Layout, vector: Vec<f32>) -> Result<Self, StateError> {
        check_layout(&layout, spec)?;
        let parameters = to_usize(layout.parameters())?;
        let header = StateHeader {
            run: spec.id(),
            round: 0,
            steps: 0,
            decisions: Default::default(),
            training: Default::default(),
            evaluation: None,
            finished: None,
            layout,
        };
        let state = Self { header, vector, slots: vec![vec![0.0; parameters]; spec.optimizer.slots()] };
        state.check_lengths(spec)?;
        Ok(state)
    }

    /// Checks that the tensors are as long as the layout and the optimizer say.
    ///
    /// # Errors
    /// [`StateError::Length`] names the first part that is not.
    pub fn check_lengths(&self, spec: &RunSpec) -> Result<(), StateError> {
        let layout = &self.header.layout;
        expect_length("the vector", "elements", self.vector.len(), layout.elements())?;
        expect_length("the optimizer", "slots", self.slots.len(), spec.optimizer.slots() as u64)?;
        self.slots.iter().try_for_each(|slot| expect_length("a slot", "elements", slot.len(), layout.parameters()))
    }

    /// Length of the canonical bytes.
    pub fn encoded_len(&self) -> u64 {
        let slots: usize = self.slots.iter().map(Vec::len).sum();
        (self.prefix().len() + 4 * (self.vector.len() + slots)) as u64
    }

    /// Where the vector starts in the canonical bytes.
    pub fn vector_offset(&self) -> u64 {
        self.prefix().len() as u64
    }

    /// The canonical bytes, in a buffer of their own. For files and digests
    /// [`for_each_chunk`](Self::for_each_chunk) copies nothing.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len() as usize);
        let appended: Result<(), std::convert::Infallible> = self.for_each_chunk(|chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        });
        match appended {
            Ok(()) => bytes,
        }
    }

    /// The BLAKE3 digest of the canonical bytes.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let hashed: Result<(), std::convert::Infallible> = self.for_each_chunk(|chunk| {
            hasher.update(chunk);
            Ok(())
        });
        match hashed {
            Ok(()) => Digest(*hasher.finalize().as_bytes()),
        }
    }

    /// Round and digest. Hashes the whole state.
    pub fn reference(&self) -> StateRef {
        StateRef { round: self.header.round, digest: self.digest() }
    }

    /// Hands out the canonical bytes in order, in pieces that stay in the processor's cache while
    /// they are hashed and written. The tensors are not copied.
    ///
    /// # Errors
    /// The first error of `visit`, after which nothing more is handed out.
    pub fn for_each_chunk<E>(&self, mut visit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        visit(&self.prefix())?;
        for tensor in std::iter::once(&self.vector).chain(&self.slots) {
            bytemuck::cast_slice(tensor).chunks(CHUNK_BYTES).try_for_each(&mut visit)?;
        }
        Ok(())
    }

    /// Decodes canonical bytes of any origin.
    ///
    /// # Errors
    /// [`StateError`]; see its variants.
    pub fn decode(mut bytes: &[u8], spec: &RunSpec) -> Result<Self, StateError> {
        let size = bytes.len() as u64;
        Self::read(&mut bytes, size, spec)
    }

    /// Reads a state of exactly `size` bytes. Allocates no more than a small multiple of `size`,
    /// whatever the bytes claim.
    ///
    /// # Errors
    /// [`StateError`]; see its variants.
    pub fn read(reader: &mut impl Read, size: u64, spec: &RunSpec) -> Result<Self, StateError> {
        let (header, prefix_len) = read_prefix(reader, size)?;
        let expected_run = spec.id();
        if header.run != expected_run {
            return Err(StateError::OtherRun { expected: expected_run, found: header.run });
        }
        check_layout(&header.layout, spec)?;
        let elements = header.layout.elements();
        let parameters = header.layout.parameters();
        let slots = spec.optimizer.slots();
        // No overflow: check_layout bounds the elements by MAX_ELEMENTS.
        let expected = prefix_len as u64 + 4 * (elements + slots as u64 * parameters);
        if size != expected {
            return Err(StateError::Length { what: "the encoding", unit: "bytes", found: size, expected });
        }
        let vector = read_tensor(reader, elements)?;
        let slots = (0..slots).map(|_| read_tensor(reader, parameters)).collect::<Result<_, _>>()?;
        Ok(Self { header, vector, slots })
    }

    fn prefix(&self) -> Vec<u8> {
        encode_prefix(&self.header)
    }
}

/// Everything in front of the vector.
fn encode_prefix(header: &StateHeader) -> Vec<u8> {
    let encoded = encode_header(header);
    let mut prefix = Vec::with_capacity(PREFIX_BYTES + encoded.len() + ALIGNMENT);
    prefix.extend_from_slice(&MAGIC);
    prefix.extend_from_slice(&STATE_FORMAT.to_le_bytes());
    prefix.extend_from_slice(&[0; 2]);
    prefix.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
    prefix.extend_from_slice(&encoded);
    prefix.resize(prefix.len().next_multiple_of(ALIGNMENT), 0);
    prefix
}

/// The header's canonical bytes (postcard).
pub(crate) fn encode_header(header: &StateHeader) -> Vec<u8> {
    // Postcard fails only on types it cannot represent (maps of unknown length), and the header has none.
    postcard::to_stdvec(header).unwrap_or_default()
}

/// Decodes a header whose layout has not been checked yet.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<StateHeader, StateError> {
    if bytes.len() > MAX_HEADER_BYTES {
        let reason = format!("{} bytes, at most {MAX_HEADER_BYTES} are allowed", bytes.len());
        return Err(StateError::Header(reason));
    }
    let header: StateHeader = postcard::from_bytes(bytes).map_err(|error| StateError::Header(error.to_string()))?;
    if encode_header(&header) != bytes {
        return Err(StateError::Header("it is not in canonical form".into()));
    }
    Ok(header)
}

/// Reads everything in front of the vector; returns the header and the number of bytes read.
pub(crate) fn read_prefix(reader: &mut impl Read, size: u64) -> Result<(StateHeader, usize), StateError> {
    let mut start = [0; PREFIX_BYTES];
    if size < PREFIX_BYTES as u64 {
        return Err(StateError::NotAState { bytes: size });
    }
    reader.read_exact(&mut start)?;
    if start[..8] != MAGIC || start[10..12] != [0; 2] {
        return Err(StateError::NotAState { bytes: size });
    }
    let version = u16::from_le_bytes([start[8], start[9]]);
    if version != STATE_FORMAT {
        return Err(StateError::Version { found: version });
    }
    let length = u32::from_le_bytes([start[12], start[13], start[14], start[15]]) as usize;
    let padded = (PREFIX_BYTES + length).next_multiple_of(ALIGNMENT);
    if padded as u64 > size || length > MAX_HEADER_BYTES {
        let reason = format!("it claims {length} bytes of a state of {size}");
        return Err(StateError::Header(reason));
    }
    let mut bytes = vec![0; padded - PREFIX_BYTES];
    reader.read_exact(&mut bytes)?;
    let header = decode_header(&bytes[..length])?;
    if bytes[length..].iter().any(|&byte| byte != 0) {
        return Err(StateError::Header("its padding is not zero".into()));
    }
    Ok((header, padded))
}

/// Reads `elements` f32; the caller has checked that so many bytes are there.
pub(crate) fn read_tensor(reader: &mut impl Read, elements: u64) -> Result<Vec<f32>, StateError> {
    let mut tensor = vec![0.0_f32; to_usize(elements)?];
    reader.read_exact(bytemuck::cast_slice_mut(&mut tensor))?;
    Ok(tensor)
}

/// Checks a layout of any origin: offsets, names that are distinct and free for use in checkpoints,
/// and sizes that cannot overflow.
pub(crate) fn check_layout(layout: &Layout, spec: &RunSpec) -> Result<(), StateError> {
    let invalid = |reason: String| Err(StateError::Layout(reason));
    if layout.entries.len() > MAX_TENSORS {
        return invalid(format!("{} tensors, at most {MAX_TENSORS} are allowed", layout.entries.len()));
    }
    if !layout.is_valid() {
        return invalid("tensors leave gaps, overlap, or a buffer precedes a parameter".into());
    }
    let vectors = 1 + spec.optimizer.slots() as u64;
    if layout.elements().saturating_mul(vectors) > MAX_ELEMENTS {
        return invalid(format!("{} elements are too many", layout.elements()));
    }
    let mut names = BTreeSet::new();
    for entry in &layout.entries {
        let name = entry.name.as_str();
        if name.is_empty() || name.len() > MAX_TENSOR_NAME {
            return invalid(format!("a name has {} bytes, not 1 to {MAX_TENSOR_NAME}", name.len()));
        }
        if name.starts_with(RESERVED_PREFIX) || name == "__metadata__" {
            return invalid(format!("the name {name:?} is reserved"));
        }
        if entry.shape.len() > MAX_RANK {
            return invalid(format!("{name:?} has {} dimensions, at most {MAX_RANK} are allowed", entry.shape.len()));
        }
        if !names.insert(name) {
            return invalid(format!("two tensors have the name {name:?}"));
        }
    }
    Ok(())
}

fn expect_length(what: &'static str, unit: &'static str, found: usize, expected: u64) -> Result<(), StateError> {
    if found as u64 == expected {
        return Ok(());
    }
    Err(StateError::Length { what, unit, found: found as u64, expected })
}

fn to_usize(elements: u64) -> Result<usize, StateError> {
    usize::try_from(elements)
        .map_err(|_| StateError::Layout(format!("{elements} elements do not fit this machine's memory")))
}

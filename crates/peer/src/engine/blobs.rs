//! What other peers can fetch from this one: recent states and the round's own sums.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerless_protocol::Digest;
use peerless_store::{Payload, StateFile};

use crate::transport::{BlobError, BlobSource};

/// How long a state that the store has dropped can still be fetched after its last range was read: a
/// download must not be outrun by short rounds.
const KEEP_AFTER_READ: Duration = Duration::from_secs(5);

/// Most states that are kept only because somebody reads them.
const MAX_OUTDATED: usize = 8;

/// Shared between the store's thread, which fills it, and the transport, which reads it.
#[derive(Debug, Default)]
pub(super) struct Blobs(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    states: HashMap<Digest, StateFile>,
    /// When each state was read last.
    read: HashMap<Digest, Instant>,
    payloads: HashMap<Digest, Arc<Payload>>,
}

enum Blob {
    State(StateFile),
    Payload(Arc<Payload>),
}

impl Blobs {
    /// The states that the store keeps. Those that are being read stay for a while beside them: their
    /// files are gone, but the open descriptor still reads.
    pub fn set_states(&self, kept: HashMap<Digest, StateFile>) {
        let mut contents = self.lock();
        let Contents { states, read, .. } = &mut *contents;
        read.retain(|_, at| at.elapsed() < KEEP_AFTER_READ);
        let before = std::mem::replace(states, kept);
        let outdated = before.into_iter().filter(|(digest, _)| read.contains_key(digest));
        for (digest, file) in outdated.take(MAX_OUTDATED) {
            states.entry(digest).or_insert(file);
        }
    }

    pub fn add_payload(&self, digest: Digest, payload: Arc<Payload>) {
        self.lock().payloads.insert(digest, payload);
    }

    pub fn clear_payloads(&self) {
        self.lock().payloads.clear();
    }

    /// A payload's bytes to be pushed.
    pub fn payload(&self, digest: &Digest) -> Option<Bytes> {
        let payload = self.lock().payloads.get(digest).cloned()?;
        Some(Bytes::from_owner(PayloadBytes(payload)))
    }

    /// A state's bytes to be pushed.
    pub fn state(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let file = self.lock().states.get(digest).cloned().ok_or(BlobError::Unknown)?;
        read(&file, 0..file.size())
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // Every holder leaves the maps consistent, even one that panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lends a payload's memory to the transport without a copy.
struct PayloadBytes(Arc<Payload>);

impl AsRef<[u8]> for PayloadBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl BlobSource for Blobs {
    fn read(&self, digest: &Digest, range: Range<u64>, total: u64) -> Result<Bytes, BlobError> {
        let mut contents = self.lock();
        if contents.states.contains_key(digest) {
            contents.read.insert(*digest, Instant::now());
        }
        let state = contents.states.get(digest).cloned().map(Blob::State);
        let payload = || contents.payloads.get(digest).cloned().map(Blob::Payload);
        let blob = state.or_else(payload).ok_or(BlobError::Unknown)?;
        drop(contents);
        let length = match &blob {
            Blob::State(file) => file.size(),
            Blob::Payload(payload) => payload.as_bytes().len() as u64,
        };
        if length != total {
            return Err(BlobError::OtherLength { total: length });
        }
        match blob {
            Blob::State(file) => read(&file, range),
            Blob::Payload(payload) => {
                let (start, end) = (size(range.start)?, size(range.end)?);
                let bytes = Bytes::from_owner(PayloadBytes(payload));
                if start > end || end > bytes.len() {
                    return Err(BlobError::Read(format!("{start}..{end} is outside of it")));
                }
                Ok(bytes.slice(start..end))
            }
        }
    }
}

fn read(file: &StateFile, range: Range<u64>) -> Result<Bytes, BlobError> {
    let mut buffer = vec![0; size(range.end.saturating_sub(range.start))?];
    file.read_exact_at(range.start, &mut buffer).map_err(|error| BlobError::Read(error.to_string()))?;
    Ok(buffer.into())
}

fn size(value: u64) -> Result<usize, BlobError> {
    usize::try_from(value).map_err(|error| BlobError::Read(error.to_string()))
}

//! Downloads: a blob in chunks from several donors at once, verified as a whole.
//!
//! Chunks carry no proofs of their own (a Merkle tree over the blob would be stored by every peer for
//! a case that honest peers never meet). When the whole does not have its digest, the blob is taken
//! from each donor alone, which finds out who lied.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::{FetchError, MAX_FETCH_BYTES, Transport};

/// Length of a chunk in bytes; the last one may be shorter.
pub const DOWNLOAD_CHUNK_BYTES: u64 = MAX_FETCH_BYTES;
/// Most chunks asked for at a time from one donor: enough to keep a link of 100 MB/s and 40 ms busy.
pub const DOWNLOAD_WINDOW: usize = 4;
/// A chunk is asked for a second time when it takes this many times the mean of those before it…
const SLOW_FACTOR: u32 = 4;
/// …and at least this long…
const SLOW_AT_LEAST: Duration = Duration::from_millis(50);
/// …or this long, when none has arrived yet.
const SLOW_AT_FIRST: Duration = Duration::from_millis(500);

/// Why a download did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DownloadError {
    /// Longer than this peer accepts.
    #[error("the blob has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its length in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// No donor is left, and chunks are missing. The download can go on with other donors.
    #[error("{received} of {size} bytes received, no donor is left ({})", list_failures(failures))]
    NoDonorLeft {
        /// Bytes received.
        received: u64,
        /// Length of the blob in bytes.
        size: u64,
        /// Why each donor gave up.
        failures: Vec<(PeerId, FetchError)>,
    },
    /// No donor has the blob that its digest names.
    #[error("{} sent bytes that do not have the digest {digest}, and nobody has others", list_peers(liars))]
    Corrupt {
        /// The digest.
        digest: Digest,
        /// Who sent wrong bytes.
        liars: Vec<PeerId>,
    },
}

fn list_peers(peers: &[PeerId]) -> String {
    peers.iter().map(PeerId::short).collect::<Vec<_>>().join(", ")
}

fn list_failures(failures: &[(PeerId, FetchError)]) -> String {
    failures.iter().map(|(peer, error)| format!("{}: {error}", peer.short())).collect::<Vec<_>>().join("; ")
}

/// A blob that was downloaded and has its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// The blob.
    pub bytes: Vec<u8>,
    /// Donors that sent wrong bytes on the way; almost always empty.
    pub liars: Vec<PeerId>,
}

/// Downloads the blob `digest` of `size` bytes from `donors`.
///
/// # Errors
/// [`DownloadError`]. To go on from what has arrived with other donors, use a [`Download`].
pub async fn fetch_blob<T: Transport>(
    transport: &Arc<T>,
    digest: Digest,
    size: u64,
    donors: &[PeerId],
) -> Result<Downloaded, DownloadError> {
    Download::new(digest, size).run(transport, donors).await
}

/// A download with what has arrived so far.
#[derive(Debug)]
pub struct Download {
    digest: Digest,
    size: u64,
    /// The chunks that have arrived, and from whom.
    chunks: Vec<Option<(PeerId, Bytes)>>,
}

/// A chunk that was asked for.
struct Request {
    donor: PeerId,
    chunk: usize,
    since: Instant,
}

impl Download {
    /// A download of the blob `digest` of `size` bytes of which nothing has arrived.
    pub fn new(digest: Digest, size: u64) -> Self {
        Self { digest, size, chunks: Vec::new() }
    }

    /// Whether this is a download of that blob.
    pub fn is_of(&self, digest: &Digest, size: u64) -> bool {
        self.digest == *digest && self.size == size
    }

    /// Bytes that have arrived, not yet verified.
    pub fn received(&self) -> u64 {
        self.chunks.iter().flatten().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Takes what is missing from `donors`, all at a time. What a donor does not deliver, because it
    /// dies, refuses or is slow, is taken from the others. Can be called again after
    /// [`DownloadError::NoDonorLeft`].
    ///
    /// # Errors
    /// [`DownloadError`].
    pub async fn run<T: Transport>(
        &mut self,
        transport: &Arc<T>,
        donors: &[PeerId],
    ) -> Result<Downloaded, DownloadError> {
        self.collect(transport, donors).await?;
        match self.verified() {
            Some(bytes) => Ok(Downloaded { bytes, liars: Vec::new() }),
            None => self.find_the_liar(transport, donors).await,
        }
    }

    /// Takes the blob from one donor after the other.
    async fn find_the_liar<T: Transport>(
        &mut self,
        transport: &Arc<T>,
        donors: &[PeerId],
    ) -> Result<Downloaded, DownloadError> {
        let mixed = std::mem::take(&mut self.chunks);
        let suppliers: BTreeSet<PeerId> = mixed.iter().flatten().map(|(donor, _)| *donor).collect();
        let mut liars = BTreeSet::new();
        if suppliers.len() == 1 {
            liars.extend(&suppliers);
        }
        let candidates: BTreeSet<&PeerId> = donors.iter().filter(|donor| !liars.contains(*donor)).collect();
        for donor in candidates {
            let mut alone = Self::new(self.digest, self.size);
            if alone.collect(transport, &[*donor]).await.is_err() {
                continue;
            }
            if let Some(bytes) = alone.verified() {
                let wrong = mixed.iter().zip(&alone.chunks).filter_map(|(mixed, right)| match (mixed, right) {
                    (Some((donor, found)), Some((_, right))) if found != right => Some(*donor),
                    _ => None,
                });
                liars.extend(wrong);
                return Ok(Downloaded { bytes, liars: liars.into_iter().collect() });
            }
            liars.insert(*donor);
        }
        Err(DownloadError::Corrupt { digest: self.digest, liars: liars.into_iter().collect() })
    }

    /// The whole blob if it has its digest.
    fn verified(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.received() as usize);
        for (_, chunk) in self.chunks.iter().flatten() {
            bytes.extend_from_slice(chunk);
        }
        (Digest::of(&bytes) == self.digest).then_some(bytes)
    }

    fn range(&self, chunk: usize) -> Range<u64> {
        let start = chunk as u64 * DOWNLOAD_CHUNK_BYTES;
        start..(start + DOWNLOAD_CHUNK_BYTES).min(self.size)
    }

    async fn collect<T: Transport>(&mut self, transport: &Arc<T>, donors: &[PeerId]) -> Result<(), DownloadError> {
        let limit = transport.max_blob_bytes();
        if self.size > limit {
            return Err(DownloadError::TooLarge { size: self.size, limit });
        }
        self.chunks.resize(self.size.div_ceil(DOWNLOAD_CHUNK_BYTES) as usize, None);
        let missing = (0..self.chunks.len()).filter(|&chunk| self.chunks[chunk].is_none()).collect();
        let donors: BTreeSet<PeerId> = donors.iter().copied().collect();
        let mut schedule = Schedule::new(missing, donors.into_iter().collect());
        let mut answers = JoinSet::new();
        while self.chunks.iter().any(Option::is_none) {
            for (donor, chunk) in schedule.next_requests() {
                let (transport, digest, range, total) =
                    (Arc::clone(transport), self.digest, self.range(chunk), self.size);
                answers.spawn(async move { (donor, chunk, transport.fetch(donor, digest, range, total).await) });
            }
            match timeout_at(schedule.next_slow(), answers.join_next()).await {
                Ok(Some(Ok((donor, chunk, Ok(bytes))))) => {
                    schedule.arrived(donor, chunk);
                    self.chunks[chunk].get_or_insert((donor, bytes));
                }
                Ok(Some(Ok((donor, chunk, Err(error))))) => schedule.failed(donor, chunk, error),
                Ok(Some(Err(_))) | Err(_) => {}
                Ok(None) => {
                    let (received, failures) = (self.received(), schedule.failures);
                    return Err(DownloadError::NoDonorLeft { received, size: self.size, failures });
                }
            }
        }
        Ok(())
    }
}

/// Which chunk is to be asked for from whom.
struct Schedule {
    /// Nobody has been asked for these.
    waiting: VecDeque<usize>,
    asked: Vec<Request>,
    donors: Vec<PeerId>,
    failures: Vec<(PeerId, FetchError)>,
    /// How many chunks have arrived and how long they took together.
    arrivals: (u32, Duration),
    done: BTreeSet<usize>,
}

impl Schedule {
    fn new(waiting: VecDeque<usize>, donors: Vec<PeerId>) -> Self {
        Self {
            waiting,
            asked: Vec::new(),
            donors,
            failures: Vec::new(),
            arrivals: (0, Duration::ZERO),
            done: BTreeSet::new(),
        }
    }

    /// How long a chunk may take before it is asked for a second time.
    fn patience(&self) -> Duration {
        match self.arrivals {
            (0, _) => SLOW_AT_FIRST,
            (count, total) => (total / count * SLOW_FACTOR).max(SLOW_AT_LEAST),
        }
    }

    fn load(&self, donor: PeerId) -> usize {
        self.asked.iter().filter(|request| request.donor == donor).count()
    }

    /// Whether a chunk is on its way, from one donor only.
    fn is_asked_once(&self, chunk: usize) -> bool {
        !self.done.contains(&chunk) && self.asked.iter().filter(|request| request.chunk == chunk).count() == 1
    }

    /// Asks every donor that has room for the next chunk, and when none is left, for one that is slow
    /// elsewhere: a donor that hangs delays a download by its patience, not by its time-out.
    fn next_requests(&mut self) -> Vec<(PeerId, usize)> {
        let now = Instant::now();
        let mut requests = Vec::new();
        for load in 0..DOWNLOAD_WINDOW {
            for donor in self.donors.clone() {
                if self.load(donor) > load {
                    continue;
                }
                let Some(chunk) = self.waiting.pop_front().or_else(|| self.slow_elsewhere(donor, now)) else {
                    continue;
                };
                self.asked.push(Request { donor, chunk, since: now });
                requests.push((donor, chunk));
            }
        }
        requests
    }

    fn slow_elsewhere(&self, donor: PeerId, now: Instant) -> Option<usize> {
        let patience = self.patience();
        let slow = |request: &&Request| {
            request.donor != donor && request.since + patience <= now && self.is_asked_once(request.chunk)
        };
        self.asked.iter().find(slow).map(|request| request.chunk)
    }

    /// When the next chunk becomes slow.
    fn next_slow(&self) -> Instant {
        let patience = self.patience();
        let now = Instant::now();
        let once = self.asked.iter().filter(|request| self.is_asked_once(request.chunk));
        let next = once.map(|request| request.since + patience).filter(|slow| *slow > now).min();
        next.unwrap_or(now + SLOW_AT_FIRST)
    }

    fn forget(&mut self, donor: PeerId, chunk: usize) -> Option<Request> {
        let index = self.asked.iter().position(|request| request.donor == donor && request.chunk == chunk)?;
        Some(self.asked.swap_remove(index))
    }

    fn arrived(&mut self, donor: PeerId, chunk: usize) {
        if let Some(request) = self.forget(donor, chunk) {
            self.arrivals.0 += 1;
            self.arrivals.1 += request.since.elapsed();
        }
        self.done.insert(chunk);
    }

    /// Takes a donor out, and gives its chunk to the others.
    fn failed(&mut self, donor: PeerId, chunk: usize, error: FetchError) {
        self.forget(donor, chunk);
        if self.donors.contains(&donor) {
            self.donors.retain(|other| *other != donor);
            self.failures.push((donor, error));
        }
        let asked = self.asked.iter().any(|request| request.chunk == chunk);
        if !asked && !self.done.contains(&chunk) {
            self.waiting.push_front(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(byte: u8) -> PeerId {
        PeerId([byte; 32])
    }

    fn schedule(chunks: usize, donors: u8) -> Schedule {
        Schedule::new((0..chunks).collect(), (0..donors).map(peer).collect())
    }

    #[test]
    fn chunks_are_spread_over_the_donors_and_each_is_asked_for_once() {
        let mut schedule = schedule(5, 3);
        let requests = schedule.next_requests();
        assert_eq!(requests, [(peer(0), 0), (peer(1), 1), (peer(2), 2), (peer(0), 3), (peer(1), 4)]);
        assert_eq!(schedule.next_requests(), []);
    }

    #[test]
    fn no_donor_is_asked_for_more_than_its_window() {
        let mut schedule = schedule(100, 1);
        assert_eq!(schedule.next_requests().len(), DOWNLOAD_WINDOW);
        schedule.arrived(peer(0), 0);
        assert_eq!(schedule.next_requests(), [(peer(0), DOWNLOAD_WINDOW)]);
    }

    #[test]
    fn the_chunks_of_a_dead_donor_go_to_the_others() {
        let mut schedule = schedule(2, 2);
        assert_eq!(schedule.next_requests().len(), 2);
        schedule.failed(peer(0), 0, FetchError::NotConnected);
        assert_eq!(schedule.next_requests(), [(peer(1), 0)]);
        assert_eq!(schedule.failures, [(peer(0), FetchError::NotConnected)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_chunk_is_asked_for_a_second_time_and_not_a_third() {
        let mut schedule = schedule(1, 3);
        assert_eq!(schedule.next_requests(), [(peer(0), 0)]);
        tokio::time::sleep_until(schedule.next_slow()).await;
        assert_eq!(schedule.next_requests(), [(peer(1), 0)]);
        tokio::time::sleep(SLOW_AT_FIRST * 2).await;
        assert_eq!(schedule.next_requests(), []);
        schedule.arrived(peer(1), 0);
        schedule.failed(peer(0), 0, FetchError::TimedOut);
        assert_eq!(schedule.next_requests(), [], "a chunk that has arrived is asked for again");
    }
}

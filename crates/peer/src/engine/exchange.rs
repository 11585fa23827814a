//! Sums that go from peer to peer through a bucket: written once by whoever has formed them, and read by everyone else.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use peerless_functions::BoxFuture;
use peerless_protocol::{Digest, PayloadRef, PeerId};
use peerless_store::EventRecord;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::bill::EXCHANGE;

/// What is kept elsewhere until this is dropped.
pub(crate) type Kept = Box<dyn Any + Send + Sync>;

/// A place that all peers of a run reach.
pub(crate) trait SharedSums: Send + Sync {
    /// Writes a sum of this peer.
    fn put(&self, digest: Digest, bytes: Bytes) -> BoxFuture<'_, Result<Kept, String>>;

    /// Reads a sum of another peer, of just this length. Whether it is what its digest says is for the receiver to check.
    fn get(&self, author: PeerId, payload: PayloadRef) -> BoxFuture<'_, Result<Bytes, String>>;

    /// Removes everything of this peer.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What this peer has to do with that place in the rounds under way.
pub(super) struct Exchange {
    shared: Arc<dyn SharedSums>,
    /// Sums of this round, and of the one before, which slower peers may still need.
    written: [HashMap<Digest, Written>; 2],
    /// Sums of others that were asked for in this round, by who has announced them.
    read: BTreeMap<PeerId, BTreeSet<Digest>>,
    requests: Arc<Requests>,
}

/// A sum that is on its way there, or there; without what is kept if that failed.
type Written = Arc<OnceCell<Option<Kept>>>;

#[derive(Default)]
struct Requests {
    puts: AtomicU32,
    gets: AtomicU32,
}

impl Exchange {
    pub fn new(shared: Arc<dyn SharedSums>) -> Self {
        Self { shared, written: Default::default(), read: BTreeMap::new(), requests: Arc::default() }
    }

    /// Writes a sum, once however often it is asked for. Ends when it is there, or has failed to get there: whoever needs
    /// it asks this peer for it then.
    pub fn write(&mut self, digest: Digest, bytes: Bytes) -> impl Future<Output = ()> + Send + use<> {
        let written = Arc::clone(self.written[0].entry(digest).or_default());
        let (shared, requests) = (Arc::clone(&self.shared), Arc::clone(&self.requests));
        async move {
            let put = async {
                requests.puts.fetch_add(1, Ordering::Relaxed);
                let kept = shared.put(digest, bytes).await;
                kept.inspect_err(|reason| tracing::warn!(reason, "a sum of this peer is not in the bucket")).ok()
            };
            written.get_or_init(|| put).await;
        }
    }

    /// Reads a sum of another peer, unless that was done in this round. Nobody has more than `limit` in a round: more is
    /// not read, as every read is paid for.
    pub fn read(
        &mut self,
        author: PeerId,
        payload: PayloadRef,
        limit: usize,
    ) -> Option<impl Future<Output = Option<Bytes>> + Send + use<>> {
        let (shared, requests) = (Arc::clone(&self.shared), Arc::clone(&self.requests));
        let read = self.read.entry(author).or_default();
        (read.len() < limit && read.insert(payload.digest)).then_some(async move {
            requests.gets.fetch_add(1, Ordering::Relaxed);
            let bytes = shared.get(author, payload).await;
            // The protocol asks the author for it when it is late.
            bytes.inspect_err(|reason| tracing::warn!(from = %author.short(), reason, "a sum was not read")).ok()
        })
    }

    /// A round begins: what was needed before the last one is removed.
    pub fn begin_round(&mut self) {
        self.written.swap(0, 1);
        self.written[0].clear();
        self.read.clear();
    }

    /// What was asked for since the last call, for the ledger.
    pub fn record(&self, round: u64, at_us: u64) -> Option<EventRecord> {
        let take = |counter: &AtomicU32| counter.swap(0, Ordering::Relaxed);
        let (puts, gets) = (take(&self.requests.puts), take(&self.requests.gets));
        let detail = json!({ "puts": puts, "gets": gets }).to_string();
        (puts + gets > 0).then(|| EventRecord { at_us, round: Some(round), kind: EXCHANGE.into(), detail })
    }

    /// Removes everything of this peer.
    pub async fn close(self) {
        self.shared.close().await;
    }
}

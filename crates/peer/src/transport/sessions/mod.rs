//! Sessions: what two connected peers share, whatever the streams between them run over.
//!
//! A session is three streams, all dialled by the same side, so that it is enough that one of the
//! two can be reached: one for messages, and for each direction one that carries blobs. Each is a
//! connection of its own, so that blobs never delay messages. The three live and die together.

mod accept;
mod bulk;
mod dial;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod hello;
#[cfg(test)]
mod misbehaviour;
mod registry;
mod session;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId, RunId};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{
    BindError, BlobSource, EventSender, FetchError, MAX_ADDRESSES, MAX_FETCH_BYTES, MAX_MESSAGE_BYTES, SendError,
    Transport,
};
use crate::identity::Identity;
pub(super) use handshake::{broken, failed};
pub use hello::Admission;
pub(super) use hello::{EXPORTER_LABEL, Side};
use registry::Registry;
use session::Fetch;
#[cfg(feature = "iroh")]
pub(super) use wire::NO_ADDRESS;
pub(super) use wire::{Arrival, BoxFuture, Link, Purpose, Secured, Wire};

/// Most messages that wait to be written to one peer.
pub const MESSAGE_QUEUE: usize = 1024;
/// Most bytes in messages that wait to be written to one peer.
pub const MESSAGE_QUEUE_BYTES: usize = 4 << 20;
/// Most blobs that wait to be pushed to one peer: all shards of a round and their totals at once.
pub const PUSH_QUEUE: usize = 256;
/// Most bytes in blobs that wait to be pushed to one peer; a single blob may be longer.
pub const PUSH_QUEUE_BYTES: usize = 128 << 20;
/// Most fetches from one peer that wait to be asked for, and as many that wait for their answer.
pub const FETCH_QUEUE: usize = 64;
/// Most connections that are not admitted yet; more wait in the kernel's backlog.
pub const MAX_HANDSHAKES: usize = 128;
/// How long a connection may take from its first byte to its admission.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to reach a peer, before any handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a peer may take to answer one fetch of at most [`MAX_FETCH_BYTES`].
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last words on a connection may take.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a transport is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this peer is.
    pub identity: Identity,
    /// The run: peers of another one are refused.
    pub run: RunId,
    /// Who is admitted.
    pub admission: Admission,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where others reach this peer, at most [`MAX_ADDRESSES`]; empty for the address it listens on.
    pub advertise: Vec<SocketAddr>,
    /// Longest blob in bytes, sent or received. Each connected peer can make this peer hold one
    /// unfinished blob of that size.
    pub max_blob_bytes: u64,
    /// Most peers connected at a time.
    pub max_peers: usize,
    /// Seed of the jitter between dials.
    pub seed: u64,
}

impl Config {
    /// # Errors
    /// [`BindError::TooManyAddresses`] beyond [`MAX_ADDRESSES`].
    pub(super) fn check(&self) -> Result<(), BindError> {
        match self.advertise.len() {
            found if found > MAX_ADDRESSES => Err(BindError::TooManyAddresses { found, limit: MAX_ADDRESSES }),
            _ => Ok(()),
        }
    }
}

/// What all tasks of a transport share.
struct Shared {
    peer: PeerId,
    run: RunId,
    /// Random number of this process, by which others tell that it was restarted.
    instance: u64,
    admission: Admission,
    addresses: Vec<SocketAddr>,
    max_blob_bytes: u64,
    seed: u64,
    /// How long a first dial is held back.
    dial_after: Duration,
    wire: Arc<dyn Wire>,
    source: Arc<dyn BlobSource>,
    events: EventSender,
    /// Bytes of frames written to other peers.
    sent: Arc<AtomicU64>,
    registry: Arc<Registry>,
    tasks: Mutex<JoinSet<()>>,
}

impl Shared {
    /// Runs a task until it ends or the transport is dropped.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Locks data that every holder leaves consistent, even one that panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number by which other peers tell this process from others with its key.
pub(super) fn new_instance() -> Result<u64, BindError> {
    getrandom::u64().map_err(|error| BindError::Tls(error.to_string()))
}

/// How a wire is put to use.
pub(super) struct Start {
    pub(super) wire: Arc<dyn Wire>,
    /// Where the wire listens.
    pub(super) local: SocketAddr,
    /// From [`new_instance`].
    pub(super) instance: u64,
    /// How long a first dial is held back.
    pub(super) dial_after: Duration,
    pub(super) source: Arc<dyn BlobSource>,
    pub(super) events: EventSender,
}

/// A transport over one wire. Dropping it cuts all connections at once.
pub struct SessionTransport {
    shared: Arc<Shared>,
    local: SocketAddr,
}

impl SessionTransport {
    /// Accepts and dials from now on. Runs on the current tokio runtime.
    pub(super) fn start(config: Config, start: Start) -> Self {
        let Start { wire, local, instance, dial_after, source, events } = start;
        let peer = config.identity.peer_id();
        let shared = Arc::new(Shared {
            peer,
            run: config.run,
            instance,
            admission: config.admission,
            addresses: if config.advertise.is_empty() { vec![local] } else { config.advertise },
            max_blob_bytes: config.max_blob_bytes,
            seed: config.seed,
            dial_after,
            wire,
            source,
            events,
            sent: Arc::default(),
            registry: Arc::new(Registry::new(peer, config.max_peers)),
            tasks: Mutex::default(),
        });
        shared.spawn(accept::accept_all(Arc::clone(&shared)));
        Self { shared, local }
    }

    /// Whether there is a session with `peer`.
    #[cfg(feature = "iroh")]
    pub(super) fn is_connected(&self, peer: PeerId) -> bool {
        self.shared.registry.is_connected(peer)
    }

    /// Ends sessions with peers whose process is another by now.
    #[cfg(feature = "iroh")]
    pub(super) fn replacer(&self) -> Replacer {
        Replacer(Arc::downgrade(&self.shared.registry))
    }
}

/// Ends sessions with processes that another one has replaced.
#[cfg(feature = "iroh")]
pub(super) struct Replacer(std::sync::Weak<Registry>);

#[cfg(feature = "iroh")]
impl Replacer {
    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        Self(std::sync::Weak::new())
    }

    /// Ends the session with `peer` unless it is one with the process `instance`.
    pub(super) fn replaced_by(&self, peer: PeerId, instance: u64) {
        if let Some(registry) = self.0.upgrade() {
            registry.end_others(peer, instance);
        }
    }
}

impl Drop for SessionTransport {
    fn drop(&mut self) {
        // First, so that a task that still runs begins nothing new.
        self.shared.registry.close();
        // The tasks hold `Shared`, which holds the tasks: they must be ended from here.
        lock(&self.shared.tasks).abort_all();
    }
}

impl Transport for SessionTransport {
    fn send(&self, to: PeerId, message: Bytes) -> Result<(), SendError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(SendError::TooLong { length: message.len() as u64, limit: MAX_MESSAGE_BYTES as u64 });
        }
        self.shared.registry.with_session(to, |session| session.send(message)).unwrap_or(Err(SendError::NotConnected))
    }

    fn push(&self, to: PeerId, digest: Digest, blob: Bytes) -> Result<(), SendError> {
        let (length, limit) = (blob.len() as u64, self.shared.max_blob_bytes);
        if length > limit {
            return Err(SendError::TooLong { length, limit });
        }
        let pushed = self.shared.registry.with_session(to, |session| session.push(digest, blob));
        pushed.unwrap_or(Err(SendError::NotConnected))
    }

    async fn fetch(&self, from: PeerId, digest: Digest, range: Range<u64>, total: u64) -> Result<Bytes, FetchError> {
        if !is_fetchable(&range, total) {
            return Err(FetchError::Range { start: range.start, end: range.end, total });
        }
        let (answer, answered) = oneshot::channel();
        let fetch = Fetch { digest, range, total, answer };
        match self.shared.registry.with_session(from, |session| session.fetches.try_send(fetch)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => return Err(FetchError::Busy),
            Some(Err(TrySendError::Closed(_))) | None => return Err(FetchError::NotConnected),
        }
        match tokio::time::timeout(FETCH_TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(FetchError::NotConnected),
            Err(_) => Err(FetchError::TimedOut),
        }
    }

    fn dial(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        dial::keep_connected(&self.shared, peer, addresses);
    }

    fn forget(&self, peer: PeerId) {
        self.shared.registry.forget(peer);
    }

    fn max_blob_bytes(&self) -> u64 {
        self.shared.max_blob_bytes
    }

    fn bytes_sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.shared.addresses.clone()
    }

    async fn shutdown(&self) {
        self.shared.registry.close();
        for mut ended in self.shared.registry.stop_all() {
            // The sender is never used, only dropped when the session has ended.
            let _ = ended.changed().await;
        }
        // Longer than a second only if it is the wire that hangs.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, self.shared.wire.close()).await;
    }
}

/// Whether a range can be asked for in one fetch of a blob of `total` bytes.
fn is_fetchable(range: &Range<u64>, total: u64) -> bool {
    range.start < range.end && range.end <= total && range.end - range.start <= MAX_FETCH_BYTES
}

//! The default transport: direct TCP with TLS 1.3, both sides authenticated by their peer key.
//!
//! Two connected peers share three TCP connections, all dialled by the same side, so that it is
//! enough that one of the two can be reached: one for messages, and for each direction one that
//! carries blobs. The three live and die together, as one *session*.
//!
//! QUIC would need one connection and a multiple of the CPU time for each byte.

mod accept;
mod bulk;
mod crypto;
mod dial;
mod frame;
mod handshake;
mod hello;
#[cfg(test)]
mod misbehaviour;
mod registry;
mod session;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId, RunId};
use tokio::net::TcpListener;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    BindError, BlobSource, EventSender, Events, FetchError, MAX_ADDRESSES, MAX_FETCH_BYTES, MAX_MESSAGE_BYTES,
    SendError, Transport, events,
};
use crate::identity::Identity;
pub use hello::Admission;
use registry::Registry;
use session::{Fetch, Push};

/// Most messages that wait to be written to one peer.
pub const MESSAGE_QUEUE: usize = 1024;
/// Most bytes in messages that wait to be written to one peer.
pub const MESSAGE_QUEUE_BYTES: usize = 4 << 20;
/// Most blobs that wait to be pushed to one peer.
pub const PUSH_QUEUE: usize = 8;
/// Most fetches from one peer that wait to be asked for, and as many that wait for their answer.
pub const FETCH_QUEUE: usize = 64;
/// Most connections that are not admitted yet; more wait in the kernel's backlog.
pub const MAX_HANDSHAKES: usize = 128;
/// How long a connection may take from its first byte to its admission.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a TCP connection may take to be established.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a peer may take to answer one fetch of at most [`MAX_FETCH_BYTES`].
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last words on a connection may take.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a [`TlsTransport`] is told at its start.
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
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    source: Arc<dyn BlobSource>,
    events: EventSender,
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

fn random() -> Result<u64, BindError> {
    getrandom::u64().map_err(|error| BindError::Tls(error.to_string()))
}

/// The transport over TCP and TLS 1.3. Dropping it cuts all connections at once.
pub struct TlsTransport {
    shared: Arc<Shared>,
    local: SocketAddr,
}

impl TlsTransport {
    /// Listens at `config.listen`; `source` serves the blobs that other peers fetch. Runs on the
    /// current tokio runtime.
    ///
    /// # Errors
    /// [`BindError`], which names the address.
    pub async fn bind(config: Config, source: Arc<dyn BlobSource>) -> Result<(Self, Events), BindError> {
        if config.advertise.len() > MAX_ADDRESSES {
            return Err(BindError::TooManyAddresses { found: config.advertise.len(), limit: MAX_ADDRESSES });
        }
        let (client, server) = crypto::configs(&config.identity).map_err(|error| BindError::Tls(error.to_string()))?;
        let (listener, local) = listen(config.listen).await?;
        let (sender, events) = events();
        let shared = Arc::new(Shared {
            peer: config.identity.peer_id(),
            run: config.run,
            instance: random()?,
            admission: config.admission,
            addresses: if config.advertise.is_empty() { vec![local] } else { config.advertise },
            max_blob_bytes: config.max_blob_bytes,
            seed: config.seed,
            connector: TlsConnector::from(client),
            acceptor: TlsAcceptor::from(server),
            source,
            events: sender,
            registry: Arc::new(Registry::new(config.identity.peer_id(), config.max_peers)),
            tasks: Mutex::default(),
        });
        shared.spawn(accept::accept_all(Arc::clone(&shared), listener));
        Ok((Self { shared, local }, events))
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound.await.map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        _ => BindError::Listen { address, source },
    })
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        // First, so that a task that still runs begins nothing new.
        self.shared.registry.close();
        // The tasks hold `Shared`, which holds the tasks: they must be ended from here.
        lock(&self.shared.tasks).abort_all();
    }
}

impl Transport for TlsTransport {
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
        let push = Push { digest, blob };
        let pushed = self.shared.registry.with_session(to, |session| session.pushes.try_send(push));
        match pushed {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(SendError::QueueFull),
            Some(Err(TrySendError::Closed(_))) | None => Err(SendError::NotConnected),
        }
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

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    async fn shutdown(&self) {
        self.shared.registry.close();
        for mut ended in self.shared.registry.stop_all() {
            // The sender is never used, only dropped when the session has ended.
            let _ = ended.changed().await;
        }
    }
}

/// Whether a range can be asked for in one fetch of a blob of `total` bytes.
fn is_fetchable(range: &Range<u64>, total: u64) -> bool {
    range.start < range.end && range.end <= total && range.end - range.start <= MAX_FETCH_BYTES
}

//! The transport between peers: opaque messages and blobs, authenticated by peer key.
//!
//! It knows nothing of the protocol's messages. A *message* is small and ordered (control), a *blob*
//! is large and named by its BLAKE3 digest (a payload or a state). Anything may be lost when a
//! connection breaks or a queue is full: the protocol repeats what matters.

#[cfg(feature = "iroh")]
pub mod composite;
pub mod download;
mod error;
mod events;
#[cfg(feature = "iroh")]
pub mod iroh;
mod relay;
mod sessions;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId};

pub use error::{
    BindError, BlobError, CloseReason, FetchError, FetchRefusal, Refusal, Rejection, SendError, Violation,
};
pub use events::{EVENT_BYTES, EVENT_QUEUE, Event, Events, PAYLOAD_QUEUE};
pub(crate) use events::{EventSender, events};
pub use relay::{MAX_RELAY_URL_BYTES, RelayUrl, RelayUrlError};
#[cfg(fuzzing)]
pub use sessions::fuzzing;
pub use sessions::{
    Admission, CONNECT_TIMEOUT, Config, FAREWELL_TIMEOUT, FETCH_QUEUE, FETCH_TIMEOUT, HANDSHAKE_TIMEOUT,
    MAX_HANDSHAKES, MESSAGE_QUEUE, MESSAGE_QUEUE_BYTES, PUSH_QUEUE, SessionTransport,
};

/// Longest control message in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Longest range of one [`Transport::fetch`] in bytes.
pub const MAX_FETCH_BYTES: u64 = 1 << 20;
/// Most listening addresses a peer may announce.
pub const MAX_ADDRESSES: usize = 8;

/// The transport that peers use: TLS, and with the feature `iroh` also iroh beside it.
#[cfg(feature = "iroh")]
pub type PeerTransport = composite::CompositeTransport;
/// The transport that peers use: TLS, and with the feature `iroh` also iroh beside it.
#[cfg(not(feature = "iroh"))]
pub type PeerTransport = SessionTransport;

/// Starts the transport that peers use. `relays` are for peers that nobody can reach directly; they
/// need the feature `iroh` and are passed over without it.
///
/// A peer that listens on a loopback address, without relays, uses TLS alone: whoever reaches such an
/// address at all reaches it by TCP.
///
/// # Errors
/// [`BindError`], which names the address.
pub async fn bind(
    config: Config,
    relays: &[RelayUrl],
    source: Arc<dyn BlobSource>,
) -> Result<(PeerTransport, Events), BindError> {
    #[cfg(feature = "iroh")]
    return match config.listen.ip().is_loopback() && relays.is_empty() {
        true => composite::bind_tls_alone(config, source).await,
        false => composite::bind(config, relays, source).await,
    };
    #[cfg(not(feature = "iroh"))]
    {
        if !relays.is_empty() {
            tracing::warn!("this program was built without the feature iroh: relays are not used");
        }
        tls::bind(config, source).await
    }
}

/// Where the blobs come from that other peers fetch from this one.
pub trait BlobSource: Send + Sync + 'static {
    /// The bytes `range` of the blob `digest`, whose length must be `total`.
    ///
    /// Called on a thread that may block. `range` is never longer than [`MAX_FETCH_BYTES`] and lies
    /// within `total`.
    ///
    /// # Errors
    /// [`BlobError`], which the peer that asks is told.
    fn read(&self, digest: &Digest, range: Range<u64>, total: u64) -> Result<Bytes, BlobError>;
}

/// Moves messages and blobs between this peer and others.
///
/// What arrives comes out of the [`Events`] that the implementation's constructor returns. Nothing
/// here waits for a remote peer, except [`Transport::fetch`] and [`Transport::shutdown`].
pub trait Transport: Send + Sync + 'static {
    /// Queues `message` for `to`. Messages of one connection arrive in order and once.
    ///
    /// # Errors
    /// [`SendError`] when it is certain not to arrive; success promises nothing.
    fn send(&self, to: PeerId, message: Bytes) -> Result<(), SendError>;

    /// Queues the blob named `digest` for `to`, unasked, on a connection of its own.
    ///
    /// # Errors
    /// [`SendError`] when it is certain not to arrive; success promises nothing.
    fn push(&self, to: PeerId, digest: Digest, blob: Bytes) -> Result<(), SendError>;

    /// The bytes `range` of the blob `digest`, which has `total` bytes, from the peer `from`.
    ///
    /// The range alone cannot be checked against the digest: see [`download::fetch_blob`].
    fn fetch(
        &self,
        from: PeerId,
        digest: Digest,
        range: Range<u64>,
        total: u64,
    ) -> impl Future<Output = Result<Bytes, FetchError>> + Send;

    /// Keeps `peer` connected by way of `addresses`, redialling after every loss with exponential
    /// back-off until [`Transport::forget`]. Called again, it replaces the addresses.
    fn dial(&self, peer: PeerId, addresses: Vec<SocketAddr>);

    /// Stops dialling `peer` and says goodbye to it if it is connected.
    fn forget(&self, peer: PeerId);

    /// Longest blob in bytes.
    fn max_blob_bytes(&self) -> u64;

    /// Bytes of messages, blobs and their frames that were written to other peers, before encryption.
    fn bytes_sent(&self) -> u64;

    /// Where this peer listens.
    fn local_addr(&self) -> SocketAddr;

    /// Where this peer tells others that it listens.
    fn addresses(&self) -> Vec<SocketAddr>;

    /// Takes no more connections, writes out the queued messages, says goodbye to every peer and
    /// returns when that is done or a second has passed.
    fn shutdown(&self) -> impl Future<Output = ()> + Send;
}

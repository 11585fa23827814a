//! The transport between peers: opaque messages and blobs, authenticated by peer key.
//!
//! It knows nothing of the protocol's messages. A *message* is small and ordered (control), a *blob*
//! is large and named by its BLAKE3 digest (a payload or a state). Anything may be lost when a
//! connection breaks or a queue is full: the protocol repeats what matters.

pub mod download;
mod error;
mod events;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId};

pub use error::{
    BindError, BlobError, CloseReason, FetchError, FetchRefusal, Refusal, Rejection, SendError, Violation,
};
pub use events::{EVENT_BYTES, EVENT_QUEUE, Event, Events, PAYLOAD_QUEUE};
pub(crate) use events::{EventSender, events};

/// Longest control message in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Longest range of one [`Transport::fetch`] in bytes.
pub const MAX_FETCH_BYTES: u64 = 1 << 20;
/// Most listening addresses a peer may announce.
pub const MAX_ADDRESSES: usize = 8;

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

    /// Where this peer listens.
    fn local_addr(&self) -> SocketAddr;

    /// Takes no more connections, writes out the queued messages, says goodbye to every peer and
    /// returns when that is done or a second has passed.
    fn shutdown(&self) -> impl Future<Output = ()> + Send;
}

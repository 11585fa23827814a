//! What sessions stand on: streams between peers that have proved their keys to each other.
//!
//! TCP with TLS is one wire, iroh is another. Everything above the streams (who is admitted, frames,
//! queues, redialling) is the same on both, so that they differ in nothing but how they get there.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;

use peerless_protocol::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::Rejection;
use super::hello::Side;

pub(in super::super) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stream of bytes each way. Dropped, it is cut at once.
///
/// Boxed and not a type parameter of everything here: a call through a table for every 256 KiB is
/// not measurable, and one copy of the code is compiled.
pub(in super::super) trait Link: AsyncRead + AsyncWrite + Send + Unpin {
    /// Prepares the stream for blobs.
    fn tune_for_bulk(&self) {}
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Purpose {
    Control,
    Bulk,
}

/// What is reported in place of an address when there is none, as behind a relay.
pub(in super::super) const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A stream over any wire.
pub(in super::super) type Stream = Box<dyn Link>;

/// A stream to a peer that holds its key, and may still be a stranger to the run.
pub(in super::super) struct Secured {
    pub(in super::super) stream: Stream,
    pub(in super::super) peer: PeerId,
    /// The other end; [`NO_ADDRESS`] when there is none.
    pub(in super::super) remote: SocketAddr,
    /// Which side this one is.
    pub(in super::super) side: Side,
    /// TLS exporter value, unique to the connection below the stream.
    pub(in super::super) exporter: [u8; 32],
}

/// A connection that arrived and has proved nothing yet.
pub(in super::super) struct Arrival {
    pub(in super::super) remote: SocketAddr,
    /// Runs the handshake of the wire. Not limited in time.
    pub(in super::super) secure: BoxFuture<'static, Result<Secured, Rejection>>,
}

/// Makes and takes streams.
pub(in super::super) trait Wire: fmt::Debug + Send + Sync + 'static {
    /// The dials to try, one after the other, to reach a peer at `addresses`.
    fn routes(&self, addresses: &[SocketAddr]) -> Vec<Vec<SocketAddr>>;

    /// Connects to `peer` by one of the [routes](Self::routes). Limited in time. Whoever answers has
    /// proved its key, which may be another peer's.
    fn connect<'a>(
        &'a self,
        peer: PeerId,
        route: &'a [SocketAddr],
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Secured, Rejection>>;

    /// Waits for the next connection. Cancel safe.
    fn accept(&self) -> BoxFuture<'_, io::Result<Arrival>>;

    /// Gives the other ends of what was closed a moment to learn of it.
    fn close(&self) -> BoxFuture<'_, ()>;
}

//! Direct TLS and iroh side by side: the transport of peers that may be behind NAT.
//!
//! Each peer is dialled both ways, and both sessions are kept. What is sent takes the TLS session
//! whenever there is one, since it costs a quarter of the CPU time for each byte, and the iroh session
//! else. So a path that breaks is replaced at once, and TLS takes over again when it comes up. To the
//! user the two are one connection: it begins with the first session and ends with the last.
//!
//! Messages that were under way on a path that breaks are lost, and when paths change one message may
//! overtake another. The protocol repeats what matters, as it does after a loss of any connection.

#[cfg(test)]
mod fall_over;
mod join;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId};

use super::iroh::Iroh;
use super::sessions::{Start, new_instance};
use super::tls::Tls;
use super::{
    BindError, BlobSource, Config, Events, FetchError, RelayUrl, SendError, SessionTransport, Transport, events,
};
use join::JoinPaths;

/// How long iroh leaves TLS alone at first, so that it need not be used where TLS works (the delay of
/// RFC 8305, section 8, between the attempts of a connection).
pub const HEAD_START: Duration = Duration::from_millis(250);
/// A TLS connection on which nothing is acknowledged for this long is given up for the other path.
pub const TLS_SILENCE: Duration = Duration::from_secs(1);
/// How many free ports are tried to find one that is free for TCP and for UDP.
const PORT_ATTEMPTS: usize = 16;

/// A way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Direct TCP with TLS.
    Tls = 0,
    /// QUIC by iroh: direct, through a hole that was punched, or by way of a relay.
    Iroh = 1,
}

/// A transport with two ways to each peer. Dropping it cuts all connections at once.
pub struct CompositeTransport {
    tls: SessionTransport,
    /// `None` where it was left out.
    iroh: Option<SessionTransport>,
}

/// Listens at `config.listen`, over TCP and over UDP at the same port; `source` serves the blobs that
/// other peers fetch. Peers that cannot be reached directly are reached by way of `relays`. Runs on
/// the current tokio runtime.
///
/// # Errors
/// [`BindError`], which names the address.
pub async fn bind(
    config: Config,
    relays: &[RelayUrl],
    source: Arc<dyn BlobSource>,
) -> Result<(CompositeTransport, Events), BindError> {
    config.check()?;
    let (tls, iroh, local) = listen(&config, relays).await?;
    let instance = new_instance()?;
    let (sender, events) = events();
    let start = |wire, dial_after, path: Path| Start {
        wire,
        local,
        instance,
        dial_after,
        source: Arc::clone(&source),
        events: sender.on_path(path as usize),
    };
    let tls = SessionTransport::start(config.clone(), start(Arc::new(tls), Duration::ZERO, Path::Tls));
    let iroh = SessionTransport::start(config, start(Arc::new(iroh), HEAD_START, Path::Iroh));
    let join = JoinPaths::new([tls.replacer(), iroh.replacer()]);
    Ok((CompositeTransport { tls, iroh: Some(iroh) }, events.joined_by(join)))
}

/// The same without iroh.
///
/// # Errors
/// [`BindError`], which names the address.
pub async fn bind_tls_alone(
    config: Config,
    source: Arc<dyn BlobSource>,
) -> Result<(CompositeTransport, Events), BindError> {
    let (tls, events) = super::tls::bind(config, source).await?;
    Ok((CompositeTransport { tls, iroh: None }, events))
}

/// Binds TCP and UDP to the same port, so that an address means both.
async fn listen(config: &Config, relays: &[RelayUrl]) -> Result<(Tls, Iroh, SocketAddr), BindError> {
    let mut attempts = PORT_ATTEMPTS;
    loop {
        let (tls, local) = Tls::bind(&config.identity, config.listen, Some(TLS_SILENCE)).await?;
        attempts -= 1;
        match Iroh::bind(&config.identity, local, &config.advertise, relays).await {
            Ok((iroh, _)) => return Ok((tls, iroh, local)),
            // The port that TCP was given is taken for UDP: ask for another.
            Err(BindError::InUse { .. }) if config.listen.port() == 0 && attempts > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

impl CompositeTransport {
    /// The path that messages to `peer` take now; `None` when it is not connected.
    pub fn path(&self, peer: PeerId) -> Option<Path> {
        if self.tls.is_connected(peer) {
            return Some(Path::Tls);
        }
        self.iroh.as_ref().filter(|iroh| iroh.is_connected(peer)).map(|_| Path::Iroh)
    }
}

impl Transport for CompositeTransport {
    fn send(&self, to: PeerId, message: Bytes) -> Result<(), SendError> {
        match (self.tls.send(to, message.clone()), &self.iroh) {
            (Err(SendError::NotConnected), Some(iroh)) => iroh.send(to, message),
            (sent, _) => sent,
        }
    }

    fn push(&self, to: PeerId, digest: Digest, blob: Bytes) -> Result<(), SendError> {
        match (self.tls.push(to, digest, blob.clone()), &self.iroh) {
            (Err(SendError::NotConnected), Some(iroh)) => iroh.push(to, digest, blob),
            (pushed, _) => pushed,
        }
    }

    async fn fetch(&self, from: PeerId, digest: Digest, range: Range<u64>, total: u64) -> Result<Bytes, FetchError> {
        let fetched = self.tls.fetch(from, digest, range.clone(), total).await;
        // Also when the path broke before the answer.
        let (Err(FetchError::NotConnected), Some(iroh)) = (&fetched, &self.iroh) else { return fetched };
        match iroh.fetch(from, digest, range.clone(), total).await {
            Err(FetchError::NotConnected) if self.tls.is_connected(from) => {
                self.tls.fetch(from, digest, range, total).await
            }
            fetched => fetched,
        }
    }

    fn dial(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        if let Some(iroh) = &self.iroh {
            iroh.dial(peer, addresses.clone());
        }
        self.tls.dial(peer, addresses);
    }

    fn forget(&self, peer: PeerId) {
        self.tls.forget(peer);
        if let Some(iroh) = &self.iroh {
            iroh.forget(peer);
        }
    }

    fn max_blob_bytes(&self) -> u64 {
        self.tls.max_blob_bytes()
    }

    fn bytes_sent(&self) -> u64 {
        self.tls.bytes_sent() + self.iroh.as_ref().map_or(0, Transport::bytes_sent)
    }

    fn local_addr(&self) -> SocketAddr {
        self.tls.local_addr()
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.tls.addresses()
    }

    async fn shutdown(&self) {
        let iroh = async {
            if let Some(iroh) = &self.iroh {
                iroh.shutdown().await;
            }
        };
        tokio::join!(self.tls.shutdown(), iroh);
    }
}

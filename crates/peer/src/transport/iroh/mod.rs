//! The second transport: QUIC with hole punching by [iroh](https://docs.rs/iroh), for peers behind NAT.
//!
//! A peer is dialled by its key: the iroh endpoint has the peer's own Ed25519 key, so that its
//! endpoint id is the [`PeerId`]. Each stream of a session is a QUIC connection of its own, as it is a
//! TCP connection with TLS: bulk in a second stream of the same connection would share its congestion
//! window with the messages. iroh uses the paths that it found to a peer for all connections to it.
//!
//! Nothing is asked of servers that the user did not name: no address lookup, no relay unless one is
//! configured, no port mapping.

mod link;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{
    Accepting, ConnectOptions, ConnectWithOptsError, ConnectingError, ConnectionError, Incoming, IncomingAddr,
    QuicTransportConfig, VarInt, presets,
};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use peerless_protocol::PeerId;
use tokio::runtime::Handle;
use tokio::time::timeout;

pub use super::sessions::{Admission, Config, SessionTransport};
use super::sessions::{
    Arrival, BoxFuture, HANDSHAKE_TIMEOUT, NO_ADDRESS, Purpose, Secured, Side, Start, Wire, broken, failed,
    new_instance,
};
use super::{BindError, BlobSource, Events, Refusal, Rejection, RelayUrl, events};
use crate::identity::Identity;
use link::IrohLink;

/// Names the protocol in the QUIC handshake. The greeting tells versions apart.
const ALPN: &[u8] = b"peerless";
/// A connection that is silent for this long is lost, and with it the session.
const SILENCE: Duration = Duration::from_millis(500);
/// How often the dialling side of a message stream gives a sign of life. The lost packets of a good
/// link (five of five) do not end a session.
const SIGN_OF_LIFE: Duration = Duration::from_millis(100);
/// Most bytes of a stream that are under way or wait to be read. 4 MiB and more have been seen to end
/// connections.
const STREAM_WINDOW: u32 = 1_250_000;
/// Most bytes that are written and not acknowledged.
const SEND_WINDOW: u64 = 8 << 20;

/// Listens at `config.listen` over UDP; `source` serves the blobs that other peers fetch. Peers that
/// cannot be reached directly are reached by way of `relays`. Runs on the current tokio runtime.
///
/// # Errors
/// [`BindError`], which names the address.
pub async fn bind(
    config: Config,
    relays: &[RelayUrl],
    source: Arc<dyn BlobSource>,
) -> Result<(SessionTransport, Events), BindError> {
    config.check()?;
    let (wire, local) = Iroh::bind(&config.identity, config.listen, &config.advertise, relays).await?;
    let (sender, events) = events();
    let wire = Arc::new(wire);
    let start = Start { wire, local, instance: new_instance()?, dial_after: Duration::ZERO, source, events: sender };
    Ok((SessionTransport::start(config, start), events))
}

/// An iroh endpoint.
#[derive(Debug)]
pub(super) struct Iroh {
    endpoint: Endpoint,
    relays: Vec<iroh::RelayUrl>,
    control: QuicTransportConfig,
}

impl Iroh {
    /// Binds a UDP socket to `address`; returns where that came to be. `advertise` are addresses at
    /// which others reach the socket.
    pub(super) async fn bind(
        identity: &Identity,
        address: SocketAddr,
        advertise: &[SocketAddr],
        relays: &[RelayUrl],
    ) -> Result<(Self, SocketAddr), BindError> {
        let refused = |error: String| BindError::Listen { address, source: io::Error::other(error) };
        let relays: Result<Vec<iroh::RelayUrl>, _> = relays.iter().map(|relay| relay.as_str().parse()).collect();
        let relays = relays.map_err(|error| refused(format!("a relay's URL cannot be used: {error}")))?;
        let relay_mode = if relays.is_empty() { RelayMode::Disabled } else { RelayMode::custom(relays.clone()) };
        let mut builder = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::from_bytes(&identity.signing_key().to_bytes()))
            .alpns(vec![ALPN.to_vec()])
            .relay_mode(relay_mode)
            .transport_config(accepting())
            .clear_ip_transports()
            .bind_addr(address)
            .map_err(|error| refused(error.to_string()))?;
        for address in advertise {
            builder = builder.external_addr(*address);
        }
        let endpoint = builder.bind().await.map_err(|error| bind_error(address, error))?;
        let sockets = endpoint.bound_sockets();
        let local = sockets.iter().find(|socket| socket.is_ipv4() == address.is_ipv4()).copied();
        let local = local.ok_or_else(|| refused("no socket was bound".into()))?;
        Ok((Self { endpoint, relays, control: dialling_control()? }, local))
    }

    async fn dial(&self, peer: PeerId, route: &[SocketAddr], purpose: Purpose) -> Result<Secured, Rejection> {
        let id = EndpointId::from_bytes(peer.as_bytes()).map_err(failed)?;
        let mut address = EndpointAddr::new(id);
        for known in route {
            address = address.with_ip_addr(*known);
        }
        for relay in &self.relays {
            address = address.with_relay_url(relay.clone());
        }
        let options = match purpose {
            Purpose::Control => ConnectOptions::new().with_transport_config(self.control.clone()),
            Purpose::Bulk => ConnectOptions::new(),
        };
        let connecting = async {
            let connecting = self.endpoint.connect_with_opts(address, ALPN, options).await;
            let connecting = connecting.map_err(|error| not_dialled(error, peer))?;
            let connection = connecting.await.map_err(|error| not_connected(error, peer))?;
            let stream = connection.open_bi().await.map_err(|error| broken(error.into()))?;
            Ok((connection, stream))
        };
        let connected = timeout(HANDSHAKE_TIMEOUT, connecting).await;
        let (connection, stream) = connected.map_err(|_| Rejection::Unreachable("no answer in time".into()))??;
        let link = IrohLink::new(connection, stream);
        let remote = link.remote().or(route.first().copied()).unwrap_or(NO_ADDRESS);
        link.secured(remote, Side::Dialler)
    }
}

impl Drop for Iroh {
    /// Tells the peers, which would wait for [`SILENCE`] else. The socket is closed after that.
    fn drop(&mut self) {
        if let Ok(runtime) = Handle::try_current() {
            let endpoint = self.endpoint.clone();
            runtime.spawn(async move { endpoint.close().await });
        }
    }
}

impl Wire for Iroh {
    /// One dial for all: the addresses are tried at once.
    fn routes(&self, addresses: &[SocketAddr]) -> Vec<Vec<SocketAddr>> {
        vec![addresses.to_vec()]
    }

    fn connect<'a>(
        &'a self,
        peer: PeerId,
        route: &'a [SocketAddr],
        purpose: Purpose,
    ) -> BoxFuture<'a, Result<Secured, Rejection>> {
        Box::pin(self.dial(peer, route, purpose))
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Arrival>> {
        Box::pin(async move {
            let Some(incoming) = self.endpoint.accept().await else {
                // The endpoint is closed: nothing arrives any more.
                return std::future::pending().await;
            };
            let remote = arrived_from(&incoming);
            let secure = Box::pin(async move {
                let accepting = incoming.accept().map_err(not_accepted)?;
                accept(accepting, remote).await
            });
            Ok(Arrival { remote, secure })
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.endpoint.close())
    }
}

fn arrived_from(incoming: &Incoming) -> SocketAddr {
    match incoming.remote_addr() {
        IncomingAddr::Ip(address) => address,
        _ => NO_ADDRESS,
    }
}

async fn accept(accepting: Accepting, remote: SocketAddr) -> Result<Secured, Rejection> {
    let connection = match accepting.await {
        Ok(connection) => connection,
        Err(ConnectingError::ConnectionError { source, .. }) => return Err(not_accepted(source)),
        Err(error) => return Err(failed(error)),
    };
    let stream = connection.accept_bi().await.map_err(|error| broken(error.into()))?;
    IrohLink::new(connection, stream).secured(remote, Side::Acceptor)
}

/// The settings of connections that others dial, and of all that carry blobs.
fn accepting() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(SEND_WINDOW)
        .build()
}

/// The settings of a connection for messages that this side dials. The shorter idle time of both ends
/// counts, and one end's signs of life are answered by the other.
fn dialling_control() -> Result<QuicTransportConfig, BindError> {
    let silence = SILENCE.try_into().map_err(|_| BindError::Tls("the idle time is too long".into()))?;
    Ok(QuicTransportConfig::builder()
        .max_idle_timeout(Some(silence))
        .keep_alive_interval(SIGN_OF_LIFE)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .build())
}

fn bind_error(address: SocketAddr, error: iroh::endpoint::BindError) -> BindError {
    match error {
        iroh::endpoint::BindError::Sockets { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
            BindError::InUse { address }
        }
        iroh::endpoint::BindError::Sockets { source, .. } => BindError::Listen { address, source },
        error => BindError::Listen { address, source: io::Error::other(error.to_string()) },
    }
}

fn not_dialled(error: ConnectWithOptsError, expected: PeerId) -> Rejection {
    match error {
        ConnectWithOptsError::SelfConnect { .. } => Rejection::ByUs(Refusal::SameKey),
        ConnectWithOptsError::NoAddress { .. } => Rejection::Unreachable("no address is known".into()),
        error => {
            tracing::debug!(peer = %expected.short(), %error, "not dialled");
            failed(error)
        }
    }
}

fn not_connected(error: ConnectingError, expected: PeerId) -> Rejection {
    let ConnectingError::ConnectionError { source, .. } = error else { return failed(error) };
    match source {
        ConnectionError::TimedOut => Rejection::Unreachable("no answer in time".into()),
        ConnectionError::TransportError(error) if is_other_key(&error) => {
            Rejection::ByUs(Refusal::OtherPeer { expected })
        }
        error => failed(error),
    }
}

/// Whether the handshake failed since the other side showed another key than that of the peer that was
/// dialled: the only thing that iroh's check of a server's certificate looks at.
fn is_other_key(error: &iroh::endpoint::TransportError) -> bool {
    let cause = error.crypto.as_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

fn not_accepted(error: ConnectionError) -> Rejection {
    match error {
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset | ConnectionError::LocallyClosed => {
            Rejection::HungUp
        }
        error => failed(error),
    }
}

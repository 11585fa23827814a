//! The default transport: direct TCP with TLS 1.3, both sides authenticated by their peer key.
//!
//! Each stream of a session is a TCP connection. QUIC would need one connection and a multiple of
//! the CPU time for each byte; it is the second transport, for peers behind NAT.

mod crypto;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerless_protocol::PeerId;
use rustls::ConnectionCommon;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub use super::sessions::{Admission, Config, SessionTransport};
use super::sessions::{
    Arrival, BoxFuture, CONNECT_TIMEOUT, EXPORTER_LABEL, HANDSHAKE_TIMEOUT, Link, Purpose, Secured, Side, Start, Wire,
    broken, failed, new_instance,
};
use super::{BindError, BlobSource, Events, Rejection, events};
use crate::identity::Identity;

/// Listens at `config.listen`; `source` serves the blobs that other peers fetch. Runs on the current
/// tokio runtime.
///
/// # Errors
/// [`BindError`], which names the address.
pub async fn bind(config: Config, source: Arc<dyn BlobSource>) -> Result<(SessionTransport, Events), BindError> {
    config.check()?;
    let (wire, local) = Tls::bind(&config.identity, config.listen, None).await?;
    let (sender, events) = events();
    let wire = Arc::new(wire);
    let start = Start { wire, local, instance: new_instance()?, dial_after: Duration::ZERO, source, events: sender };
    Ok((SessionTransport::start(config, start), events))
}

/// TCP and TLS.
pub(super) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    listener: TcpListener,
    /// How long what was sent may stay unacknowledged before the connection counts as lost.
    silence: Option<Duration>,
}

impl Tls {
    /// Listens at `address`; returns where that came to be.
    ///
    /// `silence` bounds how long what was sent may stay unacknowledged. Without it the kernel goes on
    /// trying for a quarter of an hour, which is right where there is no other way to the peer.
    pub(super) async fn bind(
        identity: &Identity,
        address: SocketAddr,
        silence: Option<Duration>,
    ) -> Result<(Self, SocketAddr), BindError> {
        let (client, server) = crypto::configs(identity).map_err(|error| BindError::Tls(error.to_string()))?;
        let (listener, local) = listen(address).await?;
        let (connector, acceptor) = (TlsConnector::from(client), TlsAcceptor::from(server));
        Ok((Self { connector, acceptor, listener, silence }, local))
    }

    fn prepare(&self, tcp: &TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        if let Some(silence) = self.silence {
            let milliseconds = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(tcp, milliseconds)?;
        }
        Ok(())
    }

    async fn dial(&self, address: SocketAddr) -> Result<Secured, Rejection> {
        let tcp = self.reach(address).await?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = timeout(HANDSHAKE_TIMEOUT, self.connector.connect(name, tcp)).await;
        let stream = stream.map_err(|_| failed("the other side was silent for too long"))?.map_err(broken)?;
        secured(stream.into(), address, Side::Dialler)
    }

    async fn reach(&self, address: SocketAddr) -> Result<TcpStream, Rejection> {
        let unreachable = |error: io::Error| Rejection::Unreachable(error.to_string());
        let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let tcp = tcp.map_err(|_| Rejection::Unreachable("no answer in time".into()))?.map_err(unreachable)?;
        self.prepare(&tcp).map_err(unreachable)?;
        Ok(tcp)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("listener", &self.listener).finish_non_exhaustive()
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

fn secured(stream: TlsStream<TcpStream>, remote: SocketAddr, side: Side) -> Result<Secured, Rejection> {
    let connection = stream.get_ref().1;
    let peer: PeerId = crypto::remote_peer(connection).map_err(failed)?;
    let exporter = match &stream {
        TlsStream::Client(stream) => exporter(stream.get_ref().1)?,
        TlsStream::Server(stream) => exporter(stream.get_ref().1)?,
    };
    Ok(Secured { stream: Box::new(stream), peer, remote, side, exporter })
}

fn exporter<Data>(connection: &ConnectionCommon<Data>) -> Result<[u8; 32], Rejection> {
    connection.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(failed)
}

impl Link for TlsStream<TcpStream> {
    /// Asks the kernel for BBR, which keeps its speed where packets are lost (Cardwell et al., 2016).
    /// A kernel without it goes on with what it has.
    fn tune_for_bulk(&self) {
        #[cfg(target_os = "linux")]
        {
            let tcp = self.get_ref().0;
            if tcp.peer_addr().is_ok_and(|address| !address.ip().is_loopback()) {
                let _ = rustix::net::sockopt::set_tcp_congestion(tcp, "bbr");
            }
        }
    }
}

impl Wire for Tls {
    /// One dial for each address.
    fn routes(&self, addresses: &[SocketAddr]) -> Vec<Vec<SocketAddr>> {
        addresses.iter().map(|address| vec![*address]).collect()
    }

    fn connect<'a>(
        &'a self,
        _peer: PeerId,
        route: &'a [SocketAddr],
        _purpose: Purpose,
    ) -> BoxFuture<'a, Result<Secured, Rejection>> {
        Box::pin(async move {
            match route {
                [address, ..] => self.dial(*address).await,
                [] => Err(Rejection::Unreachable("no address is known".into())),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<Arrival>> {
        Box::pin(async move {
            let (tcp, remote) = self.listener.accept().await?;
            let (acceptor, prepared) = (self.acceptor.clone(), self.prepare(&tcp));
            let secure = Box::pin(async move {
                prepared.map_err(failed)?;
                let stream = acceptor.accept(tcp).await.map_err(broken)?;
                secured(stream.into(), remote, Side::Acceptor)
            });
            Ok(Arrival { remote, secure })
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // The kernel delivers what was written.
        Box::pin(async {})
    }
}

/// Takes a peer's id from the public key that it shows: the entrance for the fuzz target (`fuzz/`).
#[cfg(fuzzing)]
pub fn read_public_key(bytes: &[u8]) {
    let _ = crypto::peer_id_of(bytes);
}

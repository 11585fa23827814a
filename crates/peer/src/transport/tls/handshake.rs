//! From a TCP connection to an authenticated one whose greeting has been read.

use std::io;
use std::net::SocketAddr;

use peerless_protocol::PeerId;
use rustls::ConnectionCommon;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::super::{Refusal, Rejection};
use super::frame::{self, FrameType, ReadError};
use super::hello::{Binding, Channel, EXPORTER_LABEL, Hello, Side};
use super::{CONNECT_TIMEOUT, FAREWELL_TIMEOUT, HANDSHAKE_TIMEOUT, Shared, crypto};

/// Most bytes that are read and thrown away after a refusal.
const DRAIN_BYTES: u64 = 4 << 20;

pub(super) type Stream = TlsStream<TcpStream>;

/// A TLS connection to a peer that holds its key, and may still be a stranger.
pub(super) struct Secured {
    pub(super) stream: Stream,
    pub(super) peer: PeerId,
    pub(super) remote: SocketAddr,
    side: Side,
    exporter: [u8; 32],
}

/// An admitted connection.
pub(super) struct Greeted {
    pub(super) stream: Stream,
    pub(super) peer: PeerId,
    pub(super) remote: SocketAddr,
    pub(super) hello: Hello,
}

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Rejection> {
    let unreachable = |error: io::Error| Rejection::Unreachable(error.to_string());
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| Rejection::Unreachable("no answer in time".into()))?.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// Greets the peer `expected` on a connection that this side dialled.
pub(super) async fn greet(
    shared: &Shared,
    tcp: TcpStream,
    expected: PeerId,
    channel: Channel,
    session: u64,
) -> Result<Greeted, Rejection> {
    within_time(async {
        let mut secured = secure_dialled(shared, tcp).await?;
        if secured.peer != expected {
            return secured.refuse(Refusal::OtherPeer { expected }).await;
        }
        secured.send_hello(shared, channel, session).await?;
        match secured.read_hello(shared).await {
            Ok(hello) => Ok(secured.admitted(hello)),
            Err(Rejection::ByUs(refusal)) => secured.refuse(refusal).await,
            Err(rejection) => Err(rejection),
        }
    })
    .await
}

/// Reads the greeting on a connection that this side accepted. The answer is up to the caller:
/// [`Secured::send_hello`] and [`Secured::admitted`], or [`Secured::refuse`].
pub(super) async fn receive(
    shared: &Shared,
    tcp: TcpStream,
    remote: SocketAddr,
) -> Result<(Secured, Hello), (Option<PeerId>, Rejection)> {
    let mut known = None;
    let received = within_time(async {
        let mut secured = secure_accepted(shared, tcp, remote).await?;
        known = Some(secured.peer);
        if secured.peer == shared.peer {
            return secured.refuse(Refusal::SameKey).await;
        }
        match secured.read_hello(shared).await {
            Ok(hello) => Ok((secured, hello)),
            Err(Rejection::ByUs(refusal)) => secured.refuse(refusal).await,
            Err(rejection) => Err(rejection),
        }
    });
    received.await.map_err(|rejection| (known, rejection))
}

async fn within_time<T>(handshake: impl Future<Output = Result<T, Rejection>>) -> Result<T, Rejection> {
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(result) => result,
        Err(_) => Err(Rejection::Handshake("the other side was silent for too long".into())),
    }
}

fn failed(error: impl ToString) -> Rejection {
    Rejection::Handshake(error.to_string())
}

fn broken(error: io::Error) -> Rejection {
    match error.kind() {
        // What the TLS library wraps its own complaints in.
        io::ErrorKind::InvalidData | io::ErrorKind::Other => failed(error),
        _ => Rejection::HungUp,
    }
}

fn unreadable(error: ReadError) -> Rejection {
    match error {
        ReadError::Violation(violation) => failed(violation),
        ReadError::Io(error) => broken(error),
    }
}

fn exporter<D>(connection: &ConnectionCommon<D>) -> Result<[u8; 32], Rejection> {
    connection.export_keying_material([0; 32], EXPORTER_LABEL, None).map_err(failed)
}

async fn secure_dialled(shared: &Shared, tcp: TcpStream) -> Result<Secured, Rejection> {
    let remote = tcp.peer_addr().map_err(failed)?;
    let name = ServerName::IpAddress(remote.ip().into());
    let stream = shared.connector.connect(name, tcp).await.map_err(broken)?;
    let connection = stream.get_ref().1;
    let (peer, exporter) = (crypto::remote_peer(connection).map_err(failed)?, exporter(connection)?);
    Ok(Secured { stream: stream.into(), peer, remote, side: Side::Dialler, exporter })
}

async fn secure_accepted(shared: &Shared, tcp: TcpStream, remote: SocketAddr) -> Result<Secured, Rejection> {
    tcp.set_nodelay(true).map_err(failed)?;
    let stream = shared.acceptor.accept(tcp).await.map_err(broken)?;
    let connection = stream.get_ref().1;
    let (peer, exporter) = (crypto::remote_peer(connection).map_err(failed)?, exporter(connection)?);
    Ok(Secured { stream: stream.into(), peer, remote, side: Side::Acceptor, exporter })
}

impl Secured {
    pub(super) async fn send_hello(
        &mut self,
        shared: &Shared,
        channel: Channel,
        session: u64,
    ) -> Result<(), Rejection> {
        let binding = Binding {
            exporter: self.exporter,
            prover: shared.peer,
            verifier: self.peer,
            run: shared.run,
            side: self.side,
        };
        let hello = Hello {
            run: shared.run,
            instance: shared.instance,
            session,
            channel,
            addresses: shared.addresses.clone(),
            proof: shared.admission.prove(&binding),
        };
        let body = hello.encode().map_err(failed)?;
        let frame = [&frame::header(FrameType::Hello, body.len()), &body[..]].concat();
        self.stream.write_all(&frame).await.map_err(broken)?;
        self.stream.flush().await.map_err(broken)
    }

    /// Reads the other side's greeting and checks that it belongs to the run.
    async fn read_hello(&mut self, shared: &Shared) -> Result<Hello, Rejection> {
        let hello = read_greeting(&mut self.stream).await?;
        let binding = Binding {
            exporter: self.exporter,
            prover: self.peer,
            verifier: shared.peer,
            run: shared.run,
            side: self.side.other(),
        };
        shared.admission.check(&hello, &binding).map_err(Rejection::ByUs)?;
        Ok(hello)
    }

    pub(super) fn admitted(self, hello: Hello) -> Greeted {
        Greeted { stream: self.stream, peer: self.peer, remote: self.remote, hello }
    }

    /// Tells the other side why it is not admitted, and closes the connection.
    pub(super) async fn refuse<T>(mut self, refusal: Refusal) -> Result<T, Rejection> {
        let telling = async {
            let frame = frame::encode(FrameType::Refuse, &refusal)?;
            self.stream.write_all(&frame).await?;
            self.stream.shutdown().await?;
            drain(&mut self.stream).await
        };
        // Whether it hears the reason is its own affair.
        let _ = timeout(FAREWELL_TIMEOUT, telling).await;
        Err(Rejection::ByUs(refusal))
    }
}

async fn read_greeting<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Hello, Rejection> {
    let (frame, length) = frame::read_header(stream).await.map_err(unreadable)?;
    let body = frame::read_body(stream, length).await.map_err(broken)?;
    match frame {
        FrameType::Hello => Hello::decode(&body).map_err(Rejection::ByUs),
        FrameType::Refuse => Err(frame::decode(frame, &body).map_or_else(failed, Rejection::ByThem)),
        _ => Err(failed(frame.unexpected())),
    }
}

/// Reads on until the other side closes. Closing with unread bytes would make the kernel send a
/// reset, and the reset would take the last words away before the other side can read them.
pub(super) async fn drain<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<()> {
    tokio::io::copy(&mut reader.take(DRAIN_BYTES), &mut tokio::io::sink()).await.map(drop)
}

/// Tells a peer that broke the wire format what it did, or says goodbye, and closes the connection.
pub(super) async fn finish<R, W>(mut reader: R, writer: frame::FrameWriter<W>, farewell: frame::Farewell)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let finishing = async {
        writer.finish(&farewell).await?;
        drain(&mut reader).await
    };
    let _ = timeout(FAREWELL_TIMEOUT, finishing).await;
}

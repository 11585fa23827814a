//! From a connection to an authenticated one whose greeting has been read.

use std::io;
use std::net::SocketAddr;

use peerless_protocol::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::super::{Refusal, Rejection};
use super::frame::{self, FrameType, ReadError};
use super::hello::{Binding, Channel, Hello};
use super::wire::{Arrival, Purpose, Secured, Stream};
use super::{FAREWELL_TIMEOUT, HANDSHAKE_TIMEOUT, Shared};

/// Most bytes that are read and thrown away after a refusal.
const DRAIN_BYTES: u64 = 4 << 20;

/// An admitted connection.
pub(super) struct Greeted {
    pub(super) stream: Stream,
    pub(super) peer: PeerId,
    pub(super) remote: SocketAddr,
    pub(super) hello: Hello,
}

/// Connects to the peer `expected`.
pub(super) async fn connect(
    shared: &Shared,
    expected: PeerId,
    route: &[SocketAddr],
    purpose: Purpose,
) -> Result<Secured, Rejection> {
    let secured = shared.wire.connect(expected, route, purpose).await?;
    match secured.peer == expected {
        true => Ok(secured),
        false => secured.refuse(Refusal::OtherPeer { expected }).await,
    }
}

/// Greets the peer on a connection that this side dialled.
pub(super) async fn greet(
    shared: &Shared,
    mut secured: Secured,
    channel: Channel,
    session: u64,
) -> Result<Greeted, Rejection> {
    within_time(async {
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
    arrival: Arrival,
) -> Result<(Secured, Hello), (Option<PeerId>, Rejection)> {
    let mut known = None;
    let received = within_time(async {
        let mut secured = arrival.secure.await?;
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

/// A handshake that went wrong.
pub(in super::super) fn failed(error: impl ToString) -> Rejection {
    Rejection::Handshake(error.to_string())
}

/// A connection that broke in its handshake.
pub(in super::super) fn broken(error: io::Error) -> Rejection {
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

pub(super) async fn read_greeting<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Hello, Rejection> {
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

//! A bidirectional QUIC stream together with the connection that is there for it alone.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use iroh::TransportAddr;
use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use peerless_protocol::PeerId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::Rejection;
use super::super::sessions::{EXPORTER_LABEL, Link, Secured, Side, failed};

/// A stream to a peer. Dropped, it closes the connection.
pub(super) struct IrohLink {
    connection: Connection,
    sender: SendStream,
    receiver: RecvStream,
}

impl IrohLink {
    pub(super) fn new(connection: Connection, (sender, receiver): (SendStream, RecvStream)) -> Self {
        Self { connection, sender, receiver }
    }

    /// The other end's address on the path in use, unless that leads through a relay.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        let paths = self.connection.paths();
        let selected = paths.iter().find(|path| path.is_selected())?;
        match selected.remote_addr() {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        }
    }

    pub(super) fn secured(self, remote: SocketAddr, side: Side) -> Result<Secured, Rejection> {
        let peer = PeerId(*self.connection.remote_id().as_bytes());
        let mut exporter = [0; 32];
        let exported = self.connection.export_keying_material(&mut exporter, EXPORTER_LABEL, &[]);
        exported.map_err(|_| failed("no keying material for the proof of the join secret"))?;
        Ok(Secured { stream: Box::new(self), peer, remote, side, exporter })
    }
}

impl Drop for IrohLink {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

impl Link for IrohLink {}

impl AsyncRead for IrohLink {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.get_mut().receiver), context, buffer)
    }
}

impl AsyncWrite for IrohLink {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.get_mut().sender), context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.get_mut().sender), context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.get_mut().sender), context)
    }
}

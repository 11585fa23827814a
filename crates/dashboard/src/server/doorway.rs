//! Accepts connections: so many at a time, and none for longer than it reads what is sent to it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Bytes that the system keeps for a reader that is slow: a snapshot or two.
const SEND_BUFFER: u32 = 128 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;
/// Pause after a connection that could not be accepted: usually there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// Where connections come in.
#[derive(Debug)]
pub struct Doorway {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    patience: Duration,
}

impl Doorway {
    /// Listens at an address.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn open(address: SocketAddr, connections: usize, patience: Duration) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        Ok(Self { listener: socket.listen(BACKLOG)?, slots: Arc::new(Semaphore::new(connections)), patience })
    }

    /// The address that it listens at.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Listener for Doorway {
    type Io = Visitor;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Visitor, SocketAddr) {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
            match self.listener.accept().await {
                Ok((stream, address)) => return (Visitor::new(stream, self.patience, slot), address),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address()
    }
}

/// A connection that ends when nothing could be sent to it for a while: its reader does not read, or it never asks for
/// anything. Requests alone do not prolong it, so that nobody holds a slot by asking very slowly.
#[derive(Debug)]
pub struct Visitor {
    stream: TcpStream,
    patience: Duration,
    deadline: Pin<Box<Sleep>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Visitor {
    fn new(stream: TcpStream, patience: Duration, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self { stream, patience, deadline: Box::pin(tokio::time::sleep(patience)), _slot: slot }
    }

    /// What there is to do when the stream has nothing to do: wait on, until patience is at its end.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.wait(context),
            ready => ready,
        }
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.wait(context),
            ready => {
                let later = Instant::now() + self.patience;
                self.deadline.as_mut().reset(later);
                ready
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

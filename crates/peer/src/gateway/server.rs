//! Connections: how many, how long, and how they end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::pieces::Pieces;
use super::service::Shared;
use super::stall::StallGuard;

/// Connections beyond the limit that are told to come back; more are just closed.
const TURNED_AWAY: usize = 64;

/// How long a connection beyond the limit has to send its request.
const TURN_AWAY_AFTER: Duration = Duration::from_secs(2);

/// How long is read on after a refusal, so that a client that still sends gets to read it: closing a
/// socket with unread data resets the connection.
const LINGER: Duration = Duration::from_secs(2);

/// Pause after the system failed to accept a connection, mostly for lack of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const MAX_HEADERS: usize = 64;

type Answer = Pin<Box<dyn Future<Output = Result<Response<Pieces>, Infallible>> + Send>>;

/// Accepts connections for ever. Dropping the future ends all of them.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let admitted = Arc::new(Semaphore::new(shared.limits.connections));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "the gateway cannot accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let (place, welcome) = match Arc::clone(&admitted).try_acquire_owned() {
            Ok(place) => (place, true),
            Err(_) => match Arc::clone(&turned_away).try_acquire_owned() {
                Ok(place) => (place, false),
                Err(_) => continue,
            },
        };
        let connection = secured(tcp, tls.clone(), Arc::clone(&shared), welcome);
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

async fn secured(tcp: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>, welcome: bool) {
    // Without it small answers wait for acknowledgements; a socket that refuses is broken anyway.
    let _ = tcp.set_nodelay(true);
    let head = if welcome { shared.limits.head } else { shared.limits.head.min(TURN_AWAY_AFTER) };
    match tls {
        None => exchange(tcp, shared, welcome, head).await,
        Some(acceptor) => match timeout(head, acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => exchange(stream, shared, welcome, head).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake with the gateway failed"),
            Err(_) => tracing::debug!("a TLS handshake with the gateway took too long"),
        },
    }
}

/// Answers requests until either side has had enough.
async fn exchange<IO>(io: IO, shared: Arc<Shared>, welcome: bool, head: Duration)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = shared.limits;
    let service = service_fn(move |request: Request<Incoming>| -> Answer {
        let shared = Arc::clone(&shared);
        Box::pin(async move { Ok(if welcome { shared.answer(request).await } else { shared.turn_away() }) })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_header_size(limits.head_bytes)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(StallGuard::new(io, limits.stall)), service);
    match poll_fn(|cx| connection.poll_without_shutdown(cx)).await {
        Ok(()) => linger(connection.into_parts().io.into_inner()).await,
        // hyper names what it found wrong, never the bytes.
        Err(error) => tracing::debug!(%error, "a connection to the gateway broke"),
    }
}

async fn linger(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let rest = async {
        io.shutdown().await?;
        let mut ignored = vec![0; 16 << 10];
        while io.read(&mut ignored).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // However it ends, the connection is over.
    let _ = timeout(LINGER, rest).await;
}

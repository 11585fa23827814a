//! A session: the control connection and the bulk connections of two connected peers.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::{CloseReason, Event, FetchError, SendError};
use super::frame::{self, Farewell, FrameType, FrameWriter, ReadError};
use super::handshake::{self, Greeted, finish};
use super::hello::{Channel, Side};
use super::wire::{Purpose, Stream};
use super::{
    FAREWELL_TIMEOUT, FETCH_QUEUE, MESSAGE_QUEUE, MESSAGE_QUEUE_BYTES, PUSH_QUEUE, PUSH_QUEUE_BYTES, Shared, bulk,
};

/// Most messages that are written at once.
const WRITE_BATCH: usize = 64;

/// Which way the blobs of a bulk connection go, seen from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Out,
    In,
}

/// A blob to be pushed.
pub(super) struct Push {
    pub(super) digest: Digest,
    pub(super) blob: Bytes,
    _share: OwnedSemaphorePermit,
}

/// The way to the caller who waits for a range.
pub(super) type Answer = oneshot::Sender<Result<Bytes, FetchError>>;

/// A range to be fetched and who waits for it.
pub(super) struct Fetch {
    pub(super) digest: Digest,
    pub(super) range: Range<u64>,
    pub(super) total: u64,
    pub(super) answer: Answer,
}

/// A queued message; the permit is its share of the queue's bytes.
struct Queued {
    message: Bytes,
    _share: OwnedSemaphorePermit,
}

/// The registry's end of a session.
pub(super) struct SessionHandle {
    /// This side's own number for the session.
    pub(super) serial: u64,
    /// The random number that both sides know the session by.
    pub(super) number: u64,
    /// The other side's process.
    pub(super) instance: u64,
    messages: mpsc::Sender<Queued>,
    message_bytes: Arc<Semaphore>,
    pushes: mpsc::Sender<Push>,
    push_bytes: Arc<Semaphore>,
    pub(super) fetches: mpsc::Sender<Fetch>,
    bulk: mpsc::Sender<(Direction, Stream)>,
    claimed: Vec<Direction>,
    stop: watch::Sender<Option<CloseReason>>,
    ended: watch::Receiver<()>,
}

/// The session's own end.
pub(super) struct Parts {
    serial: u64,
    messages: mpsc::Receiver<Queued>,
    pushes: mpsc::Receiver<Push>,
    fetches: mpsc::Receiver<Fetch>,
    bulk: mpsc::Receiver<(Direction, Stream)>,
    stop: watch::Receiver<Option<CloseReason>>,
    /// Dropped when the end of the session has been reported.
    ended: watch::Sender<()>,
    /// Tells when the session before this one has been reported as ended.
    predecessor: Option<watch::Receiver<()>>,
}

/// The two ends of a session.
pub(super) fn session(
    serial: u64,
    number: u64,
    instance: u64,
    predecessor: Option<watch::Receiver<()>>,
) -> (SessionHandle, Parts) {
    let (messages, messages_out) = mpsc::channel(MESSAGE_QUEUE);
    let (pushes, pushes_out) = mpsc::channel(PUSH_QUEUE);
    let (fetches, fetches_out) = mpsc::channel(FETCH_QUEUE);
    let (bulk, bulk_out) = mpsc::channel(2);
    let (stop, stop_out) = watch::channel(None);
    let (ended_in, ended) = watch::channel(());
    let message_bytes = Arc::new(Semaphore::new(MESSAGE_QUEUE_BYTES));
    let push_bytes = Arc::new(Semaphore::new(PUSH_QUEUE_BYTES));
    let claimed = Vec::new();
    let handle = SessionHandle {
        serial,
        number,
        instance,
        messages,
        message_bytes,
        pushes,
        push_bytes,
        fetches,
        bulk,
        claimed,
        stop,
        ended,
    };
    let parts = Parts {
        serial,
        messages: messages_out,
        pushes: pushes_out,
        fetches: fetches_out,
        bulk: bulk_out,
        stop: stop_out,
        ended: ended_in,
        predecessor,
    };
    (handle, parts)
}

impl Parts {
    /// This side's own number for the session.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }
}

impl SessionHandle {
    /// Whether the session still takes messages.
    pub(super) fn is_alive(&self) -> bool {
        !self.messages.is_closed()
    }

    pub(super) fn send(&self, message: Bytes) -> Result<(), SendError> {
        let length = u32::try_from(message.len()).map_err(|_| SendError::QueueFull)?;
        let share = Arc::clone(&self.message_bytes).try_acquire_many_owned(length);
        let queued = Queued { message, _share: share.map_err(|_| SendError::QueueFull)? };
        self.messages.try_send(queued).map_err(|error| match error {
            TrySendError::Full(_) => SendError::QueueFull,
            TrySendError::Closed(_) => SendError::NotConnected,
        })
    }

    pub(super) fn push(&self, digest: Digest, blob: Bytes) -> Result<(), SendError> {
        // Within u32, as the limit is.
        let share = blob.len().min(PUSH_QUEUE_BYTES) as u32;
        let share = Arc::clone(&self.push_bytes).try_acquire_many_owned(share);
        let push = Push { digest, blob, _share: share.map_err(|_| SendError::QueueFull)? };
        self.pushes.try_send(push).map_err(|error| match error {
            TrySendError::Full(_) => SendError::QueueFull,
            TrySendError::Closed(_) => SendError::NotConnected,
        })
    }

    /// Takes the place of the bulk connection in `direction`. `None` when it is taken.
    pub(super) fn claim(&mut self, direction: Direction) -> Option<mpsc::Sender<(Direction, Stream)>> {
        if self.claimed.contains(&direction) {
            return None;
        }
        self.claimed.push(direction);
        Some(self.bulk.clone())
    }

    /// Ends the session. Returns what tells its end.
    pub(super) fn stop(&self, reason: CloseReason) -> watch::Receiver<()> {
        self.stop.send_replace(Some(reason));
        self.ended.clone()
    }
}

/// How a session's bulk connections come about.
pub(super) enum BulkOrigin {
    /// This side dials them, by the route of the control connection.
    Dial { route: Vec<SocketAddr>, number: u64 },
    /// The other side dials them.
    Accept,
}

/// Runs a session from its admission to its end.
pub(super) async fn run(shared: Arc<Shared>, control: Greeted, origin: BulkOrigin, parts: Parts) {
    let Parts { serial, messages, pushes, fetches, bulk, stop, ended, predecessor } = parts;
    if let Some(mut predecessor) = predecessor {
        // The sender is never used, only dropped.
        let _ = predecessor.changed().await;
    }
    let peer = control.peer;
    let addresses = control.hello.addresses_from(control.remote);
    shared.events.deliver_connected(peer, addresses, control.hello.instance).await;
    let remote = control.remote;
    let links = BulkLinks { shared: Arc::clone(&shared), peer, remote, pushes: Some(pushes), fetches: Some(fetches) };
    let reason = tokio::select! {
        reason = run_control(&shared, peer, control.stream, messages, stop) => reason,
        reason = links.run(bulk, origin) => reason,
    };
    shared.events.deliver(Event::Disconnected { peer, reason }).await;
    shared.registry.ended(peer, serial);
    drop(ended);
}

async fn run_control(
    shared: &Shared,
    peer: PeerId,
    stream: Stream,
    mut messages: mpsc::Receiver<Queued>,
    stop: watch::Receiver<Option<CloseReason>>,
) -> CloseReason {
    let (mut reader, writer) = tokio::io::split(stream);
    let mut writer = FrameWriter::new(writer, &shared.sent);
    let reason = tokio::select! {
        reason = read_messages(shared, peer, &mut reader) => reason.unwrap_or_else(CloseReason::from),
        reason = write_messages(&mut writer, &mut messages, stop.clone()) => reason,
        reason = cut(stop) => reason,
    };
    // From here on, the session counts as dead: what is sent now is an error.
    drop(messages);
    match &reason {
        CloseReason::Forgotten => finish(reader, writer, Farewell::Goodbye).await,
        CloseReason::Violated(violation) => finish(reader, writer, Farewell::Violation(violation.clone())).await,
        _ => {}
    }
    reason
}

/// Reads messages until the other side ends it: returns why.
async fn read_messages<R: AsyncRead + Unpin>(
    shared: &Shared,
    peer: PeerId,
    reader: &mut R,
) -> Result<CloseReason, ReadError> {
    loop {
        let (frame, length) = frame::read_header(reader).await?;
        match frame {
            FrameType::Message => {
                let bytes = frame::read_body(reader, length).await?.into();
                shared.events.deliver(Event::Message { from: peer, bytes }).await;
            }
            FrameType::Close => {
                let body = frame::read_body(reader, length).await?;
                return Ok(frame::decode::<Farewell>(frame, &body)?.into());
            }
            FrameType::Refuse => {
                let body = frame::read_body(reader, length).await?;
                return Ok(CloseReason::Refused(frame::decode(frame, &body)?));
            }
            _ => return Err(frame.unexpected().into()),
        }
    }
}

/// Writes the queued messages until the session is stopped and the queue is empty.
async fn write_messages<W: AsyncWrite + Unpin>(
    writer: &mut FrameWriter<W>,
    messages: &mut mpsc::Receiver<Queued>,
    mut stop: watch::Receiver<Option<CloseReason>>,
) -> CloseReason {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    loop {
        tokio::select! {
            biased;
            _ = messages.recv_many(&mut batch, WRITE_BATCH) => {}
            reason = stopped(&mut stop) => return reason,
        }
        if batch.is_empty() {
            // The handle is gone, and has said why.
            return stopped(&mut stop).await;
        }
        let mut frames = Vec::new();
        for queued in &batch {
            frames.extend_from_slice(&frame::header(FrameType::Message, queued.message.len()));
            frames.extend_from_slice(&queued.message);
        }
        if let Err(error) = writer.write(&frames, &[]).await {
            return error.into();
        }
        batch.clear();
    }
}

async fn stopped(stop: &mut watch::Receiver<Option<CloseReason>>) -> CloseReason {
    match stop.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
        Ok(Some(reason)) => reason,
        Ok(None) | Err(_) => CloseReason::Forgotten,
    }
}

/// Ends a session even when the other side takes nothing any more.
async fn cut(mut stop: watch::Receiver<Option<CloseReason>>) -> CloseReason {
    let reason = stopped(&mut stop).await;
    if reason == CloseReason::Forgotten {
        sleep(FAREWELL_TIMEOUT).await;
    }
    reason
}

/// The bulk connections of a session.
struct BulkLinks {
    shared: Arc<Shared>,
    peer: PeerId,
    remote: SocketAddr,
    pushes: Option<mpsc::Receiver<Push>>,
    fetches: Option<mpsc::Receiver<Fetch>>,
}

impl BulkLinks {
    /// Runs the bulk connections until one of them ends: returns why.
    async fn run(mut self, mut accepted: mpsc::Receiver<(Direction, Stream)>, origin: BulkOrigin) -> CloseReason {
        let mut links = JoinSet::new();
        if let BulkOrigin::Dial { route, number } = origin {
            for (direction, sender) in [(Direction::Out, Side::Dialler), (Direction::In, Side::Acceptor)] {
                let opening = open_bulk(Arc::clone(&self.shared), self.peer, route.clone(), sender, number);
                self.start(&mut links, direction, opening);
            }
        }
        loop {
            tokio::select! {
                Some((direction, stream)) = accepted.recv() => {
                    self.start(&mut links, direction, async { Ok(stream) });
                }
                Some(ended) = links.join_next() => {
                    let reason = ended.unwrap_or_else(|error| CloseReason::Lost(error.to_string()));
                    if matches!(reason, CloseReason::Lost(_) | CloseReason::Goodbye) {
                        // The control connection dies with it and knows better, or has last words.
                        sleep(FAREWELL_TIMEOUT).await;
                    }
                    return reason;
                }
                // The session was replaced: its control connection ends it.
                else => return std::future::pending().await,
            }
        }
    }

    fn start(
        &mut self,
        links: &mut JoinSet<CloseReason>,
        direction: Direction,
        opening: impl Future<Output = Result<Stream, CloseReason>> + Send + 'static,
    ) {
        let (shared, peer, remote) = (Arc::clone(&self.shared), self.peer, self.remote);
        match direction {
            Direction::Out => {
                let Some(pushes) = self.pushes.take() else { return };
                links.spawn(async move {
                    match opening.await {
                        Ok(stream) => bulk::send_blobs(shared, stream, pushes).await,
                        Err(reason) => reason,
                    }
                });
            }
            Direction::In => {
                let Some(fetches) = self.fetches.take() else { return };
                links.spawn(async move {
                    match opening.await {
                        Ok(stream) => bulk::receive_blobs(shared, peer, remote, stream, fetches).await,
                        Err(reason) => reason,
                    }
                });
            }
        }
    }
}

async fn open_bulk(
    shared: Arc<Shared>,
    peer: PeerId,
    route: Vec<SocketAddr>,
    sender: Side,
    number: u64,
) -> Result<Stream, CloseReason> {
    let opening = async {
        let secured = handshake::connect(&shared, peer, &route, Purpose::Bulk).await?;
        secured.stream.tune_for_bulk();
        handshake::greet(&shared, secured, Channel::Bulk { sender }, number).await
    };
    match opening.await {
        Ok(greeted) => Ok(greeted.stream),
        Err(rejection) => Err(CloseReason::Lost(format!("no bulk connection: {rejection}"))),
    }
}

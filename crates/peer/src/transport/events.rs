//! The way from the connections to the event loop.
//!
//! Two bounded queues, so that a message never waits behind the payloads in memory, and a budget in
//! bytes, so that many long messages take no more memory than many short ones. When the event loop
//! falls behind, the connections stop reading, and the peers at the other ends see full queues.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use peerless_protocol::{Digest, PeerId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::error::{CloseReason, Rejection};

/// Most events that wait for the event loop, payloads apart.
pub const EVENT_QUEUE: usize = 1024;
/// Most bytes in messages that wait for the event loop.
pub const EVENT_BYTES: usize = 32 << 20;
/// Most verified payloads that wait for the event loop; each has at most the blob limit's bytes.
pub const PAYLOAD_QUEUE: usize = 4;

/// Something that happened between this peer and another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer is connected and admitted.
    Connected {
        /// Who.
        peer: PeerId,
        /// Where it says that it listens.
        addresses: Vec<SocketAddr>,
    },
    /// A peer is no longer connected. Follows every `Connected`, after the peer's last message.
    Disconnected {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: CloseReason,
    },
    /// A message arrived.
    Message {
        /// From whom.
        from: PeerId,
        /// The message.
        bytes: Bytes,
    },
    /// A pushed blob arrived, and it has the digest under which it was sent.
    Payload {
        /// From whom.
        from: PeerId,
        /// Its BLAKE3 digest, verified.
        digest: Digest,
        /// The blob.
        bytes: Bytes,
    },
    /// A connection or a blob was turned away. For people to read; dropped when many come at once.
    Rejected {
        /// Who, if it is known: dialled or authenticated.
        peer: Option<PeerId>,
        /// The other end.
        address: SocketAddr,
        /// Why.
        reason: Rejection,
    },
}

/// The events of a transport, in the order of their arrival, except that payloads let the others pass.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<(Event, Option<OwnedSemaphorePermit>)>,
    payloads: mpsc::Receiver<Event>,
}

impl Events {
    /// Waits for the next event. `None` when the transport is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            Some((event, _permit)) = self.events.recv() => Some(event),
            Some(event) = self.payloads.recv() => Some(event),
            else => None,
        }
    }
}

/// The connections' end of [`Events`].
#[derive(Debug, Clone)]
pub(crate) struct EventSender {
    events: mpsc::Sender<(Event, Option<OwnedSemaphorePermit>)>,
    payloads: mpsc::Sender<Event>,
    bytes: Arc<Semaphore>,
}

/// The two ends of a transport's events.
pub(crate) fn events() -> (EventSender, Events) {
    let (events_in, events) = mpsc::channel(EVENT_QUEUE);
    let (payloads_in, payloads) = mpsc::channel(PAYLOAD_QUEUE);
    let bytes = Arc::new(Semaphore::new(EVENT_BYTES));
    (EventSender { events: events_in, payloads: payloads_in, bytes }, Events { events, payloads })
}

impl EventSender {
    /// Delivers an event, waiting for room. An event loop that is gone wants nothing more.
    pub(crate) async fn deliver(&self, event: Event) {
        match event {
            Event::Payload { .. } => {
                let _ = self.payloads.send(event).await;
            }
            Event::Message { ref bytes, .. } => {
                // Never closed and the length bounded by the frame limit: the permit always comes.
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let permit = Arc::clone(&self.bytes).acquire_many_owned(length).await.ok();
                let _ = self.events.send((event, permit)).await;
            }
            event => {
                let _ = self.events.send((event, None)).await;
            }
        }
    }

    /// Reports a rejection unless half of the queue is taken: strangers can cause as many as they
    /// like and must not keep the members' messages out.
    pub(crate) fn report(&self, peer: Option<PeerId>, address: SocketAddr, reason: Rejection) {
        tracing::debug!(peer = ?peer, %address, %reason, "rejected");
        if self.events.capacity() > EVENT_QUEUE / 2 {
            let _ = self.events.try_send((Event::Rejected { peer, address, reason }, None));
        }
    }
}

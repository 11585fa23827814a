//! The way from the connections to the event loop.
//!
//! Two bounded queues, so that a message never waits behind the payloads in memory, and a budget in
//! bytes, so that many long messages take no more memory than many short ones. When the event loop
//! falls behind, the connections stop reading, and the peers at the other ends see full queues.

use std::collections::VecDeque;
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

/// Where an event comes from, for who joins several ways to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Which of the transports.
    pub(crate) path: usize,
    /// With a `Connected`: the random number of the peer's process.
    pub(crate) instance: u64,
}

/// Joins the events of several ways to the same peers into those of one.
pub(crate) trait Join: std::fmt::Debug + Send {
    /// Takes an event and adds what comes of it to `joined`.
    fn take(&mut self, origin: Origin, event: Event, joined: &mut VecDeque<Event>);
}

/// An event on its way, with its share of the queue's bytes.
#[derive(Debug)]
struct Queued {
    event: Event,
    origin: Origin,
    _share: Option<OwnedSemaphorePermit>,
}

/// The events of a transport, in the order of their arrival, except that payloads let the others pass.
#[derive(Debug)]
pub struct Events {
    events: mpsc::Receiver<Queued>,
    payloads: mpsc::Receiver<Queued>,
    join: Option<Box<dyn Join>>,
    joined: VecDeque<Event>,
}

impl Events {
    /// Waits for the next event. `None` when the transport is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.joined.pop_front() {
                return Some(event);
            }
            let Queued { event, origin, .. } = tokio::select! {
                biased;
                Some(queued) = self.events.recv() => queued,
                Some(queued) = self.payloads.recv() => queued,
                else => return None,
            };
            match &mut self.join {
                Some(join) => join.take(origin, event, &mut self.joined),
                None => return Some(event),
            }
        }
    }

    /// The events of several transports as those of one.
    #[cfg(feature = "iroh")]
    pub(crate) fn joined_by(self, join: impl Join + 'static) -> Self {
        Self { join: Some(Box::new(join)), ..self }
    }
}

/// The connections' end of [`Events`].
#[derive(Debug, Clone)]
pub(crate) struct EventSender {
    events: mpsc::Sender<Queued>,
    payloads: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
    path: usize,
}

/// The two ends of a transport's events.
pub(crate) fn events() -> (EventSender, Events) {
    let (events_in, events) = mpsc::channel(EVENT_QUEUE);
    let (payloads_in, payloads) = mpsc::channel(PAYLOAD_QUEUE);
    let bytes = Arc::new(Semaphore::new(EVENT_BYTES));
    let sender = EventSender { events: events_in, payloads: payloads_in, bytes, path: 0 };
    (sender, Events { events, payloads, join: None, joined: VecDeque::new() })
}

impl EventSender {
    /// Delivers an event, waiting for room. An event loop that is gone wants nothing more.
    pub(crate) async fn deliver(&self, event: Event) {
        let queued = |event, _share| Queued { event, origin: self.origin(0), _share };
        let _ = match event {
            Event::Payload { .. } => self.payloads.send(queued(event, None)).await,
            Event::Message { ref bytes, .. } => {
                // Never closed and the length bounded by the frame limit: the permit always comes.
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                let permit = Arc::clone(&self.bytes).acquire_many_owned(length).await.ok();
                self.events.send(queued(event, permit)).await
            }
            event => self.events.send(queued(event, None)).await,
        };
    }

    /// Delivers that the process `instance` of `peer` is connected, waiting for room.
    pub(crate) async fn deliver_connected(&self, peer: PeerId, addresses: Vec<SocketAddr>, instance: u64) {
        let event = Event::Connected { peer, addresses };
        let _ = self.events.send(Queued { event, origin: self.origin(instance), _share: None }).await;
    }

    /// The way into the same queues for another transport.
    #[cfg(feature = "iroh")]
    pub(crate) fn on_path(&self, path: usize) -> Self {
        Self { path, ..self.clone() }
    }

    fn origin(&self, instance: u64) -> Origin {
        Origin { path: self.path, instance }
    }

    /// Reports a rejection unless half of the queue is taken: strangers can cause as many as they
    /// like and must not keep the members' messages out.
    pub(crate) fn report(&self, peer: Option<PeerId>, address: SocketAddr, reason: Rejection) {
        tracing::debug!(peer = ?peer, %address, %reason, "rejected");
        if self.events.capacity() > EVENT_QUEUE / 2 {
            let event = Event::Rejected { peer, address, reason };
            let _ = self.events.try_send(Queued { event, origin: self.origin(0), _share: None });
        }
    }
}

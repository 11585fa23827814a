//! Which peers are connected, being dialled, or both at the same time.
//!
//! Two peers may dial each other at the same moment. Both connections exist for an instant and one
//! must go, the same one on both sides: the one that the smaller id dialled stays. A peer whose own
//! dial has reached the greeting refuses an accepted one from a larger id; a peer with a connection
//! begins no dial, and refuses another one from the same process unless that process says that it
//! has none. So a connection that one side already uses is never given up for another.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use peerless_protocol::PeerId;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::super::{CloseReason, Refusal};
use super::hello::{Channel, Hello};
use super::lock;
use super::session::{Direction, Parts, SessionHandle, session};
use super::wire::Stream;

/// What is known of one peer.
struct Slot {
    session: Option<SessionHandle>,
    /// A dial of this side has reached the greeting.
    greeting: bool,
    dialler: Option<Dialler>,
    connected: watch::Sender<bool>,
}

/// The task that keeps a peer connected.
struct Dialler {
    addresses: watch::Sender<Vec<SocketAddr>>,
    task: Option<AbortHandle>,
}

/// What the dialling task is told.
pub(super) struct DialOrders {
    pub(super) addresses: watch::Receiver<Vec<SocketAddr>>,
    pub(super) connected: watch::Receiver<bool>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<PeerId, Slot>,
    /// Distinguishes the sessions of one peer.
    serial: u64,
    closed: bool,
}

pub(super) struct Registry {
    own: PeerId,
    max_peers: usize,
    table: Mutex<Table>,
}

impl Slot {
    fn new() -> Self {
        Self { session: None, greeting: false, dialler: None, connected: watch::Sender::new(false) }
    }

    fn live_session(&self) -> Option<&SessionHandle> {
        self.session.as_ref().filter(|session| session.is_alive())
    }

    fn is_idle(&self) -> bool {
        self.session.is_none() && self.dialler.is_none() && !self.greeting
    }
}

impl Registry {
    pub(super) fn new(own: PeerId, max_peers: usize) -> Self {
        Self { own, max_peers, table: Mutex::default() }
    }

    /// Applies `act` to the live session with `peer`, if there is one.
    pub(super) fn with_session<T>(&self, peer: PeerId, act: impl FnOnce(&SessionHandle) -> T) -> Option<T> {
        lock(&self.table).slots.get(&peer).and_then(Slot::live_session).map(act)
    }

    pub(super) fn is_connected(&self, peer: PeerId) -> bool {
        self.with_session(peer, |_| ()).is_some()
    }

    /// Admits a control connection that was accepted from `peer`.
    pub(super) fn admit(&self, peer: PeerId, hello: &Hello) -> Result<Parts, Refusal> {
        let mut table = lock(&self.table);
        if let Some(slot) = table.slots.get(&peer) {
            let replace = matches!(hello.channel, Channel::Control { replace: true });
            if slot.live_session().is_some_and(|session| session.instance == hello.instance) && !replace {
                return Err(Refusal::AlreadyConnected);
            }
            if slot.greeting && self.own < peer {
                return Err(Refusal::SimultaneousDial);
            }
        }
        self.install(&mut table, peer, hello.instance, hello.session)
    }

    /// Marks that a dial of this side reaches the greeting. `None` when `peer` is connected by now.
    pub(super) fn begin_greeting(self: &Arc<Self>, peer: PeerId) -> Option<Greeting> {
        let mut table = lock(&self.table);
        let slot = table.slots.entry(peer).or_insert_with(Slot::new);
        if slot.live_session().is_some() {
            return None;
        }
        slot.greeting = true;
        Some(Greeting { registry: Arc::clone(self), peer })
    }

    /// Makes the session of a control connection that this side dialled.
    pub(super) fn dialled(&self, peer: PeerId, hello: &Hello, session: u64) -> Result<Parts, Refusal> {
        self.install(&mut lock(&self.table), peer, hello.instance, session)
    }

    fn install(&self, table: &mut Table, peer: PeerId, instance: u64, number: u64) -> Result<Parts, Refusal> {
        let others = table.slots.iter().filter(|(id, slot)| **id != peer && slot.session.is_some()).count();
        if table.closed {
            return Err(Refusal::Closing);
        }
        if others >= self.max_peers {
            return Err(Refusal::Full);
        }
        table.serial += 1;
        let serial = table.serial;
        let slot = table.slots.entry(peer).or_insert_with(Slot::new);
        let predecessor = slot.session.take().map(|old| old.stop(CloseReason::Replaced));
        let (handle, parts) = session(serial, number, instance, predecessor);
        slot.session = Some(handle);
        slot.connected.send_replace(true);
        Ok(parts)
    }

    /// Claims the place of a bulk connection in the session that it belongs to. The connection is
    /// to be handed over through the sender that is returned.
    pub(super) fn claim_bulk(
        &self,
        peer: PeerId,
        hello: &Hello,
        direction: Direction,
    ) -> Result<mpsc::Sender<(Direction, Stream)>, Refusal> {
        let mut table = lock(&self.table);
        let session = table.slots.get_mut(&peer).and_then(|slot| slot.session.as_mut());
        let session = session.filter(|session| session.number == hello.session && session.instance == hello.instance);
        let session = session.ok_or(Refusal::NoSession)?;
        session.claim(direction).ok_or(Refusal::AlreadyConnected)
    }

    /// Takes note that a session has ended and its end was reported.
    pub(super) fn ended(&self, peer: PeerId, serial: u64) {
        let mut table = lock(&self.table);
        let Some(slot) = table.slots.get_mut(&peer) else { return };
        if slot.session.as_ref().is_none_or(|session| session.serial != serial) {
            return;
        }
        slot.session = None;
        slot.connected.send_replace(false);
        if slot.is_idle() {
            table.slots.remove(&peer);
        }
    }

    /// Sets the addresses of `peer`. Returns orders for a new dialling task, if it has none yet.
    pub(super) fn order_dial(&self, peer: PeerId, addresses: Vec<SocketAddr>) -> Option<DialOrders> {
        let mut table = lock(&self.table);
        if table.closed {
            return None;
        }
        let slot = table.slots.entry(peer).or_insert_with(Slot::new);
        if let Some(dialler) = &slot.dialler {
            dialler.addresses.send_if_modified(|known| {
                let changed = *known != addresses;
                *known = addresses;
                changed
            });
            return None;
        }
        let (sender, receiver) = watch::channel(addresses);
        slot.dialler = Some(Dialler { addresses: sender, task: None });
        Some(DialOrders { addresses: receiver, connected: slot.connected.subscribe() })
    }

    /// Remembers the dialling task of `peer`, so that it can be ended.
    pub(super) fn dialling(&self, peer: PeerId, task: AbortHandle) {
        match lock(&self.table).slots.get_mut(&peer).and_then(|slot| slot.dialler.as_mut()) {
            Some(dialler) => dialler.task = Some(task),
            // Forgotten in between.
            None => task.abort(),
        }
    }

    /// Ends the dialling of `peer` and its session.
    pub(super) fn forget(&self, peer: PeerId) {
        let mut table = lock(&self.table);
        let Some(slot) = table.slots.get_mut(&peer) else { return };
        slot.dialler = None;
        if let Some(session) = &slot.session {
            session.stop(CloseReason::Forgotten);
        }
        if slot.is_idle() {
            table.slots.remove(&peer);
        }
    }

    /// Ends the session with `peer` if it is one with another process than `instance`.
    #[cfg(feature = "iroh")]
    pub(super) fn end_others(&self, peer: PeerId, instance: u64) {
        let table = lock(&self.table);
        let session = table.slots.get(&peer).and_then(|slot| slot.session.as_ref());
        if let Some(session) = session.filter(|session| session.instance != instance) {
            session.stop(CloseReason::Replaced);
        }
    }

    /// Admits and dials nobody any more.
    pub(super) fn close(&self) {
        let mut table = lock(&self.table);
        table.closed = true;
        for slot in table.slots.values_mut() {
            slot.dialler = None;
        }
    }

    /// Ends all sessions in good order. Returns what tells their ends.
    pub(super) fn stop_all(&self) -> Vec<watch::Receiver<()>> {
        let table = lock(&self.table);
        let sessions = table.slots.values().filter_map(|slot| slot.session.as_ref());
        sessions.map(|session| session.stop(CloseReason::Forgotten)).collect()
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// A dial that has reached the greeting; ends when dropped.
pub(super) struct Greeting {
    registry: Arc<Registry>,
    peer: PeerId,
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut table = lock(&self.registry.table);
        let Some(slot) = table.slots.get_mut(&self.peer) else { return };
        slot.greeting = false;
        if slot.is_idle() {
            table.slots.remove(&self.peer);
        }
    }
}

//! Connections between peers: calls, breaks, and who is connected to whom.

use std::time::Duration;

use peerless_protocol::{Input, Member};

use super::{Event, World};

/// How long it takes to connect, in microseconds.
const CONNECT: u64 = 300;

/// Pause before a peer that could not be reached is called again.
const CALL_AGAIN: Duration = Duration::from_millis(500);

/// Calls after which a peer is given up; it calls by itself when it starts.
const MOST_CALLS: u32 = 40;

/// How long a break stays unknown while nothing passes, in microseconds.
const BREAK_UNKNOWN: u64 = 100_000;

impl World {
    /// The incarnation of `b` that `a` is connected to; 0 if none.
    pub(super) fn connection(&self, a: usize, b: usize) -> u32 {
        self.connected[a * self.peers.len() + b]
    }

    fn set_connection(&mut self, a: usize, b: usize, incarnation: u32) {
        let width = self.peers.len();
        self.connected[a * width + b] = incarnation;
    }

    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        self.set_connection(a, b, 0);
    }

    /// A peer that starts calls the peers of its start list; one that nobody expected knows two.
    pub(super) fn call_others(&mut self, peer: usize) {
        if peer < self.setup.peers {
            let others = (0..self.setup.peers).filter(|&other| other != peer && self.peers[other].incarnation > 0);
            return others.collect::<Vec<_>>().into_iter().for_each(|other| self.call(peer, other));
        }
        for _ in 0..2 {
            let contact = self.random.between(0, self.setup.peers as u64) as usize;
            self.call(peer, contact);
        }
    }

    /// A peer wants to be connected to a member that it was told of.
    pub(super) fn call_member(&mut self, peer: usize, member: &Member) {
        if let Some(&other) = self.index.get(&member.peer) {
            self.call(peer, other);
        }
    }

    fn call(&mut self, from: usize, to: usize) {
        if self.dialling.insert((from, to)) {
            self.dial_after(Duration::from_micros(CONNECT), from, to, 0);
        }
    }

    fn dial_after(&mut self, wait: Duration, from: usize, to: usize, tries: u32) {
        let incarnation = self.peers[from].incarnation;
        self.queue.push(self.now + wait, Event::Dial { from, incarnation, to, tries });
    }

    pub(super) fn dial(&mut self, from: usize, to: usize, tries: u32) {
        let reachable = self.is_up(to) && self.links.open(from, to) && self.links.open(to, from);
        if !reachable && tries < MOST_CALLS {
            return self.dial_after(CALL_AGAIN, from, to, tries + 1);
        }
        self.dialling.remove(&(from, to));
        if reachable {
            self.connect(from, to);
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        for (one, other) in [(a, b), (b, a)] {
            let incarnation = self.peers[other].incarnation;
            if self.connection(one, other) == incarnation {
                continue;
            }
            self.set_connection(one, other, incarnation);
            self.peers[one].allowance.connected();
        }
        let (member_a, member_b) = (self.member(a), self.member(b));
        self.feed(a, Input::Connected(member_b));
        self.feed(b, Input::Connected(member_a));
    }

    /// A connection breaks, unless it was replaced by a newer one. As long as nothing passes between the
    /// two, nobody knows.
    pub(super) fn reset(&mut self, to: usize, gone: usize, gone_incarnation: u32) {
        if self.connection(to, gone) != gone_incarnation {
            return;
        }
        if !self.links.open(gone, to) {
            return self.reset_later(to, gone, gone_incarnation, BREAK_UNKNOWN);
        }
        self.disconnect(to, gone);
        let gone = self.peers[gone].id;
        self.feed(to, Input::Disconnected(gone));
    }
}

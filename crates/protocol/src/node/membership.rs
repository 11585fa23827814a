//! Who is there: connections, heartbeats, suspicion and the view.

use std::time::Duration;

use super::io::{Effect, Event};
use super::{Neighbour, Node, Phase};
use crate::assignment::Capacities;
use crate::ids::PeerId;
use crate::message::{Heartbeat, MAX_ADDRESSES, MAX_MEMBERS, Member, Message};
use crate::mutant::Mutant;
use crate::time::Time;

/// How often a peer says that it lives. Also how long a new state can stay unknown to a peer that
/// missed its announcement.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);

/// Silence after which a connected peer is left out of the view. Ten heartbeats: long enough for
/// a busy machine, and a peer whose process ends is noticed at once by its connection anyway.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(1);

impl Node {
    /// The peers to share the next work with, this one included: connected, heard lately and not
    /// more than a round behind.
    pub fn view(&self) -> Capacities {
        let usable = |neighbour: &Neighbour| {
            !neighbour.suspected && neighbour.last.is_some_and(|last| last.state.round + 1 >= self.state.state.round)
        };
        let others = self.neighbours.iter().filter(|(_, neighbour)| usable(neighbour));
        let capacity = |neighbour: &Neighbour| neighbour.last.map_or(1, |last| last.capacity);
        let mut view: Capacities = others.map(|(peer, neighbour)| (*peer, capacity(neighbour))).collect();
        view.insert(self.me, self.config.capacity);
        view
    }

    pub(super) fn connected(&mut self, now: Time, member: Member) {
        let peer = member.peer;
        if peer == self.me {
            return;
        }
        self.remember(&member);
        self.neighbours.insert(peer, Neighbour { heard: now, last: None, suspected: false, doubted_until: Time(0) });
        self.round.informed.remove(&peer);
        self.emit(Effect::Record(Event::PeerConnected(peer)));
        let members = Message::Members(self.member_list());
        self.send(peer, members);
        self.send(peer, Message::Heartbeat(self.heartbeat()));
    }

    pub(super) fn lost(&mut self, now: Time, peer: PeerId) {
        if self.neighbours.remove(&peer).is_none() {
            return;
        }
        self.round.informed.remove(&peer);
        // Whoever lives dials by itself; remembering all who ever came would fill the list.
        self.members.remove(&peer);
        self.emit(Effect::Record(Event::PeerLost(peer)));
        self.view_changed(now);
    }

    /// Notes that a peer lives.
    pub(super) fn heard(&mut self, now: Time, peer: PeerId) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.heard = now;
        if std::mem::take(&mut neighbour.suspected) {
            self.emit(Effect::Record(Event::PeerHeard(peer)));
        }
    }

    pub(super) fn heartbeat_received(&mut self, now: Time, peer: PeerId, heartbeat: Heartbeat) {
        if heartbeat.state.round > self.config.spec.rounds + 1 {
            self.refuse(peer, format!("heartbeat of round {}, which the run does not have", heartbeat.state.round));
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.last = Some(heartbeat);
        self.observe_state(now, peer, heartbeat.state);
        self.inform(peer);
        self.check_behind(now);
        self.check_gathered(now);
        self.check_exit(now);
    }

    pub(super) fn members_received(&mut self, members: Vec<Member>) {
        for member in members {
            let unknown = member.peer != self.me && !self.members.contains_key(&member.peer);
            if unknown && !member.addresses.is_empty() && self.remember(&member) {
                self.emit(Effect::Connect(member));
            }
        }
    }

    fn remember(&mut self, member: &Member) -> bool {
        let known = self.members.contains_key(&member.peer);
        if !known && self.members.len() >= MAX_MEMBERS {
            return false;
        }
        if !known || !member.addresses.is_empty() {
            let addresses = member.addresses.iter().take(MAX_ADDRESSES).copied().collect();
            self.members.insert(member.peer, addresses);
        }
        true
    }

    fn member_list(&self) -> Vec<Member> {
        let member = |(peer, addresses): (&PeerId, &Vec<_>)| Member { peer: *peer, addresses: addresses.clone() };
        self.members.iter().map(member).filter(|member| !member.addresses.is_empty()).collect()
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            state: self.state.state,
            state_bytes: self.state.bytes,
            capacity: self.config.capacity,
            finished: self.state.finished,
        }
    }

    pub(super) fn broadcast_heartbeat(&mut self, now: Time) {
        let storm = self.is_mutated(Mutant::HeartbeatStorm);
        self.next_heartbeat = now + if storm { HEARTBEAT_EVERY / 50 } else { HEARTBEAT_EVERY };
        let heartbeat = Message::Heartbeat(self.heartbeat());
        self.broadcast(&heartbeat);
    }

    pub(super) fn suspect_the_silent(&mut self, now: Time) {
        let silent = |neighbour: &Neighbour| !neighbour.suspected && now.since(neighbour.heard) >= SUSPECT_AFTER;
        let silent: Vec<PeerId> = self.neighbours.iter().filter(|(_, n)| silent(n)).map(|(peer, _)| *peer).collect();
        for peer in &silent {
            if let Some(neighbour) = self.neighbours.get_mut(peer) {
                neighbour.suspected = true;
            }
            self.emit(Effect::Record(Event::PeerSuspected(*peer)));
        }
        if !silent.is_empty() {
            self.view_changed(now);
        }
    }

    pub(super) fn check_gathered(&mut self, now: Time) {
        if self.phase != Phase::Gathering || self.fetching.is_some() {
            return;
        }
        let heard = self.neighbours.values().filter(|neighbour| neighbour.last.is_some()).count();
        if heard >= self.config.expected_peers || now >= self.gather_until {
            self.begin_round(now);
        }
    }

    /// Ends the process once nobody in reach can need the final state from here.
    pub(super) fn check_exit(&mut self, now: Time) {
        let Phase::Finished { until } = self.phase else { return };
        let gathering = now < self.gather_until && self.neighbours.len() < self.config.expected_peers;
        let done = |neighbour: &Neighbour| neighbour.suspected || neighbour.last.is_some_and(|last| last.finished);
        if now >= until || !gathering && self.neighbours.values().all(done) {
            self.leave();
        }
    }

    pub(super) fn leave(&mut self) {
        if !matches!(self.phase, Phase::Left) {
            self.broadcast(&Message::Leaving);
            self.emit(Effect::Exit);
            self.phase = Phase::Left;
        }
    }
}

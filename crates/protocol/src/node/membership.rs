//! Who is there: connections, heartbeats, suspicion and the view.

use std::ops::Bound;
use std::time::Duration;

use super::io::{Effect, Event, RefusalKind, StopReason};
use super::{Neighbour, Node, Phase};
use crate::assignment::Capacities;
use crate::ids::PeerId;
use crate::message::{Heartbeat, MAX_ADDRESSES, MAX_MEMBERS, Member, Message};
use crate::mutant::Mutant;
use crate::time::Time;
use crate::unit_time::{Announced, UnitTime, capacities};

/// How often a peer says that it lives. Also how long a new state can stay unknown to a peer that
/// missed its announcement.
pub const HEARTBEAT_EVERY: Duration = Duration::from_millis(100);

/// Silence after which a connected peer is left out of the view. Ten heartbeats: long enough for
/// a busy machine, and a peer whose process ends is noticed at once by its connection anyway.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// Neighbours that are probed with every heartbeat in a crowd. With n peers each is probed four times a
/// heartbeat by one of the others, whatever n is.
const PROBES: usize = 4;

/// Neighbours from which on newcomers are not told of all members unasked.
const CROWD: usize = 16;

/// Neighbours that a newcomer asks for the list of members.
const LISTS_WANTED: usize = 4;

impl Neighbour {
    /// When it is left out of the view unless it is heard before.
    fn suspect_at(&self, patience: Duration) -> Option<Time> {
        let unanswered = self.probed.filter(|_| !self.suspected).map(|at| at + patience);
        unanswered.map(|at| at.max(self.heard + SUSPECT_AFTER))
    }
}

impl Node {
    /// The peers to share the next work with, this one included: connected, not suspected and not more
    /// than a round behind, as far as is known.
    pub fn view(&self) -> Capacities {
        let sparse = self.is_sparse();
        let near = |last: Heartbeat| last.state.round + 1 >= self.state.state.round;
        let usable = |neighbour: &Neighbour| {
            let current = |last| if sparse { neighbour.current } else { near(last) };
            !neighbour.suspected && neighbour.last.is_some_and(current)
        };
        let round = self.state.state.round;
        // In a crowd few hear of an announcement in time, and shares that peers do not agree on cost more than they
        // save.
        let unit_time = |announced: &Announced| if sparse { 0 } else { announced.at(round) };
        let others = self.neighbours.iter().filter(|(_, neighbour)| usable(neighbour));
        let functions = |neighbour: &Neighbour| neighbour.last.map_or(1, |last| last.functions);
        let mut peers: Vec<(PeerId, u32, u32)> =
            others.map(|(peer, other)| (*peer, functions(other), unit_time(&other.unit_time))).collect();
        peers.push((self.me, self.config.functions, unit_time(&self.unit_time)));
        capacities(&peers)
    }

    /// Announces how long a unit takes here, with the next heartbeat.
    pub(super) fn announce_unit_time(&mut self, new: Option<UnitTime>) {
        // Collective operations deal out equal shares.
        if let Some(new) = new.filter(|_| !self.is_fixed()) {
            self.unit_time.take(new);
            self.emit(Effect::Record(Event::UnitTime(new)));
        }
    }

    pub(super) fn connected(&mut self, now: Time, member: Member) {
        let peer = member.peer;
        if peer == self.me {
            return;
        }
        self.remember(&member);
        // In a crowd a newcomer asks a few for the list; from everyone it would be sent once for each pair.
        let told_members = self.neighbours.len() < CROWD;
        let neighbour = Neighbour {
            heard: now,
            probed: None,
            current: false,
            told_members,
            last: None,
            unit_time: Announced::default(),
            suspected: false,
            doubted_until: Time(0),
        };
        self.neighbours.insert(peer, neighbour);
        self.round.informed.remove(&peer);
        self.emit(Effect::Record(Event::PeerConnected(peer)));
        if told_members {
            let members = Message::Members(self.member_list());
            self.send(peer, members);
        }
        if self.neighbours.len() <= LISTS_WANTED {
            self.send(peer, Message::MembersWanted);
        }
        self.send(peer, Message::Heartbeat(self.heartbeat()));
    }

    pub(super) fn members_wanted(&mut self, peer: PeerId) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        if !std::mem::replace(&mut neighbour.told_members, true) {
            let members = Message::Members(self.member_list());
            self.send(peer, members);
        }
    }

    pub(super) fn lost(&mut self, now: Time, peer: PeerId) {
        if self.neighbours.remove(&peer).is_none() {
            return;
        }
        self.round.informed.remove(&peer);
        // Whoever lives dials by itself; remembering all who ever came would fill the list.
        self.members.remove(&peer);
        self.emit(Effect::Record(Event::PeerLost(peer)));
        if self.is_fixed() && self.phase == Phase::Working {
            return self.stop(StopReason::WorkerLost(peer));
        }
        self.view_changed(now);
    }

    /// Notes that a peer lives.
    pub(super) fn heard(&mut self, now: Time, peer: PeerId) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        neighbour.heard = now;
        neighbour.probed = None;
        if std::mem::take(&mut neighbour.suspected) {
            self.emit(Effect::Record(Event::PeerHeard(peer)));
        }
    }

    pub(super) fn heartbeat_received(&mut self, now: Time, peer: PeerId, heartbeat: Heartbeat) {
        if heartbeat.state.round > self.config.spec.rounds + 1 {
            let reason = format!("heartbeat of round {}, which the run does not have", heartbeat.state.round);
            self.refuse(peer, RefusalKind::Wrong, reason);
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(&peer) else { return };
        // Rounds only go up while a connection lasts: an older one was overtaken.
        if neighbour.last.is_some_and(|last| last.state.round > heartbeat.state.round) {
            return;
        }
        neighbour.last = Some(heartbeat);
        neighbour.unit_time.take(heartbeat.unit_time);
        let current = heartbeat.state.round + 1 >= self.state.state.round;
        let fell_behind = std::mem::replace(&mut neighbour.current, current) && !current;
        if fell_behind && self.round.sharding.active {
            self.view_changed(now);
        }
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

    pub(super) fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            state: self.state.state,
            state_bytes: self.state.bytes,
            functions: self.config.functions,
            unit_time: self.unit_time.last(),
            finished: self.state.finished,
        }
    }

    /// Whether this peer has too many neighbours to talk to all of them all the time.
    fn is_sparse(&self) -> bool {
        self.neighbours.len() + 1 >= self.config.crowd.sparse_from
    }

    /// Tells everyone how far this peer is. Takes the place of the next periodic heartbeat, so whoever is
    /// silent must answer here as well: with short rounds there is no other one.
    pub(super) fn broadcast_heartbeat(&mut self, now: Time) {
        self.schedule_heartbeat(now);
        let everyone: Vec<PeerId> = self.neighbours.keys().copied().collect();
        everyone.into_iter().for_each(|peer| self.say_alive_to(now, peer));
    }

    /// Tells others of a state that was formed here. In a crowd only of the last one: contributions say
    /// as much, and who missed them hears it from a probe.
    pub(super) fn announce_state(&mut self, now: Time) {
        if self.state.finished || !self.is_sparse() {
            self.broadcast_heartbeat(now);
        }
    }

    fn schedule_heartbeat(&mut self, now: Time) {
        let storm = self.is_mutated(Mutant::HeartbeatStorm);
        self.next_heartbeat = now + if storm { HEARTBEAT_EVERY / 50 } else { HEARTBEAT_EVERY };
    }

    /// Sends a heartbeat to everyone, or in a crowd to a few, one after the other. Those few must answer,
    /// since in a crowd nothing else may have asked them to for long.
    pub(super) fn say_alive(&mut self, now: Time) {
        self.schedule_heartbeat(now);
        if self.is_sparse() {
            self.next_to_probe().into_iter().for_each(|peer| self.probe(now, peer));
        } else {
            self.broadcast_heartbeat(now);
        }
    }

    /// Sends a heartbeat to a peer, which must answer it if nothing was heard of it for a while. In a crowd
    /// nobody hears of most others for a while.
    fn say_alive_to(&mut self, now: Time, peer: PeerId) {
        let silent = |neighbour: &Neighbour| now.since(neighbour.heard) >= SUSPECT_AFTER / 2;
        if !self.is_sparse() && self.neighbours.get(&peer).is_some_and(silent) {
            self.probe(now, peer);
        } else {
            self.send(peer, Message::Heartbeat(self.heartbeat()));
        }
    }

    fn probe(&mut self, now: Time, peer: PeerId) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.probed.get_or_insert(now);
            self.send(peer, Message::Probe(self.heartbeat()));
        }
    }

    /// The next few neighbours in the order of their ids, round and round.
    fn next_to_probe(&mut self) -> Vec<PeerId> {
        let after = (Bound::Excluded(self.probe_after), Bound::Unbounded);
        let next = self.neighbours.range(after).chain(self.neighbours.iter()).map(|(peer, _)| *peer);
        let next: Vec<PeerId> = next.take(PROBES.min(self.neighbours.len())).collect();
        self.probe_after = next.last().copied().unwrap_or(self.me);
        next
    }

    /// Leaves those out of the view that have not answered. Others are told in a crowd, where each of them
    /// would take long to come upon it, and find out for themselves: a rumour costs a message and no trust.
    pub(super) fn suspect_the_silent(&mut self, now: Time) {
        let patience = self.patience();
        let silent = |neighbour: &Neighbour| neighbour.suspect_at(patience).is_some_and(|at| now >= at);
        let silent: Vec<PeerId> = self.neighbours.iter().filter(|(_, n)| silent(n)).map(|(peer, _)| *peer).collect();
        for peer in &silent {
            if let Some(neighbour) = self.neighbours.get_mut(peer) {
                neighbour.suspected = true;
            }
            self.emit(Effect::Record(Event::PeerSuspected(*peer)));
        }
        if let Some(first) = silent.first().filter(|_| self.is_sparse()) {
            // Of one at a time: after a partition everyone would tell everyone of everyone.
            self.broadcast(&Message::Silent(*first));
        }
        if !silent.is_empty() {
            self.view_changed(now);
        }
    }

    /// How long a neighbour may take to answer.
    fn patience(&self) -> Duration {
        if self.is_fixed() {
            return Duration::MAX;
        }
        if self.is_sparse() { SUSPECT_AFTER } else { SUSPECT_AFTER / 2 }
    }

    /// When the first of those who were asked for an answer is suspected.
    pub(super) fn suspicion_at(&self) -> Option<Time> {
        let patience = self.patience();
        self.neighbours.values().filter_map(|neighbour| neighbour.suspect_at(patience)).min()
    }

    pub(super) fn rumour_of_silence(&mut self, now: Time, peer: PeerId) {
        let doubtful = |n: &Neighbour| !n.suspected && n.probed.is_none() && now.since(n.heard) >= SUSPECT_AFTER;
        if self.neighbours.get(&peer).is_some_and(doubtful) {
            self.probe(now, peer);
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

//! Peers, network and disks, and how one state of them follows from another.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use peerless_protocol::{Effect, StateMeta};
use stateright::{Model, Property};

use crate::actions::Action;
use crate::configuration::{Faults, Peers};
use crate::network::{Content, Link, Network};
use crate::process::{Outgoing, Process, Stimulus, Violation};

/// The state of everything.
#[derive(Clone, PartialEq, Hash)]
pub struct System {
    pub peers: Vec<Peer>,
    pub network: Network,
    pub left: Faults,
    pub violation: Option<Violation>,
}

/// One peer: its process, if it runs, and its disk, which outlives it.
#[derive(Clone)]
pub struct Peer {
    pub process: Option<Arc<Process>>,
    /// States on the disk, the newest last.
    pub disk: Vec<StateMeta>,
    /// Ended for good.
    pub left: bool,
}

impl Peer {
    fn store(&mut self, meta: StateMeta) {
        if !self.disk.contains(&meta) {
            self.disk.push(meta);
            self.disk.sort_by_key(|meta| meta.state.round);
        }
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        (&self.process, self.left, &self.disk) == (&other.process, other.left, &other.disk)
    }
}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.process.hash(state);
        self.left.hash(state);
        self.disk.iter().for_each(|meta| meta.state.hash(state));
    }
}

impl Peers {
    /// Lets something happen to a peer, and puts what it does to others into the network.
    pub fn happens(&self, system: &mut System, peer: u8, stimulus: &Stimulus) {
        let slot = &mut system.peers[usize::from(peer)];
        let Some(process) = &slot.process else { return };
        let reaction = self.reactions.of(self, process, stimulus);
        slot.process = Some(Arc::clone(&reaction.process));
        if let Some(meta) = reaction.stored {
            slot.store(meta);
        }
        system.violation = system.violation.or(reaction.violation);
        reaction.outgoing.iter().for_each(|outgoing| self.carry(system, peer, outgoing));
    }

    fn carry(&self, system: &mut System, peer: u8, outgoing: &Outgoing) {
        let (from, to, content) = match outgoing {
            Outgoing::Send { to, content } => (peer, *to, content.clone()),
            Outgoing::Fetch { from, payload } => (*from, peer, Content::Payload(*payload)),
            Outgoing::Exit => return self.end(system, peer, true),
        };
        let holds = |payload| system.process(from).is_some_and(|process| process.held.contains(payload));
        let (bulk, sent) = match &content {
            Content::Payload(payload) => (true, holds(payload)),
            Content::Message(_) | Content::Gone => (false, true),
        };
        if sent && self.linked(system, from, to) {
            system.network.send(Link { from, to, bulk }, content, self.order);
        }
    }

    /// Whether both ends have the connection.
    pub fn linked(&self, system: &System, one: u8, other: u8) -> bool {
        let knows = |a: u8, b: u8| system.process(a).is_some_and(|process| process.knows(self.id(b)));
        knows(one, other) && knows(other, one) && !self.breaking(system, one, other)
    }

    fn breaking(&self, system: &System, one: u8, other: u8) -> bool {
        let gone = |from, to| system.network.contains(Link { from, to, bulk: false }, &Content::Gone);
        gone(one, other) || gone(other, one)
    }

    /// Whether a connection can be made: both run, and neither believes to have one.
    pub fn connectable(&self, system: &System, one: u8, other: u8) -> bool {
        let free = |a: u8, b: u8| system.process(a).is_some_and(|process| !process.knows(self.id(b)));
        free(one, other) && free(other, one) && !self.breaking(system, one, other)
    }

    pub fn connect(&self, system: &mut System, one: u8, other: u8) {
        self.happens(system, one, &Stimulus::Connected(other));
        self.happens(system, other, &Stimulus::Connected(one));
    }

    pub fn hear(&self, system: &mut System, peer: u8, of: u8) {
        let Some(state) = system.process(of).map(|process| process.node.state().state) else { return };
        self.happens(system, peer, &Stimulus::Hears(of, state));
    }

    fn deliver(&self, system: &mut System, link: Link, content: Content) {
        if content == Content::Gone {
            system.network.retain(|other, _| (other.from, other.to) != (link.from, link.to));
        }
        self.happens(system, link.to, &Stimulus::Arrives(link.from, content));
    }

    /// The process ends: what is under way to it is lost, what it sent may still arrive before its end
    /// is noticed.
    pub fn end(&self, system: &mut System, peer: u8, left: bool) {
        let slot = &mut system.peers[usize::from(peer)];
        slot.process = None;
        slot.left = left;
        system.network.retain(|link, _| link.to != peer);
        for other in 0..self.count {
            if system.process(other).is_some_and(|process| process.knows(self.id(peer))) {
                system.network.send(Link { from: peer, to: other, bulk: false }, Content::Gone, self.order);
            }
        }
    }

    fn disconnect(&self, system: &mut System, one: u8, other: u8) {
        for (from, to) in [(one, other), (other, one)] {
            system.network.send(Link { from, to, bulk: false }, Content::Gone, self.order);
        }
    }

    fn fetch_state(&self, system: &mut System, peer: u8) {
        let fetches = |effect: &Effect| match effect {
            Effect::FetchState { state, donors, .. } => Some((*state, donors.clone())),
            _ => None,
        };
        let Some((state, donors)) = system.process(peer).and_then(|process| process.owed.iter().find_map(fetches))
        else {
            return;
        };
        let found = donors.iter().map(|donor| self.index(donor)).any(|donor| {
            let mut disk = system.peers[usize::from(donor)].disk.iter();
            disk.any(|meta| meta.state == state) && self.linked(system, peer, donor)
        });
        self.happens(system, peer, &Stimulus::Fetches { found });
    }

    fn restart(&self, system: &mut System, peer: u8) {
        let slot = &mut system.peers[usize::from(peer)];
        let Some(newest) = slot.disk.last() else { return };
        slot.process = Some(self.started(peer, *newest));
        self.happens(system, peer, &Stimulus::Starts);
    }

    /// Drops what is under way in vain: what changes nothing now, and will not later. The first is tried out, so that
    /// only the second rests on reasoning.
    fn forget_the_dead(&self, system: &mut System) {
        let dead: Vec<(Link, Content)> = system
            .network
            .all()
            .filter(|(link, content)| self.stays_in_vain(system, *link, content))
            .filter(|(link, content)| self.changes_nothing(system, *link, content))
            .map(|(link, content)| (link, content.clone()))
            .collect();
        dead.iter().for_each(|(link, content)| system.network.take(*link, content));
    }

    fn changes_nothing(&self, system: &System, link: Link, content: &Content) -> bool {
        let Some(process) = system.process(link.to) else { return false };
        let reaction = self.reactions.of(self, process, &Stimulus::Arrives(link.from, content.clone()));
        *reaction.process == *process && reaction.outgoing.is_empty() && reaction.violation.is_none()
    }

    /// Whether what changes nothing now will never change anything.
    fn stays_in_vain(&self, system: &System, link: Link, content: &Content) -> bool {
        let Some(process) = system.process(link.to) else { return false };
        let round = process.node.state().state.round;
        match content {
            Content::Gone => false,
            // A peer with the last state takes no part in any round.
            _ if process.is_finished() => true,
            // It has been used, or it is in the store until the round is over; and rounds only go up.
            Content::Payload(payload) => {
                self.is_over(payload, round)
                    || process.held.contains(payload) && self.symbols.round_of(payload) == Some(round)
            }
            // Too late for its round, unless it is needed as a sign of life.
            Content::Message(letter) => {
                let needed = process.is_suspicious() || system.left.suspicions > 0;
                self.mutant.is_none() && !needed && letter.round().is_some_and(|of| of < round)
            }
        }
    }
}

impl System {
    pub fn process(&self, peer: u8) -> Option<&Process> {
        self.peers[usize::from(peer)].process.as_deref()
    }

    /// Whether every peer has the last state, on a disk at least.
    pub fn is_done(&self) -> bool {
        self.peers.iter().all(|peer| peer.left || peer.disk.last().is_some_and(|meta| meta.finished))
    }

    /// Whether nothing is under way to `peer` and it waits for nothing of its own.
    fn is_quiet_for(&self, peer: u8) -> bool {
        let owed = self.process(peer).is_some_and(|process| !process.owed.is_empty());
        !owed && self.network.is_quiet_for(peer)
    }
}

impl Model for Peers {
    type State = System;
    type Action = Action;

    fn init_states(&self) -> Vec<System> {
        vec![self.start()]
    }

    fn actions(&self, system: &System, actions: &mut Vec<Action>) {
        // What follows a violation is of no interest, and nothing follows when everybody is done.
        if system.violation.is_some() || system.is_done() {
            return;
        }
        self.progress(system, actions);
        let running = (0..self.count).filter(|&peer| system.process(peer).is_some());
        actions.extend(running.map(|peer| Action::WaitLong { peer }));
        self.faults(system, actions);
    }

    fn next_state(&self, last: &System, action: Action) -> Option<System> {
        let mut next = last.clone();
        match action {
            Action::Deliver(link, content) => {
                next.network.take(link, &content);
                self.deliver(&mut next, link, content);
            }
            Action::DeliverAndKeep(link, content) => {
                next.left.duplicates -= 1;
                self.deliver(&mut next, link, content);
            }
            Action::Lose(link, content) => {
                next.left.losses -= 1;
                next.network.take(link, &content);
            }
            Action::Compute { peer, unit } => self.happens(&mut next, peer, &Stimulus::Computes(unit)),
            Action::Apply { peer } => self.happens(&mut next, peer, &Stimulus::Applies),
            Action::FetchState { peer } => self.fetch_state(&mut next, peer),
            Action::Connect { one, other } => self.connect(&mut next, one, other),
            Action::Hear { peer, of } => self.hear(&mut next, peer, of),
            Action::WaitShort { peer } => self.happens(&mut next, peer, &Stimulus::WaitsShort),
            Action::WaitLong { peer } => {
                if !last.is_quiet_for(peer) || last.process(peer).is_some_and(Process::is_finished) {
                    next.left.early_timeouts = next.left.early_timeouts.checked_sub(1)?;
                }
                self.happens(&mut next, peer, &Stimulus::WaitsLong);
                if next.peers == last.peers {
                    return None;
                }
            }
            Action::Suspect { peer, of } => {
                next.left.suspicions -= 1;
                self.happens(&mut next, peer, &Stimulus::Suspects(of));
            }
            Action::Crash { peer, torn } => {
                next.left.crashes -= 1;
                if torn {
                    next.peers[usize::from(peer)].disk.pop();
                }
                self.end(&mut next, peer, false);
            }
            Action::Disconnect { one, other } => {
                next.left.disconnections -= 1;
                self.disconnect(&mut next, one, other);
            }
            Action::Restart { peer } => self.restart(&mut next, peer),
        }
        if self.merging {
            self.forget_the_dead(&mut next);
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties()
    }
}
